"""Each event has a form in OCSF, which the schema of somebody else takes; and the event itself can be had back from it."""

import hashlib
from datetime import UTC, datetime
from typing import Any

import pytest
from ocsf.v1_3_0 import events as schema

from cloister.trust.audit.actions import Action
from cloister.trust.audit.events import Event, commitment, parse, timestamp, written
from cloister.trust.audit.ocsf import _ACTIONS, SHAPES, VERSION, encoded

AT = timestamp(datetime(2026, 5, 1, 12, tzinfo=UTC))
CLASSES: dict[int, Any] = {3002: schema.Authentication, 6003: schema.ApiActivity, 6005: schema.DatastoreActivity}
FULL: dict[str, Any] = {
    "org_id": "org-a", "project_id": "calm-1", "branch_id": "br-a", "endpoint_id": "ep-a", "operation_id": "op",
    "resource": "app", "address": "192.0.2.1", "request_id": "r-1", "reason": "bad_password", "details": {"n": 1},
}  # fmt: skip


def made(action: str, **fields: Any) -> dict[str, Any]:
    text, personal = written(Event(action=action, at=AT, **{"actor": "role:app", **fields}))
    return encoded(7, text, personal, hashlib.sha256(text.encode()).digest(), origin="db.example.com")


def test_every_action_has_one_form() -> None:
    """An action that somebody adds and does not put there is named here."""
    assert set(SHAPES) == {action.value for action in Action}
    listed = [action for actions in _ACTIONS.values() for action in actions.split()]
    assert sorted(listed) == sorted(set(listed))


@pytest.mark.parametrize("outcome", ["ok", "denied", "failed"])
@pytest.mark.parametrize("fields", [{}, FULL], ids=["bare", "full"])
@pytest.mark.parametrize("actor", ["platform:api", "role:app", "uid:1", ""])
def test_the_schema_takes_every_action(outcome: str, fields: dict[str, Any], actor: str) -> None:
    """Whatever of an event is empty."""
    for action in [*Action, "of.tomorrow"]:
        event = made(action, outcome=outcome, **(fields | {"actor": actor}))
        CLASSES[event["class_uid"]].model_validate(event)
        assert event["metadata"]["version"] == VERSION
        assert event["type_uid"] == event["class_uid"] * 100 + event["activity_id"]


def test_the_schema_refuses_what_is_not_ocsf() -> None:
    """So that the test above can fail."""
    for action, lost in (("connection.opened", "user"), ("project.create", "api"), ("database.create", "actor")):
        event = made(action)
        del event[lost]
        with pytest.raises(ValueError, match=lost):
            CLASSES[event["class_uid"]].model_validate(event)


def test_connections_are_authentication_calls_are_api_activity_data_is_datastore_activity() -> None:
    assert [made(each)["type_uid"] for each in ("connection.opened", "connection.denied", "connection.closed")] == [
        300201, 300201, 300202,
    ]  # fmt: skip
    assert made("project.create")["type_uid"] == 600301
    assert made("key.unwrap")["type_uid"] == 600510


def test_nothing_of_an_event_is_lost() -> None:
    """`raw_data` is the text that the chain hashes and commits to `personal`, and the id is the event's hash in it."""
    event = made("connection.denied", outcome="denied", **FULL)
    assert event["metadata"]["uid"] == hashlib.sha256(event["raw_data"].encode()).hexdigest()
    personal = event["unmapped"]["personal"]
    assert commitment(personal) in event["raw_data"]
    assert parse(event["raw_data"], personal) == Event(
        action="connection.denied", actor="role:app", at=AT, outcome="denied", **FULL
    )
    assert (event["status"], event["status_detail"], event["src_endpoint"]) == (
        "Failure",
        "bad_password",
        {"ip": "192.0.2.1"},
    )
    assert event["time"] == int(datetime(2026, 5, 1, 12, tzinfo=UTC).timestamp() * 1000)


def test_what_is_no_event_is_sent_all_the_same() -> None:
    """A row that somebody put there past us must not stop those behind it."""
    event = encoded(7, "nonsense\x1b[2J", None, b"h" * 32, origin="")
    CLASSES[event["class_uid"]].model_validate(event)
    assert (event["raw_data"], event["time"], event["severity"]) == ("nonsense\x1b[2J", 0, "Medium")

"""What is personal in an event stands apart of its body, which commits to it; and what was erased is held to what the log says."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cloister.edge.api.endpoint import Route
from cloister.edge.api.routes import ROUTES
from cloister.trust.audit.actions import Action
from cloister.trust.audit.events import (
    PERSONAL_DETAILS,
    PERSONAL_REASONS,
    Event,
    commitment,
    erasure_of,
    parse,
    written,
)
from cloister.trust.audit.faults import Fault
from cloister.trust.audit.personal import Personal, digest, fits
from tests.trust.audit.test_events import any_text, as_kept

AT = "2026-01-01T00:00:00.000000Z"
MARK = '{"erasure":"e-1","erased_at":"2026-01-01T00:00:00.000000Z"}'

ANYBODY: dict[str, Any] = {
    "actor": "role:anna",
    "address": "192.0.2.7",
    "details": dict.fromkeys(sorted(PERSONAL_DETAILS), "anna@example.org") | {"session_id": "s", "n": 1},
}


@given(any_text, any_text, any_text, any_text, st.dictionaries(st.sampled_from(sorted(PERSONAL_DETAILS)), any_text))
@example("\0", "\ud800", '","erasure":"x', "\x7f", {"client": '"erasure"'})
@example("", "", "", "", {})
@settings(max_examples=200)
def test_whatever_a_stranger_is_called_comes_back_and_fits(
    role: str, address: str, resource: str, reason: str, details: dict[str, str]
) -> None:
    """And nobody gives themselves a name with which they look erased."""
    event = Event(
        action=Action.ACCESS_REQUEST, actor=f"role:{role}", at=AT, address=address, resource=resource, reason=reason,
        details=details,
    )  # fmt: skip
    texts = written(event)
    assert fits(*texts)
    back = parse(*texts)
    assert (back.actor, back.address, back.resource, back.reason, back.erasure) == (
        as_kept(f"role:{role}"), as_kept(address), as_kept(resource), as_kept(reason), "",
    )  # fmt: skip
    assert back.details == {name: as_kept(value) for name, value in details.items()}


@given(any_text, any_text)
@settings(max_examples=200)
def test_no_text_fits_but_the_one(changed: str, to: str) -> None:
    """Not one that says the same in other words, and not nothing."""
    body, personal = written(Event(action="a.b", actor="role:x", at=AT, address=changed))
    assert personal is not None
    assert fits(body, to) == (to == personal)
    assert not fits(body, None)
    assert not fits(body, personal.replace(",", ", ", 1))
    assert not fits('{"action":"a.b","actor":"x"}', personal)


@given(st.text(st.characters(codec=None), max_size=60), st.text(st.characters(codec=None), max_size=60))
@example('{"erasure":1}', '{"personal":5}')
@example("[]", "[]")
@settings(max_examples=300)
def test_no_text_breaks_a_reader(body: str, personal: str) -> None:
    assert isinstance(parse(body, personal), Event)
    assert isinstance(erasure_of(personal), str)
    assert isinstance(fits(body, personal), bool)


def test_nothing_personal_is_in_the_body() -> None:
    """Nor can it be guessed from the commitment, with every name there is: two alike have two."""
    one, two = (written(Event(action=Action.ROLE_CREATE, at=AT, resource="anna", **ANYBODY)) for _ in range(2))
    assert "anna" not in one.body
    assert "192.0.2.7" not in one.body
    assert json.loads(one.body) == {
        "action": "role.create", "actor": "role:", "at": AT, "outcome": "ok", "details": {"session_id": "s", "n": 1},
        "personal": commitment(one.personal or ""),
    }  # fmt: skip
    assert one.body != two.body
    assert len(json.loads(one.personal or "")["salt"]) == 22


@pytest.mark.parametrize(
    "event",
    [
        Event(action=Action.CONNECTION_DENIED, actor="platform:gateway", at=AT, reason="rate_limited"),
        Event(action=Action.KEY_UNWRAP, actor="user:5", at=AT, resource="volume/1", reason="open"),
        Event(action=Action.PROJECT_UPDATE, actor="key:5", at=AT, resource="anna", details={"before": "off"}),
    ],
)
def test_what_names_nobody_has_no_part(event: Event) -> None:
    """A reason that is a word of ours stays, and so do ids, and names of things."""
    texts = written(event)
    assert texts.personal is None
    assert "personal" not in texts.body
    assert parse(*texts) == event


def test_the_name_of_a_role_is_set_apart_where_a_call_about_it_was_refused() -> None:
    refused = Event(
        action=Action.API_REFUSED, actor="user:5", at=AT, resource="anna", details={"attempted": "role.reset_password"}
    )
    assert "anna" not in written(refused).body
    assert (
        "br-1" in written(msgspec.structs.replace(refused, resource="br-1", details={"attempted": "branch.get"})).body
    )


def _reasons() -> list[Route]:
    return [route for route in ROUTES if route.is_change and "reason" in getattr(route.body, "__struct_fields__", ())]


def test_whoever_may_give_a_reason_gives_it_to_a_person() -> None:
    """Every route that takes one is recorded as an action whose reason is set apart."""
    assert len(_reasons()) > 5
    assert [route.name for route in _reasons() if route.audit not in PERSONAL_REASONS] == []


def test_what_was_erased_reads_as_erased() -> None:
    body, _ = written(Event(action=Action.CONNECTION_OPENED, at=AT, **ANYBODY))
    assert parse(body, MARK) == Event(
        action="connection.opened", actor="role:", at=AT, details={"session_id": "s", "n": 1}, erasure="e-1"
    )
    assert parse(body.replace("{", '{"erasure":"made up",', 1), None).erasure == ""


@pytest.mark.parametrize(
    "mark",
    [
        '{"erasure":"e-1","erased_at":"2026-01-01T00:00:00.000000Z","address":"203.0.113.66"}',
        '{"erasure":"e-1","erased_at":"2026-01-01T00:00:00.000000Z","details":{"events":0}}',
        '{"erasure":"e-1","actor":"role:bob"}',
        '{"erasure":"e-1"}',
    ],
)
def test_a_mark_says_nothing_but_that_it_was_erased(mark: str) -> None:
    """No commitment holds it, so whatever stood beside could be anybody's: it is no mark, and does not fit."""
    body, _ = written(Event(action=Action.CONNECTION_OPENED, at=AT, **ANYBODY))
    assert erasure_of(mark) == ""
    assert not fits(body, mark)


def test_what_is_personal_takes_the_place_of_nothing_that_the_body_says() -> None:
    """Who has `audit.forget` written chooses that text, and not who agreed and to how many events."""
    event = Event(
        action=Action.AUDIT_FORGET,
        actor="user:eve",
        at=AT,
        resource="forgetting/1",
        details={"events": 7, "kind": "role"},
    )
    said = '{"salt":"s","actor":"role:ada","resource":"x","address":"192.0.2.7","details":{"events":0,"client":"curl"}}'
    read = parse(written(event).body, said)
    assert (read.actor, read.resource, read.address) == ("user:eve", "forgetting/1", "192.0.2.7")
    assert read.details == {"events": 7, "kind": "role", "client": "curl"}


# ── erasures, held to what the log says ──


def told(*seqs: int, erasure: str = "e-1", **other: Any) -> dict[str, Any]:
    return {
        "action": "audit.forget",
        "details": {"erasure": erasure, "events": len(seqs), "sha256": digest(seqs), **other},
    }


def held(marked: list[int], *events: dict[str, Any], lists: dict[str, list[int]] | None = None) -> Any:
    """Ten events, of which these are marked as erased, and then these."""
    machine = Personal(lists or {})
    for seq in range(1, 11):
        personal = MARK if seq in marked else '{"salt":"s"}'
        assert machine.feed(seq, {"action": "a.b", "personal": commitment('{"salt":"s"}')}, personal)
    for seq, event in enumerate(events, 11):
        assert machine.feed(seq, event, None)
    return machine.first_wrong()


def test_what_the_log_says_of_it_is_so() -> None:
    assert held([3, 7], told(3, 7)) is None
    assert held([]) is None


WRONG: dict[str, tuple[Any, tuple[int, Fault]]] = {
    "nobody says so": (lambda: held([3, 7]), (3, Fault.ERASED)),
    "another says so": (lambda: held([3], told(3, erasure="e-2")), (3, Fault.ERASED)),
    "one more": (lambda: held([3, 5, 7], told(3, 7), lists={"e-1": [3, 7]}), (5, Fault.ERASED)),
    "one less": (lambda: held([3], told(3, 7), lists={"e-1": [3, 7]}), (7, Fault.BACK)),
    "another one": (lambda: held([3, 8], told(3, 7), lists={"e-1": [3, 7]}), (7, Fault.BACK)),
    "nobody knows which": (lambda: held([3, 5, 7], told(3, 7)), (11, Fault.MISTOLD)),
    "a list that is another": (lambda: held([3, 5], told(3, 7), lists={"e-1": [3, 5]}), (11, Fault.MISTOLD)),
    "a list of nonsense": (lambda: held([3, 5], told(3, 7), lists={"e-1": [-1, 2**63 - 1]}), (11, Fault.MISTOLD)),
    "what says nothing": (lambda: held([3], {"action": "audit.forget", "details": []}), (3, Fault.ERASED)),
    "what says another number": (lambda: held([3], told(3, events=2)), (11, Fault.MISTOLD)),
    "said twice, the first time wrong": (lambda: held([3], told(4), told(3)), (11, Fault.MISTOLD)),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_otherwise_is_found_with_its_place(name: str) -> None:
    found, wanted = WRONG[name]
    assert found() == wanted


@given(st.sets(st.integers(1, 10)), st.sets(st.integers(1, 10)))
def test_only_what_was_told_is_erased(marked: set[int], meant: set[int]) -> None:
    """Whatever the two sets are; and the place that is named is one at which they differ."""
    found = held(sorted(marked), told(*sorted(meant)), lists={"e-1": sorted(meant)})
    assert (found is None) == (marked == meant)
    assert found is None or found[0] in marked ^ meant


def test_what_was_erased_and_then_pruned_is_not_missed() -> None:
    """And what is left of an erasure is held to it as before."""
    meant = [3, 5, 9]
    body = {"action": Action.AUDIT_FORGET, "details": {"erasure": "e-1", "events": 3, "sha256": digest(meant)}}

    def verdict(*marked: int, after: int) -> tuple[int, Fault] | None:
        held = Personal({"e-1": meant}, after=after)
        for seq in marked:
            held.feed(seq, {"personal": "sha256:x"}, MARK)
        held.feed(10, body, None)
        return held.first_wrong()

    assert verdict(9, after=5) is None
    assert verdict(9, after=4) == (5, Fault.BACK)
    assert verdict(7, 9, after=5) == (7, Fault.ERASED)

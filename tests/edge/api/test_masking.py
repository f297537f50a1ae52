"""Anonymized branches over HTTP: what is asked of the control plane, and what is answered."""

from dataclasses import replace
from typing import Any

import pytest

from cloister.control.branches.model import MaskingRule, NewMasking
from tests.edge.api.world import CHILD, NOW, PROJECT, World

RULE = {"database_name": "neondb", "schema_name": "public", "table_name": "people", "column_name": "email"}
ONE = f"/projects/{PROJECT}/branches/{CHILD}"


async def test_a_masked_branch_is_asked_for_as_neons_clients_do() -> None:
    world = World()
    body = {
        "branch_create": {"branch": {"name": "try"}, "endpoints": [{"type": "read_write"}]},
        "masking_rules": [RULE | {"masking_function": "anon.hash(email)"}],
        "start_anonymization": True,
    }
    async with world.client() as client:
        answer = await client.post(f"/projects/{PROJECT}/branch_anonymized", json=body)
    assert answer.status_code == 201
    assert {"branch", "endpoints", "operations", "roles", "databases"} <= set(answer.json())
    (new,) = world.branches.created
    rule = MaskingRule(database="neondb", schema="public", table="people", column="email", function="anon.hash(email)")
    assert (new.name, len(new.endpoints)) == ("try", 1)
    assert new.masking == NewMasking(rules=[rule], starts=True)


async def test_nothing_given_is_a_branch_that_waits_for_its_rules() -> None:
    world = World()
    async with world.client() as client:
        assert (await client.post(f"/projects/{PROJECT}/branch_anonymized", json={})).status_code == 201
    assert world.branches.created[0].masking == NewMasking(rules=[], starts=False)


async def test_rules_are_shown_changed_and_applied() -> None:
    world = World()
    async with world.client() as client:
        shown = await client.get(f"{ONE}/masking_rules")
        assert shown.json() == {"masking_rules": [RULE | {"masking_function": "anon.hash(email)"}]}
        changed = await client.patch(
            f"{ONE}/masking_rules", json={"masking_rules": [RULE | {"masking_value": "nobody"}]}
        )
        assert changed.json() == {"masking_rules": [RULE | {"masking_value": "nobody"}]}
        started = await client.post(f"{ONE}/anonymize")
    assert (started.json()["state"], started.json()["branch_id"]) == ("anonymizing", CHILD)
    assert world.maskings.started == [CHILD]


@pytest.mark.parametrize(
    ("state", "message", "said", "more"),
    [
        ("initialized", "", "nothing is copied yet: start the anonymization", {}),
        ("error", "there is no table x", "there is no table x", {"failed_at"}),
        ("anonymized", "", "masked", set()),
    ],
)
async def test_a_status_says_how_far_it_is(state: str, message: str, said: str, more: Any) -> None:
    world = World()
    world.maskings.masking = replace(
        world.maskings.masking, state=state, message=message, started_at=NOW, completed_at=NOW
    )
    async with world.client() as client:
        answer = (await client.get(f"{ONE}/anonymized_status")).json()
    assert (answer["state"], answer["status_message"]) == (state, said)
    assert ("failed_at" in answer) == bool(more)
    assert answer["last_run"].get("masked_columns") == (1 if state == "anonymized" else None)


@pytest.mark.parametrize(
    "body",
    [
        {"masking_rules": [RULE | {"column_name": ""}]},
        {"masking_rules": [RULE | {"column_name": "x" * 64}]},
        {"masking_rules": [RULE | {"masking_function": "x" * 5000}]},
        {"masking_rules": [RULE] * 1001},
        {"masking_rules": {}},
        {},
    ],
)
async def test_what_is_no_rule_is_refused_before_anything_is_asked(body: dict[str, Any]) -> None:
    world = World()
    async with world.client() as client:
        assert (await client.patch(f"{ONE}/masking_rules", json=body)).status_code == 400
    assert world.maskings.masking.rules[0].function == "anon.hash(email)"

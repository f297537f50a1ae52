"""Threat: a caller who writes into the audit log what nobody did, or passes for somebody else's reviewed change, through the
header that says which change a call belongs to."""

from dataclasses import replace

import httpx
import pytest

from cloister.base.reviewed import HEADER
from cloister.control.calling import Caller
from cloister.trust.audit import Action
from cloister.trust.keys.broker import _on_behalf
from tests.edge.api.world import ADA, PROJECT, World

PLAN, COMMIT = "0a" * 32, "1b" * 20
GOOD = f"plan={PLAN};commit={COMMIT}"


async def call(world: World, *headers: str, method: str = "GET", key: bool = True) -> httpx.Response:
    async with world.client() if key else world.client(None) as client:
        said = [(name, value) for name, value in client.headers.multi_items()]
        said += [(HEADER, value) for value in headers]
        return await client.request(method, f"/projects/{PROJECT}", headers=said)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "plan=",
        f"plan={PLAN[:-1]}",
        f"plan={PLAN}0",
        f"plan={PLAN.upper()}",
        f"plan={'z' * 64}",
        f"plan={PLAN};",
        f"plan={PLAN};commit=",
        f"plan={PLAN};commit={'1' * 41}",
        f"plan={PLAN};commit={COMMIT};commit={COMMIT}",
        f"plan={PLAN};actor=user:ada",
        f"commit={COMMIT};plan={PLAN}",
        f"commit={COMMIT}",
        f"plan={PLAN};signer={PLAN}",
        f"{GOOD};signer={COMMIT}",
        f"{GOOD};signer={PLAN};signer={PLAN}",
        f" plan={PLAN} ; commit={COMMIT}",
        f'{GOOD}","actor":"user:ada',
        f"{GOOD}, {GOOD}",
        f"plan={PLAN};commit=" + "1" * 10_000,
        "plan=" + "\u0660" * 64,
    ],
)
async def test_what_is_no_digest_is_refused_before_anything_is_done(header: str) -> None:
    world = World()
    async with world.client() as client:
        answer = await client.request(
            "PATCH",
            f"/projects/{PROJECT}",
            headers=[(HEADER.encode(), header.encode())],  # bytes, for what is not ASCII
            json={"project": {"name": "other"}},
        )
    assert (answer.status_code, HEADER in answer.json()["message"]) == (400, True)
    assert world.projects.changes == []
    assert [event.action for event in world.audit.events] == []


async def test_of_two_none_is_chosen() -> None:
    assert (await call(World(), GOOD, f"plan={'9' * 64}")).status_code == 400


async def test_it_opens_nothing() -> None:
    """Who has no key learns the same with it as without."""
    world = World()
    assert (await call(world, GOOD, key=False)).status_code == 401
    assert all("plan" not in event.details for event in await world.refused())


async def test_an_event_says_it_beside_who_it_was() -> None:
    """It is another detail, and takes the place of none."""
    world = World()
    assert (await call(world, GOOD)).status_code == 200
    (event,) = world.audit.events
    assert (event.actor, event.action) == (ADA.actor, Action.PROJECT_GET)
    assert event.details | {"client": ""} == {"client": "", "key_id": ADA.key_id, "plan": PLAN, "commit": COMMIT}


async def test_a_call_without_it_says_nothing() -> None:
    world = World()
    await call(world)
    assert not {"plan", "commit"} & world.audit.events[0].details.keys()


def test_a_change_says_it_and_no_detail_of_its_own_is_lost() -> None:
    caller = Caller(principal=ADA, request_id="r", address="192.0.2.1", client="curl/8", change=GOOD)
    event = caller.event(Action.PROJECT_UPDATE, details={"plan": "what the service says", "name": "shop"})
    assert event.details == {"client": "curl/8", "plan": "what the service says", "commit": COMMIT, "name": "shop"}


def test_the_broker_says_it_too_and_only_if_it_is_one() -> None:
    by = Caller(principal=ADA, request_id="r", address="192.0.2.1", change=GOOD).on_behalf
    assert _on_behalf(by).details == {"plan": PLAN, "commit": COMMIT}
    forged = replace(Caller(principal=ADA, request_id="r", address="192.0.2.1"), change='x","actor":"user:eve')
    assert _on_behalf(forged.on_behalf).details == {}

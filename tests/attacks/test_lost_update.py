"""Threat: a change that overwrites, or deletes, what somebody else has changed since the caller looked: undone unseen.

Over HTTP and on the real control plane and its database, of which only the node is made up.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, cast

import httpx
import pytest

from cloister.base.clock import FakeClock
from cloister.base.database import Database
from cloister.control.calling import Caller
from cloister.edge.api.application import create_app
from cloister.edge.api.routes import ROUTES
from cloister.trust.keys.asking import By
from cloister.trust.keys.commands import KeyPolicy
from cloister.trust.keys.keystore import Keystore
from cloister.trust.keys.rings import Rings
from tests.control.branches.scenes import branched
from tests.control.land import CALLER, ORG, PATIENCE_S, Land, a_land
from tests.edge.api.world import ADA_KEY, FakeVolumeKeys, World
from tests.fix_database import DatabaseAs

_WAITING: Final = """SELECT EXISTS (SELECT FROM pg_stat_activity, pg_sleep(0.01)
                                      WHERE datname = current_database() AND wait_event_type = 'Lock')"""

SEEN_LONG_AGO = '"00000000000000000000000000000000"'


@dataclass
class Shop:
    """A project with all that has a version, and the API before it."""

    land: Land
    client: httpx.AsyncClient
    project: str
    branch: str
    """One that may go, with a writer of its own."""
    endpoint: str

    def path(self, route: str) -> str:
        names = {"project_id": self.project, "branch_id": self.branch, "endpoint_id": self.endpoint, "org_id": ORG}
        return route.format(**names, role_name="app", database_name="orders")

    async def call(self, method: str, path: str, body: Any = None, *, version: str | None = None) -> httpx.Response:
        headers = {} if version is None else {"If-Match": version}
        return await self.client.request(method, path, json=body, headers=headers)

    async def version(self, path: str) -> str:
        answer = await self.call("GET", path)
        assert answer.status_code == 200, answer.text
        return str(answer.headers["etag"])


class KeyPolicies(FakeVolumeKeys):
    """As the key broker has them, in its own role; nothing else of it."""

    def __init__(self, database: Database) -> None:
        self._rings = Rings(database, cast("Keystore", None), FakeClock(datetime.now(UTC)))

    async def policy(self, org_id: str) -> KeyPolicy:
        return await self._rings.policy(org_id)

    async def set_policy(self, caller: Caller, org_id: str, policy: KeyPolicy) -> KeyPolicy:
        return await self._rings.set_policy(org_id, policy, By(caller.principal.actor), caller.condition)


@pytest.fixture
async def shop(database_as: DatabaseAs) -> AsyncIterator[Shop]:
    async with a_land(await database_as("cloister_api"), runs_operations=False) as land:
        world = World()
        world.keys.principals[ADA_KEY] = CALLER.principal
        created = await land.project(name="shop")
        child = await branched(land, created, name="dev", finish=False)
        await land.settle()
        where = created.project.id, child.branch.id
        await land.control.roles.create(CALLER, *where, "app", can_login=True)
        await land.settle()
        await land.control.databases.create(CALLER, *where, "orders", "app")
        await land.settle()
        keys = await database_as("cloister_keys")
        control = replace(land.control, proofs=world.proofs)  # who shows a passkey is not what is asked here
        app = create_app(replace(world.services, control=control, volume_keys=KeyPolicies(keys)))
        headers = {"Authorization": f"Bearer {ADA_KEY}"}
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(
            transport=transport, base_url="https://api.test/api/v2", headers=headers
        ) as client:
            shop = Shop(land, client, created.project.id, child.branch.id, child.endpoints[0].id)
            assert (await shop.call("PUT", shop.path(REVIEWS), {"every_days": 30})).status_code == 200
            yield shop


P = "/projects/{project_id}"
B = P + "/branches/{branch_id}"
ORGANIZATION = "/cloister/organizations/{org_id}"
REVIEWS = ORGANIZATION + "/access_review_policy"

CHANGES: dict[str, tuple[Any, Any]] = {
    P: ({"project": {"name": "mine"}}, {"project": {"settings": {"allowed_ips": {"ips": ["192.0.2.1"]}}}}),
    B: ({"branch": {"name": "mine"}}, {"branch": {"protected": True}}),
    P + "/endpoints/{endpoint_id}": (
        {"endpoint": {"suspend_timeout_seconds": 60}},
        {"endpoint": {"autoscaling_limit_max_cu": 1}},
    ),
    B + "/databases/{database_name}": (
        {"database": {"owner_name": "neondb_owner"}},
        {"database": {"owner_name": "neondb_owner"}},
    ),
    f"/cloister{P}/audit_level": ({"level": "off"}, {"level": "full"}),
    B + "/backup_schedule": (
        {"schedule": [{"frequency": "daily", "hour": 3}]},
        {"schedule": [{"frequency": "hourly"}]},
    ),
    ORGANIZATION + "/key_policy": ({"rotate_days": 90}, {"rotate_days": 90, "reencrypt_days": 90}),
    ORGANIZATION + "/passkey_policy": ({"required": False}, {"required": True}),
    ORGANIZATION + "/consent_policy": ({"required": True}, {"required": True}),
    REVIEWS: ({"every_days": 90}, {"every_days": 180}),
}
"""What the caller wants, and what somebody else did since they looked."""

DELETED_IN_ORDER = [
    REVIEWS,
    B + "/databases/{database_name}",
    B + "/roles/{role_name}",
    P + "/endpoints/{endpoint_id}",
    B,
    P,
]

VERSIONED = {(route.method, route.path) for route in ROUTES if route.versioned}


def test_what_can_be_seen_with_a_version_is_changed_by_version() -> None:
    """And the table above has every such change."""
    seen = {path for method, path in VERSIONED if method == "GET"}
    assert seen == {path for method, path in VERSIONED if method != "GET"}
    unversioned = {(r.method, r.path) for r in ROUTES if r.path in seen} - VERSIONED
    assert unversioned == set()
    assert {path for method, path in VERSIONED if method in ("PATCH", "PUT")} == set(CHANGES)


async def test_a_change_of_what_moved_changes_nothing(shop: Shop) -> None:
    for method, route in sorted(each for each in VERSIONED if each[0] in ("PATCH", "PUT")):
        path, (mine, theirs) = shop.path(route), CHANGES[route]
        before = await shop.version(path)
        assert (await shop.call(method, path, theirs)).status_code == 200, "without a condition it is as ever"
        await shop.land.settle()
        now = await shop.version(path)
        assert now != before, route
        held = (await shop.call("GET", path)).json()
        refused = await shop.call(method, path, mine, version=before)
        assert (refused.status_code, refused.json()["code"]) == (412, "VERSION_MOVED"), route
        assert (await shop.call("GET", path)).json() == held, route
        assert await shop.version(path) == now
        # Of the version that is there, among others, it is done; and the answer has the next one.
        done = await shop.call(method, path, mine, version=f'{SEEN_LONG_AGO}, W/"x", {now}')
        assert done.status_code == 200, done.text
        await shop.land.settle()
        assert done.headers["etag"] == await shop.version(path), route
        assert (await shop.call(method, path, mine, version="*")).status_code == 200


async def test_what_moved_is_not_deleted(shop: Shop) -> None:
    """The innermost first."""
    await shop.call("PATCH", shop.path(B), {"branch": {"protected": False}})
    for route in sorted((path for method, path in VERSIONED if method == "DELETE"), key=DELETED_IN_ORDER.index):
        path = shop.path(route)
        now = await shop.version(path)
        for version in (SEEN_LONG_AGO, f"W/{now}"):
            assert (await shop.call("DELETE", path, version=version)).status_code == 412, route
            assert await shop.version(path) == now, route
        assert (await shop.call("DELETE", path, version=now)).status_code == 200, route
        await shop.land.settle()
        # What is gone is of no version; without one, deleted twice is deleted, or not found, as ever.
        statuses = [(await shop.call("DELETE", path, version=version)).status_code for version in ("*", None)]
        assert statuses == {P: [404, 404], REVIEWS: [412, 404]}.get(route, [412, 204]), route


async def test_a_compute_that_sleeps_is_the_same_endpoint(shop: Shop) -> None:
    """What the platform does by itself moves no version: else every plan would be refused."""
    paths = [shop.path(path) for method, path in VERSIONED if method == "GET"]
    before = [await shop.version(path) for path in paths]
    await shop.call("POST", shop.path(P + "/endpoints/{endpoint_id}/suspend"))
    await shop.land.settle()
    assert (await shop.call("POST", shop.path(B + "/roles/app/reset_password"))).status_code == 200
    await shop.land.settle()
    assert [await shop.version(path) for path in paths] == before


async def test_a_role_that_was_made_anew_is_another(shop: Shop) -> None:
    path, before = shop.path(B + "/roles/{role_name}"), await shop.version(shop.path(B + "/roles/{role_name}"))
    await shop.call("DELETE", shop.path(B + "/databases/{database_name}"))
    await shop.land.settle()
    await shop.call("DELETE", path)
    await shop.land.settle()
    assert (await shop.call("POST", shop.path(B + "/roles"), {"role": {"name": "app"}})).status_code == 201
    await shop.land.settle()
    assert (await shop.call("DELETE", path, version=before)).status_code == 412


async def test_of_two_at_once_one_is_refused(shop: Shop) -> None:
    """Both have seen the same version; each has a connection of its own to the control database, and the second waits for the first."""
    for route, noun in ((P, "project"), (B, "branch")) * 3:
        path = shop.path(route)
        version, name = await shop.version(path), (await shop.call("GET", path)).json()[noun]["name"]
        answers = await asyncio.gather(
            *(shop.call("PATCH", path, {noun: {"name": f"{name}{each}"}}, version=version) for each in "ab")
        )
        assert sorted(each.status_code for each in answers) == [200, 412]
        (won,) = (each for each in answers if each.status_code == 200)
        assert (await shop.call("GET", path)).json()[noun]["name"] == won.json()[noun]["name"]


async def test_what_an_operation_changes_meanwhile_is_not_overwritten(shop: Shop) -> None:
    """An operation does not hold the project. Here one gives the branch another name, between the caller's look and the change."""
    path = shop.path(B)
    version = await shop.version(path)
    async with shop.land.database.transaction() as tx:
        await tx.execute("SELECT FROM branch WHERE id = $1 FOR UPDATE", shop.branch)
        change = asyncio.create_task(shop.call("PATCH", path, {"branch": {"name": "mine"}}, version=version))
        await _blocked(shop.land)
        await tx.execute("UPDATE branch SET name = 'theirs' WHERE id = $1", shop.branch)
    assert (await change).status_code == 412


async def _blocked(land: Land) -> None:
    """Somebody waits for a lock in this database."""
    async with asyncio.timeout(PATIENCE_S), land.database.reading() as tx:
        while not await tx.fetch_value(_WAITING):
            pass


async def test_what_would_be_put_in_the_place_of_what_is_gone_is_not(shop: Shop) -> None:
    """Somebody ended the planned reviews since the caller looked."""
    path = shop.path(REVIEWS)
    seen = await shop.version(path)
    assert (await shop.call("DELETE", path)).status_code == 200
    assert (await shop.call("PUT", path, {"every_days": 90}, version=seen)).status_code == 412
    assert (await shop.call("GET", path)).status_code == 404


async def test_of_two_who_lift_a_demand_the_second_has_seen_the_first(shop: Shop) -> None:
    """Else a plan that was made before anybody asked would be the second person's word."""
    path = shop.path(ORGANIZATION + "/consent_policy")
    await shop.call("PUT", path, {"required": True})
    seen = await shop.version(path)
    assert (await shop.call("PUT", path, {"required": False})).json()["lift_asked_by"] == "ada@example.org"
    assert (await shop.call("PUT", path, {"required": False}, version=seen)).status_code == 412


async def test_of_two_policies_at_once_one_is_refused(shop: Shop) -> None:
    """Each where the database has it: the broker's in its own role, and in a row that is not there yet."""
    bodies: dict[str, Any] = {
        "/key_policy": ({"rotate_days": 90}, {"rotate_days": 91}),
        "/passkey_policy": ({"required": True}, {"required": True}),
        "/consent_policy": ({"required": True}, {"required": True}),
        "/access_review_policy": ({"every_days": 90}, {"every_days": 91}),
    }
    for name, (one, other) in bodies.items():
        path = shop.path(ORGANIZATION + name)
        version = await shop.version(path)
        answers = await asyncio.gather(*(shop.call("PUT", path, body, version=version) for body in (one, other)))
        assert sorted(each.status_code for each in answers) == [200, 412], name


async def test_a_condition_that_cannot_be_read_changes_nothing(shop: Shop) -> None:
    path = shop.path(P)
    before = await shop.version(path)
    for version in ("", "abc", '"a', '"a" "b"', '*, "a"', "W/*"):
        refused = await shop.call("PATCH", path, {"project": {"name": "mine"}}, version=version)
        assert (refused.status_code, "If-Match" in refused.json()["message"]) == (400, True), version
    assert await shop.version(path) == before


async def test_where_nothing_is_compared_a_condition_is_refused(shop: Shop) -> None:
    """Passing it over would be a yes to somebody who asked for a comparison."""
    before = await shop.land.actions()
    for method, route, body in (
        ("POST", B + "/roles", {"role": {"name": "eve"}}),
        ("PATCH", "/cloister" + P + "/tags", {"add": ["team-a"], "remove": []}),
        ("POST", B + "/set_as_default", None),
        ("GET", P + "/branches", None),
        ("POST", "/cloister/logins", {}),
    ):
        assert (await shop.call(method, shop.path(route), body, version="*")).status_code == 400, route
    assert await shop.land.actions() == before


async def test_who_may_not_look_learns_nothing_by_asking_for_a_version(shop: Shop) -> None:
    strange = await shop.call("PATCH", "/projects/calm-forest-99999999", {"project": {}}, version=SEEN_LONG_AGO)
    assert strange.status_code == 404
    shop.client.headers["Authorization"] = "Bearer napi_" + "e" * 64
    for version in ("*", SEEN_LONG_AGO):
        answer = await shop.call("DELETE", shop.path(B), version=version)
        assert (answer.status_code, "etag" in answer.headers) == (401, False)

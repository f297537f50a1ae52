"""The API with the real guards: the shipped policies, real keys in a real database, the real log."""

from dataclasses import replace
from uuid import UUID

import pytest

from cloister.app.guards import StoredAudit
from cloister.base.database import Database
from cloister.base.secret import Secret
from cloister.control.organizations.service import OrganizationService
from cloister.edge.api.application import create_app
from cloister.edge.api.idempotency import Answers
from cloister.edge.api.routes import ROUTES
from cloister.trust.access.bootstrap import bootstrap
from cloister.trust.access.decisions import Decider
from cloister.trust.access.keys import ApiKeys
from cloister.trust.access.permissions import OF_THE_PLATFORM
from tests.edge.api.test_routes import CASES, Case
from tests.edge.api.world import PASSWORD, PROJECT, FakeNotary, World, project
from tests.fix_database import DatabaseAs

DECIDER = Decider()
"""Reads all policies when it is made, and remembers nothing of what it decided."""


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.route)
async def test_the_shipped_policies_let_an_admin_do_everything_but_operate(case: Case) -> None:
    world = World(decider=DECIDER)
    world.roles.stored_password = PASSWORD
    (route,) = [route for route in ROUTES if route.name == case.route]
    async with world.client() as client:
        answer = await client.request(route.method, case.path, json=case.body)
    assert answer.status_code == (403 if route.permission in OF_THE_PLATFORM else case.status), answer.text


@pytest.fixture
async def database(database_as: DatabaseAs) -> Database:
    return await database_as("cloister_api")


async def test_a_key_made_listed_used_and_revoked(database: Database, database_as: DatabaseAs) -> None:
    admin_key = (await bootstrap(await database_as("postgres"), None)).reveal()
    world = World()
    services = replace(
        world.services,
        api_keys=ApiKeys(database, world.clock),
        decider=DECIDER,
        control=replace(world.services.control, organizations=OrganizationService(database, world.clock)),
        audit=StoredAudit(database, FakeNotary()),
        answers=Answers(database, Secret(b"k" * 32)),
    )
    world.app = create_app(services)

    async with world.client(admin_key) as admin:
        (organization,) = (await admin.get("/users/me/organizations")).json()["organizations"]
        world.projects.rows[PROJECT] = project(PROJECT, organization["id"], owner_id=UUID(int=9))
        assert (await admin.get(f"/projects/{PROJECT}")).status_code == 200
        headers = {"Idempotency-Key": "ci"}
        made = (await admin.post("/api_keys", json={"key_name": "ci"}, headers=headers)).json()
        again = (await admin.post("/api_keys", json={"key_name": "ci"}, headers=headers)).json()
        assert made == again
        assert made["key"].startswith("napi_")
        async with world.client(made["key"]) as ci:
            assert (await ci.get("/users/me")).json()["id"] == made["created_by"]
        listed = {it["name"]: it for it in (await admin.get("/api_keys")).json()}
        assert set(listed) == {"this server", "ci"}
        assert listed["ci"]["last_used_from_addr"] == "192.0.2.1"
        assert made["key"] not in str(listed)
        assert (await admin.delete(f"/api_keys/{made['id']}")).json()["revoked"] is True
        async with world.client(made["key"]) as ci:
            assert (await ci.get("/users/me")).status_code == 401
        assert (await admin.get("/cloister/audit/verify")).json()["is_intact"] is True
        events = [it["event"] for it in (await admin.get("/cloister/audit/events")).json()["events"]]
    actions = [it["action"] for it in reversed(events)]
    assert actions == [
        "api_key.create",
        "user.get",
        "project.get",
        "api_key.create",
        "api_key.create",
        "user.get",
        "api_key.list",
        "api_key.revoke",
        "audit.read",
    ]
    assert made["key"] not in str(events)

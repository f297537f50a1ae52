"""Threat: somebody with a role, a grant or a key does what theirs does not allow, or goes on doing what it no longer does.

The real guards (shipped policies, real keys, real control database) behind the real boundary; behind them fakes.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import msgspec
import pytest

from cloister.app.guards import StoredAudit
from cloister.base.database import Database
from cloister.base.ids import ProjectId
from cloister.base.secret import Secret
from cloister.control.organizations.offers import OfferService
from cloister.control.organizations.service import OrganizationService
from cloister.edge.api.application import create_app
from cloister.edge.api.endpoint import Public
from cloister.edge.api.idempotency import Answers
from cloister.edge.api.routes import ROUTES
from cloister.trust.access.bootstrap import bootstrap
from cloister.trust.access.decisions import Decider
from cloister.trust.access.keys import ApiKeys
from cloister.trust.access.permissions import Permission
from cloister.trust.audit import Event, record
from tests.attacks.test_http_confused_deputy import BODIES, path_of
from tests.edge.api.world import BRANCH, ORG, OTHER_ORG, OTHER_PROJECT, PROJECT, FakeNotary, World, project
from tests.fix_database import DatabaseAs

P = f"/projects/{PROJECT}"
O = f"/organizations/{ORG}"  # noqa: E741 - as P
DOMAIN = "example.com"


class Site:
    """Two organizations with a project each. `admin` governs the first; `boss` the second."""

    def __init__(self, world: World, database: Database) -> None:
        self.world, self.database = world, database
        self.keys: dict[str, str] = {}
        self.ids: dict[str, str] = {}

    @asynccontextmanager
    async def as_(self, who: str, *, address: str = "192.0.2.1") -> AsyncIterator[httpx.AsyncClient]:
        async with self.world.client(self.keys.get(who, who), address=address) as client:
            yield client

    async def call(self, who: str, method: str, path: str, body: Any = None, **more: Any) -> httpx.Response:
        async with self.as_(who, **more) as client:
            return await client.request(method, path, json=body)

    async def done(self, who: str, method: str, path: str, body: Any = None) -> Any:
        answer = await self.call(who, method, path, body)
        assert answer.is_success, answer.text
        return answer.json()

    async def join(self, who: str, role: str) -> None:
        """A new person of the first organization."""
        made = await self.done("operator", "POST", "/cloister/accounts", {"email": f"{who}@{DOMAIN}", "name": who})
        self.keys[who], self.ids[who] = made["key"], made["id"]
        if role:
            invitation = {"email": f"{who}@{DOMAIN}", "role": role}
            await self.done("admin", "POST", f"{O}/invitations", {"invitations": [invitation]})

    async def last_refusal(self) -> dict[str, Any]:
        await self.world.app.state.boundary.refusals.flush()
        path = "/cloister/audit/events?action=api.refused&limit=1"
        event: dict[str, Any] = (await self.done("operator", "GET", path))["events"][0]["event"]
        return event


@pytest.fixture
async def site(database_as: DatabaseAs) -> Site:
    database = await database_as("cloister_api")
    world = World()
    services = replace(
        world.services,
        api_keys=ApiKeys(database, world.clock),
        decider=Decider(),
        audit=StoredAudit(database, FakeNotary()),
        answers=Answers(database, Secret(b"k" * 32)),
        control=replace(
            world.services.control,
            organizations=OrganizationService(database, world.clock),
            offers=OfferService(database, world.clock),
        ),
    )
    world.app = create_app(services)
    site = Site(world, database)
    site.keys["operator"] = (await bootstrap(await database_as("postgres"), None)).reveal()
    for who in ("admin", "boss"):
        await site.join(who, "")
    async with database.transaction() as tx:
        for number, (who, org_id, project_id) in enumerate(
            (("admin", ORG, PROJECT), ("boss", OTHER_ORG, OTHER_PROJECT))
        ):
            account_id = UUID(site.ids[who])
            await tx.execute("INSERT INTO organization (id, name) VALUES ($1, 'Example')", org_id)
            await tx.execute("INSERT INTO membership VALUES ($1, $2, 'admin')", org_id, account_id)
            await tx.execute(
                "INSERT INTO volume VALUES ($1, $2, $2, $3, 18, 1, 'taken')", project_id, f"x{number}", number
            )
            await tx.execute(
                """INSERT INTO project (id, org_id, owner_id, name, region_id, pg_version, store_passwords)
                   VALUES ($1, $2, $3, 'x', 'here', 18, false)""",
                project_id,
                org_id,
                account_id,
            )
    world.projects.rows[PROJECT] = project(PROJECT, ORG)
    return site


async def test_a_viewer_reads_and_neither_connects_nor_changes(site: Site) -> None:
    await site.join("vic", "viewer")
    for path in (P, f"{P}/branches/{BRANCH}", f"{P}/operations", f"{O}/members"):
        assert (await site.call("vic", "GET", path)).status_code == 200
    uri = f"{P}/connection_uri?database_name=neondb&role_name=neondb_owner"
    for path in (uri, f"{P}/branches/{BRANCH}/roles/neondb_owner/reveal_password", "/cloister/audit/events"):
        assert (await site.call("vic", "GET", path)).status_code == 403
    changes = [it for it in ROUTES if it.method != "GET" and "{project_id}" in it.path]
    for route in changes:
        answer = await site.call("vic", route.method, path_of(route), BODIES.get(route.name))
        assert answer.status_code == 403, route.name
    assert site.world.projects.changes == []
    assert site.world.branches.created == []


async def test_a_collaborator_finds_only_what_was_granted(site: Site) -> None:
    await site.join("carl", "collaborator")
    await site.join("cora", "collaborator")
    assert (await site.call("carl", "GET", P)).status_code == 404
    assert (await site.call("carl", "GET", f"{O}/members")).status_code == 403
    assert (await site.call("carl", "GET", O)).json()["id"] == ORG
    granted = await site.done("admin", "POST", f"{P}/permissions", {"email": f"carl@{DOMAIN}", "role": "viewer"})
    assert (await site.call("carl", "GET", P)).status_code == 200
    for path in ("/projects", f"/projects?org_id={ORG}", "/projects/shared"):
        assert [it["id"] for it in (await site.done("carl", "GET", path))["projects"]] == [PROJECT]
    assert (await site.call("carl", "GET", f"/projects?org_id={OTHER_ORG}")).status_code == 404
    assert (await site.call("carl", "PATCH", P, {"project": {"name": "mine"}})).status_code == 403
    assert (await site.call("carl", "POST", "/projects", {"project": {}})).status_code == 403
    shown = (await site.done("carl", "GET", f"{P}/members"))["project_members"]
    assert {it["email"] for it in shown} == {f"admin@{DOMAIN}", f"carl@{DOMAIN}"}, "and not who else is of it"
    await site.done("admin", "DELETE", f"{P}/permissions/{granted['id']}")
    assert (await site.call("carl", "GET", P)).status_code == 404


async def test_an_editor_does_not_raise_anybody(site: Site) -> None:
    await site.join("ed", "editor")
    me = f"{O}/members/{site.ids['ed']}"
    invitation = {"email": f"boss@{DOMAIN}", "role": "admin"}
    for method, path, body in (
        ("PATCH", me, {"role": "admin"}),
        ("POST", f"{O}/invitations", {"invitations": [invitation]}),
        ("DELETE", f"{O}/members/{site.ids['admin']}", None),
        ("POST", f"{P}/permissions", {"email": f"ed@{DOMAIN}", "role": "admin"}),
        ("PUT", f"{P}/members/{site.ids['ed']}/role", {"role": "admin"}),
        ("DELETE", f"{P}/members/{site.ids['admin']}/role", None),
        ("POST", f"{O}/api_keys", {"key_name": "x"}),
        ("GET", f"{O}/api_keys", None),
        ("DELETE", P, None),
        ("POST", f"{O}/projects/transfer", {"destination_org_id": OTHER_ORG, "project_ids": [PROJECT]}),
        ("POST", f"{P}/transfer_requests", {}),
        ("POST", "/cloister/accounts", {"email": "x@example.com", "name": "x"}),
        ("POST", "/cloister/organizations", {"name": "x"}),
    ):
        assert (await site.call("ed", method, path, body)).status_code == 403, path
    assert (await site.done("admin", "GET", me))["role"] == "editor"


async def test_a_projects_admin_shares_with_the_organization_and_brings_nobody_in(site: Site) -> None:
    await site.join("pam", "collaborator")
    await site.join("vic", "viewer")
    await site.done("admin", "POST", f"{P}/permissions", {"email": f"pam@{DOMAIN}", "role": "admin"})
    await site.done("pam", "POST", f"{P}/permissions", {"email": f"vic@{DOMAIN}"})
    refused = []
    for email in (f"boss@{DOMAIN}", f"nobody@{DOMAIN}"):
        answer = await site.call("pam", "POST", f"{P}/permissions", {"email": email})
        refused.append((answer.status_code, answer.json()["message"].replace(email, "")))
    assert refused[0] == refused[1], "nor learns who has an account"
    assert refused[0][0] == 422
    for stranger in (site.ids["boss"], "00000000-0000-0000-0000-0000000000ff"):
        answer = await site.call("pam", "PUT", f"{P}/members/{stranger}/role", {"role": "admin"})
        assert (answer.status_code, answer.json()["message"]) == (404, "member not found")
    assert (await site.call("pam", "POST", f"{O}/api_keys", {"key_name": "x"})).status_code == 403


async def test_who_was_removed_is_out_at_the_next_call_with_a_kept_answer_too(site: Site) -> None:
    await site.join("mo", "editor")
    async with site.as_("mo") as mo:
        body, headers = {"project": {"org_id": ORG}}, {"Idempotency-Key": "again"}
        assert (await mo.post("/projects", json=body, headers=headers)).status_code == 201
        assert (await mo.get(P)).status_code == 200
        await site.done("admin", "DELETE", f"{O}/members/{site.ids['mo']}")
        assert (await mo.get(P)).status_code == 404
        assert (await mo.get("/projects")).status_code == 403
        assert (await mo.post("/projects", json=body, headers=headers)).status_code in (403, 404)
        assert (await mo.get("/users/me")).status_code == 200, "their own account is still theirs"
        assert (await mo.get("/users/me/organizations")).json() == {"organizations": []}


async def test_who_was_made_a_viewer_is_one_at_the_next_call(site: Site) -> None:
    await site.join("mo", "editor")
    async with site.as_("mo") as mo:
        assert (await mo.patch(P, json={"project": {"name": "x"}})).status_code == 200
        await site.done("admin", "PATCH", f"{O}/members/{site.ids['mo']}", {"role": "viewer"})
        assert (await mo.patch(P, json={"project": {"name": "y"}})).status_code == 403


async def test_an_organizations_key_manages_no_people_and_no_keys(site: Site) -> None:
    made = await site.done("admin", "POST", f"{O}/api_keys", {"key_name": "terraform"})
    site.keys["key"] = made["key"]
    assert (await site.call("key", "PATCH", P, {"project": {"name": "x"}})).status_code == 200
    for method, path, body in (
        ("POST", f"{O}/api_keys", {"key_name": "more"}),
        ("GET", f"{O}/api_keys", None),
        ("DELETE", f"{O}/api_keys/{made['id']}", None),
        ("DELETE", f"{O}/members/{site.ids['admin']}", None),
        ("POST", f"{O}/invitations", {"invitations": [{"email": f"boss@{DOMAIN}", "role": "admin"}]}),
        ("POST", f"{O}/projects/transfer", {"destination_org_id": OTHER_ORG, "project_ids": [PROJECT]}),
        ("POST", f"{P}/transfer_requests", {}),
        ("GET", "/users/me", None),
        ("GET", "/users/me/organizations", None),
        ("POST", "/api_keys", {"key_name": "of whoever made it"}),
        ("GET", "/api_keys", None),
        ("DELETE", f"/api_keys/{made['id']}", None),
    ):
        answer = await site.call("key", method, path, body)
        assert (answer.status_code, answer.json()["message"]) == (403, "not allowed for organization API keys"), path
    assert (await site.call("key", "GET", f"/projects/{OTHER_PROJECT}")).status_code == 404
    assert (await site.done("key", "GET", "/auth"))["account_id"] == ORG


async def test_a_projects_key_knows_of_nothing_else(site: Site) -> None:
    second = ProjectId("calm-forest-00000003")
    site.world.projects.rows[second] = project(second, ORG)
    made = await site.done("admin", "POST", f"{O}/api_keys", {"key_name": "app", "project_id": PROJECT})
    site.keys["key"] = made["key"]
    assert [it["id"] for it in (await site.done("key", "GET", "/projects"))["projects"]] == [PROJECT]
    assert (await site.call("key", "PATCH", P, {"project": {"name": "x"}})).status_code == 200
    for path in (f"/projects/{second}", O, f"{O}/members", f"/projects?org_id={OTHER_ORG}"):
        assert (await site.call("key", "GET", path)).status_code == 404, path
    for method, path in (("DELETE", P), ("POST", f"{P}/permissions"), ("POST", "/projects")):
        answer = await site.call("key", method, path, {"email": f"boss@{DOMAIN}", "project": {}})
        assert answer.status_code == 403, path
    foreign = {"key_name": "x", "project_id": OTHER_PROJECT}
    assert (await site.call("admin", "POST", f"{O}/api_keys", foreign)).status_code == 404


async def test_a_key_and_who_made_it_are_not_given_each_others_answers(site: Site) -> None:
    made = await site.done("admin", "POST", f"{O}/api_keys", {"key_name": "ci"})
    site.keys["key"] = made["key"]
    headers = {"Idempotency-Key": "same"}
    for first, second in (("admin", "key"), ("key", "admin")):
        headers = {"Idempotency-Key": f"same-{first}"}
        async with site.as_(first) as one, site.as_(second) as other:
            body = {"project": {"org_id": ORG}}
            assert (await one.post("/projects", json=body, headers=headers)).status_code == 201
            answer = await other.post("/projects", json=body, headers=headers)
        assert answer.status_code == 201
        assert "idempotent-replayed" not in answer.headers


async def test_a_stolen_key_is_of_no_use_elsewhere_and_the_log_says_which_it_was(site: Site) -> None:
    body = {"key_name": "laptop", "allowed_ips": ["192.0.2.0/24"]}
    made = await site.done("admin", "POST", "/api_keys", body)
    site.keys["bound"] = made["key"]
    assert (await site.call("bound", "GET", P)).status_code == 200
    stolen = await site.call("bound", "GET", P, address="198.51.100.9")
    unknown = await site.call("napi_" + "z" * 64, "GET", P, address="198.51.100.9")
    assert stolen.status_code == unknown.status_code == 401
    assert stolen.json()["message"] == unknown.json()["message"]
    refused = {(it["reason"], it["actor"], it["address"]) for it in [await site.last_refusal()]}
    assert refused <= {
        ("key_from_elsewhere", f"key:{made['id']}", "198.51.100.9"),
        ("unauthenticated", "stranger", "198.51.100.9"),
    }
    events = (await site.done("operator", "GET", "/cloister/audit/events?action=api.refused"))["events"]
    assert ("key_from_elsewhere", f"key:{made['id']}") in {
        (it["event"]["reason"], it["event"]["actor"]) for it in events
    }


async def test_a_limited_key_does_not_make_itself_an_unlimited_one(site: Site) -> None:
    ends = (site.world.clock.now() + timedelta(hours=1)).isoformat()
    limits: list[dict[str, Any]] = [{"expires_at": ends}, {"allowed_ips": ["192.0.2.1"]}]
    for number, limit in enumerate(limits):
        who = f"limited {number}"
        site.keys[who] = (await site.done("admin", "POST", "/api_keys", {"key_name": "x", **limit}))["key"]
        assert (await site.call(who, "GET", "/api_keys")).status_code == 200
        for path in ("/api_keys", f"{O}/api_keys"):
            assert (await site.call(who, "POST", path, {"key_name": "for ever"})).status_code == 403
        offered = await site.call(who, "POST", f"{P}/transfer_requests", {"ttl_seconds": 600})
        assert offered.status_code == 403, "nor a way to the project that outlasts it"
    site.world.later(3600)
    assert (await site.call("limited 0", "GET", P)).status_code == 401
    assert (await site.call("limited 1", "GET", P)).status_code == 200


async def test_a_project_is_not_pushed_onto_or_pulled_out_of_an_organization(site: Site) -> None:
    give = {"destination_org_id": OTHER_ORG, "project_ids": [PROJECT]}
    take = {"destination_org_id": ORG, "project_ids": [OTHER_PROJECT]}
    assert (await site.call("admin", "POST", f"{O}/projects/transfer", give)).status_code == 404, "not of the other"
    assert (await site.call("admin", "POST", f"/organizations/{OTHER_ORG}/projects/transfer", take)).status_code == 404
    assert (await site.call("admin", "POST", f"{O}/projects/transfer", take)).status_code == 400
    mixed = {"destination_org_id": OTHER_ORG, "project_ids": [OTHER_PROJECT]}
    invitation = {"email": f"admin@{DOMAIN}", "role": "viewer"}
    await site.done("boss", "POST", f"/organizations/{OTHER_ORG}/invitations", {"invitations": [invitation]})
    assert (await site.call("admin", "POST", f"{O}/projects/transfer", give)).status_code == 403, "only a viewer there"
    await site.done("boss", "PATCH", f"/organizations/{OTHER_ORG}/members/{site.ids['admin']}", {"role": "editor"})
    assert (await site.call("admin", "POST", f"{O}/projects/transfer", mixed)).status_code == 404, "not ours to give"
    await site.done("admin", "POST", f"{O}/projects/transfer", give)
    async with site.database.reading() as tx:
        assert await tx.fetch_value("SELECT org_id FROM project WHERE id = $1", PROJECT) == OTHER_ORG


async def test_an_offered_project_goes_to_who_holds_the_offer_and_to_nobody_else(site: Site) -> None:
    take = {"org_id": OTHER_ORG}
    guessed = await site.call("boss", "PUT", f"{P}/transfer_requests/00000000-0000-4000-8000-000000000001", take)
    offer = await site.done("admin", "POST", f"{P}/transfer_requests", {"ttl_seconds": 600})
    path = f"{P}/transfer_requests/{offer['id']}"
    other = await site.call("boss", "PUT", path.replace(PROJECT, OTHER_PROJECT), take)
    unknown = await site.call("boss", "PUT", path.replace(PROJECT, "calm-forest-99999999"), take)
    heard = {(it.status_code, it.json()["message"]) for it in (guessed, other, unknown)}
    assert heard == {(404, "transfer request not found")}
    assert (await site.call("boss", "PUT", path, {"org_id": ORG})).status_code == 404, "whose it is it stays"
    await site.join("vic", "viewer")
    assert (await site.call("vic", "PUT", path)).status_code == 403, "vic may make no projects"
    assert (await site.call("boss", "PUT", path, take)).status_code == 204
    assert (await site.call("boss", "PUT", path, take)).status_code == 404, "good once"
    async with site.database.reading() as tx:
        assert await tx.fetch_value("SELECT org_id FROM project WHERE id = $1", PROJECT) == OTHER_ORG
    events = (await site.done("operator", "GET", f"/cloister/audit/events?project_id={PROJECT}"))["events"]
    told = [(it["event"]["action"], it["event"]["outcome"]) for it in events]
    assert told[:3] == [("project.transfer", "failed"), ("project.transfer", "ok"), ("project.transfer", "failed")]
    assert offer["id"] not in str(events)


async def test_an_operator_reads_the_log_and_nothing_of_a_tenant(site: Site) -> None:
    assert (await site.done("operator", "GET", "/cloister/audit/verify"))["is_intact"] is True
    assert (await site.call("admin", "GET", "/cloister/audit/verify")).status_code == 403
    for route in ROUTES:
        if isinstance(route.permission, Public) or not ("{project_id}" in route.path or "{org_id}" in route.path):
            continue
        answer = await site.call("operator", route.method, path_of(route), BODIES.get(route.name))
        assert answer.status_code == 404, route.name
        site.world.clock.advance(timedelta(seconds=1))  # there are more of them than one key may ask at once


async def test_every_change_of_access_is_in_the_log_with_who_and_from_where(site: Site) -> None:
    await site.join("mo", "editor")
    await site.done("admin", "PATCH", f"{O}/members/{site.ids['mo']}", {"role": "viewer"})
    granted = await site.done("admin", "POST", f"{P}/permissions", {"email": f"mo@{DOMAIN}"})
    await site.done("admin", "DELETE", f"{P}/permissions/{granted['id']}")
    await site.done("admin", "DELETE", f"{O}/members/{site.ids['mo']}")
    made = await site.done("admin", "POST", f"{O}/api_keys", {"key_name": "ci"})
    await site.done("admin", "DELETE", f"{O}/api_keys/{made['id']}")
    events = [it["event"] for it in (await site.done("operator", "GET", "/cloister/audit/events?limit=8"))["events"]]
    assert [it["action"] for it in reversed(events)][-7:] == [
        "member.add",
        "member.update",
        "access.grant",
        "access.revoke",
        "member.remove",
        "api_key.create",
        "api_key.revoke",
    ][-7:]
    assert {(it["actor"], it["address"], it["org_id"]) for it in events[:7]} == {
        (f"user:{site.ids['admin']}", "192.0.2.1", ORG)
    }
    assert made["key"] not in str(events)


def test_no_route_leaves_a_permission_unused() -> None:
    asked = {it.permission for it in ROUTES} | {it for route in ROUTES for it in route.may_need}
    within_handlers = {Permission.ROLE_REVEAL_PASSWORD}
    assert set(Permission) - within_handlers <= asked


async def test_nobody_behind_another_tenants_events_is_told(site: Site) -> None:
    """`cloister audit who` and `subject`: of one's own projects everything, of another's nothing, and no stranger's name."""
    session = "11111111-2222-4333-8444-555555555555"
    opened = Event(
        action="connection.opened",
        actor="role:app",
        project_id=PROJECT,
        address="192.0.2.7",
        details={"session_id": session, "application_name": "psql", "tls_version": "TLSv1.3"},
    )
    events = [
        Event(action="role.create", actor=f"user:{site.ids['admin']}", project_id=PROJECT, resource="app"),
        opened,
        msgspec.structs.replace(opened, action="connection.closed", details={"session_id": session}),
        Event(action="project.get", actor=f"user:{site.ids['boss']}", outcome="denied", project_id=PROJECT),
    ]
    async with site.database.transaction() as tx:
        last = await record(tx, *events)
    created, closed, strange = last - 3, last - 1, last
    who = "/cloister/audit/who?"
    found = await site.done("admin", "GET", f"{who}event={created}")
    assert found["account"]["email"] == f"admin@{DOMAIN}"
    for asked in (f"event={closed}", f"session_id={session}"):
        found = await site.done("admin", "GET", who + asked)
        assert (found["role"], found["program"], found["tls_version"]) == ("app", "psql", "TLSv1.3")
        assert (found["address"], found.get("account")) == ("192.0.2.7", None)
        assert [each["seq"] for each in found["password_given_by"]] == [created]
        assert (await site.call("boss", "GET", who + asked)).status_code == 404
    assert "account" not in await site.done("admin", "GET", f"{who}event={strange}"), "a stranger's name"
    everybody = await site.done("operator", "GET", f"{who}event={strange}")
    assert everybody["account"]["email"] == f"boss@{DOMAIN}"
    assert (await site.call("admin", "GET", who)).status_code == 400

    async def seen(who: str, question: str) -> list[int]:
        answer = await site.done(who, "GET", f"/cloister/audit/events?{question}")
        return [each["seq"] for each in answer["events"] if created <= each["seq"] <= last]

    for question, own in (
        ("role=app", [closed, closed - 1]),
        ("address=192.0.2.7", [closed, closed - 1]),
        (f"account=ADMIN@{DOMAIN}", [created]),
        (f"account=admin@{DOMAIN}&role=app", []),
        (f"account=boss@{DOMAIN}", []),
        ("account=nobody@nowhere.test", []),
    ):
        assert await seen("admin", question) == own
        assert await seen("boss", question) == []

"""The boundary: what each call passes, in which order, and what the audit log holds afterwards."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from cloister.base.errors import BusyError, ConflictError, UnavailableError
from cloister.control.projects.model import About
from cloister.edge.api import content
from cloister.edge.api.endpoint import Public
from cloister.edge.api.rates import (
    CALLS_PER_KEY,
    CALLS_PER_OWNER,
    CHANGES_PER_KEY,
    CHANGES_PER_OWNER,
    FAILED_LOGINS_PER_ADDRESS,
)
from cloister.trust.access.decisions import Decider
from cloister.trust.access.permissions import Permission
from cloister.trust.access.principals import Grant, Holder
from cloister.trust.audit import Action
from tests.edge.api.world import (
    ADA,
    ADA_KEY,
    BRANCH,
    ENDPOINT,
    NO_PROJECT,
    ORG,
    OTHER_PROJECT,
    PROJECT,
    SNAPSHOT,
    World,
)

P = f"/projects/{PROJECT}"
ROLES = f"{P}/branches/{BRANCH}/roles"


async def test_a_read_is_recorded_before_it_is_answered() -> None:
    world = World()
    async with world.client() as client:
        answer = await client.get(P, headers={"User-Agent": "drill/1.2 (of the reader)"})
        (event,) = world.audit.events
        assert (event.action, event.outcome, event.actor) == (Action.PROJECT_GET, "ok", ADA.actor)
        assert (event.project_id, event.address) == (PROJECT, "192.0.2.1")
        assert event.request_id == answer.headers["x-request-id"]
        assert event.details == {"client": "drill/1.2", "key_id": ADA.key_id}
        world.audit.error = UnavailableError("the log cannot be written")
        assert (await client.get(P)).status_code == 503


@pytest.mark.parametrize("said", ["", "drill", "/", "a b/1", "drill/" + "1" * 30, "drill\x1b[2J/1", "drill/1;x"])
async def test_a_program_that_names_itself_strangely_is_not_quoted(said: str) -> None:
    world = World()
    async with world.client() as client:
        await client.get(P, headers={"User-Agent": said})
    assert world.audit.events[0].details == {"key_id": ADA.key_id}


async def test_a_change_is_left_to_the_transaction_that_makes_it() -> None:
    world = World()
    async with world.client() as client:
        assert (await client.post(ROLES, json={"role": {"name": "app"}})).status_code == 201
    assert world.audit.events == []


async def test_deleting_what_is_not_there_is_recorded_too() -> None:
    world = World()
    async with world.client() as client:
        assert (await client.delete(f"{ROLES}/nobody")).status_code == 204
    (event,) = world.audit.events
    assert (event.action, event.resource, event.details["was_there"]) == (Action.ROLE_DELETE, "nobody", False)


async def test_a_permitted_call_that_fails_is_recorded_with_its_reason() -> None:
    world = World()
    async with world.client() as client:
        await client.get(f"{ROLES}/nobody")
        await client.post(ROLES, content=b"{", headers={"content-type": "application/json"})
        world.projects.error = BusyError()
        assert (await client.post("/projects", json={"project": {}})).status_code == 423
    assert [(it.action, it.outcome, it.reason) for it in world.audit.events] == [
        ("role.get", "failed", "not_found"),
        ("role.create", "failed", "bad_request"),
        ("project.create", "failed", "busy"),
    ]
    assert world.audit.events[0].resource == "nobody"


async def test_a_bug_is_an_internal_error_without_a_word_about_it() -> None:
    world = World()
    world.projects.error = RuntimeError("password=hunter2 in /var/lib/cloister")
    async with world.client() as client:
        answer = await client.post("/projects", json={"project": {}})
    assert answer.status_code == 500
    assert answer.json() == {"request_id": answer.headers["x-request-id"], "code": "", "message": "internal error"}
    assert world.audit.events[0].reason == "internal"


async def test_refusals_are_counted_and_written_together() -> None:
    world = World()
    async with world.client("napi_wrong") as client:
        for _ in range(5):
            assert (await client.get(P)).status_code == 401
    async with world.client() as client:
        assert (await client.get(f"/projects/{OTHER_PROJECT}")).status_code == 404
    assert world.audit.events == []
    first, second = await world.refused()
    assert (first.actor, first.reason, first.address) == ("stranger", "unauthenticated", "192.0.2.1")
    assert first.details == {"attempted": "project.get", "count": 5}
    assert (second.actor, second.reason, second.project_id) == (ADA.actor, "not_found", OTHER_PROJECT)


async def test_a_login_that_is_refused_names_whom_the_issuer_named() -> None:
    world = World()
    async with world.client(None) as client:
        for state in ("disabled", "unknown"):
            body = {"state": state, "secret": "kept", "code": "brought"}
            assert (await client.post("/cloister/logins/finish", json=body)).status_code == 403
    first, second = await world.refused()
    assert (first.reason, first.actor, first.resource) == ("account_disabled", "user:eve", "company/u-1")
    assert (second.reason, second.actor, second.resource) == ("login_unknown", "stranger", "")


async def test_a_flood_of_different_refusals_fills_neither_memory_nor_log() -> None:
    world = World()
    async with world.client() as client:
        for number in range(190):
            await client.get(f"/projects/calm-forest-{number + 10:08}")
    events = await world.refused()
    assert len(events) <= 129
    assert sum(it.details.get("count", 1) for it in events) == 190
    assert [it.reason for it in events].count("flood") == 1


async def test_refusals_wait_for_a_log_that_cannot_be_written() -> None:
    world = World()
    async with world.client(None) as client:
        await client.get(P)
        world.audit.error = UnavailableError("down")
        assert await world.refused() == []
        world.audit.error = None
        await client.get(P)
    (event,) = await world.refused()
    assert event.details["count"] == 2


async def test_a_project_that_is_not_there_looks_like_one_of_somebody_else() -> None:
    async with World().client() as client:
        mine, absent = await client.get(f"/projects/{OTHER_PROJECT}"), await client.get(f"/projects/{NO_PROJECT}")
    assert mine.status_code == absent.status_code == 404
    assert mine.json()["message"] == absent.json()["message"] == "project not found"
    assert set(mine.headers) == set(absent.headers)


@pytest.mark.parametrize("takes_s", [0.5, 2.0])
async def test_who_takes_their_time_over_a_body_is_looked_at_again(takes_s: float) -> None:
    """Nobody keeps a right by a request that was permitted and waits for its last byte."""

    async def body() -> AsyncIterator[bytes]:
        yield b'{"role": {"name": '
        world.later(takes_s)
        yield b'"app"}}'

    world = World()
    headers = {"content-type": "application/json"}
    async with world.client() as client:
        assert (await client.post(ROLES, content=body(), headers=headers)).status_code == 201
    assert world.keys.asked == (2 if takes_s > 1 else 1)


async def test_what_was_taken_away_while_a_body_came_is_not_had_any_more() -> None:
    async def body(how: str) -> AsyncIterator[bytes]:
        yield b'{"role": {"name": '
        world.later(2)
        if how == "revoked":
            world.keys.principals.clear()
        else:
            world.keys.principals[ADA_KEY] = replace(ADA, memberships={})
        yield b'"app"}}'

    headers = {"content-type": "application/json"}
    for how, status, reason in (("revoked", 401, "unauthenticated"), ("removed", 404, "not_found")):
        world = World(decider=Decider())
        async with world.client() as client:
            assert (await client.post(ROLES, content=body(how), headers=headers)).status_code == status
            assert "app" not in str(world.roles.__dict__)
        (event,) = world.audit.events
        assert (event.action, event.outcome, event.reason, event.actor) == ("role.create", "failed", reason, ADA.actor)


async def test_a_strangers_body_is_not_read() -> None:
    async def body() -> AsyncIterator[bytes]:
        read.append(1)
        yield b"{}"

    read: list[int] = []
    async with World().client("napi_wrong") as client:
        answer = await client.post("/projects", content=body(), headers={"content-type": "application/json"})
    assert (answer.status_code, read) == (401, [])


async def test_the_key_in_a_cookie_is_not_taken() -> None:
    """Neon's tools send it there too, but always as a bearer token as well; a browser sends cookies unasked."""
    world = World()
    async with world.client(None) as client:
        answer = await client.get(P, headers={"Cookie": "zenith=napi_" + "a" * 64})
    assert (answer.status_code, world.keys.asked) == (401, 0)
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "authorization", ["", "Bearer", "Bearer ", "Basic YTpi", "Bearer a b", "Bearer " + "x" * 257, "Bearer näpi"]
)
async def test_what_is_not_a_bearer_token_is_not_looked_up(authorization: str) -> None:
    world = World()
    async with world.client(None) as client:
        answer = await client.get(P, headers={b"Authorization": authorization.encode()})
    assert (answer.status_code, world.keys.asked) == (401, 0)


async def test_two_authorizations_are_none() -> None:
    world = World()
    async with world.client() as client:
        headers = [("Authorization", "Bearer napi_" + "a" * 64), ("Authorization", "Bearer napi_" + "b" * 64)]
        client.headers.pop("authorization")
        assert (await client.get(P, headers=headers)).status_code == 401


async def test_an_address_that_guesses_is_not_even_looked_up() -> None:
    world = World()
    async with world.client("napi_wrong") as client:
        for _ in range(FAILED_LOGINS_PER_ADDRESS.burst):
            assert (await client.get(P)).status_code == 401
        answer = await client.get(P)
    assert (answer.status_code, world.keys.asked) == (429, FAILED_LOGINS_PER_ADDRESS.burst)
    assert int(answer.headers["retry-after"]) >= 1
    async with world.client(address="192.0.2.2") as client:
        assert (await client.get(P)).status_code == 200
    world.later(60)
    async with world.client() as client:
        assert (await client.get(P)).status_code == 200


async def test_a_key_has_a_rate_and_its_changes_a_lower_one() -> None:
    world = World()
    async with world.client() as client:
        statuses = [
            (await client.post(f"{ROLES}/neondb_owner/reset_password")).status_code
            for _ in range(CHANGES_PER_KEY.burst + 1)
        ]
        assert statuses == [200] * CHANGES_PER_KEY.burst + [429]
        left = CALLS_PER_KEY.burst - CHANGES_PER_KEY.burst - 1
        statuses = [(await client.get("/regions")).status_code for _ in range(left + 1)]
        assert statuses == [200] * left + [429]
    async with world.client("napi_" + "b" * 64) as other:
        assert (await other.get("/regions")).status_code == 200
    world.later(10)
    async with world.client() as client:
        assert (await client.get("/regions")).status_code == 200


@pytest.mark.parametrize("holder", Holder)
async def test_more_keys_are_no_more_calls_beyond_what_their_owner_has(holder: Holder) -> None:
    """Keys cost nothing. Whoever made a hundred of them could ask a hundred times as much, and leave nothing for others."""
    world = World()
    whose: dict[str, Any] = {
        Holder.PERSON: {},
        Holder.PROJECT: {"account_id": uuid4(), "memberships": {}, "grants": {PROJECT: Grant(ORG, "editor")}},
    }.get(holder, {"memberships": {ORG: "admin"}})
    keys = [f"napi_{number:064}" for number in range(CALLS_PER_OWNER.burst // CALLS_PER_KEY.burst + 1)]
    for number, key in enumerate(keys):
        world.keys.principals[key] = replace(ADA, key_id=1000 + number, holder=holder, **whose)
    statuses = []
    for key in keys:
        async with world.client(key) as client:
            statuses += [(await client.get("/regions")).status_code for _ in range(CALLS_PER_KEY.burst)]
    assert statuses == [200] * CALLS_PER_OWNER.burst + [429] * CALLS_PER_KEY.burst
    async with world.client("napi_" + "b" * 64) as other:
        assert (await other.get("/regions")).status_code == 200


async def test_more_keys_are_no_more_changes_either() -> None:
    world = World()
    statuses = []
    for number in range(CHANGES_PER_OWNER.burst // CHANGES_PER_KEY.burst + 1):
        key = f"napi_{number:064}"
        world.keys.principals[key] = replace(ADA, key_id=1000 + number)
        async with world.client(key) as client:
            for _ in range(CHANGES_PER_KEY.burst):
                statuses.append((await client.patch(P, json={"project": {"name": "shop"}})).status_code)
    assert statuses == [200] * CHANGES_PER_OWNER.burst + [429] * CHANGES_PER_KEY.burst


async def test_the_same_idempotency_key_gets_the_same_answer_and_one_effect() -> None:
    world = World()
    headers = {"Idempotency-Key": "create-shop"}
    async with world.client() as client:
        first = await client.post("/projects", json={"project": {"name": "shop"}}, headers=headers)
        again = await client.post("/projects", json={"project": {"name": "shop"}}, headers=headers)
        other = await client.post("/projects", json={"project": {"name": "other"}}, headers=headers)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.content == again.content
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    assert len(world.projects.created) == 1
    assert (other.status_code, other.json()["message"]) == (422, "this Idempotency-Key was used for another request")
    replay = world.audit.events[0]
    assert (replay.action, replay.details["replayed"]) == (Action.PROJECT_CREATE, True)


async def test_an_idempotency_key_is_free_again_after_a_refusal_and_kept_after_a_doubt() -> None:
    world = World()
    headers = {"Idempotency-Key": "k"}
    async with world.client() as client:
        for error in (BusyError(), ConflictError()):
            world.projects.error = error
            await client.post("/projects", json={"project": {}}, headers=headers)
            assert world.answers.rows == {}  # type: ignore[attr-defined]
        world.projects.error = UnavailableError("the connection broke while committing")
        assert (await client.post("/projects", json={"project": {}}, headers=headers)).status_code == 503
        assert len(world.answers.rows) == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("key", ["", "x" * 256, "caf\xe9", "a\tb"])
async def test_a_strange_idempotency_key_is_a_bad_request(key: str) -> None:
    async with World().client() as client:
        answer = await client.post(
            "/projects",
            json={"project": {}},
            headers=[(b"Idempotency-Key", key.encode("latin-1"))],
        )
    assert answer.status_code == 400


async def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "BODY_TIMEOUT_S", 0.0)
    async with World().client() as client:

        async def never() -> AsyncIterator[bytes]:
            import asyncio

            yield b"{"
            await asyncio.Event().wait()

        answer = await client.post("/projects", content=never(), headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert "did not arrive" in answer.json()["message"]


async def test_unknown_routes_and_wrong_methods_have_the_same_shape() -> None:
    async with World().client() as client:
        for path in (
            "/nothing",
            "/projects/",
            "/projects//branches",
            P + "/",
            P + "/%2e%2e",
            "/projects/%ff",
            "/" + "a/" * 50,
        ):
            answer = await client.get(path)
            assert answer.status_code == 404, path
            assert set(answer.json()) == {"request_id", "code", "message"}
        wrong = await client.put(P)
        assert (wrong.status_code, wrong.headers["allow"]) == (405, "DELETE, GET, PATCH")
        assert set(wrong.json()) == {"request_id", "code", "message"}
        for outside in (
            "https://api.test/elsewhere",
            "https://api.test/api%2fv2/regions",
            "https://api.test/api/v1/regions",
        ):
            answer = await client.get(outside)
            assert answer.status_code == 404
            assert set(answer.json()) == {"request_id", "code", "message"}
        assert (await client.post("https://api.test/")).status_code == 405


def test_a_wire_value_does_not_print_its_fields() -> None:
    from cloister.edge.api.wire.roles import RolePassword

    assert "hunter2" not in repr(RolePassword(password="hunter2"))


def test_the_description_names_the_guards_of_every_route() -> None:
    from cloister.edge.api.openapi import document
    from cloister.edge.api.routes import ROUTES

    described = json.loads(document(ROUTES, "0.1.0"))
    operations = [it for path in described["paths"].values() for it in path.values()]
    assert len(operations) == len(ROUTES)
    guarded = {(it["operationId"], it.get("x-cloister-permission"), it.get("x-cloister-audit")) for it in operations}
    assert guarded == {
        (
            route.name,
            None if isinstance(route.permission, Public) else route.permission.value,
            None if route.audit is None else route.audit.value,
        )
        for route in ROUTES
    }
    public = {it["operationId"] for it in operations if "x-cloister-public" in it}
    assert public == {"get_health", "begin_login", "finish_login", "show_ceremony"}
    assert _references(described) <= {f"#/components/schemas/{name}" for name in described["components"]["schemas"]}


def test_every_permission_and_every_action_of_the_api_is_used() -> None:
    from cloister.edge.api.routes import ROUTES

    asked = {route.permission for route in ROUTES if not isinstance(route.permission, Public)}
    assert asked.union(*(route.may_need for route in ROUTES)) == set(Permission)


def _references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*(_references(inner) for inner in value.values()))
    if isinstance(value, list):
        return set().union(*(_references(inner) for inner in value))
    return set()


FORBIDDEN_BY_TAG = """
forbid (principal, action in [Action::"branch:read", Action::"branch:unprotect", Action::"tag:lift"], resource)
when { resource.tags.contains("frozen") };
"""


@pytest.fixture
def world_of_rules(tmp_path: Path) -> World:
    own = tmp_path / "policies"
    own.mkdir(mode=0o755)
    (own / "ours.cedar").write_text(FORBIDDEN_BY_TAG)
    return World(decider=Decider(own=own))


async def test_tags_of_what_the_path_names_reach_every_decision(world_of_rules: World) -> None:
    """The route's own permission, what it may need besides, and what its handler asks."""
    world = world_of_rules
    lift = f"/cloister{P}/branches/{BRANCH}/tags", {"remove": ["pii"]}
    async with world.client() as client:
        assert (await client.get(f"{P}/branches/{BRANCH}")).status_code == 200
        assert (await client.patch(lift[0], json=lift[1])).status_code == 200
        world.projects.rows[PROJECT] = replace(world.projects.rows[PROJECT], tags=frozenset({"frozen"}))
        assert (await client.get(f"{P}/branches/{BRANCH}")).status_code == 403
        assert (await client.patch(lift[0], json=lift[1])).status_code == 403
        assert world.projects.asked[-1] == About(branch_id=BRANCH)
        await client.get(f"{P}/endpoints/{ENDPOINT}")
        assert world.projects.asked[-1] == About(endpoint_id=ENDPOINT)
        await client.get(f"{P}/branches")
        assert world.projects.asked[-1] == About()


async def test_of_what_is_about_another_branch_too_every_tag_counts(world_of_rules: World) -> None:
    """Whose data comes, or which branch is replaced, is said by the body, or known to the service."""
    world = world_of_rules
    paths: tuple[tuple[str, dict[str, str]], ...] = (
        (f"{P}/branches/{BRANCH}/restore", {"source_branch_id": BRANCH}),
        (f"{P}/branches/{BRANCH}/reset_to_parent", {}),
        (f"{P}/branches/{BRANCH}/finalize_restore", {}),
        (f"{P}/snapshots/{SNAPSHOT}/restore", {"target_branch_id": BRANCH}),
    )
    async with world.client() as client:
        for path, body in paths:
            world.projects.asked.clear()
            await client.post(path, json=body)
            assert world.projects.asked == [About()], path

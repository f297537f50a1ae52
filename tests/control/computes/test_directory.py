"""What a gateway is told about a role at an endpoint."""

import asyncio
import time
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from cloister.base.directory import AnyCommand, ConnectionEvent, Frozen, LookUp, Pool, Record
from cloister.base.errors import BadRequestError, ForbiddenError, NotFoundError, UnavailableError
from cloister.control.computes.directory import allowed_ips, is_binding_required
from cloister.control.computes.verifiers import READS_BURST, READS_PER_S, STALE_S_MAX
from cloister.control.projects.model import ProjectChange
from cloister.control.roles.server import RoleState
from cloister.protocol.scram import ITERATIONS_DEFAULT, Verifier
from cloister.trust.audit import Event
from cloister.trust.audit.reader import events
from tests.control.computes.test_reconcile import VERIFIER
from tests.control.land import CALLER, Land


@pytest.mark.parametrize("role", ["nobody", "cloister_admin", "pg_monitor", "neon_superuser", "nul\0", "x" * 64, ""])
@pytest.mark.parametrize("is_asleep", [True, False])
async def test_a_role_that_cannot_log_in_gets_a_mock_that_looks_real(land: Land, role: str, is_asleep: bool) -> None:
    created = await (land.sleeping_project() if is_asleep else land.project())
    if not is_asleep:
        # Whatever a server says about the platform's own roles.
        land.node.catalog_of(created.endpoint.id).roles["cloister_admin"] = RoleState(
            "cloister_admin", VERIFIER, can_login=True, valid_until=None
        )
    route = await land.look_up(created.endpoint.id, role)
    assert route.is_known
    assert route.is_doomed
    assert Verifier.parse(route.verifier).iterations == ITERATIONS_DEFAULT
    again = await land.look_up(created.endpoint.id, role)
    assert again.verifier == route.verifier, "the same salt at every try"
    assert (await land.look_up(created.endpoint.id, role + "2")).verifier != route.verifier


@pytest.mark.parametrize(
    "endpoint", ["ep-no-such-00000000", "../../etc", "EP-UP", "ep-nul\0-x-00000000", "", "x" * 500]
)
async def test_an_endpoint_that_does_not_exist_gets_a_mock(land: Land, endpoint: str) -> None:
    route = await land.look_up(endpoint, "neondb_owner")
    assert (route.is_known, route.is_doomed, route.allowed_ips, route.socket_dir) == (False, True, None, None)
    assert Verifier.parse(route.verifier).iterations == ITERATIONS_DEFAULT
    assert (await land.look_up(endpoint, "neondb_owner")).verifier == route.verifier


@pytest.mark.parametrize("is_asleep", [True, False])
async def test_nologin_and_valid_until_are_honoured_before_anything_wakes(land: Land, is_asleep: bool) -> None:
    created = await land.project()
    roles = land.node.catalog_of(created.endpoint.id).roles
    soon = land.clock.now() + timedelta(minutes=1)
    roles["nologin"] = RoleState("nologin", VERIFIER, can_login=False, valid_until=None)
    roles["soon"] = RoleState("soon", VERIFIER, can_login=True, valid_until=soon)
    roles["without"] = RoleState("without", None, can_login=True, valid_until=None)
    if is_asleep:
        _, operations = await land.control.endpoints.suspend(CALLER, created.project.id, created.endpoint.id)
        await land.finish(operations)
    assert (await land.look_up(created.endpoint.id, "nologin")).is_doomed
    assert (await land.look_up(created.endpoint.id, "without")).is_doomed
    assert not (await land.look_up(created.endpoint.id, "soon")).is_doomed
    land.clock.advance(timedelta(minutes=1))
    assert (await land.look_up(created.endpoint.id, "soon")).is_doomed


async def test_what_is_changed_by_sql_counts_at_once(land: Land, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []
    monkeypatch.setattr(land.plane.gateways, "invalidate", lambda **what: told.append(what["endpoint_id"]))
    created = await land.project()
    assert (await land.look_up(created.endpoint.id, "neondb_owner")).verifier == created.role.verifier
    assert (await land.look_up(created.endpoint.id, "app")).is_doomed
    roles = land.node.catalog_of(created.endpoint.id).roles
    roles["neondb_owner"] = RoleState("neondb_owner", VERIFIER, can_login=True, valid_until=None)
    roles["app"] = RoleState("app", VERIFIER, can_login=True, valid_until=None)
    assert (await land.look_up(created.endpoint.id, "neondb_owner")).verifier == VERIFIER
    assert not (await land.look_up(created.endpoint.id, "app")).is_doomed
    assert told == [created.endpoint.id], "once, and the gateways that did not ask forget too"


@pytest.mark.parametrize("at_once", [1, 20])
async def test_strangers_who_try_names_cost_the_server_a_few_queries_a_second(
    land: Land, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    created = await land.project()
    asked = 0
    roles = land.node.catalog_of(created.endpoint.id).roles

    async def counted(_self: Any) -> list[RoleState]:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)
        return list(roles.values())

    monkeypatch.setattr("tests.control.fake_node.FakeServer.roles", counted)
    began = time.monotonic()
    for number in range(0, 400, at_once):
        names = [f"guess{n}" for n in range(number, number + at_once)]
        await asyncio.gather(*(land.look_up(created.endpoint.id, name) for name in names))
    took_s = time.monotonic() - began
    # The last term: a list is never older than a second.
    assert asked <= READS_BURST + READS_PER_S * took_s + took_s / STALE_S_MAX + 1
    assert asked < 200


async def test_a_running_server_that_does_not_answer_lets_nobody_in(land: Land) -> None:
    created = await land.project()
    land.node.deaf.add(created.endpoint.id)
    await land.plane.sessions.close(created.endpoint.id)
    with pytest.raises(UnavailableError):
        await land.look_up(created.endpoint.id, "neondb_owner")


ANY = '{"allowed_ips":{"ips":[],"protected_branches_only":false},"block_public_connections":false}'


@pytest.mark.parametrize(
    ("settings", "is_protected", "expected"),
    [
        (ANY, False, None),
        (ANY.replace("[]", '["192.0.2.1"]'), False, ["192.0.2.1"]),
        (ANY.replace("[]", '["192.0.2.1"]').replace('only":false', 'only":true'), False, None),
        (ANY.replace("[]", '["192.0.2.1"]').replace('only":false', 'only":true'), True, ["192.0.2.1"]),
        (ANY.replace('tions":false', 'tions":true'), False, []),
        ("", False, []),
        ("{}", False, []),
        ("null", True, []),
        ('{"allowed_ips":null,"block_public_connections":false}', True, []),
        (ANY.replace("[]", "[1]"), False, []),
        (ANY.replace("[]", '"192.0.2.1"'), False, []),
    ],
)
def test_who_may_knock(settings: str, is_protected: bool, expected: list[str] | None) -> None:
    assert allowed_ips(settings, is_protected=is_protected) == expected


async def test_the_allowlist_comes_with_the_route(land: Land) -> None:
    created = await land.sleeping_project()
    await land.control.projects.update(
        CALLER, created.project.id, ProjectChange(settings={"allowed_ips": {"ips": ["192.0.2.0/24"]}})
    )
    assert (await land.look_up(created.endpoint.id, "neondb_owner")).allowed_ips == ["192.0.2.0/24"]
    async with land.database.transaction() as tx:
        await tx.execute("UPDATE project SET settings = '{}' WHERE id = $1", created.project.id)
    assert (await land.look_up(created.endpoint.id, "neondb_owner")).allowed_ips == []


async def ask(land: Land, command: AnyCommand) -> Any:
    return await land.plane.directory._answer(land.connect_gateway(), command)  # type: ignore[arg-type]


async def test_connection_events_are_recorded_and_nothing_else_can_be(land: Land) -> None:
    event = ConnectionEvent(
        action="connection.denied",
        at="2026-01-01T00:00:00.000000Z",
        session_id="s",
        role="ada\n",
        reason="bad_password",
    )
    assert await ask(land, Record([event, event])) == 2
    assert await land.actions() == ["connection.denied"] * 2
    forged = ConnectionEvent(action="project.delete", at="", session_id="s")
    with pytest.raises(BadRequestError):
        await ask(land, Record([event, forged]))
    assert await land.actions() == ["connection.denied"] * 2
    assert await ask(land, Record([])) == 0


async def test_all_that_a_gateway_tells_of_a_session_is_in_its_event(land: Land) -> None:
    """What the rules about logins and reads look at among it: a field that is left out would blind them."""
    closed = ConnectionEvent(
        action="connection.closed", at="2026-01-01T00:00:00.000000Z", session_id="s", endpoint_id="ep-calm-lake-12345678",
        project_id="calm-forest-12345678", branch_id="br-calm-lake-12345678", role="app", database="shop",
        address="192.0.2.7", application_name="psql", point="0/1", jwks_id="jwks-1", subject="ada", tls_version="TLSv1.3",
        tls_cipher="TLS_AES_256_GCM_SHA384", reason="client_left", duration_ms=1, bytes_in=2, bytes_out=3, rows_out=4,
        was_cold=True,
    )  # fmt: skip
    denied = msgspec.structs.replace(closed, action="connection.denied", reason="bad_password")
    assert all(msgspec.structs.astuple(closed)), "nothing is left out because it is empty"
    assert await ask(land, Record([closed, denied])) == 2
    own = ("action", "at", "project_id", "branch_id", "endpoint_id", "address", "reason")
    for said, outcome in ((closed, "ok"), (denied, "denied")):
        fields = msgspec.structs.asdict(said)
        expected = Event(
            actor="role:app",
            outcome=outcome,
            details={name: value for name, value in fields.items() if name not in (*own, "role")},
            **{name: fields[name] for name in own},
        )
        assert await land.events(said.action) == [expected]


async def test_what_a_session_read_is_recorded_with_the_kept_tags_of_where(land: Land) -> None:
    """Its branch's and its project's, as they are when it is told."""
    created = await land.project()

    async def recorded(action: str = "connection.closed") -> Any:
        event = ConnectionEvent(
            action=action, at="2026-01-01T00:00:00.000000Z", session_id="s", branch_id=created.branch.id, bytes_out=7
        )
        nowhere = ConnectionEvent(action=action, at="2026-01-01T00:00:00.000000Z", session_id="t")
        assert await ask(land, Record([event, nowhere])) == 2
        async with land.database.reading() as tx:
            found = await events(tx, project_ids=None, action=action, before_seq=None, limit=2)
        details = [it.event.details for it in found]
        assert "tags" not in details[0], "of no branch"
        return details[1].get("tags")

    assert await recorded() is None
    await land.control.tags.change(CALLER, created.project.id, created.branch.id, add=["pii", "team-a"])
    assert await recorded() == "pii"
    await land.control.tags.change(CALLER, created.project.id, None, add=["prod"])
    assert await recorded() == "pii, prod"
    assert await recorded("connection.reading") == "pii, prod"
    assert await recorded("connection.opened") is None


async def test_an_answer_to_no_freeze_changes_nothing(land: Land) -> None:
    assert await ask(land, Frozen(endpoint_id="ep-no-such-00000000", token=1, has_unanswered=False)) == 0
    route = await ask(land, LookUp(endpoint="ep-no-such-00000000", role="x"))
    assert route.is_doomed


async def test_a_pooler_is_asked_of_the_node_that_runs_the_compute(land: Land) -> None:
    created = await land.project()
    endpoint_id = created.endpoint.id
    compute = land.node.computes[endpoint_id]

    async def pool(role: str, generation: int = compute.generation) -> str:
        return (
            await land.plane.directory.pool(Pool(endpoint_id=endpoint_id, generation=generation, role=role))
        ).socket_dir

    assert await pool("neondb_owner") == f"{compute.socket_dir}/pool"
    with pytest.raises(NotFoundError):
        await pool("neondb_owner", compute.generation + 1)
    for role in ("cloister_admin", "cloister_reader"):
        with pytest.raises(ForbiddenError):
            await pool(role)
    assert land.node.calls.count("StartPooler") == 1


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (ANY, False),
        ('{"require_channel_binding":false}', False),
        ('{"require_channel_binding":true}', True),
        ('{"require_channel_binding":"false"}', True),
        ('{"require_channel_binding":null}', True),
        ("", True),
    ],
)
def test_channel_binding_is_required_where_it_is_said_and_where_nobody_can_tell(settings: str, expected: bool) -> None:
    assert is_binding_required(settings) is expected


async def test_a_route_says_that_channel_binding_is_required(land: Land) -> None:
    created = await land.project()
    assert not (await land.look_up(created.endpoint.id, "neondb_owner")).is_binding_required
    for is_required in (True, False):
        change = ProjectChange(settings={"require_channel_binding": is_required})
        await land.control.projects.update(CALLER, created.project.id, change)
        assert (await land.look_up(created.endpoint.id, "neondb_owner")).is_binding_required is is_required
    assert [it.get("loosens") for it in await land.details_of("project.update")] == [None, "channel_binding"]

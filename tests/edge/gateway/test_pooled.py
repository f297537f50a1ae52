"""Clients of `-pooler` hosts, in the gateway: what it asks for, when, and what it refuses. The compute plays its pooler; the
real one is in tests/journeys/test_pooling.py."""

import asyncio
from pathlib import Path

import psycopg
import pytest

from cloister.base.audit_levels import AuditLevel
from cloister.base.directory import Freeze, Pool
from cloister.base.errors import PreconditionError
from cloister.edge.gateway.errors import RefusedError
from cloister.edge.gateway.target import check_pooled, is_pooler
from cloister.protocol.pgwire.messages import (
    AUTHENTICATION_OK,
    READY_FOR_QUERY_IDLE,
    backend_key_data,
    error_response,
)
from tests.fix_gateway import ENDPOINT, PASSWORD, GatewayWorld

POOLER = f"{ENDPOINT}-pooler"


@pytest.fixture
async def world(gateway_world: GatewayWorld) -> GatewayWorld:
    await gateway_world.start()
    return gateway_world


@pytest.fixture
def pool_dir(world: GatewayWorld, tmp_path: Path) -> Path:
    """Where the pooler listens: the compute's own socket, by another name, which can be taken away."""
    (tmp_path / ".s.PGSQL.5432").symlink_to(Path(world.directory.socket_dir) / ".s.PGSQL.5432")
    world.directory.pool_dir = str(tmp_path)
    return tmp_path


def asked(world: GatewayWorld) -> list[Pool]:
    return [command for command in world.directory.asked if isinstance(command, Pool)]


async def test_the_pooler_is_asked_for_once_for_each_role(world: GatewayWorld) -> None:
    world.directory.set_password("bob", PASSWORD)
    for role in ("ada", "ada", "bob", "ada"):
        async with await world.connect(endpoint=POOLER, role=role) as connection:
            assert await (await connection.execute("SELECT session_user")).fetchone() == (role,)
    assert [(pool.endpoint_id, pool.role) for pool in asked(world)] == [(ENDPOINT, "ada"), (ENDPOINT, "bob")]


async def test_nobody_else_asks_for_it(world: GatewayWorld) -> None:
    await (await world.connect()).close()
    assert "password authentication failed" in await world.refusal(endpoint=POOLER, password="wrong")
    assert "password authentication failed" in await world.refusal(endpoint="ep-nobody-pooler")
    assert asked(world) == []


async def test_it_is_recorded_as_the_endpoint(world: GatewayWorld) -> None:
    await (await world.connect(endpoint=POOLER)).close()
    (opened,) = await world.directory.until("connection.opened")
    assert (opened.endpoint_id, opened.role, opened.was_cold) == (ENDPOINT, "ada", False)
    (closed,) = await world.directory.until("connection.closed")
    assert closed.session_id == opened.session_id


async def test_a_sleeping_compute_is_woken_for_it(world: GatewayWorld) -> None:
    world.directory.is_asleep = True
    await (await world.connect(endpoint=POOLER)).close()
    assert len(world.directory.wakes) == 1
    (opened,) = await world.directory.until("connection.opened")
    assert opened.was_cold


async def test_a_pooler_that_is_gone_is_asked_for_again(world: GatewayWorld, pool_dir: Path) -> None:
    await (await world.connect(endpoint=POOLER)).close()
    (pool_dir / ".s.PGSQL.5432").unlink()
    world.directory.pool_dir = ""
    await (await world.connect(endpoint=POOLER)).close()
    assert len(asked(world)) == 2


async def test_a_pooler_that_never_listens_is_asked_for_until_there_is_another(
    world: GatewayWorld, tmp_path: Path
) -> None:
    """The node may take one that was just killed for alive."""
    world.directory.pool_dir = str(tmp_path)
    connecting = asyncio.create_task(world.connect(endpoint=POOLER))
    await world.directory.until_asked(Pool)
    world.directory.pool_dir = ""
    async with asyncio.timeout(20):
        await (await connecting).close()
    assert len(asked(world)) >= 2


async def test_a_pooler_that_does_not_know_the_role_is_told_again(world: GatewayWorld, pool_dir: Path) -> None:
    """It was started again, for another."""
    await (await world.connect(endpoint=POOLER)).close()
    socket = pool_dir / ".s.PGSQL.5432"
    socket.unlink()

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(error_response("08P01", '"trust" authentication failed'))
        writer.close()

    server = await asyncio.start_unix_server(refuse, socket)
    world.directory.pool_dir = ""
    await (await world.connect(endpoint=POOLER)).close()
    assert len(asked(world)) == 2
    server.close()


async def test_without_pgbouncer_there_is_a_reason_and_the_direct_host(world: GatewayWorld) -> None:
    world.directory.pool_error = PreconditionError(public="pooled connections need PgBouncer on the server")
    assert "pooled connections need PgBouncer on the server" in await world.refusal(endpoint=POOLER)
    await (await world.connect()).close()


async def test_what_postgresql_says_at_the_first_look_is_passed_on(world: GatewayWorld) -> None:
    assert 'database "nowhere" does not exist' in await world.refusal(endpoint=POOLER, database="nowhere")
    assert asked(world) == []


async def test_the_password_may_name_the_pooler(world: GatewayWorld) -> None:
    without_sni = {"sslmode": "require", "sslsni": 0, "host": None, "channel_binding": "disable"}
    connection = await world.connect(password=f"endpoint={POOLER};{PASSWORD}", **without_sni)
    await connection.close()
    assert len(asked(world)) == 1


@pytest.mark.parametrize("is_named_by", ["host", "password"])
async def test_the_past_has_no_pooler(world: GatewayWorld, is_named_by: str) -> None:
    options = "neon_lsn:0/15E9A30 -c search_path=elsewhere"
    without_sni = {"sslmode": "require", "sslsni": 0, "host": None, "channel_binding": "disable"}
    if is_named_by == "host":
        connection = await world.connect(endpoint=POOLER, options=options)
    else:
        connection = await world.connect(password=f"endpoint={POOLER};{PASSWORD}", options=options, **without_sni)
    async with connection:
        # What no pooled client may ask for, and PostgreSQL itself does.
        assert await (await connection.execute("SHOW search_path")).fetchone() == ("elsewhere",)
    (opened,) = await world.directory.until("connection.opened")
    assert (opened.endpoint_id, opened.point) == (ENDPOINT, "lsn:0/15E9A30")
    assert asked(world) == []


async def test_a_pooler_that_ends_with_its_compute_ends_its_clients_as_a_suspend_does(
    world: GatewayWorld, tmp_path: Path
) -> None:
    """PostgreSQL says goodbye itself; PgBouncer does not."""
    leaving: list[asyncio.StreamWriter] = []

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        leaving.append(writer)
        await reader.read(8192)
        writer.write(AUTHENTICATION_OK + backend_key_data(1, b"key!") + READY_FOR_QUERY_IDLE)

    server = await asyncio.start_unix_server(play, tmp_path / ".s.PGSQL.5432")
    world.directory.pool_dir = str(tmp_path)
    connection = await world.connect(endpoint=POOLER)
    await world.directory.until("connection.opened")
    world.directory.send(Freeze(endpoint_id=ENDPOINT, token=7))
    assert not (await world.directory.until_frozen(7)).has_unanswered
    leaving[-1].close()
    await world.directory.until("connection.closed")
    with pytest.raises(psycopg.errors.AdminShutdown):
        await connection.execute("SELECT 1")
    server.close()


async def test_a_parameter_that_cannot_be_kept_is_refused_before_anything_wakes(world: GatewayWorld) -> None:
    world.directory.is_asleep = True
    said = await world.refusal(endpoint=POOLER, options="-c search_path=elsewhere")
    assert "unsupported startup parameter in options: search_path. Please use unpooled connection" in said
    assert world.directory.wakes == []
    (denied,) = await world.directory.until("connection.denied")
    assert denied.reason == "unsupported_parameter"


async def test_whoever_has_not_proved_who_they_are_hears_nothing_of_parameters(world: GatewayWorld) -> None:
    said = await world.refusal(endpoint=POOLER, options="-c search_path=elsewhere", password="wrong")
    assert "password authentication failed" in said


@pytest.mark.parametrize(
    ("parameters", "which"),
    [
        ({"options": "-c search_path=a"}, " in options: search_path"),
        ({"options": "-csearch_path=a"}, " in options: search_path"),
        ({"options": "--statement_timeout=1"}, " in options: statement_timeout"),
        ({"options": "-B 12"}, " in options: -B 12"),
        ({"search_path": "a"}, ": search_path"),
        ({"replication": "database"}, ": replication"),
        ({"geqo": "off"}, ": geqo"),
    ],
)
def test_unsupported(parameters: dict[str, str], which: str) -> None:
    with pytest.raises(RefusedError, match="^unsupported startup parameter" + which + r"\. Please") as refused:
        check_pooled({"user": "ada", **parameters})
    assert refused.value.sqlstate == "08P01"


def test_supported() -> None:
    names = (
        "database client_encoding DateStyle TimeZone standard_conforming_strings application_name extra_float_digits"
    )
    check_pooled({"user": "ada", **dict.fromkeys(names.split(), "x")})


@pytest.mark.parametrize(("name", "is_one"), [("ep-a-pooler", True), ("EP-A-POOLER", True), ("ep-a", False)])
def test_the_name_of_a_pooler(name: str, is_one: bool) -> None:
    assert is_pooler(name) is is_one


async def test_what_is_asked_through_the_pooler_is_recorded(world: GatewayWorld) -> None:
    world.directory.audit_level = AuditLevel.FULL
    async with await world.connect(endpoint=POOLER) as connection:
        await connection.execute("SELECT 'pooled'")
    assert (await world.directory.until_told("pooled")).endpoint_id == ENDPOINT

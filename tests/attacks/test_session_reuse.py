"""Leaving something behind for the next client of a reused backend, and reaching into it: docs/adr/0003."""

import asyncio
import struct

import pytest

from cloister.base.directory import LookUp
from cloister.edge.gateway import directory, limits, spares, trail
from cloister.protocol.pgwire.frames import message
from cloister.protocol.pgwire.messages import TERMINATE, cancel_request, startup_message
from tests.fix_gateway import PASSWORD, GatewayWorld
from tests.raw_client import RawClient, answer_in_clear

VISITS = limits.REUSE_FROM_PER_S + 3


async def visit(world: GatewayWorld, *queries: str, **parameters: str) -> tuple[bytes, list[list[bytes]]]:
    """Log in, ask, say goodbye: the backend's pid and the answers."""
    client = await RawClient.logged_in(world, **parameters)
    answers = [await client.ask(query) for query in ("SELECT pg_backend_pid()", *queries)]
    await leave(world, client)
    return answers[0][0], answers[1:]


async def leave(world: GatewayWorld, client: RawClient, last_words: bytes = TERMINATE) -> None:
    before = sum(event.action == "connection.closed" for event in world.directory.events)
    client.send(last_words)
    assert await client.rest() == b""
    await client.close()
    await world.directory.until("connection.closed", before + 1)


async def busy(world: GatewayWorld) -> bytes:
    """So many visits that backends are reused now. The pid of the last."""
    pids = [(await visit(world))[0] for _ in range(VISITS)]
    assert len(set(pids)) < len(pids), "nothing is reused: the tests below would show nothing"
    return pids[-1]


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow machine must not make these tests pass by never reusing anything."""
    monkeypatch.setattr(spares, "SPARE_S", 20.0)
    monkeypatch.setattr(trail, "AUDIT_FLUSH_S", 0.002)
    monkeypatch.setattr(spares, "REUSE_BACKEND_S_MAX", 60.0)
    monkeypatch.setattr(spares.Spares, "_is_busy", lambda self, kind, now: len(self._seen.get(kind, ())) >= 5)


async def test_a_reused_session_is_a_clean_one(gateway_world: GatewayWorld) -> None:
    await gateway_world.start()
    await busy(gateway_world)
    look = (
        "SELECT current_setting('work_mem') || coalesce(current_setting('app.secret', true), '') || current_user",
        "SELECT count(*) FROM pg_prepared_statements",
        "SELECT count(*) FROM pg_cursors",
        "SELECT count(*) FROM pg_listening_channels()",
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'",
        "SELECT to_regclass('pg_temp.loot') IS NULL",
        "SELECT pg_is_in_recovery() OR pg_current_xact_id_if_assigned() IS NOT NULL",
    )
    fresh = (await visit(gateway_world, *look))[1]
    pid, _ = await visit(
        gateway_world,
        "SET work_mem = '77MB'", "SET app.secret = 'left behind'", "PREPARE loot AS SELECT 1", "LISTEN loot",
        "SELECT pg_advisory_lock(99)", "CREATE TEMP TABLE loot (n int)",
        "BEGIN", "DECLARE loot CURSOR WITH HOLD FOR SELECT 1", "COMMIT",
    )  # fmt: skip
    next_pid, found = await visit(gateway_world, *look)
    assert next_pid == pid, "not reused: this shows nothing"
    assert found == fresh


async def test_nobody_knows_what_random_gives_the_next_client(gateway_world: GatewayWorld) -> None:
    """DISCARD ALL does not touch the seed."""
    await gateway_world.start()
    await busy(gateway_world)
    pid, (_, foretold) = await visit(gateway_world, "SELECT setseed(0.5)", "SELECT random()")
    next_pid, _ = await visit(gateway_world, "SELECT setseed(0.5)")
    last_pid, (found,) = await visit(gateway_world, "SELECT random()")
    assert pid == next_pid == last_pid, "not reused: this shows nothing"
    assert found != foretold


async def test_where_connections_of_dblink_would_stay_open_nothing_is_given_on(gateway_world: GatewayWorld) -> None:
    """They are the last client's, opened with what it knew, and DISCARD ALL does not close them."""
    await gateway_world.start()
    await busy(gateway_world)
    pids = [(await visit(gateway_world, database="linked"))[0] for _ in range(VISITS)]
    assert len(set(pids)) == VISITS


async def test_never_across_roles_databases_or_parameters(gateway_world: GatewayWorld) -> None:
    gateway_world.directory.set_password("bob", PASSWORD)
    await gateway_world.start()
    pids: dict[bytes, set[str]] = {}
    kinds: list[dict[str, str]] = [{}, {"role": "bob"}, {"application_name": "x"}, {"options": "-c work_mem=1MB"}]
    for parameters in kinds:
        for _ in range(VISITS):
            pid, _ = await visit(gateway_world, **parameters)
            pids.setdefault(pid, set()).add(str(parameters))
    assert all(len(served) == 1 for served in pids.values())


@pytest.mark.parametrize("queries", [("BEGIN",), ("BEGIN", "SELECT 1"), ("SET search_path = pg_temp",)])
async def test_an_open_transaction_or_a_changed_report_is_not_given_on(
    gateway_world: GatewayWorld, queries: tuple[str, ...]
) -> None:
    await gateway_world.start()
    await busy(gateway_world)
    pid, _ = await visit(gateway_world, *queries)
    assert (await visit(gateway_world))[0] != pid


def query(text: str) -> bytes:
    return message(b"Q", text.encode() + b"\0")


@pytest.mark.parametrize(
    "last_words",
    [
        query("SELECT 1") + TERMINATE,
        query("SELECT pg_sleep(0.2)"),
        query("SELECT 'x'")[:-3],
        b"Q" + struct.pack(">I", 4 + 11 + 12) + b"SELECT 'a' --",
        message(b"P", b"loot\0SELECT 1\0\0\0"),
        query("COPY (SELECT 1) TO STDOUT; DISCARD ALL"),
    ],
)
async def test_what_is_half_sent_or_unanswered_is_not_given_on(gateway_world: GatewayWorld, last_words: bytes) -> None:
    """The rest of a message, or an answer still to come, would be the next client's."""
    await gateway_world.start()
    await busy(gateway_world)
    client = await RawClient.logged_in(gateway_world)
    pid = (await client.ask("SELECT pg_backend_pid()"))[0]
    client.send(last_words)
    await client.writer.drain()
    if not last_words.endswith(TERMINATE):
        client.send(TERMINATE)
    before = sum(event.action == "connection.closed" for event in gateway_world.directory.events)
    await client.close()
    await gateway_world.directory.until("connection.closed", before + 1)
    for _ in range(3):
        next_pid, answers = await visit(gateway_world, "SELECT 'mine'")
        assert next_pid != pid
        assert answers == [[b"mine"]]


async def test_a_pipe_that_still_holds_something_is_not_clean(gateway_world: GatewayWorld) -> None:
    """The compute's last bytes look idle, and more is to come: the first of two pipelined queries was answered."""
    await gateway_world.start()
    await busy(gateway_world)
    client = await RawClient.logged_in(gateway_world)
    pid = (await client.ask("SELECT pg_backend_pid()"))[0]
    client.send(query("SELECT 1") + query("SELECT pg_sleep(0.3)") + query("DISCARD ALL"))
    await client.until(b"Z")  # of the first
    client.send(TERMINATE)
    await client.close()
    for _ in range(3):
        next_pid, answers = await visit(gateway_world, "SELECT 'mine'")
        assert next_pid != pid
        assert answers == [[b"mine"]]


async def test_a_notification_in_the_pipe_makes_it_unclean(gateway_world: GatewayWorld) -> None:
    await gateway_world.start()
    await busy(gateway_world)
    listener = await RawClient.logged_in(gateway_world)
    pid = (await listener.ask("SELECT pg_backend_pid()"))[0]
    await listener.ask("LISTEN loot")
    other = await RawClient.logged_in(gateway_world, application_name="other")
    await other.ask("NOTIFY loot, 'for the next one'")
    await listener.until(b"A")
    await leave(gateway_world, listener)
    await leave(gateway_world, other)
    assert (await visit(gateway_world))[0] != pid


async def with_cancel(world: GatewayWorld) -> tuple[RawClient, bytes, bytes]:
    """A client, the pid of its backend, and the request that cancels what it asks."""
    client = await RawClient.open(world)
    client.send(startup_message({"user": "ada", "database": "app"}))
    assert await client.prove(PASSWORD)
    (key,) = [body for kind, body in await client.until(b"Z") if kind == b"K"]
    pid = (await client.ask("SELECT pg_backend_pid()"))[0]
    return client, pid, cancel_request(int.from_bytes(key[:4], "big"), key[4:])


async def test_a_late_cancel_does_not_meet_the_next_client(gateway_world: GatewayWorld) -> None:
    await gateway_world.start()
    await busy(gateway_world)
    client, pid, cancel = await with_cancel(gateway_world)
    await answer_in_clear(gateway_world, cancel)
    await leave(gateway_world, client)
    assert (await visit(gateway_world))[0] != pid


async def test_a_cancel_that_is_still_being_looked_at_does_not_meet_the_next_client(
    gateway_world: GatewayWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether its address may cancel is asked for; meanwhile the client that it is for says goodbye."""
    await gateway_world.start()
    await busy(gateway_world)
    client, pid, cancel = await with_cancel(gateway_world)
    with monkeypatch.context() as nothing_is_remembered:
        nothing_is_remembered.setattr(directory, "ROUTE_TTL_RUNNING_S", 0.0)
        nothing_is_remembered.setattr(directory, "ROUTE_STALE_S", 0.0)
        gateway_world.directory.asked.clear()
        gateway_world.directory.may_look_up.clear()
        cancelling = asyncio.create_task(answer_in_clear(gateway_world, cancel))
        await gateway_world.directory.until_asked(LookUp)
        await leave(gateway_world, client)
        gateway_world.directory.may_look_up.set()
        await cancelling
    assert (await visit(gateway_world))[0] != pid


async def test_rare_clients_always_get_a_fresh_backend(
    gateway_world: GatewayWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    await gateway_world.start()
    pids = []
    for _ in range(4):
        pids.append((await visit(gateway_world))[0])
        await asyncio.sleep(0.26)
    assert len(set(pids)) == len(pids)


def test_the_cleaning_word_is_never_the_same() -> None:
    query_bytes, answer = spares.cleaning("a" * 32)
    assert query_bytes.count(b"a" * 32) == 1
    assert answer.count(b"a" * 32) == 1
    assert answer != spares.cleaning("b" * 32)[1]

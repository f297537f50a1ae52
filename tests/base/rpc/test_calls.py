"""Calls over real sockets: who is let in, what comes back, and what a caller learns when the other end is gone."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest

from cloister.base.errors import BadRequestError, BusyError, InternalError, UnavailableError
from cloister.base.identities import Service
from cloister.base.rpc import Client, Command, Connection, Server
from cloister.base.rpc.wire import LENGTH


class Add(Command[int], frozen=True, kw_only=True):
    reply: ClassVar[Any] = int
    left: int
    right: int


class Break(Command[int], frozen=True, kw_only=True):
    reply: ClassVar[Any] = int
    how: str


class Stay(Command[int], frozen=True, kw_only=True):
    reply: ClassVar[Any] = int


class News(msgspec.Struct, frozen=True, tag=True):
    text: str


class Desk:
    """A server whose handler can be watched."""

    def __init__(self, path: Path, *, allowed: frozenset[Service] = frozenset({Service.API})) -> None:
        self.is_asked = asyncio.Event()
        self.server = Server(path, Add | Break | Stay, self.answer, allowed=allowed)

    async def answer(self, connection: Connection, command: Add | Break | Stay) -> int:
        self.is_asked.set()
        match command:
            case Add():
                return command.left + command.right
            case Break(how="busy"):
                raise BusyError("detail for the log", public="ask again")
            case Break():
                raise ValueError("password=hunter2")
            case Stay():
                await asyncio.Event().wait()
                return 0


@pytest.fixture(autouse=True)
def caller_is_the_api(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloister.base.rpc.server.service_of_uid", lambda uid: Service.API)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    desk = Desk(tmp_path / "desk.sock")
    await desk.server.start()
    yield desk
    await desk.server.stop()


@pytest.fixture
async def client(tmp_path: Path, desk: Desk) -> AsyncIterator[Client]:
    client = Client(tmp_path / "desk.sock", connect_patience_s=0.2)
    yield client
    await client.close()


async def test_many_calls_at_once_each_get_their_own_answer(client: Client) -> None:
    answers = await asyncio.gather(*(client.call(Add(left=n, right=1)) for n in range(100)))
    assert answers == list(range(1, 101))


async def test_a_slow_call_does_not_hold_up_another(client: Client, desk: Desk) -> None:
    slow = asyncio.create_task(client.call(Stay()))
    await desk.is_asked.wait()
    assert await client.call(Add(left=1, right=1)) == 2
    slow.cancel()
    await asyncio.gather(slow, return_exceptions=True)


async def test_an_error_arrives_as_what_it_was(client: Client) -> None:
    with pytest.raises(BusyError) as raised:
        await client.call(Break(how="busy"))
    assert (str(raised.value), raised.value.public) == ("detail for the log", "ask again")


async def test_an_unexpected_error_stays_in_the_log_of_its_process(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR), pytest.raises(InternalError) as raised:
        await client.call(Break(how="badly"))
    assert "hunter2" not in str(raised.value) + raised.value.public
    assert "hunter2" in caplog.text
    assert await client.call(Add(left=1, right=1)) == 2, "the connection goes on"


async def test_an_unknown_command_is_refused_and_the_connection_goes_on(client: Client) -> None:
    class Unknown(Command[int], frozen=True):
        reply: ClassVar[Any] = int

    with pytest.raises(BadRequestError):
        await client.call(Unknown())
    assert await client.call(Add(left=1, right=1)) == 2


async def test_no_answer_in_time_is_unavailable(client: Client) -> None:
    with pytest.raises(UnavailableError):
        await client.call(Stay(), timeout_s=0.01)


async def test_a_call_under_way_learns_that_the_server_went_away(client: Client, desk: Desk) -> None:
    waiting = asyncio.create_task(client.call(Stay()))
    await desk.is_asked.wait()
    await desk.server.stop()
    with pytest.raises(UnavailableError):
        await asyncio.wait_for(waiting, 5)


async def test_a_server_that_comes_back_is_found(client: Client, desk: Desk) -> None:
    assert await client.call(Add(left=1, right=1)) == 2
    await desk.server.stop()
    with pytest.raises(UnavailableError):
        await client.call(Add(left=1, right=1))
    await desk.server.start()
    assert await client.call(Add(left=1, right=1)) == 2


@pytest.mark.parametrize("error", [PermissionError(13, "denied"), OSError(24, "too many open files")])
async def test_a_caller_that_may_not_connect_for_a_moment_asks_again(
    client: Client, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    """It keeps its connection for as long as its process lives: whatever were raised there would end that."""
    errors = [error, error]

    async def connect(path: str) -> Any:
        if errors:
            raise errors.pop()
        return await connect_really(path)

    connect_really = asyncio.open_unix_connection
    monkeypatch.setattr(asyncio, "open_unix_connection", connect)
    assert await client.call(Add(left=1, right=2)) == 3
    assert errors == []


async def test_nobody_waits_for_a_server_that_is_not_there_longer_because_others_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each had its own patience when its turn came: a hundred callers waited for a hundred times as long."""
    client = Client(tmp_path / "desk.sock", connect_patience_s=0.2)
    attempts: Counter[str] = Counter()

    async def connect(_path: str) -> Any:
        task = asyncio.current_task()
        assert task is not None
        attempts[task.get_name()] += 1
        raise ConnectionRefusedError

    monkeypatch.setattr(asyncio, "open_unix_connection", connect)
    calls = [asyncio.create_task(client.call(Add(left=1, right=2)), name=name) for name in ("first", "second")]
    for call in calls:
        with pytest.raises(UnavailableError):
            await call
    assert 0 < attempts["second"] < attempts["first"]


async def test_events_reach_the_one_they_are_sent_to(tmp_path: Path, desk: Desk) -> None:
    heard: asyncio.Queue[News] = asyncio.Queue()
    client = Client(tmp_path / "desk.sock", events=News, on_event=heard.put_nowait)
    await client.call(Add(left=1, right=1))
    (connection,) = desk.server.connections
    connection.send_event(News("hello"))
    assert await asyncio.wait_for(heard.get(), 5) == News("hello")
    await client.close()
    await asyncio.wait_for(connection.closed.wait(), 5)


@pytest.mark.parametrize("service", [Service.GATEWAY, None])
async def test_a_caller_that_is_not_allowed_is_not_heard(
    tmp_path: Path, desk: Desk, monkeypatch: pytest.MonkeyPatch, service: Service | None
) -> None:
    monkeypatch.setattr("cloister.base.rpc.server.service_of_uid", lambda uid: service)
    client = Client(tmp_path / "desk.sock")
    with pytest.raises(UnavailableError):
        await client.call(Add(left=1, right=1), timeout_s=5)
    assert not desk.is_asked.is_set()
    await client.close()


@pytest.mark.parametrize("bytes_sent", [LENGTH.pack(2**32 - 1), LENGTH.pack(3) + b"\xc1\xc1\xc1", b"\0\0"])
async def test_garbage_ends_its_connection_and_no_other(
    tmp_path: Path, desk: Desk, client: Client, bytes_sent: bytes
) -> None:
    assert await client.call(Add(left=1, right=1)) == 2
    reader, writer = await asyncio.open_unix_connection(str(tmp_path / "desk.sock"))
    writer.write(bytes_sent)
    writer.write_eof()
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()
    await writer.wait_closed()
    assert await client.call(Add(left=1, right=1)) == 2

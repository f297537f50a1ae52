"""A process of the platform that was taken over, against the memory of the process that it may call."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest

from cloister.base.identities import Service
from cloister.base.rpc import Command, Connection, Server, server
from cloister.base.rpc.wire import Request, frame


class Ask(Command[str], frozen=True, kw_only=True):
    reply: ClassVar[Any] = str
    text: str


CALL = frame(msgspec.msgpack.encode(Request(1, msgspec.Raw(msgspec.msgpack.encode(Ask(text="x" * 1000))))))


class Desk:
    """A server that answers when it may."""

    def __init__(self, path: Path) -> None:
        self.open_calls = 0
        self.called_ten_times = asyncio.Event()
        self.connected: asyncio.Queue[Connection] = asyncio.Queue()
        self.may_answer = asyncio.Event()
        self.server = Server(
            path, Ask, self._answer, allowed=frozenset({Service.GATEWAY}), on_connect=self.connected.put_nowait
        )

    async def _answer(self, _connection: Connection, command: Ask) -> str:
        self.open_calls += 1
        if self.open_calls == 10:
            self.called_ten_times.set()
        await self.may_answer.wait()
        return command.text * 100


@asynccontextmanager
async def desk(path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    monkeypatch.setattr(server, "service_of_uid", lambda uid: Service.GATEWAY if uid == os.getuid() else None)
    it = Desk(path)
    await it.server.start()
    try:
        yield it
    finally:
        await it.server.stop()


@pytest.mark.parametrize("service", [*(it for it in Service if it is not Service.GATEWAY), None])
async def test_who_may_not_call_is_not_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, service: Service | None
) -> None:
    """Any other process of ours, or of the host: it gets through to no handler, holds no place, and is told nothing."""
    async with desk(tmp_path / "sock", monkeypatch) as it:
        monkeypatch.setattr(server, "service_of_uid", lambda uid: service if uid == os.getuid() else Service.GATEWAY)
        it.may_answer.set()
        reader, writer = await asyncio.open_unix_connection(tmp_path / "sock")
        writer.write(CALL * 10)
        answer = b""
        with contextlib.suppress(ConnectionError):  # it was closed with our calls unread
            async with asyncio.timeout(10):
                answer = await reader.read(1)
        assert answer == b""
        assert it.open_calls == 0
        assert it.connected.empty()
        assert not it.server.connections
        writer.close()


async def test_calls_that_are_not_answered_yet_are_limited_and_all_answered_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "OPEN_CALLS_BYTES_MAX", 10 * (server._CALL_BYTES + len(CALL)))
    async with desk(tmp_path / "sock", monkeypatch) as it:
        reader, writer = await asyncio.open_unix_connection(tmp_path / "sock")
        writer.write(CALL * 100)
        await it.called_ten_times.wait()
        for _ in range(100):  # it has every occasion to take more
            await asyncio.sleep(0)
        assert it.open_calls == 10
        it.may_answer.set()
        for _ in range(100):
            await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big"))
        assert it.open_calls == 100
        writer.close()


async def test_who_does_not_read_its_answers_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "UNREAD_BYTES_MAX", 1_000_000)
    async with desk(tmp_path / "sock", monkeypatch) as it:
        it.may_answer.set()
        reader, writer = await asyncio.open_unix_connection(tmp_path / "sock", limit=1000)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(CALL * 100)
        connection = await it.connected.get()
        async with asyncio.timeout(10):
            await connection.closed.wait()
        assert reader.at_eof() is False
        writer.transport.abort()


async def test_connections_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CONNECTIONS_MAX", 3)
    async with desk(tmp_path / "sock", monkeypatch) as it:
        held = [await asyncio.open_unix_connection(tmp_path / "sock") for _ in range(3)]
        for _ in held:
            await it.connected.get()
        reader, writer = await asyncio.open_unix_connection(tmp_path / "sock")
        assert await reader.read() == b""
        assert len(it.server.connections) == 3
        for _, each in [*held, (reader, writer)]:
            each.close()

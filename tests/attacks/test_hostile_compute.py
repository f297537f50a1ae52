"""A tenant's server against the processes that serve every tenant: what it says, and how much of it.

The tenant has taken over its server, and answers as it likes.
"""

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cloister.base.errors import UnavailableError
from cloister.base.ids import EndpointId
from cloister.control.computes import sessions
from cloister.control.computes.idle import Activity
from cloister.control.computes.sessions import Running, TenantServer, open_server
from cloister.control.roles.catalog import understood_rows
from cloister.control.roles.server import DatabaseState, RoleState
from cloister.edge.gateway.compute import send_cancel
from tests.control.land import a_land
from tests.fix_database import DatabaseAs

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


def message(kind: bytes, body: bytes = b"") -> bytes:
    return kind + struct.pack(">I", len(body) + 4) + body


LOGIN = message(b"R", struct.pack(">I", 0)) + message(b"S", b"server_version\x0018.0\0")
READY = message(b"Z", b"I")


@asynccontextmanager
async def hostile(directory: Path, log_in: Answer, answer: Answer | None = None) -> AsyncIterator[Running]:
    """A server of the tenant's own making: `log_in` follows the startup packet, `answer` every later message."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            (length,) = struct.unpack(">I", await reader.readexactly(4))
            await reader.readexactly(length - 4)
            await log_in(writer)
            while answer is not None and await reader.read(65536):
                await answer(writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_unix_server(serve, str(directory / ".s.PGSQL.5432"))
    try:
        yield Running(EndpointId("ep-hostile-one-00000000"), 1, str(directory), 18)
    finally:
        server.close()


async def test_a_login_that_never_ends_is_cut_off_before_it_fills_our_memory(tmp_path: Path) -> None:
    sent = 0

    async def flood(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        # One message of a gigabyte, announced and begun.
        writer.write(message(b"R", struct.pack(">I", 0)) + b"S" + struct.pack(">I", 1 << 30))
        while sent < 16 * sessions.ANSWER_BYTES_MAX:
            writer.write(b"x" * 65536)
            await writer.drain()
            sent += 65536

    async with hostile(tmp_path, flood) as running:
        with pytest.raises(UnavailableError):
            await open_server(running)
    assert sent < 2 * sessions.ANSWER_BYTES_MAX


async def test_a_cancel_request_is_not_answered_with_a_flood(tmp_path: Path) -> None:
    sent = 0

    async def flood(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        while sent < 64 * 1024 * 1024:
            writer.write(b"x" * 65536)
            await writer.drain()
            sent += 65536

    async with hostile(tmp_path, flood) as running:
        await send_cancel(running.socket_dir, 1, b"1234")
    assert sent < 4 * 1024 * 1024


async def log_in(writer: asyncio.StreamWriter) -> None:
    writer.write(LOGIN + READY)


def row_of_text(*texts: bytes) -> bytes:
    columns = b"".join(b"c\0" + struct.pack(">IhIhih", 0, 0, 25, -1, -1, 0) for _ in texts)
    values = b"".join(struct.pack(">I", len(text)) + text for text in texts)
    count = struct.pack(">h", len(texts))
    return (
        message(b"1")
        + message(b"t", count[:0] + b"\0\0")
        + message(b"T", count + columns)
        + message(b"D", count + values)
    )


@pytest.mark.parametrize(
    "said",
    [
        message(b"1") + message(b"t", b"\0\0") + message(b"n") + READY,  # no columns, no rows
        row_of_text(b"\xff\xfe") + READY,  # not the text it says it is
        message(b"T", b"\x7f\xff") + READY,  # columns without end
        message(b"D", b"\0\1\x7f\xff\xff\xff") + READY,  # a value longer than its message
        message(b"?" * 1, b"?") + READY,
        READY,
    ],
)
async def test_whatever_it_answers_is_its_own_trouble(
    said: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """UnavailableError is what every caller reckons with; anything else would end work that is done for all tenants."""
    for module in ("cloister.control.computes.sessions", "cloister.control.roles.catalog"):
        monkeypatch.setattr(f"{module}.QUERY_TIMEOUT_S", 0.2)
    monkeypatch.setattr(sessions, "CLOSE_TIMEOUT_S", 0.05)

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(said)

    async with hostile(tmp_path, log_in, answer) as running:
        for ask in (TenantServer.activity, TenantServer.roles, TenantServer.databases):
            server = await open_server(running)
            assert isinstance(server, TenantServer)
            with pytest.raises(UnavailableError):
                await ask(server)
            await server.close()


@pytest.mark.parametrize(
    ("rows", "type_"),
    [
        ([{}], Activity),
        ([{"name": "a"}], RoleState),
        ([{"name": "a", "verifier": 1, "can_login": True, "valid_until": None}], RoleState),
        ([{"name": "a", "verifier": None, "can_login": "yes", "valid_until": None}], RoleState),
        ([{"name": b"a", "owner_name": None}], DatabaseState),
        ([None], Activity),
    ],
)
def test_rows_are_what_was_asked_for_or_nothing(rows: list[Any], type_: type[Any]) -> None:
    with pytest.raises(UnavailableError):
        understood_rows(rows, type_)


async def test_one_that_cannot_be_looked_at_does_not_keep_the_others_awake(
    database_as: DatabaseAs, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_land(await database_as("cloister_api")) as land:
        first, second = await land.project(name="first"), await land.project(name="second")
        reconciler = land.plane.reconciler
        looked_at = []

        async def look(endpoint: Any) -> None:
            if endpoint.id == first.endpoint.id:
                raise TypeError("what a hostile server's answer did")
            await asyncio.sleep(0)
            looked_at.append(endpoint.id)

        monkeypatch.setattr(reconciler, "_look", look)
        await reconciler.look_at_all()
        assert looked_at == [second.endpoint.id]

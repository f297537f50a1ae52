"""`sql`: queries a second over HTTP/1.1, HTTP/2 and WebSocket against the gateway's own port, the same client code in the same run.

Each client keeps its connection and sends `SELECT 1` as bytes that were made beforehand, so that little but the server's
work and TLS is measured. Over TCP and WebSocket it is a simple query in an open session; over HTTP each request is
checked, gets a session of the compute, and gives it back cleaned.
"""

import asyncio
import base64
import json
import os
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import Final

import uvloop
from h2.settings import SettingCodes
from hpack import Encoder, NeverIndexedHeaderTuple
from hyperframe.frame import DataFrame, HeadersFrame, SettingsFrame, WindowUpdateFrame

from benchmarks.measure import Result
from cloister.protocol.pgwire.frames import message
from cloister.protocol.pgwire.messages import READY_FOR_QUERY_IDLE, startup_message
from tests.instance import Instance, Tenant

_QUERY: Final = message(b"Q", b"SELECT 1\0")
_PATIENCE_S: Final = 60.0

Ask = Callable[[], Awaitable[None]]
Open = Callable[[Tenant, int], Awaitable[tuple[Ask, asyncio.StreamWriter]]]


def run(rounds: int = 5, seconds: int = 4) -> Result:
    result = Result("sql")
    doors: dict[str, Open] = {"TCP": _tcp, "WebSocket": _websocket, "HTTP": _http, "HTTP/2": _http2}
    with Instance() as instance:
        tenant = instance.create_project("sql")
        tenant.psql("SELECT 1")
        for clients in (1, 8):
            rates: dict[str, list[float]] = {name: [] for name in doors}
            for _ in range(rounds):
                for name, door in doors.items():
                    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                        rates[name].append(
                            runner.run(_rate(door, tenant, instance.https_port, clients=clients, seconds=seconds))
                        )
            series = {name: result.add(f"{name}, {clients} clients", rate, "queries/s") for name, rate in rates.items()}
            for name in ("WebSocket", "HTTP", "HTTP/2"):
                result.ratio(f"{name} ÷ TCP, {clients} clients", series[name], series["TCP"])
    return result


async def _rate(door: Open, tenant: Tenant, https_port: int, *, clients: int, seconds: float) -> float:
    opened = [await door(tenant, https_port) for _ in range(clients)]
    started = time.perf_counter()

    async def keep_asking(ask: Ask) -> int:
        count = 0
        while time.perf_counter() - started < seconds:
            await ask()
            count += 1
        return count

    async with asyncio.timeout(_PATIENCE_S):
        counts = await asyncio.gather(*(keep_asking(ask) for ask, _ in opened))
    elapsed = time.perf_counter() - started
    for _, writer in opened:
        writer.transport.abort()
    return sum(counts) / elapsed


def _tls(tenant: Tenant, *protocols: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(tenant.ca_file))
    context.check_hostname = False  # TCP names the endpoint in the password: it is the shortest way in
    context.set_alpn_protocols(protocols)
    return context


def _first_words(tenant: Tenant, password: str) -> bytes:
    return (
        startup_message({"user": tenant.role, "database": tenant.database})
        + message(b"p", password.encode() + b"\0")
        + _QUERY
    )


async def _tcp(tenant: Tenant, _https_port: int) -> tuple[Ask, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", tenant.port, ssl=_tls(tenant, "postgresql"), server_hostname=""
    )
    writer.write(_first_words(tenant, f"endpoint={tenant.endpoint_id};{tenant.password}"))
    await reader.readuntil(READY_FOR_QUERY_IDLE)
    await reader.readuntil(READY_FOR_QUERY_IDLE)

    async def ask() -> None:
        writer.write(_QUERY)
        await reader.readuntil(READY_FOR_QUERY_IDLE)

    return ask, writer


async def _websocket(tenant: Tenant, https_port: int) -> tuple[Ask, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", https_port, ssl=_tls(tenant, "http/1.1"), server_hostname=tenant.host
    )
    key = base64.b64encode(os.urandom(16)).decode()
    writer.write(
        f"GET /v2 HTTP/1.1\r\nHost: {tenant.host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
    )
    await reader.readuntil(b"\r\n\r\n")
    writer.write(frame(_first_words(tenant, tenant.password)))
    await reader.readuntil(READY_FOR_QUERY_IDLE)
    await reader.readuntil(READY_FOR_QUERY_IDLE)
    framed = frame(_QUERY)

    async def ask() -> None:
        writer.write(framed)
        await reader.readuntil(READY_FOR_QUERY_IDLE)

    return ask, writer


def frame(payload: bytes) -> bytes:
    """One masked binary frame; the mask is nothing, which is the same work for the server."""
    length = bytes((0x80 | len(payload),)) if len(payload) < 126 else b"\xfe" + len(payload).to_bytes(2, "big")
    return b"\x82" + length + b"\0\0\0\0" + payload


async def _http(tenant: Tenant, https_port: int) -> tuple[Ask, asyncio.StreamWriter]:
    host = f"api.{tenant.host.partition('.')[2]}"
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", https_port, ssl=_tls(tenant, "http/1.1"), server_hostname=host
    )
    body = json.dumps({"query": "SELECT 1", "params": []}).encode()
    request = (
        f"POST /sql HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\nNeon-Raw-Text-Output: true\r\n"
        f"Neon-Connection-String: postgresql://{tenant.role}:{tenant.password}@{tenant.host}/{tenant.database}\r\n"
        "Neon-Array-Mode: true\r\n\r\n"
    ).encode() + body

    async def ask() -> None:
        writer.write(request)
        await reader.readuntil(b'"rows":[["1"]]}')

    await ask()
    return ask, writer


async def _http2(tenant: Tenant, https_port: int) -> tuple[Ask, asyncio.StreamWriter]:
    """One stream after the other. A head that the table of neither side remembers is the same bytes each time."""
    host = f"api.{tenant.host.partition('.')[2]}"
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", https_port, ssl=_tls(tenant, "h2"), server_hostname=host
    )
    connection = f"postgresql://{tenant.role}:{tenant.password}@{tenant.host}/{tenant.database}"
    said = {
        ":method": "POST", ":scheme": "https", ":path": "/sql", ":authority": host, "neon-raw-text-output": "true",
        "neon-connection-string": connection, "neon-array-mode": "true",
    }  # fmt: skip
    head = HeadersFrame(1, Encoder().encode([NeverIndexedHeaderTuple(*each) for each in said.items()]))
    head.flags.add("END_HEADERS")
    body = DataFrame(1, json.dumps({"query": "SELECT 1", "params": []}).encode(), flags=["END_STREAM"])
    room = WindowUpdateFrame(0, window_increment=2**30)  # for all answers of a run
    settings = SettingsFrame(0, settings={SettingCodes.ENABLE_PUSH: 0})
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings.serialize() + room.serialize())

    async def ask() -> None:
        writer.write(head.serialize() + body.serialize())
        head.stream_id = body.stream_id = head.stream_id + 2
        await reader.readuntil(b'"rows":[["1"]]}')

    await ask()
    return ask, writer

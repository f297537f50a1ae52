"""`refusals`: how long it takes to be told no, by who is wrong about what: the password, the role, or the endpoint.

What differs here is what a stranger could tell apart by time. Texts, statuses and the work that is done are compared by tests
(`tests/attacks/test_enumeration.py`, `test_sql_over_https.py`); this is the rest. The three are asked in turns, in an order that chance makes, over PostgreSQL's
port, over HTTP and over WebSocket, each time by a new connection; measured is from the first word after TLS to the last of the answer.
"""

import base64
import os
import random
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import closing
from typing import Final
from urllib.parse import quote

import psycopg

from benchmarks.measure import Result
from benchmarks.sql import frame
from cloister.protocol.pgwire.frames import message
from cloister.protocol.pgwire.messages import startup_message
from tests.instance import Instance, Tenant

WRONG: Final = "npg_wrong_but_as_long_1"
NOBODY: Final = "ghost"
NOWHERE: Final = "ep-not-there-00000000"

Refused = Callable[[Instance, Tenant, str, str], float]


def run(n: int = 30) -> Result:
    """More tries than that of one role from one address are slowed down, and would measure that."""
    result = Result("refusals")
    doors: dict[str, Refused] = {"TCP": _tcp, "HTTP": _http, "WebSocket": _websocket}
    with Instance() as instance:
        tenant = instance.create_project("refusals")
        tenant.psql("SELECT 1")
        cases = {
            "password": (tenant.role, tenant.endpoint_id),
            "role": (NOBODY, tenant.endpoint_id),
            "endpoint": (tenant.role, NOWHERE),
        }
        for door, refused in doors.items():
            taken: dict[str, list[float]] = {name: [] for name in cases}
            for _ in range(n):
                for name, (role, endpoint) in random.sample(list(cases.items()), k=len(cases)):
                    taken[name].append(refused(instance, tenant, role, endpoint) * 1000)
            series = {name: result.add(f"{door}, wrong {name}", values) for name, values in taken.items()}
            for name in ("role", "endpoint"):
                result.ratio(f"{door}: wrong {name} ÷ wrong password", series[name], series["password"])
    return result


def _tcp(_instance: Instance, tenant: Tenant, role: str, endpoint: str) -> float:
    host = f"{endpoint}.{tenant.host.partition('.')[2]}"
    started = time.perf_counter()
    try:
        psycopg.connect(
            host=host, hostaddr="127.0.0.1", port=tenant.port, user=role, password=WRONG, dbname=tenant.database,
            sslmode="verify-full", sslrootcert=str(tenant.ca_file), channel_binding="require",
        )  # fmt: skip
    except psycopg.OperationalError as error:
        if "password authentication failed" not in str(error):
            raise
        return time.perf_counter() - started
    raise RuntimeError("it got in")


def _http(instance: Instance, tenant: Tenant, role: str, endpoint: str) -> float:
    domain = tenant.host.partition(".")[2]
    body = b'{"query": "SELECT 1"}'
    string = f"postgresql://{quote(role)}:{WRONG}@{endpoint}.{domain}/{tenant.database}"
    head = (
        f"POST /sql HTTP/1.1\r\nHost: api.{domain}\r\nContent-Length: {len(body)}\r\n"
        f"Neon-Connection-String: {string}\r\n\r\n"
    )
    with _secured(instance, tenant, f"api.{domain}") as line:
        started = time.perf_counter()
        line.sendall(head.encode() + body)
        return _until(line, b"password authentication failed", started)


def _websocket(instance: Instance, tenant: Tenant, role: str, endpoint: str) -> float:
    host = f"{endpoint}.{tenant.host.partition('.')[2]}"
    key = base64.b64encode(os.urandom(16)).decode()
    words = startup_message({"user": role, "database": tenant.database}) + message(b"p", WRONG.encode() + b"\0")
    with _secured(instance, tenant, host) as line:
        line.sendall(
            f"GET /v2 HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        _until(line, b"\r\n\r\n", 0)
        started = time.perf_counter()
        line.sendall(frame(words))
        return _until(line, b"password authentication failed", started)


def _secured(instance: Instance, tenant: Tenant, name: str) -> "closing[ssl.SSLSocket]":
    context = ssl.create_default_context(cafile=str(tenant.ca_file))
    line = socket.create_connection(("127.0.0.1", instance.https_port), timeout=30)
    # As clients do; else it is the kernel's pauses that are measured.
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return closing(context.wrap_socket(line, server_hostname=name))


def _until(line: ssl.SSLSocket, words: bytes, started: float) -> float:
    said = b""
    while words not in said:
        if not (more := line.recv(65_536)):
            raise RuntimeError(f"another answer: {said[-300:]!r}")
        said += more
    return time.perf_counter() - started

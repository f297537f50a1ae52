"""One HTTPS client of ours, from TLS to goodbye: a request after the other, or a WebSocket.

The order is the security of it, and that of `gateway/session`:

    (1) TLS, counted; the `Host` must be the name that TLS was asked for
    (2) the head is read, with limits: who, where, which password
    (3) the route; the IP allowlist; attempts on the endpoint, failures of this role
    (4) the password against the stored verifier, a mock where there is none; or a token (`tokens`)
    -- only now is a body read, and only now may anything be kept or woken --
    (5) the body; then disabled? how many? frozen? wake, log in, ask
    (6) recorded as opened with the connection's first query, as closed with its end

Requests of one client on one connection are to it what queries are to a session on port 5432: one visit in the audit, one
attempt. The password is asked for again with each, and the address and the verifier are looked at again.
"""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import h11

from cloister.base.errors import CloisterError
from cloister.base.ipallow import IpAddress
from cloister.edge.gateway import errors
from cloister.edge.gateway.admission import network_of
from cloister.edge.gateway.compute import as_refusal, send_cancel
from cloister.edge.gateway.errors import ClientLeftError, RefusedError
from cloister.edge.gateway.limits import WRITE_BUFFER_HIGH_BYTES
from cloister.edge.gateway.session import Session
from cloister.edge.gateway.shared import Gateway
from cloister.edge.gateway.visit import Visit
from cloister.edge.gateway.wire import Tunnel, Wire
from cloister.edge.sql import answers, limits
from cloister.edge.sql.answers import AnswerTooLargeError
from cloister.edge.sql.http1 import Http1
from cloister.edge.sql.query import Query, QueryError
from cloister.edge.sql.request import Head, RequestError, Work
from cloister.edge.sql.tokens import vouch
from cloister.edge.sql.websocket import FramedTunnel, answer_handshake
from cloister.protocol.pgwire.backend import BackendError
from cloister.protocol.pgwire.frames import ProtocolViolationError

if TYPE_CHECKING:
    from cloister.edge.gateway.certificates import ServerTls, TlsIdentity
    from cloister.edge.sql.memory import Memory, Share
    from cloister.edge.sql.proofs import Proofs

log = logging.getLogger(__name__)

_BATCH_HEADERS: Final = ("neon-batch-isolation-level", "neon-batch-read-only", "neon-batch-deferrable")
_OURS: Final = ("neon-connection-string", "neon-raw-text-output", "neon-array-mode", *_BATCH_HEADERS)

_PREFLIGHT: Final = (
    ("access-control-allow-methods", "POST, OPTIONS"),
    ("access-control-allow-headers", f"authorization, content-type, neon-pool-opt-in, {', '.join(_OURS)}"),
    ("access-control-max-age", "86400"),
)

_STATUS_OF: Final = {
    "rate_limited": 429, "too_many_connections": 503, "audit_unavailable": 503, "compute_unavailable": 503,
    "compute_closed": 503, "out_of_memory": 503, "not_served": 503, "gateway_stopped": 503,
}  # fmt: skip
# Other refusals are 400: the driver reads PostgreSQL's fields only there.


@dataclass(frozen=True, kw_only=True)
class Sql:
    """What the connections of one worker's front share."""

    gateway: Gateway
    proofs: "Proofs"
    memory: "Memory"


class HttpConnection:
    """`run` is the whole of it, and never raises."""

    def __init__(self, sql: Sql, wire: Wire, address: IpAddress) -> None:
        self._sql = sql
        self._gateway = sql.gateway
        self._wire = wire
        self._http = Http1(wire)
        self._address = address
        self._network = network_of(address)
        self._tls: ServerTls | None = None
        self._visit: Visit | None = None
        """Who has proved to be at the other end."""
        self._head: Head | None = None
        """What they said of themselves when they did."""
        self._opened_at: float | None = None
        self._bytes_in = 0
        self._bytes_out = 0
        self._loop = asyncio.get_running_loop()
        self._is_idle = True

    def abort(self) -> None:
        """It must go for another."""
        self._wire.abort()

    def stop(self) -> None:
        """The worker ends: after the request under way, if there is one."""
        self._http.is_closing = True
        if self._is_idle:
            self._wire.close()

    async def run(self, identity: "TlsIdentity") -> None:
        reason = "client_left"
        try:
            self._count_in()
            async with asyncio.timeout(limits.HEAD_TIMEOUT_S):
                self._tls = await self._wire.start_tls(identity, b"")
            while await self._serve_one():
                pass
        except (ClientLeftError, ssl.SSLError) as error:
            log.debug("%s: %s", self._address, error or "left")
        except TimeoutError:
            reason = "timeout"
        except Exception:
            reason = "internal"
            log.exception("a connection of %s failed", self._address)
        finally:
            self._gateway.half_open.remove(self, self._network)
            self._end_visit(reason)
            self._wire.close()
            if self._wire.transport.get_write_buffer_size():
                self._loop.call_later(limits.LINGER_S, self._wire.transport.abort)

    def _count_in(self) -> None:
        """The first half of (1)."""
        victim = self._gateway.half_open.add(self, self._network)
        if victim is not None:
            victim.abort()
        if not self._gateway.network_attempts.take(self._network, self._loop.time()):
            raise ClientLeftError  # before TLS nobody can be told anything

    # -- a request

    async def _serve_one(self) -> bool:
        """False when the connection is over."""
        try:
            async with asyncio.timeout(limits.HEAD_TIMEOUT_S if self._visit is None else limits.IDLE_TIMEOUT_S):
                request = await self._http.request()
            if request is None:
                return False
            self._is_idle = False
            if await self._answer(request, _texts(request.headers)):
                return False  # it spoke WebSocket, and has spoken
        except h11.RemoteProtocolError as error:
            await self._say(error.error_status_hint, answers.complaint("malformed HTTP request"), close=True)
        except RequestError as error:
            await self._say(error.status, answers.complaint(error.text), close=True)
        self._is_idle = True
        return await self._http.goes_on()

    async def _answer(self, request: h11.Request, headers: dict[str, str]) -> bool:
        """True if the connection became a WebSocket, and is over."""
        # The second half of (1). A port is the client's view of a forwarded one.
        host, colon, port = headers.get("host", "").rpartition(":")
        name = host if colon and port.isdigit() else headers.get("host", "")
        if name.lower().removesuffix(".") != self._server_name:
            raise RequestError("the Host is not the name that TLS was asked for", status=421)
        if headers.get("upgrade", "").lower() == "websocket":
            await self._become_websocket(request, headers)
            return True
        if request.target.partition(b"?")[0] != b"/sql":
            raise RequestError("query is not supported")
        match request.method:
            case b"POST":
                await self._serve_sql(request, headers)
            case b"OPTIONS":
                await self._http.body(None)
                await self._say(204, b"", _PREFLIGHT)
            case _:
                raise RequestError("method not allowed", status=405)
        return False

    @property
    def _server_name(self) -> str:
        assert self._tls is not None
        return (self._tls.server_name or "").lower().removesuffix(".")

    async def _say(
        self, status: int, body: bytes, headers: Iterable[tuple[str, str]] = (), *, close: bool = False
    ) -> None:
        await self._http.say(status, body, headers, close=close)

    # -- POST /sql

    async def _serve_sql(self, request: h11.Request, headers: dict[str, str]) -> None:
        visit = Visit(self._gateway, self._address, self._tls)
        try:
            head = Head.read(request.headers, self._server_name, self._gateway.domain)
            if self._visit is not None and self._is_as_before(head):
                visit = self._visit
            await self._prove(visit, head)
            with self._sql.memory.share(visit.target.endpoint or "") as share:
                work = head.parse(await self._http.body(share))
                text = await self._while_there(self._ask(visit, head, work, share))
                echoed = [(name, headers[name]) for name in _BATCH_HEADERS if work.is_batch and name in headers]
                await self._say(200, text, echoed)
        except AnswerTooLargeError as error:
            await self._say(507, answers.complaint(str(error)))
        except QueryError as error:
            await self._say(400, answers.postgres_error(error.body))
        except RefusedError as refusal:
            await self._refuse(visit, refusal)
        except BackendError as error:
            await self._refuse(visit, as_refusal(error), answers.postgres_error(error.raw[5:]))
        except ProtocolViolationError as error:
            await self._refuse(visit, errors.compute_unavailable(str(error)))
        except CloisterError as error:
            await self._refuse(visit, errors.of_error(error, "not_served"))

    async def _prove(self, visit: Visit, head: Head) -> None:
        """(3) and (4). The visit of this connection goes on, where it is the same client's."""
        is_known = visit is self._visit
        if not is_known:
            visit.claim(head.startup, head.target)
        verifier = await visit.verifier(is_attempt=not is_known)
        if head.token is not None:
            await vouch(visit, head.token.reveal(), self._gateway.directory)
        else:
            who = (visit.target.endpoint or "", visit.user)
            if not await self._sql.proofs.is_right(who, head.password, verifier, self._loop.time(), visit.is_right):
                raise visit.failed_proof("the password is wrong")
        if not is_known:
            self._end_visit("client_left")
            self._visit, self._head = visit, head
        self._gateway.half_open.remove(self, self._network)

    def _is_as_before(self, head: Head) -> bool:
        """Another token is another visit, be it of the same role: it may speak of somebody else."""
        before = self._head
        if before is None or (before.startup, before.target) != (head.startup, head.target):
            return False
        old, new = (None if each.token is None else each.token.reveal() for each in (before, head))
        return old == new

    async def _ask(self, visit: Visit, head: Head, work: Work, share: "Share") -> bytes:
        """(5) and (6)."""
        running, compute = await visit.enter()
        watch = visit.watch(running)
        query = Query(compute, head, work, share.grow, watch)
        running.relay = query
        running.backend_pid, running.backend_secret = compute.login.pid, compute.login.secret
        running.socket_dir = compute.socket_dir
        try:
            if running.is_refused:
                refusal = errors.ip_not_allowed(self._address)
                query.end(refusal.reason, sqlstate=refusal.sqlstate, text=refusal.public)
                return await query.done
            if self._opened_at is None:
                self._opened_at = self._loop.time()
                visit.record("connection.opened", was_cold=compute.was_cold)
            if watch is not None:
                await self._gateway.statements.room()
            query.start()
            return await query.done
        except QueryError:
            raise
        except BaseException:
            # Nobody waits for what it still does: the client left, or its answer is too large.
            running.was_cancelled = True
            with contextlib.suppress(OSError, TimeoutError):
                await send_cancel(running.socket_dir, running.backend_pid, running.backend_secret)
            raise
        finally:
            if watch is not None:
                watch.end()
            self._bytes_in += query.bytes_in
            self._bytes_out += query.bytes_out
            if not (query.is_reusable and visit.keep(running, compute)):
                query.close()
            visit.leave(running)

    async def _while_there(self, work: Coroutine[Any, Any, bytes]) -> bytes:
        """Do it as long as the client waits for it."""
        doing = self._loop.create_task(work)
        leaving = self._loop.create_task(self._wire.until_left())
        try:
            await asyncio.wait([doing, leaving], return_when=asyncio.FIRST_COMPLETED)
            if not doing.done():
                raise ClientLeftError
            return doing.result()
        finally:
            doing.cancel()
            leaving.cancel()
            await asyncio.gather(doing, leaving, return_exceptions=True)

    async def _refuse(self, visit: Visit, refusal: RefusedError, text: bytes = b"") -> None:
        log.info("%s refused (%s): %r", self._address, refusal.reason, str(refusal))
        visit.record_refusal(refusal)
        await self._say(_STATUS_OF.get(refusal.reason, 400), text or answers.refusal(refusal), close=True)

    def _end_visit(self, reason: str) -> None:
        if self._visit is not None and self._opened_at is not None:
            self._visit.record(
                "connection.closed",
                reason=reason,
                duration_ms=round((self._loop.time() - self._opened_at) * 1000),
                bytes_in=self._bytes_in,
                bytes_out=self._bytes_out,
            )
        self._visit = self._head = self._opened_at = None
        self._bytes_in = self._bytes_out = 0

    # -- WebSocket

    async def _become_websocket(self, request: h11.Request, headers: dict[str, str]) -> None:
        wire, tunnel = self._wire, self._wire.tunnel
        assert isinstance(tunnel, Tunnel)
        answer = answer_handshake(request.method, headers)
        await self._http.body(None)
        early = self._http.switch(answer) + wire.take()
        wire.tunnel = framed = FramedTunnel(
            tunnel, is_full=lambda: wire.transport.get_write_buffer_size() > WRITE_BUFFER_HIGH_BYTES
        )
        framed.unframe(early)
        wire.give_back(framed.take())
        self._gateway.half_open.remove(self, self._network)
        self._end_visit("client_left")
        await Session(self._gateway, wire, self._address, tls=self._tls).run()


def _texts(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}

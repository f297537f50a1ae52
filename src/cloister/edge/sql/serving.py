"""From a request to its answer.

The order is the security of it, and that of `gateway/session`. (1) is `connection`'s.

    (2) the head: the host must be the name that TLS was asked for; who, where, which password
    (3) the route; the IP allowlist; attempts on the endpoint, failures of this role
    (4) the password against the stored verifier, a mock where there is none; or a token (`tokens`)
    -- only now is a body read, and only now may anything be kept or woken --
    (5) the body; then disabled? how many? frozen? wake, log in, ask
    (6) recorded as opened with the connection's first query, as closed with its end

The password is asked for again with each request, and the address and the verifier are looked at again, however many came
before on the same connection, or come at the same time.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cloister.base.errors import CloisterError
from cloister.base.ipallow import IpAddress
from cloister.edge.gateway import errors
from cloister.edge.gateway.compute import as_refusal, send_cancel
from cloister.edge.gateway.errors import ClientLeftError, RefusedError
from cloister.edge.gateway.shared import Gateway
from cloister.edge.gateway.visit import Visit
from cloister.edge.sql import answers, limits
from cloister.edge.sql.answers import AnswerTooLargeError
from cloister.edge.sql.exchange import Exchange
from cloister.edge.sql.guests import Guest, Guests
from cloister.edge.sql.query import Query, QueryError
from cloister.edge.sql.request import Head, RequestError, Work, our_headers
from cloister.edge.sql.tokens import vouch
from cloister.protocol.pgwire.backend import BackendError
from cloister.protocol.pgwire.frames import ProtocolViolationError

if TYPE_CHECKING:
    from cloister.edge.gateway.certificates import ServerTls
    from cloister.edge.gateway.memory import Memory, Share
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


class Serving:
    """Of one connection."""

    def __init__(
        self,
        sql: Sql,
        address: IpAddress,
        tls: "ServerTls",
        guests: Guests,
        on_proof: Callable[[], None],
    ) -> None:
        self._sql = sql
        self._gateway = sql.gateway
        self._address = address
        self._tls = tls
        self._server_name = (tls.server_name or "").lower().removesuffix(".")
        self._guests = guests
        self._on_proof = on_proof
        self._turns = asyncio.Semaphore(limits.ASKING_MAX)
        self._last: tuple[dict[str, str], Head] | None = None
        """Headers of the last request, and what they say. A client mostly says the same."""
        self._loop = asyncio.get_running_loop()

    async def serve(self, exchange: Exchange) -> None:
        """Raises RequestError, ClientLeftError, TimeoutError."""
        self.check_name(exchange)
        request = exchange.request
        if request.target.partition(b"?")[0] != b"/sql":
            raise RequestError("query is not supported")
        match request.method:
            case b"POST":
                await self._serve_sql(exchange)
            case b"OPTIONS":
                await exchange.body(None)
                await exchange.say(204, b"", _PREFLIGHT)
            case _:
                raise RequestError("method not allowed", status=405)

    def check_name(self, exchange: Exchange) -> None:
        """The first half of (2)."""
        if exchange.request.name != self._server_name:
            raise RequestError("the Host is not the name that TLS was asked for", status=421)

    async def _serve_sql(self, exchange: Exchange) -> None:
        visit = Visit(self._gateway, self._address, self._tls)
        try:
            head = self._read(exchange.request.headers)
            async with self._guests.entering(head) as known:
                if known is None:
                    visit.claim(head.startup, head.target)
                else:
                    visit = known.visit
                await self._prove(visit, head, is_attempt=known is None)
                guest = known or self._guests.add(visit, head)
            self._on_proof()
            with guest.asking():
                async with self._turns:
                    await self._serve_guest(exchange, guest, head)
        except AnswerTooLargeError as error:
            await exchange.say(507, answers.complaint(str(error)))
        except QueryError as error:
            await exchange.say(400, answers.postgres_error(error.body))
        except RefusedError as refusal:
            await self._refuse(exchange, visit, refusal)
        except BackendError as error:
            await self._refuse(exchange, visit, as_refusal(error), answers.postgres_error(error.raw[5:]))
        except ProtocolViolationError as error:
            await self._refuse(exchange, visit, errors.compute_unavailable(str(error)))
        except CloisterError as error:
            await self._refuse(exchange, visit, errors.of_error(error, "not_served"))

    def _read(self, headers: Sequence[tuple[bytes, bytes]]) -> Head:
        ours = our_headers(headers)
        if self._last is None or self._last[0] != ours:
            self._last = ours, Head.of(ours, self._server_name, self._gateway.domain)
        return self._last[1]

    async def _serve_guest(self, exchange: Exchange, guest: Guest, head: Head) -> None:
        with self._sql.memory.share(guest.visit.target.endpoint or "") as share:
            work = head.parse(await exchange.body(share))
            text = await self._while_there(exchange, self._ask(guest, head, work, share))
            texts = exchange.request.texts
            echoed = [(name, texts[name]) for name in _BATCH_HEADERS if work.is_batch and name in texts]
            await exchange.say(200, text, echoed)

    async def _prove(self, visit: Visit, head: Head, *, is_attempt: bool) -> None:
        """(3) and (4)."""
        verifier = await visit.verifier(is_attempt=is_attempt)
        if head.token is not None:
            await vouch(visit, head.token.reveal(), self._gateway.directory)
        else:
            who = (visit.target.endpoint or "", visit.user)
            if not await self._sql.proofs.is_right(who, head.password, verifier, self._loop.time(), visit.is_right):
                raise visit.failed_proof("the password is wrong")

    async def _ask(self, guest: Guest, head: Head, work: Work, share: "Share") -> bytes:
        """(5) and (6)."""
        visit = guest.visit
        running, compute = await visit.enter()
        running.backend_pid, running.backend_secret = compute.login.pid, compute.login.secret
        watch = visit.watch(running)
        query = Query(compute, head, work, share.grow, watch)
        running.relay = query
        running.socket_dir = compute.socket_dir
        try:
            if running.is_refused:
                refusal = errors.ip_not_allowed(self._address)
                query.end(refusal.reason, sqlstate=refusal.sqlstate, text=refusal.public)
                return await query.done
            guest.opened(was_cold=compute.was_cold)
            if watch is not None:
                await watch.room()
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
            guest.bytes_in += query.bytes_in
            guest.bytes_out += query.bytes_out
            guest.rows_out += query.rows_out
            if not (query.is_reusable and visit.keep(running, compute)):
                query.close()
            visit.leave(running)

    async def _while_there(self, exchange: Exchange, work: Coroutine[None, None, bytes]) -> bytes:
        """Do it as long as the client waits for it."""
        try:
            async with asyncio.timeout(None) as wanted:

                def unwanted(_left: object) -> None:
                    with contextlib.suppress(RuntimeError):  # it was done in this very moment
                        wanted.reschedule(self._loop.time())

                exchange.left.add_done_callback(unwanted)
                try:
                    return await work
                finally:
                    exchange.left.remove_done_callback(unwanted)
        except TimeoutError:
            if wanted.expired():
                raise ClientLeftError from None
            raise

    async def _refuse(self, exchange: Exchange, visit: Visit, refusal: RefusedError, text: bytes = b"") -> None:
        log.info("%s refused (%s): %r", self._address, refusal.reason, str(refusal))
        visit.record_refusal(refusal)
        await exchange.say(_STATUS_OF.get(refusal.reason, 400), text or answers.refusal(refusal), close=True)

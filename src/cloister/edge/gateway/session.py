"""One client, from accept to goodbye.

The order is the security of it:

    (1) a PROXY header, from configured balancers and only from them
    (2) attempts of its network; TLS, then the startup packet; which endpoint is meant
    (3) the route; the IP allowlist; channel binding, where it is required; attempts on the endpoint, failures of this role
    (4) SCRAM against the stored verifier, a mock where there is none, or a password where nothing names the endpoint
    -- only now is it known who asks, and only now may it cost anything or learn anything --
    (5) which point in the past? disabled? how many? frozen? then wake and log in to the compute, the client waiting
    (6) recorded as opened, then ReadyForQuery, then bytes

What is decided is in pure code (`Handshake`, `target`, `admission`); here is the only place that waits.
"""

import asyncio
import logging
import secrets
import ssl
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from cloister.base.errors import CloisterError
from cloister.base.ipallow import IpAddress
from cloister.edge.gateway import errors, limits
from cloister.edge.gateway.compute import ComputeSession, as_refusal
from cloister.edge.gateway.errors import ClientLeftError, RefusedError
from cloister.edge.gateway.meters import CLOSED
from cloister.edge.gateway.recording import RecordedRelay
from cloister.edge.gateway.relay import Relay
from cloister.edge.gateway.sessions import Running
from cloister.edge.gateway.shared import Gateway
from cloister.edge.gateway.target import canonical, in_password, is_pooler, target_of
from cloister.edge.gateway.visit import Visit
from cloister.edge.gateway.wire import Wire
from cloister.protocol.pgwire.backend import BackendError
from cloister.protocol.pgwire.frames import InsecureConnectionError, ProtocolViolationError
from cloister.protocol.pgwire.handshake import (
    AskForPassword,
    BindingRequiredError,
    Cancel,
    CheckPassword,
    Command,
    Credentials,
    Disproved,
    Handshake,
    LookUp,
    PasswordVerdict,
    Proved,
    Send,
    StartTls,
    TlsEstablished,
)
from cloister.protocol.pgwire.messages import (
    AUTHENTICATION_OK,
    READY_FOR_QUERY_IDLE,
    CancelRequest,
    Startup,
    backend_key_data,
    error_response,
)
from cloister.protocol.proxy_header import ProxyHeaderError, take_proxy_header
from cloister.protocol.scram import ScramError

if TYPE_CHECKING:
    from cloister.edge.gateway.certificates import ServerTls

log = logging.getLogger(__name__)

_NONCE_BYTES: Final = 18
# PostgreSQL's: 144 bits.


@dataclass(frozen=True, slots=True, repr=False)
class _Proof:
    """A client has proved who it is."""

    minor: int
    last_word: bytes
    """To be sent before AuthenticationOk."""
    rest: bytes
    """What it said already and is for the compute."""


class Session:
    """`run` is the whole of it, and never raises.

    With `tls`, the client is inside TLS already, in a WebSocket: (1) and TLS are done, and as its drivers do, it sends
    its password in clear inside TLS."""

    def __init__(self, gateway: Gateway, wire: Wire, address: IpAddress, *, tls: "ServerTls | None" = None) -> None:
        self._gateway = gateway
        self._wire = wire
        self._visit = Visit(gateway, address, tls)
        self._is_inside = tls is not None
        self._handshake = Handshake(is_inside_tls=self._is_inside)
        self._loop = asyncio.get_running_loop()

    def abort(self) -> None:
        """It must go for another."""
        self._wire.abort()

    async def run(self) -> None:
        gateway = self._gateway
        try:
            try:
                self._count_in()
                async with asyncio.timeout(limits.HANDSHAKE_TIMEOUT_S):
                    await self._read_proxy_header()
                    proof = await self._introduce()
            finally:
                gateway.half_open.remove(self, self._visit.network)
            if proof is not None:
                await self._serve(proof)
        except ClientLeftError:
            log.debug("%s left during the handshake", self._visit.address)
        except ssl.SSLError as error:
            log.debug("TLS with %s failed: %s", self._visit.address, error)
        except RefusedError as refusal:
            self._refuse(refusal)
        except InsecureConnectionError as error:
            self._refuse(RefusedError("insecure", "28000", str(error)))
        except ProtocolViolationError as error:
            self._refuse(RefusedError("protocol_violation", "08P01", str(error)))
        except ProxyHeaderError as error:
            log.warning("%s: %s", self._visit.address, error)
        except ScramError as error:
            self._refuse(self._visit.failed_proof(str(error)))
        except BindingRequiredError:
            self._refuse(errors.binding_required())
        except BackendError as error:
            self._refuse(as_refusal(error), raw=error.raw)
        except CloisterError as error:
            self._refuse(errors.of_error(error, "not_served"))
        except TimeoutError:
            self._refuse(RefusedError("timeout", "57014", "Authentication timed out"))
        except Exception:
            log.exception("a session of %s failed", self._visit.address)
            self._refuse(RefusedError("internal", "XX000", "internal error"))
        finally:
            self._wire.close()
            if self._wire.transport.get_write_buffer_size():
                # It does not read what it was told last; it is not waited for.
                self._loop.call_later(limits.LINGER_S, self._wire.transport.abort)

    # -- (1) who knocks

    def _count_in(self) -> None:
        if self._is_behind_balancer:
            return  # counted when the header has said whose connection it is
        self._count_network()

    @property
    def _is_behind_balancer(self) -> bool:
        return not self._is_inside and self._visit.address in self._gateway.balancers

    def _count_network(self) -> None:
        victim = self._gateway.half_open.add(self, self._visit.network)
        if victim is not None:
            victim.abort()

    async def _read_proxy_header(self) -> None:
        if not self._is_behind_balancer:
            return  # its signature would be a startup packet of an impossible length
        buffer = bytearray()
        while (header := take_proxy_header(buffer)) is None:
            buffer += await self._wire.read()
        if header.address is not None:
            self._visit.comes_from(header.address)
        self._count_network()
        self._wire.give_back(bytes(buffer))

    # -- (2) to (4): the handshake machine says what may happen, this carries it out

    async def _introduce(self) -> _Proof | None:
        """Until the client has proved who it is; None if it only wanted something cancelled."""
        handshake, visit = self._handshake, self._visit
        commands: deque[Command] = deque()
        while True:
            while not commands:
                commands.extend(handshake.receive_data(await self._wire.read()))
            match commands.popleft():
                case Send(data):
                    self._wire.write(data)
                case StartTls(first_bytes):
                    # TLS is what a stranger can make us work for, so it is counted.
                    if not self._gateway.network_attempts.take(visit.network, self._loop.time()):
                        raise errors.too_many_attempts(f"network of {visit.address}")
                    visit.tls = await self._wire.start_tls(self._gateway.certificates.identity, first_bytes)
                    commands.extend(handshake.receive(TlsEstablished(visit.tls.selected_alpn_protocol())))
                case LookUp(startup):
                    commands.extend(handshake.receive(await self._admit(startup)))
                case CheckPassword(password):
                    commands.extend(handshake.receive(await self._check_password(password)))
                case Proved(last_word):
                    assert visit.startup is not None
                    return _Proof(visit.startup.minor, last_word, handshake.take_rest())
                case Disproved():
                    raise visit.failed_proof("the password is wrong")
                case Cancel(request):
                    await self._cancel(request)
                    return None

    async def _admit(self, startup: Startup) -> Credentials | AskForPassword:
        visit = self._visit
        assert visit.tls is not None
        visit.claim(startup, target_of(visit.tls.server_name, self._gateway.domain, startup))
        if visit.target.endpoint is None or self._is_inside:
            return AskForPassword()
        assert self._wire.tunnel is not None
        binding = self._wire.tunnel.identity.binding
        visit.can_bind = binding is not None
        verifier = await visit.verifier()
        assert visit.route is not None
        is_required = visit.route.is_binding_required
        return Credentials(verifier, secrets.token_urlsafe(_NONCE_BYTES), binding, is_binding_required=is_required)

    async def _check_password(self, text: str) -> PasswordVerdict:
        """(4) For clients that send it through TLS: it is held against the same verifier. Where nothing has named the
        endpoint, the password must."""
        visit, password = self._visit, text
        if visit.target.endpoint is None:
            if (parts := in_password(text)) is None:
                raise errors.endpoint_missing()
            endpoint, password = parts
            visit.target = replace(visit.target, endpoint=canonical(endpoint), names_pooler=is_pooler(endpoint))
        return PasswordVerdict(await visit.is_right(await visit.verifier(), password))

    async def _cancel(self, request: CancelRequest) -> None:
        """Never answered, whatever became of it: the connection just ends."""
        visit = self._visit
        outcome = "rate_limited"
        if self._gateway.cancel_attempts.take(visit.network, self._loop.time()):
            outcome = await self._gateway.cancels.cancel(request.pid, request.secret, visit.address)
        if outcome != "rate_limited" or visit.may_be_told():
            visit.record("connection.cancel", reason=outcome)

    # -- (5) and (6): it has proved who it is

    async def _serve(self, proof: _Proof) -> None:
        reason = "not_served"
        try:
            running, compute = await self._visit.enter(can_record=True)
            pid, secret = self._gateway.cancels.mint(running, proof.minor)
            try:
                reason = await self._relay(proof, running, compute, backend_key_data(pid, secret))
            finally:
                self._gateway.cancels.revoke(pid)
                self._visit.leave(running)
        finally:
            if self._visit.recorder is not None:
                await self._visit.recorder.finish(reason)

    async def _relay(self, proof: _Proof, running: Running, compute: ComputeSession, key: bytes) -> str:
        wire, visit, login = self._wire, self._visit, compute.login
        assert wire.tunnel is not None
        if wire.has_left or running.is_refused:
            compute.transport.close()
            raise errors.ip_not_allowed(visit.address) if running.is_refused else ClientLeftError
        running.backend_pid, running.backend_secret = login.pid, login.secret
        running.socket_dir = compute.socket_dir
        visit.record("connection.opened", was_cold=compute.was_cold)
        wire.write(proof.last_word + AUTHENTICATION_OK + login.greeting + key + READY_FOR_QUERY_IDLE + login.rest)
        watch = visit.watch(running)
        if visit.recorder is None:
            relay = Relay(wire.transport, wire.tunnel, compute.transport, lambda: visit.keep(running, compute), watch)
        else:
            relay = RecordedRelay(wire.transport, wire.tunnel, compute.transport, visit.recorder, watch)
        running.relay = relay
        meter = visit.metered(relay)
        try:
            relay.start(proof.rest + wire.take(), login.rest)
            reason = await relay.closed
        finally:
            meter.stop()
            if watch is not None:
                watch.end()
        meter.tell(CLOSED, reason)
        return reason

    # -- saying no

    def _refuse(self, refusal: RefusedError, *, raw: bytes = b"") -> None:
        log.info("%s refused (%s): %r", self._visit.address, refusal.reason, str(refusal))
        if self._wire.can_speak:
            self._wire.write(raw or error_response(refusal.sqlstate, refusal.public))
        self._visit.record_refusal(refusal)

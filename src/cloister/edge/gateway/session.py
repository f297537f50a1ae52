"""One client, from accept to goodbye.

The order is the security of it:

    (1) a PROXY header, from configured balancers and only from them
    (2) attempts of its network; TLS, then the startup packet; which endpoint is meant
    (3) the route; the IP allowlist; attempts on the endpoint, failures of this role
    (4) SCRAM against the stored verifier, a mock where there is none, or a password where nothing names the endpoint
    -- only now is it known who asks, and only now may it cost anything or learn anything --
    (5) disabled? how many? frozen? then wake and log in to the compute, the client waiting
    (6) recorded as opened, then ReadyForQuery, then bytes

What is decided is in pure code (`Handshake`, `target`, `admission`); here is the only place that waits.
"""

import asyncio
import logging
import secrets
import ssl
import uuid
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cloister.base.directory import ConnectionEvent, Route
from cloister.base.errors import CloisterError
from cloister.base.ipallow import AllowList, IpAddress
from cloister.base.limits import WAKE_TIMEOUT_S
from cloister.edge.gateway import errors, limits
from cloister.edge.gateway.admission import network_of
from cloister.edge.gateway.compute import ComputeSession, as_refusal, reach
from cloister.edge.gateway.errors import ClientLeftError, RefusedError
from cloister.edge.gateway.relay import Relay
from cloister.edge.gateway.sessions import Running
from cloister.edge.gateway.shared import Gateway
from cloister.edge.gateway.spares import Kind, Spares
from cloister.edge.gateway.target import Target, in_password, target_of
from cloister.edge.gateway.trail import timestamp
from cloister.edge.gateway.wire import Wire
from cloister.protocol.pgwire.backend import BackendError
from cloister.protocol.pgwire.frames import InsecureConnectionError, ProtocolViolationError
from cloister.protocol.pgwire.handshake import (
    AskForPassword,
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
from cloister.protocol.scram import InvalidVerifierError, ScramError, Verifier

if TYPE_CHECKING:
    from cloister.edge.gateway.certificates import ServerTls

log = logging.getLogger(__name__)

_NONCE_BYTES: Final = 18
# PostgreSQL's: 144 bits.

_TOO_MANY_CONNECTIONS: Final = "53300"


@dataclass(slots=True)
class _Known:
    """What is known of a client that said who it wants to be; for the audit as well."""

    startup: Startup
    target: Target
    route: Route | None = None
    verifier: Verifier | None = None
    last_word: bytes = b""
    rest: bytes = b""


class Session:
    """`run` is the whole of it, and never raises."""

    def __init__(self, gateway: Gateway, wire: Wire, address: IpAddress) -> None:
        self._gateway = gateway
        self._wire = wire
        self._address = address
        self._network = network_of(address)
        self._id = str(uuid.uuid4())
        self._handshake = Handshake()
        self._tls: ServerTls | None = None
        self._known: _Known | None = None
        self._loop = asyncio.get_running_loop()
        self._accepted_at = self._loop.time()

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
                    known = await self._introduce()
            finally:
                gateway.half_open.remove(self, self._network)
            if known is not None:
                await self._serve(known)
        except ClientLeftError:
            log.debug("%s left during the handshake", self._address)
        except ssl.SSLError as error:
            log.debug("TLS with %s failed: %s", self._address, error)
        except RefusedError as refusal:
            self._refuse(refusal)
        except InsecureConnectionError as error:
            self._refuse(RefusedError("insecure", "28000", str(error)))
        except ProtocolViolationError as error:
            self._refuse(RefusedError("protocol_violation", "08P01", str(error)))
        except ProxyHeaderError as error:
            log.warning("%s: %s", self._address, error)
        except ScramError as error:
            self._refuse(self._failed_proof(str(error)))
        except BackendError as error:
            self._refuse(as_refusal(error), raw=error.raw)
        except CloisterError as error:
            self._refuse(errors.of_error(error, "not_served"))
        except TimeoutError:
            self._refuse(RefusedError("timeout", "57014", "Authentication timed out"))
        except Exception:
            log.exception("a session of %s failed", self._address)
            self._refuse(RefusedError("internal", "XX000", "internal error"))
        finally:
            self._wire.close()
            if self._wire.transport.get_write_buffer_size():
                # It does not read what it was told last; it is not waited for.
                self._loop.call_later(limits.LINGER_S, self._wire.transport.abort)

    # -- (1) who knocks

    def _count_in(self) -> None:
        gateway = self._gateway
        if self._address in gateway.balancers:
            return  # counted when the header has said whose connection it is
        self._count_network()

    def _count_network(self) -> None:
        victim = self._gateway.half_open.add(self, self._network)
        if victim is not None:
            victim.abort()

    async def _read_proxy_header(self) -> None:
        if self._address not in self._gateway.balancers:
            return  # its signature would be a startup packet of an impossible length
        buffer = bytearray()
        while (header := take_proxy_header(buffer)) is None:
            buffer += await self._wire.read()
        if header.address is not None:
            self._address = header.address
            self._network = network_of(header.address)
        self._count_network()
        self._wire.give_back(bytes(buffer))

    # -- (2) to (4): the handshake machine says what may happen, this carries it out

    async def _introduce(self) -> _Known | None:
        """Until the client has proved who it is; None if it only wanted something cancelled."""
        handshake = self._handshake
        commands: deque[Command] = deque()
        while True:
            while not commands:
                commands.extend(handshake.receive_data(await self._wire.read()))
            match commands.popleft():
                case Send(data):
                    self._wire.write(data)
                case StartTls(first_bytes):
                    # TLS is what a stranger can make us work for, so it is counted.
                    if not self._gateway.network_attempts.take(self._network, self._loop.time()):
                        raise errors.too_many_attempts(f"network of {self._address}")
                    self._tls = await self._wire.start_tls(self._gateway.certificates.identity, first_bytes)
                    commands.extend(handshake.receive(TlsEstablished(self._tls.selected_alpn_protocol())))
                case LookUp(startup):
                    commands.extend(handshake.receive(await self._admit(startup)))
                case CheckPassword(password):
                    commands.extend(handshake.receive(await self._check_password(password)))
                case Proved(last_word):
                    assert self._known is not None
                    self._known.last_word = last_word
                    self._known.rest = handshake.take_rest()
                    return self._known
                case Disproved():
                    raise self._failed_proof("the password is wrong")
                case Cancel(request):
                    await self._cancel(request)
                    return None

    async def _admit(self, startup: Startup) -> Credentials | AskForPassword:
        assert self._tls is not None
        target = target_of(self._tls.server_name, self._gateway.domain, startup)
        self._known = _Known(startup, target)
        self._gateway.trail.check_room()
        if target.endpoint is None:
            return AskForPassword()
        verifier = await self._verifier(target.endpoint)
        assert self._wire.tunnel is not None
        return Credentials(verifier, secrets.token_urlsafe(_NONCE_BYTES), self._wire.tunnel.identity.binding)

    async def _verifier(self, endpoint: str) -> Verifier:
        """(3) Look up and let knock. What is refused here is refused to everybody from this address alike."""
        assert self._known is not None
        user = self._known.startup.user
        route = await self._gateway.directory.look_up(endpoint, user, self._known.startup.database)
        self._known.route = route
        self._check_address(route)
        now = self._loop.time()
        if not self._gateway.endpoint_attempts.take(endpoint, now):
            raise errors.too_many_attempts(f"endpoint {endpoint}")
        if not self._gateway.failures.has_token((endpoint, user, self._network), now):
            raise errors.too_many_attempts(f"failures of {user!r} at {endpoint}")
        try:
            verifier = Verifier.parse(route.verifier, is_doomed=route.is_doomed or not route.is_known)
        except InvalidVerifierError:
            verifier = Verifier.mock(endpoint, user, self._gateway.mock_secret)
        self._known.verifier = verifier
        return verifier

    def _check_address(self, route: Route) -> None:
        if route.allowed_ips is not None and self._address not in AllowList.read(route.allowed_ips):
            raise errors.ip_not_allowed(self._address)

    async def _check_password(self, text: str) -> PasswordVerdict:
        """(4) For clients without SNI: the endpoint and the password, through TLS, against the same verifier."""
        assert self._known is not None
        if (parts := in_password(text)) is None:
            raise errors.endpoint_missing()
        endpoint, password = parts
        self._known.target = Target(endpoint, self._known.target.parameters)
        verifier = await self._verifier(endpoint)
        gateway = self._gateway
        if gateway.password_checks >= limits.PASSWORD_CHECKS_MAX:
            raise errors.too_many_attempts("passwords in clear")
        gateway.password_checks += 1
        try:
            is_right = await self._loop.run_in_executor(gateway.passwords, verifier.matches_password, password)
        finally:
            gateway.password_checks -= 1
        return PasswordVerdict(is_right)

    def _failed_proof(self, detail: str) -> RefusedError:
        assert self._known is not None
        user, endpoint = self._known.startup.user, self._known.target.endpoint or ""
        self._gateway.failures.take((endpoint, user, self._network), self._loop.time())
        self._gateway.directory.forget(endpoint, user)
        return errors.bad_password(user, detail)

    async def _cancel(self, request: CancelRequest) -> None:
        """Never answered, whatever became of it: the connection just ends."""
        outcome = "rate_limited"
        if self._gateway.cancel_attempts.take(self._network, self._loop.time()):
            outcome = await self._gateway.cancels.cancel(request.pid, request.secret, self._address)
        if outcome != "rate_limited" or self._may_be_told():
            self._record("connection.cancel", reason=outcome)

    # -- (5) and (6): it has proved who it is

    async def _serve(self, known: _Known) -> None:
        assert known.route is not None
        running = Running(known.route, known.startup.user, self._address)
        await self._check_service(known.route)
        try:
            async with asyncio.timeout(WAKE_TIMEOUT_S):
                await self._gateway.sessions.pass_gate(running)
                # A route may be older than the gate was shut: then it names a compute that has stopped since.
                running.route = await self._gateway.directory.look_up(
                    known.target.endpoint or "", known.startup.user, known.startup.database
                )
                self._check_address(running.route)
                compute = await self._reach(running.route, known.target.parameters)
        except TimeoutError:
            self._gateway.sessions.leave(running)
            raise errors.compute_unavailable("it did not accept in time") from None
        except BaseException:
            self._gateway.sessions.leave(running)
            raise
        pid, secret = self._gateway.cancels.mint(running, known.startup.minor)
        try:
            await self._relay(known, running, compute, backend_key_data(pid, secret))
        finally:
            self._gateway.cancels.revoke(pid)
            self._gateway.sessions.leave(running)

    async def _check_service(self, route: Route) -> None:
        if route.is_disabled:
            raise RefusedError("disabled", "55000", "the endpoint is disabled")
        if route.connection_limit and self._gateway.sessions.count(route.endpoint_id) >= route.connection_limit:
            raise errors.too_many_connections()

    async def _reach(self, route: Route, parameters: Mapping[str, str]) -> ComputeSession:
        spares = self._gateway.spares
        if route.socket_dir is not None:
            spare = spares.take(Spares.kind_of(route.endpoint_id, (route.socket_dir, route.generation), parameters))
            if spare is not None:
                return spare
        try:
            return await reach(self._gateway.directory, route, parameters)
        except BackendError as error:
            # Perhaps it is our spares that take the places; without them it is PostgreSQL's to decide.
            if error.sqlstate != _TOO_MANY_CONNECTIONS or not spares.drop(route.endpoint_id):
                raise
            await asyncio.sleep(limits.BACKEND_EXIT_S)
            return await reach(self._gateway.directory, route, parameters)

    async def _relay(self, known: _Known, running: Running, compute: ComputeSession, key: bytes) -> None:
        wire, login = self._wire, compute.login
        assert wire.tunnel is not None
        if wire.has_left or running.is_refused:
            compute.transport.close()
            raise errors.ip_not_allowed(self._address) if running.is_refused else ClientLeftError
        running.backend_pid, running.backend_secret = login.pid, login.secret
        running.socket_dir = compute.socket_dir
        self._record("connection.opened", was_cold=compute.was_cold)
        opened_at = self._loop.time()
        wire.write(known.last_word + AUTHENTICATION_OK + login.greeting + key + READY_FOR_QUERY_IDLE + login.rest)
        kind = Spares.kind_of(
            running.route.endpoint_id, (compute.socket_dir, compute.generation), known.target.parameters
        )
        relay = running.relay = Relay(
            wire.transport, wire.tunnel, compute.transport, lambda: self._keep(running, kind, compute)
        )
        relay.start(known.rest + wire.take())
        reason = await relay.closed
        self._record(
            "connection.closed",
            reason=reason,
            duration_ms=round((self._loop.time() - opened_at) * 1000),
            bytes_in=relay.bytes_in,
            bytes_out=relay.bytes_out,
        )

    def _keep(self, running: Running, kind: Kind, compute: ComputeSession) -> bool:
        return not running.was_cancelled and self._gateway.spares.adopt(kind, compute)

    # -- saying no, and writing down

    def _refuse(self, refusal: RefusedError, *, raw: bytes = b"") -> None:
        log.info("%s refused (%s): %r", self._address, refusal.reason, str(refusal))
        if self._wire.can_speak:
            self._wire.write(raw or error_response(refusal.sqlstate, refusal.public))
        # Whoever never said who they are is a scanner or a health check: in the log, not in the audit.
        is_worth_recording = self._known is not None or refusal.reason in ("insecure", "rate_limited")
        is_flood = refusal.reason in ("rate_limited", "audit_unavailable", "insecure")
        if is_worth_recording and (not is_flood or self._may_be_told()):
            self._record("connection.denied", reason=refusal.reason)

    def _may_be_told(self) -> bool:
        return self._gateway.refusals_told.take(self._network, self._loop.time())

    def _record(
        self,
        action: str,
        *,
        reason: str = "",
        duration_ms: int = 0,
        bytes_in: int = 0,
        bytes_out: int = 0,
        was_cold: bool = False,
    ) -> None:
        known, tls = self._known, self._tls
        route = known.route if known is not None else None
        cipher = tls.cipher() if tls is not None else None
        self._gateway.trail.add(
            ConnectionEvent(
                action=action,
                at=timestamp(),
                session_id=self._id,
                endpoint_id=(known.target.endpoint or "") if known is not None else "",
                project_id=route.project_id if route is not None else "",
                branch_id=route.branch_id if route is not None else "",
                role=known.startup.user if known is not None else "",
                database=known.startup.database if known is not None else "",
                address=str(self._address),
                application_name=known.startup.parameters.get("application_name", "") if known is not None else "",
                tls_version=(tls.version() or "") if tls is not None else "",
                tls_cipher=cipher[0] if cipher is not None else "",
                reason=reason,
                duration_ms=duration_ms,
                bytes_in=bytes_in,
                bytes_out=bytes_out,
                was_cold=was_cold,
            )
        )

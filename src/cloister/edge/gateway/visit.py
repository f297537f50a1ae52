"""One client that says who it is, whichever door it came through: what it is asked, what it may have, what is written
down about it.

The doors (`session` on port 5432, `edge/sql` on HTTPS) carry bytes and prove passwords in their own ways; what is decided
about a client is decided here, once, in the order that `session` numbers.
"""

import asyncio
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from cloister.base.audit_levels import AuditLevel
from cloister.base.directory import BeginRecording, ConnectionEvent, Route
from cloister.base.errors import BadRequestError, UnprocessableError
from cloister.base.ipallow import AllowList, IpAddress
from cloister.base.limits import WAKE_TIMEOUT_S
from cloister.base.past import Past, joined, parse
from cloister.edge.gateway import errors, limits
from cloister.edge.gateway.admission import network_of
from cloister.edge.gateway.certificates import ServerTls
from cloister.edge.gateway.compute import ComputeSession, reach
from cloister.edge.gateway.errors import RefusedError
from cloister.edge.gateway.memory import Share
from cloister.edge.gateway.meters import Meter, Moved
from cloister.edge.gateway.pooled import reach_pooled
from cloister.edge.gateway.recording import Recorder
from cloister.edge.gateway.sessions import Running
from cloister.edge.gateway.shared import Gateway
from cloister.edge.gateway.spares import Spares
from cloister.edge.gateway.statements import Watch
from cloister.edge.gateway.target import Target, check_pooled
from cloister.edge.gateway.trail import timestamp
from cloister.protocol.pgwire.backend import BackendError
from cloister.protocol.pgwire.messages import Startup
from cloister.protocol.scram import InvalidVerifierError, Verifier

_TOO_MANY_CONNECTIONS: Final = "53300"


@dataclass(frozen=True, slots=True)
class Voucher:
    """Whose token let a client in, and what its session is to know of it."""

    jwks_id: str
    subject: str
    settings: Mapping[str, str]


class Visit:
    """Made when a client connects; `claim` says who it wants to be and where."""

    def __init__(self, gateway: Gateway, address: IpAddress, tls: ServerTls | None = None) -> None:
        self.address = address
        self.network = network_of(address)
        self.tls = tls
        self.startup: Startup | None = None
        self.target = Target(None, {})
        self.route: Route | None = None
        self.voucher: Voucher | None = None
        self.recorder: Recorder | None = None
        """Of a session that must be recorded: `recording.py`."""
        self.can_bind = False
        """The client is offered a proof that is bound to its TLS session, be it that it cannot make one."""
        self._past: Past | None = None
        self._gateway = gateway
        self.id = str(uuid.uuid4())
        self._loop = asyncio.get_running_loop()

    def comes_from(self, address: IpAddress) -> None:
        """The client's own address, as a balancer tells it."""
        self.address = address
        self.network = network_of(address)

    def claim(self, startup: Startup, target: Target) -> None:
        self.startup = startup
        self.target = target
        self._gateway.trail.check_room()

    @property
    def user(self) -> str:
        assert self.startup is not None
        return self.startup.user

    @property
    def parameters(self) -> Mapping[str, str]:
        return self.target.parameters

    # -- (3) and (4): before it has proved anything

    async def verifier(self, *, is_attempt: bool = True) -> Verifier:
        """(3) Look up and let knock. What is refused here is refused to everybody from this address alike. Not an
        attempt is what comes again from a client that has proved itself on the same connection."""
        endpoint = self.target.endpoint or ""
        route = await self._look_up(endpoint)
        self.route = route
        self.check_address(route)
        if route.is_binding_required and not self.can_bind:
            raise errors.binding_required()
        now = self._loop.time()
        if is_attempt and not self._gateway.endpoint_attempts.take(endpoint, now):
            raise errors.too_many_attempts(f"endpoint {endpoint}")
        if not self._gateway.failures.has_token((endpoint, self.user, self.network), now):
            raise errors.too_many_attempts(f"failures of {self.user!r} at {endpoint}")
        try:
            return Verifier.parse(route.verifier, is_doomed=route.is_doomed or not route.is_known)
        except InvalidVerifierError:
            return Verifier.mock(endpoint, self.user, self._gateway.mock_secret)

    def check_address(self, route: Route) -> None:
        if route.allowed_ips is not None and self.address not in AllowList.read(route.allowed_ips):
            raise errors.ip_not_allowed(self.address)

    async def is_right(self, verifier: Verifier, password: str) -> bool:
        """(4) For a client that sent its password through TLS."""
        gateway = self._gateway
        if gateway.password_checks >= limits.PASSWORD_CHECKS_MAX:
            raise errors.too_many_attempts("passwords in clear")
        gateway.password_checks += 1
        try:
            return await self._loop.run_in_executor(gateway.passwords, verifier.matches_password, password)
        finally:
            gateway.password_checks -= 1

    def failed_proof(self, detail: str) -> RefusedError:
        self._count_failure()
        return errors.bad_password(self.user, detail)

    def failed_token(self, detail: str, *, told: str = "") -> RefusedError:
        self._count_failure()
        return errors.bad_token(self.user, detail, told)

    def _count_failure(self) -> None:
        endpoint = self.target.endpoint or ""
        self._gateway.failures.take((endpoint, self.user, self.network), self._loop.time())
        self._gateway.directory.forget(endpoint, self.user)

    def vouched(self, voucher: Voucher) -> None:
        """(4) For a client that brought a token. Its session is one for just these claims: what they are told apart by,
        `spares` tells sessions apart by."""
        self.voucher = voucher
        self.target = replace(self.target, parameters={**self.target.parameters, **voucher.settings})

    # -- (5): it has proved who it is

    async def enter(self, *, can_record: bool = False) -> tuple[Running, ComputeSession]:
        """Past the gate, to a session of the compute, which is woken if it sleeps. Whoever gets it calls `leave`. A door
        that `can_record` gives the session to `recorder`, if there is one."""
        assert self.route is not None
        if self.route.is_recorded and (not can_record or self.target.is_pooled):
            raise errors.not_recorded()
        place, route = self.target.endpoint or "", self.route
        self._past = self._read_past()
        if self._past is not None:
            place = joined(place, self._past)
            route = await self._look_up(place)
        self._check_service(route)
        self._check_type(route)
        if self.target.is_pooled:
            check_pooled(self.parameters)
        try:
            async with asyncio.timeout(WAKE_TIMEOUT_S):
                for _ in range(limits.ENDED_SESSIONS_MAX):
                    running, compute = await self._enter(place, route)
                    if not compute.has_ended:
                        break
                    # It was being stopped when it let us in. A client that hears the greeting and the farewell in one
                    # breath cannot tell why it lost its session, so it gets one that lasts.
                    self.leave(running)
                    compute.transport.close()
                    self._gateway.directory.forget_compute(route.endpoint_id)
                else:
                    raise errors.compute_unavailable("it ends every session at once")
                return running, compute
        except UnprocessableError as error:
            if self._past is None:
                raise
            raise errors.point_unreachable(error) from error
        except TimeoutError:
            raise errors.compute_unavailable("it did not accept in time") from None

    async def _enter(self, place: str, route: Route) -> tuple[Running, ComputeSession]:
        running = Running(route, self.user, self.address)
        try:
            await self._gateway.sessions.pass_gate(running)
            # A route may be older than the gate was shut: then it names a compute that has stopped since, and a list that
            # has changed since. Who waits here is not among those that are looked at again when it does.
            running.route = await self._look_up(place)
            self.check_address(running.route)
            if self.recorder is None and running.route.is_recorded:
                recording_id = await self._begin_recording(running.route)
                self.recorder = Recorder(self._gateway.directory, recording_id, self._observed(running))
            return running, await self._reach(running.route)
        except BaseException:
            self.leave(running)
            raise

    def watch(self, running: Running) -> Watch | None:
        """Of its statements, if its project has them recorded. Of the route as it was looked up behind the gate. By the
        server's process its statements are found beside what the guard notes inside; behind a pooler it has no process of its own."""
        level = running.route.audit_level
        if level is AuditLevel.OFF:
            return None
        backend = 0 if self.target.is_pooled else running.backend_pid
        return Watch(self._gateway.statements, level, self, self._observed(running), time.monotonic, backend=backend)

    def _observed(self, running: Running) -> Share:
        return self._gateway.observed.share(running.route.endpoint_id)

    async def _begin_recording(self, route: Route) -> str:
        assert self.startup is not None
        command = BeginRecording(
            endpoint_id=route.endpoint_id,
            role=self.user,
            session_id=self.id,
            address=str(self.address),
            database=self.startup.database,
            application_name=self.startup.parameters.get("application_name", ""),
        )
        return await self._gateway.directory.begin_recording(command)

    def leave(self, running: Running) -> None:
        self._gateway.sessions.leave(running)

    def keep(self, running: Running, compute: ComputeSession) -> bool:
        """Offer the session of a client that is through with it to the next of its kind; False if it is not wanted. A
        pooled one is cheap, and its pool is elsewhere."""
        if self.target.is_pooled or self.recorder is not None:
            return False
        kind = Spares.kind_of(
            running.route.endpoint_id, (compute.socket_dir, compute.generation), self.target.parameters
        )
        running.is_given_on = not running.was_cancelled and self._gateway.spares.adopt(kind, compute)
        return running.is_given_on

    def _read_past(self) -> Past | None:
        """What point it asked for. Read only now, so that a stranger learns no more of one branch than of another."""
        match self.target.points:
            case ():
                if self.target.is_branch:
                    raise errors.point_missing()
                return None
            case (point,):
                try:
                    return parse(point)
                except BadRequestError as error:
                    raise errors.point_malformed(error.public) from error
            case _:
                raise errors.points_inconsistent()

    async def _look_up(self, place: str) -> Route:
        assert self.startup is not None
        return await self._gateway.directory.look_up(place, self.user, self.startup.database)

    def _check_service(self, route: Route) -> None:
        if route.is_disabled or route.is_held:
            raise RefusedError("disabled", "55000", "the endpoint is disabled")
        if route.connection_limit and self._gateway.sessions.count(route.endpoint_id) >= route.connection_limit:
            raise errors.too_many_connections()

    def _check_type(self, route: Route) -> None:
        """Whoever insists on one kind of endpoint is not led to the other."""
        for wanted in self.target.types:
            if wanted not in ("read_write", "read_only"):
                raise errors.type_malformed()
            if (wanted == "read_only") != route.is_read_only:
                raise errors.type_differs(route.is_read_only)

    async def _reach(self, route: Route) -> ComputeSession:
        if self.target.is_pooled:
            return await reach_pooled(self._gateway.directory, route, self.user, self.parameters)
        spares = self._gateway.spares
        if route.socket_dir is not None:
            kind = Spares.kind_of(route.endpoint_id, (route.socket_dir, route.generation), self.parameters)
            if (spare := spares.take(kind)) is not None:
                return spare
        try:
            return await reach(self._gateway.directory, route, self.parameters)
        except BackendError as error:
            # Perhaps it is our spares that take the places; without them it is PostgreSQL's to decide.
            if error.sqlstate != _TOO_MANY_CONNECTIONS or not spares.drop(route.endpoint_id):
                raise
            await asyncio.sleep(limits.BACKEND_EXIT_S)
            return await reach(self._gateway.directory, route, self.parameters)

    # -- (6): writing down

    def metered(self, moved: Moved) -> Meter:
        """From here on, until it is stopped, what has moved is told while the session goes on."""
        return self._gateway.meters.start(self.record, moved)

    def record_refusal(self, refusal: RefusedError) -> None:
        # Whoever never said who they are is a scanner or a health check: in the log, not in the audit.
        is_worth_recording = self.startup is not None or refusal.reason in ("insecure", "rate_limited")
        is_flood = refusal.reason in ("rate_limited", "audit_unavailable", "insecure")
        if is_worth_recording and (not is_flood or self.may_be_told()):
            self.record("connection.denied", reason=refusal.reason)

    def may_be_told(self) -> bool:
        return self._gateway.refusals_told.take(self.network, self._loop.time())

    def record(
        self,
        action: str,
        *,
        reason: str = "",
        duration_ms: int = 0,
        bytes_in: int = 0,
        bytes_out: int = 0,
        rows_out: int = 0,
        was_cold: bool = False,
    ) -> None:
        startup, route, tls = self.startup, self.route, self.tls
        cipher = tls.cipher() if tls is not None else None
        self._gateway.trail.add(
            ConnectionEvent(
                action=action,
                at=timestamp(),
                session_id=self.id,
                endpoint_id=self.target.endpoint or "",
                project_id=route.project_id if route is not None else "",
                branch_id=route.branch_id if route is not None else "",
                role=startup.user if startup is not None else "",
                database=startup.database if startup is not None else "",
                address=str(self.address),
                application_name=startup.parameters.get("application_name", "") if startup is not None else "",
                jwks_id=self.voucher.jwks_id if self.voucher is not None else "",
                subject=self.voucher.subject if self.voucher is not None else "",
                point="" if self._past is None else str(self._past),
                tls_version=(tls.version() or "") if tls is not None else "",
                tls_cipher=cipher[0] if cipher is not None else "",
                reason=reason,
                duration_ms=duration_ms,
                bytes_in=bytes_in,
                bytes_out=bytes_out,
                rows_out=rows_out,
                was_cold=was_cold,
            )
        )

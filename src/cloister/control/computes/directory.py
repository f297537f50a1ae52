"""Answers the gateways: who may log in where, and where the compute is.

A look-up, in order:

1. An endpoint that does not exist, and a role that cannot log in, get a mock verifier: stable per endpoint and role, of
   the form of a real one, and doomed. It is computed for every look-up, so that those that need it take no longer.
2. Running: the server's own pg_authid says, as it is now. If it cannot be asked, nobody is let in.
3. Asleep and clean: the copy taken at suspend says, and what was asked for through the API since. A branch that is being
   made as another one was at some moment has no copy yet: the look-up waits for its first start, and begins none.
4. Asleep and not clean (it crashed): nobody can say until it has run again. The reconciler starts it by itself; a
   stranger's look-up does not. A branch that nothing writes any more is started by nobody: if its last compute ended like
   that, or nothing has run since it was given its data, whoever asks is told what to do about it.
5. The platform's own roles can never log in; `VALID UNTIL` and NOLOGIN are honoured here, before anything wakes.
6. The IP allowlist comes with the route, so the gateway checks it before it listens to a password. One that cannot be
   read allows nobody.
7. A branch is asked for by its own name for the sake of its past. Who may see what it was is who may log in now. The point
   itself is named by a gateway only after the proof.
8. A read-only endpoint lets in whom its branch lets in: the branch's writer is asked, or its copy, not the standby.
9. A role of an access that was approved is in no catalog: the control database says whether it may log in, at this one
   endpoint and now, and its sessions are recorded. Of every other endpoint it is unknown.

What a wake may cost is decided in `wake.py`. Only the gateways' Unix user may connect.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final, Protocol

import msgspec

from cloister.base.audit_levels import AuditLevel
from cloister.base.clock import Clock
from cloister.base.database import Database, Transaction
from cloister.base.directory import (
    AnyCommand,
    AppendRecording,
    BeginRecording,
    Compute,
    EndRecording,
    Frozen,
    Invalidate,
    KeySets,
    LookUp,
    LookUpKeys,
    Pool,
    Pooler,
    Record,
    RecordStatements,
    Route,
    StatementRecord,
    Wake,
)
from cloister.base.errors import BadRequestError, ForbiddenError, InvalidIdError, PreconditionError, UnavailableError
from cloister.base.identities import Service
from cloister.base.ids import BranchId, EndpointId, parse_branch_id, parse_endpoint_id, parse_identifier
from cloister.base.past import Past, joined, split
from cloister.base.rpc import Connection, Server
from cloister.base.secret import Secret
from cloister.base.settings import Paths
from cloister.base.tags import KEPT
from cloister.control.access.model import is_access_role
from cloister.control.computes import standby_store, store
from cloister.control.computes.agent import Agent
from cloister.control.computes.gateways import Gateways
from cloister.control.computes.model import State
from cloister.control.computes.runner import Runner
from cloister.control.computes.sessions import Running
from cloister.control.computes.verifiers import Verifiers
from cloister.control.computes.wake import Waker
from cloister.control.roles.names import is_platform_role
from cloister.control.roles.server import RoleState
from cloister.node.commands import StartPooler
from cloister.protocol.scram import Verifier
from cloister.trust.audit import Action, Event, record
from cloister.trust.audit.statements import StatementLog, gap

EVENTS_MAX: Final = 2_000
# In one message; a gateway that has more sends two.

ROLES_UNKNOWN: Final = "the roles of this branch are not known: add a read-write compute to it, which asks its data"

_READS: Final = frozenset({Action.CONNECTION_READING, Action.CONNECTION_CLOSED})
# They say how much a session has received.

_CONNECTION_ACTIONS: Final = _READS | {Action.CONNECTION_OPENED, Action.CONNECTION_DENIED, Action.CONNECTION_CANCEL}

_ROUTE: Final = """
SELECT e.id, b.project_id, b.id AS branch_id, e.state, e.socket_dir, e.generation,
       asked.type = 'read_only' AS is_reader, asked.is_disabled,
       coalesce(e.is_clean, (SELECT is_clean FROM endpoint WHERE branch_id = b.id AND type = 'read_write'
                              ORDER BY created_at DESC, id LIMIT 1), true) AS is_clean,
       v.pg_version, b.is_protected, p.settings, p.audit_level,
       r.name AS role, coalesce(r.pending_verifier, r.verifier) AS verifier, r.can_login, r.valid_until,
       CASE WHEN e.state IN ('active', 'idle') THEN true
            ELSE EXISTS (SELECT FROM pg_role WHERE branch_id = b.id) END AS has_roles,
       EXISTS (SELECT FROM hold h WHERE h.project_id = b.project_id AND h.endpoint_id IN ('', e.id, asked.id)
                                    AND h.role IN ('', $2)) AS is_held
  FROM branch b
  LEFT JOIN endpoint asked ON asked.id = $1 AND asked.branch_id = b.id AND asked.deleted_at IS NULL
  LEFT JOIN endpoint e ON e.branch_id = b.id AND e.deleted_at IS NULL AND e.type = 'read_write'
  JOIN project p ON p.id = b.project_id
  JOIN volume v ON v.project_id = b.project_id
  LEFT JOIN pg_role r ON r.branch_id = b.id AND r.name = $2
 WHERE b.deleted_at IS NULL AND p.deleted_at IS NULL
"""
# `asked` is the endpoint of this name, `e` the one that writes its branch; a branch without that has its roles in our rows alone.
_OF_ENDPOINT: Final = f"{_ROUTE} AND asked.id = $1"
_OF_BRANCH: Final = f"{_ROUTE} AND b.id = $1"


class Standbys(Protocol):
    """Branches as they were (`branches/standbys.py`)."""

    async def wake(self, place: str, *, stale_generation: int) -> Compute: ...


class TokenKeys(Protocol):
    """Keys of other issuers (`jwks/keys.py`)."""

    async def look_up(self, command: LookUpKeys) -> KeySets: ...


class AccessRoles(Protocol):
    """Roles of people whose access was approved, and the recordings of their sessions (`access/guard.py`)."""

    async def verifier_of(self, role: str, branch_id: BranchId, endpoint_id: EndpointId) -> str | None: ...
    async def begin(self, command: BeginRecording) -> str: ...
    async def append(self, command: AppendRecording) -> int: ...
    async def end(self, command: EndRecording) -> int: ...


class DirectoryServer:
    def __init__(
        self,
        paths: Paths,
        database: Database,
        agent: Agent,
        *,
        runner: Runner,
        waker: Waker,
        standbys: Standbys,
        access: AccessRoles,
        verifiers: Verifiers,
        token_keys: TokenKeys,
        mock_key: Secret[bytes],
        statements: StatementLog,
        clock: Clock,
        allowed: frozenset[Service] = frozenset({Service.GATEWAY}),
    ) -> None:
        self._database = database
        self._agent = agent
        self._runner = runner
        self._waker = waker
        self._standbys = standbys
        self._access = access
        self._verifiers = verifiers
        self._token_keys = token_keys
        self._mock_key = mock_key
        self._statements = statements
        self._clock = clock
        self._gateways: Gateways | None = None
        self._server = Server(paths.directory_socket, AnyCommand, self._answer, allowed=allowed, on_connect=self._greet)

    @property
    def connections(self) -> set[Connection]:
        return self._server.connections

    def serve(self, gateways: Gateways) -> None:
        """Where answers to a Freeze go."""
        self._gateways = gateways

    async def start(self) -> None:
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop()

    @staticmethod
    def _greet(connection: Connection) -> None:
        # Whatever it kept from before may have changed while it was not connected.
        connection.send_event(Invalidate())

    async def _answer(
        self, connection: Connection, command: AnyCommand
    ) -> Route | KeySets | Compute | Pooler | int | str:
        match command:
            case LookUp():
                return await self.look_up(command)
            case LookUpKeys():
                return await self._token_keys.look_up(command)
            case Wake(endpoint_id=place) if split(place)[1] is not None:
                return await self._standbys.wake(place, stale_generation=command.stale_generation)
            case Wake(endpoint_id=place) if await self._is_reader(place):
                return await self._standbys.wake(place, stale_generation=command.stale_generation)
            case Wake():
                return await self._waker.wake(
                    parse_endpoint_id(command.endpoint_id), stale_generation=command.stale_generation
                )
            case Pool():
                return await self.pool(command)
            case Record():
                return await self._record(command)
            case RecordStatements():
                return await self._record_statements(command)
            case BeginRecording():
                return await self._access.begin(command)
            case AppendRecording():
                return await self._access.append(command)
            case EndRecording():
                return await self._access.end(command)
            case Frozen():
                assert self._gateways is not None
                self._gateways.answered(connection, command)
                return 0

    async def look_up(self, command: LookUp) -> Route:
        name, past = split(command.endpoint)
        mock = str(Verifier.mock(name, command.role, self._mock_key.reveal()))  # (1)
        row = await self._row(name, command.role)
        if row is None:
            await self._ask_nobody()
            return Route(endpoint_id=command.endpoint[:100], is_known=False, is_doomed=True, verifier=mock)

        running = _running(row)
        if is_access_role(command.role):  # (9)
            return await self._led_by_access(command, row, running, mock=mock)
        if running is not None:  # (2)
            role = await self._verifiers.of(running, command.role)
        elif row["id"] is None and not (row["is_clean"] and row["has_roles"]):  # (4)
            raise PreconditionError(f"nobody knows the roles of {row['branch_id']}", public=ROLES_UNKNOWN)
        elif row["is_clean"] or row["state"] == State.INIT:  # (3)
            await self._ask_nobody()
            role = _copied(row)
        else:  # (4)
            raise UnavailableError(f"{row['id']} crashed and has not been asked since")

        verifier = self._verifier(role)  # (5)
        route = Route(
            endpoint_id=name,
            project_id=row["project_id"],
            branch_id=row["branch_id"],
            is_known=True,
            is_doomed=verifier is None,
            may_log_in=self._may_log_in(role),
            verifier=verifier or mock,
            allowed_ips=allowed_ips(row["settings"], is_protected=row["is_protected"]),  # (6)
            is_binding_required=is_binding_required(row["settings"]),
            is_disabled=bool(row["is_disabled"]),
            is_held=row["is_held"],
            socket_dir=None if running is None else running.socket_dir,
            generation=row["generation"] or 0,
            audit_level=AuditLevel(row["audit_level"]),
        )
        if past is not None or name == row["branch_id"]:
            return await self._led_to_the_past(route, past)
        return await self._led_to_a_reader(route) if row["is_reader"] else route

    async def _ask_nobody(self) -> None:
        """In place of the server that is asked where one runs: a question costs some tenths of a millisecond, and a stranger
        would learn from them what there is (`scripts/bench refusals`)."""
        async with self._database.reading() as tx:
            await tx.fetch_value("SELECT 1")

    async def _led_by_access(self, command: LookUp, row: Any, running: Running | None, *, mock: str) -> Route:
        name, past = split(command.endpoint)
        verifier = None
        if past is None and name == row["id"]:
            verifier = await self._access.verifier_of(command.role, BranchId(row["branch_id"]), EndpointId(row["id"]))
        return Route(
            endpoint_id=name,
            project_id=row["project_id"],
            branch_id=row["branch_id"],
            is_known=True,
            is_doomed=verifier is None,
            verifier=verifier or mock,
            allowed_ips=allowed_ips(row["settings"], is_protected=row["is_protected"]),  # (6)
            is_binding_required=is_binding_required(row["settings"]),
            is_disabled=bool(row["is_disabled"]),
            is_held=row["is_held"],
            socket_dir=None if running is None else running.socket_dir,
            generation=row["generation"] or 0,
            audit_level=AuditLevel(row["audit_level"]),
            is_recorded=True,
            is_volatile=True,
        )

    async def _led_to_the_past(self, route: Route, past: Past | None) -> Route:  # (7)
        standby = None
        if past is not None:
            async with self._database.reading() as tx:
                standby = await standby_store.find(tx, route.branch_id, past)
        return msgspec.structs.replace(
            route,
            endpoint_id=route.branch_id if past is None else joined(route.branch_id, past),
            is_read_only=True,
            socket_dir=None if standby is None else standby.socket_dir,
            generation=0 if standby is None else standby.generation,
            is_volatile=True,
        )

    async def _led_to_a_reader(self, route: Route) -> Route:  # (8)
        async with self._database.reading() as tx:
            standby = await standby_store.of_endpoint(tx, EndpointId(route.endpoint_id))
        is_there = standby is not None and not standby.is_orphan
        return msgspec.structs.replace(
            route,
            is_read_only=True,
            socket_dir=standby.socket_dir if standby is not None and is_there else None,
            generation=standby.generation if standby is not None and is_there else 0,
            is_volatile=True,
        )

    async def _is_reader(self, name: str) -> bool:
        try:
            endpoint_id = parse_endpoint_id(name)
        except InvalidIdError:
            return False
        async with self._database.reading() as tx:
            return await store.is_reader(tx, endpoint_id)

    async def _row(self, name: str, wanted_role: str) -> Any | None:
        query, parse = (_OF_BRANCH, parse_branch_id) if name.startswith("br-") else (_OF_ENDPOINT, parse_endpoint_id)
        try:
            name_id = parse(name)
        except InvalidIdError:
            return None
        try:
            role = parse_identifier("role name", wanted_role)
        except InvalidIdError:
            role = ""  # no role has this name
        async with self._database.reading() as tx:
            row = await tx.fetch_row(query, name_id, role)
        if row is None or row["id"] is None:
            return row
        endpoint_id = EndpointId(row["id"])
        if row["state"] == State.INIT and not row["has_roles"]:
            await self._waker.first_configured(endpoint_id)
            async with self._database.reading() as tx:
                row = await tx.fetch_row(query, name_id, role)
        if row is not None and _running(row) is not None and self._runner.is_changing(endpoint_id):
            # It is being suspended, perhaps: the answer is what comes of that.
            await self._runner.settled(endpoint_id)
            async with self._database.reading() as tx:
                row = await tx.fetch_row(query, name_id, role)
        return row

    def _verifier(self, role: RoleState | None) -> str | None:
        return role.verifier if role is not None and self._may_log_in(role) else None

    def _may_log_in(self, role: RoleState | None) -> bool:
        if role is None or not role.can_login or is_platform_role(role.name):
            return False
        return role.valid_until is None or role.valid_until > self._clock.now()

    async def pool(self, command: Pool) -> Pooler:
        endpoint_id, role = parse_endpoint_id(command.endpoint_id), parse_identifier("role name", command.role)
        if is_platform_role(role):
            raise ForbiddenError(f"{role} is not a tenant's")
        info = await self._agent.call(StartPooler(endpoint_id=endpoint_id, generation=command.generation, role=role))
        return Pooler(info.socket_dir)

    async def _record(self, command: Record) -> int:
        if not command.events:
            return 0
        if len(command.events) > EVENTS_MAX:
            raise BadRequestError(f"{len(command.events)} events in one message")
        events = []
        for event in command.events:
            if event.action not in _CONNECTION_ACTIONS:
                raise BadRequestError(f"a gateway may not record {event.action[:50]!r}")
            events.append(
                Event(
                    action=event.action,
                    actor=f"role:{event.role}",
                    at=event.at,
                    outcome="denied" if event.action == Action.CONNECTION_DENIED else "ok",
                    project_id=event.project_id,
                    branch_id=event.branch_id,
                    endpoint_id=event.endpoint_id,
                    address=event.address,
                    reason=event.reason,
                    details={name: value for name in _DETAILS if (value := getattr(event, name)) not in ("", 0, False)},
                )
            )
        async with self._database.transaction() as tx:
            await record(tx, *await _with_tags(tx, events))
        return len(events)

    async def _record_statements(self, command: RecordStatements) -> int:
        if len(command.statements) > EVENTS_MAX:
            raise BadRequestError(f"{len(command.statements)} statements in one message")
        by_project: defaultdict[str, list[StatementRecord]] = defaultdict(list)
        for statement in command.statements:
            by_project[statement.project_id].append(statement)
        async with self._database.reading() as tx:
            found = await tx.fetch("SELECT id FROM project WHERE id = ANY ($1)", sorted({*by_project, *command.lost}))
        if known := {row["id"] for row in found}:
            kept = {project_id: some for project_id, some in by_project.items() if project_id in known}
            gaps = [gap(_GATEWAY, each, count) for each, count in command.lost.items() if each in known]
            await self._statements.keep(kept, gaps, source=_GATEWAY)
        return len(command.statements)


async def _with_tags(tx: Transaction, events: Sequence[Event]) -> list[Event]:
    """What a session read is weighed by the kept tags of where it read it, and of that its gateway knows nothing. One
    statement for all of them."""
    branch_ids = sorted({it.branch_id for it in events if it.action in _READS and it.branch_id})
    if not branch_ids:
        return list(events)
    rows = await tx.fetch(
        """SELECT b.id, b.tags || p.tags AS tags FROM branch b JOIN project p ON p.id = b.project_id
            WHERE b.id = ANY ($1::text[]) AND (b.tags <> '{}' OR p.tags <> '{}')""",
        branch_ids,
    )
    kept = {row["id"]: ", ".join(sorted(KEPT.intersection(row["tags"]))) for row in rows}
    return [
        msgspec.structs.replace(it, details=it.details | {"tags": kept[it.branch_id]})
        if it.action in _READS and kept.get(it.branch_id)
        else it
        for it in events
    ]


_GATEWAY: Final = "platform:gateway"

_DETAILS: Final = (
    "session_id", "database", "application_name", "point", "jwks_id", "subject", "tls_version", "tls_cipher", "duration_ms", "bytes_in", "bytes_out",
    "rows_out", "was_cold",
)  # fmt: skip


class _Allowed(msgspec.Struct):
    ips: list[str]
    protected_branches_only: bool


class _Access(msgspec.Struct):
    """What of a project's settings decides who may knock. No defaults: what is missing denies."""

    allowed_ips: _Allowed
    block_public_connections: bool


def allowed_ips(settings: str, *, is_protected: bool) -> list[str] | None:
    """None: everybody may knock. An empty list: nobody."""
    try:
        access = msgspec.json.decode(settings, type=_Access)
    except msgspec.MsgspecError:
        return []
    if access.block_public_connections:
        return []
    if not access.allowed_ips.ips or (access.allowed_ips.protected_branches_only and not is_protected):
        return None
    return access.allowed_ips.ips


class _Binding(msgspec.Struct):
    require_channel_binding: bool = False
    """Not there in what was written before there was the switch."""


def is_binding_required(settings: str) -> bool:
    """What cannot be read requires it."""
    try:
        return msgspec.json.decode(settings, type=_Binding).require_channel_binding
    except msgspec.MsgspecError:
        return True


def _running(row: Any) -> Running | None:
    """None also while the first configuration is not applied: a server that runs then is nobody's yet."""
    if row["socket_dir"] is None or row["state"] == State.INIT:
        return None
    return Running(EndpointId(row["id"]), row["generation"], row["socket_dir"], row["pg_version"])


def _copied(row: Any) -> RoleState | None:
    if row["role"] is None:
        return None
    return RoleState(row["role"], row["verifier"], row["can_login"], row["valid_until"])

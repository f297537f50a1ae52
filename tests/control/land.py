"""A whole control plane on a real control database and a fake node: the land that tests of nouns are set in."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec

from cloister.base.clock import FakeClock
from cloister.base.database import Database
from cloister.base.directory import AnyEvent, Close, Freeze, Frozen, Invalidate, LookUp, Route, Thaw
from cloister.base.errors import UnavailableError
from cloister.base.ids import EndpointId, OperationId
from cloister.base.secret import Secret
from cloister.base.settings import Settings
from cloister.control.calling import Caller
from cloister.control.operations.model import Operation, Status
from cloister.control.platform import ControlPlane
from cloister.control.projects.model import NewProject
from cloister.control.services import ProjectCreated
from cloister.trust.access.permissions import Permission
from cloister.trust.access.principals import Principal
from cloister.trust.audit.events import Event, parse
from tests.control.fake_node import FakeKeys, FakeNode
from tests.token_issuer import document

ORG = "org-calm-forest-12345678"
ACCOUNT = UUID("00000000-0000-4000-8000-000000000001")
CALLER = Caller(
    Principal(ACCOUNT, 1, "ada@example.org", "Ada", {ORG: "admin"}), "request-1", "192.0.2.1", frozenset(Permission)
)
BOB = UUID("0b0b0b0b-0000-4000-8000-000000000001")
ANOTHER = Caller(
    replace(CALLER.principal, account_id=BOB, key_id=2, email="bob@example.org"),
    "request-2",
    "192.0.2.2",
    CALLER.grants,
)
"""Who may do the same, and has an account where `add_another` was called."""

PATIENCE_S = 60.0
# Of nobody but a test that is about to fail.
A_LOOK_S = 0.05

_NEXT_TRY = "SELECT run_at FROM operation WHERE id = $1 AND leased_until = '-infinity' AND run_at <> 'infinity'"
# Of one that nobody works on, and that waits for no other.


class FakeGateway:
    """A gateway's connection, as the directory server holds one. Answers a Freeze as it is told to."""

    def __init__(self, land: "Land") -> None:
        self.closed = asyncio.Event()
        self.heard: list[AnyEvent] = []
        self.answers = True
        self.has_unanswered = False
        self._land = land

    def send_event(self, event: msgspec.Struct) -> None:
        assert isinstance(event, Invalidate | Freeze | Thaw | Close)
        self.heard.append(event)
        if isinstance(event, Freeze) and self.answers:
            frozen = Frozen(endpoint_id=event.endpoint_id, token=event.token, has_unanswered=self.has_unanswered)
            answered: Any = self._land.plane.gateways.answered
            asyncio.get_running_loop().call_soon(answered, self, frozen)

    def names(self) -> list[str]:
        return [type(event).__name__ for event in self.heard]


class FakeIssuer:
    """Publishes what it is told to, or fails with it."""

    def __init__(self) -> None:
        self.publishes: bytes | Exception = document()
        self.asked: list[str] = []

    async def get(self, url: str, *, tenant: str) -> bytes:
        self.asked.append(url)
        if isinstance(self.publishes, Exception):
            raise self.publishes
        return self.publishes

    async def post_form(self, url: str, form: bytes, *, tenant: str, authorization: str | None = None) -> bytes:
        raise AssertionError(f"nobody logs in here: {url}")


class Land:
    def __init__(self, database: Database, **settings: Any) -> None:
        self.database = database
        # Starts at the real time: the rows' own times are the database's.
        self.clock = FakeClock(datetime.now(UTC))
        self.keys = FakeKeys()
        self.node = FakeNode(self.keys)
        self.node.now = self.clock.now
        self.issuer = FakeIssuer()
        self.settings = Settings(state_dir="/nonexistent", **settings)
        self.plane = self._new_plane()
        self._engine: asyncio.Task[None] | None = None

    def _new_plane(self) -> ControlPlane:
        plane = self.make_plane(fetcher=self.issuer)
        self.node.on_event = plane.heard
        return plane

    def make_plane(self, **more: Any) -> ControlPlane:
        """One that nobody tells of events: over this database, with these keys and this node."""
        return ControlPlane(
            self.settings,
            self.database,
            keys=self.keys,
            mock_key=Secret(b"m" * 32),
            control_key=Secret(b"c" * 32),
            clock=self.clock,
            agent=self.node,
            opener=self.node.open,
            **more,
        )

    @property
    def control(self) -> Any:
        return self.plane.control

    async def begin(self, *, runs_operations: bool = True) -> None:
        async with self.database.transaction() as tx:
            await tx.execute("INSERT INTO organization (id, name) VALUES ($1, 'Calm') ON CONFLICT DO NOTHING", ORG)
            await tx.execute(
                "INSERT INTO account (id, email, name) VALUES ($1, 'ada@example.org', 'Ada') ON CONFLICT DO NOTHING",
                ACCOUNT,
            )
        if runs_operations:
            self._engine = asyncio.create_task(self.plane.engine.run())

    async def settle(self) -> None:
        """Run what is due, where no engine runs by itself."""
        while await self.plane.engine.run_due():
            pass

    async def end(self) -> None:
        if self._engine is not None:
            self._engine.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._engine
        await self.plane.waker.close()
        await self.plane.sessions.close_all()

    async def restart_api(self) -> None:
        """The process dies and comes back; the node goes on."""
        await self.end()
        self.plane = self._new_plane()
        await self.begin()

    def connect_gateway(self) -> FakeGateway:
        gateway = FakeGateway(self)
        self.plane.directory.connections.add(gateway)  # type: ignore[arg-type]
        return gateway

    async def finish(self, operations: list[Operation], status: Status = Status.FINISHED) -> None:
        for operation in operations:
            ended = await self.plane.engine.wait(operation.id, timeout_s=PATIENCE_S)
            assert ended.status is status, (ended.action, ended.status, ended.error)

    async def finish_later(self, operations: list[Operation]) -> None:
        """The same for operations that have failed before and wait for their next try: lets the time pass for them. Never while
        one is worked on, however slowly: that would take its lease away, and its deadline."""
        for operation in operations:
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    with contextlib.suppress(UnavailableError):
                        ended = await self.plane.engine.wait(operation.id, timeout_s=A_LOOK_S)
                        assert ended.status is Status.FINISHED, (ended.action, ended.status, ended.error)
                        break
                    await self._next_try(operation.id)

    async def _next_try(self, operation_id: OperationId) -> None:
        async with self.database.reading() as tx:
            due_at = await tx.fetch_value(_NEXT_TRY, operation_id)
        if due_at is not None and due_at > self.clock.now():
            self.clock.advance(due_at - self.clock.now())
        self.plane.engine.kick(operation_id)

    async def project(self, **new: Any) -> ProjectCreated:
        created: ProjectCreated = await self.control.projects.create(CALLER, NewProject(**new))
        if self._engine is None:
            await self.settle()
        await self.finish(created.operations)
        return created

    async def add_another(self) -> None:
        async with self.database.transaction() as tx:
            await tx.execute("INSERT INTO account (id, email, name) VALUES ($1, 'bob@example.org', 'Bob')", BOB)

    async def sleeping_project(self, **new: Any) -> ProjectCreated:
        created = await self.project(**new)
        _, operations = await self.control.endpoints.suspend(CALLER, created.project.id, created.endpoint.id)
        await self.finish(operations)
        return created

    async def look_up(self, endpoint_id: str, role: str) -> Route:
        return await self.plane.directory.look_up(LookUp(endpoint=endpoint_id, role=role))

    async def row(self, endpoint_id: EndpointId) -> Any:
        async with self.database.reading() as tx:
            return await tx.fetch_row("SELECT * FROM endpoint WHERE id = $1", endpoint_id)

    async def actions(self) -> list[str]:
        """What the audit log holds, oldest first."""
        async with self.database.reading() as tx:
            return [row["action"] for row in await tx.fetch("SELECT action FROM audit_event ORDER BY seq")]

    async def events(self, action: str) -> list[Event]:
        """Of this action, oldest first."""
        async with self.database.reading() as tx:
            rows = await tx.fetch("SELECT body, personal FROM audit_event WHERE action = $1 ORDER BY seq", action)
            return [parse(row["body"], row["personal"]) for row in rows]

    async def details_of(self, action: str) -> list[dict[str, Any]]:
        return [event.details for event in await self.events(action)]


@contextlib.asynccontextmanager
async def a_land(database: Database, *, runs_operations: bool = True, **settings: Any) -> AsyncIterator[Land]:
    land = Land(database, **settings)
    await land.begin(runs_operations=runs_operations)
    try:
        yield land
    finally:
        await land.end()

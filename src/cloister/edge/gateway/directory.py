"""What the gateway asks the control plane, with a memory: routes for a moment, one question at a time for many askers.

A route of a running compute is believed for a second (its roles can change inside it), that of a sleeping one until it
is invalidated. When the API process is away, what was known serves on for a minute; when it is back, everything is
asked again, for an invalidation may have been lost.
"""

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cloister.base.directory import (
    AnyEvent,
    AppendRecording,
    BeginRecording,
    Compute,
    ConnectionEvent,
    EndRecording,
    Frozen,
    Invalidate,
    KeySet,
    LookUp,
    LookUpKeys,
    Pool,
    Record,
    RecordStatements,
    Route,
    Spoken,
    StatementRecord,
    Wake,
)
from cloister.base.errors import CloisterError, UnavailableError
from cloister.base.limits import WAKE_TIMEOUT_S
from cloister.base.rpc import Client
from cloister.edge.gateway.limits import (
    DIRECTORY_PATIENCE_S,
    KEYS_TIMEOUT_S,
    KEYS_TTL_S,
    KEYS_WISH_S,
    ROUTE_STALE_AFTER_S,
    ROUTE_STALE_S,
    ROUTE_TTL_ASLEEP_S,
    ROUTE_TTL_RUNNING_S,
    ROUTES_MAX,
)

log = logging.getLogger(__name__)

_KEEP_CONNECTED_S = 0.25
# Events come unasked, so the connection must stand also when nobody asks.

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Known:
    route: Route
    at: float

    def is_fresh(self, now: float) -> bool:
        may_change = self.route.socket_dir is not None or self.route.is_volatile
        return now - self.at < (ROUTE_TTL_RUNNING_S if may_change else ROUTE_TTL_ASLEEP_S)

    def is_usable(self, now: float) -> bool:
        return now - self.at < ROUTE_STALE_S


@dataclass(slots=True)
class _KnownKeys:
    sets: list[KeySet]
    at: float
    wished_at: float
    """When somebody named a key that is not among them."""


class Directory:
    """`run` keeps the connection; the others ask. `on_event` gets what the control plane says unasked, after this
    memory has taken notice; `on_reconnect` runs after a connection that replaced a broken one."""

    def __init__(self, path: Path, *, on_event: Callable[[AnyEvent], None], on_reconnect: Callable[[], None]) -> None:
        self._client = Client(
            path,
            events=AnyEvent,
            on_event=self._hear,
            on_connect=self._connected,
            connect_patience_s=DIRECTORY_PATIENCE_S,
        )
        self._on_event = on_event
        self._on_reconnect = on_reconnect
        self._was_connected = False
        self._routes: OrderedDict[tuple[str, str], _Known] = OrderedDict()
        self._keys: OrderedDict[str, _KnownKeys] = OrderedDict()
        self._pools: OrderedDict[tuple[str, int, str], str] = OrderedDict()
        self._generation = 0
        """Grows with every invalidation: an answer to a question from before is not remembered."""
        self._asking: dict[Hashable, asyncio.Task[Any]] = {}

    async def run(self) -> None:
        """Be connected, again and again, until cancelled."""
        try:
            while True:
                with contextlib.suppress(CloisterError):
                    await self._client.connect()
                await asyncio.sleep(_KEEP_CONNECTED_S)
        finally:
            for task in list(self._asking.values()):
                task.cancel()
            await asyncio.gather(*self._asking.values(), return_exceptions=True)
            await self._client.close()

    async def look_up(self, endpoint: str, role: str, database: str = "") -> Route:
        """Raises UnavailableError. The route may be a mock, and says so itself."""
        now = asyncio.get_running_loop().time()
        known = self._routes.get((endpoint, role))
        if known is not None and known.is_fresh(now):
            return known.route
        asking = self._once(("route", endpoint, role), lambda: self._ask_route(endpoint, role, database))
        if known is None or not known.is_usable(now):
            return await asyncio.shield(asking)
        try:
            async with asyncio.timeout(ROUTE_STALE_AFTER_S):
                return await asyncio.shield(asking)
        except (TimeoutError, UnavailableError):
            log.info("the directory does not answer: using what was known of %s", endpoint)
            return known.route

    async def keys(self, endpoint: str, *, is_refresh: bool = False) -> list[KeySet]:
        """Whose tokens are good there. `is_refresh`: ask their issuers first. Raises CloisterError."""
        now = asyncio.get_running_loop().time()
        known = self._keys.get(endpoint)
        if known is not None and not is_refresh and now - known.at < KEYS_TTL_S:
            return known.sets
        asking = self._once(("keys", endpoint, is_refresh), lambda: self._ask_keys(endpoint, is_refresh=is_refresh))
        return list(await asyncio.shield(asking))

    def refresh_keys(self, endpoint: str) -> None:
        """Somebody names a key that is not known there. Once in a while the issuers are asked; nobody waits for it."""
        known, now = self._keys.get(endpoint), asyncio.get_running_loop().time()
        if known is not None and now - known.wished_at >= KEYS_WISH_S:
            known.wished_at = now
            self._once(("keys", endpoint, True), lambda: self._ask_keys(endpoint, is_refresh=True))

    async def wake(self, endpoint_id: str, stale_generation: int) -> Compute:
        """One question for all who wait for the same endpoint. Raises CloisterError."""
        key = ("wake", endpoint_id, stale_generation)
        return await asyncio.shield(self._once(key, lambda: self._ask_wake(endpoint_id, stale_generation)))

    async def pool(self, endpoint_id: str, generation: int, role: str) -> str:
        """Where the pooler's socket is, started if need be. One question for all who wait for the same. Raises
        CloisterError."""
        key = ("pool", endpoint_id, generation, role)
        return await asyncio.shield(self._once(key, lambda: self._ask_pool(endpoint_id, generation, role)))

    def known_pool(self, route: Route, role: str) -> str | None:
        """What `pool` said before of the compute that this route names."""
        return self._pools.get((route.endpoint_id, route.generation, role)) if route.socket_dir is not None else None

    def forget_pool(self, route: Route, role: str) -> None:
        self._pools.pop((route.endpoint_id, route.generation, role), None)

    async def record(self, events: list[ConnectionEvent]) -> None:
        await self._client.call(Record(events))

    async def record_statements(self, statements: list[StatementRecord], lost: dict[str, int]) -> None:
        await self._client.call(RecordStatements(statements=statements, lost=lost))

    async def begin_recording(self, command: BeginRecording) -> str:
        """Its id. Raises CloisterError: then there is no session."""
        return await self._client.call(command, timeout_s=WAKE_TIMEOUT_S)

    async def append_recording(self, recording_id: str, chunk: int, statements: list[Spoken]) -> None:
        await self._client.call(AppendRecording(recording_id=recording_id, chunk=chunk, statements=statements))

    async def end_recording(self, recording_id: str, reason: str) -> None:
        await self._client.call(EndRecording(recording_id=recording_id, reason=reason))

    async def frozen(self, answer: Frozen) -> None:
        await self._client.call(answer)

    def forget(self, endpoint: str, role: str) -> None:
        """A proof failed against what was remembered: perhaps the password is newer."""
        self._routes.pop((endpoint, role), None)

    def forget_compute(self, endpoint_id: str) -> None:
        self._forget(lambda route: route.endpoint_id == endpoint_id)

    # -- inside

    async def _ask_route(self, endpoint: str, role: str, database: str) -> Route:
        generation = self._generation
        route = await self._client.call(LookUp(endpoint=endpoint, role=role, database=database))
        if generation == self._generation:
            self._routes[endpoint, role] = _Known(route, asyncio.get_running_loop().time())
            self._routes.move_to_end((endpoint, role))
            if len(self._routes) > ROUTES_MAX:
                self._routes.popitem(last=False)
        return route

    async def _ask_keys(self, endpoint: str, *, is_refresh: bool) -> list[KeySet]:
        generation, known = self._generation, self._keys.get(endpoint)
        answer = await self._client.call(LookUpKeys(endpoint=endpoint, is_refresh=is_refresh), timeout_s=KEYS_TIMEOUT_S)
        if generation == self._generation:
            now = asyncio.get_running_loop().time()
            self._keys[endpoint] = _KnownKeys(answer.sets, now, known.wished_at if known is not None else -KEYS_WISH_S)
            self._keys.move_to_end(endpoint)
            if len(self._keys) > ROUTES_MAX:
                self._keys.popitem(last=False)
        return answer.sets

    async def _ask_wake(self, endpoint_id: str, stale_generation: int) -> Compute:
        compute = await self._client.call(
            Wake(endpoint_id=endpoint_id, stale_generation=stale_generation), timeout_s=WAKE_TIMEOUT_S
        )
        self.forget_compute(endpoint_id)  # routes that say it sleeps
        return compute

    async def _ask_pool(self, endpoint_id: str, generation: int, role: str) -> str:
        pooler = await self._client.call(Pool(endpoint_id=endpoint_id, generation=generation, role=role))
        self._pools[endpoint_id, generation, role] = pooler.socket_dir
        if len(self._pools) > ROUTES_MAX:
            self._pools.popitem(last=False)
        return pooler.socket_dir

    def _once(self, key: Hashable, ask: Callable[[], Any]) -> asyncio.Task[Any]:
        """Join the question under way, or ask it. The tasks are awaited by those who ask, and ended by `run`."""
        if (task := self._asking.get(key)) is None:
            task = asyncio.get_running_loop().create_task(ask())
            self._asking[key] = task
            task.add_done_callback(lambda done: self._answered(key, done))
        return task

    def _answered(self, key: Hashable, task: asyncio.Task[Any]) -> None:
        del self._asking[key]
        if not task.cancelled():
            task.exception()  # whoever still waits gets it; if nobody does, it is of no interest

    def _hear(self, event: AnyEvent) -> None:
        match event:
            case Invalidate(endpoint_id="", project_id=""):
                self._forget(lambda _route: True)
            case Invalidate(endpoint_id=endpoint_id, project_id=project_id):
                self._forget(
                    lambda route: (
                        (endpoint_id != "" and route.endpoint_id == endpoint_id)
                        or (project_id != "" and route.project_id == project_id)
                    )
                )
            case _:
                self._forget(lambda route: route.endpoint_id == event.endpoint_id)
        self._on_event(event)

    def _connected(self) -> None:
        self._forget(lambda _route: True)
        if self._was_connected:
            log.info("the directory is back")
            self._on_reconnect()
        self._was_connected = True

    def _forget(self, is_meant: Callable[[Route], bool]) -> None:
        # An endpoint's name and its id are the same word, but an unknown one has a route without a project.
        self._generation += 1
        self._keys.clear()  # few have any, and what was taken away must be gone
        for key in [key for key, known in self._routes.items() if is_meant(known.route)]:
            del self._routes[key]

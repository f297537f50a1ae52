"""What runs through this worker, by endpoint, and what the control plane may do to it: freeze, thaw, close, recheck.

Freezing is how a suspend is atomic: from the answer on, no byte of a client reaches the compute, and the answer says
whether one was under way. A client that is just being connected counts as under way.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol

from cloister.base.directory import AnyEvent, Close, Freeze, Frozen, Invalidate, Route, Thaw
from cloister.base.errors import CloisterError
from cloister.base.ipallow import AllowList, IpAddress
from cloister.edge.gateway.directory import Directory
from cloister.edge.gateway.errors import ip_not_allowed
from cloister.edge.gateway.limits import FREEZE_S_MAX, INVALIDATE_WITHIN_S

log = logging.getLogger(__name__)


class Flow(Protocol):
    """What goes on between a client and its compute: a relay, or a query of a client that speaks HTTP."""

    @property
    def is_unanswered(self) -> bool: ...

    def freeze(self) -> None: ...

    def thaw(self) -> None: ...

    def end(self, reason: str, *, sqlstate: str = "", text: str = "") -> None: ...


@dataclass(eq=False, slots=True)
class Running:
    """A client that has passed the gate. `relay` is None while it is being connected."""

    route: Route
    role: str
    address: IpAddress
    backend_pid: int = 0
    backend_secret: bytes = b""
    socket_dir: str = ""
    relay: Flow | None = None
    is_refused: bool = False
    """Its address was removed from the allowlist, or it was put on hold, while it was being connected."""
    was_cancelled: bool = False
    """A cancel request for it came, and may be passed on: a late one must not meet another client."""
    is_given_on: bool = False
    """Its session of the compute goes on to another client, so nothing that is meant for this one may reach it."""


@dataclass(eq=False, slots=True)
class _Endpoint:
    running: set[Running] = field(default_factory=set)
    freeze_token: int | None = None
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    """Not set while frozen: new clients wait for it."""
    thaw_timer: asyncio.TimerHandle | None = None


class Sessions:
    """`spawn` starts a coroutine in the worker's task group."""

    def __init__(self, directory: Directory, spawn: Callable[[Coroutine[Any, Any, None]], object]) -> None:
        self._directory = directory
        self._spawn = spawn
        self._endpoints: dict[str, _Endpoint] = {}

    # -- what a session calls

    async def pass_gate(self, running: Running) -> None:
        """Wait while the endpoint is frozen, then count as running."""
        while True:
            endpoint = self._endpoints.setdefault(running.route.endpoint_id, _Endpoint())
            if endpoint.freeze_token is None:
                endpoint.running.add(running)
                return
            await endpoint.opened.wait()

    def leave(self, running: Running) -> None:
        endpoint = self._endpoints.get(running.route.endpoint_id)
        if endpoint is not None:
            endpoint.running.discard(running)
            if not endpoint.running and endpoint.freeze_token is None:
                del self._endpoints[running.route.endpoint_id]

    def count(self, endpoint_id: str) -> int:
        endpoint = self._endpoints.get(endpoint_id)
        return 0 if endpoint is None else len(endpoint.running)

    @property
    def total(self) -> int:
        return sum(len(endpoint.running) for endpoint in self._endpoints.values())

    def end_all(self, reason: str, sqlstate: str, text: str) -> None:
        for running in self._all():
            if running.relay is not None:
                running.relay.end(reason, sqlstate=sqlstate, text=text)

    # -- what the control plane says

    def hear(self, event: AnyEvent) -> None:
        match event:
            case Freeze():
                self._freeze(event)
            case Thaw():
                self._thaw(event.endpoint_id, event.token)
            case Close():
                self._close(event)
            case Invalidate():
                self.recheck(
                    lambda route: (
                        event.endpoint_id in ("", route.endpoint_id) and event.project_id in ("", route.project_id)
                    )
                )

    def start_over(self) -> None:
        """The control plane was away: what it had frozen is forgotten, and every address is checked again."""
        for endpoint_id, endpoint in list(self._endpoints.items()):
            if endpoint.freeze_token is not None:
                self._thaw(endpoint_id, endpoint.freeze_token)
        self.recheck(lambda _route: True)

    def recheck(self, is_meant: Callable[[Route], bool]) -> None:
        """End the sessions of addresses that are no longer allowed, and of whom the operator holds."""
        meant = [running for running in self._all() if is_meant(running.route)]
        for endpoint_id, role in {(running.route.endpoint_id, running.role) for running in meant}:
            concerned = [each for each in meant if (each.route.endpoint_id, each.role) == (endpoint_id, role)]
            self._spawn(self._recheck(endpoint_id, role, concerned))

    async def _recheck(self, endpoint_id: str, role: str, concerned: list[Running]) -> None:
        try:
            async with asyncio.timeout(INVALIDATE_WITHIN_S):
                route = await self._directory.look_up(endpoint_id, role)
        except (TimeoutError, CloisterError) as error:
            # Nothing says that they are still allowed; but ending every session because the API is being restarted
            # would be worse than a list that is a moment old. When it is back, all are checked again.
            log.warning("cannot recheck the sessions of %s: %s", endpoint_id, error)
            return
        if route.is_held:
            for running in concerned:
                running.is_refused = True
                if running.relay is not None:
                    running.relay.end(
                        "held", sqlstate="57P01", text="terminating connection due to administrator command"
                    )
            return
        allowed = None if route.allowed_ips is None else AllowList.read(route.allowed_ips)
        for running in concerned:
            if allowed is None or running.address in allowed:
                self._follow_level(running, route)
                continue
            running.is_refused = True
            if running.relay is not None:
                refusal = ip_not_allowed(running.address)
                running.relay.end(refusal.reason, sqlstate=refusal.sqlstate, text=refusal.public)

    @staticmethod
    def _follow_level(running: Running, route: Route) -> None:
        """A session is watched from its first statement or not at all: where the level is another now, it ends."""
        if running.route.audit_level is route.audit_level:
            return
        running.route = route
        if running.relay is not None:
            text = "terminating connection because the audit level of the project changed"
            running.relay.end("audit_level_changed", sqlstate="57P01", text=text)

    # -- inside

    def _all(self) -> list[Running]:
        return [running for endpoint in self._endpoints.values() for running in endpoint.running]

    def _freeze(self, event: Freeze) -> None:
        endpoint = self._endpoints.setdefault(event.endpoint_id, _Endpoint())
        endpoint.freeze_token = event.token
        endpoint.opened.clear()
        if endpoint.thaw_timer is not None:
            endpoint.thaw_timer.cancel()
        endpoint.thaw_timer = asyncio.get_running_loop().call_later(
            FREEZE_S_MAX, self._thaw, event.endpoint_id, event.token
        )
        has_unanswered = False
        for running in endpoint.running:
            if running.relay is None:
                has_unanswered = True
            else:
                running.relay.freeze()
                has_unanswered = has_unanswered or running.relay.is_unanswered
        answer = Frozen(endpoint_id=event.endpoint_id, token=event.token, has_unanswered=has_unanswered)
        self._spawn(self._answer(answer))

    async def _answer(self, answer: Frozen) -> None:
        try:
            await self._directory.frozen(answer)
        except CloisterError as error:
            log.warning("cannot answer a freeze of %s: %s", answer.endpoint_id, error)
            self._thaw(answer.endpoint_id, answer.token)

    def _thaw(self, endpoint_id: str, token: int) -> None:
        """Only the newest freeze can be undone: an older one's thaw comes too late."""
        endpoint = self._endpoints.get(endpoint_id)
        if endpoint is None or endpoint.freeze_token != token:
            return
        self._open(endpoint_id, endpoint)
        for running in endpoint.running:
            if running.relay is not None:
                running.relay.thaw()

    def _close(self, event: Close) -> None:
        endpoint = self._endpoints.get(event.endpoint_id)
        if endpoint is None:
            return
        for running in list(endpoint.running):
            if running.relay is not None:
                running.relay.end(
                    event.reason, sqlstate="57P01", text="terminating connection due to administrator command"
                )
        self._open(event.endpoint_id, endpoint)

    def _open(self, endpoint_id: str, endpoint: _Endpoint) -> None:
        endpoint.freeze_token = None
        if endpoint.thaw_timer is not None:
            endpoint.thaw_timer.cancel()
            endpoint.thaw_timer = None
        endpoint.opened.set()
        if not endpoint.running:
            del self._endpoints[endpoint_id]

"""What the control plane tells the gateways, and the agreement that makes a suspend atomic.

Freeze asks every connected gateway to forward nothing more to a compute; each answers with `Frozen`. Once all have, and
the server has been seen idle after that, nothing can begin there: what clients send meanwhile is held by their gateway,
until `Thaw` (go on) or `Close` (the compute is gone; the next byte asks for a wake).

A gateway that dies takes its clients with it, so its silence counts as an answer. One that connects meanwhile has no
socket of the compute yet, and asks: `LookUp` and `Wake` wait for the end of a suspend. All this is for the clients' sake.
That the copy of the catalog is exact does not depend on it: see `suspend.py`.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection
from enum import Enum, auto
from typing import Final

from cloister.base.directory import Close, Freeze, Frozen, Invalidate, Thaw
from cloister.base.ids import EndpointId, ProjectId
from cloister.base.rpc import Connection

_log = logging.getLogger(__name__)

FREEZE_TIMEOUT_S: Final = 2.0
# A gateway answers from its event loop, in a millisecond; held clients wait for this long at worst.


class Stillness(Enum):
    """What came of a Freeze."""

    QUIET = auto()
    """All gateways hold their clients, and no client waits for an answer."""
    UNANSWERED = auto()
    """All hold their clients, but the compute owes somebody an answer."""
    SILENCE = auto()
    """A gateway did not answer in time: it may still be forwarding."""


class Gateways:
    """Everybody connected to the directory. `connections` gives them as they are at the moment of asking."""

    def __init__(self, connections: Callable[[], Collection[Connection]]) -> None:
        self._connections = connections
        self._last_token = time.time_ns()
        # Tokens of one start of this process must not be mistaken for those of another.
        self._freezing: dict[int, dict[Connection, asyncio.Future[bool]]] = {}

    def invalidate(self, *, endpoint_id: EndpointId | None = None, project_id: ProjectId | None = None) -> None:
        self._send(Invalidate(endpoint_id=endpoint_id or "", project_id=project_id or ""))

    def close(self, endpoint_id: str, reason: str) -> None:
        """`endpoint_id` here and below: as `Route` has it, so that it may be a branch's at a point too."""
        self._send(Close(endpoint_id=endpoint_id, reason=reason))

    def thaw(self, endpoint_id: str, token: int) -> None:
        self._send(Thaw(endpoint_id=endpoint_id, token=token))

    async def freeze(self, endpoint_id: str) -> tuple[int, Stillness]:
        """Whatever comes of it, follow it with `thaw` or `close`."""
        self._last_token += 1
        token = self._last_token
        answers: dict[Connection, asyncio.Future[bool]] = {
            connection: asyncio.get_running_loop().create_future() for connection in self._connections()
        }
        self._freezing[token] = answers
        try:
            self._send(Freeze(endpoint_id=endpoint_id, token=token))
            async with asyncio.timeout(FREEZE_TIMEOUT_S):
                unanswered = [await self._answer(connection, answer) for connection, answer in answers.items()]
        except TimeoutError:
            _log.warning("a gateway did not answer a freeze of %s", endpoint_id)
            return token, Stillness.SILENCE
        finally:
            del self._freezing[token]
        return token, Stillness.UNANSWERED if any(unanswered) else Stillness.QUIET

    def answered(self, connection: Connection, frozen: Frozen) -> None:
        """A late or unknown answer changes nothing."""
        answer = self._freezing.get(frozen.token, {}).get(connection)
        if answer is not None and not answer.done():
            answer.set_result(frozen.has_unanswered)

    @staticmethod
    async def _answer(connection: Connection, answer: asyncio.Future[bool]) -> bool:
        """False also for a gateway that went away: so did its clients' sessions."""
        gone: asyncio.Future[bool] = asyncio.ensure_future(connection.closed.wait())
        either: set[asyncio.Future[bool]] = {answer, gone}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
        return answer.result() if answer.done() else False

    def _send(self, event: Invalidate | Freeze | Thaw | Close) -> None:
        for connection in self._connections():
            connection.send_event(event)

"""Looking up the names of rules, a few at a time for each project.

A thread that waits for a name's servers cannot be called back, and of threads there are so many. Whose names hang, as those of
servers of a tenant's own may, waits for their own, and no other project waits with them.
"""

import asyncio
import functools
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final
from weakref import WeakValueDictionary

LOOK_UPS_MAX: Final = 64
# Threads, made when there is something for them to do.

SHARE: Final = 4
# Of one project. Names that answer take milliseconds, and a project opens five connections a second.

LookUp = Callable[[str, int], list[str]]


def look_up(host: str, port: int) -> list[str]:
    """By the host's own resolver. Raises OSError."""
    return [str(sockaddr[0]) for *_, sockaddr in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


class Names:
    def __init__(self, look_up: LookUp = look_up) -> None:
        self._look_up = look_up
        self._threads = ThreadPoolExecutor(LOOK_UPS_MAX, thread_name_prefix="names")
        self._shares: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        """Kept by those who look something up, or wait for that."""

    async def resolve(self, project_id: str, host: str, port: int) -> list[str]:
        """Raises OSError. The project's turn is over when the look-up is, though nobody waits for it any longer."""
        share = self._shares.setdefault(project_id, asyncio.Semaphore(SHARE))
        await share.acquire()
        looking = asyncio.get_running_loop().run_in_executor(self._threads, self._look_up, host, port)
        looking.add_done_callback(functools.partial(_end, share))
        return await asyncio.shield(looking)


def _end(share: asyncio.Semaphore, looking: asyncio.Future[list[str]]) -> None:
    if not looking.cancelled():
        looking.exception()  # which nobody may wait for
    share.release()

"""Work that is done again and again beside everything else, and that nothing it meets may end: an exception that left its loop
would end the API with it."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from logging import Logger

from cloister.base.errors import CloisterError


async def repeat(
    work: Callable[[], Awaitable[object]],
    every_s: float,
    log: Logger,
    doing: str,
    *,
    at_once: bool = True,
    poked: asyncio.Event | None = None,
) -> None:
    """Until cancelled, with a pause in between; not `at_once`, the pause comes first too, for what can wait while everything
    starts. Whoever sets `poked` ends the pause; set during a round, it ends the one that follows. `doing` is for the log."""
    if not at_once:
        await asyncio.sleep(every_s)
    while True:
        if poked is not None:
            poked.clear()
        try:
            await work()
        except CloisterError as error:
            log.warning("%s: %s", doing, error)
        except Exception:  # whatever it is, the next round comes
            log.exception("%s failed", doing)
        if poked is None:
            await asyncio.sleep(every_s)
        else:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(every_s):
                    await poked.wait()

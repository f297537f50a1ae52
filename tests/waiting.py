"""Waiting for somebody who must wait."""

import asyncio
from typing import Any, Final

from cloister.base.database import Transaction

_WAITS: Final = """
    SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE NOT l.granted AND a.datname = current_database())"""


async def until_it_waits(tx: Transaction, task: "asyncio.Task[Any]") -> None:
    """For a lock of the control database; or until it has ended."""
    async with asyncio.timeout(10):
        while not (task.done() or await tx.fetch_value(_WAITS)):  # noqa: ASYNC110 - another session's lock has no event
            await asyncio.sleep(0.01)

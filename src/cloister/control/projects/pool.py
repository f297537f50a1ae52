"""Keeps some volumes ready, so that creating a project only takes one.

One at a time, so that formatting never stands in the way of those who wake a compute; what fails is tried again with
growing pauses. A volume of the pool has its own key from the beginning; until it is taken its id is nobody's.
"""

import asyncio
import logging
from typing import Final

from cloister.base.database import Database
from cloister.base.errors import CloisterError
from cloister.base.ids import new_branch_id, new_project_id, new_timeline_id
from cloister.control.computes.agent import Agent
from cloister.control.projects import store
from cloister.control.projects.engines import Engines
from cloister.control.projects.operations import VOLUME_TIMEOUT_S, Keys, create_volume
from cloister.trust.audit import Action, Event, record

_log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 30.0
# The safety net: whoever takes a volume pokes us.
PAUSE_FIRST_S: Final = 1.0
PAUSE_MAX_S: Final = 300.0
# A full disk does not become empty by trying.


class VolumePool:
    def __init__(
        self, database: Database, agent: Agent, keys: Keys, engines: Engines, *, ready: int, size_bytes: int
    ) -> None:
        self._database = database
        self._agent = agent
        self._keys = keys
        self._engines = engines
        self._ready = ready
        self._size_bytes = size_bytes
        self._poked = asyncio.Event()

    def poke(self) -> None:
        """One was taken."""
        self._poked.set()

    async def run(self) -> None:
        """Until cancelled."""
        failures = 0
        while True:
            self._poked.clear()
            try:
                while await self.fill_one():
                    failures = 0
                pause_s = LOOK_EVERY_S
            except CloisterError as error:
                failures += 1
                pause_s = min(PAUSE_FIRST_S * 2.0 ** (failures - 1), PAUSE_MAX_S)
                _log.warning("no volume for the pool, next try in %g s: %s", pause_s, error)
                await asyncio.sleep(pause_s)
                continue
            try:
                async with asyncio.timeout(pause_s):
                    await self._poked.wait()
            except TimeoutError:
                continue

    async def fill_one(self) -> bool:
        """Make one more volume ready if one is missing; say whether it was."""
        pg_version = await self._engines.default()
        async with self._database.transaction() as tx:
            volume = await store.unfinished_volume(tx)
            if volume is None:
                if await store.spare_volumes(tx, pg_version) >= self._ready:
                    return False
                volume = await store.add_volume(
                    tx,
                    new_project_id(),
                    new_branch_id(),
                    new_timeline_id(),
                    pg_version=pg_version,
                    size_bytes=self._size_bytes,
                )

        await self._keys.create(volume.project_id)
        await self._agent.call(create_volume(volume), timeout_s=VOLUME_TIMEOUT_S)

        async with self._database.transaction() as tx:
            await store.mark_volume(tx, volume.project_id, "ready")
            await record(
                tx,
                Event(action=Action.VOLUME_CREATE, actor="platform:api", project_id=volume.project_id, reason="pool"),
            )
        return True

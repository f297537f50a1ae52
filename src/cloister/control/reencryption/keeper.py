"""Sees re-encryptions through: asks the agent how far each is, and says when a copy may take its volume's place.

It compares and keeps nothing that a crash could lose: the agent is told the same thing at every look, and what it says decides.
A volume that has the new key is done, whoever was cut off before saying so.

A copy that is ready waits until its project sleeps, for then nobody is paused; for PATIENCE at most. One that is urgent does
not wait. Clients of a project that is paused are disconnected as by a suspend, and their next connection waits.
"""

import asyncio
import contextlib
import logging
from datetime import datetime, timedelta
from typing import Final

from cloister.base.errors import CloisterError, ConflictError, UnprocessableError
from cloister.base.ids import ProjectId
from cloister.control.computes import store as computes
from cloister.control.computes.runner import Cause
from cloister.control.computes.suspend import Suspender
from cloister.control.reencryption import store
from cloister.control.reencryption.model import Reencryption, State, Wish
from cloister.control.reencryption.service import PLATFORM, Means, begin, event_of
from cloister.control.repeating import repeat
from cloister.node.commands import CopyInfo, CopyState, CopyVolume, GetVolume, StopCopy, SwitchVolume
from cloister.trust.audit import record
from cloister.trust.keys.commands import OnBehalf

_log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 2.0
# How long a copy that is ready waits at least.

AT_ONCE_MAX: Final = 2
# Are copied. Each takes a CPU and the disk, as its pace lets it; the others wait in the order in which they were asked for.

STANDING_MAX: Final = 16
# With those that are ready and wait for their project to sleep: a process each, which holds keys.

RETRY: Final = timedelta(minutes=1)
# After a failure: a disk that is full, a key that is disabled.

PATIENCE: Final = timedelta(days=1)
# A project that has not slept for so long after its copy was ready is paused.

POLICY_BATCH: Final = 10

_US: Final = OnBehalf(actor=PLATFORM)
_PAUSE: Final = Cause(PLATFORM, "re-encryption")


class ReencryptionKeeper:
    def __init__(self, means: Means, suspender: Suspender) -> None:
        self._means = means
        self._database = means.database
        self._agent = means.agent
        self._keys = means.keys
        self._clock = means.clock
        self._suspender = suspender
        self._wanted = asyncio.Event()
        self._failed_at: dict[tuple[ProjectId, int], datetime] = {}

    def poke(self) -> None:
        """Something was asked for."""
        self._failed_at.clear()
        self._wanted.set()

    async def run(self) -> None:
        """Until cancelled."""
        await repeat(self.pass_once, LOOK_EVERY_S, _log, "looking after re-encryptions", poked=self._wanted)

    async def pass_once(self) -> None:
        await self._begin_what_is_old()
        async with self._database.reading() as tx:
            under_way = await store.under_way(tx)
        copying = [it for it in under_way if it.state is State.COPYING]
        ready = [it for it in copying if it.ready_at is not None]
        standing = [*ready, *[it for it in copying if it.ready_at is None][:AT_ONCE_MAX]][:STANDING_MAX]
        for it in [*(it for it in under_way if it.state is not State.COPYING), *standing]:
            try:
                await self._look_at(it)
            except CloisterError as error:
                _log.info("%s is not encrypted anew yet: %s", it.project_id, error)
                self._failed_at[it.project_id, it.material] = self._clock.now()
                await self._note(it, None, error.public)

    async def _look_at(self, it: Reencryption) -> None:
        match it.state:
            case State.COPYING:
                if not self._failed_lately(it.project_id, it.material):
                    await self._advance(it)
            case State.PAUSED:
                await self._agent.call(StopCopy(project_id=it.project_id, is_dropped=False))
            case State.CANCELLING:
                await self._cancel(it)

    async def _advance(self, it: Reencryption) -> None:
        info = await self._agent.call(
            CopyVolume(project_id=it.project_id, material=it.material, bytes_per_s=it.wish.bytes_per_s)
        )
        if info.material == it.material:
            if info.state is not CopyState.SWITCHING:
                await self._finish(it, info)
            return
        if info.state is CopyState.FAILED:
            self._failed_at[it.project_id, it.material] = self._clock.now()
        is_ready = info.state in (CopyState.READY, CopyState.SWITCHING)
        ready_at = (it.ready_at or self._clock.now()) if is_ready else None
        await self._note(it, info, info.problem, ready_at)
        if info.state is not CopyState.READY:
            return
        assert ready_at is not None
        may_pause = it.wish.is_urgent or self._clock.now() - ready_at >= PATIENCE
        if not info.is_in_use or may_pause:
            await self._switch(it, stops_computes=may_pause)

    async def _switch(self, it: Reencryption, *, stops_computes: bool) -> None:
        """The computes are put to sleep as by a suspend; the agent stops whatever wakes in between."""
        if stops_computes:
            async with self._database.reading() as tx:
                endpoints = await computes.ids_of_project(tx, it.project_id)
            for endpoint_id in endpoints:
                await self._suspender.at_once(endpoint_id, _PAUSE)
        try:
            await self._agent.call(SwitchVolume(project_id=it.project_id, stops_computes=stops_computes))
        except ConflictError as error:
            _log.info("the copy of %s waits: %s", it.project_id, error)
        self._wanted.set()  # it takes some moments

    async def _finish(self, it: Reencryption, info: CopyInfo) -> None:
        """The volume has the new key. The old one opens nothing that is there any more: it is destroyed, and then it is done.
        With a protected branch the database lets it go seven days later, and the broker sees to that."""
        try:
            await self._keys.retire(it.project_id, it.old_material, _US)
            is_gone = True
        except UnprocessableError:
            is_gone = False
        async with self._database.transaction() as tx:
            if await store.finish(tx, it, State.DONE, info.paused_s):
                details: dict[str, object] = {"old_key": "destroyed" if is_gone else "destroyed after seven days"}
                if info.paused_s is not None:
                    details["paused_ms"] = round(info.paused_s * 1000)
                await record(tx, await event_of(tx, None, it, "done", details))

    async def _cancel(self, it: Reencryption) -> None:
        await self._agent.call(StopCopy(project_id=it.project_id, is_dropped=True))
        volume = await self._agent.call(GetVolume(it.project_id))
        if volume.material == it.material:  # it was quicker than whoever wanted to cancel it
            await self._finish(it, CopyInfo(state=CopyState.DONE, material=volume.material))
            return
        with contextlib.suppress(UnprocessableError):  # protected: the next attempt takes this key
            await self._keys.retire(it.project_id, it.material, _US)
        async with self._database.transaction() as tx:
            if await store.finish(tx, it, State.CANCELLED, None):
                await record(tx, await event_of(tx, None, it, "cancelled"))

    async def _begin_what_is_old(self) -> None:
        """By the policies of organizations. One that cannot be begun is tried again at the next look that is not too soon."""
        now = self._clock.now()
        async with self._database.reading() as tx:
            overdue = await store.overdue(tx, now, POLICY_BATCH)
        for project_id in overdue:
            if self._failed_lately(project_id, 0):
                continue
            try:
                await begin(self._means, project_id, Wish(), None)
            except CloisterError as error:
                _log.warning("the data of %s is due to be encrypted anew: %s", project_id, error)
                self._failed_at[project_id, 0] = now

    def _failed_lately(self, project_id: ProjectId, material: int) -> bool:
        at = self._failed_at.get((project_id, material))
        return at is not None and self._clock.now() - at < RETRY

    async def _note(
        self, it: Reencryption, info: CopyInfo | None, problem: str, ready_at: datetime | None = None
    ) -> None:
        if info is None:
            info = CopyInfo(
                state=CopyState.FAILED, material=it.old_material, passed_bytes=it.passed_bytes, used_bytes=it.used_bytes
            )
        async with self._database.transaction() as tx:
            await store.note(tx, it, info, ready_at, problem)

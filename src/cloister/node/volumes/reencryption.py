"""Volumes that are being encrypted anew: one thread each, which copies while the volume is used as always.

A copy goes through `CopyState`: it takes over everything at its pace, reads it back, and is ready. From then on it takes over
now and then what was written since. When the agent has closed the volume, `complete` has it take over the rest at full speed,
and then take the volume's place (`encrypted.py`).

What must stay true: until that moment the volume is what it was, whatever happens here; stopped or killed at any point, a
copy goes on where it was; and no thread here waits for a daemon that has gone silent longer than PATIENCE_S.
"""

import asyncio
import logging
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from cloister.base.errors import CloisterError, ConflictError, InternalError
from cloister.base.ids import ProjectId
from cloister.node.commands import CopyInfo, CopyState
from cloister.node.volumes.copying import Copy, Pace, StoppedError
from cloister.node.volumes.model import Driver, KeySource

log = logging.getLogger(__name__)

COPIES_MAX: Final = 16
# Threads, most of which rest. The API has no more under way.

REST_S: Final = 10.0
REST_FACTOR: Final = 5
# A copy that is ready looks again after so long, or so many times as long as the last look took.

LOOK_S: Final = 0.25
# How soon a rest is over when it must be.

PATIENCE_S: Final = 60.0
# A chunk takes a millisecond, or at the slowest pace seconds.


class _Job:
    def __init__(self, material: int, bytes_per_s: int | None) -> None:
        self.material = material
        self.pace = Pace(bytes_per_s)
        self.state = CopyState.COPYING
        self.copy: Copy | None = None
        self.used_bytes = 0
        self.is_last = threading.Event()
        self.problem = ""
        self.work: asyncio.Future[None] | None = None

    def wait(self, seconds: float) -> None:
        """Raises StoppedError."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self.is_last.wait(LOOK_S):
            self.pace.spend(0)


class Reencryptions:
    def __init__(self, driver: Driver, keys: KeySource) -> None:
        self._driver = driver
        self._keys = keys
        self._jobs: dict[ProjectId, _Job] = {}
        self._completing: set[ProjectId] = set()
        self._paused_s: dict[ProjectId, float] = {}
        self._threads = ThreadPoolExecutor(COPIES_MAX, "copies")

    def info(self, project_id: ProjectId) -> CopyInfo:
        material = self._driver.material(project_id)
        job = self._jobs.get(project_id)
        if job is None:
            return CopyInfo(state=CopyState.NONE, material=material, paused_s=self._paused_s.get(project_id))
        return CopyInfo(
            state=CopyState.SWITCHING if project_id in self._completing else job.state,
            material=material,
            passed_bytes=job.copy.passed_bytes if job.copy is not None else 0,
            used_bytes=job.used_bytes,
            paused_s=self._paused_s.get(project_id),
            problem=job.problem,
        )

    def require(self) -> None:
        """Raises PreconditionError where this host's volumes cannot be encrypted anew."""
        self._driver.require_copying()

    async def begin(self, project_id: ProjectId, material: int, bytes_per_s: int | None) -> None:
        """Or go on, or change the pace. Raises PreconditionError, or what the broker says."""
        job = self._jobs.get(project_id)
        if job is not None and job.material == material and job.work is not None and not job.work.done():
            job.pace.bytes_per_s = bytes_per_s
            return
        await self.stop(project_id)
        if self._driver.material(project_id) == material:
            return
        # Entered first: it may be asked for again while the broker is.
        job = self._jobs[project_id] = _Job(material, bytes_per_s)
        job.work = asyncio.ensure_future(self._run(project_id, job))

    async def complete(self, project_id: ProjectId) -> None:
        """The rest, at full speed, and then the switch. The volume is closed, and stays so until this returns. Raises
        ConflictError if there is no copy that is ready, or what went wrong: then the volume is what it was."""
        job = self._jobs.get(project_id)
        if job is None or job.state is not CopyState.READY or job.work is None:
            raise ConflictError(f"no copy of the volume of {project_id} is ready")
        self._completing.add(project_id)
        try:
            await self._complete(project_id, job, job.work)
        finally:
            self._completing.discard(project_id)

    async def _complete(self, project_id: ProjectId, job: _Job, work: asyncio.Future[None]) -> None:
        began = time.monotonic()
        job.is_last.set()
        job.pace.stop()  # a look that is under way; what it found is not lost
        before = -1
        while not work.done():
            await asyncio.wait({work}, timeout=PATIENCE_S)
            passed = job.copy.passed_bytes if job.copy is not None else 0
            if not work.done() and passed == before:
                self._driver.interrupt_copy(project_id)
            before = passed
        if job.problem:
            raise InternalError(f"the volume of {project_id} stays as it was: {job.problem}")
        self._paused_s[project_id] = time.monotonic() - began

    async def stop(self, project_id: ProjectId, *, is_dropped: bool = False) -> None:
        """What was copied stays, unless it is to be dropped. Not for one that is being completed."""
        if (job := self._jobs.get(project_id)) is not None and job.work is not None:
            job.pace.stop()
            await asyncio.wait({job.work}, timeout=PATIENCE_S)
            if not job.work.done():
                self._driver.interrupt_copy(project_id)
                await asyncio.wait({job.work})
            self._jobs.pop(project_id, None)
        if is_dropped:
            await asyncio.to_thread(self._driver.drop_copy, project_id)

    async def stop_all(self) -> None:
        await asyncio.gather(*(self.stop(project_id) for project_id in list(self._jobs)))

    def give_up(self, problem: str) -> None:
        """All that is under way, soon, for this reason."""
        for job in self._jobs.values():
            if job.state in (CopyState.COPYING, CopyState.READY):
                job.problem = problem
                job.pace.stop()

    def copied_bytes(self, project_id: ProjectId) -> int:
        return self._driver.copied_bytes(project_id)

    async def close(self) -> None:
        await self.stop_all()
        self._threads.shutdown(wait=True)

    async def _run(self, project_id: ProjectId, job: _Job) -> None:
        """Never raises: what happened is in the job."""
        try:
            old = await self._keys.unwrap(project_id, "reencrypt", material=self._driver.material(project_id))
            try:
                new = await self._keys.unwrap(project_id, "reencrypt", material=job.material)
                try:
                    await asyncio.get_running_loop().run_in_executor(
                        self._threads, self._copy, project_id, job, old, new
                    )
                finally:
                    os.close(new)
            finally:
                os.close(old)
        except StoppedError:
            job.state = CopyState.FAILED
            job.problem = job.problem or "stopped"
        except Exception as error:
            log.exception("encrypting the volume of %s anew", project_id)
            job.state = CopyState.FAILED
            job.problem = job.problem or (error.public if isinstance(error, CloisterError) else "an internal error")
        finally:
            job.copy = None

    def _copy(self, project_id: ProjectId, job: _Job, old_key: int, new_key: int) -> None:
        """In a thread.

        1. Take over everything, and read it back.
        2. Ready: take over what was written since, now and then, until the volume is closed.
        3. Take over the rest, and read that back.
        4. Both images closed, the new one takes the place of the old one.
        """
        with self._driver.copying(project_id, old_key, new_key, job.material) as copy:
            job.copy, job.used_bytes = copy, copy.used_bytes
            # 1.
            copy.follow(job.pace)
            copy.verify(job.pace)
            # 2.
            job.state = CopyState.READY
            try:
                self._keep_up(project_id, job, copy)
            except StoppedError:
                if not job.is_last.is_set():
                    raise
            # 3.
            job.state = CopyState.SWITCHING
            at_once = Pace(None)
            copy.follow(at_once)
            job.used_bytes = copy.used_bytes
            copy.verify(at_once)
        # 4.
        self._driver.complete(project_id)
        job.state, job.problem = CopyState.DONE, ""

    def _keep_up(self, project_id: ProjectId, job: _Job, copy: Copy) -> None:
        while not job.is_last.is_set():
            seen, began = self._driver.written_at(project_id), time.monotonic()
            copy.follow(job.pace)
            copy.verify(job.pace)
            job.used_bytes = copy.used_bytes
            job.wait(max(REST_S, REST_FACTOR * (time.monotonic() - began)))
            while self._driver.written_at(project_id) == seen and not job.is_last.is_set():
                job.wait(LOOK_S)

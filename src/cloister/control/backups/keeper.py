"""Sends what is new of every timeline to the store, and reads some of it back. It decides when; the node agent does it.

A loop looks every few seconds at who owes something, and begins that beside whatever else is under way:

- WAL: of what a compute writes, every WAL_EVERY; once more when it has stopped.
- A base: where there is none, where somebody wants one, where WAL is missing, once a day of what was written to, and in time before a
  lock ends. A running server is asked for a snapshot first (`making.hold_and_copy`); of what sleeps the agent takes the head, and
  nothing is woken for it.
- A sample of the newest base of each timeline, once a day, read back and opened.
- A restore of each timeline, once a week, which is looked at and thrown away.

Nothing is kept here that a crash could lose, but how long a failure is left alone. What fails for one timeline, however slowly, is
no other's trouble. Where there is no store nothing is done, and once a minute it is asked for.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

from cloister.base.clock import Clock
from cloister.base.errors import CloisterError, ExhaustedError, PreconditionError
from cloister.control.backups import store
from cloister.control.backups.model import LOCKED_DAYS, RETAIN_DAYS, SAMPLE_CHUNKS, Base, Kept
from cloister.control.backups.trouble import TOLD_EVERY, Trouble
from cloister.control.branches.making import BranchesWorld, hold_and_copy
from cloister.control.repeating import repeat
from cloister.node.commands import BackUpTimeline, DrillRestore, GetStore, GetTimeline, ReadBack, Seen, SendWal, SentWal
from cloister.trust.audit import Action, Event, record
from cloister.trust.keys.commands import KeyInfo

_log = logging.getLogger(__name__)

PLATFORM: Final = "platform:api"
KEY_PURPOSE: Final = "backup"

LOOK_EVERY_S: Final = 5.0
# One query, whatever there is to do.

WAL_EVERY: Final = timedelta(seconds=30)
# Half of what is promised (a minute): what is committed just after a look waits for the next, which may take as long again.

CALLS_MAX: Final = 20
# Of SendWal, one after the other, while the agent says that it is behind: some hundred megabytes, and then others have a turn.

WAL_AT_ONCE_MAX: Final = 4
BASES_AT_ONCE_MAX: Final = 2
# A base takes a core for its compression, and the store's bandwidth; WAL is some megabytes, and must not wait for it.

WAL_TIMEOUT_S: Final = 300.0
BASE_TIMEOUT_S: Final = 6 * 3600.0
# Some hundred gigabytes for the first time. The next call goes on from what was sent.
DRILL_TIMEOUT_S: Final = BASE_TIMEOUT_S
CHECK_TIMEOUT_S: Final = 300.0
STORE_TIMEOUT_S: Final = 30.0

STORE_LOOK_EVERY: Final = timedelta(minutes=1)

CHECK_EVERY: Final = timedelta(days=1)

TIDY_EVERY: Final = timedelta(hours=1)

_SENDER: Final = "sender"


class BackupKeys(Protocol):
    """The key broker. `trust.keys.client.KeyClient` is one."""

    async def create(self, project_id: str, purpose: str = "volume") -> KeyInfo: ...


class BackupKeeper:
    def __init__(self, world: BranchesWorld, keys: BackupKeys, clock: Clock) -> None:
        self._world = world
        self._database = world.database
        self._keys = keys
        self._clock = clock
        self._poked = asyncio.Event()
        self._has_store: bool | None = None
        self._store_problem = ""
        self._store_seen_at: datetime | None = None
        self._store_told: object = None
        self._store_told_at: datetime | None = None
        self._tidied_at: datetime | None = None
        self._under_way: dict[tuple[str, str], asyncio.Task[None]] = {}
        """By what is done and the timeline."""
        self._troubles: dict[tuple[str, str], Trouble] = {}
        self._wal_turns = asyncio.Semaphore(WAL_AT_ONCE_MAX)
        self._base_turns = asyncio.Semaphore(BASES_AT_ONCE_MAX)
        self._check_turns = asyncio.Semaphore(1)
        self._drill_turns = asyncio.Semaphore(1)

    @property
    def has_store(self) -> bool | None:
        """None: nobody could be asked yet."""
        return self._has_store

    @property
    def may_send(self) -> bool:
        """There is a store, and no other platform is known to send there."""
        return bool(self._has_store) and self._store_told != _SENDER

    @property
    def store_problem(self) -> str:
        return self._store_problem

    async def is_there_a_store(self) -> bool:
        """Somebody wants something: one that was set a moment ago counts. One that does not answer is there."""
        if self._has_store is False:
            self._store_seen_at = None
            await self._look_at_store(self._clock.now())
        return self._has_store is not False

    def poke(self) -> None:
        """Somebody wants something."""
        for trouble in self._troubles.values():
            trouble.left_until = self._clock.now()
        self._store_seen_at = None
        self._poked.set()

    def is_back(self, timeline_ids: Collection[str]) -> None:
        """They have their data again: what failed while they had none is over, and what fails from now on is news."""
        for (_, timeline_id), trouble in self._troubles.items():
            if timeline_id in timeline_ids:
                trouble.is_over()
        self.poke()

    async def run(self) -> None:
        """Until cancelled."""
        try:
            await repeat(self.look, LOOK_EVERY_S, _log, "looking after backups", poked=self._poked)
        finally:
            for task in self._under_way.values():
                task.cancel()
            await self.settle()

    async def look(self) -> None:
        """Begin what is owed and not under way."""
        now = self._clock.now()
        await self._look_at_store(now)
        if not self._has_store:
            return
        async with self._database.reading() as tx:
            kept = await store.to_keep(tx)
        if new := [it.timeline_id for it in kept if it.progress is None]:
            async with self._database.transaction() as tx:
                await store.begin(tx, new, now)
        for it in kept:
            if it.owes_base(now):
                self._begin("base", it, self._send_base, self._base_turns)
            if it.owes_wal(now, WAL_EVERY):
                self._begin("WAL", it, self.send_wal, self._wal_turns)
            if it.base is not None and _is_due_for_check(it, it.base, now):
                self._begin("check", it, self._read_back, self._check_turns)
            if it.owes_drill(now):
                self._begin("restore", it, self._drill, self._drill_turns)
            if it.is_late(now):
                await self._tell_late(it, now)
            elif it.progress is not None and it.progress.late_told_at is not None:
                async with self._database.transaction() as tx:
                    await store.told_late(tx, it.timeline_id, None)
        if self._tidied_at is None or now - self._tidied_at >= TIDY_EVERY:
            self._tidied_at = now
            async with self._database.transaction() as tx:
                await store.forget_what_ended(tx, now)

    async def settle(self) -> None:
        """Wait until nothing is under way."""
        while self._under_way:
            await asyncio.gather(*self._under_way.values(), return_exceptions=True)

    # ── the store ──

    async def _look_at_store(self, now: datetime) -> None:
        """A refusal says that there is none. A failure says nothing: it is as it was, and after a start of ours there is one if
        anything was ever sent."""
        if self._store_seen_at is not None and now - self._store_seen_at < STORE_LOOK_EVERY:
            return
        self._store_seen_at = now
        try:
            state = await self._world.agent.call(GetStore(), timeout_s=STORE_TIMEOUT_S)
        except PreconditionError:
            if self._has_store is not False:
                async with self._database.transaction() as tx:
                    await store.is_ended(tx)
            self._has_store, self._store_problem = False, ""
            return
        except CloisterError as error:
            self._store_problem = error.public
            if self._has_store is None:
                async with self._database.reading() as tx:
                    self._has_store = True if await store.is_anything_kept(tx) else None
            return
        self._has_store = True
        self._store_problem = state.problem or state.taken
        if state.taken:
            await self._tell_store({"what": _SENDER}, state.name, state.taken, now)
        elif not state.has_lock or not state.has_versions:
            self._store_problem = state.problem or "the bucket has no object lock, or no versions"
            details = {"what": "store", "has_lock": state.has_lock, "versions": state.has_versions}
            await self._tell_store(details, state.name, self._store_problem, now)
        elif self._store_told == _SENDER:
            # It is this one again: nothing waits because it was refused, and another that takes over is news.
            self._store_told = None
            self.poke()

    async def _tell_store(self, details: dict[str, object], name: str, problem: str, now: datetime) -> None:
        """Once a day while it goes on, and at once where it is another problem."""
        if (
            self._store_told == details["what"]
            and self._store_told_at is not None
            and now - self._store_told_at < TOLD_EVERY
        ):
            return
        self._store_told, self._store_told_at = details["what"], now
        event = Event(
            action=Action.BACKUP_FAIL, actor=PLATFORM, outcome="failed", resource=name, reason=problem, details=details
        )
        async with self._database.transaction() as tx:
            await record(tx, event)

    # ── one thing, of one timeline ──

    def _begin(self, what: str, it: Kept, work: Callable[[Kept], Awaitable[object]], turns: asyncio.Semaphore) -> None:
        key = what, it.timeline_id
        if key in self._under_way:
            return
        if (trouble := self._troubles.get(key)) is not None and trouble.is_left(self._clock.now()):
            return
        task = asyncio.create_task(self._doing(what, it, work, turns), name=f"backup-{what}-{it.timeline_id}")
        self._under_way[key] = task
        task.add_done_callback(lambda _task: self._under_way.pop(key, None))

    async def _doing(
        self, what: str, it: Kept, work: Callable[[Kept], Awaitable[object]], turns: asyncio.Semaphore
    ) -> None:
        key = what, it.timeline_id
        try:
            async with turns:
                await work(it)
        except CloisterError as error:
            _log.info("%s of %s is not in the store yet: %s", what, it.timeline_id, error)
            await self._failed(what, it, error.public)
        except Exception:
            _log.exception("sending %s of %s failed", what, it.timeline_id)
            await self._failed(what, it, "it failed here: see the log of the api")
        else:
            if self._troubles.pop(key, None) is not None or (it.progress is not None and it.progress.failures > 0):
                async with self._database.transaction() as tx:
                    await store.works(tx, it.timeline_id, what)

    async def _send_base(self, it: Kept) -> None:
        """1. The key. 2. Of a running server a snapshot as of now, if it wrote anything since the last. 3. What the store lacks of it;
        the rows say so when all of it is there. 4. What was written meanwhile."""
        began_at = self._clock.now()
        await self._keys.create(it.project_id, KEY_PURPOSE)  # 1.
        if it.is_running:  # 2.
            if it.server is None:
                return  # its first start is under way
            info = await self._world.agent.call(
                GetTimeline(project_id=it.project_id, timeline_id=it.timeline_id), timeout_s=WAL_TIMEOUT_S
            )
            if info.since is None or info.wal_since_snapshot_bytes > 0:
                await hold_and_copy(
                    self._world, it.server, project_id=it.project_id, source_id=it.timeline_id, uid=it.uid
                )
        backed = await self._world.agent.call(  # 3.
            BackUpTimeline(
                project_id=it.project_id,
                timeline_id=it.timeline_id,
                pg_version=it.pg_version,
                retain_days=RETAIN_DAYS,
            ),
            timeout_s=BASE_TIMEOUT_S,
        )
        base = Base(
            timeline_id=it.timeline_id,
            name=backed.base,
            is_protected=False,  # the database says
            start_lsn=backed.start_lsn,
            stop_lsn=backed.stop_lsn,
            moment=_moment(backed.moment),
            bytes=backed.bytes,
            new_bytes=backed.new_bytes,
            chunks=backed.chunks,
            sent_at=began_at,
            locked_until=_moment(backed.locked_until),
        )
        details: dict[str, object] = {
            "base": base.name,
            "bytes": base.bytes,
            "new_bytes": base.new_bytes,
            "chunks": base.chunks,
            "new_chunks": backed.new_chunks,
            "locked_until": base.locked_until.isoformat(),
        }
        if backed.left_out:
            details["left_out"] = backed.left_out
        async with self._database.transaction() as tx:
            await store.sent_base(tx, base)
            await record(tx, _event(Action.BACKUP_TAKE, it, details=details))
        await self.send_wal(it)  # 4.

    async def send_wal(self, it: Kept) -> SentWal | None:
        """All that it has by now. None: more than can be sent in one go, and the next look goes on."""
        for _ in range(CALLS_MAX):
            began_at = self._clock.now()
            sent = await self._world.agent.call(
                SendWal(project_id=it.project_id, timeline_id=it.timeline_id, retain_days=RETAIN_DAYS),
                timeout_s=WAL_TIMEOUT_S,
            )
            # Whoever asks while some is on its way is told what came of that: it may have begun before the last of this was written.
            if not sent.is_behind and _moment(sent.moment) >= began_at:
                break
        else:
            return None
        async with self._database.transaction() as tx:
            await store.sent_wal(
                tx,
                it.timeline_id,
                end_lsn=sent.end_lsn,
                moment=_moment(sent.moment),
                looked_at=began_at,
                locked_until=began_at + timedelta(days=LOCKED_DAYS),
                is_broken=sent.is_broken,
            )
        return sent

    async def _read_back(self, it: Kept) -> None:
        assert it.base is not None
        seen = await self._world.agent.call(
            ReadBack(project_id=it.project_id, timeline_id=it.timeline_id, sample=SAMPLE_CHUNKS),
            timeout_s=CHECK_TIMEOUT_S,
        )
        now = self._clock.now()
        damaged = len(seen.damaged)
        details = {"base": seen.base, **seen_details(seen)}
        async with self._database.transaction() as tx:
            await store.seen(tx, it.base, at=now, chunks=seen.chunks, damaged=damaged)
            event = _event(Action.BACKUP_CHECK, it, outcome="failed" if damaged else "ok", details=details)
            await record(tx, event)

    async def _drill(self, it: Kept) -> None:
        """Where there is no room for one, that is what came of it, and nobody is called for it."""
        assert it.base is not None
        command = DrillRestore(
            project_id=it.project_id,
            timeline_id=it.timeline_id,
            uid=it.uid,
            pg_version=it.pg_version,
            known_lsn=it.known_lsn,
            bytes=it.stored_bytes,
        )
        try:
            found = await self._world.agent.call(command, timeout_s=DRILL_TIMEOUT_S)
        except ExhaustedError as error:
            _log.info("a restore of %s is not tried: %s", it.timeline_id, error)
            async with self._database.transaction() as tx:
                await store.tried(tx, it.timeline_id, self._clock.now(), "no room")
            return
        damaged = len(found.damaged)
        details: dict[str, object] = {
            "what": "restore",
            "lsn": found.lsn,
            "databases": found.databases,
            "relations": found.relations,
            "damaged": damaged,
            **({"objects": "; ".join(found.damaged)} if damaged else {}),
        }
        async with self._database.transaction() as tx:
            await store.tried(tx, it.timeline_id, self._clock.now(), "damaged" if damaged else "whole")
            event = _event(Action.BACKUP_CHECK, it, outcome="failed" if damaged else "ok", details=details)
            await record(tx, event)

    # ── what somebody must hear ──

    async def _failed(self, what: str, it: Kept, problem: str) -> None:
        now = self._clock.now()
        trouble = self._troubles.setdefault((what, it.timeline_id), Trouble(what))
        is_to_be_told = trouble.is_to_be_told(problem, now)
        async with self._database.transaction() as tx:
            await store.failed(tx, it.timeline_id, what, problem, now)
            if is_to_be_told:
                details: dict[str, object] = {"what": what, "failures": trouble.times}
                await record(tx, _event(Action.BACKUP_FAIL, it, outcome="failed", reason=problem, details=details))

    async def _tell_late(self, it: Kept, now: datetime) -> None:
        told_at = it.progress.late_told_at if it.progress else None
        if told_at is not None and now - told_at < TOLD_EVERY:
            return
        newest = (
            None if it.base is None else max(it.base.moment, (it.progress and it.progress.moment) or it.base.moment)
        )
        details: dict[str, object] = {
            "what": "base" if it.base is None else "WAL",
            "sent_until": "" if newest is None else newest.isoformat(),
        }
        problem = it.progress.problem if it.progress else ""
        async with self._database.transaction() as tx:
            await store.told_late(tx, it.timeline_id, now)
            await record(tx, _event(Action.BACKUP_OVERDUE, it, outcome="failed", reason=problem, details=details))


def seen_details(seen: Seen) -> dict[str, object]:
    """For an event: of what was read back, a base or a dump."""
    damaged = len(seen.damaged)
    return {
        "chunks": seen.chunks,
        "bytes": seen.bytes,
        "damaged": damaged,
        **({"objects": " ".join(seen.damaged)} if damaged else {}),
    }


def _is_due_for_check(it: Kept, base: Base, now: datetime) -> bool:
    wanted_at = it.progress.check_wanted_at if it.progress else None
    if wanted_at is not None and (base.seen_at is None or base.seen_at < wanted_at):
        return True
    return now - (base.seen_at or base.sent_at) >= CHECK_EVERY


def _event(
    action: Action, it: Kept, *, outcome: str = "ok", reason: str = "", details: dict[str, object] | None = None
) -> Event:
    return Event(
        action=action,
        actor=PLATFORM,
        outcome=outcome,
        project_id=it.project_id,
        branch_id=it.branch_id,
        resource=it.branch_name,
        reason=reason,
        details=details or {},
    )


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)

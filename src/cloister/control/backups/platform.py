"""Sends the control database itself to the store, after which a server that lost everything can be made anew, and reads some of it back.
It decides when; the node agent does it.

What was sent is known in this process alone: after a start of ours there is one dump more, of which the store has nearly everything.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol, TypeVar

from cloister.base.clock import Clock
from cloister.base.database import Database, Transaction
from cloister.base.errors import CloisterError
from cloister.base.rpc.wire import Command
from cloister.control.backups.keeper import CHECK_EVERY, CHECK_TIMEOUT_S, seen_details
from cloister.control.backups.model import RETAIN_DAYS, SAMPLE_CHUNKS
from cloister.control.backups.trouble import TOLD_EVERY, Trouble
from cloister.control.repeating import repeat
from cloister.node.commands import BackUpPlatform, PlatformBacked, ReadBackPlatform
from cloister.trust.audit import Action, Event, record

_log = logging.getLogger(__name__)

R = TypeVar("R")

PLATFORM: Final = "platform:api"
RESOURCE: Final = "the control database"
"""In a branch's place, in events."""

LOOK_EVERY_S: Final = 60.0
# Two minutes are promised for keys: one until it is seen, one for the sending.

EVERY: Final = timedelta(hours=1)
# Of what changed: settings, members, passwords. A dump takes a core for some seconds, and a request for each mebibyte that changed.

AT_LEAST_EVERY: Final = timedelta(days=1)
# Though nothing changed: locks end, and a bucket whose newest dump is of last week looks like one that keeps something back.

LATE_AFTER: Final = timedelta(hours=3)
# Three were owed.

TIMEOUT_S: Final = 1800.0
# pg_dump has ten minutes; the first dump of a log of gigabytes goes over a line as any base does, and goes on where it was cut off.

PROMPT: Final = (
    Action.KEY_CREATE,
    Action.KEY_DESTROY,
    Action.KEY_REENCRYPT,
    Action.KEY_ROOT,
    Action.KEY_ROTATE,
    Action.PROJECT_CREATE,
    Action.PROJECT_DELETE,
    Action.PROJECT_PURGE,
    Action.PROJECT_RECOVER,
    Action.STORE_SET,
)
"""What must not wait for an hour: without its wrapped keys a project's backups open for nobody, and another bucket has none of them."""


class Agent(Protocol):
    async def call(self, command: Command[R], *, timeout_s: float = ...) -> R: ...


@dataclass(frozen=True, slots=True)
class Mark:
    """What was in the database at a moment."""

    seq: int
    """Of the log."""
    changes: int
    """Rows written since the server began to count, but for the log's."""


class PlatformKeeper:
    def __init__(self, database: Database, agent: Agent, may_send: Callable[[], bool], clock: Clock) -> None:
        self._database = database
        self._agent = agent
        self._may_send = may_send
        self._clock = clock
        self._sent: tuple[datetime, Mark] | None = None
        self._since: datetime | None = None
        """Since when one is owed, at the latest: the newest, or the first look."""
        self._late_told_at: datetime | None = None
        self._sending = Trouble("dump")
        self._unread: str | None = None
        """The newest, while it is owed that it is read back."""
        self._read_at: datetime | None = None
        self._is_damaged = False
        """What was read back last. The next mends it."""
        self._reading = Trouble("read-back")

    async def run(self) -> None:
        """Until cancelled. One at a time, and beside everything else."""
        await repeat(self.look, LOOK_EVERY_S, _log, "looking after the control database's backup")

    async def look(self) -> None:
        """1. Is there a store that is ours to send to, and is one owed? What is written while it is made is owed by the next.
        2. Have it made and sent.
        3. Tell that it is late.
        4. Once a day, read some of the newest back.
        """
        # 1.
        if not self._may_send():
            self._since = self._unread = None
            return
        now = self._clock.now()
        self._since = self._since or now
        async with self._database.reading() as tx:
            mark = Mark(await tx.fetch_value("SELECT seq FROM audit_head"), await tx.fetch_value(_CHANGES))
            is_owed = self._sent is None or self._is_damaged or await self._is_owed(tx, self._sent, mark, now)
        if is_owed and not self._sending.is_left(now):
            try:
                backed = await self._agent.call(BackUpPlatform(retain_days=RETAIN_DAYS), timeout_s=TIMEOUT_S)  # 2.
            except CloisterError as error:
                await self._failed(self._sending, error.public, now)
            else:
                await self._tell_sent(backed)
                self._sent, self._since = (now, mark), now
                self._late_told_at, self._is_damaged = None, False
                self._sending.is_over()
                if self._unread is not None or self._read_at is None or now - self._read_at >= CHECK_EVERY:
                    self._unread = backed.name
        if self._clock.now() - self._since >= LATE_AFTER and is_owed:
            await self._tell_late(now)  # 3.
        if self._unread is not None and not self._reading.is_left(now):
            await self._read_back(self._unread, now)  # 4.

    async def _is_owed(self, tx: Transaction, sent: tuple[datetime, Mark], mark: Mark, now: datetime) -> bool:
        at, of = sent
        if now - at >= AT_LEAST_EVERY or (now - at >= EVERY and mark.changes != of.changes):
            return True
        return bool(await tx.fetch_value(_IS_PROMPT, of.seq, list(PROMPT)))

    async def _tell_sent(self, backed: PlatformBacked) -> None:
        details: dict[str, object] = {
            "dump": backed.name,
            "moment": datetime.fromtimestamp(backed.moment, UTC).isoformat(),
            "bytes": backed.bytes,
            "new_bytes": backed.new_bytes,
            "chunks": backed.chunks,
            "new_chunks": backed.new_chunks,
            "locked_until": datetime.fromtimestamp(backed.locked_until, UTC).isoformat(),
        }
        await self._record(Action.BACKUP_TAKE, "ok", "", details)

    async def _read_back(self, name: str, now: datetime) -> None:
        command = ReadBackPlatform(name=name, sample=SAMPLE_CHUNKS)
        try:
            seen = await self._agent.call(command, timeout_s=CHECK_TIMEOUT_S)
        except CloisterError as error:
            await self._failed(self._reading, error.public, now)
            return
        damaged = len(seen.damaged)
        details = {"dump": seen.base, **seen_details(seen)}
        await self._record(Action.BACKUP_CHECK, "failed" if damaged else "ok", "", details)
        self._unread, self._read_at, self._is_damaged = None, now, damaged > 0
        self._reading.is_over()

    async def _failed(self, trouble: Trouble, problem: str, now: datetime) -> None:
        _log.info("the %s of the control database fails: %s", trouble.what, problem)
        if trouble.is_to_be_told(problem, now):
            details: dict[str, object] = {"what": trouble.what, "failures": trouble.times}
            await self._record(Action.BACKUP_FAIL, "failed", problem, details)

    async def _tell_late(self, now: datetime) -> None:
        if self._late_told_at is not None and now - self._late_told_at < TOLD_EVERY:
            return
        self._late_told_at = now
        details: dict[str, object] = {"what": "dump", "sent_until": self._sent[0].isoformat() if self._sent else ""}
        await self._record(Action.BACKUP_OVERDUE, "failed", self._sending.problem, details)

    async def _record(self, action: Action, outcome: str, reason: str, details: dict[str, object]) -> None:
        async with self._database.transaction() as tx:
            await record(
                tx,
                Event(
                    action=action, actor=PLATFORM, outcome=outcome, resource=RESOURCE, reason=reason, details=details
                ),
            )


_CHANGES: Final = """
    SELECT coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0)::bigint FROM pg_stat_user_tables
    WHERE schemaname = 'cloister' AND relname NOT LIKE 'audit%'"""

_IS_PROMPT: Final = """
    SELECT EXISTS (
        SELECT FROM audit_event WHERE seq > $1 AND action = ANY ($2)
        AND (action <> 'key.create' OR coalesce(project_id, '') <> ''))"""
# The key of dumps is no project's, and is put beside them by itself.

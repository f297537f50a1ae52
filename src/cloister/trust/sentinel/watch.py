"""Following the audit log: every event once, in order, within POLL_S of its commit.

1. The memory is kept with the number and hash of the last event it knows. After a restart or a crash it is loaded, and the
   events since are fed again: nothing is missed, and what was found already is not found twice (`store.raise_`).
2. Each event's hash must continue the chain, and what is personal in it be what its body commits to. Where it is not so, that is a finding (`audit-gap`), and the new place is
   where the chain goes on from: a log that was changed must not silence the sentinel as well.
3. A log that ends before where we were was rolled back. That, too, is a finding; and the memory goes on.
4. An event that breaks a rule, or cannot be looked at at all, is passed over by what it breaks, counted, and told as a finding
   (`event-skipped`): were it fed again until it fits, whoever can write one such event would have blinded the sentinel.
5. A probe (`cloister alerts selftest`) holds events that are fed to a detector of its own, which knows nothing and is
   forgotten: a test teaches nobody what is usual. Its findings say that they are tests.

The log is asked, four times a second, for its head. LISTEN would be quicker, but NOTIFY in `audit_append` would make every
commit of the platform wait for one lock more.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any, Final

import msgspec

from cloister.base.database import Database, Transaction
from cloister.base.errors import CloisterError
from cloister.trust.audit import Action, Event
from cloister.trust.audit.events import parse, timestamp
from cloister.trust.audit.personal import fits
from cloister.trust.audit.verify import link
from cloister.trust.sentinel import store
from cloister.trust.sentinel.detector import Alarm, Detector
from cloister.trust.sentinel.rules import Rule
from cloister.trust.sentinel.store import Position

if TYPE_CHECKING:
    from cloister.trust.sentinel.events import Lists

log = logging.getLogger(__name__)

POLL_S: Final = 0.25
# An alert is in a person's hands in seconds; a quarter of one is not what they wait for.

BATCH_ROWS: Final = 500
# Some 50 ms of work, and then what was found is written.

KEEP_EVENTS: Final = 2_000
KEEP_S: Final = 15.0
# After so much the memory is written down: what is fed again after a crash.

BEAT_S: Final = 5.0
# How often a quiet sentinel says that it is there.

PROBE_EVENTS_MAX: Final = 64
# As many as the log keeps of one event.

SKEW_S: Final = 1.0
# All processes of the platform have one clock.

_OBSERVER: Final = "platform:sentinel"


class _Story(msgspec.Struct):
    """The details of a probe, as `scenarios.probes` writes them."""

    events: list[Event]
    lists: dict[str, list[str]] = {}


class Watch:
    """`channels` names those that a new finding is told to, at that moment; `poke` says that there is one. `observed` is how others of this process say
    what they saw that is in no log: a channel that fails, a certificate that ends."""

    def __init__(self, database: Database, rules: Sequence[Rule]) -> None:
        self._database = database
        self._rules = rules
        self.channels: Callable[[], Sequence[str]] = tuple
        self.poke: Callable[[], None] = lambda: None
        self.lists: Lists = {}
        """Addresses that rules may ask for by the list's name."""
        self.detector = Detector(rules)
        self.seq = 0
        self.stepped_at = -math.inf
        """When the log was last looked at, on this process's clock. One that starts and starts and never looks is not well."""
        self._hash = b""
        self._observed: list[Event] = []
        self._kept_seq = -1
        self._kept_at = 0.0
        self._beat_at = 0.0
        self._lost = 0
        self.skipped = 0
        """Events of which something could not be looked at, since the start."""
        self._skipped_first: tuple[int, str] | None = None

    def observe(
        self, action: str, *, resource: str = "", reason: str = "", details: dict[str, Any] | None = None
    ) -> None:
        self._observed.append(
            Event(
                action=action,
                actor=_OBSERVER,
                at=timestamp(datetime.now(UTC)),
                outcome="failed",
                resource=resource,
                reason=reason,
                details=details or {},
            )
        )

    async def run(self) -> None:
        """Until cancelled."""
        is_loaded = False
        while True:
            try:
                if not is_loaded:
                    await self.load()
                    is_loaded = True
                while await self.step():
                    pass
            except Exception as error:
                # What was fed and not written is fed again, from the memory that was kept.
                is_loaded = False
                if isinstance(error, CloisterError):  # the control database is away; it comes back
                    log.warning("the audit log cannot be followed: %s", error)
                else:
                    log.exception("the audit log cannot be followed")
            await asyncio.sleep(POLL_S)

    async def load(self) -> None:
        """(1). A new sentinel begins at the log's end: it has nobody to tell about the past, and no usual to know."""
        self.detector = Detector(self._rules, self.lists)
        async with self._database.transaction() as tx:
            kept = await store.position(tx)
            if kept is None:
                head = await tx.fetch_row("SELECT seq, hash FROM audit_head")
                assert head is not None
                kept = Position(head["seq"], head["hash"], self._memory())
                await store.keep(tx, kept)
        self.seq, self._hash, self._kept_seq = kept.seq, kept.hash, kept.seq
        try:
            self.detector.load(msgspec.msgpack.decode(kept.memory))
        except (msgspec.MsgspecError, ValueError, TypeError, KeyError):
            log.exception("the memory cannot be read: it begins anew")
            self.detector = Detector(self._rules, self.lists)

    async def step(self) -> bool:
        """Look at what is new; whether there may be more at once."""
        async with self._database.transaction() as tx:
            # In this order: what the head counts is among the rows, which are read after it.
            head = int(await tx.fetch_value("SELECT seq FROM audit_head"))
            rows = await tx.fetch(
                "SELECT seq, body, personal, hash FROM audit_event WHERE seq > $1 ORDER BY seq LIMIT $2",
                self.seq,
                BATCH_ROWS,
            )
            if head < self.seq:  # (3)
                self.observe("sentinel.audit_gap", reason="rolled_back", details={"after": head, "known": self.seq})
                await store.go_back(tx, head)
            elif head > self.seq and not rows:
                self.observe("sentinel.audit_gap", reason="missing", details={"after": self.seq, "next": head})
            if not rows and head != self.seq:
                self.seq, self._hash = head, b""
        found: list[tuple[Alarm, str]] = []
        self.detector.lists = self.lists
        for row in rows:
            found += self._fed(row["seq"], row["body"], row["personal"], row["hash"])
        if self.detector.lost > self._lost:
            self.observe("sentinel.overloaded", details={"lost": self.detector.lost - self._lost})
            self._lost = self.detector.lost
        if self._skipped_first is not None:
            seq, reason = self._skipped_first
            self._skipped_first = None
            self.observe("sentinel.event_skipped", reason=reason, details={"seq": seq, "skipped": self.skipped})
        observed, self._observed = self._observed, []
        found += [(alarm, "") for event in observed for alarm in self.detector.feed(self.seq, event)]
        try:
            await self._write(found)
        except BaseException:
            self._observed[:0] = observed  # no log has these: nothing else brings them back
            raise
        self.stepped_at = time.monotonic()
        return len(rows) == BATCH_ROWS

    def _fed(self, seq: int, body: str, personal: str | None, digest: bytes) -> list[tuple[Alarm, str]]:
        is_changed = not fits(body, personal) or (bool(self._hash) and link(self._hash, seq, body) != digest)
        if is_changed or (self._hash and seq != self.seq + 1):  # (2)
            reason = "missing" if self._hash and seq != self.seq + 1 else "changed"
            self.observe("sentinel.audit_gap", reason=reason, details={"after": self.seq, "next": seq})
        self.seq, self._hash = seq, digest
        try:
            event = parse(body, personal)
            if event.action == Action.SENTINEL_PROBE:
                return self._probed(seq, event)
            found = self.detector.feed(seq, event, latest=time.time() + SKEW_S)
        except Exception as error:  # whatever it is, the next event is looked at
            log.exception("event %d is skipped", seq)
            self._skip(seq, repr(error))
            return []
        if self.detector.broken:
            log.error("event %d breaks %s", seq, self.detector.broken)
            self._skip(seq, ", ".join(self.detector.broken))
        return [(alarm, "") for alarm in found]

    def _skip(self, seq: int, reason: str) -> None:
        """(4)."""
        self.skipped += 1
        self._skipped_first = self._skipped_first or (seq, reason)

    def _probed(self, seq: int, probe: Event) -> list[tuple[Alarm, str]]:
        """What a probe holds (5)."""
        story = msgspec.convert(probe.details, _Story)
        detector = Detector(self._rules, {name: set(map(ip_network, them)) for name, them in story.lists.items()})
        return [
            (alarm, probe.resource) for event in story.events[:PROBE_EVENTS_MAX] for alarm in detector.feed(seq, event)
        ]

    async def _write(self, found: Sequence[tuple[Alarm, str]]) -> None:
        now = time.monotonic()
        is_due = self.seq - self._kept_seq >= KEEP_EVENTS or (
            self.seq != self._kept_seq and now - self._kept_at > KEEP_S
        )
        if not found and not is_due and now - self._beat_at < BEAT_S:
            return
        async with self._database.transaction() as tx:
            raised = [await self._raise(tx, alarm, run) for alarm, run in found]
            if is_due:
                await store.keep(tx, Position(self.seq, self._hash, self._memory()))
            else:
                await store.beat(tx, self.seq)
        if is_due:
            self._kept_seq, self._kept_at = self.seq, now
        self._beat_at = now
        if any(raised):
            self.poke()

    async def _raise(self, tx: Transaction, alarm: Alarm, run: str) -> str | None:
        finding_id = await store.raise_(tx, alarm, self.channels(), run=run)
        if finding_id is not None:
            log.warning("%s %s (%s): %s", finding_id, alarm.rule, alarm.level, alarm.summary)
        return finding_id

    def _memory(self) -> bytes:
        return msgspec.msgpack.encode(self.detector.dump())

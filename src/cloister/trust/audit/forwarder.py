"""Sending the audit log on: to each target every event, in order, at least once, for as long as that takes.

1. The log is the spool. Of a target only a number is kept: the last event that it took. It moves after the target took a
   batch, so whoever dies in between, the batch is sent again; each event keeps its id.
2. One batch at a time: a later event is not sent before an earlier one was taken.
3. A target that does not answer is asked again after 1, 2, 4 … 300 seconds, and never given up: the log keeps its events.
   It delays no other, and nothing of the platform waits for any of this.
4. A log that ends before what was sent was rolled back. Its next events are new ones, with new ids: they are sent.
5. A witness gets checkpoints instead, each some minutes the last one that was signed.
"""

import asyncio
import json
import logging
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from cloister.base.database import Database, Transaction
from cloister.base.errors import CloisterError, UnavailableError
from cloister.protocol.merkle.notes import SignedTree
from cloister.trust.audit import otlp, witness
from cloister.trust.audit import targets as config
from cloister.trust.audit.events import parse
from cloister.trust.audit.ocsf import VERSION, encoded
from cloister.trust.audit.targets import S3, Otlp, Syslog, Target, Webhook, Witness
from cloister.trust.sending import syslog, webhook
from cloister.trust.sending.https import exchange

log = logging.getLogger(__name__)

BATCH_ROWS: Final = 200
# Some 350 kB: what a receiver takes in one request without being configured for it.

OBJECT_ROWS: Final = 2_000
OBJECT_WAIT_S: Final = 60.0
# An object in a bucket is paid for each: it is put when it is full, or when its first event has waited for so long.

OBJECT_LOOK_S: Final = 5.0
# Between looks whether it is.

IDLE_S: Final = 0.5
# Between looks at the log.

SEND_TIMEOUT_S: Final = 30.0
# A receiver that thinks for longer about a batch is asked again.

RETRY_FIRST_S: Final = 1.0
RETRY_MAX_S: Final = 300.0

FAILURES_TOLD: Final = 4
# 15 s of not answering.

ERROR_CHARS_MAX: Final = 300

ANSWER_BYTES_MAX: Final = 64 * 1024
# Of a collector, which says how many it did not take.

FACILITY: Final = 13
# "log audit"

_PRIORITIES: Final = {1: 6, 2: 5, 3: 4, 4: 3, 5: 2}
# OCSF's severities in syslog's.


class Forwarder:
    """`path`: the targets' file. `origin` names this platform. `signed` is the last tree that was signed. `observe` says that a
    target fails."""

    def __init__(
        self,
        database: Database,
        path: Path,
        *,
        origin: str,
        signed: Callable[[], SignedTree | None] = lambda: None,
        observe: Callable[[str, str], None] = lambda *_: None,
    ) -> None:
        self._database = database
        self._path = path
        self._origin = origin
        self._signed = signed
        self._observe = observe
        self._due: dict[str, float] = {}
        self._lanes: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                self._start()
                await asyncio.sleep(IDLE_S)
        finally:
            for lane in self._lanes.values():
                lane.cancel()

    async def step(self) -> None:
        """Everything that is due now, once."""
        self._start()
        await asyncio.gather(*self._lanes.values())

    def _start(self) -> None:
        """(3) Each target has a lane of its own."""
        try:
            found = config.read(self._path)
        except (CloisterError, OSError) as error:
            log.warning("%s", error)
            return
        for target in found:
            lane = self._lanes.get(target.name)
            if (lane is None or lane.done()) and time.monotonic() >= self._due.get(target.name, 0.0):
                self._lanes[target.name] = asyncio.create_task(self._serve(target))

    async def _serve(self, target: Target) -> None:
        try:
            while await self._send_next(target):
                pass
        except CloisterError as error:  # the control database is away; it comes back
            log.warning("the audit log waits for %s: %s", target.name, error)
        except Exception:
            log.exception("the audit log waits for %s", target.name)

    async def _send_next(self, target: Target) -> bool:
        """One batch; whether there may be more at once."""
        if isinstance(target, Witness):
            kept, _ = await self._position(target, 0)
            if (signed := self._due_checkpoint(target, kept)) is not None:
                await self._note(target, kept, signed.size, await attempt(target, [], signed=signed))
            return False
        rows_max = OBJECT_ROWS if isinstance(target, S3) else BATCH_ROWS
        kept, rows = await self._position(target, rows_max)
        if not rows:
            return False
        if isinstance(target, S3) and len(rows) < rows_max and _waited(rows[0]["body"]) < OBJECT_WAIT_S:
            self._due[target.name] = time.monotonic() + OBJECT_LOOK_S
            return False
        events = [encoded(row["seq"], row["body"], row["personal"], row["hash"], origin=self._origin) for row in rows]
        error = await attempt(target, events, origin=self._origin)
        await self._note(target, kept, rows[-1]["seq"], error)
        return not error and len(rows) == rows_max

    async def _position(self, target: Target, rows_max: int) -> tuple[Any, Sequence[Any]]:
        """Where the target is, and the events behind it."""
        async with self._database.transaction() as tx:
            await tx.execute(
                "INSERT INTO audit_export (name, seq) VALUES ($1, $2) ON CONFLICT DO NOTHING", target.name, target.after
            )
            if not isinstance(target, Witness):  # which gets what is signed now, smaller than the last or not
                await tx.execute(  # (4)
                    """UPDATE audit_export SET seq = head.seq FROM audit_head head
                        WHERE name = $1 AND audit_export.seq > head.seq""",
                    target.name,
                )
            kept = await tx.fetch_row(
                """SELECT seq, failures, extract(epoch FROM now() - sent_at)::float8 AS sent_ago FROM audit_export
                    WHERE name = $1""",
                target.name,
            )
            assert kept is not None
            rows = await tx.fetch(
                "SELECT seq, body, personal, hash FROM audit_event WHERE seq > $1 ORDER BY seq LIMIT $2",
                kept["seq"],
                rows_max,
            )
        return kept, rows

    def _due_checkpoint(self, target: Witness, kept: Any) -> SignedTree | None:
        """(5) What was signed since, if the last one has been there for long enough. A smaller one than that is another log:
        it is put, too."""
        signed = self._signed()
        if signed is None or signed.size in (0, kept["seq"]):
            return None
        return signed if kept["sent_ago"] is None or kept["sent_ago"] >= target.every_s else None

    async def _note(self, target: Target, kept: Any, seq: int, error: str) -> None:
        """What came of it."""
        async with self._database.transaction() as tx:
            if not error:  # (1)
                await tx.execute(
                    """UPDATE audit_export SET seq = $2, sent_at = now(), failures = 0, failed_since = NULL, error = ''
                        WHERE name = $1 AND seq = $3""",
                    target.name,
                    seq,
                    kept["seq"],
                )
            else:
                await tx.execute(
                    """UPDATE audit_export SET failures = failures + 1, failed_since = coalesce(failed_since, now()), error = $2
                        WHERE name = $1""",
                    target.name,
                    error[:ERROR_CHARS_MAX],
                )
        if error:
            log.warning("the audit log to %s: %s", target.name, error)
            self._due[target.name] = time.monotonic() + pause(kept["failures"])
            if kept["failures"] + 1 == FAILURES_TOLD:
                self._observe(target.name, error)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a target is."""

    name: str
    type: str
    to: str
    seq: int
    """The last event that it took."""
    behind: int
    failures: int
    failed_since: datetime | None
    error: str

    @property
    def state(self) -> str:
        if self.failed_since is None:
            return "ok"
        return f"export.failed since {self.failed_since:%Y-%m-%d %H:%M:%S} UTC, {self.failures} attempts: {self.error}"


async def progress(tx: Transaction, targets: Sequence[Target]) -> list[Progress]:
    head = int(await tx.fetch_value("SELECT seq FROM cloister.audit_head"))
    rows = {row["name"]: row for row in await tx.fetch("SELECT * FROM cloister.audit_export")}
    found = []
    for target in targets:
        row = rows.get(target.name)
        seq = target.after if row is None else row["seq"]
        found.append(
            Progress(
                name=target.name,
                type=str(target.__struct_config__.tag),
                to=target.place,
                seq=seq,
                behind=max(0, head - seq),
                failures=0 if row is None else row["failures"],
                failed_since=None if row is None else row["failed_since"],
                error="" if row is None else row["error"],
            )
        )
    return found


def pause(failures: int) -> float:
    """Seconds, after so many failures before this one."""
    return min(RETRY_MAX_S, RETRY_FIRST_S * 2.0 ** min(failures, 20))


async def attempt(
    target: Target, events: Sequence[dict[str, Any]], *, origin: str = "", signed: SignedTree | None = None
) -> str:
    """Send them once; to a witness, what was signed. Why it did not arrive; empty if it did."""
    try:
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await _send(target, events, origin, signed)
    except TimeoutError:
        return f"no answer within {SEND_TIMEOUT_S:g} s"
    except CloisterError as error:
        return error.public
    except OSError as error:
        return str(error) or type(error).__name__
    return ""


async def _send(target: Target, events: Sequence[dict[str, Any]], origin: str, signed: SignedTree | None) -> None:
    match target:
        case Syslog():
            await syslog.send(
                [line(event, host=socket.gethostname()) for event in events],
                target.host, target.port, ca_file=target.ca_file, private=target.private,
            )  # fmt: skip
        case Webhook():
            body = batch(events)
            said = {webhook.SIGNATURE: webhook.signature(target.secret, int(time.time()), body)}
            await webhook.post(target.url, body, said, ca_file=target.ca_file, private=target.private)
        case Otlp():
            said = {"Content-Type": "application/json", **target.headers}
            body = otlp.request(events, origin=origin)
            answer = await exchange(
                "POST", target.url, said, body,
                ca_file=target.ca_file, private=target.private, wanted=ANSWER_BYTES_MAX,
            )  # fmt: skip
            if not 200 <= answer.status < 300:
                raise UnavailableError(public=f"answered {answer.status}")
            otlp.refuse_partial(answer.body)
        case S3():
            first, last = (each["metadata"]["sequence"] for each in (events[0], events[-1]))
            key = f"{target.prefix}events/{first:019}-{last:019}.ndjson"
            await target.store.put(key, lines(events), kind="application/x-ndjson", retain_days=target.retain_days)
        case Witness():
            if signed is None:
                raise UnavailableError(public="nothing was signed yet")
            await witness.put(target.store, target.prefix, signed, retain_days=target.retain_days)


def _waited(body: str) -> float:
    """Seconds since the event was appended; for ever, if nobody can read when that was."""
    try:
        return (datetime.now(UTC) - datetime.fromisoformat(parse(body).at)).total_seconds()
    except (ValueError, TypeError):
        return OBJECT_WAIT_S


def lines(events: Sequence[dict[str, Any]]) -> bytes:
    """An object's content: an event a line."""
    return b"".join(json.dumps(event, separators=(",", ":")).encode() + b"\n" for event in events)


def batch(events: Sequence[dict[str, Any]]) -> bytes:
    """A webhook's body."""
    return json.dumps({"type": "audit.events", "ocsf": VERSION, "events": list(events)}, separators=(",", ":")).encode()


def line(event: dict[str, Any], *, host: str) -> bytes:
    """A syslog message: what identifies the event as structured data, the whole of it as JSON."""
    meta = event["metadata"]
    pri = FACILITY * 8 + _PRIORITIES[event["severity_id"]]
    named = {"uid": meta["uid"], "seq": str(meta["sequence"])}
    text = json.dumps(event, separators=(",", ":"))
    return syslog.line(pri, event["unmapped"]["action"], named, text, at=meta["original_time"] or "-", host=host)

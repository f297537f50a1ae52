"""One-shot, as root, every minute: a watchman's round, past what is in no event.

1. Who may reach what (`flows.py`), as far as it can be tried without a trace: what must be closed and is open. Once an hour, calls
   and logins, too, by everybody who may not.
2. The logs of our own processes: whether there is a secret in what they wrote since the last round.
3. The certificate that is served: whether it is one that we issued or were given.
4. Once a day, known holes in what the platform stands on: repairs that wait for longer than they may (`repairs.py`).

What is new is appended to the audit log, and so is what is over; the sentinel makes the findings. What was told stands in
`watchman.json`, which is written only when it was: a door that stays open is told once, and one that was found while the control
database was away is told when that is back.
"""

import asyncio
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from cloister.app import flows, repairs
from cloister.app.repairs import Looked
from cloister.base.database import owner
from cloister.base.durable import write_durably
from cloister.base.settings import Settings
from cloister.trust.audit import Action, Event, record
from cloister.trust.certificates import renewal
from cloister.trust.sentinel import leaks

log = logging.getLogger(__name__)

KNOCK_INTERVAL_S: Final = 3600.0
# Each leaves some eighty lines in the logs of those who refuse. What changes who is refused, short of our code, is found every minute.

OPEN_MAX: Final = 50
# Differences told in one round. More are one fault: a directory above them all.

LOG_BYTES_MAX: Final = 8 * 1024 * 1024
# Of a log in one round, half a second of work: what is over is looked at in the next.

TELL_PATIENCE_S: Final = 10.0
# For the control database; the next round comes in a minute.


class LogPlace(msgspec.Struct, frozen=True):
    """How far a log was read: a file with another number is a new one."""

    inode: int
    offset: int


class Knocked(msgspec.Struct, frozen=True):
    """What calls and logins found, and when."""

    at: float = 0.0
    open: list[str] = []


class Told(msgspec.Struct, frozen=True):
    """What the last round told, as `watchman.json` keeps it."""

    open: list[str] = []
    logs: dict[str, LogPlace] = {}
    certificate: str = ""
    """The SHA-256 of one that nobody knows."""
    repairs: Looked = Looked()
    knocked: Knocked = Knocked()


async def run(settings: Settings) -> None:
    paths = settings.paths
    before = told(paths.watchman)
    events, after = look(settings, before, time.time())
    if events:
        await _tell(settings, events)
    if after != before:
        write_durably(paths.watchman, msgspec.json.encode(after), mode=0o600)


def look(settings: Settings, before: Told, now: float) -> tuple[list[Event], Told]:
    """What is to be told, and what was told then."""
    knocked = _knock(settings, before.knocked, now)
    seen = {each.seen for each in flows.try_all(settings, quietly=True) if each.is_open}
    open_ = sorted(seen | set(knocked.open))[:OPEN_MAX]
    events = [_event(Action.FLOW_OPEN, reason=each) for each in open_ if each not in before.open]
    events += [_event(Action.FLOW_CLOSED, outcome="ok", reason=each) for each in before.open if each not in open_]
    logs = {}
    for path in sorted(settings.paths.logs.glob("*.log")):
        read = read_on(path, before.logs.get(path.name))
        logs[path.name] = read.place
        events += [
            _event(
                Action.LOG_SECRET, resource=path.name, reason=kind, details={"offset": read.at + where, "count": count}
            )
            for kind, where, count in leaks.found(read.text)
        ]
    certificate = renewal.served_by_nobody(settings.paths)
    if certificate not in ("", before.certificate):
        events.append(_event(Action.CERTIFICATE_STRANGE, resource=certificate))
    repairing, looked = _repairs(before.repairs, now, settings.repair_days)
    return events + repairing, Told(open_, logs, certificate, looked, knocked)


def _knock(settings: Settings, before: Knocked, now: float) -> Knocked:
    """When it is time; while something is open, every round, so that its end is told soon."""
    if not before.open and 0 <= now - before.at < KNOCK_INTERVAL_S:
        return before
    return Knocked(now, sorted(each.seen for each in flows.knock(settings) if each.is_open))


def _repairs(before: Looked, now: float, days: int) -> tuple[list[Event], Looked]:
    after = repairs.look(before, now)
    late = repairs.overdue(after.waiting, now, days)
    events = [
        _event(
            Action.REPAIR_OVERDUE,
            resource=package,
            details={"installed": it.installed, "repaired": it.repaired, "days": int((now - it.since) / repairs.DAY_S)},
        )
        for package, it in late.items()
        if not it.is_told
    ]
    events += [
        _event(Action.REPAIR_DONE, outcome="ok", resource=package)
        for package, it in before.waiting.items()
        if it.is_told and package not in after.waiting
    ]
    waiting = {
        package: msgspec.structs.replace(it, is_told=it.is_told or package in late)
        for package, it in after.waiting.items()
    }
    return events, Looked(after.at, waiting)


@dataclass(frozen=True, slots=True)
class Read:
    text: bytes
    at: int
    """Where in the file the text begins."""
    place: LogPlace


def read_on(path: Path, before: LogPlace | None) -> Read:
    """Whole lines behind what was read before; what is not a line yet waits, unless it is longer than anything is."""
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        is_same = before is not None and before.inode == status.st_ino and before.offset <= status.st_size
        at = before.offset if before is not None and is_same else 0
        file.seek(at)
        text = file.read(LOG_BYTES_MAX)
    if len(text) < LOG_BYTES_MAX or b"\n" in text:
        text = text[: text.rfind(b"\n") + 1]
    return Read(text, at, LogPlace(status.st_ino, at + len(text)))


async def _tell(settings: Settings, events: list[Event]) -> None:
    for event in events:
        log.warning("%s %s: %s", event.action, event.resource, event.reason)
    async with (
        asyncio.timeout(TELL_PATIENCE_S),
        owner.connected(settings, patience_s=TELL_PATIENCE_S) as database,
        database.transaction() as tx,
    ):
        await record(tx, *events)


def told(path: Path) -> Told:
    """What cannot be read was not told."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Told)
    except (FileNotFoundError, msgspec.DecodeError):
        return Told()


def _event(
    action: Action,
    *,
    outcome: str = "failed",
    resource: str = "",
    reason: str = "",
    details: dict[str, Any] | None = None,
) -> Event:
    return Event(
        action=action,
        actor="platform:supervisor",
        outcome=outcome,
        resource=resource,
        reason=reason,
        details=details or {},
    )

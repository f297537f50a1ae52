"""From what is known at two moments to amounts by the hour. Pure: rows in, amounts out.

Everything is counted from the last count to this one, so whenever the counting stops and goes on, nothing is counted twice.
A compute's run is counted by its own beginning and end where the rows still tell them, which makes it exact but for runs
that began and ended between two counts.
"""

from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from cloister.base.ids import BranchId, OrgId, ProjectId

HOUR: Final = timedelta(hours=1)

LONG_GAP: Final = timedelta(minutes=5)
# Several counts were missed: nobody was there. A compute that is found to have ended meanwhile ended at a time that nobody
# knows, and is counted as long as it is known to have worked.


class Whose(NamedTuple):
    org_id: OrgId
    """At the time: a project may move."""
    project_id: ProjectId
    branch_id: BranchId


@dataclass(frozen=True, slots=True)
class Run:
    """Of a compute: the one under way, or the last."""

    whose: Whose
    cu: float
    began_at: datetime
    ended_at: datetime | None
    last_active_at: datetime | None


@dataclass(frozen=True, slots=True)
class Held:
    """What a branch takes of the disk, as last measured, since it is there."""

    whose: Whose
    is_root: bool
    created_at: datetime
    logical_bytes: int
    own_bytes: int
    """Of its data: what no other branch shares."""
    history_bytes: int


@dataclass(frozen=True, slots=True)
class Written:
    """WAL since the last count."""

    whose: Whose
    bytes: float


@dataclass(frozen=True, slots=True)
class Amounts:
    """Of one branch in one hour. Bytes that are held are counted in byte-seconds."""

    active_s: float = 0.0
    cu_s: float = 0.0
    written_bytes: float = 0.0
    seen_s: float = 0.0
    """For how long it was known what is held."""
    logical_byte_s: float = 0.0
    root_byte_s: float = 0.0
    """The logical size of a root branch."""
    child_byte_s: float = 0.0
    """What a child has of its own."""
    history_byte_s: float = 0.0

    def __add__(self, other: "Amounts") -> "Amounts":
        return Amounts(*(one + another for one, another in zip(astuple(self), astuple(other), strict=True)))


Account = dict[tuple[Whose, datetime], Amounts]
"""By branch and the beginning of the hour, in UTC."""


def count(
    since: datetime, now: datetime, *, runs: Iterable[Run], held: Iterable[Held], written: Iterable[Written]
) -> Account:
    """What was taken from the last count (`since`) to this one. A clock that was set back counts nothing until it is there
    again."""
    account: Account = {}
    if since >= now:
        return account

    def add(whose: Whose, hour: datetime, amounts: Amounts) -> None:
        account[whose, hour] = account.get((whose, hour), Amounts()) + amounts

    for run in runs:
        end = _end(run, since, now)
        for hour, seconds in _by_hour(max(run.began_at, since), end):
            add(run.whose, hour, Amounts(active_s=seconds, cu_s=seconds * run.cu))
    for it in held:
        for hour, seconds in _by_hour(max(it.created_at, since), now):
            size = it.logical_bytes if it.is_root else it.own_bytes
            add(
                it.whose,
                hour,
                Amounts(
                    seen_s=seconds,
                    logical_byte_s=seconds * it.logical_bytes,
                    root_byte_s=seconds * size if it.is_root else 0.0,
                    child_byte_s=0.0 if it.is_root else seconds * size,
                    history_byte_s=seconds * it.history_bytes,
                ),
            )
    for it_was in written:
        add(it_was.whose, beginning(now), Amounts(written_bytes=it_was.bytes))
    return account


def beginning(moment: datetime) -> datetime:
    """Of its hour."""
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def _end(run: Run, since: datetime, now: datetime) -> datetime:
    if run.ended_at is None:
        return now
    if now - since <= LONG_GAP:
        return min(run.ended_at, now)
    return min(run.ended_at, now, max(since, run.last_active_at or run.began_at))


def _by_hour(begin: datetime, end: datetime) -> Iterator[tuple[datetime, float]]:
    """The hours between two moments, each with its seconds."""
    while begin < end:
        hour = beginning(begin)
        until = min(hour + HOUR, end)
        yield hour, (until - begin).total_seconds()
        begin = until

"""A branch at an instant or at a place in the WAL holds all that was committed before, and nothing after.

Three writers take turns at one row, so that the order of their commits is the order of their numbers: whatever a branch
holds must be 1 to n without a gap. Each commit is framed, by our clock before and after, and by the position of the WAL
that the server tells before and after. What lies clearly on one side of the point is where it must be; only the one
commit in whose frame the point lies may be on either side. A fourth writer commits on its own, beside them.
"""

import contextlib
import random
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from tests import branches
from tests.instance import Instance, Tenant

pytestmark = pytest.mark.root

WRITERS = 3


@dataclass(frozen=True, slots=True)
class Commit:
    """A transaction's number, and what is known of when and where it was committed."""

    number: int
    before: datetime
    after: datetime
    lsn_before: int
    lsn_after: int

    def side_of(self, point: datetime | int) -> tuple[bool, bool]:
        """Whether it is certainly before the point, and whether it is certainly after. A position ends what is before it."""
        if isinstance(point, datetime):
            return self.after <= point, self.before > point
        return self.lsn_after <= point, self.lsn_before >= point


@dataclass(slots=True)
class Stamps:
    """All commits of one table."""

    table: str
    commits: list[Commit] = field(default_factory=list)

    def check(self, branch: psycopg.Connection[Any], point: datetime | int) -> None:
        """`point` is an instant or a position."""
        there = {row[0] for row in branch.execute(f"SELECT n FROM {self.table}".encode())}
        lost, early = [], []
        for commit in list(self.commits):
            is_before, is_after = commit.side_of(point)
            if is_before and commit.number not in there:
                lost.append(commit)
            if is_after and commit.number in there:
                early.append(commit)
        assert not lost, f"{self.table} at {point}: {len(lost)} commits of before are missing, {lost[0]}"
        assert not early, f"{self.table} at {point}: {len(early)} commits of later are there, {early[0]}"
        assert there == set(range(1, len(there) + 1)), f"{self.table} at {point} has gaps"


class Writers:
    """Commit as fast as they can, until they are stopped."""

    def __init__(self, tenant: Tenant) -> None:
        self._tenant = tenant
        self.stamps = (Stamps("serial"), Stamps("alone"))
        with branches.connected(tenant) as connection:
            for stamps in self.stamps:
                connection.execute(f"CREATE TABLE {stamps.table} (n bigint PRIMARY KEY, filler text)".encode())
                connection.execute(f"CREATE TABLE turn_{stamps.table} (n bigint)".encode())
                connection.execute(f"INSERT INTO turn_{stamps.table} VALUES (0)".encode())

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """In the body they write. What they come across is raised at its end."""
        is_over = threading.Event()
        errors: list[BaseException] = []

        def run(stamps: Stamps) -> None:
            try:
                with branches.connected(self._tenant) as connection:
                    while not is_over.is_set():
                        stamps.commits.append(_commit(connection, stamps.table))
            except BaseException as error:
                errors.append(error)

        serial, alone = self.stamps
        threads = [threading.Thread(target=run, args=(stamps,)) for stamps in (*[serial] * WRITERS, alone)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            is_over.set()
            for thread in threads:
                thread.join()
        if errors:
            raise errors[0]

    def await_commits(self, count: int = 100) -> None:
        """That many more of each."""
        deadline = time.monotonic() + branches.PATIENCE_S
        for stamps in self.stamps:
            goal = len(stamps.commits) + count
            while len(stamps.commits) < goal:
                assert time.monotonic() < deadline, f"nobody writes to {stamps.table}"
                time.sleep(0.005)

    def points(self, chance: random.Random, count: int) -> list[datetime | int]:
        """Instants and positions between the first commit and the last, half of each."""
        commits = self.stamps[0].commits
        first, last = commits[0], commits[-1]
        span = (last.after - first.after).total_seconds()
        instants = [first.after + timedelta(seconds=chance.uniform(0, span)) for _ in range(count - count // 2)]
        positions = [chance.choice(commits).lsn_after for _ in range(count // 2)]
        return [*instants, *positions]

    def check(self, branch: Tenant, point: datetime | int) -> None:
        with branches.connected(branch) as connection:
            for stamps in self.stamps:
                stamps.check(connection, point)
            connection.execute("CREATE TABLE written_here AS SELECT 1 AS n")  # it is a branch like any other


def _commit(connection: psycopg.Connection[Any], table: str) -> Commit:
    connection.execute("BEGIN")
    number = _one(connection, f"UPDATE turn_{table} SET n = n + 1 RETURNING n")
    connection.execute(f"INSERT INTO {table} VALUES (%s, repeat('x', 300))".encode(), (number,))
    lsn_before = _lsn(_one(connection, "SELECT pg_current_wal_insert_lsn()::text"))
    before = datetime.now(UTC)
    connection.execute("COMMIT")
    after = datetime.now(UTC)
    return Commit(number, before, after, lsn_before, _lsn(_one(connection, "SELECT pg_current_wal_insert_lsn()::text")))


def _one(connection: psycopg.Connection[Any], query: str) -> Any:
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def _lsn(text: str) -> int:
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)


def _mark(point: datetime | int) -> dict[str, str]:
    if isinstance(point, datetime):
        return {"timestamp": point.isoformat(timespec="microseconds")}
    return {"lsn": f"{point >> 32:X}/{point & 0xFFFFFFFF:X}"}


class Places:
    """Makes branches at points, looks into them, and gives them up."""

    def __init__(self, instance: Instance, root: Tenant, writers: Writers) -> None:
        self._instance = instance
        self._root = root
        self._writers = writers
        self._count = 0

    def visit(self, *points: datetime | int) -> None:
        for point in points:
            self._count += 1
            branch = branches.create_child(self._instance, self._root, f"place-{self._count}", _mark(point))
            self._writers.check(branch, point)
            path = f"/projects/{branch.project_id}/branches/{branch.branch_id}?hard_delete=true"
            branches.finish(self._instance, branches.ask(self._instance, "DELETE", path))


def test_points_of_a_branch_that_runs_and_of_one_that_sleeps(instance: Instance) -> None:
    seed = random.SystemRandom().randrange(2**32)
    chance = random.Random(seed)
    print(f"seed {seed}")
    root = instance.create_project("time-machine")
    writers = Writers(root)
    places = Places(instance, root, writers)
    with writers.at_work():
        writers.await_commits(300)
        # While they go on: random places, and the present, whose WAL nobody has archived yet.
        places.visit(
            *writers.points(chance, 4), writers.stamps[0].commits[-1].after, writers.stamps[0].commits[-1].lsn_after
        )
        writers.await_commits()
    instance.suspend(root)
    places.visit(*writers.points(chance, 4))
    # The last moments of a branch that has been asleep since: after its last commit there is none to stop at.
    places.visit(writers.stamps[0].commits[-1].after, datetime.now(UTC))
    with writers.at_work():
        writers.await_commits()
    places.visit(*writers.points(chance, 2))


def test_a_point_outside_the_window_is_refused_with_the_window(instance: Instance) -> None:
    root = instance.create_project("bounded")
    with branches.connected(root) as connection:
        connection.execute("CREATE TABLE t (n int)")
    now = datetime.now(UTC)
    for point in (now - timedelta(days=2), now - timedelta(hours=1), now + timedelta(hours=1)):
        message = _refusal(instance, root, _mark(point))
        since, until = (datetime.fromisoformat(text) for text in re.findall(r"[0-9T:.-]{19,}Z", message))
        assert now - timedelta(minutes=2) < since <= until < now + timedelta(minutes=1), message
    # Where an LSN is, only the node knows: the request is accepted, and what was begun is taken back.
    for lsn in ("FFFF/0", "0/1"):
        _, answer = branches.ask_for_child(instance, root, f"at {lsn}", {"lsn": lsn})
        with pytest.raises(AssertionError, match=r"create_branch failed: .*LSN"):
            branches.finish(instance, answer)
    instance.settle(root.project_id)
    shown = instance.api("GET", f"/projects/{root.project_id}/branches")["branches"]
    assert [branch["name"] for branch in shown] == ["main"]


def _refusal(instance: Instance, root: Tenant, mark: dict[str, str]) -> str:
    body = {"branch": {"name": "nowhere", "parent_id": root.branch_id, **branches.point_of(mark, "parent")}}
    answer = instance.api("POST", f"/projects/{root.project_id}/branches", body, expect=422)
    return str(answer["message"])


def test_restored_in_place_and_back_before_the_restore(instance: Instance) -> None:
    """What a branch was before it was restored is found by its moments, whatever it has become since."""
    root = instance.create_project("twice-lived")
    writers = Writers(root)
    with writers.at_work():
        writers.await_commits(150)
    past = writers.points(random.Random(1), 2)[0]
    child = branches.create_child(instance, root, "work")
    with branches.connected(child) as connection:
        connection.execute("INSERT INTO serial VALUES (1000000)")
    wrong_moment = datetime.now(UTC)
    uri = child.uri

    # Reset to its parent, without keeping it: the moment before lies on a timeline that has ended.
    branches.finish(instance, branches.ask_to_restore(instance, child, root.branch_id))
    assert child.uri == uri
    with branches.connected(child) as connection:
        assert connection.execute("SELECT count(*) FROM serial WHERE n = 1000000").fetchone() == (0,)
        connection.execute("INSERT INTO serial VALUES (2000000)")
    before = branches.create_child(instance, child, "before-the-reset", _mark(wrong_moment))
    with branches.connected(before) as connection:
        assert connection.execute("SELECT n FROM serial WHERE n >= 1000000").fetchall() == [(1000000,)]

    # The root back in its own history, under the same host; what it was is kept, with its later rows.
    branches.finish(
        instance, branches.ask_to_restore(instance, root, root.branch_id, _mark(past), preserve_as="as-it-was")
    )
    with branches.connected(root) as connection:
        for stamps in writers.stamps:
            stamps.check(connection, past)
    shown = branches.named(instance, root.project_id, "as-it-was")
    kept = branches.give_endpoint(instance, branches.with_branch(root, shown["id"]))
    with branches.connected(kept) as connection:
        for stamps in writers.stamps:
            stamps.check(connection, datetime.now(UTC))
    again = branches.create_child(instance, kept, "again", _mark(past))
    writers.check(again, past)

"""Branches at random: created, written to, reset, restored, deleted, recovered, put to sleep, kept in snapshots and replaced by
them, left to expire, with deaths in between; at every moment each of them holds exactly what it must, by `tests/branch_model.py`, and every page and index is sound.

Deaths come after a request was answered, while its operations are at work: they must end well all the same.
"""

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import psycopg
import pytest

from tests import branches, leftovers
from tests.branch_model import SCHEMA, Contents, Line, Mark, look, require_lost, write
from tests.instance import Instance, tail

pytestmark = pytest.mark.root

LINES_MAX: Final = 6
# Each has a compute, and there are two cores.
MARKS_MAX: Final = 4
STREAM_MAX: Final = 60
QUICK_STEPS: Final = 10
EXPIRES_IN: Final = timedelta(seconds=20)
# The request may have to be repeated while a part of the platform is on its way back.
PLATFORM: Final = ("agent", "api", "broker", "database", "gateway-1", "gateway-2")
TENANT: Final = "a tenant's"


@dataclass(frozen=True, slots=True)
class Kept:
    """A snapshot, and what it holds."""

    id: str
    branch_id: str
    contents: Contents


class World:
    """One project's branches, the deeds that are done to them, and the journal of what was done."""

    def __init__(self, instance: Instance, chance: random.Random, *, has_time: bool) -> None:
        self.instance = instance
        self.has_time = has_time
        self.chance = chance
        self.journal: list[str] = []
        self.deleted: list[Line] = []
        self.expiring: list[Line] = []
        """Nobody touches them any more. They go by themselves."""
        self.kept: list[Kept] = []
        self._numbers = 0
        tenant = instance.create_project("many-branched")
        self.project = f"/projects/{tenant.project_id}"
        with branches.connected(tenant) as connection:
            connection.execute(SCHEMA.encode())
        self.lines = [Line(tenant, "main", Contents())]

    def step(self) -> None:
        deeds = [deed for deed, (weight, may) in DEEDS.items() if may(self) for _ in range(weight)]
        deed = self.chance.choice(deeds)
        self.journal.append(deed.__name__.strip("_"))
        deed(self)

    def any_line(self) -> Line:
        return self.chance.choice(self.lines)

    def number(self) -> int:
        self._numbers += 1
        return self._numbers

    def note(self, words: str) -> None:
        self.journal[-1] += f" {words}"

    # ── writing and looking ──

    def connected(self, line: Line) -> contextlib.AbstractContextManager[psycopg.Connection[Any]]:
        if not line.tenant.endpoint_id:
            line.tenant = branches.give_endpoint(self.instance, line.tenant)
        return branches.connected(line.tenant)

    @contextlib.contextmanager
    def session(self, line: Line) -> Iterator[psycopg.Connection[Any]]:
        """One that may be cut; then the rest of the body is left out. The model knows what is in doubt."""
        try:
            with self.connected(line) as connection:
                yield connection
        except psycopg.OperationalError as error:
            require_lost(error, f"a session in {line.name}")

    def write(self, line: Line, transactions: int) -> None:
        with self.session(line) as connection:
            for _ in range(transactions):
                self.write_one(connection, line.contents)

    def write_one(self, connection: psycopg.Connection[Any], contents: Contents) -> None:
        known = contents.certain()
        if not known or self.chance.random() < 0.6:
            write(connection, contents, self.number(), 1)
            return
        batch = self.chance.choice(known)
        (version,) = contents.batches[batch]
        write(connection, contents, batch, 0 if self.chance.random() < 0.3 else version + 1)

    def check(self, line: Line, *, storage: bool) -> None:
        """The line holds what it must. Sessions may still be cut by what was killed before: then it is looked at again."""
        line.contents.epoch = self.number()
        deadline = time.monotonic() + branches.PATIENCE_S
        while True:
            try:
                with self.connected(line) as connection:
                    connection.execute("UPDATE fence SET epoch = %s", (line.contents.epoch,))
                    found = look(connection)
                    if storage:
                        branches.check_storage(self.instance, line.tenant)
                break
            except psycopg.OperationalError as error:
                require_lost(error, f"looking at {line.name}")
                if time.monotonic() > deadline:
                    raise AssertionError(f"{line.name} cannot be read") from error
        wrong = line.contents.compare(found)
        assert not wrong, f"{line.name} ({line.id}): {len(wrong)} batches, {'; '.join(wrong[:5])}"
        line.contents.narrow(found)

    # ── asking, with a death in between ──

    def finish(self, answer: Any) -> None:
        """See the operations of an answer through, in every other case over somebody's dead body."""
        if self.chance.random() < 0.5:
            time.sleep(self.chance.uniform(0, 0.25))  # so that it dies at any moment of the work
            self.kill(self.chance.choice((*PLATFORM, TENANT)))
        branches.finish(self.instance, answer)

    def kill(self, victim: str) -> None:
        self.note(f"(kill {victim})")
        if victim != TENANT:
            self.instance.kill_and_await(victim)
        elif processes := leftovers.processes(self.instance):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(self.chance.choice(processes).split()[0]), signal.SIGKILL)

    def has_children(self, line: Line) -> bool:
        return any(branch.get("parent_id") == line.id for branch in self.shown())

    def shown(self) -> list[Any]:
        found: list[Any] = branches.ask(self.instance, "GET", f"{self.project}/branches?limit=1000")["branches"]
        return found

    def await_expired(self) -> None:
        """Those that were to expire are gone."""
        ids = {line.id for line in self.expiring}
        deadline = time.monotonic() + branches.PATIENCE_S
        while left := ids & {branch["id"] for branch in self.shown()}:
            assert time.monotonic() < deadline, f"{left} do not expire"
            time.sleep(0.2)
        self.deleted += self.expiring
        self.expiring = []

    def preserve(self, line: Line, name: str) -> Line:
        """What a line was goes on under another name, with its history."""
        shown = branches.named(self.instance, line.tenant.project_id, name)
        return Line(branches.with_branch(line.tenant, shown["id"]), name, line.contents, line.marks)


# ── deeds ──


def _write(world: World) -> None:
    world.write(world.any_line(), world.chance.randint(1, 8))


def _tidy_up(world: World) -> None:
    """The same rows in other files: nothing that a table's name leads to stays where it was."""
    line = world.any_line()
    statement = world.chance.choice(("VACUUM FULL", "REINDEX TABLE", "VACUUM (FREEZE)"))
    with world.session(line) as connection:
        connection.execute(f"{statement} ledger_{world.chance.randrange(3)}".encode())


def _mark(world: World) -> None:
    """Remember this moment, by the clock or by the WAL's position, and go on writing."""
    line = world.any_line()
    kind = world.chance.choice(("timestamp", "lsn"))
    world.note(f"{line.name} {kind}")
    # Behind a fence: a statement that is still on its way must not lie on both sides of the moment.
    world.check(line, storage=False)
    contents = line.contents.copy()
    with world.session(line) as connection:
        row = connection.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
        assert row is not None
        value = datetime.now(UTC).isoformat(timespec="microseconds") if kind == "timestamp" else row[0]
        line.marks = [*line.marks[-(MARKS_MAX - 1) :], Mark({kind: value}, contents)]
        world.write_one(connection, line.contents)


def _branch(world: World) -> None:
    parent = world.any_line()
    name = f"child-{world.number()}"
    world.note(f"{parent.name} → {name}")
    tenant, answer = branches.ask_for_child(world.instance, parent.tenant, name)
    world.finish(answer)
    world.lines.append(Line(tenant, name, parent.contents.copy()))


def _branch_of_the_past(world: World) -> None:
    parent = world.chance.choice([line for line in world.lines if line.marks])
    mark = world.chance.choice(parent.marks)
    name = f"past-{world.number()}"
    world.note(f"{parent.name} {mark.point} → {name}")
    tenant, answer = branches.ask_for_child(world.instance, parent.tenant, name, mark.point)
    world.finish(answer)
    world.lines.append(Line(tenant, name, mark.contents.copy()))


def _branch_under_load(world: World) -> None:
    """What was acknowledged before the request is in the child; what was written while it was being made may be, in order."""
    parent = world.any_line()
    name = f"busy-{world.number()}"
    world.note(f"{parent.name} → {name}")
    contents = parent.contents.copy()
    with _writer(world, parent) as stream:
        before = list(stream.acknowledged)
        tenant, answer = branches.ask_for_child(world.instance, parent.tenant, name)
        world.finish(answer)
    contents.batches |= {batch: frozenset({0, 1}) for batch in stream.begun}
    contents.batches |= {batch: frozenset({1}) for batch in before}
    child = Line(tenant, name, contents)
    world.lines.append(child)
    world.check(child, storage=False)
    there = [batch in child.contents.batches for batch in stream.begun]
    assert there == sorted(there, reverse=True), f"{name} has a gap in what was written while it was made: {there}"


@dataclass(slots=True)
class Stream:
    """Batches that are being inserted, one after the other."""

    begun: list[int] = field(default_factory=list)
    acknowledged: list[int] = field(default_factory=list)


@contextlib.contextmanager
def _writer(world: World, line: Line) -> Iterator[Stream]:
    """Inserts batches in another thread, into a line that nobody else writes to meanwhile. Yields once it is at work; when it
    has ended, the model knows of all that it did."""
    numbers = [world.number() for _ in range(STREAM_MAX)]
    stream = Stream()
    at_work, is_over = threading.Event(), threading.Event()
    errors: list[BaseException] = []

    def run() -> None:
        try:
            with world.session(line) as connection:
                for batch in numbers:
                    if is_over.is_set():
                        return
                    stream.begun.append(batch)
                    write(connection, line.contents, batch, 1)
                    stream.acknowledged.append(batch)
                    at_work.set()
        except BaseException as error:
            errors.append(error)
        finally:
            at_work.set()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert at_work.wait(branches.PATIENCE_S), "the writer does not get to write"
        yield stream
    finally:
        is_over.set()
        thread.join()
    if errors:
        raise errors[0]


def _reset(world: World) -> None:
    """To what another branch is now, or was; with or without keeping what it was itself."""
    line, source = world.chance.sample(world.lines, 2)
    keeps = world.has_children(line) or (_has_room(world) and world.chance.random() < 0.3)
    name = f"kept-{world.number()}" if keeps else None
    mark = world.chance.choice(source.marks) if source.marks and world.chance.random() < 0.3 else None
    world.note(f"{line.name} ← {source.name} {mark.point if mark else ''}" + (f", kept as {name}" if name else ""))
    _restore(world, line, source, mark, name)


def _go_back(world: World) -> None:
    """To what it was."""
    line = world.chance.choice([line for line in world.lines if line.marks])
    mark = world.chance.choice(line.marks)
    name = f"kept-{world.number()}"
    world.note(f"{line.name} ← {mark.point}, kept as {name}")
    _restore(world, line, line, mark, name)


def _restore(world: World, line: Line, source: Line, mark: Mark | None, name: str | None) -> None:
    contents = (source if mark is None else mark).contents.copy()
    point = {} if mark is None else mark.point
    world.finish(branches.ask_to_restore(world.instance, line.tenant, source.id, point, preserve_as=name))
    if name is not None:
        world.lines.append(world.preserve(line, name))
        line.marks = []
    # An LSN is looked for in the data that a branch has now first, and that is another line's.
    line.marks = [each for each in line.marks if "timestamp" in each.point]
    line.contents = contents


def _delete(world: World) -> None:
    line = world.chance.choice([line for line in world.lines if _can_go(world, line)])
    is_final = world.chance.random() < 0.3
    world.note(line.name + (" for good" if is_final else ""))
    path = f"{world.project}/branches/{line.id}" + ("?hard_delete=true" if is_final else "")
    world.finish(branches.ask(world.instance, "DELETE", path))
    world.lines.remove(line)
    if not is_final:
        world.deleted.append(line)


def _can_go(world: World, line: Line) -> bool:
    shown = next(branch for branch in world.shown() if branch["id"] == line.id)
    return not shown["default"] and shown.get("parent_id") is not None and not world.has_children(line)


def _recover(world: World) -> None:
    line = world.chance.choice(world.deleted)
    world.note(line.name)
    world.finish(branches.ask(world.instance, "POST", f"{world.project}/branches/{line.id}/recover"))
    world.deleted.remove(line)
    world.lines.append(line)


def _expire(world: World) -> None:
    """It goes by itself, some seconds later. Nobody has to wait for that but the end."""
    line = world.chance.choice([line for line in world.lines if _can_go(world, line)])
    world.note(line.name)
    at = (datetime.now(UTC) + EXPIRES_IN).isoformat()
    change = {"branch": {"expires_at": at}}
    branches.ask(world.instance, "PATCH", f"{world.project}/branches/{line.id}", change)
    world.lines.remove(line)
    world.expiring.append(line)


def _take_snapshot(world: World) -> None:
    line = world.any_line()
    name = f"snapshot-{world.number()}"
    world.note(f"{line.name} → {name}")
    world.check(line, storage=False)
    contents = line.contents.copy()
    answer = branches.ask(world.instance, "POST", f"{world.project}/branches/{line.id}/snapshot?name={name}")
    world.finish(answer)
    world.kept.append(Kept(answer["snapshot"]["id"], line.id, contents))


def _restore_snapshot(world: World) -> None:
    """To look at; in every other case it takes the place of a branch, with its name, its host and its rank."""
    kept = world.chance.choice(world.kept)
    target = world.any_line() if world.chance.random() < 0.5 else None
    name, old_name = f"again-{world.number()}", f"replaced-{world.number()}"
    world.note(f"{kept.id} → {name}" + (f", in the place of {target.name}" if target else ""))
    body = {"name": name} | ({"target_branch_id": target.id} if target else {})
    answer = branches.ask(world.instance, "POST", f"{world.project}/snapshots/{kept.id}/restore", body)
    world.finish(answer)
    tenant = branches.with_branch(world.lines[0].tenant, answer["branch"]["id"])
    line = Line(branches.with_endpoint(tenant, answer["endpoints"][0]), name, kept.contents.copy())
    world.lines.append(line)
    if target is None:
        return
    world.check(line, storage=False)
    path = f"{world.project}/branches/{line.id}/finalize_restore"
    world.finish(branches.ask(world.instance, "POST", path, {"name": old_name}))
    line.name, target.name = target.name, old_name
    if target.tenant.endpoint_id:
        line.tenant = replace(target.tenant, branch_id=line.id)
        target.tenant = branches.with_branch(target.tenant, target.id)


def _suspend(world: World) -> None:
    line = world.any_line()
    if line.tenant.endpoint_id:
        world.note(line.name)
        path = f"{world.project}/endpoints/{line.tenant.endpoint_id}/suspend"
        world.finish(branches.ask(world.instance, "POST", path))


def _look(world: World) -> None:
    line = world.any_line()
    world.note(line.name)
    world.check(line, storage=world.chance.random() < 0.5)


def _somebody_dies(world: World) -> None:
    """While somebody writes."""
    line = world.any_line()
    with _writer(world, line):
        world.kill(world.chance.choice((*PLATFORM, TENANT)))
    world.check(line, storage=False)


def _everything_dies(world: World) -> None:
    line = world.any_line()
    with _writer(world, line):
        world.instance.kill_everything()
    world.instance.up()
    world.check(line, storage=True)


def _always(_world: World) -> bool:
    return True


def _has_room(world: World) -> bool:
    return len(world.lines) < LINES_MAX


def _has_past(world: World) -> bool:
    return _has_room(world) and any(line.marks for line in world.lines)


def _has_two(world: World) -> bool:
    return len(world.lines) > 1


def _has_too_many(world: World) -> bool:
    return len(world.lines) > LINES_MAX // 2 and any(_can_go(world, line) for line in world.lines)


def _has_too_many_and_time(world: World) -> bool:
    """What expires is waited for at the end, half a minute."""
    return world.has_time and _has_too_many(world)


def _has_kept(world: World) -> bool:
    return _has_room(world) and bool(world.kept)


def _has_deleted(world: World) -> bool:
    return _has_room(world) and bool(world.deleted)


Deed = Callable[[World], None]

DEEDS: Final[dict[Deed, tuple[int, Callable[[World], bool]]]] = {
    _write: (5, _always),
    _tidy_up: (1, _always),
    _mark: (4, _always),
    _branch: (3, _has_room),
    _branch_of_the_past: (4, _has_past),
    _branch_under_load: (2, _has_room),
    _reset: (3, _has_two),
    _go_back: (3, _has_past),
    _delete: (4, _has_too_many),
    _recover: (1, _has_deleted),
    _expire: (1, _has_too_many_and_time),
    _take_snapshot: (2, _always),
    _restore_snapshot: (3, _has_kept),
    _suspend: (2, _always),
    _look: (2, _always),
    _somebody_dies: (2, _always),
    _everything_dies: (1, _always),
}
"""How often each is chosen, and when it can be."""


@pytest.mark.parametrize("steps", [QUICK_STEPS, pytest.param(300, marks=pytest.mark.soak)])
def test_every_branch_equals_its_model(steps: int) -> None:
    seed = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(2**32))
    print(f"CHAOS_SEED={seed}")
    with Instance() as instance, tail(instance):
        world = World(instance, random.Random(seed), has_time=steps > QUICK_STEPS)
        began = time.monotonic()
        try:
            for _ in range(steps):
                world.step()
            world.journal.append("the end")
            world.await_expired()
            for line in world.lines:
                world.check(line, storage=True)
            assert sorted(branch["name"] for branch in world.shown()) == sorted(line.name for line in world.lines)
            for line in world.lines:
                path = f"{world.project}/endpoints/{line.tenant.endpoint_id}/suspend"
                branches.finish(instance, branches.ask(instance, "POST", path))
            leftovers.await_none(instance)
        except BaseException as error:
            error.add_note(f"CHAOS_SEED={seed}, {len(world.journal)} steps: {'; '.join(world.journal[-12:])}")
            raise
        print(f"{steps} steps in {time.monotonic() - began:.0f} s: {'; '.join(world.journal)}")

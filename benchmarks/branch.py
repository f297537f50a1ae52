"""`branch`: from the request for a branch to the first row out of it, of small and large parents, asleep and at work.

The request asks for an endpoint as well; the client connects with the parent's password as soon as it has the answer, and
is held until the branch is there. Each branch is deleted before the next is made. A parent that sleeps is encrypted and
closed, so a branch of it includes opening the volume. What a branch costs on disk is what the volume's image has grown by
after a sync, measured before anything was deleted, so that no freed space is used again.

CLOISTER_BENCH_GB and CLOISTER_BENCH_BRANCHES choose other sizes than 1,5 and another number than 500.

Baselines: the data directory of a stopped server copied by reflink on a mounted XFS, then started, without encryption,
sandbox or gateway; that of one under the same load, with the checkpoint and the WAL that such a copy needs; and, to see what a
copy costs that is one, `cp` without reflink and `pg_basebackup`.
"""

import asyncio
import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import psycopg

from benchmarks import pgbench
from benchmarks.baselines import BIN, BarePostgres, demoted, own
from benchmarks.measure import Result, Series, stopwatch
from benchmarks.wake import first_row
from tests import branches
from tests.instance import Instance, Tenant

SIZES_GB: Final = tuple(float(size) for size in os.environ.get("CLOISTER_BENCH_GB", "1,5").split(","))
EDGE: Final = 10
# How many of the first and of the last children are compared.
CHILDREN: Final = max(2 * EDGE + 1, int(os.environ.get("CLOISTER_BENCH_BRANCHES", "500")))

SCALE_OF_GB: Final = 68
# pgbench's accounts and their index take 15 MB for each unit of scale.
LOAD_CLIENTS: Final = 2
STEADY_TPS: Final = 100
# A server that works and has cores left; without a limit the same clients take two of them.
STEADILY: Final = ("-R", str(STEADY_TPS))
AT_WORK: Final = f"at {STEADY_TPS} tps"
UNDER_LOAD: Final = "under load"
FULL_COPIES: Final = 3
KEPT: Final = 5

_MEASURED_WITHIN_S: Final = 30


def run(n: int = 20) -> Result:
    result = Result("branch")
    ours: dict[tuple[float, str], Series] = {}
    with Instance() as instance:
        for size in SIZES_GB:
            parent = instance.create_project(f"{size:g}-gb")
            pgbench.initialise(parent.environment, scale_of(size))
            _disk(result, instance, parent, size)
            for state, condition in CONDITIONS.items():
                with condition(instance, parent):
                    taken = [_branch(instance, parent, is_asleep=state == "asleep") for _ in range(n)]
                ours[size, state] = result.add(f"{size:g} GB, parent {state} → first row", taken)
            instance.suspend(parent)
        result.facts["storage"] = instance.status()["storage"]["opener"]
    for state in CONDITIONS:
        if len(SIZES_GB) > 1:
            small, large = SIZES_GB[0], SIZES_GB[-1]
            name = f"{large:g} GB ÷ {small:g} GB, parent {state} (target ≤ 1.2)"
            result.ratios[name] = round(ours[large, state].p50 / ours[small, state].p50, 3)
    for size in SIZES_GB:
        for state, theirs in _baseline(result, size, n).items():
            result.ratio(f"{size:g} GB: {state} ÷ reflink and start", ours[size, state], theirs)
    _many(result)
    return result


def scale_of(size_gb: float) -> int:
    return max(1, round(size_gb * SCALE_OF_GB))


# ── one branch ──


def _branch(instance: Instance, parent: Tenant, *, is_asleep: bool) -> float:
    taken: list[float] = []
    with stopwatch(taken):
        child, answer = branches.ask_for_child(instance, parent, f"bench-{time.monotonic_ns()}")
        first_row(child)
    branches.finish(instance, answer)
    _delete(instance, child)
    if is_asleep:
        _await_closed(instance)
    return taken[0]


def _delete(instance: Instance, child: Tenant) -> None:
    path = f"/projects/{child.project_id}/branches/{child.branch_id}?hard_delete=true"
    branches.finish(instance, branches.ask(instance, "DELETE", path))


@contextlib.contextmanager
def _asleep(instance: Instance, parent: Tenant) -> Iterator[None]:
    instance.suspend(parent)
    _await_closed(instance)
    yield


@contextlib.contextmanager
def _awake(_instance: Instance, parent: Tenant) -> Iterator[None]:
    with parent.connect() as connection:
        connection.execute("SELECT 1")
        yield


@contextlib.contextmanager
def _at_work(_instance: Instance, parent: Tenant) -> Iterator[None]:
    first_row(parent)
    with _tpc_b(parent.environment, *STEADILY):
        yield


@contextlib.contextmanager
def _under_load(_instance: Instance, parent: Tenant) -> Iterator[None]:
    """As fast as it goes."""
    first_row(parent)
    with _tpc_b(parent.environment):
        yield


@contextlib.contextmanager
def _tpc_b(environment: dict[str, str], *options: str) -> Iterator[None]:
    process = subprocess.Popen(
        ["pgbench", "-n", "-c", str(LOAD_CLIENTS), "-T", "3600", *options],
        env={"PATH": os.environ["PATH"], **environment}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield
        if process.poll() is not None:
            raise RuntimeError("pgbench ended before it was told to")
    finally:
        process.terminate()
        process.wait()


CONDITIONS: Final = {
    "asleep": _asleep,
    "awake": _awake,
    AT_WORK: _at_work,
    UNDER_LOAD: _under_load,
    "awake, after the load": _awake,
}
# In this order: a page that is written while others share it gets a place of its own, and each place is work for the next branch.


def _await_closed(instance: Instance) -> None:
    """Until no volume is open: what is made of a sleeping parent begins there."""
    deadline = time.monotonic() + 60
    while instance.status()["storage"]["open_volumes"]:
        if time.monotonic() > deadline:
            raise RuntimeError("the volume stays open")
        time.sleep(0.05)


# ── disk ──


def _disk(result: Result, instance: Instance, parent: Tenant, size: float) -> None:
    """By the host's file system, and by what the platform says of the same branches."""
    image = next(instance.paths.volumes.glob(f"{parent.project_id}.img"))
    instance.suspend(parent)
    _await_closed(instance)
    grown, children = [], []
    for number in range(KEPT):
        before = _on_disk(image)
        child = branches.create_child(instance, parent, f"kept-{number}")
        first_row(child)
        instance.suspend(child)
        _await_closed(instance)
        grown.append((_on_disk(image) - before) / 2**20)
        children.append(child)
    result.add(f"{size:g} GB: new on the host's disk per branch, woken once (target ≤ 40)", grown, "MiB")
    shown = [_shown(instance, child) for child in children]
    for kind in ("logical_size", "unique_size", "history_size"):
        values = [each[kind] for each in shown if each.get(kind) is not None]
        result.facts[f"{size:g} GB: {kind} as shown, MiB"] = (
            round(sorted(values)[len(values) // 2] / 2**20, 1) if values else "not measured yet"
        )
    for child in children:
        _delete(instance, child)


def _shown(instance: Instance, child: Tenant) -> Any:
    """Sizes are measured in the background."""
    deadline = time.monotonic() + _MEASURED_WITHIN_S
    path = f"/projects/{child.project_id}/branches/{child.branch_id}"
    while (branch := instance.api("GET", path)["branch"]).get("unique_size") is None and time.monotonic() < deadline:
        time.sleep(0.2)
    return branch


def _on_disk(image: Path) -> int:
    os.sync()
    return image.stat().st_blocks * 512


# ── many branches ──


def _many(result: Result) -> None:
    """Of one parent, none deleted: the last against the first."""
    with Instance() as instance:
        parent = instance.create_project("many")
        pgbench.initialise(parent.environment, 1)
        instance.suspend(parent)
        first_row(parent)
        first = _edge(instance, parent, "first")
        made: list[float] = []
        for number in range(CHILDREN - 2 * EDGE):
            with stopwatch(made):
                branches.create_child(instance, parent, f"middle-{number}", has_endpoint=False)
        last = _edge(instance, parent, "last")
        listing: list[float] = []
        for _ in range(20):
            with stopwatch(listing):
                instance.api("GET", f"/projects/{parent.project_id}/branches?limit=100")
        image = next(instance.paths.volumes.glob(f"{parent.project_id}.img"))
        result.facts[f"MiB on the host's disk, a small project with {CHILDREN} branches"] = round(
            _on_disk(image) / 2**20
        )
    theirs = result.add(f"the first {EDGE} of {CHILDREN} branches → first row", first)
    ours = result.add(f"the last {EDGE} of {CHILDREN} branches → first row", last)
    result.add("the others, without an endpoint: request → made", made)
    result.add("GET …/branches?limit=100", listing)
    result.ratios[f"last ÷ first of {CHILDREN} branches (target 1)"] = round(ours.p50 / theirs.p50, 3)


def _edge(instance: Instance, parent: Tenant, name: str) -> list[float]:
    taken: list[float] = []
    for number in range(EDGE):
        with stopwatch(taken):
            child, answer = branches.ask_for_child(instance, parent, f"{name}-{number}")
            first_row(child)
        branches.finish(instance, answer)
        instance.suspend(child)
    return taken


# ── what it would be by hand ──


def _baseline(result: Result, size: float, n: int) -> dict[str, Series]:
    """By the state that the parent was in."""
    reflinked: list[float] = []
    of_a_running_one: dict[str, list[float]] = {AT_WORK: [], UNDER_LOAD: []}
    copied: list[float] = []
    backed_up: list[float] = []
    with bare_xfs(4 * size + 2) as directory:
        source = BarePostgres(directory / "source")
        source.initialise()
        source.start()
        try:
            asyncio.run(source.first_row())
            environment = {"PGHOST": str(source.directory), "PGUSER": "bench", "PGDATABASE": "postgres"}
            pgbench.initialise(environment, scale_of(size))
            for number in range(FULL_COPIES):
                _back_up(source, directory / f"backup-{number}", backed_up)
            for state, options in ((AT_WORK, STEADILY), (UNDER_LOAD, ())):
                with _tpc_b(environment, *options):
                    for number in range(n):
                        _copy_running_and_start(source, directory / f"running-{number}", of_a_running_one[state])
        finally:
            source.stop()
        for number in range(n):
            _copy_and_start(source, directory / f"reflink-{number}", "always", reflinked)
        for number in range(FULL_COPIES):
            _copy_and_start(source, directory / f"copy-{number}", "never", copied)
    theirs = {
        "asleep": result.add(f"{size:g} GB: cp --reflink, start → first row (no encryption, no sandbox)", reflinked)
    }
    for state, taken in of_a_running_one.items():
        theirs[state] = result.add(f"{size:g} GB: the same of a server {state}, with its checkpoint and WAL", taken)
    result.add(f"{size:g} GB: cp without reflink, start → first row", copied)
    result.add(f"{size:g} GB: pg_basebackup, without a start", backed_up)
    return theirs


def _back_up(source: BarePostgres, target: Path, into: list[float]) -> None:
    os.sync()
    with stopwatch(into):
        subprocess.run(
            [*demoted(), BIN / "pg_basebackup", "-D", target, "-h", source.directory, "-U", "bench", "--checkpoint=fast"],
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    shutil.rmtree(target)


def _copy_and_start(source: BarePostgres, target: Path, reflink: str, into: list[float]) -> None:
    copy = BarePostgres(target)
    target.mkdir()
    own(target)
    os.sync()
    with stopwatch(into):
        subprocess.run(["cp", "-a", f"--reflink={reflink}", source.data, copy.data], check=True)
        _start(copy)
    copy.stop()
    shutil.rmtree(target)


def _copy_running_and_start(source: BarePostgres, target: Path, into: list[float]) -> None:
    """What somebody who knows PostgreSQL would do by hand: a backup by its low-level interface."""
    copy = BarePostgres(target)
    target.mkdir()
    copy.data.mkdir(mode=0o700)
    own(target)
    own(copy.data)
    entries = [it for it in source.data.iterdir() if it.name not in {"pg_wal", "postmaster.pid", "postmaster.opts"}]
    where = f"host={source.directory} user=bench dbname=postgres"
    with psycopg.connect(where, autocommit=True) as session, stopwatch(into):
        session.execute("SELECT pg_backup_start('branch', fast => true)")
        subprocess.run(["cp", "-a", "--reflink=always", *entries, copy.data], check=True)
        stopped = session.execute("SELECT labelfile FROM pg_backup_stop(wait_for_archive => false)").fetchone()
        assert stopped is not None
        subprocess.run(["cp", "-a", "--reflink=always", source.data / "pg_wal", copy.data], check=True)
        label = copy.data / "backup_label"
        label.write_text(stopped[0])
        own(label)
        _start(copy)
    copy.stop()
    shutil.rmtree(target)


def _start(copy: BarePostgres) -> None:
    copy.start()
    try:
        asyncio.run(copy.first_row())
    except BaseException:
        copy.stop()
        raise


@contextlib.contextmanager
def bare_xfs(size_gb: float) -> Iterator[Path]:
    """A mounted file system that can share blocks, in a sparse file."""
    with tempfile.TemporaryDirectory(prefix="cloister-bench-") as name:
        image, directory = Path(name) / "image", Path(name) / "mount"
        with image.open("wb") as file:
            file.truncate(int(size_gb * 2**30))
        directory.mkdir()
        Path(name).chmod(0o755)
        subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", image], check=True)
        subprocess.run(["mount", "-o", "loop,noatime", image, directory], check=True)
        try:
            directory.chmod(0o755)
            own(directory)
            yield directory
        finally:
            subprocess.run(["umount", directory], check=True)

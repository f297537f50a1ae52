"""The embedded control database, as real processes: who comes in, what survives which death, what is refused."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from cloister.base.database import Database, embedded
from cloister.base.database.embedded import API_ROLE, OWNER
from cloister.base.errors import PreconditionError, UnavailableError
from cloister.base.settings import Paths

NOBODY = 65534  # stands for cloister-db where the tests run as root, for PostgreSQL refuses to
AM_ROOT = os.geteuid() == 0
UID: int | None = NOBODY if AM_ROOT else None
ME = pwd.getpwuid(os.geteuid()).pw_name
MAPPING = {ME: [OWNER, API_ROLE]}


@pytest.fixture
def paths() -> Iterator[Paths]:
    base = Path(tempfile.mkdtemp(prefix="cloister-control-"))
    base.chmod(0o755)
    paths = Paths(base / "state")
    paths.run = base / "run"
    paths.control_socket_dir = paths.run / "control"
    for directory in (paths.control_data, paths.control_socket_dir):
        directory.mkdir(parents=True)
        if AM_ROOT:
            os.chown(directory, NOBODY, NOBODY)
    paths.control_data.chmod(0o700)
    yield paths
    embedded.clear_the_way(paths)
    shutil.rmtree(base)


def initialise(paths: Paths) -> None:
    embedded.initialise(paths, uid=UID, gid=UID, who_may_be_whom=MAPPING)


class Server:
    """What the supervisor does: start, signal, wait."""

    def __init__(self, paths: Paths) -> None:
        self.log = paths.state_dir / "log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                embedded.argv(paths), stdout=log, stderr=log, cwd="/", user=UID, group=UID,
                extra_groups=[] if AM_ROOT else None,
            )  # fmt: skip

    def stop(self, number: signal.Signals = embedded.STOP_SIGNAL) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=20)


@contextlib.contextmanager
def serving(paths: Paths) -> Iterator[Server]:
    server = Server(paths)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.stop()


@contextlib.asynccontextmanager
async def database(paths: Paths, role: str = API_ROLE) -> AsyncIterator[Database]:
    opened = Database(socket_dir=paths.control_socket_dir, role=role)
    await opened.open()
    try:
        yield opened
    finally:
        await opened.close()


async def connect(paths: Paths, role: str, name: str = "cloister") -> Any:
    return await asyncpg.connect(host=str(paths.control_socket_dir), user=role, database=name)


async def count_organizations(paths: Paths) -> int:
    async with database(paths) as opened, opened.reading() as tx:
        count: int = await tx.fetch_value("SELECT count(*) FROM organization")
        return count


async def test_from_nothing_to_a_migrated_database_and_through_every_death(paths: Paths) -> None:
    """One test for one server, because initdb takes a second."""
    initialise(paths)
    with serving(paths) as server:
        assert await embedded.migrate_embedded(paths) >= 1
        assert await embedded.migrate_embedded(paths) == 0, "idempotent"

        # What it promises to its rows.
        owner = await connect(paths, OWNER)
        promised = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "data_checksums": "on",
                    "listen_addresses": "", "log_parameter_max_length": "0"}  # fmt: skip
        assert {name: await owner.fetchval("SELECT current_setting($1)", name) for name in promised} == promised
        assert await owner.fetchval("SELECT datcollate FROM pg_database WHERE datname = 'cloister'") == "C"

        # Who comes in: the mapped user as its roles, into its database; nobody else.
        for role, name in (("cloister_keys", "cloister"), ("postgres", "cloister"), (API_ROLE, "postgres")):
            with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
                await connect(paths, role, name)
        api = await connect(paths, API_ROLE)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await api.execute("SELECT * FROM cloister.wrapped_key")
        await api.close()
        if AM_ROOT:
            assert "peer authentication failed" in psql_as_stranger(paths).lower()

        # What is about a row stays out of the log.
        await owner.execute("INSERT INTO cloister.organization VALUES ($1, 'x')", "canary-5309")
        with pytest.raises(asyncpg.UniqueViolationError):
            await owner.execute("INSERT INTO cloister.organization VALUES ($1, 'x')", "canary-5309")
        await owner.close()
        assert "canary-5309" not in server.log.read_text()

        # kill -9 of the postmaster: committed is committed, and the next start waits for recovery.
        await insert(paths, "before-kill")
        server.stop(signal.SIGKILL)
    initialise(paths)
    embedded.clear_the_way(paths)
    with serving(paths):
        await embedded.migrate_embedded(paths)
        assert await count_organizations(paths) == 2

    # The supervisor died and left a running server: the next one ends it and starts its own.
    orphan = Server(paths)
    await embedded.migrate_embedded(paths)
    await insert(paths, "before-takeover")
    embedded.clear_the_way(paths)
    assert orphan.process.wait(timeout=5) == 0, "a fast shutdown, not a killing"

    # Power loss, and the stale lock file's number now belongs to another process of the same user.
    with innocent_bystander() as bystander:
        lock = paths.control_data / "data" / "postmaster.pid"
        lock.write_text(f"{bystander.pid}\n{paths.control_data / 'data'}\n1\n5432\n{paths.control_socket_dir}\n\n\n")
        if AM_ROOT:
            os.chown(lock, NOBODY, NOBODY)
        embedded.clear_the_way(paths)
        with serving(paths):
            await embedded.migrate_embedded(paths)
            assert await count_organizations(paths) == 3
        assert bystander.poll() is None, "and that process is left alone"


async def insert(paths: Paths, name: str) -> None:
    async with database(paths) as opened, opened.transaction() as tx:
        await tx.execute("INSERT INTO organization (id, name) VALUES ($1, 'x')", name)


def psql_as_stranger(paths: Paths) -> str:
    """Root in the tests is the mapped user; the server's own user is not."""
    answer = subprocess.run(
        ["psql", "-X", "-h", paths.control_socket_dir, "-U", OWNER, "-d", "postgres", "-c", "SELECT 1"],
        capture_output=True, text=True, user=NOBODY, group=NOBODY, extra_groups=[], cwd="/", check=False,
    )  # fmt: skip
    assert answer.returncode != 0
    return answer.stderr


@contextlib.contextmanager
def innocent_bystander() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "60"], user=UID, group=UID, extra_groups=[] if AM_ROOT else None, cwd="/")
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_an_interrupted_initdb_is_done_again(paths: Paths) -> None:
    unfinished = paths.control_data / "new"
    (unfinished / "base").mkdir(parents=True)
    (unfinished / "PG_VERSION").write_text("18\n")
    if AM_ROOT:
        for path in (unfinished, *unfinished.iterdir()):
            os.chown(path, NOBODY, NOBODY)
    initialise(paths)
    assert (paths.control_data / "data" / "global" / "pg_control").exists()
    assert not unfinished.exists()


@pytest.mark.parametrize(("version", "complaint"), [("17", "was written by PostgreSQL 17"), (None, "is not a")])
def test_data_that_are_not_ours_are_refused_and_left_alone(paths: Paths, version: str | None, complaint: str) -> None:
    data = paths.control_data / "data"
    data.mkdir()
    if version:
        (data / "PG_VERSION").write_text(f"{version}\n")
    with pytest.raises(PreconditionError) as refusal:
        initialise(paths)
    assert complaint in refusal.value.public
    assert sorted(p.name for p in data.iterdir()) == (["PG_VERSION"] if version else [])
    assert [p.name for p in paths.control_data.iterdir()] == ["data"]


def test_no_link_of_a_broken_in_database_leads_the_writer_elsewhere(paths: Paths, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    data = paths.control_data / "data"
    data.mkdir()
    (data / "PG_VERSION").write_text("18\n")
    for name in ("pg_hba.conf", "pg_hba.conf.new"):
        (paths.control_data / name).symlink_to(victim)
    initialise(paths)
    assert victim.read_text() == "precious"
    assert not (paths.control_data / "pg_hba.conf").is_symlink()
    shutil.rmtree(paths.control_data)
    paths.control_data.symlink_to(tmp_path)
    with pytest.raises(OSError):
        initialise(paths)


async def test_a_server_that_does_not_come_up_is_said_to_be_unavailable(paths: Paths) -> None:
    with pytest.raises(UnavailableError):
        await embedded.migrate_embedded(paths, patience_s=0.1)

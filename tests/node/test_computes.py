"""Computes as the agent sees them: real PostgreSQL in real sandboxes."""

import asyncio
import functools
import os
import signal
from pathlib import Path

import asyncpg
import msgspec
import pytest

from cloister.base.errors import ConflictError, InternalError, InvalidIdError, NotFoundError, UnprocessableError
from cloister.base.ids import new_endpoint_id
from cloister.base.settings import Paths
from cloister.node import computes as computes_module
from cloister.node.postgres import log as log_module
from cloister.node.postgres.tuning import WORKERS_BESIDE_CONNECTIONS
from cloister.node.records import ProcessRecord
from cloister.node.sandbox import cgroups as cgroups_module
from cloister.node.sandbox.cgroups import CPU_PERIOD_US, Cgroups, detect
from tests.fix_computes import (
    GATEWAY_UID,
    PATIENCE_S,
    SHARED_GID,
    STRANGER_UID,
    EnginesOnHost,
    connect,
    knock,
    limits_of,
    running_node,
)

pytestmark = pytest.mark.root


def descriptors_of(pid: int) -> set[str]:
    return {str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir()}


def groups_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cgroup").read_text()


def leftovers(paths: Paths, endpoint_id: str) -> list[Path]:
    """What a compute has outside its volume."""
    return [
        *(paths.run / "compute-records").iterdir(),
        *paths.computes.glob(endpoint_id),
        *Path("/sys/fs/cgroup").glob(f"*/cloister-{paths.instance}/{endpoint_id}"),
        *Path("/sys/fs/cgroup").glob(f"cloister-{paths.instance}/{endpoint_id}"),
    ]


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


async def test_a_row_outlives_a_stop_and_nothing_of_the_compute_does(engines: EnginesOnHost) -> None:
    async with running_node(engines) as node:
        spec = node.new_compute()
        info = await node.start(spec)
        connection = await connect(info)
        await connection.execute("CREATE TABLE public.t AS SELECT 42 AS answer")
        await connection.close()

        await node.computes.stop(spec.endpoint_id)

        event = await node.next_exit()
        assert (event.generation, event.was_asked, event.exit_status) == (info.generation, True, 0)
        assert node.computes.running() == []
        with pytest.raises(NotFoundError):
            ProcessRecord.of(info.pid)
        assert leftovers(node.paths, spec.endpoint_id) == []

        again = await node.start(spec)
        assert again.generation > info.generation
        connection = await connect(again)
        assert await connection.fetchval("SELECT answer FROM public.t") == 42
        await connection.close()


async def test_a_compute_has_no_privilege_and_only_its_own_descriptors(engines: EnginesOnHost) -> None:
    leaked = os.open("/etc/hostname", os.O_RDONLY)
    os.set_inheritable(leaked, True)
    try:
        async with running_node(engines) as node:
            spec = node.new_compute()
            info = await node.start(spec)
            connection = await connect(info)
            processes_max = int(await connection.fetchval("SHOW max_connections")) + WORKERS_BESIDE_CONNECTIONS
            await connection.close()

            status = status_of(info.pid)
            assert status["Uid"].split() == [str(spec.uid)] * 4
            assert status["Gid"].split() == [str(spec.uid)] * 4
            assert status["Groups"] == ""
            assert {status[f"Cap{name}"] for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
            assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
            groups = groups_of(info.pid)
            for controller in ("memory", "pids", "cpu"):
                assert (
                    f":{controller}:/cloister-{node.paths.instance}/{spec.endpoint_id}\n" in groups
                    or "0::/cl" in groups
                )
            assert limits_of(node.paths, spec.endpoint_id)[:2] == (str(spec.memory_bytes), str(processes_max))
            files = descriptors_of(info.pid)
            branch = node.timeline_dir(spec)
            outside = {
                file for file in files if file.startswith("/") and not file.startswith(("/data", "/run/postgresql"))
            }
            assert f"{branch}/postgres.log" in outside
            assert outside <= {"/dev/null", f"{branch}/postgres.log", f"{branch}/lock"}
    finally:
        os.close(leaked)


async def test_only_the_kernels_word_decides_who_comes_in(engines: EnginesOnHost) -> None:
    """The API is the superuser and nobody else is; the gateway is anybody but the superuser; others do not exist."""
    async with running_node(engines) as node:
        spec = node.new_compute()
        info = await node.start(spec)
        await (await connect(info)).close()
        failed = 'refused: Peer authentication failed for user "{}"'.format

        assert knock(info, uid=0, gid=0, user="cloister_admin") == "in"
        assert knock(info, uid=0, gid=0, user="neondb_owner") == failed("neondb_owner")
        as_gateway = functools.partial(knock, info, uid=GATEWAY_UID, gid=SHARED_GID)
        assert as_gateway(user="neondb_owner") == "in"
        assert as_gateway(user="cloister_admin") == failed("cloister_admin")
        assert "no pg_hba.conf entry" in as_gateway(user="neondb_owner", replication="true")
        # The directory keeps others from the socket; if they got there, the server would not know them either.
        assert knock(info, uid=STRANGER_UID, gid=STRANGER_UID, user="neondb_owner") == "PermissionError"
        assert knock(info, uid=STRANGER_UID, gid=SHARED_GID, user="neondb_owner") == failed("neondb_owner")
        for user in ("cloister_admin", "neondb_owner"):
            assert knock(info, uid=spec.uid, gid=SHARED_GID, user=user) == failed(user)


async def test_starting_twice_is_starting_once_and_a_branch_has_one_compute(engines: EnginesOnHost) -> None:
    async with running_node(engines) as node:
        spec = node.new_compute()
        first, second = await asyncio.gather(node.start(spec), node.start(spec))
        assert first == second
        assert node.computes.running() == [first]

        with pytest.raises(ConflictError):
            await node.start(msgspec.structs.replace(spec, endpoint_id=new_endpoint_id()))
        assert node.computes.running() == [first]
        await (await connect(first)).close()


async def test_a_killed_compute_is_reported_and_recovers_what_was_acknowledged(engines: EnginesOnHost) -> None:
    async with running_node(engines) as node:
        spec = node.new_compute()
        info = await node.start(spec)
        connection = await connect(info)
        await connection.execute("CREATE TABLE public.t (n int)")
        await connection.execute("INSERT INTO public.t VALUES (7)")

        os.kill(info.pid, signal.SIGKILL)

        event = await node.next_exit()
        assert (event.was_asked, event.exit_status) == (False, -9)
        connection.terminate()
        assert (node.timeline_dir(spec) / "data" / "postmaster.pid").exists()
        connection = await connect(await node.start(spec))
        assert await connection.fetchval("SELECT n FROM public.t") == 7
        await connection.close()


async def test_a_new_agent_adopts_what_the_old_one_left(engines: EnginesOnHost) -> None:
    async with running_node(engines) as node:
        spec, other = node.new_compute(), node.new_compute()
        info, dead = await node.start(spec), await node.start(other)
        connection = await connect(info)
        await (await connect(dead)).close()
        orphan = node.paths.computes / new_endpoint_id()
        orphan.mkdir()

        await node.lose_agent()
        process = ProcessRecord.of(dead.pid)
        process.signal(signal.SIGKILL)
        await process.wait()
        await node.new_agent()

        assert info in node.computes.running()
        assert not orphan.exists()
        event = await node.next_exit()
        assert (event.endpoint_id, event.was_asked, event.exit_status) == (dead.endpoint_id, False, -9)
        assert await connection.fetchval("SELECT 1") == 1
        assert await node.start(spec) == info
        await connection.close()
        await node.computes.stop(spec.endpoint_id)
        event = await node.next_exit()
        assert (event.endpoint_id, event.was_asked, event.exit_status) == (info.endpoint_id, True, 0)


async def test_who_does_not_stop_is_made_to(engines: EnginesOnHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(computes_module, "COMPUTE_STOP_TIMEOUT_S", 0.2)
    monkeypatch.setattr(computes_module, "IMMEDIATE_STOP_TIMEOUT_S", 0.2)
    async with running_node(engines) as node:
        spec = node.new_compute()
        info = await node.start(spec)
        await (await connect(info)).close()
        os.kill(info.pid, signal.SIGSTOP)

        await node.computes.stop(spec.endpoint_id)

        event = await node.next_exit()
        assert (event.was_asked, event.exit_status) == (True, -9)


async def test_a_lost_volume_ends_its_computes_and_no_others(engines: EnginesOnHost) -> None:
    async with running_node(engines) as node:
        spec, other = node.new_compute(), node.new_compute()
        await node.start(spec)
        survivor = await node.start(other)

        await node.computes.kill_all_on(spec.project_id)

        event = await node.next_exit()
        assert (event.endpoint_id, event.was_asked) == (spec.endpoint_id, False)
        assert node.computes.running() == [survivor]
        await (await connect(survivor)).close()


async def test_what_a_tenant_leaves_in_its_data_directory_changes_nothing_that_matters(engines: EnginesOnHost) -> None:
    """postgresql.auto.conf, inherited from whatever a superuser wrote, cannot open a second door or load a library."""
    async with running_node(engines) as node:
        spec = node.new_compute(settings={"work_mem": "8MB"})
        hostile = {
            "listen_addresses": "*",
            "unix_socket_directories": "/data",
            "hba_file": "/data/pg_hba.conf",
            "shared_preload_libraries": "nowhere",
            "log_statement": "all",
            "fsync": "off",
            "work_mem": "1GB",
        }
        text = "".join(f"{name} = '{value}'\n" for name, value in hostile.items() if name != "work_mem")
        auto = node.timeline_dir(spec) / "data" / "postgresql.auto.conf"
        auto.write_text(text)

        connection = await connect(await node.start(spec))
        found = {name: await connection.fetchval("SELECT pg_catalog.current_setting($1)", name) for name in hostile}
        assert found == {
            "listen_addresses": "",
            "unix_socket_directories": "/run/postgresql",
            "hba_file": "/etc/postgresql/pg_hba.conf",
            "shared_preload_libraries": "guard",
            "log_statement": "none",
            "fsync": "on",
            "work_mem": "8MB",
        }
        with pytest.raises(Exception, match="ALTER SYSTEM is not allowed"):
            await connection.execute("ALTER SYSTEM SET work_mem = '1MB'")
        await connection.close()


async def test_no_statement_reaches_the_log_not_even_with_an_error(engines: EnginesOnHost) -> None:
    async with running_node(engines) as node:
        spec = node.new_compute()
        connection = await connect(await node.start(spec))
        for text in (
            "CREATE ROLE r LOGIN PASSWORD 'planted-canary",
            "CREATE ROLE neondb_owner PASSWORD 'planted-canary'",
        ):
            with pytest.raises(Exception, match=r"unterminated|exists"):
                await connection.execute(text)
        await connection.close()
        await node.computes.stop(spec.endpoint_id)
        log = (node.timeline_dir(spec) / "postgres.log").read_text()
        assert "already exists" in log
        assert "STATEMENT" not in log
        assert "planted-canary'" not in log


async def test_a_long_log_is_cut_while_it_is_written(engines: EnginesOnHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "LOG_BYTES_MAX", 4096)
    monkeypatch.setattr(log_module, "LOG_BYTES_KEPT", 1024)
    async with running_node(engines) as node:
        spec = node.new_compute()
        connection = await connect(await node.start(spec))
        await connection.execute("DO $$ BEGIN FOR i IN 1..200 LOOP RAISE WARNING 'line %', i; END LOOP; END $$")
        log = log_module.ServerLog(node.timeline_dir(spec))
        assert log.path.stat().st_size > 4096
        log.shorten()
        assert log.path.stat().st_size == 0
        assert "line 200" in log.older.read_text()
        await connection.execute("DO $$ BEGIN RAISE WARNING 'after'; END $$")
        assert log.path.read_text().count("after") == 1
        await connection.close()


async def test_a_byte_that_changed_on_disk_is_not_read_as_data(engines: EnginesOnHost) -> None:
    """Every cluster has data checksums, and no statement turns them off."""
    async with running_node(engines) as node:
        spec = node.new_compute()
        connection = await connect(await node.start(spec))
        assert await connection.fetchval("SHOW data_checksums") == "on"
        await connection.execute("CREATE TABLE public.t AS SELECT repeat('x', 100) AS x FROM generate_series(1, 50)")
        with pytest.raises(asyncpg.CantChangeRuntimeParamError):
            await connection.execute("SET ignore_checksum_failure = on; SET data_checksums = off")
        path = await connection.fetchval("SELECT pg_relation_filepath('public.t')")
        await connection.close()
        await node.computes.stop(spec.endpoint_id)
        with (node.timeline_dir(spec) / "data" / path).open("r+b") as file:
            file.seek(8000)
            file.write(b"y")
        connection = await connect(await node.start(spec))
        with pytest.raises(asyncpg.DataCorruptedError, match="invalid page"):
            await connection.fetch("SELECT * FROM public.t")
        await connection.close()


async def test_ordinary_work_meets_no_wall(engines: EnginesOnHost) -> None:
    """Whatever PostgreSQL does on a normal day is on the list of system calls."""
    async with running_node(engines) as node:
        info = await node.start(node.new_compute(memory_bytes=512 * 1024**2))
        connection = await connect(info)
        names = await connection.fetch("SELECT name FROM pg_catalog.pg_available_extensions ORDER BY 1")
        for (name,) in names:
            await connection.execute(f'CREATE EXTENSION IF NOT EXISTS "{name}" SCHEMA public CASCADE')
        for statement in (
            "CREATE TABLE public.t AS SELECT i, md5(i::text) AS m FROM generate_series(1, 100000) AS i",
            "SET work_mem = '64kB'; SELECT m FROM public.t ORDER BY m DESC",  # spills to temporary files
            "CREATE INDEX CONCURRENTLY ON public.t (i)",
            "VACUUM (FULL, ANALYZE) public.t",
            "CREATE TABLE public.v (e public.vector(3)); INSERT INTO public.v VALUES ('[1,2,3]')",
            "CREATE INDEX ON public.v USING hnsw (e public.vector_l2_ops)",
            "CREATE DATABASE copied STRATEGY file_copy TEMPLATE template1",
            "CREATE DATABASE logged STRATEGY wal_log TEMPLATE template1",
            "DROP DATABASE copied",
            "SELECT pg_catalog.pg_create_physical_replication_slot('s')",
            "SELECT pg_catalog.pg_switch_wal(); CHECKPOINT",
            "SELECT pg_catalog.pg_prewarm('public.t')",
            "SELECT pg_catalog.gen_random_uuid()",
        ):
            for each in statement.split("; "):
                await connection.execute(each.replace("pg_catalog.pg_prewarm", "public.pg_prewarm"))
        await connection.execute(
            "SET parallel_setup_cost = 0; SET min_parallel_table_scan_size = 0; SET max_parallel_workers_per_gather = 2;"
            "SET debug_parallel_query = on"
        )
        assert await connection.fetchval("SELECT count(DISTINCT m) FROM public.t") == 100_000
        with pytest.raises(asyncpg.PostgresError, match="could not establish connection"):
            await connection.execute("SELECT public.dblink_connect('host=127.0.0.1 user=x password=y')")
        await connection.close()


class CountingCgroups:
    """The host's, with a count of the preparations."""

    def __init__(self, real: Cgroups) -> None:
        self.primed = 0
        self.create, self.find, self.names, self.describe = real.create, real.find, real.names, real.describe
        self._real = real

    def prime(self) -> None:
        self.primed += 1
        self._real.prime()


async def test_the_kernel_is_prepared_while_a_start_is_expected_and_not_longer(engines: EnginesOnHost) -> None:
    cgroups = CountingCgroups(detect(engines.paths.instance))
    async with running_node(engines, cgroups=cgroups) as node:
        spec = node.new_compute()
        async with node.computes.expecting(), node.computes.expecting():
            async with asyncio.timeout(5):
                while cgroups.primed < 2:  # noqa: ASYNC110 - counted in a thread
                    await asyncio.sleep(0.001)
            info = await node.start(spec)
        primer = node.computes._primer
        assert primer is not None
        await primer
        primed = cgroups.primed
        await (await connect(info)).close()
        assert cgroups.primed == primed


async def test_what_a_compute_may_use_while_it_starts_ends_with_the_start(
    engines: EnginesOnHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its share of the CPU is half of that. An agent that is killed meanwhile leaves it to the next to end."""
    monkeypatch.setattr(cgroups_module, "HOST_CORES", 8)
    share, boost = str(CPU_PERIOD_US), str(2 * CPU_PERIOD_US)
    async with running_node(engines) as node:
        spec = node.new_compute()

        async def has_only_its_share() -> None:
            async with asyncio.timeout(PATIENCE_S):
                while limits_of(node.paths, spec.endpoint_id)[2] != share:  # noqa: ASYNC110 - another task does it
                    await asyncio.sleep(0.005)

        monkeypatch.setattr(computes_module, "STARTUP_S", 0.01)
        await node.start(spec)
        assert limits_of(node.paths, spec.endpoint_id)[2] == boost
        await has_only_its_share()
        await node.computes.stop(spec.endpoint_id)

        monkeypatch.setattr(computes_module, "STARTUP_S", 3600.0)
        await (await connect(await node.start(spec))).close()
        assert limits_of(node.paths, spec.endpoint_id)[2] == boost
        await node.lose_agent()
        await node.new_agent()
        await has_only_its_share()


async def test_bad_orders_are_refused_and_leave_nothing(engines: EnginesOnHost) -> None:
    async with running_node(engines) as node:
        spec = node.new_compute()
        for change, error in (
            ({"endpoint_id": "../../etc"}, InvalidIdError),
            ({"branch_id": "br-x/../y"}, InvalidIdError),
            ({"pg_version": 15}, UnprocessableError),
            ({"settings": {"shared_preload_libraries": "x"}}, UnprocessableError),
            ({"uid": spec.uid + 1}, InternalError),
        ):
            with pytest.raises(error):
                await node.computes.start(msgspec.structs.replace(spec, **change), node.mountpoint(spec))
        assert node.computes.running() == []
        assert leftovers(node.paths, spec.endpoint_id) == []

"""`pooler`: ten thousand clients of one compute through its `-pooler` host, and through a bare PgBouncer in transaction mode
with TLS and SCRAM in front of a bare PostgreSQL; a hundred on the direct host beside them.

Each crowd is opened, left alone while memory is read, asked around, and let go before the next: one process may not have more
descriptors than one crowd needs. Fewer clients than ten thousand are opened where the limit of descriptors is lower, and the
table says how many.
"""

import resource
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg

from benchmarks.baselines import BarePostgres, PgBouncer
from benchmarks.crowd import Crowd, Door
from benchmarks.measure import Result
from cloister.base.identities import POOLER_UID
from tests.instance import Instance, Tenant

CLIENTS: Final = 10_000
DIRECT_CLIENTS: Final = 80
AT_ONCE: Final = 32

_SPARE_FILES: Final = 512
_GATEWAY_WORKERS: Final = 2
_GATEWAY_SHARE: Final = 3 / 8
# A session takes two descriptors of its worker, and a quarter of them is kept for HTTPS.

_SERVERS: Final = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND usename = %s"


@dataclass(frozen=True, slots=True)
class _Side:
    name: str
    door: Door
    clients: int
    processes: Callable[[], list[int]]
    """Those between the clients and the server."""
    server: str = ""
    """A way to the server itself, where it is worth asking how many servers there are."""


def run(rounds: int = 5, seconds: float = 3.0) -> Result:
    result = Result("pooler")
    count = _clients()
    rates = []
    with _sides(count) as sides:
        for side in sides:
            before = _memory(side.processes())
            with Crowd(side.door, side.clients) as crowd:
                result.add(f"{side.name}: connect, {side.clients} clients", crowd.connect_ms)
                result.facts[f"{side.name}: connects/s"] = round(crowd.connects_per_s)
                grown = _memory(side.processes()) - before
                result.facts[f"{side.name}: memory per client (kB)"] = round(grown / side.clients / 1024, 1)
                rate, times = [], []
                for _ in range(rounds):
                    per_s, took = crowd.ask_around(at_once=AT_ONCE, seconds=seconds)
                    rate.append(per_s)
                    times += took
                result.add(f"{side.name}: one query", times)
                rates.append(result.add(f"{side.name}: SELECT 1, {AT_ONCE} at once", rate, "queries/s"))
                if side.server:
                    result.facts[f"{side.name}: servers"] = _servers(side)
    ours, theirs, direct = rates
    result.ratio("-pooler ÷ bare PgBouncer, queries/s", ours, theirs)
    result.ratio("-pooler ÷ direct host, queries/s", ours, direct)
    result.facts["clients, as many as descriptors allow"] = count
    return result


def _clients() -> int:
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    usable = hard - _SPARE_FILES
    return min(CLIENTS, usable, int(usable * _GATEWAY_SHARE * _GATEWAY_WORKERS * 0.9))


@contextmanager
def _sides(count: int) -> Iterator[list[_Side]]:
    with (
        Instance(workers=_GATEWAY_WORKERS) as instance,
        tempfile.TemporaryDirectory(prefix="cloister-bench-") as name,
    ):
        directory = Path(name)
        directory.chmod(0o755)
        tenant = instance.create_project("crowd")
        with tenant.connect() as connection:
            settings = [f"{name}={_shown(connection, name)}" for name in ("shared_buffers", "max_connections")]
            pool_size = int(int(_shown(connection, "max_connections")) * 0.9)
        server = BarePostgres(directory / "bare", *settings)
        server.initialise()
        server.start()
        certificates = instance.paths.certificates
        bouncer = PgBouncer(
            directory / "bouncer", server, certificates / "chain.pem", certificates / "key.pem",
            pool_mode="transaction", pool_size=pool_size, clients_max=count + 10,
        )  # fmt: skip
        try:
            bouncer.start()
            direct = Door(tenant.host, tenant.port, tenant.role, tenant.password, tenant.database, str(tenant.ca_file))
            pooled_host = tenant.host.replace(tenant.endpoint_id, f"{tenant.endpoint_id}-pooler")
            pooled = Door(pooled_host, *_rest(direct))
            Crowd(pooled, 1).__enter__().__exit__()  # the pooler is there: what is measured is its clients

            def gateways() -> list[int]:
                return [pid for label, pid in instance.pids().items() if label.startswith("gateway")]

            yield [
                _Side("-pooler", pooled, count, lambda: [*gateways(), *_poolers(tenant)], tenant.uri),
                _Side(
                    "bare PgBouncer",
                    Door("db.localhost", bouncer.port, "bench", bouncer.password, "postgres", str(tenant.ca_file)),
                    count,
                    lambda: [bouncer.pid],
                    f"host={server.directory} user=bench dbname=postgres",
                ),
                _Side("direct host", direct, DIRECT_CLIENTS, gateways),
            ]
        finally:
            bouncer.stop()
            server.stop()


def _rest(door: Door) -> tuple[int, str, str, str, str]:
    return door.port, door.user, door.password, door.database, door.ca_file


def _shown(connection: psycopg.Connection, name: str) -> str:
    row = connection.execute(f"SHOW {name}").fetchone()
    assert row is not None
    return str(row[0])


def _servers(side: _Side) -> int:
    with psycopg.connect(side.server) as connection:
        row = connection.execute(_SERVERS, (side.door.user,)).fetchone()
        assert row is not None
        return int(row[0]) - 1  # without this question's own


def _poolers(tenant: Tenant) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                is_its = tenant.endpoint_id in (entry / "cgroup").read_text()
                if is_its and f"\nUid:\t{POOLER_UID}\t" in (entry / "status").read_text():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def _memory(pids: list[int]) -> int:
    """What they share is counted once."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total

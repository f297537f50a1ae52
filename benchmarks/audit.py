"""`audit`: events appended a second with the builder of checkpoints running, against without, in turns.

Appenders, builder and notary share one process and its interpreter here, where the platform has the broker apart; and the
builder looks every second instead of every five. The control database syncs as the platform's does. Then: how fast a log
that nobody signed yet is caught up with, verified and exported. Last, what a project's audit level costs its clients: through
the gateway, where both the gateway and the guard record; and of the guard alone, on a bare server, against one without the guard.
"""

import asyncio
import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final

import asyncpg

from benchmarks import pgbench
from benchmarks.baselines import BIN, BarePostgres
from benchmarks.measure import Result
from cloister.base.audit_levels import AuditLevel
from cloister.base.database import Database, migrate
from cloister.control.computes import touched
from cloister.node.postgres.engines import GUARDS
from cloister.protocol.merkle.notes import SignedTree, VerifierKey
from cloister.protocol.merkle.tree import Tree
from cloister.trust.audit import Event, record
from cloister.trust.audit.checkpoints import Checkpoints
from cloister.trust.audit.export import export
from cloister.trust.audit.verify import Intact, verify
from cloister.trust.keys.notary import Notary
from cloister.trust.keys.providers import FileProvider, create_root_key
from cloister.trust.keys.roots import Roots
from tests.instance import Instance

LOADS: Final = ((8, 1), (1, 100))
"""Clients, and events in each one's transaction: changes come one by one, connections in batches."""

INTERVAL_S: Final = 1.0

PGBENCH_SECONDS_MIN: Final = 5
# Eight clients connect, by TLS and SCRAM, within the time of a run, though not within its rate: on a busy machine, a second long.

_KINDS: Final = ("-S", "-btpcb-like")

EVENT: Final = Event(
    action="connection.opened", actor="role:neondb_owner", address="203.0.113.7", project_id="calm-forest-12345678",
    endpoint_id="ep-calm-forest-12345678", details={"application": "psql", "database": "neondb", "tls": "TLSv1.3"},
)  # fmt: skip


class Direct:
    """The notary, without a broker's process around it."""

    def __init__(self, notary: Notary) -> None:
        self._notary = notary

    async def last_checkpoint(self) -> SignedTree:
        return await asyncio.to_thread(self._notary.last)

    async def sign_checkpoint(self, tree: Tree, proof: Sequence[bytes]) -> SignedTree:
        return await asyncio.to_thread(self._notary.sign, tree.size, list(tree.peaks), [*proof])


def run(n: int = 10, seconds: float = 3.0) -> Result:
    with tempfile.TemporaryDirectory(prefix="cloister-bench-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        server = BarePostgres(directory / "server")
        server.initialise()
        server.start()
        try:
            asyncio.run(server.first_row())
            result = asyncio.run(_measure(server, directory, n, seconds))
        finally:
            server.stop()
    rounds, pgbench_s = max(1, n // 2), max(PGBENCH_SECONDS_MIN, round(seconds))
    _levels(result, rounds, pgbench_s)
    with tempfile.TemporaryDirectory(prefix="cloister-bench-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        _inside(result, directory, rounds, pgbench_s)
    return result


def _levels(result: Result, rounds: int, seconds: int) -> None:
    """pgbench through the gateway at each level of its project, in turns: -S is one read, TPC-B seven statements of which
    three write."""
    with Instance() as instance:
        tenant = instance.create_project("levels")
        pgbench.initialise(tenant.environment, scale=10)
        for kind in _KINDS:
            rates: dict[AuditLevel, list[float]] = {level: [] for level in AuditLevel}
            for _ in range(rounds):
                for level, found in rates.items():
                    path = f"/cloister/projects/{tenant.project_id}/audit_level"
                    instance.api("PUT", path, {"level": level.value}, expect=200)
                    found.append(pgbench.throughput(tenant.environment, kind, clients=8, seconds=seconds)[0])
            series = {level: result.add(f"{kind}, {level}", found, "tps") for level, found in rates.items()}
            for level in (AuditLevel.BASE, AuditLevel.EXTENDED, AuditLevel.FULL):
                result.ratio(f"{kind}: {level} ÷ off", series[level], series[AuditLevel.OFF])


def _inside(result: Result, directory: Path, rounds: int, seconds: int) -> None:
    """The guard's part: pgbench as a tenant, on the server's own socket, in turns. `off ÷ without guard` is what all hooks of the
    guard cost, this record's being a few of them."""
    guard = Path(shutil.copy(GUARDS / str(_major()) / "guard.so", directory))
    without = BarePostgres(directory / "without")
    noting = BarePostgres(directory / "noting", f"shared_preload_libraries={guard}")
    try:
        for server in (without, noting):
            server.initialise()
            server.start()
            asyncio.run(server.first_row())
            asyncio.run(_admin(server, "CREATE ROLE tenant LOGIN", "GRANT CREATE ON SCHEMA public TO tenant"))
            pgbench.initialise(_as_tenant(server), scale=10)
        for kind in _KINDS:
            rates: dict[AuditLevel | None, list[float]] = {level: [] for level in (None, *AuditLevel)}
            for _ in range(rounds):
                for level, found in rates.items():
                    if level is not None:
                        asyncio.run(_tell(noting, level))
                    server = without if level is None else noting
                    found.append(pgbench.throughput(_as_tenant(server), kind, clients=8, seconds=seconds)[0])
            series = {
                level: result.add(f"inside, {kind}, {level or 'without guard'}", found, "tps")
                for level, found in rates.items()
            }
            result.ratio(f"inside, {kind}: off ÷ without guard", series[AuditLevel.OFF], series[None])
            for level in (AuditLevel.BASE, AuditLevel.EXTENDED, AuditLevel.FULL):
                result.ratio(f"inside, {kind}: {level} ÷ off", series[level], series[AuditLevel.OFF])
    finally:
        noting.stop()
        without.stop()


def _major() -> int:
    said = subprocess.run([BIN / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    return int(said.split()[2].split(".")[0])


def _as_tenant(server: BarePostgres) -> dict[str, str]:
    return {"PGHOST": str(server.directory), "PGUSER": "tenant", "PGDATABASE": "postgres"}


async def _admin(server: BarePostgres, *statements: str) -> None:
    connection = await asyncpg.connect(host=str(server.directory), user="bench", database="postgres")
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def _tell(server: BarePostgres, level: AuditLevel) -> None:
    """As the platform does: take what there is, say the level."""
    connection = await asyncpg.connect(host=str(server.directory), user="bench", database="postgres")
    try:
        found = touched.parse(await connection.fetchval("SHOW guard.touched"))
        await connection.execute("SELECT set_config('guard.touched', $1, true)", touched.order(found, level))
    finally:
        await connection.close()


async def _measure(server: BarePostgres, directory: Path, n: int, seconds: float) -> Result:
    result = Result("audit")
    connection = await asyncpg.connect(host=str(server.directory), user="bench", database="postgres")
    await migrate(connection)
    await connection.close()
    database = Database(url=f"postgresql://bench@/postgres?host={server.directory}")
    await database.open()
    create_root_key(directory / "root.key", uid=os.geteuid(), gid=os.getegid())
    provider = FileProvider(directory / "root.key")
    signer = Direct(Notary(Roots(provider), directory))
    try:
        for clients, batch in LOADS:
            without: list[float] = []
            beside: list[float] = []
            for _ in range(n):
                without.append(await _appended(database, clients, batch, seconds))
                # What came without it is caught up with before its turn is timed.
                await Checkpoints(database, signer).sign_new()
                async with _building(Checkpoints(database, signer, interval_s=INTERVAL_S)):
                    beside.append(await _appended(database, clients, batch, seconds))
            load = f"{clients} × {batch}"
            ours = result.add(f"{load}, with checkpoints", beside, "events/s")
            theirs = result.add(f"{load}, without", without, "events/s")
            result.ratio(f"{load}: with ÷ without", ours, theirs)
        result.facts |= await _whole(database, signer, provider, directory)
    finally:
        provider.close()
        await database.close()
    return result


async def _appended(database: Database, clients: int, batch: int, seconds: float) -> float:
    """Events a second that were committed."""
    end = time.monotonic() + seconds

    async def append() -> int:
        events = 0
        while time.monotonic() < end:
            async with database.transaction() as tx:
                await record(tx, *[EVENT] * batch)
            events += batch
        return events

    started = time.monotonic()
    counts = await asyncio.gather(*(append() for _ in range(clients)))
    return sum(counts) / (time.monotonic() - started)


@contextlib.asynccontextmanager
async def _building(checkpoints: Checkpoints) -> AsyncIterator[None]:
    task = asyncio.create_task(checkpoints.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _whole(database: Database, signer: Direct, provider: FileProvider, directory: Path) -> dict[str, object]:
    """The same log from its first event to its last: signed by another notary, verified, exported."""
    last = await signer.last_checkpoint()
    checkpoint = VerifierKey.parse(last.key).opened(last.note)
    events = checkpoint.size
    other = directory / "other"
    other.mkdir()
    rates: dict[str, object] = {"events in the log": events}
    started = time.monotonic()
    await Checkpoints(database, Direct(Notary(Roots(provider), other))).sign_new()
    rates["events/s caught up with and signed"] = round(events / (time.monotonic() - started))
    for name, checkpoints in (("the chain", ()), ("chain and tree", (checkpoint,))):
        started = time.monotonic()
        verdict = await verify(database, (), checkpoints)
        rates[f"events/s verified, {name}"] = round(events / (time.monotonic() - started))
        if not isinstance(verdict, Intact):
            raise RuntimeError(f"the log is broken: {verdict}")  # noqa: TRY004 - not a matter of types
    started = time.monotonic()
    await export(database, last, directory / "tiles")
    rates["events/s exported as tiles"] = round(events / (time.monotonic() - started))
    return rates

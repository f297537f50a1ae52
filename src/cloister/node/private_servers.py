"""A server that nobody but the programs beside it can reach: in one sandbox, as the project's uid, on a socket that only this
sandbox has. It lets in the roles that its pg_hba.conf names, none of them a superuser, so whoever takes it over from inside a
schema has what a tenant of a compute has. And statements by a server of one user, before and after.

For clusters that no compute works on; what becomes of them is `timelines/keeper.py`.
"""

import dataclasses
import shlex
from pathlib import Path
from typing import Final

from cloister.base.errors import InternalError
from cloister.node.postgres.engines import Engine
from cloister.node.postgres.tuning import CONFIG_DIR
from cloister.node.runs import Run, Runs
from cloister.node.timelines import recovery, scrub

MEMORY_BYTES: Final = 768 * 1024**2
# Two servers and pg_restore, which holds the whole schema.
CPU_CORES: Final = 1.0
PATIENCE_S: Final = 600.0
# Ten thousand tables take half a minute. The operation has an hour.

_SETTINGS: Final = {
    "archive_mode": "off",
    "autovacuum": "off",
    "wal_recycle": "off",  # as of a server of one user
    "max_connections": "20",
    "superuser_reserved_connections": "0",
    "shared_buffers": "32MB",
    "max_logical_replication_workers": "0",
    # The whole file system is written out before the result counts.
    "fsync": "off",
}


def with_servers(
    engine: Engine,
    data: Path,
    uid: int,
    script: str,
    *,
    clients: str,
    environment: dict[str, str],
    stdin: bytes = b"",
    beside: Path | None = None,
    patience_s: float = PATIENCE_S,
) -> Run:
    """A shell's `script` that starts what it needs with "$BIN/pg_ctl". `clients` is its pg_hba.conf."""
    installation = engine.installation
    return Run(
        engine=engine,
        data=data,
        uid=uid,
        program=["/bin/sh", "-c", script],
        stdin=stdin,
        memory_bytes=MEMORY_BYTES,
        cpu_cores=CPU_CORES,
        patience_s=patience_s,
        has_sockets=True,
        texts={f"{CONFIG_DIR}/pg_hba.conf": clients},
        environment={"BIN": installation.inside(installation.bindir), "LC_ALL": "C", **environment},
        beside=beside,
    )


def options(engine: Engine, data: str, port: int, more: dict[str, str] | None = None) -> str:
    """For the shell that pg_ctl starts a server with. A compute's command line, which no file in the data directory can
    override, and then what is different here."""
    _binary, _flag, _data, *words = engine.command_line()
    settings = {**_SETTINGS, **(more or {}), "port": str(port)}
    return shlex.join(
        ["-D", data, *words, *(word for name, value in settings.items() for word in ("-c", f"{name}={value}"))]
    )


async def say_alone(
    runs: Runs, engine: Engine, data: Path, uid: int, statements: bytes, *, database: str, output_bytes_max: int
) -> str:
    """To a server of one user, and what it prints. `database` is a name of ours. Raises InternalError when one of them fails."""
    run = Run(
        engine=engine,
        data=data,
        uid=uid,
        program=recovery.single_user(engine, database, {}),
        stdin=statements,
        memory_bytes=recovery.MEMORY_BYTES,
        cpu_cores=CPU_CORES,
        patience_s=PATIENCE_S,
    )
    ran = await runs.run(dataclasses.replace(run, output_bytes_max=output_bytes_max))
    if scrub.has_failed(ran.code, ran.output):
        raise InternalError(f"a server of one user ended with {ran.code}: {ran.output[-2000:]}")
    return ran.output

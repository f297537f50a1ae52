"""Two ways to the same kind of PostgreSQL, side by side: through Cloister's gateway, and through PgBouncer.

PgBouncer runs in session mode with TLS and SCRAM-SHA-256, with the very certificate that the gateway shows, in front of
a bare PostgreSQL of the same version with the same memory settings.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import pgbench
from benchmarks.baselines import BarePostgres, PgBouncer
from tests.instance import Instance


@dataclass(frozen=True, slots=True)
class Doors:
    cloister: dict[str, str]
    """libpq's variables, each."""
    pgbouncer: dict[str, str]
    bare: dict[str, str]
    directory: Path


@contextmanager
def open_doors(*, scale: int, workers: int = 2) -> Iterator[Doors]:
    with Instance(workers=workers) as instance, tempfile.TemporaryDirectory(prefix="cloister-bench-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        tenant = instance.create_project("doors")
        with tenant.connect() as connection:
            shared_buffers = connection.execute("SHOW shared_buffers").fetchone()
            assert shared_buffers is not None
        server = BarePostgres(
            directory / "bare", f"shared_buffers={shared_buffers[0]}", "max_connections=200", "max_wal_size=1GB",
        )  # fmt: skip
        server.initialise()
        server.start()
        certificates = instance.paths.certificates
        bouncer = PgBouncer(directory / "bouncer", server, certificates / "chain.pem", certificates / "key.pem")
        try:
            bouncer.start()
            doors = Doors(
                cloister=tenant.environment,
                pgbouncer={
                    "PGHOST": "db.localhost",
                    "PGHOSTADDR": "127.0.0.1",
                    "PGPORT": str(bouncer.port),
                    "PGUSER": "bench",
                    "PGPASSWORD": bouncer.password,
                    "PGDATABASE": "postgres",
                    "PGSSLMODE": "verify-full",
                    "PGSSLROOTCERT": str(tenant.ca_file),
                },
                bare={"PGHOST": str(server.directory), "PGUSER": "bench", "PGDATABASE": "postgres"},
                directory=directory,
            )
            for environment in (doors.cloister, doors.bare):
                pgbench.initialise(environment, scale)
            yield doors
        finally:
            bouncer.stop()
            server.stop()

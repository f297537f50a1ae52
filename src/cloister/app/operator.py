"""The operator's verbs, `up`, `down` and `status`, as the command line calls them.

Starting means: make what must exist, take the platform's lock, open the sockets, and become the supervisor; detached, in a
process of its own that tells through a pipe how it went.
"""

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Final

from cloister import __version__
from cloister.app import kernel, last_sending, layout, reach, swap
from cloister.app.listening import listen
from cloister.app.supervisor import Announcement, Supervisor
from cloister.base.database import embedded
from cloister.base.errors import CloisterError, ConflictError, PreconditionError, UnavailableError
from cloister.base.identities import am_root
from cloister.base.settings import Address, Paths, Settings, load

log = logging.getLogger(__name__)

DOWN_TIMEOUT_S: Final = 220.0
# Each process has its own limit in children.py, and the api one more where something is to be sent (supervisor.py); together they stay
# below this, and this below what systemd is told (cli/install.py).

STOPPING: Final = "Stopping the platform"

_RECOVERING: Final = "recovering"
# In the lock, in place of a supervisor's pid.


def up(settings: Settings, *, detach: bool) -> int:
    """Start the platform: in the foreground until it is told to stop, or, detached, until it is ready.

    A platform that runs already in the same state directory is success. Raises CloisterError with a sentence for a
    person.
    """
    if not am_root():
        raise PreconditionError(public="cloister up needs root: it mounts volumes and starts sandboxes")
    settings.validate()
    if is_running(settings.paths):
        return 0
    refuse_half_recovered(settings.paths)
    if warning := swap.refuse(settings):
        log.warning("%s", warning)
    layout.prepare(settings)
    if settings.database_url is None:
        embedded.check(settings.paths)
    lock = _take_place(settings.paths)
    sockets = {"postgres": listen(settings.listen_postgres), "https": listen(settings.listen_https)}
    if not detach:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
        _serve(settings, sockets, lock, Announcement(None))
        return 0
    ready_read, ready_write = os.pipe()
    if os.fork() == 0:
        os.close(ready_read)
        _become_daemon(settings.paths)
        code = 1
        with contextlib.suppress(Exception):
            _serve(settings, sockets, lock, Announcement(ready_write))
            code = 0
        os._exit(code)
    os.close(ready_write)
    return _await_ready(ready_read, settings.paths)


def _await_ready(ready_read: int, paths: Paths) -> int:
    with os.fdopen(ready_read, "rb") as pipe:
        answer = pipe.read()
    if not answer:
        raise UnavailableError(public=f"the platform ended while starting: see {paths.logs / 'supervisor.log'}")
    said = json.loads(answer)
    if not said["ready"]:
        raise UnavailableError(public=said["error"])
    return 0


def _serve(settings: Settings, sockets: dict[str, list[socket.socket]], lock: IO[str], announce: Announcement) -> None:
    """The life of the supervisor, in the process that will be it."""
    _say(lock, str(os.getpid()))
    kernel.adopt_orphans()
    kernel.private_mounts()
    for directory in reach.open_the_way(settings):
        log.info("%s is closed to other users: the platform sees only its own code in it", directory)
    kernel.share(str(settings.paths.run))
    try:
        asyncio.run(Supervisor(settings, sockets).run(announce))
    except BaseExceptionGroup as group:
        error = next((each for each in _leaves(group) if isinstance(each, CloisterError)), None)
        log.exception("the platform could not start")
        announce.failed(error.public if error else f"internal error: see {settings.paths.logs}")
        if error is not None:
            raise error from group
        raise
    finally:
        settings.paths.status.unlink(missing_ok=True)


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for each in group.exceptions:
        if isinstance(each, BaseExceptionGroup):
            yield from _leaves(each)
        else:
            yield each


def _become_daemon(paths: Paths) -> None:
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    output = os.open(paths.logs / "supervisor.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
    for descriptor, target in ((null, 0), (output, 1), (output, 2)):
        os.dup2(descriptor, target)
    os.chdir("/")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr, force=True)


def down(state_dir: Path, *, now: bool, tell: Callable[[str], None] = lambda _doing: None) -> list[str]:
    """Stop the platform and wait until it has: sessions and computes in order, or `now`, which leaves what it can to
    crash recovery. A platform that does not run is success. `tell` hears what is done; what has to be known afterwards comes back,
    a line each."""
    paths = Paths(state_dir)
    pid = supervisor_pid(paths)
    if pid is None:
        if orphaned(paths):
            raise PreconditionError(
                public="the supervisor is gone, and computes it left may still run: `cloister up --detach` takes them over, "
                "then `cloister down` stops them",
            )
        return []
    last_sending.forget(paths.last_sending)
    os.kill(pid, signal.SIGQUIT if now else signal.SIGTERM)
    owes = not now and paths.store_file.exists()
    deadline = time.monotonic() + DOWN_TIMEOUT_S
    while is_running(paths):
        if time.monotonic() > deadline:
            raise UnavailableError(public=f"process {pid} does not stop: see {paths.logs / 'supervisor.log'}")
        if owes and (owed := last_sending.read(paths.last_sending)) is not None:
            tell(STOPPING if owed.is_over else last_sending.progress(owed))
        time.sleep(0.02)
    return last_sending.outcome(last_sending.read(paths.last_sending)) if owes else []


def orphaned(paths: Paths) -> bool:
    """A record of a compute or an open volume is there. After an orderly end there is none."""
    return any(next(paths.run.glob(f"{kept}/*.json"), None) for kept in ("compute-records", "volumes"))


def status(state_dir: Path) -> dict[str, Any]:
    """What design promises to scripts: `ready`, `version`, `api_url`, `domain`, `postgres`, `ca_file`,
    `admin_key_file`, `storage`. `ready` and `storage` are asked of the running processes, not assumed."""
    settings = load(state_dir)
    paths = settings.paths
    seen = _read_status(paths) if is_running(paths) else {}
    postgres = _shown(settings.listen_postgres, seen.get("postgres"))
    https = _shown(settings.listen_https, seen.get("https"))
    port = "" if https.port == 443 else f":{https.port}"
    node = asyncio.run(_node_status(paths)) if seen else None
    return {
        "ready": bool(seen.get("is_ready")) and node is not None,
        "version": __version__,
        "api_url": f"https://{settings.domain}{port}/api/v2",
        "domain": settings.domain,
        "postgres": str(postgres),
        "ca_file": str(paths.ca_file),
        "admin_key_file": str(paths.admin_key),
        "storage": node or {"driver": settings.storage, "cipher": "unknown", "opener": "unknown"},
        "processes": seen.get("processes", {}),
        "audit_exports": asyncio.run(_exports(settings)) if seen else {},
        "state_dir": settings.state_dir,
    }


async def _exports(settings: Settings) -> dict[str, str]:
    """Of each target of the audit log, how it is; none, to who may not know them."""
    from cloister.base.database import owner  # noqa: PLC0415 - `down` and `up` do not need it
    from cloister.trust.audit import targets  # noqa: PLC0415
    from cloister.trust.audit.forwarder import progress  # noqa: PLC0415

    try:
        if not (wanted := targets.read(settings.paths.audit_exports)):
            return {}
        async with owner.connected(settings) as database, database.reading() as tx:
            return {each.name: each.state for each in await progress(tx, wanted)}
    except (CloisterError, OSError):
        return {}


async def _node_status(paths: Paths) -> dict[str, Any] | None:
    from cloister.base.rpc import Client  # noqa: PLC0415 - `down` and `up` do not need it
    from cloister.node.commands import GetStatus  # noqa: PLC0415

    client = Client(paths.agent_socket, connect_patience_s=1)
    try:
        node = await client.call(GetStatus(), timeout_s=10)
    except (CloisterError, OSError):
        return None
    finally:
        await client.close()
    return {
        "driver": node.driver,
        "opener": node.opener,
        "cipher": node.cipher,
        "encrypted": node.driver == "luks",
        "engines": {str(major): version for major, version in node.engines.items()},
        "free_bytes": node.free_bytes,
        "cgroup": node.cgroup,
        "open_volumes": len(node.volumes),
        "running_computes": len(node.computes),
    }


def is_running(paths: Paths) -> bool:
    """True while a supervisor holds this platform's lock. Raises ConflictError while `recovering` does."""
    try:
        with paths.supervisor_lock.open("r") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                if file.read().strip() != _RECOVERING:
                    return True
                raise ConflictError(
                    public=f"the platform in {paths.state_dir} is being brought back: wait for `cloister backups recover-platform`"
                ) from None
    except FileNotFoundError:
        return False
    except PermissionError:
        raise PreconditionError(public="only root can see whether the platform runs") from None
    return False


def supervisor_pid(paths: Paths) -> int | None:
    return int(paths.supervisor_lock.read_text().strip() or 0) or None if is_running(paths) else None


def _shown(configured: Address, bound: list[str] | None) -> Address:
    """The address to print: the configured one, with the port really bound."""
    port = Address.parse(bound[0]).port if bound else configured.port
    return Address(configured.host or "0.0.0.0", port)  # noqa: S104


def _read_status(paths: Paths) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(paths.status.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found


def take_lock(paths: Paths) -> IO[str]:
    """Held until it is closed, or this process ends. Raises ConflictError while somebody else holds it."""
    # For root alone: whoever can open the file can lock it, and would be taken for a running platform.
    lock = os.fdopen(os.open(paths.supervisor_lock, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "a+")
    os.fchmod(lock.fileno(), 0o600)
    for _ in range(50):  # `cloister status` holds it for a moment while it looks
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.01)
        else:
            _say(lock, "")  # whoever held it last may have been killed
            return lock
    lock.close()
    raise ConflictError(public="a platform starts, runs, or is being brought back in this state directory")


def _take_place(paths: Paths) -> IO[str]:
    """The lock, which is this platform's from now on: a recovery may have begun since, and failed, and none begins any more."""
    lock = take_lock(paths)
    try:
        refuse_half_recovered(paths)
        paths.recovering.unlink(missing_ok=True)
    except BaseException:
        lock.close()
        raise
    return lock


def remains(paths: Paths) -> list[Path]:
    """What there is of a platform, which nothing replaces. Where there is nothing of one, a start makes an empty one."""
    return [path for path in (embedded.data_dir(paths), *paths.volumes.glob("*")) if os.path.lexists(path)]


def refuse_half_recovered(paths: Paths) -> None:
    """Raises ConflictError where the control database was to come back, and did not: a start would make another, with no project in it.
    Where it is in its place only the mark was left."""
    if os.path.lexists(paths.recovering) and not remains(paths):
        raise ConflictError(
            public=f"{paths.recovering} is there: `cloister backups recover-platform` was begun and did not end, and a start would make an "
            f"empty platform. Give that command again; or, for a new platform, move {paths.state_dir} away, or take another --state-dir"
        )


@contextlib.contextmanager
def recovering(paths: Paths) -> Iterator[None]:
    """The platform's lock, held by who makes its control database: nothing starts meanwhile, and nobody takes us for what runs."""
    with take_lock(paths) as lock:
        _say(lock, _RECOVERING)
        yield


def _say(lock: IO[str], who: str) -> None:
    lock.seek(0)
    lock.truncate()
    lock.write(f"{who}\n")
    lock.flush()

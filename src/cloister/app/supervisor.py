"""Starts the platform's processes, watches them, starts again what dies, and stops them in order.

The supervisor is root, as systemd is, and has as little to get wrong: it opens the listening sockets and hands them to
its children, but reads nothing from them; it takes no commands but signals. What it keeps for everybody:

- a private mount namespace, so that an open volume is seen by the platform alone and is unmounted by the kernel when
  the last process is gone;
- the orphans: when the node agent dies, its volume daemons and computes become the supervisor's children, are reaped
  here, and are adopted by the agent's successor;
- one shared listening socket for all gateway workers: what was queued on it when a worker died is served by another.
"""

import asyncio
import contextlib
import errno
import fcntl
import json
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from cloister import __version__
from cloister.app import kernel, layout, reach
from cloister.app.children import Child, children, spawn
from cloister.base.database import embedded
from cloister.base.errors import CloisterError, ConflictError, PreconditionError, UnavailableError
from cloister.base.identities import Service, am_root
from cloister.base.settings import Address, Paths, Settings, load

log = logging.getLogger(__name__)

READY_TIMEOUT_S: Final = 120.0
# The first start builds the control database and the engines' templates (some seconds); crash recovery may add more.

RESTART_PAUSE_FIRST_S: Final = 0.1
RESTART_PAUSE_MAX_S: Final = 5.0
STEADY_AFTER_S: Final = 30.0
# A process that lived this long has started well: its next death is restarted at once again.

CERTIFICATE_CHECK_INTERVAL_S: Final = 6 * 3600.0
LISTEN_BACKLOG: Final = 1024

KILL_PATIENCE_S: Final = 5.0
# A killed process is gone at once, unless the kernel holds it in a system call that cannot be interrupted.

FAILURES_AT_START_MAX: Final = 3
# Once may be bad luck. A process that cannot start three times will not, and `cloister up` says why.

STOP_ALL_COMPUTES: Final = signal.SIGUSR1
"""Tells the agent to stop every compute and close every volume before it ends. Its SIGTERM leaves them running."""


@dataclass
class Watched:
    """A child and its present process."""

    child: Child
    process: subprocess.Popen[bytes] | None = None
    is_ready: bool = False
    started_at: float = 0.0
    pause_s: float = RESTART_PAUSE_FIRST_S
    failures: int = 0
    """How often it ended without having been ready, in a row."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Supervisor:
    """One running platform. `run()` returns when it was told to stop and everything has stopped."""

    def __init__(self, settings: Settings, sockets: dict[str, list[socket.socket]]) -> None:
        self._settings = settings
        self._paths = settings.paths
        self._sockets = sockets
        self._watched = [Watched(child) for child in children(settings)]
        self._by_pid: dict[int, Watched] = {}
        self._one_shots: dict[int, asyncio.Future[int]] = {}
        self._stopping = asyncio.Event()
        self._is_urgent = False

    async def run(self, announce: "Announcement") -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        loop.add_signal_handler(signal.SIGTERM, self._stopping.set)
        loop.add_signal_handler(signal.SIGINT, self._stopping.set)
        loop.add_signal_handler(signal.SIGQUIT, self._stop_urgently)
        try:
            async with asyncio.TaskGroup() as tasks:
                keepers = [tasks.create_task(self._start_in_order(tasks, announce))]
                keepers.append(tasks.create_task(self._renew_certificates()))
                await self._stopping.wait()
                for keeper in keepers:
                    keeper.cancel()
                self._write_status()
                await self._stop_all()
        finally:
            # After an error the task group has cancelled everybody; what still runs is stopped here.
            self._stopping.set()
            await self._stop_all()

    async def _start_in_order(self, tasks: asyncio.TaskGroup, announce: "Announcement") -> None:
        for watched in self._watched:
            tasks.create_task(self._keep_running(watched))
            if watched.child.name in ("database", "broker", "agent", "api"):
                await self._until(lambda watched=watched: watched.is_ready, f"{watched.child.label} did not start")
            if watched.child.name == "database" or (self._settings.database_url and watched.child.name == "broker"):
                await self._one_shot("prepare")
        await self._until(lambda: all(each.is_ready for each in self._watched), "not every process started")
        announce.ready()

    async def _until(self, condition: Any, complaint: str) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not condition():
            for each in self._watched:
                if each.failures >= FAILURES_AT_START_MAX:
                    raise UnavailableError(public=f"{each.child.label} cannot start: {self._last_word(each)}")
            if time.monotonic() > deadline:
                raise UnavailableError(public=f"{complaint}: see {self._paths.logs}")
            await asyncio.sleep(0.01)

    def _last_word(self, watched: Watched) -> str:
        """The last line of its log, which says what was wrong."""
        log_file = self._paths.logs / f"{watched.child.label}.log"
        lines = log_file.read_text(errors="replace").strip().splitlines()
        return f"{lines[-1][:300] if lines else 'it said nothing'} ({log_file})"

    async def _keep_running(self, watched: Watched) -> None:
        """Start the child, and again whenever it ends, with growing pauses while it fails to stay up."""
        while not self._stopping.is_set():
            watched.ended.clear()
            self._start(watched)
            await watched.ended.wait()
            watched.failures = 0 if watched.is_ready else watched.failures + 1
            watched.is_ready = False
            self._write_status()
            if self._stopping.is_set():
                return
            if time.monotonic() - watched.started_at > STEADY_AFTER_S:
                watched.pause_s = RESTART_PAUSE_FIRST_S
            log.warning("%s ended; starting it again in %.1f s", watched.child.label, watched.pause_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(watched.pause_s):
                    await self._stopping.wait()
            watched.pause_s = min(watched.pause_s * 2, RESTART_PAUSE_MAX_S)

    def _start(self, watched: Watched) -> None:
        ready_read, ready_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            watched.process = spawn(
                watched.child,
                self._settings,
                listen_fds=[sock.fileno() for sock in self._sockets.get(watched.child.listens, [])],
                ready_fd=ready_write,
            )
        except PermissionError as error:
            raise PreconditionError(
                public=f"user {watched.child.service} cannot run {error.filename}: make it readable for others"
            ) from error
        finally:
            os.close(ready_write)
        if watched.child.service is Service.KEYS:
            _let_lock_memory(watched.process.pid)
        watched.started_at = time.monotonic()
        self._by_pid[watched.process.pid] = watched
        asyncio.get_running_loop().add_reader(ready_read, self._hear, watched, ready_read)
        log.info("%s started, pid %d", watched.child.label, watched.process.pid)

    def _hear(self, watched: Watched, ready_read: int) -> None:
        """The child wrote a byte (ready) or closed its end (gone)."""
        if os.read(ready_read, 16):
            watched.is_ready = True
            self._write_status()
        asyncio.get_running_loop().remove_reader(ready_read)
        os.close(ready_read)

    def _reap(self) -> None:
        """Every descendant that ended: children, and the orphans that became ours."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            if (watched := self._by_pid.pop(pid, None)) is not None:
                if watched.process is not None and watched.process.pid == pid:
                    watched.process.returncode = code  # it must not wait for a pid that may be somebody else's by now
                    watched.process = None
                log.info("%s ended with %d", watched.child.label, code)
                watched.ended.set()
            elif (finished := self._one_shots.pop(pid, None)) is not None and not finished.done():
                finished.set_result(code)

    async def _one_shot(self, name: str) -> None:
        """Run `python -m cloister.app NAME` as root to its end. Raises if it fails."""
        with (self._paths.logs / f"{name}.log").open("ab") as output:
            process = subprocess.Popen(  # noqa: ASYNC220 - returns after fork; _reap waits for it
                [sys.executable, "-m", "cloister.app", name, "--state-dir", self._settings.state_dir],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
            )
        finished: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._one_shots[process.pid] = finished
        code = await finished
        process.returncode = code
        if code != 0:
            raise UnavailableError(public=f"{name} failed: see {self._paths.logs / name}.log")

    async def _renew_certificates(self) -> None:
        while True:
            await asyncio.sleep(CERTIFICATE_CHECK_INTERVAL_S)
            try:
                await self._one_shot("certificates")
            except CloisterError as error:
                log.error("certificates: %s", error.public)  # noqa: TRY400 - the child logged the traceback

    def _stop_urgently(self) -> None:
        self._is_urgent = True
        self._stopping.set()

    async def _stop_all(self) -> None:
        """In reverse order: first nobody new comes in, then computes stop, the control database goes last."""
        gateways = [each for each in self._watched if each.child.name == "gateway"]
        await asyncio.gather(*(self._stop(each) for each in gateways))
        for watched in reversed(self._watched):
            if watched.child.name == "database" and watched.is_ready and not self._is_urgent:
                with contextlib.suppress(CloisterError):
                    await self._one_shot("farewell")
            if watched not in gateways:
                await self._stop(watched)

    async def _stop(self, watched: Watched) -> None:
        process = watched.process
        if process is None:
            return
        watched.ended.clear()
        if self._is_urgent and watched.child.name != "agent":
            _signal(process, signal.SIGKILL)
        elif watched.child.name == "agent":
            _signal(process, STOP_ALL_COMPUTES)
        elif watched.child.name == "database":
            _signal(process, signal.SIGINT)  # PostgreSQL's fast shutdown
        else:
            _signal(process, signal.SIGTERM)
        deadline = time.monotonic() + watched.child.stop_patience_s
        for last_word in (signal.SIGKILL, None):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    await watched.ended.wait()
            if watched.process is not process:
                return
            log.warning("%s did not stop in time", watched.child.label)
            if last_word is not None:
                _signal(process, last_word)
            deadline = time.monotonic() + KILL_PATIENCE_S

    def _write_status(self) -> None:
        document = {
            "version": __version__,
            "pid": os.getpid(),
            "is_ready": all(each.is_ready for each in self._watched) and not self._stopping.is_set(),
            "processes": {
                each.child.label: {"pid": each.process.pid if each.process else None, "is_ready": each.is_ready}
                for each in self._watched
            },
            "postgres": [str(_bound(sock)) for sock in self._sockets["postgres"]],
            "https": [str(_bound(sock)) for sock in self._sockets["https"]],
        }
        temporary = self._paths.status.with_suffix(".new")
        temporary.write_text(json.dumps(document, indent=2) + "\n")
        temporary.chmod(0o644)
        temporary.replace(self._paths.status)


class Announcement:
    """Tells whoever started the platform in the background how it went, through a pipe."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    def ready(self) -> None:
        log.info("ready")
        self._say({"ready": True})

    def failed(self, complaint: str) -> None:
        self._say({"ready": False, "error": complaint})

    def _say(self, document: dict[str, Any]) -> None:
        if self._descriptor is not None:
            with contextlib.suppress(BrokenPipeError):
                os.write(self._descriptor, json.dumps(document).encode())
            os.close(self._descriptor)
            self._descriptor = None


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
    layout.prepare(settings)
    if settings.database_url is None:
        embedded.check(settings.paths)
    lock = _take_lock(settings.paths)
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
    lock.seek(0)
    lock.truncate()
    lock.write(f"{os.getpid()}\n")
    lock.flush()
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


def down(state_dir: Path, *, now: bool) -> int:
    """Stop the platform and wait until it has: sessions and computes in order, or `now`, which leaves what it can to
    crash recovery. A platform that does not run is success."""
    paths = Paths(state_dir)
    pid = supervisor_pid(paths)
    if pid is None:
        return 0
    os.kill(pid, signal.SIGQUIT if now else signal.SIGTERM)
    deadline = time.monotonic() + 150
    while is_running(paths):
        if time.monotonic() > deadline:
            raise UnavailableError(public=f"process {pid} does not stop: see {paths.logs / 'supervisor.log'}")
        time.sleep(0.02)
    return 0


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
        "state_dir": settings.state_dir,
    }


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
    """True while a supervisor holds this platform's lock."""
    try:
        with paths.supervisor_lock.open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    except PermissionError:
        raise PreconditionError(public="only root can see whether the platform runs") from None
    return False


def supervisor_pid(paths: Paths) -> int | None:
    return int(paths.supervisor_lock.read_text().strip() or 0) or None if is_running(paths) else None


def listen(address: Address) -> list[socket.socket]:
    """Listening sockets for an address: both families where the host is empty. Raises ConflictError if it is taken."""
    hosts: list[tuple[int, str]]
    if not address.host:
        hosts = [(socket.AF_INET6, "::"), (socket.AF_INET, "0.0.0.0")]  # noqa: S104 - every address, as was asked for
    elif address.host == "localhost":
        # Both, whatever /etc/hosts says: names below .localhost resolve to both.
        hosts = [(socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.1")]
    else:
        try:
            found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except OSError as error:
            raise PreconditionError(public=f"cannot listen on {address}: {error.strerror}") from error
        hosts = [(family, str(sockaddr[0])) for family, _, _, _, sockaddr in found]
    may_lack_ipv6 = address.host in ("", "localhost")
    sockets: list[socket.socket] = []
    port = address.port
    for family, host in dict.fromkeys(hosts):
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError:
            continue  # a host without IPv6
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            sock.bind((host, port))
            sock.listen(LISTEN_BACKLOG)
        except OSError as error:
            sock.close()
            if family == socket.AF_INET6 and may_lack_ipv6 and error.errno == errno.EADDRNOTAVAIL:  # IPv6 is off
                continue
            raise ConflictError(public=f"cannot listen on {address}: {os.strerror(error.errno or 0)}") from error
        sock.setblocking(False)
        port = sock.getsockname()[1]  # the second family takes the port that the first was given
        sockets.append(sock)
    return sockets


def _bound(sock: socket.socket) -> Address:
    name = sock.getsockname()
    return Address(str(name[0]), int(name[1]))


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


def _take_lock(paths: Paths) -> IO[str]:
    # For root alone: whoever can open the file can lock it, and would be taken for a running platform.
    lock = os.fdopen(os.open(paths.supervisor_lock, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "a+")
    os.fchmod(lock.fileno(), 0o600)
    for _ in range(50):  # `cloister status` holds it for a moment while it looks
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.01)
        else:
            return lock
    raise ConflictError(public="another `cloister up` is starting in this state directory")


def _let_lock_memory(pid: int) -> None:
    """So that the broker can keep all of its memory out of swap. Where a container forbids it, it locks what holds keys."""
    try:
        resource.prlimit(pid, resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except (PermissionError, ProcessLookupError) as error:
        log.info("the key broker's memory cannot be locked whole: %s", error)


def _signal(process: subprocess.Popen[bytes], with_signal: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, with_signal)

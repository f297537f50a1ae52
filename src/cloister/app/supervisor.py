"""Starts the platform's processes, watches them, starts again what dies, and stops them in order.

The supervisor is root, as systemd is, and has as little to get wrong: it opens the listening sockets and hands them to
its children, but reads nothing from them; it takes no commands but signals. What it keeps for everybody:

- a private mount namespace, so that an open volume is seen by the platform alone and is unmounted by the kernel when
  the last process is gone;
- the orphans: when the node agent dies, its volume daemons and computes become the supervisor's children, are reaped
  here, and are adopted by the agent's successor;
- the listening sockets, shared by all gateway workers: what was queued on one when a worker died is served by another.
"""

import asyncio
import contextlib
import json
import logging
import os
import resource
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from typing import Any, Final

from cloister import __version__
from cloister.app.children import Child, children, command, spawn
from cloister.base.errors import CloisterError, PreconditionError, UnavailableError
from cloister.base.identities import Service
from cloister.base.limits import COMPUTE_STOP_CALL_TIMEOUT_S, LAST_SENDING_TIMEOUT_S
from cloister.base.settings import Address, Settings

log = logging.getLogger(__name__)

READY_TIMEOUT_S: Final = 120.0
# The first start builds the control database and the engines' templates (some seconds); crash recovery may add more.

RESTART_PAUSE_FIRST_S: Final = 0.1
RESTART_PAUSE_MAX_S: Final = 5.0
STEADY_AFTER_S: Final = 30.0
# A process that lived this long has started well: its next death is restarted at once again.

WANTED_INTERVAL_S: Final = 1.0
# How soon a process is started that had nothing to do before: root has just said that there is something.

CERTIFICATE_CHECK_INTERVAL_S: Final = 6 * 3600.0

ROUND_INTERVAL_S: Final = 60.0
# What was opened that must be closed is a finding within so long.

LISTEN_BACKLOG: Final = 1024

KILL_PATIENCE_S: Final = 5.0
# A killed process is gone at once, unless the kernel holds it in a system call that cannot be interrupted.

FAILURES_AT_START_MAX: Final = 3
# Once may be bad luck. A process that cannot start three times will not, and `cloister up` says why.

PLATFORM_ENDS: Final = signal.SIGUSR1
"""Tells the agent to stop every compute and close every volume before it ends: its SIGTERM leaves them running. Tells the api, where there
is a store for backups, to have those stopped that owe it something, and to send that; so the api ends before all that it takes for it."""

LAST_SENDING_S: Final = COMPUTE_STOP_CALL_TIMEOUT_S + LAST_SENDING_TIMEOUT_S
# So much longer the api may take for that.


@dataclass
class Watched:
    """A child and its present process."""

    child: Child
    process: subprocess.Popen[bytes] | None = None
    has_run: bool = False
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
                keepers.append(tasks.create_task(self._again_and_again("certificates", CERTIFICATE_CHECK_INTERVAL_S)))
                keepers.append(tasks.create_task(self._again_and_again("watchman", ROUND_INTERVAL_S)))
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
        await self._until(self._are_ready, "not every process started")
        announce.ready()

    def _are_ready(self) -> bool:
        return all(each.is_ready for each in self._watched if each.child.is_wanted)

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
        text = log_file.read_text(errors="replace") if log_file.exists() else ""
        lines = text.strip().splitlines()
        return f"{lines[-1][:300] if lines else 'it said nothing'} ({log_file})"

    async def _keep_running(self, watched: Watched) -> None:
        """Start the child, and again whenever it ends, with growing pauses while it fails to stay up."""
        while await self._is_wanted(watched.child):
            watched.ended.clear()
            try:
                self._start(watched)
            except OSError as error:
                # No memory or descriptor is left for one more, or its log cannot be made, or a program is just being replaced: it may pass.
                log.error("%s could not be started: %s", watched.child.label, error)  # noqa: TRY400 - the error says it all
                is_wanted = True
            else:
                is_wanted = await self._until_ended(watched)
            watched.failures = 0 if watched.is_ready or not is_wanted else watched.failures + 1
            watched.is_ready = False
            self._write_status()
            if self._stopping.is_set():
                return
            if not is_wanted:
                log.info("%s has nothing to do any more", watched.child.label)
                continue
            if time.monotonic() - watched.started_at > STEADY_AFTER_S:
                watched.pause_s = RESTART_PAUSE_FIRST_S
            log.warning("%s ended; starting it again in %.1f s", watched.child.label, watched.pause_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(watched.pause_s):
                    await self._stopping.wait()
            watched.pause_s = min(watched.pause_s * 2, RESTART_PAUSE_MAX_S)

    async def _until_ended(self, watched: Watched) -> bool:
        """Whether it is still wanted. Where what it needs is taken away it is stopped: what it knew of that is nowhere then."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if watched.child.needs is None else WANTED_INTERVAL_S):
                    await watched.ended.wait()
            if watched.ended.is_set():
                return watched.child.is_wanted
            if not watched.child.is_wanted and not self._stopping.is_set():
                await self._stop(watched)

    async def _is_wanted(self, child: Child) -> bool:
        """As soon as there is work for it; False: the platform stops."""
        while not child.is_wanted and not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WANTED_INTERVAL_S):
                    await self._stopping.wait()
        return not self._stopping.is_set()

    def _start(self, watched: Watched) -> None:
        """Raises OSError where this host has nothing left for another process; PreconditionError if it never could have one."""
        watched.started_at = time.monotonic()
        ready_read, ready_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            watched.process = spawn(
                watched.child,
                self._settings,
                listen_fds=[
                    (name, sock.fileno()) for name in watched.child.listens for sock in self._sockets.get(name, [])
                ],
                ready_fd=ready_write,
            )
        except OSError as error:
            os.close(ready_read)
            if watched.has_run or not isinstance(error, PermissionError):
                raise
            raise PreconditionError(
                public=f"user {watched.child.service} cannot run {error.filename}: make it readable for others"
            ) from error
        finally:
            os.close(ready_write)
        watched.has_run = True
        if watched.child.service is Service.KEYS:
            _let_lock_memory(watched.process.pid)
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
                command(name, self._settings),
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

    async def _again_and_again(self, name: str, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            try:
                await self._one_shot(name)
            except CloisterError as error:
                log.error("%s: %s", name, error.public)  # noqa: TRY400 - the child logged the traceback
            except OSError as error:  # as in _keep_running
                log.error("%s could not be started: %s", name, error)  # noqa: TRY400

    def _stop_urgently(self) -> None:
        self._is_urgent = True
        self._stopping.set()

    async def _stop_all(self) -> None:
        """In reverse order: first nobody new comes in, then what no backup has yet is sent, computes stop, the control database goes
        last."""
        gateways = [each for each in self._watched if each.child.name == "gateway"]
        await asyncio.gather(*(self._stop(each) for each in gateways))
        for watched in reversed(self._watched):
            if watched.child.name == "database" and watched.is_ready and not self._is_urgent:
                with contextlib.suppress(CloisterError, OSError):
                    await self._one_shot("farewell")
            if watched not in gateways:
                await self._stop(watched)

    async def _stop(self, watched: Watched) -> None:
        process = watched.process
        if process is None:
            return
        watched.ended.clear()
        patience_s = watched.child.stop_patience_s
        if self._is_urgent and watched.child.name != "agent":
            _signal(process, signal.SIGKILL)
        elif watched.child.name == "agent":
            _signal(process, PLATFORM_ENDS)
        elif watched.child.name == "api" and self._paths.store_file.exists():
            _signal(process, PLATFORM_ENDS)
            patience_s += LAST_SENDING_S
        elif watched.child.name == "database":
            _signal(process, signal.SIGINT)  # PostgreSQL's fast shutdown
        else:
            _signal(process, signal.SIGTERM)
        deadline = time.monotonic() + patience_s
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
            "is_ready": self._are_ready() and not self._stopping.is_set(),
            "processes": {
                each.child.label: {"pid": each.process.pid if each.process else None, "is_ready": each.is_ready}
                for each in self._watched
                if each.process or each.child.is_wanted
            },
            "postgres": [str(_bound(sock)) for sock in self._sockets["postgres"]],
            "https": [str(_bound(sock)) for sock in self._sockets["https"]],
        }
        temporary = self._paths.status.with_suffix(".new")
        try:
            temporary.write_text(json.dumps(document, indent=2) + "\n")
            temporary.chmod(0o644)
            temporary.replace(self._paths.status)
        except OSError as error:  # a full disk must not end what runs: the next change is written again
            log.error("the status cannot be written: %s", error)  # noqa: TRY400


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


def _bound(sock: socket.socket) -> Address:
    name = sock.getsockname()
    return Address(str(name[0]), int(name[1]))


def _let_lock_memory(pid: int) -> None:
    """So that the broker can keep all of its memory out of swap. Where a container forbids it, it locks what holds keys."""
    try:
        resource.prlimit(pid, resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except (PermissionError, ProcessLookupError) as error:
        log.info("the key broker's memory cannot be locked whole: %s", error)


def _signal(process: subprocess.Popen[bytes], with_signal: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, with_signal)

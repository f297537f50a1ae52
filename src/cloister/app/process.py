"""How every process of the platform begins and ends.

1. Die with the supervisor (which is the only parent it may have), gain no privileges, leave no core dump.
2. Load the settings from the state directory; take the inherited sockets.
3. Build the process's objects and run them until SIGTERM, SIGINT or, for the agent and the api, SIGUSR1.
4. Say "ready" once through the inherited pipe, when it does its work, not when it was started.
"""

import argparse
import asyncio
import contextlib
import importlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cloister.app import kernel
from cloister.app.children import LISTEN_FDS_VARIABLE, READY_FD_VARIABLE
from cloister.base.errors import CloisterError
from cloister.base.settings import Settings, load

log = logging.getLogger(__name__)

LONG_LIVED: Final = ("broker", "agent", "egress", "courier", "api", "sentinel", "gateway")
ONE_SHOT: Final = ("prepare", "certificates", "watchman", "farewell")


@dataclass(slots=True)
class Process:
    """What a process is given by its beginning."""

    settings: Settings
    worker: int
    sockets: dict[str, list[socket.socket]]
    """The inherited listening sockets, by the port's name."""
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the process shall end."""
    stop_everything: asyncio.Event = field(default_factory=asyncio.Event)
    """Set with `stop` when the platform ends: the api then sends what no backup has yet, the agent stops the computes."""
    ready: Callable[[], None] = lambda: None
    """To be called once, when the process does its work."""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="cloister.app", description="A process of the platform; not for hands.")
    parser.add_argument("process", choices=("database", *LONG_LIVED, *ONE_SHOT))
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--supervisor", type=int, required=True, help="the pid of who starts it, and with whom it ends")
    parser.add_argument("--worker", type=int, default=0)
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    settings = load(options.state_dir)
    try:
        return _begin(options.process, options.supervisor, options.worker, settings)
    except CloisterError as error:
        log.exception("%s ends", options.process)
        print(error.public, file=sys.stderr)  # noqa: T201 - the last line, which the supervisor shows
        return 1


def _begin(name: str, supervisor: int, worker: int, settings: Settings) -> int:
    if name == "database":
        _become_database(settings, supervisor)
    kernel.die_with_parent(signal.SIGKILL, supervisor)
    module = importlib.import_module(f"cloister.app.{name}")
    if name in ONE_SHOT:
        asyncio.run(module.run(settings))
        return 0
    if name != "agent":  # its children include bwrap, which sheds privileges in its own order
        kernel.no_new_privileges()
    kernel.no_dumps()
    process = Process(settings, worker, _inherited_sockets())
    process.ready = _announcer()
    with asyncio.Runner(loop_factory=getattr(module, "loop_factory", None)) as runner:
        runner.run(_until_told(process, module.run))
    return 0


async def _until_told(process: Process, run: Callable[[Process], Coroutine[None, None, None]]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, process.stop.set)

    def stop_everything() -> None:
        process.stop_everything.set()
        process.stop.set()

    loop.add_signal_handler(signal.SIGUSR1, stop_everything)
    await run(process)


def _inherited_sockets() -> dict[str, list[socket.socket]]:
    found: dict[str, list[socket.socket]] = {}
    for word in filter(None, os.environ.pop(LISTEN_FDS_VARIABLE, "").split(",")):
        name, _, number = word.partition("=")
        found.setdefault(name, []).append(socket.socket(fileno=int(number)))
    return found


def _announcer() -> Callable[[], None]:
    descriptor = int(os.environ.pop(READY_FD_VARIABLE, "-1"))

    def announce() -> None:
        nonlocal descriptor
        if descriptor >= 0:
            with contextlib.suppress(OSError):
                os.write(descriptor, b"1")
                os.close(descriptor)
            descriptor = -1

    return announce


def _become_database(settings: Settings, supervisor: int) -> None:
    """Replace this process, which runs as the database's user, by the control database's PostgreSQL. That it answers is
    seen by the `prepare` step, which waits for it, so readiness is announced at once."""
    from cloister.base.database import embedded  # noqa: PLC0415 - only this process needs it

    embedded.check(settings.paths)
    embedded.initialise(settings.paths)
    embedded.clear_the_way(settings.paths)
    argv = embedded.argv(settings.paths)
    _announcer()()
    kernel.die_with_parent(
        signal.SIGQUIT, supervisor
    )  # PostgreSQL's immediate shutdown: recovery follows at the next start
    kernel.no_new_privileges()
    os.execv(argv[0], argv)  # noqa: S606 - an argument list, which is the point

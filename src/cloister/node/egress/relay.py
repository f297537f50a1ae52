"""The relay: keeps each project's doors as the API last said, and lets its computes through.

A door is a Unix socket, `PLACE/PROJECT/HOST/.s.PGSQL.PORT`. The directory of a project is made by the agent, which shows
it, read-only, to the project's computes as `/egress`; what is in it is this process's. So a rule takes effect in computes
that run, and a compute without rules sees an empty directory. The relay holds nothing that outlives it: after a start it
has no doors, and the API, which compares every few seconds, says them again.

What must stay true: no door without a rule, and no connection through a door that is closed.
"""

import asyncio
import contextlib
import logging
import os
import shutil
import socket
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from cloister.base import descriptors
from cloister.base.buckets import Buckets
from cloister.base.egress import Target, parse_allowed
from cloister.base.errors import BadRequestError
from cloister.base.identities import Service, checked_compute_uid
from cloister.base.ids import parse_project_id
from cloister.base.rpc import Connection, Server
from cloister.base.settings import Settings
from cloister.node.commands import Done
from cloister.node.egress.commands import AnyEgressCommand, AnyEgressEvent, KeepOnly, SetWays, Standing
from cloister.node.egress.names import Names
from cloister.node.egress.outside import READ_BYTES, trusting
from cloister.node.egress.passage import Door, House, walk

log = logging.getLogger(__name__)

DOORS_PER_PROJECT_MAX: Final = 512
PASSAGES_PER_PROJECT_MAX: Final = 64
PASSAGES_MAX: Final = 2048
# Two descriptors and some 150 kB of buffers each.

OPENINGS_PER_S: Final = 5.0
OPENINGS_AT_ONCE: Final = 60
# Per project. Each is an event of the audit log and a look-up of a name.

EXPLANATIONS_PER_S: Final = 1.0
EXPLANATIONS_AT_ONCE: Final = 20
# Per project, to who finds no room. Each is an event of the audit log too, and keeps a descriptor until it is read, ten seconds at
# most. Whoever goes on knocking is not answered: what it could fill is everybody's.

PLACE_INTERVAL_S: Final = 0.2
# How often to look whether the directory of a project is there by now: its first compute has just been started.

_BACKLOG: Final = 64


class _Opened(NamedTuple):
    """A door that stands open."""

    server: asyncio.Server
    path: Path
    walkers: set[asyncio.Task[None]]


@dataclass(slots=True)
class _Project:
    said: SetWays
    doors: list[Door]
    opened: dict[tuple[str, int], _Opened] = field(default_factory=dict)


class Relay:
    def __init__(self, settings: Settings) -> None:
        self._place = settings.paths.egress_doors
        self._server = Server(
            settings.paths.egress_socket, AnyEgressCommand, self._answer, allowed=frozenset({Service.API})
        )
        self._projects: dict[str, _Project] = {}
        self._passages: Counter[str] = Counter()
        self._openings = Buckets(per_s=OPENINGS_PER_S, burst=OPENINGS_AT_ONCE, keys_max=10_000)
        self._explanations = Buckets(per_s=EXPLANATIONS_PER_S, burst=EXPLANATIONS_AT_ONCE, keys_max=10_000)
        self._house = House(
            parse_allowed(settings.egress_allow),
            self._take_room,
            self._give_room,
            self._may_explain,
            self._tell,
            Names().resolve,
        )
        self._looking: asyncio.Task[None] | None = None
        self._changing = asyncio.Lock()

    async def start(self) -> None:
        # A door is a descriptor, a passage two: the thousand of a shell's would be two projects' doors.
        descriptors.raise_to_the_most()
        # What an earlier process left leads nowhere: its end closed it.
        for place in self._place.iterdir():
            _empty(place)
        self._looking = asyncio.create_task(self._look_for_places())
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop()
        assert self._looking is not None
        self._looking.cancel()
        await asyncio.gather(self._looking, return_exceptions=True)
        for project in self._projects.values():
            await _close(project)

    async def _answer(self, _connection: Connection, command: AnyEgressCommand) -> Any:
        # One change at a time: each waits for connections to end.
        async with self._changing:
            match command:
                case SetWays():
                    return await self._set(command)
                case KeepOnly():
                    for project_id in set(self._projects) - set(command.project_ids):
                        await _close(self._projects.pop(project_id))
                    return Standing({name: project.said.digest for name, project in self._projects.items()})

    async def _set(self, said: SetWays) -> Done:
        parse_project_id(said.project_id)
        checked_compute_uid(said.uid)
        wanted = _doors(said)
        before = self._projects.pop(said.project_id, None)
        after = _Project(said, wanted)
        if before is not None:
            # A door that is as it was stays open, with who is passing through it. Whom it trusts is part of it.
            kept = _ways(before.said) & _ways(said) if before.said.uid == said.uid else set()
            for door in before.doors:
                key = (door.host, door.port)
                if (opened := before.opened.pop(key, None)) is None:
                    continue
                if any(target == door.target for target, _ in kept):
                    after.opened[key] = opened
                else:
                    await _shut(opened)
        self._projects[said.project_id] = after
        await self._open(after)
        return Done()

    async def _open(self, project: _Project) -> None:
        """The doors that are not open yet, if there is a place to put them."""
        place = self._place / project.said.project_id
        if not place.is_dir():
            return
        for door in project.doors:
            if (door.host, door.port) not in project.opened:
                project.opened[door.host, door.port] = await self._opened(door, place)

    async def _opened(self, door: Door, place: Path) -> _Opened:
        directory = place / door.host
        directory.mkdir(mode=0o711, exist_ok=True)
        directory.chmod(0o711)
        name = f".s.PGSQL.{door.port}"
        path = directory / name
        path.unlink(missing_ok=True)
        listening = socket.socket(socket.AF_UNIX)
        # Through a descriptor: the whole path may be longer than a socket's address can be.
        handle = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            listening.bind(f"/proc/self/fd/{handle}/{name}")
        except BaseException:
            listening.close()
            raise
        finally:
            os.close(handle)
        path.chmod(0o666)  # Who comes is asked of the kernel; which computes see it, the mount says.
        listening.listen(_BACKLOG)
        listening.setblocking(False)
        walkers: set[asyncio.Task[None]] = set()

        def come(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if listening.fileno() < 0:  # let in by the kernel before the door was shut
                writer.close()
                return
            walker = asyncio.create_task(walk(door, self._house, reader, writer))
            walkers.add(walker)
            walker.add_done_callback(_forget(walkers))
            walker.add_done_callback(lambda _: writer.close())  # also of one that was ended before its first step

        server = await asyncio.start_unix_server(come, sock=listening, limit=READ_BYTES)
        return _Opened(server, path, walkers)

    async def _look_for_places(self) -> None:
        while True:
            await asyncio.sleep(PLACE_INTERVAL_S)
            async with self._changing:
                for project in self._projects.values():
                    if len(project.opened) < len(project.doors):
                        try:
                            await self._open(project)
                        except OSError as error:
                            log.warning("the doors of %s: %s", project.said.project_id, error)

    def _take_room(self, project_id: str) -> str | None:
        if not self._openings.take(project_id, time.monotonic()):
            return f"too many connections in a short time (at most {OPENINGS_PER_S:.0f} a second)"
        if self._passages[project_id] >= PASSAGES_PER_PROJECT_MAX or self._passages.total() >= PASSAGES_MAX:
            return f"too many connections are open (at most {PASSAGES_PER_PROJECT_MAX} of a project)"
        self._passages[project_id] += 1
        return None

    def _give_room(self, project_id: str) -> None:
        self._passages[project_id] -= 1
        if not self._passages[project_id]:
            del self._passages[project_id]

    def _may_explain(self, project_id: str) -> bool:
        return self._explanations.take(project_id, time.monotonic())

    def _tell(self, event: AnyEgressEvent) -> bool:
        log.info("%r", event)
        for connection in self._server.connections:
            connection.send_event(event)
        return bool(self._server.connections)


def _doors(said: SetWays) -> list[Door]:
    """Where two rules name the same address and port, the first is it. Raises BadRequestError."""
    doors: dict[tuple[str, int], Door] = {}
    for way in said.ways:
        target, context = Target.parse(way.target), trusting(way.ca_pem)
        for host in target.hosts:
            door = Door(said.project_id, said.uid, str(target), host, target.port, context)
            doors.setdefault((host, target.port), door)
    if len(doors) > DOORS_PER_PROJECT_MAX:
        raise BadRequestError(f"{said.project_id} wants {len(doors)} doors")
    return list(doors.values())


def _ways(said: SetWays) -> set[tuple[str, str | None]]:
    return {(str(Target.parse(way.target)), way.ca_pem) for way in said.ways}


async def _close(project: _Project) -> None:
    for opened in project.opened.values():
        await _shut(opened)
    project.opened.clear()


async def _shut(opened: _Opened) -> None:
    """Nobody comes in any more, and who is in it is out when this returns."""
    opened.server.close()
    opened.path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # Other ports of the same host may stand open.
        opened.path.parent.rmdir()
    for walker in list(opened.walkers):
        walker.cancel()
    await asyncio.gather(*opened.walkers, return_exceptions=True)


def _empty(place: Path) -> None:
    for entry in place.iterdir():
        shutil.rmtree(entry, ignore_errors=True)


def _forget(walkers: set[asyncio.Task[None]]) -> Any:
    def done(walker: asyncio.Task[None]) -> None:
        walkers.discard(walker)
        if not walker.cancelled() and (error := walker.exception()) is not None:
            log.error("a passage failed", exc_info=error)

    return done

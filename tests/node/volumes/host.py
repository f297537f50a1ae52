"""One platform on this host, with real volumes and without the rest: what the tests of volumes and of the agent stand on."""

import asyncio
import contextlib
import fcntl
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cloister.base.errors import NotFoundError
from cloister.base.ids import ProjectId
from cloister.base.settings import Paths, Settings
from cloister.node.records import ProcessRecord, read_record
from cloister.node.volumes import Volumes, choose_driver, loop, mounts
from cloister.node.volumes.model import OpenVolume

MIB = 1024**2

Fill = Callable[[Path], None]


def new_key() -> bytes:
    """256 random bits as the broker gives them: hexadecimal."""
    return os.urandom(32).hex().encode()


class FakeKeys:
    """A key per project and material, handed out as the broker does: a sealed memfd. Remembers the reasons."""

    def __init__(self) -> None:
        self.keys: dict[tuple[ProjectId, int], bytes] = {}
        self.reasons: list[str] = []

    async def unwrap(self, project_id: ProjectId, reason: str, *, material: int) -> int:
        self.reasons.append(reason)
        key = self.keys.setdefault((project_id, material), new_key())
        memfd = os.memfd_create("key", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.write(memfd, key)
        seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        fcntl.fcntl(memfd, fcntl.F_ADD_SEALS, seals)
        return memfd


@dataclass
class Host:
    """One platform's state directory, and the agents' `Volumes` that come and go on it."""

    settings: Settings
    keys: FakeKeys = field(default_factory=FakeKeys)
    failed: asyncio.Queue[tuple[ProjectId, str]] = field(default_factory=asyncio.Queue)
    stopped: list[ProjectId] = field(default_factory=list)
    running: list[Volumes] = field(default_factory=list)

    @property
    def paths(self) -> Paths:
        return self.settings.paths

    async def start(self) -> Volumes:
        async def stop_users(project_id: ProjectId) -> None:
            self.stopped.append(project_id)

        driver = choose_driver(self.settings)
        volumes = Volumes(driver, self.keys, lambda project_id, reason: self.failed.put_nowait((project_id, reason)))
        await volumes.start(stop_users)
        self.running.append(volumes)
        return volumes

    async def kill(self, volumes: Volumes) -> None:
        """What a killed agent leaves: everything open, nobody watching."""
        await volumes.stop()
        self.running.remove(volumes)

    def image(self, project_id: ProjectId) -> Path:
        return self.paths.volumes / f"{project_id}.img"

    def traces(self) -> list[str]:
        """Every mount, loop device and process that belongs to this platform."""
        found = [str(entry.mountpoint) for entry in mounts.parse_mountinfo(Path("/proc/self/mountinfo").read_text())]
        found = [mountpoint for mountpoint in found if mountpoint.startswith(str(self.paths.run))]
        devices = [Path("/dev") / entry.name for entry in Path("/sys/block").glob("loop*")]
        found += [str(path) for path in devices if str(loop.backing(path)).startswith(str(self.paths.run))]
        mark = f"cloister-{self.paths.instance}-".encode()
        for entry in Path("/proc").iterdir():
            # One that ends while it is looked at is no trace.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if entry.name.isdigit() and mark in (entry / "cmdline").read_bytes():
                    found.append(entry.name)
        return found


def sweep(host: Host) -> None:
    """By force, for a test may have failed anywhere."""
    under = [entry.mountpoint for entry in mounts.parse_mountinfo(Path("/proc/self/mountinfo").read_text())]
    for mountpoint in reversed([path for path in under if str(path).startswith(str(host.paths.run))]):
        mounts.detach(mountpoint)
    for trace in host.traces():
        if trace.isdigit():
            with contextlib.suppress(NotFoundError):
                ProcessRecord.of(int(trace)).signal(signal.SIGKILL)


def daemon_of(host: Host, project_id: ProjectId) -> ProcessRecord:
    """The process that holds the project's key."""
    volume = read_record(host.paths.run / "volumes" / f"{project_id}.json", OpenVolume)
    assert volume is not None
    assert volume.attached.daemon is not None
    return volume.attached.daemon

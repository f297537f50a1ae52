"""The words of this package: what a volume is while it is open, who gives keys, what a driver can do.

A driver works on one host's disks with blocking calls, in threads of `Volumes`, one call per project at a time. It knows
nothing of computes, of who asks, or of why.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import msgspec

from cloister.base.ids import ProjectId
from cloister.node.records import ProcessRecord
from cloister.node.volumes.copying import Copy


class KeySource(Protocol):
    """Where volumes' keys come from: the key broker's client."""

    async def unwrap(self, project_id: ProjectId, reason: str, *, material: int) -> int:
        """A descriptor of a sealed memfd with that one of the volume's keys; the caller closes it. Recorded before the key is
        used."""
        ...


class Attached(msgspec.Struct, frozen=True, kw_only=True):
    """An image that an opener has made a block device of, or is making: enough to take everything apart again."""

    device: str = ""
    """The block device; empty while there is none yet."""
    launcher: ProcessRecord | None = None
    """The sandbox's outer process, our child while this agent lives."""
    daemon: ProcessRecord | None = None
    """The process that holds the key."""


class OpenVolume(msgspec.Struct, frozen=True, kw_only=True):
    """The record of a volume that is open or being opened."""

    project_id: str
    mountpoint: str
    attached: Attached = Attached()
    is_mounted: bool = False


Note = Callable[[Attached], None]
"""Told at once of every process and device, so that a record exists before anything can go wrong."""


class Opener(Protocol):
    """A way to make a block device of a LUKS image."""

    name: str

    def prepare(self) -> None:
        """Once, before anything else."""
        ...

    def attach(self, project_id: ProjectId, image: Path, key: int, note: Note) -> tuple[Attached, int]:
        """The device, and a descriptor that keeps it until it is mounted. On failure nothing is left."""
        ...

    def detach(self, project_id: ProjectId, attached: Attached) -> None:
        """Take an unmounted device apart, verified: afterwards the key is nowhere. Safe at any stage, and twice."""
        ...

    def is_intact(self, project_id: ProjectId, attached: Attached) -> bool:
        """Everything that attach made is there and works."""
        ...

    def leftovers(self) -> set[ProjectId]:
        """Projects of this platform of which any trace is attached, recorded or not."""
        ...


class Driver(Protocol):
    """A way to keep volumes."""

    name: str
    opener_name: str
    needs_key: bool
    has_own_space: bool
    """A volume has a size of its own, so it can be full, and `headroom.py` applies."""

    def prepare(self) -> None:
        """Once, before anything else: make directories, remove half-made volumes."""
        ...

    def exists(self, project_id: ProjectId) -> bool: ...

    def create(
        self, project_id: ProjectId, size_bytes: int, key: int, fill: Callable[[Path], None], *, material: int = 1
    ) -> None:
        """Make a volume, let `fill` put files into it, leave it closed. All or nothing. `material` is the key's."""
        ...

    def open(self, project_id: ProjectId, key: int) -> OpenVolume:
        """Raises InternalError or OSError; then nothing is left open."""
        ...

    def close(self, volume: OpenVolume) -> None:
        """Raises ConflictError if a process uses it."""
        ...

    def discard(self, project_id: ProjectId) -> None:
        """Close whatever of the volume is open, in whatever state, users or not."""
        ...

    def interrupt(self, project_id: ProjectId) -> None:
        """Make a call that is under way for this project fail rather than wait on. Any thread."""
        ...

    def destroy(self, project_id: ProjectId) -> None:
        """Remove a closed volume. Already gone is success."""
        ...

    def adopt(self, project_id: ProjectId) -> OpenVolume | None:
        """The volume as an earlier agent left it open; None if it is not open in working order."""
        ...

    def leftovers(self) -> set[ProjectId]:
        """Projects of which anything is open or recorded as open."""
        ...

    def is_healthy(self, volume: OpenVolume) -> bool: ...

    def cipher(self, project_id: ProjectId) -> str:
        """As the volume's own header says."""
        ...

    def material(self, project_id: ProjectId) -> int:
        """Which of the project's volume keys opens it, as its own header says."""
        ...

    def ciphers(self) -> str:
        """Of all volumes, each once."""
        ...

    def image_bytes(self, project_id: ProjectId) -> int: ...

    def copied_bytes(self, project_id: ProjectId) -> int:
        """What an image that is to take its place takes on the disk by now; 0 without one."""
        ...

    def written_at(self, project_id: ProjectId) -> int:
        """When the volume was last written to. Grows with every write."""
        ...

    def require_copying(self) -> None:
        """Raises PreconditionError where `copying` cannot be done."""
        ...

    def copying(self, project_id: ProjectId, old_key: int, new_key: int, material: int) -> AbstractContextManager[Copy]:
        """The volume, open or not, beside an image under another key, which the next time goes on where it was left. Raises
        InternalError."""
        ...

    def interrupt_copy(self, project_id: ProjectId) -> None:
        """Make `copying`, and what is done with it, fail rather than wait on. Any thread."""
        ...

    def complete(self, project_id: ProjectId) -> None:
        """Let the copy take the place of the closed volume, whose old key opens nothing from then on. All or nothing."""
        ...

    def drop_copy(self, project_id: ProjectId) -> None: ...

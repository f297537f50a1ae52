"""A volume's image and the one that is to follow it, opened side by side by a process that has nothing but the two.

Like the opener in user space (`qemu.py`), whose sandbox this is: qemu-storage-daemon, each image's clear text exported over
FUSE as a file that only root may open. The old image is opened for reading only, without a lock, for the volume's own daemon
may be writing to it at the same time; both go through the kernel's page cache, so what one wrote the other reads. Wakes and
closings of the volume neither see this process nor wait for it.

It does not outlive the agent: it has no record, and the next agent ends what it finds.
"""

import contextlib
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from cloister.base.errors import InternalError
from cloister.base.ids import ProjectId, parse_project_id
from cloister.base.settings import Paths
from cloister.node import children
from cloister.node.records import ProcessRecord
from cloister.node.volumes import mounts, qemu
from cloister.node.volumes.copying import Copy
from cloister.node.volumes.luks import read_header

log = logging.getLogger(__name__)

_OLD_KEY_FD: Final = 3
_OLD_FUSE_FD: Final = 4
_NEW_KEY_FD: Final = 7
_NEW_FUSE_FD: Final = 8
_OLD_EMPTY_FD: Final = 6
_NEW_EMPTY_FD: Final = 9

_UNMOUNT_PATIENCE_S: Final = 2.0
# Nobody but us ever opened them.


class Keyed(NamedTuple):
    """An image, and a descriptor of the key that opens it."""

    image: Path
    key: int


def pair_command(mark: str, uid: int, old: Path, new: Path) -> list[str]:
    """The sandbox and the daemon in it. Everything secret or open comes as a descriptor."""
    files = {"/old": ("--ro-bind", old), "/new": ("--bind", new)}
    sessions = {_OLD_EMPTY_FD: _OLD_FUSE_FD, _NEW_EMPTY_FD: _NEW_FUSE_FD}
    return [
        *qemu.sandbox_command(uid, files, sessions),
        "/usr/bin/qemu-storage-daemon",
        *("--object", f"secret,id=old-key,file=/proc/self/fd/{_OLD_KEY_FD}"),
        *("--object", f"secret,id=new-key,file=/proc/self/fd/{_NEW_KEY_FD}"),
        *("--blockdev", "driver=file,node-name=old-image,filename=/old,aio=threads,read-only=on,locking=off"),
        *("--blockdev", "driver=luks,node-name=old,file=old-image,key-secret=old-key,read-only=on"),
        *("--blockdev", "driver=file,node-name=new-image,filename=/new,aio=threads"),
        *("--blockdev", "driver=luks,node-name=new,file=new-image,key-secret=new-key"),
        *("--export", f"type=fuse,id={mark},node-name=old,mountpoint=/dev/fd/{_OLD_FUSE_FD},writable=off,growable=off"),
        *(
            "--export",
            f"type=fuse,id=to-{mark},node-name=new,mountpoint=/dev/fd/{_NEW_FUSE_FD},writable=on,growable=off",
        ),
    ]


class Pairs:
    def __init__(self, paths: Paths) -> None:
        self._exports = paths.run / "copies"
        self._logs = paths.logs / "volumes"
        self._mark = f"copy-cloister-{paths.instance}-"
        self._source = f"cloister-{paths.instance}"

    def prepare(self) -> None:
        """Once, before any is opened: an agent that was killed may have left some."""
        for directory in (self._exports, self._logs):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for export in list(self._exports.iterdir()):
            mounts.detach(export)
            export.unlink()
        for name, process in self._daemons():
            log.info("ending what was left of a re-encryption of %s", name)
            qemu.end(process, parse_project_id(name))

    def interrupt(self, project_id: ProjectId) -> None:
        """Make whoever reads or writes one of the two images fail rather than wait on. Any thread."""
        for name, process in self._daemons():
            if name == project_id:
                process.signal(signal.SIGKILL)

    @contextlib.contextmanager
    def opened(self, project_id: ProjectId, old: Keyed, new: Keyed) -> Iterator[Copy]:
        """From one image to the other. When the block ends, both keys are nowhere. Raises InternalError."""
        uid = qemu.uid_of(project_id)
        os.chown(new.image, uid, uid)
        exports = [self._exports / f"{project_id}.{name}" for name in ("old", "new")]
        processes: list[ProcessRecord] = []
        try:
            with contextlib.ExitStack() as held:
                try:
                    processes += self._start(project_id, old, new, exports)
                    source = _file(held, exports[0], os.O_RDONLY | os.O_DIRECT)
                    target = _file(held, exports[1], os.O_RDWR | os.O_DIRECT)
                except OSError as error:
                    said = self._last_words(project_id)
                    raise InternalError(f"opening two images of {project_id}: {error}: {said}") from error
                old_header, new_header = read_header(old.image), read_header(new.image)
                if old_header.payload_offset != new_header.payload_offset:
                    raise InternalError(f"the images of {project_id} are laid out differently")
                source_image, target_image = (_file(held, each.image, os.O_RDONLY) for each in (old, new))
                yield Copy(source, source_image, target, target_image, payload=old_header.payload_offset)
        finally:
            for export in exports:
                try:
                    mounts.unmount(export, patience_s=_UNMOUNT_PATIENCE_S)
                except OSError as error:
                    log.warning("%s stays busy (%s): detached", export.name, error)
                    mounts.detach(export)
                export.unlink(missing_ok=True)
            for process in processes:
                qemu.end(process, project_id)

    def _daemons(self) -> list[tuple[str, ProcessRecord]]:
        return list(qemu.marked(f"type=fuse,id={self._mark}"))

    def _last_words(self, project_id: ProjectId) -> str:
        with contextlib.suppress(OSError):
            return self._log(project_id).read_text(errors="replace").strip()[-500:]
        return ""

    def _log(self, project_id: ProjectId) -> Path:
        return self._logs / f"{project_id}.copy.log"

    def _start(self, project_id: ProjectId, old: Keyed, new: Keyed, exports: list[Path]) -> list[ProcessRecord]:
        with contextlib.ExitStack() as ours:
            sessions = []
            for export in exports:
                export.touch(mode=0o600)
                sessions.append(qemu.mount_session(self._source, export))
                ours.callback(os.close, sessions[-1])
            information, informer = os.pipe2(os.O_CLOEXEC)
            ours.callback(os.close, information)
            try:
                descriptors = {
                    2: _file(ours, self._log(project_id), os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
                    qemu.INFO_FD: informer,
                    _OLD_KEY_FD: old.key,
                    _OLD_FUSE_FD: sessions[0],
                    _OLD_EMPTY_FD: _file(ours, Path(os.devnull), os.O_RDONLY),
                    _NEW_KEY_FD: new.key,
                    _NEW_FUSE_FD: sessions[1],
                    _NEW_EMPTY_FD: _file(ours, Path(os.devnull), os.O_RDONLY),
                }
                launcher = children.spawn(
                    pair_command(f"{self._mark}{project_id}", qemu.uid_of(project_id), old.image, new.image),
                    descriptors,
                )
            finally:
                os.close(informer)
            daemon = qemu.daemon_of(information)
            return [launcher] if daemon is None else [daemon, launcher]


def _file(held: contextlib.ExitStack, path: Path, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    held.callback(os.close, descriptor)
    return descriptor

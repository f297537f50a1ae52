"""The `luks` driver: a project's volume is a sparse LUKS image with XFS in it.

This file knows the order of things: image, opener, file system, mount, record, and back. How an image becomes a device is
the opener's business. Each record is written before what it describes is done, so that whatever a crash leaves can be
found and taken apart.
"""

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from cloister.base.durable import sync_directory, sync_filesystem
from cloister.base.errors import ConflictError, InternalError, NotFoundError, PreconditionError
from cloister.base.ids import ProjectId, parse_project_id
from cloister.base.settings import Paths
from cloister.node import children
from cloister.node.records import read_record, write_record
from cloister.node.volumes import headroom, luks, mounts
from cloister.node.volumes.copying import Copy
from cloister.node.volumes.model import Attached, Opener, OpenVolume
from cloister.node.volumes.pair import Keyed, Pairs

log = logging.getLogger(__name__)

XFS_LOG_BYTES: Final = 16 * 1024**2
# docs/adr/0001: the log is written out at mkfs, so it is what an empty volume weighs.

UNMOUNT_PATIENCE_S: Final = 5.0
# Whoever was just stopped gives up its files within milliseconds; after this somebody really uses them.

_DISCARD_PATIENCE_S: Final = 0.5
# Its users were killed or were never there.

_MOUNT_FLAGS: Final = mounts.NOATIME | mounts.NODEV | mounts.NOSUID | mounts.NOEXEC

_MOUNT_OPTIONS: Final = "nouuid"
# A mount namespace of somebody else may hold the last, dead mount of the same volume. That an image is not opened twice
# is held by our records, and by the daemon's lock on it.

_SUFFIX: Final = ".img"
_UNFINISHED: Final = ".unfinished"
_NEXT: Final = ".next"
# What is to take an image's place: the same data under another key. It stays until it does, or is given up.


def mkfs_command(device: str) -> list[str]:
    """`--unsupported` only allows a log below 64 MB, which mkfs made by default until 2022 and every kernel mounts."""
    return [
        *("mkfs.xfs", "-q", "-f", "-K", "--unsupported"),
        *("-m", "reflink=1,crc=1", "-l", f"size={XFS_LOG_BYTES}", device),
    ]


class LuksDriver:
    name = "luks"
    needs_key = True
    has_own_space = True

    def __init__(self, paths: Paths, opener: Opener) -> None:
        self._images = paths.volumes
        self._mounts = paths.mounts
        self._records = paths.run / "volumes"
        self._opener = opener
        self._pairs = Pairs(paths)
        self.opener_name = opener.name
        self._headers: dict[ProjectId, luks.Header] = {}
        self._under_way: dict[ProjectId, Attached] = {}
        self._interrupted: set[ProjectId] = set()
        self._noting = threading.Lock()

    def prepare(self) -> None:
        for directory in (self._images, self._mounts, self._records):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory.chmod(0o700)
        self._opener.prepare()
        self._pairs.prepare()
        for unfinished in self._images.glob(f"*{_UNFINISHED}"):
            project_id = parse_project_id(unfinished.name.removesuffix(_UNFINISHED))
            log.info("removing the half-made volume of %s", project_id)
            self.discard(project_id)
            unfinished.unlink()

    def exists(self, project_id: ProjectId) -> bool:
        return self._image(project_id).exists()

    def create(
        self, project_id: ProjectId, size_bytes: int, key: int, fill: Callable[[Path], None], *, material: int = 1
    ) -> None:
        image = self._images / f"{project_id}{_UNFINISHED}"
        image.unlink(missing_ok=True)
        # Of an image that was lost behind our back: what it said holds for this one no more.
        self._headers.pop(project_id, None)
        try:
            _make_file(image, size_bytes)
            children.run(luks.format_command(image, material), {luks.KEY_FD: key})
            volume = self._open(project_id, image, key, is_new=True)
            try:
                mountpoint = Path(volume.mountpoint)
                fill(mountpoint)
                headroom.hold(mountpoint)
            finally:
                self.close(volume)
            with image.open("r+b") as file:
                os.fsync(file.fileno())
            image.rename(self._image(project_id))
            sync_directory(self._images)
        except BaseException:
            self.discard(project_id)
            image.unlink(missing_ok=True)
            raise

    def open(self, project_id: ProjectId, key: int) -> OpenVolume:
        if not self.exists(project_id):
            raise NotFoundError(f"no volume of {project_id}", public="the project's volume is not there")
        return self._open(project_id, self._image(project_id), key, is_new=False)

    def close(self, volume: OpenVolume) -> None:
        project_id = parse_project_id(volume.project_id)
        mountpoint = Path(volume.mountpoint)
        # (1) Everything to the image. A failure is worth a word, but PostgreSQL has synced all it acknowledged.
        try:
            sync_filesystem(mountpoint)
        except OSError as error:
            log.warning("the volume of %s could not be written out: %s", project_id, error)
        # (2) The file system. It stays busy while a process uses it: then the volume stays open.
        try:
            mounts.unmount(mountpoint, patience_s=UNMOUNT_PATIENCE_S)
        except OSError as error:
            raise ConflictError(f"the volume of {project_id} is in use: {error}") from error
        # (3) The device, the daemon, the key.
        self._opener.detach(project_id, volume.attached)
        self._forget(project_id)

    def discard(self, project_id: ProjectId) -> None:
        mountpoint = self._mounts / project_id
        try:
            mounts.unmount(mountpoint, patience_s=_DISCARD_PATIENCE_S)
        except OSError as error:
            log.warning("the volume of %s is unmounted under its users: %s", project_id, error)
            mounts.detach(mountpoint)
        record = read_record(self._record(project_id), OpenVolume)
        self._opener.detach(project_id, record.attached if record else Attached())
        self._forget(project_id)

    def interrupt(self, project_id: ProjectId) -> None:
        with self._noting:
            if (attached := self._under_way.get(project_id)) is None:
                return
            self._interrupted.add(project_id)
        _kill(attached)

    def destroy(self, project_id: ProjectId) -> None:
        self._image(project_id).unlink(missing_ok=True)
        self._next(project_id).unlink(missing_ok=True)
        sync_directory(self._images)
        self._headers.pop(project_id, None)

    def adopt(self, project_id: ProjectId) -> OpenVolume | None:
        volume = read_record(self._record(project_id), OpenVolume)
        if volume is None or not volume.is_mounted:
            return None
        if not self._opener.is_intact(project_id, volume.attached) or not self.is_healthy(volume):
            return None
        return volume

    def leftovers(self) -> set[ProjectId]:
        found = {entry.name for entry in self._mounts.iterdir()}
        found |= {entry.name.removesuffix(".json") for entry in self._records.glob("*.json")}
        return {parse_project_id(name) for name in found} | self._opener.leftovers()

    def is_healthy(self, volume: OpenVolume) -> bool:
        """It is mounted, and XFS has not shut down: after a failed write to its log it answers EIO to everything."""
        mountpoint = Path(volume.mountpoint)
        try:
            return os.stat(mountpoint).st_dev != os.stat(self._mounts).st_dev
        except OSError:
            return False

    def cipher(self, project_id: ProjectId) -> str:
        return str(self._header(project_id))

    def material(self, project_id: ProjectId) -> int:
        return self._header(project_id).material

    def ciphers(self) -> str:
        images = self._images.glob(f"*{_SUFFIX}")
        return ", ".join(sorted({self.cipher(parse_project_id(image.stem)) for image in images})) or "no volume yet"

    def image_bytes(self, project_id: ProjectId) -> int:
        return self._image(project_id).stat().st_blocks * 512

    # ── the same data under another key ──

    def copied_bytes(self, project_id: ProjectId) -> int:
        try:
            return self._next(project_id).stat().st_blocks * 512
        except FileNotFoundError:
            return 0

    def written_at(self, project_id: ProjectId) -> int:
        return self._image(project_id).stat().st_mtime_ns

    def require_copying(self) -> None:
        # The images of dm-crypt are written past the page cache, from which the copy is read.
        if self.opener_name != "qemu-storage-daemon":
            raise PreconditionError(
                public=f"re-encryption needs volumes that qemu-storage-daemon opens; these are opened by {self.opener_name}"
            )

    @contextlib.contextmanager
    def copying(self, project_id: ProjectId, old_key: int, new_key: int, material: int) -> Iterator[Copy]:
        """Into the image that was begun for this material, or a new one."""
        image, following = self._image(project_id), self._next(project_id)
        if _material_of(following) != material:
            following.unlink(missing_ok=True)
            _make_file(following, image.stat().st_size)
            children.run(luks.format_command(following, material), {luks.KEY_FD: new_key})
        with self._pairs.opened(project_id, Keyed(image, old_key), Keyed(following, new_key)) as copy:
            yield copy

    def interrupt_copy(self, project_id: ProjectId) -> None:
        self._pairs.interrupt(project_id)

    def complete(self, project_id: ProjectId) -> None:
        """Let the copy take the image's place.

        1. It is on the disk, whole.
        2. It takes the name. Before this line the project has its old key, after it the new one; there is nothing between.
        3. The old image, which has no name any more, loses its header and key slots: without the volume key in them its
           blocks are noise, wherever they lie on the disk. Cut off before this, they want a passphrase that the broker
           destroys.
        """
        image, following = self._image(project_id), self._next(project_id)
        with image.open("r+b") as old:
            # 1.
            with following.open("r+b") as new:
                os.fsync(new.fileno())
            # 2.
            following.rename(image)
            self._headers.pop(project_id, None)
            sync_directory(self._images)
            # 3.
            old.write(os.urandom(luks.parse_header(os.pread(old.fileno(), 4096, 0)).payload_offset))
            old.flush()
            os.fsync(old.fileno())

    def drop_copy(self, project_id: ProjectId) -> None:
        """Gone already is success."""
        self._next(project_id).unlink(missing_ok=True)

    def _header(self, project_id: ProjectId) -> luks.Header:
        if project_id not in self._headers:
            self._headers[project_id] = luks.read_header(self._image(project_id))
        return self._headers[project_id]

    def _open(self, project_id: ProjectId, image: Path, key: int, *, is_new: bool) -> OpenVolume:
        mountpoint = self._mounts / project_id
        mountpoint.mkdir(mode=0o700, exist_ok=True)
        volume = OpenVolume(project_id=project_id, mountpoint=str(mountpoint))

        def note(attached: Attached) -> None:
            nonlocal volume
            volume = msgspec.structs.replace(volume, attached=attached)
            with self._noting:
                self._under_way[project_id] = attached
                is_interrupted = project_id in self._interrupted
            if is_interrupted:
                # A process that was not known yet when the others were killed. Without them it would wait for ever, and the
                # opening for it.
                _kill(attached)
            write_record(self._record(project_id), volume)

        try:
            attached, device = self._opener.attach(project_id, image, key, note)
            try:
                if is_new:
                    children.run(mkfs_command(attached.device))
                mounts.mount(attached.device, mountpoint, "xfs", _MOUNT_FLAGS, _MOUNT_OPTIONS)
            finally:
                os.close(device)
            if is_new:
                mountpoint.chmod(0o700)
            volume = msgspec.structs.replace(volume, is_mounted=True)
            write_record(self._record(project_id), volume)
        except BaseException:
            self.discard(project_id)
            raise
        finally:
            with self._noting:
                self._under_way.pop(project_id, None)
                self._interrupted.discard(project_id)
        return volume

    def _forget(self, project_id: ProjectId) -> None:
        with contextlib.suppress(FileNotFoundError):
            (self._mounts / project_id).rmdir()
        self._record(project_id).unlink(missing_ok=True)

    def _image(self, project_id: ProjectId) -> Path:
        return self._images / f"{project_id}{_SUFFIX}"

    def _next(self, project_id: ProjectId) -> Path:
        return self._images / f"{project_id}{_NEXT}"

    def _record(self, project_id: ProjectId) -> Path:
        return self._records / f"{project_id}.json"


def _make_file(path: Path, size_bytes: int) -> None:
    with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "r+b") as file:
        file.truncate(size_bytes)


def _material_of(image: Path) -> int | None:
    """None if there is no image, or one that was cut off while it was made."""
    try:
        return luks.read_header(image).material
    except (FileNotFoundError, InternalError):
        return None


def _kill(attached: Attached) -> None:
    for process in (attached.daemon, attached.launcher):
        if process is not None:
            process.signal(signal.SIGKILL)

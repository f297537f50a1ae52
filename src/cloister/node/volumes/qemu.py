"""The opener in user space: qemu-storage-daemon decrypts, FUSE makes its result a file, a loop device a disk of it.

One daemon per volume, so that a fault stays in one tenant. It holds the key, so it has nothing else: a uid of its own
without any capability, empty pid, network, IPC and mount namespaces, the system's /usr read-only, its image, no core
dumps. It could not mount a FUSE file system from there; so the agent mounts it, and gives the daemon the session's
descriptor. libfuse takes `/dev/fd/N` for such a session, and QEMU wants its mount point to be a regular file: in the
sandbox an empty regular file has that name.

That also tells without polling when the daemon is ready: opening the exported file waits for its first answer, and fails
at once if it dies before.
"""

import contextlib
import hashlib
import json
import logging
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from cloister.base.errors import InternalError, NotFoundError
from cloister.base.ids import ProjectId, parse_project_id
from cloister.base.settings import Paths
from cloister.node import children
from cloister.node.records import ProcessRecord
from cloister.node.volumes import loop, mounts
from cloister.node.volumes.luks import KEY_FD
from cloister.node.volumes.model import Attached, Note

log = logging.getLogger(__name__)

UID_FIRST: Final = 2_000_000_000
UID_COUNT: Final = 100_000_000
# Directly above the computes' uids, below 2^31.

_FUSE_FD: Final = 4
INFO_FD: Final = 5
_EMPTY_FD: Final = 6

_MAX_READ: Final = 1024 * 1024
# The most one FUSE request carries; the daemon accepts far more.

_EXIT_PATIENCE_S: Final = 2.0
# It flushes and goes in 1 ms. After this it is killed; everything was synced before.

_RELEASE_PATIENCE_S: Final = 2.0
# A sandbox that is just being set up holds copies of all mounts for some milliseconds.

_OOM_SCORE: Final = -900
# A tenant's memory is to be reclaimed by ending its compute, not the disk below it.

PROGRAMS: Final = ("qemu-storage-daemon", "bwrap", "setpriv", "cryptsetup", "mkfs.xfs")


def missing() -> list[str]:
    """What this host lacks for this opener."""
    lacking = [program for program in PROGRAMS if children.find(program) is None]
    return lacking + [device for device in ("/dev/fuse", "/dev/loop-control") if not os.path.exists(device)]


def uid_of(project_id: ProjectId) -> int:
    """The uid of a volume's daemon. A hash, so that no allocation has to be remembered; if two volumes ever share one,
    they are still in namespaces of their own."""
    digest = hashlib.sha256(project_id.encode()).digest()
    return UID_FIRST + int.from_bytes(digest[:8], "big") % UID_COUNT


def daemon_command(mark: str, uid: int, image: Path) -> list[str]:
    """The sandbox and the daemon in it. Everything secret or open comes as a descriptor."""
    return [
        *sandbox_command(uid, {"/image": ("--bind", image)}, {_EMPTY_FD: _FUSE_FD}),
        "/usr/bin/qemu-storage-daemon",
        *("--object", f"secret,id=key,file=/proc/self/fd/{KEY_FD}"),
        *("--blockdev", "driver=file,node-name=image,filename=/image,aio=threads,discard=unmap"),
        *("--blockdev", "driver=luks,node-name=clear,file=image,key-secret=key,discard=unmap"),
        *("--export", f"type=fuse,id={mark},node-name=clear,mountpoint=/dev/fd/{_FUSE_FD},writable=on,growable=off"),
    ]


def sandbox_command(uid: int, files: dict[str, tuple[str, Path]], sessions: dict[int, int]) -> list[str]:
    """What comes before a daemon's command line. It sees `files` under these names; for each FUSE session there is an empty
    regular file (from a descriptor that reads as nothing → the session's)."""
    sandbox = [
        *("bwrap", "--unshare-pid", "--as-pid-1", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--new-session"),
        *("--ro-bind", "/usr", "/usr", "--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64"),
        *("--symlink", "usr/bin", "/bin", "--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"),
        *("--proc", "/proc"),
        *(word for name, (how, path) in files.items() for word in (how, str(path), name)),
        *("--perms", "0755", "--dir", "/dev", "--dev-bind", "/dev/null", "/dev/null"),
        *("--perms", "0755", "--dir", "/dev/fd"),
    ]
    for empty, session in sessions.items():
        sandbox += ["--perms", "0444", "--file", str(empty), f"/dev/fd/{session}"]
    sandbox += [
        *("--remount-ro", "/", "--chdir", "/", "--clearenv", "--info-fd", str(INFO_FD)),
        *("--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "--cap-add", "CAP_SETPCAP"),
    ]
    privileges = [
        *("/usr/bin/setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups"),
        *("--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"),
    ]
    return sandbox + privileges


class QemuOpener:
    name = "qemu-storage-daemon"

    def __init__(self, paths: Paths) -> None:
        self._exports = paths.run / "exports"
        self._logs = paths.logs / "volumes"
        self._instance = paths.instance

    def prepare(self) -> None:
        for directory in (self._exports, self._logs):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def attach(self, project_id: ProjectId, image: Path, key: int, note: Note) -> tuple[Attached, int]:
        uid = uid_of(project_id)
        os.chown(image, uid, uid)
        export = self._export(project_id)
        export.touch(mode=0o600)
        attached = Attached()
        note(attached)
        session = -1
        try:
            # (1) A FUSE file system that only root may enter, whose daemon is whoever holds `session`.
            session = mount_session(f"cloister-{self._instance}", export)
            # (2) Its daemon. Our copy of the session is closed, so that the daemon's death breaks it.
            attached = self._start_daemon(project_id, image, key, session, note)
            os.close(session)
            session = -1
            self._require_daemon(project_id, attached)
            # (3) Opening waits until the daemon answers. A wrong key or a broken image ends it, which fails here.
            with _opened(export) as file:
                _spare_from_oom(attached)
                device, path = loop.attach(file)
        except BaseException as error:
            if session >= 0:
                os.close(session)
            self.detach(project_id, attached)
            if isinstance(error, OSError):
                raise InternalError(f"volume daemon: {error}: {self._last_words(project_id)}") from error
            raise
        attached = msgspec.structs.replace(attached, device=str(path))
        note(attached)
        return attached, device

    def detach(self, project_id: ProjectId, attached: Attached) -> None:
        export = self._export(project_id)
        # (1) The loop device goes when its last user lets go: wait for it, then insist.
        is_released = all(_is_released(device, export) for device in loop.standing_on(export))
        # (2) The FUSE file system: busy for a moment, until the loop device's reference is dropped.
        try:
            mounts.unmount(export, patience_s=_RELEASE_PATIENCE_S if is_released else 0)
        except OSError as error:
            log.warning("the export of %s stays busy (%s): detached", project_id, error)
            mounts.detach(export)
        # (3) The daemon, and with it the key.
        processes = [process for process in (attached.daemon, attached.launcher) if process is not None]
        if attached.daemon is None:
            # Nobody told who it is. If bwrap was killed early, its child waits for it for ever, with the key and the session.
            processes += self._find(project_id)
        for process in processes:
            end(process, project_id)
        export.unlink(missing_ok=True)

    def is_intact(self, project_id: ProjectId, attached: Attached) -> bool:
        if attached.daemon is None or not attached.daemon.is_alive():
            return False
        export = self._export(project_id)
        if loop.backing(Path(attached.device)) != export:
            return False
        return any(entry.mountpoint == export for entry in mounts.mounts_under(self._exports))

    def leftovers(self) -> set[ProjectId]:
        names = {entry.name for entry in self._exports.iterdir()} | {name for name, _process in self._daemons()}
        return {parse_project_id(name) for name in names}

    def _start_daemon(self, project_id: ProjectId, image: Path, key: int, session: int, note: Note) -> Attached:
        information, informer = os.pipe2(os.O_CLOEXEC)
        said = os.open(self._log(project_id), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        empty = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        descriptors = {2: said, KEY_FD: key, _FUSE_FD: session, INFO_FD: informer, _EMPTY_FD: empty}
        try:
            launcher = children.spawn(daemon_command(self._label(project_id), uid_of(project_id), image), descriptors)
            note(Attached(launcher=launcher))
            os.close(informer)
            informer = -1
            attached = Attached(launcher=launcher, daemon=daemon_of(information))
            note(attached)
        finally:
            for descriptor in (information, informer, said, empty):
                if descriptor >= 0:
                    os.close(descriptor)
        return attached

    def _find(self, project_id: ProjectId) -> list[ProcessRecord]:
        """The volume's processes by their command line, where no record tells."""
        return [process for name, process in self._daemons() if name == project_id]

    def _daemons(self) -> Iterator[tuple[str, ProcessRecord]]:
        """Every process of this platform's volume daemons."""
        return marked(f"type=fuse,id=cloister-{self._instance}-")

    def _require_daemon(self, project_id: ProjectId, attached: Attached) -> None:
        if attached.daemon is None:
            raise InternalError(f"volume daemon: its sandbox ended: {self._last_words(project_id)}")

    def _last_words(self, project_id: ProjectId) -> str:
        with contextlib.suppress(OSError):
            return self._log(project_id).read_text(errors="replace").strip()[-500:]
        return ""

    def _label(self, project_id: ProjectId) -> str:
        return f"cloister-{self._instance}-{project_id}"

    def _export(self, project_id: ProjectId) -> Path:
        return self._exports / project_id

    def _log(self, project_id: ProjectId) -> Path:
        return self._logs / f"{project_id}.log"


def marked(mark: str) -> Iterator[tuple[str, ProcessRecord]]:
    """Every process with an argument that begins with `mark`, and what follows there up to a comma. Only root and our own
    uids are looked at: a tenant can write whatever it likes into its command line."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, NotFoundError):  # it ended while it was looked at
            uid = entry.stat().st_uid
            if uid != 0 and not UID_FIRST <= uid < UID_FIRST + UID_COUNT:
                continue
            for argument in (entry / "cmdline").read_bytes().split(b"\0"):
                if argument.startswith(mark.encode()):
                    name = argument.decode().removeprefix(mark).partition(",")[0]
                    yield name, ProcessRecord.of(int(entry.name))


def mount_session(source: str, export: Path) -> int:
    """Mount a FUSE file system of one file on `export`: the session, whose holder answers for it. Only root may enter."""
    session = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    try:
        options = f"fd={session},rootmode=100000,user_id=0,group_id=0,default_permissions,max_read={_MAX_READ}"
        mounts.mount(source, export, "fuse", mounts.NOSUID | mounts.NODEV | mounts.NOEXEC, options)
    except BaseException:
        os.close(session)
        raise
    return session


def daemon_of(information: int) -> ProcessRecord | None:
    """Who the sandbox's process is, as bwrap tells before it starts it. None if it failed before."""
    text = b""
    while chunk := os.read(information, 4096):
        text += chunk
    try:
        return ProcessRecord.of(int(json.loads(text)["child-pid"]))
    except (ValueError, KeyError, NotFoundError):
        return None


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield file
    finally:
        os.close(file)


def _spare_from_oom(attached: Attached) -> None:
    """Best effort: it takes CAP_SYS_RESOURCE, which some containers withhold from root."""
    if attached.daemon is not None:
        with contextlib.suppress(PermissionError):
            Path(f"/proc/{attached.daemon.pid}/oom_score_adj").write_text(str(_OOM_SCORE))


def _is_released(device: Path, export: Path) -> bool:
    """Wait for it; False if somebody still holds it. It is of no use to them once the daemon is gone."""
    deadline = time.monotonic() + _RELEASE_PATIENCE_S
    while loop.backing(device) == export:
        if time.monotonic() >= deadline:
            log.warning("%s is still held: a mount namespace of somebody else has a copy of its mount", device)
            loop.release(device)
            return False
        time.sleep(0.0005)
    return True


def end(process: ProcessRecord, project_id: ProjectId) -> None:
    """Ask it to go, then insist. Raises InternalError if it is still there."""
    process.signal(signal.SIGTERM)
    if process.join(_EXIT_PATIENCE_S) is None:
        log.warning("the volume daemon of %s does not stop: killed", project_id)
        process.signal(signal.SIGKILL)
        if process.join(_EXIT_PATIENCE_S) is None:
            raise InternalError(f"process {process.pid} of the volume of {project_id} does not end")

"""The cluster that every new project starts as: made once per engine, copied ever after.

`initdb` takes seconds and is never run for a project. The template has a superuser of ours, a role and a database of
the tenant's, checksums, and was shut down cleanly. Three of its four databases are copies of template1, file for file:
on a file system with reflinks they take no room of their own, which is most of what makes a sleeping project small.
"""

import contextlib
import errno
import filecmp
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from cloister.base.durable import sync_filesystem
from cloister.base.errors import ExhaustedError, InternalError
from cloister.node.postgres.access import ADMIN_ROLE, READER_ROLE
from cloister.node.reflink import reflink

OWNER_ROLE: Final = "neondb_owner"
GROUP_ROLE: Final = "neon_superuser"
DATABASE: Final = "neondb"

_LEFT_OUT: Final = frozenset("postgresql.conf pg_hba.conf pg_ident.conf postmaster.pid postmaster.opts".split())
# Configuration lies outside the data directory; a second copy inside would only look as if it counted.

_ORIGINAL: Final = "base/1"
# template1, with the same number in every cluster.


class _Entry(msgspec.Struct, frozen=True):
    path: str
    same_as: str | None = None
    """An earlier file with the same content."""


class _Manifest(msgspec.Struct, frozen=True):
    directories: list[str]
    files: list[_Entry]


def initdb(binary: str, major: int) -> list[str]:
    """The command. Builtin collation since 17: it never changes with the host's C library, so no index is ever broken
    by an upgrade of it."""
    locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"] if major >= 17 else []
    return [
        *(binary, "-D", "/data", "-U", ADMIN_ROLE, "--encoding=UTF8", "--locale=C", *locale),
        *("--data-checksums", "--wal-segsize=1", "--auth=reject", "--no-instructions", "--no-sync"),
    ]


def first_statements(major: int) -> bytes:
    """For a single-user session: one statement per line.

    The platform's own sessions look names up in pg_catalog only and fire no event triggers, so nothing that a tenant
    creates is ever run by the superuser on the way."""
    statements = [
        f"CREATE ROLE {GROUP_ROLE} NOLOGIN CREATEDB CREATEROLE BYPASSRLS REPLICATION",
        f"GRANT pg_read_all_data, pg_write_all_data TO {GROUP_ROLE}",
        # As Neon grants them: statistics of the tenant's own server (extensions give theirs to pg_monitor), and the ending
        # of its own sessions, which never includes a superuser's. Both may be passed on.
        f"GRANT pg_monitor, pg_signal_backend TO {GROUP_ROLE} WITH ADMIN OPTION",
        f"CREATE ROLE {OWNER_ROLE} LOGIN CREATEDB CREATEROLE BYPASSRLS REPLICATION IN ROLE {GROUP_ROLE}",
        f"CREATE DATABASE {DATABASE} OWNER {OWNER_ROLE} STRATEGY file_copy",
        f"ALTER ROLE {ADMIN_ROLE} SET search_path = pg_catalog, pg_temp",
        f"CREATE ROLE {READER_ROLE} LOGIN IN ROLE pg_read_all_data",  # for pg_dump: node/dumps.py
    ]
    if major >= 17:
        statements.append(f"ALTER ROLE {ADMIN_ROLE} SET event_triggers = off")
    statements.append("CHECKPOINT")
    return "".join(f"{statement};\n" for statement in statements).encode()


def drop_maps(cluster: Path) -> None:
    """Take the free space and visibility maps away, of a cluster that was shut down: a quarter of its files, which every project
    would have and every branch would copy. PostgreSQL takes a map that is missing for one that knows nothing, and makes it
    anew where it has something to note: in the few catalogs that a tenant's work touches."""
    for path in (*cluster.glob("base/*/*"), *cluster.glob("global/*")):
        if path.name.endswith(("_fsm", "_vm")):
            path.unlink()


def write_manifest(cluster: Path, manifest: Path) -> None:
    """What is in the template, and which files are the same."""
    directories, files = [], []
    originals = {path.name: path for path in (cluster / _ORIGINAL).iterdir()}
    for path in _sorted_with_originals_first(cluster):
        name = str(path.relative_to(cluster))
        if path.is_dir():
            directories.append(name)
        elif name not in _LEFT_OUT:
            original = originals.get(path.name) if path.parent.parent.name == "base" else None
            is_same = original is not None and original != path and filecmp.cmp(original, path, shallow=False)
            files.append(_Entry(name, f"{_ORIGINAL}/{path.name}" if is_same and path.stat().st_size else None))
    manifest.write_bytes(msgspec.json.encode(_Manifest(sorted(directories), files)))


def copy(cluster: Path, manifest: Path, data_dir: Path, uid: int) -> None:
    """Fill `data_dir`, which must be new or empty, on any file system; when this returns it is on disk.

    Blocking: some hundred milliseconds. Raises ExhaustedError when the volume is full."""
    content = msgspec.json.decode(manifest.read_bytes(), type=_Manifest)
    try:
        data_dir.mkdir(mode=0o700, exist_ok=True)
        with _directory(data_dir) as target, _directory(cluster) as source:
            os.fchown(target, uid, uid)
            os.fchmod(target, 0o700)
            for name in content.directories:
                os.mkdir(name, 0o700, dir_fd=target)
                os.chown(name, uid, uid, dir_fd=target, follow_symlinks=False)
            for entry in content.files:
                _copy_file(source, target, entry, uid)
            sync_filesystem(data_dir)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ExhaustedError(f"{data_dir}: {error}", public="no space left for a new database") from error
        raise


def _copy_file(source: int, target: int, entry: _Entry, uid: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    out = os.open(entry.path, flags, 0o600, dir_fd=target)
    try:
        os.fchown(out, uid, uid)
        if entry.same_as is not None and _share(entry.same_as, target, out):
            return
        with _file(entry.path, source) as in_:
            size = os.fstat(in_).st_size
            while size > 0:
                if (sent := os.sendfile(out, in_, None, size)) == 0:
                    raise InternalError(f"the template's {entry.path} became shorter")
                size -= sent
    finally:
        os.close(out)


def _share(same_as: str, target: int, out: int) -> bool:
    """Let `out` share the blocks of an earlier copy. False where the file system cannot."""
    with _file(same_as, target) as original:
        return reflink(original, out)


@contextlib.contextmanager
def _directory(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def _file(name: str, dir_fd: int) -> Iterator[int]:
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        yield fd
    finally:
        os.close(fd)


def _sorted_with_originals_first(cluster: Path) -> list[Path]:
    return sorted(cluster.rglob("*"), key=lambda path: (not path.is_relative_to(cluster / _ORIGINAL), str(path)))

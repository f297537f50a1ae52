"""Who may read what in the state directory. The table of owners and modes is `app/layout.py`'s own."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloister.base.identities import SHARED_GROUP, Service, gid_of, uid_of
from cloister.base.settings import Paths
from cloister.cli.doctor.finding import Finding, Subject, fail, ok

PUBLIC: Final = frozenset({"ca.pem", "chain.pem"})
"""Files among the certificates that everybody may read: they hold no private key."""


@dataclass(frozen=True, slots=True)
class Seen:
    path: Path
    uid: int
    gid: int
    mode: int
    is_link: bool


def directories(subject: Subject) -> list[Finding]:
    from cloister.app import layout  # noqa: PLC0415 - heavy

    paths = subject.platform.paths
    problems = []
    for entry in layout.directories(paths):
        if not entry.path.exists() and entry.path.is_relative_to(paths.run.parent):
            continue  # gone after a reboot, made again by `cloister up`
        gid = _shared_gid() if entry.is_shared else gid_of(entry.owner)
        problems += decide(look(entry.path), uid_of(entry.owner), gid, entry.mode)
    return problems or [ok("directories", "each belongs to its service, with its mode")]


def secrets(subject: Subject) -> list[Finding]:
    from cloister.app import layout  # noqa: PLC0415 - heavy

    paths = subject.platform.paths
    expected = {entry.path: uid_of(entry.owner) for entry in layout.secret_files(paths)}
    expected[paths.admin_key] = 0
    problems: list[Finding] = []
    for path, uid in expected.items():
        problems += decide(look(path), uid, None, 0o600)
    for path in sorted(paths.secrets.iterdir()):
        if path not in expected:
            problems += decide(look(path), None, None, 0o600)
    for path in _private_certificates(paths):
        # The served key is read by the gateways and the API, through their common group.
        problems += decide(look(path), None, None, 0o640 if path.name == "key.pem" else 0o600)
    return problems or [
        ok("secret files", f"{len(expected)} keys and the certificates' keys, each for its owner alone")
    ]


def decide(seen: Seen, uid: int | None, gid: int | None, mode: int) -> list[Finding]:
    """Findings where an owner, a group or a mode is not what it must be. None: any will do."""
    problems = []
    if seen.is_link:
        problems.append(fail("files", f"{seen.path} is a symbolic link", "put the file itself there"))
    if uid is not None and seen.uid != uid:
        problems.append(fail("files", f"{seen.path} belongs to uid {seen.uid}", f"chown {uid} {seen.path}"))
    if gid is not None and seen.gid != gid:
        problems.append(fail("files", f"{seen.path} belongs to gid {seen.gid}", f"chgrp {gid} {seen.path}"))
    if seen.mode & ~mode:
        problems.append(fail("files", f"{seen.path} has mode {seen.mode:o}", f"chmod {mode:o} {seen.path}"))
    return problems


def look(path: Path) -> Seen:
    found = os.lstat(path)
    return Seen(path, found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode), stat.S_ISLNK(found.st_mode))


def _private_certificates(paths: Paths) -> list[Path]:
    """Links are left out: they point at files that are looked at where they lie (`trust/certificates/files.py`)."""
    found = (path for path in paths.certificates.rglob("*") if path.is_file() and not path.is_symlink())
    return sorted(path for path in found if path.name not in PUBLIC)


def _shared_gid() -> int:
    import grp  # noqa: PLC0415 - only here

    return grp.getgrnam(SHARED_GROUP).gr_gid


def users(_subject: Subject) -> list[Finding]:
    """Every service has a user of its own."""
    uids = {service: uid_of(service) for service in Service}
    if len(set(uids.values())) != len(uids) or any(
        uid == 0 for service, uid in uids.items() if service is not Service.AGENT
    ):
        return [fail("users", "two services share a Unix user", "give each of cloister-* a uid of its own")]
    return [ok("users", "a Unix user for each service")]

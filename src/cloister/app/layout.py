"""Makes what must exist before the first process starts: Unix users, directories, secrets. Idempotent; root only.

Every path's owner and mode is stated once, in `DIRECTORIES`; `cloister doctor` checks the same table.
"""

import contextlib
import grp
import os
import pwd
import secrets
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloister.base.durable import unfinished, write_durably
from cloister.base.errors import PreconditionError
from cloister.base.identities import SHARED_GROUP, Service, gid_of, uid_of
from cloister.base.settings import LAYOUT_VERSION, Paths, Settings, check_layout, save
from cloister.trust.keys.providers.file import write_private

SECRET_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Entry:
    """A directory or secret file, and who may touch it."""

    path: Path
    owner: Service
    mode: int
    is_shared: bool = False
    """Group is SHARED_GROUP instead of the owner's own."""


def directories(paths: Paths) -> list[Entry]:
    """Parents before children."""
    return [
        Entry(paths.state_dir, Service.AGENT, 0o755),
        Entry(paths.secrets, Service.AGENT, 0o711),
        Entry(paths.certificates, Service.AGENT, 0o755),
        Entry(paths.control_data, Service.DATABASE, 0o700),
        Entry(paths.notary, Service.KEYS, 0o755),
        Entry(paths.alerts, Service.SENTINEL, 0o700),
        Entry(paths.threats, Service.AGENT, 0o755),
        Entry(paths.keystore, Service.KEYS, 0o700),
        Entry(paths.epochs, Service.KEYS, 0o700),
        Entry(paths.volumes, Service.AGENT, 0o700),
        Entry(paths.courier, Service.COURIER, 0o700),
        Entry(paths.backups, Service.AGENT, 0o700),
        Entry(paths.engines, Service.AGENT, 0o755),
        Entry(paths.logs, Service.AGENT, 0o750),
        Entry(paths.run.parent, Service.AGENT, 0o755),
        Entry(paths.run, Service.AGENT, 0o755),
        Entry(paths.agent_run, Service.AGENT, 0o755),
        Entry(paths.keys_run, Service.KEYS, 0o755),
        Entry(paths.api_run, Service.API, 0o755),
        Entry(paths.gateway_run, Service.GATEWAY, 0o755),
        Entry(paths.egress_run, Service.EGRESS, 0o755),
        Entry(paths.courier_run, Service.COURIER, 0o755),
        Entry(paths.egress_doors, Service.AGENT, 0o755),
        Entry(paths.control_socket_dir, Service.DATABASE, 0o755),
        Entry(paths.mounts, Service.AGENT, 0o700),
        Entry(paths.computes, Service.AGENT, 0o750, is_shared=True),
    ]


def secret_files(paths: Paths) -> list[Entry]:
    return [
        Entry(paths.root_key, Service.KEYS, 0o600),
        Entry(paths.mock_key, Service.API, 0o600),
        Entry(paths.control_key, Service.API, 0o600),
    ]


def prepare(settings: Settings, given: Mapping[Path, bytes] | None = None) -> None:
    """Bring the host and the state directory to where the processes can start. `given` are secrets that are there already, elsewhere:
    they are written in place of random ones."""
    paths = settings.paths
    check_place(paths)
    _refuse_without_root_key(paths)
    create_users()
    # First of all whose directory it is: a start that is cut short must not leave one that the next refuses.
    paths.state_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
    write_durably(paths.layout_version, f"{LAYOUT_VERSION}\n".encode())
    for entry in directories(paths):
        entry.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        _own(entry)
    for entry in secret_files(paths):
        if entry.path != paths.root_key or not _has_other_roots(paths):
            _create_secret(entry, (given or {}).get(entry.path) or secrets.token_bytes(SECRET_BYTES))
    save(settings)


def check_place(paths: Paths) -> None:
    """Raises PreconditionError for a directory that is somebody else's, or another version's."""
    check_layout(paths)
    # What a start or a recovery leaves that was cut off before it had said whose directory this is.
    ours = {paths.recovering, unfinished(paths.layout_version)}
    if (
        paths.state_dir.exists()
        and not paths.layout_version.exists()
        and not ours.issuperset(paths.state_dir.iterdir())
    ):
        raise PreconditionError(public=f"{paths.state_dir} is not empty and not a Cloister state directory")


def _refuse_without_root_key(paths: Paths) -> None:
    """A new root key opens nothing that the old one wrapped: it is made before there is anything to wrap, and never
    again."""
    if (
        not _has_other_roots(paths)
        and not paths.root_key.exists()
        and paths.volumes.is_dir()
        and any(paths.volumes.iterdir())
    ):
        raise PreconditionError(public=f"{paths.root_key} is missing, and {paths.volumes} needs it: restore it")


def _has_other_roots(paths: Paths) -> bool:
    """The platform moved to another root key: the first may be gone for good."""
    return paths.key_providers.exists()


def create_users() -> None:
    """The group and the users of base/identities.py, as system accounts that nobody can log in to."""
    try:
        grp.getgrnam(SHARED_GROUP)
    except KeyError:
        _run(["groupadd", "--system", SHARED_GROUP])
    for service in Service:
        if service is Service.AGENT:
            continue
        try:
            pwd.getpwnam(service.value)
        except KeyError:
            group = ["--gid", SHARED_GROUP] if service in (Service.API, Service.GATEWAY) else ["--user-group"]
            _run(
                ["useradd", "--system", *group, "--no-create-home", "--home-dir", "/nonexistent",
                 "--shell", "/usr/sbin/nologin", service.value],
            )  # fmt: skip


def _own(entry: Entry) -> None:
    gid = grp.getgrnam(SHARED_GROUP).gr_gid if entry.is_shared else gid_of(entry.owner)
    os.chown(entry.path, uid_of(entry.owner), gid)
    os.chmod(entry.path, entry.mode)


def _create_secret(entry: Entry, content: bytes) -> None:
    """There whole or not at all, readable by their owner alone from the first moment, and on disk before
    anything is made that needs them. An existing file is left as it is."""
    with contextlib.suppress(FileExistsError):
        write_private(entry.path, content, uid=uid_of(entry.owner), gid=gid_of(entry.owner))


def _run(argv: list[str]) -> None:
    try:
        subprocess.run(argv, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise PreconditionError(public=f"{argv[0]} is not installed") from None
    except subprocess.CalledProcessError as error:
        raise PreconditionError(public=f"{argv[0]} failed: {error.stderr.strip()}") from error

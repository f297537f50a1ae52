"""Sessions that `cloister login` keeps for later commands: one file of the user's, a session for each platform.

The file holds keys that open what its owner opens, so it is made for its owner alone, and one that others may read is refused.
"""

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from cloister.base.durable import write_durably
from cloister.cli.failure import CommandError

_FILE: Final = "sessions.json"


@dataclass(frozen=True, slots=True)
class Kept:
    url: str
    """Of the platform's API."""
    key: str
    expires_at: str
    email: str
    ca_file: str | None

    def __repr__(self) -> str:
        return f"<Kept for {self.url}>"

    @property
    def is_over(self) -> bool:
        return datetime.fromisoformat(self.expires_at) <= datetime.now(UTC)


def find(environment: Mapping[str, str], url: str) -> Kept | None:
    """The session at that platform, which may be over."""
    return _read(_path(environment)).get(url)


def only(environment: Mapping[str, str]) -> Kept | None:
    """The one there is, if there is one alone."""
    match list(_read(_path(environment)).values()):
        case [kept]:
            return kept
        case _:
            return None


def keep(environment: Mapping[str, str], kept: Kept) -> None:
    path = _path(environment)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _write(path, {**_read(path), kept.url: kept})


def forget(environment: Mapping[str, str], url: str) -> None:
    path = _path(environment)
    _write(path, {other: it for other, it in _read(path).items() if other != url})


def _path(environment: Mapping[str, str]) -> Path:
    base = environment.get("XDG_CONFIG_HOME") or str(Path(environment.get("HOME") or "~").expanduser() / ".config")
    return Path(base) / "cloister" / _FILE


def _read(path: Path) -> dict[str, Kept]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}") from None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
            raise CommandError(f"{path} can be read by others than you: chmod 600 it, or remove it and log in again")
        text = file.read()
    try:
        entries: list[dict[str, Any]] = json.loads(text)
        return {entry["url"]: Kept(**entry) for entry in entries}
    except (ValueError, TypeError, KeyError):
        raise CommandError(f"{path} is not what `cloister login` wrote: remove it and log in again") from None


def _write(path: Path, kept: Mapping[str, Kept]) -> None:
    content = json.dumps([asdict(it) for it in kept.values()], indent=2).encode() + b"\n"
    write_durably(path, content, mode=0o600)

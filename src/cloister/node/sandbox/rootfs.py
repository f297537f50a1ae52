"""The root file system of a sandbox: the files that are named, the shared libraries they need, and nothing else.

Built once per engine into a directory that root owns, then bound read-only into every sandbox of that engine. A
library is found by asking the dynamic linker (`ldd`) about each executable and module. What is not copied does not
exist inside: no shell, no interpreter, no set-uid program, no host's /etc.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloister.base.durable import sync_filesystem
from cloister.base.errors import PreconditionError

_LDD_TIMEOUT_S: Final = 60
# A large installation with PostGIS has some 200 modules; ldd starts the linker once for each.

_ALSO_LOADED: Final = ("libgcc_s.so.1", "libnss_files.so.2")
# The C library loads these by name while it runs, for backtraces and, before glibc 2.34, to read /etc/passwd.

_RESOLVED: Final = re.compile(r"^\s+(?:\S+ => )?(/\S+) \(0x[0-9a-f]+\)$", re.MULTILINE)
_MISSING: Final = re.compile(r"^\s+(\S+) => not found$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What goes in, besides setpriv."""

    files: Mapping[Path, str]
    """File outside → path inside."""
    texts: Mapping[str, str]
    """Path inside → content."""
    directories: tuple[str, ...]
    """Places to mount on."""
    relocated: tuple[Path, str] | None = None
    """Libraries below this directory go below that path instead, so that relative search paths in them still hold."""


def build(target: Path, contents: Contents) -> None:
    """Make `target`, which must not exist. It appears complete, and on disk, or not at all."""
    setpriv = shutil.which("setpriv", path="/usr/bin:/bin")
    if setpriv is None:
        raise PreconditionError(public="setpriv is missing: install util-linux")
    files = {**contents.files, Path(setpriv): "/sbin/setpriv"}
    for library in _libraries([source for source in files if _is_elf(source)]):
        files.setdefault(library, _place(library, contents.relocated))

    temporary = target.with_name(target.name + ".new")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for source, inside in sorted(files.items()):
        _copy(source, _join(temporary, inside))
    for inside, text in contents.texts.items():
        place = _join(temporary, inside)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    for inside in (*contents.directories, "/dev"):
        _join(temporary, inside).mkdir(parents=True, exist_ok=True)
    for device in ("null", "urandom"):
        (temporary / "dev" / device).touch()
    for path in (temporary, *temporary.rglob("*")):
        path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) or ".so" in path.name else 0o644)
    sync_filesystem(temporary)
    temporary.replace(target)


def _libraries(binaries: list[Path]) -> Iterator[Path]:
    """Every library that any of them is linked with, as the linker finds it. The loader itself is among them."""
    done = subprocess.run(
        ["/usr/bin/ldd", *map(str, binaries)],
        capture_output=True,
        text=True,
        check=False,
        timeout=_LDD_TIMEOUT_S,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
    )
    if missing := _MISSING.findall(done.stdout):
        raise PreconditionError(
            public=f"a library of PostgreSQL is missing on this host: {', '.join(sorted(set(missing)))}"
        )
    found = {Path(os.path.normpath(text)) for text in _RESOLVED.findall(done.stdout)}
    yield from sorted(found)
    c_library = next((path for path in found if path.name == "libc.so.6"), None)
    if c_library is not None:
        yield from (path for name in _ALSO_LOADED if (path := c_library.with_name(name)).exists())


def _place(library: Path, relocated: tuple[Path, str] | None) -> str:
    if relocated is not None and library.is_relative_to(relocated[0]):
        return f"{relocated[1]}/{library.relative_to(relocated[0])}"
    return str(library)


def _copy(source: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, place)
    place.chmod(0o755 if os.access(source, os.X_OK) else 0o644)


def _join(root: Path, inside: str) -> Path:
    return root / inside.removeprefix("/")


def _is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def files_below(directory: Path, inside: str, *, skip: Iterable[re.Pattern[str]] = ()) -> dict[Path, str]:
    """All files of a tree with their places inside, but those whose name matches a pattern in `skip`."""
    patterns = tuple(skip)
    return {
        path: f"{inside}/{path.relative_to(directory)}"
        for path in sorted(directory.rglob("*"))
        if path.is_file() and not any(pattern.fullmatch(path.name) for pattern in patterns)
    }

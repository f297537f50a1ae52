"""Directories that change while a test looks at them: those of a platform that runs, and the kernel's own.

`Path.rglob` fails where a directory goes between being listed and being entered, be it another test's; these pass it over.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from cloister.base.settings import Paths

LARGEST = 256 << 20  # what is larger is the image of a volume, finished or not: encrypted, and mostly holes


def directories(top: Path) -> Iterator[Path]:
    """Every directory below `top`, and `top` itself."""
    for directory, _, _ in os.walk(top):
        yield Path(directory)


def contents(top: Path) -> Iterator[tuple[Path, bytes]]:
    """Every regular file below `top` with what is in it, but for the images of volumes; no link is followed."""
    for directory in directories(top):
        for path in _files(directory):
            with contextlib.suppress(FileNotFoundError):
                yield path, path.read_bytes()


def control_groups(paths: Paths) -> list[Path]:
    """A platform's own and those of its endpoints, in every hierarchy that the kernel has."""
    name = f"cloister-{paths.instance}"
    return [path for path in directories(Path("/sys/fs/cgroup")) if name in (path.name, path.parent.name)]


def clear(paths: Paths) -> None:
    """Takes away what a platform that has ended keeps outside of its state directory, for the next start."""
    shutil.rmtree(paths.run, ignore_errors=True)
    for group in sorted(control_groups(paths), reverse=True):
        with contextlib.suppress(OSError):
            group.rmdir()


def _files(directory: Path) -> Iterator[Path]:
    """A file that goes in between hides none of those after it."""
    with contextlib.suppress(FileNotFoundError), os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                if entry.is_file(follow_symlinks=False) and entry.stat().st_size <= LARGEST:
                    yield Path(entry)

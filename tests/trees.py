"""Directories that change while a test looks at them: those of a platform that runs, and the kernel's own.

`Path.rglob` fails where a directory goes between being listed and being entered, be it another test's; these pass it over.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

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


def _files(directory: Path) -> Iterator[Path]:
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir(directory):
            if entry.is_file(follow_symlinks=False) and entry.stat().st_size <= LARGEST:
                yield Path(entry)

"""Lets the unprivileged processes reach the code they run, wherever an operator put it, and nothing beside it.

Whoever clones Cloister as root into /root has Python, the engine and the source behind a directory that only root may
enter. Opening /root to everybody is not ours to do. Inside the platform's private mount namespace such a directory is
covered by an empty one that holds just what the platform needs, at the same paths: so the processes find their code, and
the rest of the operator's home is gone from their sight.
"""

import stat
import sys
from pathlib import Path

from cloister.app import kernel
from cloister.base.settings import Settings


def open_the_way(settings: Settings) -> list[Path]:
    """Cover every closed directory on the way to what the processes need. Returns the covered ones. To be called in the
    private mount namespace, before the first child starts."""
    needed = _needed(settings)
    covered = closed_directories(needed)
    for number, directory in enumerate(covered):
        kept = outermost([path for path in needed if path.is_relative_to(directory)])
        held: list[tuple[Path, Path]] = []
        for index, path in enumerate(kept):
            hold = settings.paths.run / "hold" / f"{number}-{index}"
            hold.mkdir(parents=True, exist_ok=True)
            kernel.bind(str(path), str(hold))
            held.append((hold, path))
        kernel.cover(str(directory))
        for hold, path in held:
            path.mkdir(parents=True)
            kernel.move(str(hold), str(path))
        kernel.seal(str(directory))
    return covered


def closed_directories(needed: list[Path]) -> list[Path]:
    """The outermost directories above `needed` that not everybody may enter."""
    closed = {
        next(parent for parent in [*reversed(path.parents)] if not _is_open(parent))
        for path in needed
        if not all(map(_is_open, path.parents))
    }
    return sorted(closed)


def outermost(paths: list[Path]) -> list[Path]:
    """Without those that lie in another of them."""
    return sorted({path for path in paths if not any(parent in paths for parent in path.parents)})


def _needed(settings: Settings) -> list[Path]:
    """Directories, with every symbolic link on the way resolved, and as named: both must lead there."""
    named = [Path(sys.prefix), Path(sys.base_prefix), *(Path(entry) for entry in sys.path if entry)]
    named += [Path(settings.state_dir)]
    named += [Path(file).parent for file in (settings.tls_cert_file, settings.tls_key_file) if file]
    return sorted({each for path in named if path.is_dir() for each in (path.absolute(), path.resolve())})


def _is_open(directory: Path) -> bool:
    return bool(directory.stat().st_mode & stat.S_IXOTH)

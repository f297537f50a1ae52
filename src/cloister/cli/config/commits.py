"""Which commit a file is of, as git says it; nothing where it cannot say."""

import re
import subprocess
from pathlib import Path
from typing import Final

_COMMIT: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_PATIENCE_S: Final = 20.0
# Of a working tree with very many files, on a slow disk.


def is_commit(text: str) -> bool:
    return _COMMIT.fullmatch(text) is not None


def commit_of(path: Path) -> str:
    """Empty unless the path is in a working tree, and in it as it was committed: a file that was changed since is no commit's."""
    directory = path if path.is_dir() else path.parent
    head = _git(directory, "rev-parse", "--verify", "HEAD")
    tracked = _git(directory, "ls-files", "--", str(path.resolve()))
    changed = _git(directory, "status", "--porcelain", "--untracked-files=all", "--", str(path.resolve()))
    if head is None or not tracked or changed != "":
        return ""
    return head if is_commit(head) else ""


def _git(directory: Path, *words: str) -> str | None:
    try:
        # Without a monitor that the working tree's own configuration may name: it would be a program of whoever wrote that.
        done = subprocess.run(
            ["git", "--no-optional-locks", "-c", "core.fsmonitor=false", "-C", str(directory), *words],
            capture_output=True,
            check=True,
            text=True,
            timeout=_PATIENCE_S,
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout.strip()

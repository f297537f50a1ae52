"""Which commit a file is of, as git says it; nothing where it cannot say.

Git is asked what the commit has, never what the working tree has: for that it runs programs that the tree's own
configuration names (a monitor, a filter), and believes an index that says a file is unchanged. The files are read here. Nor is an
object taken that the repository has put in another's place (git-replace): its name would be the other's.
"""

import fnmatch
import glob
import hashlib
import os
import re
import subprocess
from pathlib import Path
from typing import Final

_COMMIT: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_FILE: Final = re.compile(r"100(?:644|755) blob ([0-9a-f]+)\t(.+)", re.DOTALL)
_HASHES: Final = {40: "sha1", 64: "sha256"}
"""Which a repository counts in, by the digits of its names."""

_PATIENCE_S: Final = 20.0
# Of a working tree with very many files, on a slow disk.


def is_commit(text: str) -> bool:
    return _COMMIT.fullmatch(text) is not None


def commit_of(path: Path) -> str:
    """Empty unless the path is in a working tree, and in it as it was committed, to the byte: of a directory, all its .toml
    files. A file that was changed since is no commit's."""
    path = path.resolve()
    directory, names = (path, "*.toml") if path.is_dir() else (path.parent, glob.escape(path.name))
    head = _git(directory, "rev-parse", "--verify", "HEAD")
    if head is None or not is_commit(head):
        return ""
    entries = (_git(directory, "ls-tree", "-z", head) or "").split("\0")
    files = {found[2]: found[1] for each in entries if (found := _FILE.fullmatch(each))}
    committed = {name: blob for name, blob in files.items() if fnmatch.fnmatchcase(name, names)}
    try:
        there = {each.name: _blob(each, _HASHES[len(head)]) for each in directory.glob(names)}
    except OSError:
        return ""
    return head if there and there == committed else ""


def tree_of(path: Path) -> Path | None:
    """The working tree that the path is in."""
    path = path.resolve()
    top = _git(path if path.is_dir() else path.parent, "rev-parse", "--show-toplevel")
    return None if top is None else Path(top)


def raw_commit(path: Path, commit: str) -> bytes | None:
    """The commit of that name, to the byte. None where it is not there, or is not what its name says."""
    raw = _asked(path if path.is_dir() else path.resolve().parent, "cat-file", "commit", commit)
    if raw is None:
        return None
    algorithm = _HASHES[len(commit)]
    name = hashlib.new(algorithm, b"commit %d\0" % len(raw) + raw, usedforsecurity=False).hexdigest()
    return raw if name == commit else None


def is_in_history(path: Path, commit: str) -> bool:
    """Whether it is the commit that is checked out, or came before it."""
    return (
        _asked(path if path.is_dir() else path.resolve().parent, "merge-base", "--is-ancestor", commit, "HEAD")
        is not None
    )


def _blob(file: Path, algorithm: str) -> str:
    """The name that git has for these bytes."""
    with file.open("rb") as content:
        digest = hashlib.new(algorithm, b"blob %d\0" % os.fstat(content.fileno()).st_size, usedforsecurity=False)
        while block := content.read(2**16):
            digest.update(block)
    return digest.hexdigest()


def _git(directory: Path, *words: str) -> str | None:
    said = _asked(directory, *words)
    try:
        return None if said is None else said.decode().strip()
    except UnicodeDecodeError:
        return None


def _asked(directory: Path, *words: str) -> bytes | None:
    try:
        # Nothing is fetched, should an object not be there: that, too, is by a program that a configuration can name.
        done = subprocess.run(
            ["git", "--no-optional-locks", "--no-replace-objects", "-C", str(directory), *words],
            env={**os.environ, "GIT_ALLOW_PROTOCOL": "none"},
            capture_output=True,
            check=True,
            timeout=_PATIENCE_S,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout

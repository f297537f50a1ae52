"""From the api, which writes it, to whoever stops the platform: how far the api is with what no backup has yet.

The api's user owns the file and its directory, and root reads it. So what is there may be anything that whoever took over the api put
there: it is opened as a file of limited size, and told only as far as it is what it should be.
"""

import contextlib
import logging
from pathlib import Path
from typing import Final

import msgspec

from cloister.base.durable import write_durably
from cloister.base.errors import InvalidIdError, PreconditionError
from cloister.base.ids import parse_project_id
from cloister.control.backups.owed import LEFT_MAX, PROBLEM_CHARS_MAX, Left, Owed
from cloister.node.timelines import tree

log = logging.getLogger(__name__)

BYTES_MAX: Final = 128 * 1024
# LEFT_MAX problems of PROBLEM_CHARS_MAX characters, however they are encoded.

UNKNOWN: Final = (
    "warning: whether what was written last is in the store is not known, for the api did not say. "
    "The next `cloister up` sends what is not."
)


def write(path: Path, owed: Owed) -> None:
    """Somebody may read it, and nothing depends on it."""
    try:
        write_durably(path, msgspec.json.encode(owed), mode=0o600)
    except OSError as error:
        log.warning("%s cannot be written: %s", path, error)


def forget(path: Path) -> None:
    """That of an earlier stop."""
    with contextlib.suppress(OSError):
        path.unlink()


def read(path: Path) -> Owed | None:
    """None where there is nothing that could be told.

    1. No link is followed, nothing is waited for (a FIFO), and what is not a plain file is not read.
    2. Nor is one of more than BYTES_MAX.
    3. It has the one form, with numbers that go together.
    """
    try:
        with tree.opened(path.parent) as directory:
            content = tree.read_small(path.name, directory, BYTES_MAX)  # 1. and 2.
        if content is None:
            return None
        owed = msgspec.json.decode(content, type=Owed)  # 3.
    except (OSError, PreconditionError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
    is_possible = 0 <= owed.sent <= owed.total and len(owed.left) == min(owed.total - owed.sent, LEFT_MAX)
    return owed if is_possible else None


def progress(owed: Owed) -> str:
    return f"Sending what was written since the last backup: {owed.sent} of {owed.total}"


def outcome(owed: Owed | None) -> list[str]:
    """What whoever stopped the platform has to know, a line each. Nothing, where nothing was owed."""
    if owed is None:
        return [UNKNOWN]
    if not owed.total:
        return []
    if not owed.left:
        return [f"What was written since the last backup is in the store, of {_branches(owed.total)}."]
    problems: dict[str, str] = {}
    for each in owed.left:
        problems.setdefault(_name(each), _problem(each))
    more = owed.total - owed.sent - len(owed.left)
    return [
        f"warning: of {_branches(owed.total - owed.sent)} what was written last is not in the store, and on this server alone:",
        *(f"  {name}: {problem}" for name, problem in problems.items()),
        *([f"  and {more} more"] if more else []),
        "The next `cloister up` sends it.",
    ]


def _branches(count: int) -> str:
    return "one branch" if count == 1 else f"{count} branches"


def _name(left: Left) -> str:
    try:
        return parse_project_id(left.project_id)
    except InvalidIdError:
        return "?"


def _problem(left: Left) -> str:
    """Something that a store said may be in it."""
    shown = "".join(it if it.isprintable() else "?" for it in left.problem[:PROBLEM_CHARS_MAX])
    return shown or "it was cut off"

"""Files with secrets in them, which root writes on the server, and one service reads.

What is changed in them is in the log before it is so, and nothing is told there that could not be: what is new lies on the disk by then, and
is only given its name. If even that fails, a second event says so.
"""

import asyncio
import contextlib
import os
import secrets
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

from cloister.base.errors import CloisterError
from cloister.base.identities import Service, gid_of, uid_of
from cloister.base.settings import Settings
from cloister.cli.failure import CommandError

Note = Callable[[str, str], Coroutine[Any, Any, None]]
"""Record the change, with its outcome and the reason for that."""


def noted(settings: Settings, action: str, resource: str, **details: object) -> Note:
    """Of something that root does on the server, by whom as far as sudo tells."""
    from cloister.base.database.owner import connected  # noqa: PLC0415 - heavy
    from cloister.trust.audit import Action, Event, record  # noqa: PLC0415 - heavy

    async def note(outcome: str, reason: str) -> None:
        event = Event(
            action=Action(action),
            actor="platform:root",
            outcome=outcome,
            resource=resource,
            reason=reason,
            details={**details, "uid": os.environ.get("SUDO_UID", "0")},
        )
        async with connected(settings) as database, database.transaction() as tx:
            await record(tx, event)

    return note


def write(path: Path, content: bytes, *, owner: Service, note: Note | None = None) -> None:
    """Whole or not at all, and nobody's to read but the service's from the first moment."""
    with _ready(path, content, owner) as put:
        if note is None:
            put()
        else:
            _recorded(path, put, note)


def remove(path: Path, *, note: Note) -> None:
    _recorded(path, lambda: path.unlink(missing_ok=True), note)


@contextlib.contextmanager
def _ready(path: Path, content: bytes, owner: Service) -> Iterator[Callable[[], None]]:
    """On disk, and not in its place until what is given here is called. If it never is, nothing is left."""
    # The directory is the service's: a link that it put there is not followed, and an old file of that name is not reused.
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    temporary = f".{path.name}.{secrets.token_hex(4)}"
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(temporary, flags, 0o600, dir_fd=directory), "wb") as file:
            os.fchown(file.fileno(), uid_of(owner), gid_of(owner))
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield lambda: os.rename(temporary, path.name, src_dir_fd=directory, dst_dir_fd=directory)
        os.fsync(directory)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=directory)
        os.close(directory)


def _recorded(path: Path, change: Callable[[], None], note: Note) -> None:
    asyncio.run(note("ok", ""))
    try:
        change()
    except OSError as error:
        reason = error.strerror or str(error)
        with contextlib.suppress(CloisterError):  # What was wanted is in the log.
            asyncio.run(note("failed", reason))
        raise CommandError(f"nothing was changed: {path}: {reason}") from error

"""Checkpoints in a store that keeps them: what holds the log to its past when all of the server was put back.

    checkpoints/<size, 19 digits>-<root, 64 hex digits>        the signed note

The name says what the note says, so that a listing is enough to hold the log to all of them. A name that somebody invented can
raise a false alarm, which its note then shows, for nobody has signed it; it can hide nothing.
"""

import logging
import re
from dataclasses import dataclass
from typing import Final

from cloister.base.errors import ConflictError, UnavailableError
from cloister.protocol.merkle.notes import Checkpoint, NoteError, SignedTree, VerifierKey
from cloister.trust.sending.s3 import Bucket

log = logging.getLogger(__name__)

FOLDER: Final = "checkpoints/"

_NAME: Final = re.compile(r"(\d{19})-([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Seen:
    """A checkpoint by its name; what its note says is not known yet."""

    checkpoint: Checkpoint
    key: str
    version: str


def name_of(checkpoint: Checkpoint) -> str:
    return f"{FOLDER}{checkpoint.size:019}-{checkpoint.root.hex()}"


async def seen(bucket: Bucket, prefix: str, origin: str, *, beyond: int = -1) -> list[Seen]:
    """Every one that was ever put there, the smallest tree first; only of trees larger than `beyond`."""
    place = prefix + FOLDER
    found = [
        Seen(Checkpoint(origin, int(match[1]), bytes.fromhex(match[2])), each.key, each.version)
        for each in await bucket.versions(place, after="" if beyond < 0 else f"{place}{beyond:019}~")
        if (match := _NAME.fullmatch(each.key.removeprefix(place)))
    ]
    return sorted(found, key=lambda each: each.checkpoint.size)


async def confirm(bucket: Bucket, each: Seen, key: VerifierKey) -> str:
    """Until when nobody can delete it. Raises ConflictError where its note does not say what its name says, or is not signed
    by `key`, or can be deleted."""
    answer = await bucket.get(each.key, each.version)
    try:
        opened = key.opened(answer.body.decode("utf-8", "replace"))
    except NoteError as error:
        raise ConflictError(public=f"{each.key}: {error}") from error
    if opened != each.checkpoint:
        raise ConflictError(public=f"{each.key}: its note is of {opened.size} events with another root")
    if answer.headers.get("x-amz-object-lock-mode") != "COMPLIANCE":
        raise ConflictError(public=f"{each.key} is not locked: whoever may delete there can take it away")
    return answer.headers.get("x-amz-object-lock-retain-until-date", "")


async def put(bucket: Bucket, prefix: str, signed: SignedTree, *, retain_days: int) -> None:
    """The checkpoint of `signed`. Raises ConflictError where there is one of a larger tree, signed by the same key: then what was
    signed now is not the log that was signed before. Who may not list there does not hear of that."""
    key = VerifierKey.parse(signed.key)
    checkpoint = key.opened(signed.note)
    await bucket.put(prefix + name_of(checkpoint), signed.note.encode(), kind="text/plain", retain_days=retain_days)
    try:
        later = await seen(bucket, prefix, key.name, beyond=checkpoint.size)
    except UnavailableError as error:
        log.info("%s is not listed: %s", bucket.url, error.public)
        return
    for each in reversed(later):
        try:
            await confirm(bucket, each, key)
        except ConflictError:
            continue  # somebody's invention
        raise ConflictError(
            public=f"has a checkpoint of {each.checkpoint.size} events, and {checkpoint.size} are signed here: "
            "the log was rolled back"
        )

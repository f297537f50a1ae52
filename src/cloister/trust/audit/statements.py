"""The statement log: what a project's clients executed, in sealed segments that the audit log vouches for.

A segment is some seconds of one project's statements, compressed and encrypted with a key of the project's own. In the
transaction that writes it an event `statements.seal` is appended, with the segment's SHA-256: so the log's chain, tree and
checkpoints cover every statement, at one event for up to a thousand. `opened` holds each segment to its event.

What it finds: a segment that was edited, or that another was put in place of (the digest is another), one that was taken
away (its event is there). Who may change both has to get past `cloister audit verify`.
"""

import hashlib
import secrets
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from cloister.base.database import Transaction
from cloister.base.directory import StatementRecord
from cloister.base.errors import ConflictError
from cloister.base.secret import Secret
from cloister.trust.audit.actions import Action
from cloister.trust.audit.events import Event
from cloister.trust.audit.log import record

_NONCE_BYTES: Final = 12
_PLAIN_BYTES_MAX: Final = 64 * 1024 * 1024
# Of a segment, unpacked. A gateway's batch has at most a few megabytes.

SEGMENTS_MAX: Final = 64
PAGE_BYTES_MAX: Final = 2 * 1024 * 1024
# Read at once, of segments and of what is in them: nobody can search what is encrypted, so all of it is opened. A page has one
# segment at least, and may have fewer than were asked for.


class Sealer:
    """Opens and closes segments. The key is derived for the project, and its id is bound to what is sealed."""

    def __init__(self, key: Secret[bytes]) -> None:
        self._key = key

    def seal(self, project_id: str, statements: Sequence[StatementRecord]) -> bytes:
        plain = b"\n".join(msgspec.json.encode(each) for each in statements)
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._cipher(project_id).encrypt(nonce, zlib.compress(plain, 6), project_id.encode())

    def open(self, project_id: str, body: bytes) -> list[StatementRecord]:
        """Raises ConflictError if it is not what was sealed."""
        return self.open_sized(project_id, body)[0]

    def open_sized(self, project_id: str, body: bytes) -> tuple[list[StatementRecord], int]:
        """And how many bytes they were. Raises ConflictError."""
        try:
            packed = self._cipher(project_id).decrypt(body[:_NONCE_BYTES], body[_NONCE_BYTES:], project_id.encode())
            plain = zlib.decompressobj().decompress(packed, _PLAIN_BYTES_MAX)
            return [msgspec.json.decode(line, type=StatementRecord) for line in plain.split(b"\n")], len(plain)
        except (InvalidTag, ValueError, zlib.error, msgspec.MsgspecError):
            raise ConflictError(public="a segment of the statement log does not open: it was changed") from None

    def _cipher(self, project_id: str) -> AESGCM:
        info = b"cloister statement log 1\0" + project_id.encode()
        return AESGCM(HKDF(SHA256(), 32, salt=None, info=info).derive(self._key.reveal()))


async def keep(
    tx: Transaction,
    sealer: Sealer,
    statements: Mapping[str, Sequence[StatementRecord]],
    gaps: Sequence[Event] = (),
    *,
    source: str,
) -> None:
    """One segment for each project, and their events, and those of what had to be given up. The last thing to do in a
    transaction, as any recording. Projects must exist. `source` is whose word it is: a gateway's, or a compute's guard's."""
    events = [*gaps]
    for project_id, some in statements.items():
        body = sealer.seal(project_id, some)
        number = await tx.fetch_value(
            "INSERT INTO statement_segment (project_id, statements, body) VALUES ($1, $2, $3) RETURNING id",
            project_id,
            len(some),
            body,
        )
        details = {
            "statements": len(some),
            "first_at": min(each.at for each in some),
            "last_at": max(each.at for each in some),
            "sha256": hashlib.sha256(body).hexdigest(),
        }
        events.append(
            Event(
                action=Action.STATEMENTS_SEAL,
                actor=source,
                project_id=project_id,
                resource=f"segment/{number}",
                details=details,
            )
        )
    await record(tx, *events)


def gap(source: str, project_id: str, count: int | None, *, endpoint_id: str = "", reason: str = "no_room") -> Event:
    """So many statements were not kept; None: nobody knows how many."""
    return Event(
        action=Action.STATEMENTS_GAP,
        actor=source,
        outcome="failed",
        project_id=project_id,
        endpoint_id=endpoint_id,
        reason=reason,
        details={} if count is None else {"statements": count},
    )


@dataclass(frozen=True, slots=True)
class Segment:
    id: int
    statements: list[StatementRecord]


@dataclass(frozen=True, slots=True)
class Sealed:
    """A segment as it lies in the table, and what its event says of it; None for what is not there."""

    id: int
    body: bytes | None
    sha256: str | None


async def find(tx: Transaction, project_id: str, *, before: int | None, limit: int) -> list[Sealed]:
    """A page of segments, newest first, and of events whose segment is gone."""
    rows = await tx.fetch(
        """SELECT id, body, sha256
             FROM (SELECT coalesce(s.id, e.id) AS id, s.body, e.sha256,
                          sum(octet_length(s.body)) OVER newer - octet_length(s.body) AS bytes_before
                     FROM (SELECT substr(body::jsonb ->> 'resource', 9)::bigint AS id,
                                  body::jsonb -> 'details' ->> 'sha256' AS sha256
                             FROM audit_event
                            WHERE project_id = $1 AND action = $2
                              AND body::jsonb ->> 'resource' ~ '^segment/[0-9]{1,18}$') e
                     FULL JOIN (SELECT id, body FROM statement_segment WHERE project_id = $1) s ON s.id = e.id
                    WHERE $3::bigint IS NULL OR coalesce(s.id, e.id) < $3
                   WINDOW newer AS (ORDER BY coalesce(s.id, e.id) DESC)) page
            WHERE coalesce(bytes_before, 0) < $5
            ORDER BY id DESC LIMIT $4""",
        project_id,
        Action.STATEMENTS_SEAL.value,
        before,
        max(1, min(limit, SEGMENTS_MAX)),
        PAGE_BYTES_MAX,
    )
    return [Sealed(row["id"], row["body"], row["sha256"]) for row in rows]


def opened(sealer: Sealer, project_id: str, page: Sequence[Sealed]) -> list[Segment]:
    """As many of them, from the newest on, as an answer has; each held to its event in the audit log. It computes for some ten
    milliseconds: for a thread. Raises ConflictError for the first that is not what was sealed, or that was taken away."""
    found: list[Segment] = []
    size = 0
    for each in page:
        if size >= PAGE_BYTES_MAX:
            break
        if each.body is None:
            raise ConflictError(public=f"segment {each.id} of the statement log was sealed, and is gone")
        if each.sha256 != hashlib.sha256(each.body).hexdigest():
            raise ConflictError(public=f"segment {each.id} of the statement log is not what was sealed")
        statements, length = sealer.open_sized(project_id, each.body)
        found.append(Segment(each.id, statements))
        size += length
    return found

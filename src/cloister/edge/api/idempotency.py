"""`Idempotency-Key`: a repeated request gets the first one's answer instead of a second effect.

One row per account and key (table idempotent_answer), reserved before the work begins and filled in when its answer is
known. The same key with the same request gets the same answer for a day, the password shown once included, which is why
the answer is kept encrypted. What must stay true: one key never has two effects. So a reservation whose request died
without an answer is not taken over; the client is told to look and to use another key.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from cryptography.exceptions import InvalidTag

from cloister.base.database import Database
from cloister.base.errors import BadRequestError, ConflictError, InternalError, UnprocessableError
from cloister.base.sealing import Sealer
from cloister.base.secret import Secret
from cloister.trust.access.principals import Holder, Principal

KEPT_FOR: Final = timedelta(days=1)

KEY_CHARS_MAX: Final = 255
# What the Idempotency-Key draft and the services that use it agree on.

_DOMAIN: Final = b"cloister idempotent answer 1\0"


@dataclass(frozen=True, slots=True)
class Slot:
    """Which answer: whose, under which key, to which request."""

    account_id: UUID
    key: str
    digest: bytes

    @classmethod
    def of(cls, principal: Principal, key: str, *, method: str, target: bytes, body: bytes) -> "Slot":
        """Raises BadRequestError for a key that is not 1 to 255 printable ASCII characters. An organization's key has
        slots of its own: it must not be given what was answered to the person who made it, nor they what it was."""
        if not 1 <= len(key) <= KEY_CHARS_MAX or not key.isascii() or not key.isprintable():
            raise BadRequestError(public=f"Idempotency-Key must be 1 to {KEY_CHARS_MAX} printable ASCII characters")
        digest = hashlib.sha256()
        for part in (method.encode(), target, body):
            digest.update(len(part).to_bytes(8, "big") + part)
        if principal.holder is not Holder.PERSON:
            key = f"{principal.actor}\n{key}"  # no key of a person's has a line break
        return cls(principal.account_id, key, digest.digest())

    @property
    def bound_to(self) -> bytes:
        """The associated data of the encryption: an answer moved to another row does not decrypt."""
        return _DOMAIN + self.account_id.bytes + self.digest + self.key.encode()


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes
    version: str = ""
    """Of the thing it is about. Not kept: what is made anew has none to compare."""


class Answers:
    """`key` is 32 random bytes that stay on this host; without them the table's bodies are noise."""

    def __init__(self, database: Database, key: Secret[bytes]) -> None:
        self._database = database
        self._sealer = Sealer(key.reveal())

    async def begin(self, slot: Slot, now: datetime) -> Answer | None:
        """None: the slot is ours, do the work, then `finish` or `abandon`. An answer: give that one.

        Raises UnprocessableError when the key was used for another request, ConflictError when its request is still
        under way or died.
        """
        async with self._database.transaction() as tx:
            ours = await tx.fetch_value(
                """INSERT INTO idempotent_answer AS held (account_id, key, request_digest, created_at)
                   VALUES ($1, $2, $3, $4)
                   ON CONFLICT (account_id, key) DO UPDATE
                   SET request_digest = EXCLUDED.request_digest, status = NULL, body = NULL,
                       created_at = EXCLUDED.created_at
                   WHERE held.created_at <= $5
                   RETURNING true""",
                slot.account_id,
                slot.key,
                slot.digest,
                now,
                now - KEPT_FOR,
            )
            if ours:
                return None
            row = await tx.fetch_row(
                "SELECT request_digest, status, body FROM idempotent_answer WHERE account_id = $1 AND key = $2",
                slot.account_id,
                slot.key,
            )
        if row is None:
            raise ConflictError(public="a request with this Idempotency-Key has just failed: repeat it")
        if row["request_digest"] != slot.digest:
            raise UnprocessableError(public="this Idempotency-Key was used for another request")
        if row["status"] is None:
            raise ConflictError(
                public="a request with this Idempotency-Key is under way, or was interrupted: "
                "look at what exists before you repeat it with another key"
            )
        return Answer(row["status"], self._decrypt(slot, row["body"]))

    async def finish(self, slot: Slot, answer: Answer) -> None:
        sealed = self._sealer.seal(answer.body, slot.bound_to)
        async with self._database.transaction() as tx:
            await tx.execute(
                """UPDATE idempotent_answer SET status = $4, body = $5
                   WHERE account_id = $1 AND key = $2 AND request_digest = $3 AND status IS NULL""",
                slot.account_id,
                slot.key,
                slot.digest,
                answer.status,
                sealed,
            )

    async def abandon(self, slot: Slot) -> None:
        """Nothing was done: the key is free again."""
        async with self._database.transaction() as tx:
            await tx.execute(
                """DELETE FROM idempotent_answer
                   WHERE account_id = $1 AND key = $2 AND request_digest = $3 AND status IS NULL""",
                slot.account_id,
                slot.key,
                slot.digest,
            )

    async def sweep(self, now: datetime) -> int:
        """Forget what is older than a day; returns how many."""
        async with self._database.transaction() as tx:
            return await tx.execute("DELETE FROM idempotent_answer WHERE created_at <= $1", now - KEPT_FOR)

    def _decrypt(self, slot: Slot, sealed: bytes) -> bytes:
        try:
            return self._sealer.open(sealed, slot.bound_to)
        except InvalidTag:
            raise InternalError("a kept answer does not decrypt: other key, or the row was changed") from None

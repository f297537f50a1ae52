"""Passkeys, challenges, and acts that take one."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from cloister.base.errors import ForbiddenError
from cloister.base.ids import OrgId
from cloister.protocol.webauthn import Credential

CHALLENGE_BYTES: Final = 32
CHALLENGE_LASTS: Final = timedelta(minutes=5)
# To find the security key and type its PIN.

PASSKEYS_MAX: Final = 16
# Of one account: a key ring and a drawer.
NAME_CHARS_MAX: Final = 64


class PasskeyRefusedError(ForbiddenError):
    """`why`, a stable word, is for the audit log."""

    def __init__(self, why: str, detail: str, *, public: str) -> None:
        super().__init__(detail, public=public)
        self.why = why


@dataclass(frozen=True, slots=True, kw_only=True)
class Passkey:
    id: UUID
    account_id: UUID
    name: str
    credential: Credential
    created_at: datetime
    last_used_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivilegedRequest:
    """A privileged act, as the front door met it."""

    act: str
    """What it is, in words that whoever signs is shown."""
    target: str
    """To what: method and path."""
    request: bytes
    """SHA-256 of the request to the last byte."""
    org_id: OrgId | None
    """In whose name. None: the caller's own, or the platform's."""
    always: bool
    """It takes a passkey even of somebody who has none yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """A challenge that was given out, as its row has it."""

    account_id: UUID
    key_id: int
    request: bytes | None
    """None: to make a passkey."""
    act: str
    target: str
    address: str
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """What a browser is told: sign this with one of these."""

    challenge: bytes
    rp_id: str
    passkeys: tuple[bytes, ...]
    """Their credentials' ids."""
    act: str
    target: str
    address: str
    """From where it was asked for."""
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Creation:
    """What a browser is told: make one for this account, with an authenticator that has none of these."""

    challenge: bytes
    rp_id: str
    account_id: UUID
    email: str
    name: str
    passkeys: tuple[bytes, ...]
    address: str
    expires_at: datetime

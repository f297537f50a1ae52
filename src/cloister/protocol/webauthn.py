"""Passkeys (Web Authentication Level 3), as the relying party sees them: what a browser brings when one is made, and when one
signs. Pure: challenges, what is known of a passkey, and our own name are arguments.

`fido2` reads what an authenticator wrote and knows the curves; which checks there are, and in which order, stands here. What stays
with others: that a challenge was given out by us, to whom and for what, and that it is used once (`control/passkeys`).
What must stay true: whatever the bytes, the outcome is a value or a PasskeyError.

The library is imported by whoever meets a passkey: a platform without any does not hold it.
"""

import hmac
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from fido2.webauthn import AuthenticatorData, CollectedClientData

ALGORITHMS: Final = (-7, -8, -257)
"""COSE's numbers of ES256, EdDSA and RS256: what authenticators that people have can sign with, the best first."""

CREDENTIAL_ID_BYTES_MAX: Final = 1023
# The specification's own limit.
CLIENT_DATA_BYTES_MAX: Final = 2048
# Type, challenge, origin: browsers write some 200, and may add what they like.
ATTESTATION_BYTES_MAX: Final = 16 * 1024
# None is asked for; an authenticator that sends its certificates all the same fits.
AUTHENTICATOR_DATA_BYTES_MAX: Final = 1024
SIGNATURE_BYTES_MAX: Final = 1024
# RSA with 4096 bits has 512.

_UNREADABLE: Final = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError, struct.error)
"""What reading hostile JSON, CBOR or COSE may raise in the library."""

_BACKED_UP_THOUGH_NOT_ELIGIBLE: Final = "says that it is backed up, and that it cannot be"


class PasskeyError(Exception):
    """The text is for our log and the audit: `why`, a stable word, and what was wrong."""

    def __init__(self, why: str, text: str) -> None:
        super().__init__(text)
        self.why = why


@dataclass(frozen=True, slots=True)
class Credential:
    """A passkey as its authenticator made it."""

    id: bytes
    public_key: bytes
    """COSE, in CBOR."""
    sign_count: int
    """How often it had signed, where it counts; 0 where it does not (one that is on several devices cannot)."""


@dataclass(frozen=True, slots=True)
class Registration:
    """What a browser brings when a passkey was made."""

    client_data: bytes
    attestation_object: bytes


@dataclass(frozen=True, slots=True)
class Assertion:
    """What a browser brings when a passkey has signed."""

    credential_id: bytes
    client_data: bytes
    authenticator_data: bytes
    signature: bytes


def challenge_of(client_data: bytes) -> bytes:
    """The challenge that it answers, if it is to be believed. Raises PasskeyError."""
    return bytes(_client_data(client_data).challenge)


def registered(said: Registration, *, challenge: bytes, rp_id: str) -> Credential:
    """The passkey that was made. Raises PasskeyError.

    In the order of §7.1, without attestation: whose product an authenticator is, is nothing to us.

    1. What the browser says: that one was made, for this challenge, by a page of ours that is not inside another's.
    2. What the authenticator says: made for our name, somebody was there, and it knew who (PIN, finger, face).
    3. The key is of an algorithm that we asked for, and can be read; the id is not too long.
    """
    # 1. The browser.
    _check_client_data(_client_data(said.client_data), "webauthn.create", challenge, rp_id)
    # 2. The authenticator.
    if len(said.attestation_object) > ATTESTATION_BYTES_MAX:
        raise PasskeyError("passkey_unreadable", "the attestation is too long")
    from fido2 import cbor  # noqa: PLC0415 - see above
    from fido2.cose import CoseKey  # noqa: PLC0415
    from fido2.webauthn import AttestationObject  # noqa: PLC0415

    with _readable("attestation"):
        data = AttestationObject(said.attestation_object).auth_data
        made = data.credential_data
    _check_authenticator_data(data, rp_id)
    # 3. The key.
    if made is None:
        raise PasskeyError("passkey_unreadable", "there is no key in it")
    if not 0 < len(made.credential_id) <= CREDENTIAL_ID_BYTES_MAX:
        raise PasskeyError("passkey_unreadable", "the credential's id is too long")
    with _readable("key"):
        key = CoseKey.parse(dict(made.public_key))
        algorithm, encoded = key.get(3), cbor.encode(dict(key))
    if algorithm not in ALGORITHMS:
        raise PasskeyError("passkey_algorithm", f"algorithm {algorithm!r}")
    return Credential(bytes(made.credential_id), encoded, data.counter)


def verified(said: Assertion, passkey: Credential, *, challenge: bytes, rp_id: str) -> int:
    """How often the passkey has signed, where it counts. Raises PasskeyError.

    In the order of §7.2:

    1. It is this passkey that is said to have signed.
    2. What the browser says: that one signed, this challenge, for a page of ours that is not inside another's.
    3. What the authenticator says: signed for our name, somebody was there, and it knew who (PIN, finger, face).
    4. The signature, over both.
    5. It has signed more often than when we saw it last, if it counts at all. Otherwise there are two of it: only now, for what
       is not signed says nothing about that.
    """
    # 1. The passkey.
    if not hmac.compare_digest(said.credential_id, passkey.id):
        raise PasskeyError("passkey_unknown", "another credential")
    # 2. The browser.
    _check_client_data(_client_data(said.client_data), "webauthn.get", challenge, rp_id)
    # 3. The authenticator.
    if len(said.authenticator_data) > AUTHENTICATOR_DATA_BYTES_MAX or len(said.signature) > SIGNATURE_BYTES_MAX:
        raise PasskeyError("passkey_unreadable", "the assertion is too long")
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - see above
    from fido2 import cbor  # noqa: PLC0415
    from fido2.cose import CoseKey  # noqa: PLC0415
    from fido2.webauthn import AuthenticatorData  # noqa: PLC0415

    with _readable("authenticator data"):
        data = AuthenticatorData(said.authenticator_data)
    _check_authenticator_data(data, rp_id)
    # 4. The signature.
    try:
        with _readable("signature"):
            key = CoseKey.parse(dict(cbor.decode(passkey.public_key)))  # type: ignore[arg-type]
            key.verify(said.authenticator_data + sha256(said.client_data).digest(), said.signature)
    except InvalidSignature:
        raise PasskeyError("passkey_signature", "the signature is not this passkey's") from None
    # 5. The counter.
    if (data.counter or passkey.sign_count) and data.counter <= passkey.sign_count:
        raise PasskeyError("passkey_counter", f"it has signed {data.counter} times, after {passkey.sign_count}")
    return int(data.counter)


def _client_data(text: bytes) -> "CollectedClientData":
    if len(text) > CLIENT_DATA_BYTES_MAX:
        raise PasskeyError("passkey_unreadable", "the client data is too long")
    from fido2.webauthn import CollectedClientData  # noqa: PLC0415 - see above

    with _readable("client data"):
        return CollectedClientData(text)


def _check_client_data(
    said: "CollectedClientData", wanted: Literal["webauthn.create", "webauthn.get"], challenge: bytes, rp_id: str
) -> None:
    if said.type != wanted:
        raise PasskeyError("passkey_type", f"{str(said.type)[:40]!r} instead of {wanted}")
    if not hmac.compare_digest(said.challenge, challenge):
        raise PasskeyError("passkey_challenge", "another challenge")
    if not _is_ours(said.origin, rp_id):
        raise PasskeyError("passkey_origin", f"made for {str(said.origin)[:200]!r}")
    if said.cross_origin is not False:
        raise PasskeyError("passkey_origin", "made in a page inside another's")


def _is_ours(origin: object, rp_id: str) -> bool:
    """HTTPS, and our name itself: endpoints have names below it. The port may be a load balancer's."""
    if not isinstance(origin, str):
        return False
    try:
        parts = urlsplit(origin)
        port = parts.port
    except ValueError:
        return False
    return origin in {f"https://{rp_id}", f"https://{rp_id}:{port}"}


def _check_authenticator_data(data: "AuthenticatorData", rp_id: str) -> None:
    if not hmac.compare_digest(data.rp_id_hash, sha256(rp_id.encode()).digest()):
        raise PasskeyError("passkey_rp", "made for another name")
    if not data.is_user_present():
        raise PasskeyError("passkey_presence", "nobody was there")
    if not data.is_user_verified():
        raise PasskeyError("passkey_verification", "the authenticator did not ask who it is")
    if data.is_backed_up() and not data.is_backup_eligible():
        raise PasskeyError("passkey_unreadable", _BACKED_UP_THOUGH_NOT_ELIGIBLE)


@contextmanager
def _readable(what: str) -> Iterator[None]:
    try:
        yield
    except _UNREADABLE as error:
        raise PasskeyError("passkey_unreadable", f"the {what}: {type(error).__name__}") from None

"""Whom an ID token names (OpenID Connect Core §3.1.3.7)."""

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from cloister.protocol import base64url
from cloister.protocol.tokens import TokenError, VerifyingKey, moment_of, read_token, verified

ALGORITHMS: Final = frozenset({"RS256", "ES256", "EdDSA"})
# What issuers sign with. `protocol/tokens` knows no symmetric algorithm and no "none", so none of them can come in here.

TOKEN_BYTES_MAX: Final = 32_768
# Somebody of 500 groups that are named by UUIDs has one of 26 000.
ISSUED_WITHIN_S: Final = 600
# It was made for the code that we have just shown; what is older is from somewhere else.
GROUPS_MAX: Final = 1_000
GROUP_CHARS_MAX: Final = 256
NAME_CHARS_MAX: Final = 64
ADDRESS_CHARS_MAX: Final = 254

_HASHES: Final = {"RS256": hashlib.sha256, "ES256": hashlib.sha256, "EdDSA": hashlib.sha512}


class IdentityError(Exception):
    """The text is for our log and the audit: `why`, a stable word, and what was wrong. `subject`: of a token that is good in all
    else, whom it names; what is not verified names nobody."""

    def __init__(self, why: str, text: str, *, subject: str = "") -> None:
        super().__init__(text)
        self.why = why
        self.subject = subject


@dataclass(frozen=True, slots=True)
class Identity:
    """Somebody, as their issuer knows them. `subject` is who; an address can be given to somebody else."""

    subject: str
    email: str | None
    is_verified: bool | None
    """That the address is theirs. None: the issuer does not say."""
    name: str | None
    claims: dict[str, Any]


def identify(
    id_token: str,
    keys: Sequence[VerifyingKey],
    *,
    issuer: str,
    client_id: str,
    nonce: str,
    access_token: str,
    now: float,
) -> Identity:
    """Raises IdentityError.

    (1) a JWS of a bearable length, in an algorithm of the list
    (2) the signature, by a key that the issuer publishes now under the name that the token gives; then `exp`, `iat`, `iss`, and
        our client's id in `aud` (`protocol/tokens`)
    (3) nobody else in `aud`, and no other party in `azp`: it was made for us and for us alone
    (4) made just now
    (5) for this login: the nonce is the one that was sent along
    (6) with this access token, if it says so
    """
    try:
        token = read_token(id_token, bytes_max=TOKEN_BYTES_MAX)  # (1)
    except TokenError as error:
        raise IdentityError("login_token_malformed", str(error)) from None
    if token.alg not in ALGORITHMS:
        raise IdentityError("login_token_malformed", f"the algorithm {token.alg} is not taken here")
    key = next((it for it in keys if it.kid == token.kid), None)
    try:
        claims = verified(token, key, audience=client_id, issuer=issuer, now=now)  # (2)
        issued_at = moment_of(claims, "iat")
    except TokenError as error:
        raise IdentityError("login_token_refused", str(error)) from None
    if claims["aud"] not in (client_id, [client_id]) or claims.get("azp", client_id) != client_id:  # (3)
        raise IdentityError("login_token_refused", "the token is for somebody else as well")
    if issued_at is None or issued_at < now - ISSUED_WITHIN_S:  # (4)
        raise IdentityError("login_token_refused", "the token was not made for this login")
    said = claims.get("nonce")
    if not isinstance(said, str) or not hmac.compare_digest(said.encode(), nonce.encode()):  # (5)
        raise IdentityError("login_nonce", "the token is of another login")
    at_hash = claims.get("at_hash")
    if at_hash is not None and at_hash != _half_hash(token.alg, access_token):  # (6)
        raise IdentityError("login_token_refused", "the token belongs to another access token")
    return Identity(
        subject=claims["sub"],
        email=_text(claims.get("email"), ADDRESS_CHARS_MAX),
        is_verified=claims["email_verified"] if isinstance(claims.get("email_verified"), bool) else None,
        name=_text(claims.get("name"), NAME_CHARS_MAX),
        claims=claims,
    )


def groups_of(identity: Identity, claim: str) -> frozenset[str]:
    """Raises IdentityError if the issuer does not say: to say nothing is not to say that there are none, and what somebody may
    is not to depend on it. An issuer that names too many at once (Entra ID's "overage") leaves the claim out."""
    said = identity.claims.get(claim)
    if not isinstance(said, list) or len(said) > GROUPS_MAX:
        raise IdentityError("login_no_groups", f"the token has no list {claim!r}", subject=identity.subject)
    return frozenset(it for it in said if isinstance(it, str) and 0 < len(it) <= GROUP_CHARS_MAX)


def _half_hash(algorithm: str, token: str) -> str:
    """OpenID Connect Core §3.1.3.6."""
    digest = _HASHES[algorithm](token.encode()).digest()
    return base64url.encode(digest[: len(digest) // 2])


def _text(said: Any, chars_max: int) -> str | None:
    return said if isinstance(said, str) and 0 < len(said) <= chars_max and said.isprintable() else None

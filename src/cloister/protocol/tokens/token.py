"""A token, from its text to claims that may be believed."""

import json
import math
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from jwt.api_jws import PyJWS
from jwt.exceptions import PyJWTError

from cloister.protocol import base64url
from cloister.protocol.tokens.keys import ALLOWED, KID_MAX, VerifyingKey, decoy

TOKEN_BYTES_MAX: Final = 8_192
# The head of the request that brings it has 16 KiB.
CLAIMS_BYTES_MAX: Final = 6_144
# They travel in a startup packet, which PostgreSQL limits to 10 000 bytes.
SUBJECT_MAX: Final = 255
LEEWAY_S: Final = 30
# Clocks differ; Neon's proxy allows as much.

_TYPES: Final = frozenset({"jwt", "at+jwt"})
# ID tokens and access tokens. A token made for something else (a logout, a proof of possession) opens nothing here.

_JWS: Final = PyJWS(algorithms=sorted(ALLOWED))


class TokenError(Exception):
    """The text is for our log and the audit, unless `is_told`: then it follows from the token alone, and whoever sent it may
    know."""

    def __init__(self, text: str, *, is_told: bool = False) -> None:
        super().__init__(text)
        self.is_told = is_told


@dataclass(frozen=True, slots=True, repr=False)
class Token:
    """What it says of itself, unverified: which key to look for, and with which algorithm it was signed."""

    text: str
    kid: str
    alg: str


@dataclass(frozen=True, slots=True)
class Claims:
    subject: str
    json: str
    """All of them, in ASCII: said again from what was verified, each name once."""


def read_token(text: str, *, bytes_max: int = TOKEN_BYTES_MAX) -> Token:
    """Raises TokenError, which may be told.

    (1) three parts of a bearable length; the first is a JSON object
    (2) an algorithm of the list; nothing "critical" that we would have to understand, no detached payload
    (3) a type that is meant for this, and the name of a key. A key, or the address of one, inside the token is not looked at
    """
    if len(text) > bytes_max or not text.isascii() or text.count(".") != 2:  # (1)
        raise TokenError("the token is malformed", is_told=True)
    try:
        header = msgspec.json.decode(base64url.decode(text.partition(".")[0]), type=dict[str, Any])
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise TokenError("the token is malformed", is_told=True) from None
    algorithm, kid, kind = header.get("alg"), header.get("kid"), header.get("typ", "JWT")
    if not isinstance(algorithm, str) or algorithm not in ALLOWED:  # (2)
        raise TokenError("the token's algorithm is not allowed", is_told=True)
    if "crit" in header or "b64" in header:
        raise TokenError("the token has extensions that are not known here", is_told=True)
    if not isinstance(kind, str) or kind.lower().removeprefix("application/") not in _TYPES:  # (3)
        raise TokenError("the token is of another type", is_told=True)
    if not isinstance(kid, str) or not 0 < len(kid) <= KID_MAX:
        raise TokenError("the token names no key (kid)", is_told=True)
    return Token(text, kid, algorithm)


def verify(token: Token, key: VerifyingKey | None, *, audience: str | None, issuer: str | None, now: float) -> Claims:
    """As `verified`; the claims must be short enough to be carried on."""
    claims = verified(token, key, audience=audience, issuer=issuer, now=now)
    text = json.dumps(claims, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    if len(text) > CLAIMS_BYTES_MAX:
        raise TokenError("the claims are too long")
    return Claims(claims["sub"], text)


def verified(
    token: Token, key: VerifyingKey | None, *, audience: str | None, issuer: str | None, now: float
) -> dict[str, Any]:
    """What the token says. Raises TokenError. Without a key it does, all the same, what it would with one.

    (1) the signature, with the algorithm that the key is for
    (2) `exp` is there and has not passed, `nbf` and `iat` have
    (3) `iss` is the registered one, if one was registered
    (4) `aud` holds the registered audience; a token with an audience and none registered is meant for somebody else
        (RFC 7519 §4.1.3)
    (5) `sub` says who
    """
    is_known = key is not None and key.alg == token.alg
    try:
        # By the key's own algorithm; the token's was seen to be the same. PyJWT holds one to the other once more.
        used = key if key is not None and is_known else decoy(token.alg)
        payload: bytes = _JWS.decode_complete(token.text, used.load(), algorithms=[token.alg])["payload"]
    except (PyJWTError, ValueError, RecursionError):
        payload = b""
    if not is_known or not payload:  # (1)
        raise TokenError("no registered key made the signature")
    try:
        claims: dict[str, Any] = msgspec.json.decode(payload, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise TokenError("the claims are no JSON object") from None
    expires_at = moment_of(claims, "exp")  # (2)
    if expires_at is None:
        raise TokenError("the token never expires")
    if expires_at <= now - LEEWAY_S:
        raise TokenError("the token has expired")
    for name in ("nbf", "iat"):
        at = moment_of(claims, name)
        if at is not None and at > now + LEEWAY_S:
            raise TokenError(f"the token is not valid yet ({name})")
    if issuer is not None and claims.get("iss") != issuer:  # (3)
        raise TokenError("the token is of another issuer")
    if audience not in _audiences(claims):  # (4)
        raise TokenError("the token is for another audience")
    subject = claims.get("sub")  # (5)
    if not isinstance(subject, str) or not 0 < len(subject) <= SUBJECT_MAX:
        raise TokenError("the token names nobody (sub)")
    return claims


def _audiences(claims: dict[str, Any]) -> list[str | None]:
    """Whom it is for; [None] for everybody."""
    match claims.get("aud"):
        case None:
            return [None]
        case str(audience):
            return [audience]
        case list(audiences) if all(isinstance(each, str) for each in audiences):
            return audiences
        case _:
            raise TokenError("the token's audience is no text")


def moment_of(claims: dict[str, Any], name: str) -> float | None:
    at = claims.get(name)
    if at is None:
        return None
    if isinstance(at, bool) or not isinstance(at, int | float) or not math.isfinite(at):
        raise TokenError(f"{name} is no time")
    return float(at)

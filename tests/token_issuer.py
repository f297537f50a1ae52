"""Somebody who signs tokens: keys of every kind, their JWKS, and tokens as one wants them, also such as no issuer makes."""

import base64
import json
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from cloister.base.directory import KeySet
from cloister.protocol.tokens import read_key_set

RSA = rsa.generate_private_key(65537, 2048)
KEYS: dict[str, Any] = {
    "RS256": RSA,
    "PS256": RSA,
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}
"""By algorithm; the key's `kid` is the algorithm's name."""

AUDIENCE = "shop"


def public(algorithm: str, **changes: Any) -> dict[str, Any]:
    """A key as an issuer publishes it; a change to None takes a member away."""
    made = json.loads(jwt.get_algorithm_by_name(algorithm).to_jwk(KEYS[algorithm].public_key()))
    made = {**made, "kid": algorithm, "alg": algorithm, "use": "sig"} | changes
    return {name: value for name, value in made.items() if value is not None}


def document(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": list(keys) or [public(algorithm) for algorithm in KEYS]}).encode()


def claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    made = {"sub": "ada", "aud": AUDIENCE, "iss": "https://issuer.test", "iat": now, "exp": now + 600} | changes
    return {name: value for name, value in made.items() if value is not None}


def token(algorithm: str = "ES256", headers: dict[str, Any] | None = None, key: Any = None, **changes: Any) -> str:
    """`headers` are added to, or taken from (None), the header."""
    said = {"kid": algorithm} | (headers or {})
    return jwt.encode(claims(**changes), key or KEYS[algorithm], algorithm=algorithm, headers=said)


def forged(header: dict[str, Any], payload: bytes | None = None, signature: bytes = b"") -> str:
    """Any header, any payload, any signature."""
    body = json.dumps(claims()).encode() if payload is None else payload
    return ".".join(base64url(part) for part in (json.dumps(header).encode(), body, signature))


def signed(payload: bytes, algorithm: str = "ES256") -> str:
    """A payload that is not what PyJWT would make, honestly signed."""
    return jwt.api_jws.PyJWS().encode(payload, KEYS[algorithm], algorithm=algorithm, headers={"kid": algorithm})


def base64url(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()


def key_set(*roles: str, **changes: Any) -> KeySet:
    """As a gateway is told of it."""
    fields: dict[str, Any] = {
        "id": "11111111-2222-4333-8444-555555555555",
        "roles": list(roles) or ["ada"],
        "audience": AUDIENCE,
        "issuer": None,
        "keys": stored(document()),
        "fetched_at": time.time(),
    }
    return KeySet(**fields | changes)


def stored(published: bytes) -> str:
    return json.dumps([{"kid": key.kid, "alg": key.alg, "jwk": key.jwk} for key in read_key_set(published)])

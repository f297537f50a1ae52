"""Key sets: which of their keys may verify a token, and with which algorithm. One key, one algorithm, and the key says which.

What decides what a signature is checked with is the key that the project's owner registered, never the token: a token
that names another algorithm than its key's is refused before anything is computed. There is no symmetric algorithm here, so a
public key cannot be taken for an HMAC's secret; and there is no "none".
"""

from functools import cache, lru_cache
from typing import Any, Final

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt import PyJWK, get_algorithm_by_name
from jwt.exceptions import PyJWKError, PyJWTError

KEYS_MAX: Final = 64
# Of one set. Issuers publish two or three; the largest have a dozen.
KID_MAX: Final = 255
RSA_BITS_MIN: Final = 2048
RSA_BITS_MAX: Final = 4096
# Beyond, every token of a stranger costs a millisecond.
RSA_EXPONENT_MAX: Final = 2**32
# 65537 is everybody's. A large one would make every signature of a stranger's as costly as a private key's.

LOADED_MAX: Final = 1_024
# A key takes as long to load as a signature to look at: kept, a token costs the same whether its key is known or not.

ALGORITHMS: Final[dict[tuple[str, str], tuple[str, ...]]] = {
    ("RSA", ""): ("RS256", "PS256", "RS384", "PS384", "RS512", "PS512"),
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("OKP", "Ed25519"): ("EdDSA",),
}
"""By type and curve. The first is meant where a key does not say."""

ALLOWED: Final = frozenset(name for names in ALGORITHMS.values() for name in names)

_PUBLIC: Final = ("kty", "crv", "n", "e", "x", "y")
_PRIVATE: Final = frozenset(("d", "p", "q", "dp", "dq", "qi", "oth"))


class KeySetError(Exception):
    """The set cannot be used. The text is for whoever registered it."""


class VerifyingKey(msgspec.Struct, frozen=True):
    kid: str
    alg: str
    jwk: dict[str, str]
    """Its public members and nothing else."""

    def load(self) -> PyJWK:
        return _loaded(self.alg, tuple(self.jwk.items()))


@lru_cache(LOADED_MAX)
def _loaded(algorithm: str, jwk: tuple[tuple[str, str], ...]) -> PyJWK:
    return PyJWK(dict(jwk), algorithm=algorithm)


class _KeySet(msgspec.Struct):
    keys: list[dict[str, Any]]


def read_key_set(document: bytes) -> list[VerifyingKey]:
    """Those that can verify a token, in order. Raises KeySetError.

    (1) it is `{"keys": […]}`, and not endless
    (2) no key shows its private part: then it is everybody's, and the set is not to be trusted
    (3) a key without a name, of another use, of another type or with an algorithm of another kind is passed over
    (4) an RSA key is neither too weak nor too costly
    (5) no two keys share a name, and at least one is left
    """
    try:
        entries = msgspec.json.decode(document, type=_KeySet).keys  # (1)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise KeySetError("it is no JSON Web Key Set") from None
    if len(entries) > KEYS_MAX:
        raise KeySetError(f"it has more than {KEYS_MAX} keys")
    if any(_PRIVATE & entry.keys() for entry in entries):  # (2)
        raise KeySetError("it holds a private key: whoever signs with it must make another at once")
    found: dict[str, VerifyingKey] = {}
    for entry in entries:
        key = _usable(entry)
        if key is None:
            continue
        if key.kid in found:  # (5)
            raise KeySetError("two of its keys have the same `kid`")
        found[key.kid] = key
    if not found:
        raise KeySetError("none of its keys can verify a token: each needs a `kid`, and RSA, P-256, P-384 or Ed25519")
    return list(found.values())


def _usable(entry: dict[str, Any]) -> VerifyingKey | None:
    kid = entry.get("kid")
    if not isinstance(kid, str) or not 0 < len(kid) <= KID_MAX or not kid.isprintable():  # (3)
        return None
    if entry.get("use", "sig") != "sig":
        return None
    operations = entry.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    jwk = {name: value for name in _PUBLIC if isinstance(value := entry.get(name), str)}
    if not all(value.isascii() and value.isprintable() for value in jwk.values()):
        return None  # a decoder passes over what is not base64; a database does not take U+0000
    names = ALGORITHMS.get((jwk.get("kty", ""), jwk.get("crv", "")))
    if names is None:
        return None
    algorithm = entry.get("alg", names[0])
    if algorithm not in names:
        return None
    key = VerifyingKey(kid, algorithm, jwk)
    try:
        public = key.load().key
    except (PyJWTError, PyJWKError, ValueError, TypeError, KeyError):
        return None
    if isinstance(public, rsa.RSAPublicKey) and not _is_fit(public):  # (4)
        return None
    return key


def _is_fit(key: rsa.RSAPublicKey) -> bool:
    return RSA_BITS_MIN <= key.key_size <= RSA_BITS_MAX and key.public_numbers().e < RSA_EXPONENT_MAX


@cache
def decoy(algorithm: str) -> VerifyingKey:
    """A key that stands in where there is none, so that looking at a signature takes its time. What comes of it counts for
    nothing: everybody knows these."""
    key: Any
    match algorithm:
        case "ES256":
            key = ec.derive_private_key(1, ec.SECP256R1()).public_key()
        case "ES384":
            key = ec.derive_private_key(1, ec.SECP384R1()).public_key()
        case "EdDSA":
            key = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key()
        case _:
            key = rsa.RSAPublicNumbers(65537, 2**2047 + 1).public_key()
    jwk: dict[str, Any] = get_algorithm_by_name(algorithm).to_jwk(key, as_dict=True)
    return VerifyingKey("", algorithm, {name: jwk[name] for name in _PUBLIC if name in jwk})

"""What is stored of a password: enough to check a proof, not enough to make one.

The text format is PostgreSQL's own, as in `pg_authid.rolpassword`:
`SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`, the last three in Base64.
"""

import binascii
import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import Final

from cloister.protocol.scram.saslprep import normalised

ITERATIONS_DEFAULT: Final = 4096
# PostgreSQL's default and RFC 7677's minimum. Our generated passwords have 95 bits: more iterations would add nothing
# but time at every client.
ITERATIONS_MIN: Final = 1
# What PostgreSQL can be made to store (`scram_iterations = 1`); whether it may is the business of `guard`.
ITERATIONS_MAX: Final = 10_000_000
# Beyond this a client's own PBKDF2 would take seconds; a text that says so was not written by PostgreSQL.
ITERATIONS_CLEAR_MAX: Final = 100_000
# Where the client sent its password, the work is ours: 20 ms. A tenant may store a verifier that would take seconds, and
# have strangers ask for it; who wants more iterations than this must log in with SCRAM.

SALT_BYTES: Final = 16
# As PostgreSQL: RFC 5802 leaves it open, and a mock must look like the real thing.
KEY_BYTES: Final = 32

_TEXT: Final = re.compile(
    r"SCRAM-SHA-256\$([1-9][0-9]{0,7}):([A-Za-z0-9+/=]{1,344})\$([A-Za-z0-9+/]{43}=):([A-Za-z0-9+/]{43}=)"
)


class InvalidVerifierError(ValueError):
    """A text that is not a verifier. The text is not part of the message."""


@dataclass(frozen=True, slots=True, repr=False)
class Verifier:
    iterations: int
    salt: bytes
    stored_key: bytes
    server_key: bytes
    is_doomed: bool = False
    """A mock: no proof can match it, whatever chance says."""

    @classmethod
    def parse(cls, text: str, *, is_doomed: bool = False) -> "Verifier":
        """Raises InvalidVerifierError."""
        if (match := _TEXT.fullmatch(text)) is None or int(match[1]) > ITERATIONS_MAX:
            raise InvalidVerifierError("not a SCRAM-SHA-256 verifier")
        try:
            salt, stored_key, server_key = (binascii.a2b_base64(part, strict_mode=True) for part in match.groups()[1:])
        except binascii.Error:
            raise InvalidVerifierError("not a SCRAM-SHA-256 verifier") from None
        return cls(int(match[1]), salt, stored_key, server_key, is_doomed)

    @classmethod
    def of_password(cls, password: str, *, salt: bytes, iterations: int = ITERATIONS_DEFAULT) -> "Verifier":
        """RFC 5802 §3: SaltedPassword, then the two keys. Takes milliseconds: not for an event loop."""
        salted = hashlib.pbkdf2_hmac("sha256", normalised(password), salt, iterations)
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        server_key = hmac.digest(salted, b"Server Key", "sha256")
        return cls(iterations, salt, hashlib.sha256(client_key).digest(), server_key)

    @classmethod
    def mock(cls, endpoint: str, role: str, secret: bytes) -> "Verifier":
        """For a role that cannot log in: the same at every try, and unlike any other, as a stored one would be."""
        name = b"%d:%s%s" % (len(endpoint.encode()), endpoint.encode(), role.encode())
        salt = hmac.digest(secret, b"salt:" + name, "sha256")[:SALT_BYTES]
        stored_key = hmac.digest(secret, b"stored:" + name, "sha256")
        server_key = hmac.digest(secret, b"server:" + name, "sha256")
        return cls(ITERATIONS_DEFAULT, salt, stored_key, server_key, is_doomed=True)

    def matches_password(self, password: str) -> bool:
        """For a client that sent its password through TLS. As slow for a mock as for a real verifier. A verifier of more
        than ITERATIONS_CLEAR_MAX iterations is matched by none."""
        iterations = min(self.iterations, ITERATIONS_CLEAR_MAX)
        computed = Verifier.of_password(password, salt=self.salt, iterations=iterations)
        is_equal = hmac.compare_digest(computed.stored_key, self.stored_key)
        return is_equal and not self.is_doomed

    def __str__(self) -> str:
        salt, stored_key, server_key = (
            binascii.b2a_base64(part, newline=False).decode() for part in (self.salt, self.stored_key, self.server_key)
        )
        return f"SCRAM-SHA-256${self.iterations}:{salt}${stored_key}:{server_key}"

    def __repr__(self) -> str:
        return "Verifier(…)"

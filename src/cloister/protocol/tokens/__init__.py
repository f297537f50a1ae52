"""Tokens that another issuer signed (RFC 7519), and the key sets they are verified with (RFC 7517). Pure.

PyJWT looks at the signature; everything that is decided about a token stands here, with the time as an argument.
"""

from cloister.protocol.tokens.keys import KeySetError, VerifyingKey, decoy, read_key_set
from cloister.protocol.tokens.token import Claims, Token, TokenError, moment_of, read_token, verified, verify

__all__ = [
    "Claims",
    "KeySetError",
    "Token",
    "TokenError",
    "VerifyingKey",
    "decoy",
    "moment_of",
    "read_key_set",
    "read_token",
    "verified",
    "verify",
]

"""OpenID Connect, as who relies on an issuer sees it: what an issuer says of itself, where a login begins, and whom an ID
token names. Pure: states, nonces and the time are arguments.

Signatures and key sets are `protocol/tokens`; asking the issuer is `control/people`.
"""

from cloister.protocol.openid.identity import Identity, IdentityError, groups_of, identify
from cloister.protocol.openid.metadata import (
    Metadata,
    MetadataError,
    TokenAnswer,
    metadata_url,
    read_answer,
    read_metadata,
)
from cloister.protocol.openid.request import authorization_url, challenge_of, is_challenge

__all__ = [
    "Identity",
    "IdentityError",
    "Metadata",
    "MetadataError",
    "TokenAnswer",
    "authorization_url",
    "challenge_of",
    "groups_of",
    "identify",
    "is_challenge",
    "metadata_url",
    "read_answer",
    "read_metadata",
]

"""What an issuer says of itself (OpenID Connect Discovery 1.0), and what its token endpoint answers (RFC 6749 §5.1)."""

import re
from typing import Final

import msgspec

from cloister.protocol.openid.identity import ALGORITHMS

_WELL_KNOWN: Final = "/.well-known/openid-configuration"
_HTTPS: Final = re.compile(r"https://[!-~]+")


class MetadataError(Exception):
    """The issuer cannot be relied on. The text is for whoever registered it."""


class Metadata(msgspec.Struct, frozen=True):
    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    id_token_signing_alg_values_supported: tuple[str, ...] = ("RS256",)
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)
    code_challenge_methods_supported: tuple[str, ...] | None = None
    authorization_response_iss_parameter_supported: bool = False
    """RFC 9207: its answers say whose they are, so one that does not is not its own."""


class TokenAnswer(msgspec.Struct, frozen=True):
    id_token: str
    access_token: str
    token_type: str

    def __repr__(self) -> str:
        return "<TokenAnswer>"


def metadata_url(issuer: str) -> str:
    return issuer.removesuffix("/") + _WELL_KNOWN


def read_metadata(document: bytes, issuer: str) -> Metadata:
    """Raises MetadataError.

    (1) it is what discovery promises
    (2) it is of this issuer, to the letter: or one issuer could speak for another
    (3) nothing of it goes over the wire in clear
    (4) it signs with an algorithm that is taken here, and does not say that it cannot do PKCE with S256
    """
    try:
        found = msgspec.json.decode(document, type=Metadata)  # (1)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise MetadataError("its discovery document is not OpenID Connect's") from None
    if found.issuer != issuer:  # (2)
        raise MetadataError(f"its discovery document is of {found.issuer[:200]!r}")
    for url in (found.authorization_endpoint, found.token_endpoint, found.jwks_uri):  # (3)
        if not _HTTPS.fullmatch(url) or "#" in url:
            raise MetadataError("its discovery document names an endpoint that is not https://")
    if not ALGORITHMS & set(found.id_token_signing_alg_values_supported):  # (4)
        raise MetadataError(f"it signs with none of {', '.join(sorted(ALGORITHMS))}")
    if found.code_challenge_methods_supported is not None and "S256" not in found.code_challenge_methods_supported:
        raise MetadataError("it does not do PKCE with S256")
    return found


def read_answer(document: bytes) -> TokenAnswer:
    """Raises MetadataError."""
    try:
        answer = msgspec.json.decode(document, type=TokenAnswer)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise MetadataError("its token endpoint answered without an ID token") from None
    if answer.token_type.lower() != "bearer":
        raise MetadataError("its token endpoint answered with another type of token")
    return answer

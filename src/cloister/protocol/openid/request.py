"""Where a login begins: the address that a browser is sent to (OpenID Connect Core §3.1.2.1, RFC 7636)."""

import hashlib
import re
from typing import Final
from urllib.parse import urlencode

from cloister.protocol import base64url
from cloister.protocol.openid.metadata import Metadata

_CHALLENGE: Final = re.compile(r"[A-Za-z0-9_-]{43}")


def challenge_of(verifier: str) -> str:
    """S256: whoever sees the challenge learns nothing of the verifier."""
    return base64url.encode(hashlib.sha256(verifier.encode()).digest())


def is_challenge(text: str) -> bool:
    return _CHALLENGE.fullmatch(text) is not None


def authorization_url(
    metadata: Metadata, *, client_id: str, redirect_uri: str, scope: str, state: str, nonce: str, challenge: str
) -> str:
    asked = {
        "response_type": "code",
        "client_id": client_id,
        "redirect_uri": redirect_uri,
        "scope": scope,
        "state": state,
        "nonce": nonce,
        "code_challenge": challenge,
        "code_challenge_method": "S256",
    }
    endpoint = metadata.authorization_endpoint
    return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(asked)}"

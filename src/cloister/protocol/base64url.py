"""Bytes in text that is safe in an address: base64url without padding (RFC 4648 §5), as JOSE, PKCE and WebAuthn write them."""

import base64


def encode(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    """Strictly: raises ValueError for whatever is not of the alphabet."""
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)

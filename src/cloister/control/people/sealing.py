"""What logins need kept secret: issuers' client secrets, sealed; and of each login the nonce and the PKCE verifier, which are
nowhere, but derived from its state when they are needed.

So a copy of the control database has nothing with which a login that is under way could be finished, and whoever knows a
login's state (its browser does) has neither of the two.
"""

import base64
import hmac
import secrets
from hashlib import sha256
from typing import Final
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from cloister.base.errors import InternalError
from cloister.base.secret import Secret

_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12


class LoginKeys:
    def __init__(self, control_key: Secret[bytes]) -> None:
        self._cipher = AESGCM(_derived(control_key, b"cloister issuer secrets 1"))
        self._logins = Secret(_derived(control_key, b"cloister logins 1"))

    def seal(self, issuer_id: UUID, secret: Secret[str]) -> bytes:
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, secret.reveal().encode(), issuer_id.bytes)

    def open(self, issuer_id: UUID, sealed: bytes) -> Secret[str]:
        try:
            text = self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], issuer_id.bytes)
        except InvalidTag:
            raise InternalError(f"the client secret of the issuer {issuer_id} does not open") from None
        return Secret(text.decode())

    def nonce(self, state: str) -> str:
        return self._of(b"nonce", state)

    def verifier(self, state: str) -> str:
        return self._of(b"verifier", state)

    def _of(self, what: bytes, state: str) -> str:
        digest = hmac.digest(self._logins.reveal(), what + b"\0" + state.encode(), sha256)
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _derived(control_key: Secret[bytes], info: bytes) -> bytes:
    return HKDF(SHA256(), _KEY_BYTES, salt=None, info=info).derive(control_key.reveal())

"""What logins need kept secret: issuers' client secrets, sealed; and of each login the nonce and the PKCE verifier, which are
nowhere, but derived from its state when they are needed.

So a copy of the control database has nothing with which a login that is under way could be finished, and whoever knows a
login's state (its browser does) has neither of the two.
"""

import hmac
from hashlib import sha256
from uuid import UUID

from cryptography.exceptions import InvalidTag

from cloister.base.errors import InternalError
from cloister.base.sealing import Sealer, derived_key
from cloister.base.secret import Secret
from cloister.protocol import base64url


class LoginKeys:
    def __init__(self, control_key: Secret[bytes]) -> None:
        self._sealer = Sealer(derived_key(control_key.reveal(), b"cloister issuer secrets 1"))
        self._logins = Secret(derived_key(control_key.reveal(), b"cloister logins 1"))

    def seal(self, issuer_id: UUID, secret: Secret[str]) -> bytes:
        return self._sealer.seal(secret.reveal().encode(), issuer_id.bytes)

    def open(self, issuer_id: UUID, sealed: bytes) -> Secret[str]:
        try:
            text = self._sealer.open(sealed, issuer_id.bytes)
        except InvalidTag:
            raise InternalError(f"the client secret of the issuer {issuer_id} does not open") from None
        return Secret(text.decode())

    def nonce(self, state: str) -> str:
        return self._of(b"nonce", state)

    def verifier(self, state: str) -> str:
        return self._of(b"verifier", state)

    def _of(self, what: bytes, state: str) -> str:
        return base64url.encode(hmac.digest(self._logins.reveal(), what + b"\0" + state.encode(), sha256))

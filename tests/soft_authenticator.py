"""An authenticator in software: makes passkeys and signs, as a browser and a security key together do, and lies where it is told to."""

import json
import os
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from fido2 import cbor
from fido2.cose import ES256, CoseKey
from fido2.utils import websafe_encode

from cloister.protocol.webauthn import Assertion, Registration

RP_ID: Final = "db.test"
ORIGIN: Final = f"https://{RP_ID}"
PRESENT, VERIFIED, ELIGIBLE, BACKED_UP, ATTESTED = 0x01, 0x04, 0x08, 0x10, 0x40
BOTH: Final = PRESENT | VERIFIED


def client_data(challenge: bytes, kind: str, origin: str = ORIGIN, **more: Any) -> bytes:
    said = {"type": kind, "challenge": websafe_encode(challenge), "origin": origin, "crossOrigin": False, **more}
    return json.dumps(said, separators=(",", ":")).encode()


def cose(kind: type[CoseKey], key: Any) -> bytes:
    """The public key of a private one, as an authenticator writes it."""
    return cbor.encode(dict(kind.from_cryptography_key(key.public_key())))


@dataclass
class SoftAuthenticator:
    """One passkey. `counter` is what it says at the next signature; None: it does not count."""

    counter: int | None = 1
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    credential_id: bytes = field(default_factory=lambda: os.urandom(32))

    def make(
        self, challenge: bytes, *, origin: str = ORIGIN, rp_id: str = RP_ID, flags: int = BOTH, **more: Any
    ) -> Registration:
        public_key = more.pop("public_key", None) or cose(ES256, self.key)
        kind = more.pop("kind", "webauthn.create")
        attested = bytes(16) + len(self.credential_id).to_bytes(2, "big") + self.credential_id + public_key
        data = self._data(rp_id, flags | ATTESTED) + attested
        return Registration(
            client_data(more.pop("answers", challenge), kind, origin, **more),
            cbor.encode({"fmt": "none", "authData": data, "attStmt": {}}),
        )

    def sign(
        self, challenge: bytes, *, origin: str = ORIGIN, rp_id: str = RP_ID, flags: int = BOTH, **more: Any
    ) -> Assertion:
        said = client_data(more.pop("answers", challenge), more.pop("kind", "webauthn.get"), origin, **more)
        data = self._data(rp_id, flags)
        signature = self.key.sign(data + sha256(said).digest(), ec.ECDSA(SHA256()))
        return Assertion(self.credential_id, said, data, signature)

    def _data(self, rp_id: str, flags: int) -> bytes:
        counter = self.counter or 0
        if self.counter is not None:
            self.counter += 1
        return sha256(rp_id.encode()).digest() + bytes([flags]) + counter.to_bytes(4, "big")

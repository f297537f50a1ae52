"""The server's half of one SCRAM exchange: two calls, each a function of what came before.

    exchange = ServerExchange(verifier, mechanism=PLUS, nonce=…, binding=…)
    server_first = exchange.first(client_first)
    server_final = exchange.final(client_final)     # returning is the proof

Steps are those of RFC 5802 §3, §5 and §6, numbered where they are taken:

    (1) the mechanism and the gs2 flag agree, and nobody has removed channel binding on the way
    (2) no authorization identity, no mandatory extension
    (3) the combined nonce is theirs and ours; salt and iterations come from the verifier
    (4) the final message repeats the gs2 header, the binding and the combined nonce
    (5) H(ClientKey) is StoredKey; a mock's never is
    (6) the server's signature proves that we knew the verifier

Left to the caller: an unpredictable nonce; the binding of the certificate that this TLS connection really used; one
answer for every refusal (the reason in ScramError is for the log).
"""

import binascii
import hashlib
import hmac
import re
from typing import Final

from cloister.protocol.scram.verifier import KEY_BYTES, Verifier

PLAIN: Final = "SCRAM-SHA-256"
PLUS: Final = "SCRAM-SHA-256-PLUS"
BINDING_TYPE: Final = b"tls-server-end-point"
# RFC 5929. The only type PostgreSQL has, and the only one that means the same in TLS 1.2 and 1.3.

NONCE_BYTES_MAX: Final = 512
# libpq sends 24, others up to 64; the whole message is limited anyway.

_NONCE: Final = re.compile(rb"[\x21-\x2b\x2d-\x7e]+")
# RFC 5802 §7 printable: any printable ASCII but the comma.


class ScramError(Exception):
    """The exchange failed. `str(error)` says why, for the log and the audit event, never for the client."""


class ServerExchange:
    """One exchange, used once. `binding` is the hash for `tls-server-end-point`; None where PLUS was not offered."""

    def __init__(self, verifier: Verifier, *, mechanism: str, nonce: str, binding: bytes | None) -> None:
        if mechanism not in (PLAIN, PLUS) or (mechanism == PLUS and binding is None):
            raise ScramError("a mechanism that was not offered")
        self._verifier = verifier
        self._mechanism = mechanism
        self._server_nonce = nonce.encode()
        self._binding = binding
        self._gs2_header = b""
        self._client_first_bare = b""
        self._server_first = b""
        self._nonce = b""

    def first(self, client_first: bytes) -> bytes:
        """Read client-first-message, write server-first-message."""
        flag, _, rest = client_first.partition(b",")
        authzid, comma, bare = rest.partition(b",")
        if not comma:
            raise ScramError("client-first-message has no gs2 header")
        # (1) The mechanism and the flag.
        self._check_flag(flag)
        # (2) PostgreSQL has no authorization identity: who logs in is in the startup packet.
        if authzid:
            raise ScramError("an authorization identity was given")
        self._gs2_header = client_first[: len(client_first) - len(bare)]
        self._client_first_bare = bare
        attributes = bare.split(b",")
        if bare.startswith(b"m="):
            raise ScramError("a mandatory extension that we do not know")
        # The user name is not read (libpq sends it empty): who logs in is in the startup packet.
        if len(attributes) < 2 or not attributes[0].startswith(b"n=") or not attributes[1].startswith(b"r="):
            raise ScramError("client-first-message is malformed")
        client_nonce = attributes[1][2:]
        if len(client_nonce) > NONCE_BYTES_MAX or not _NONCE.fullmatch(client_nonce):
            raise ScramError("the client's nonce is malformed")
        # (3) Both nonces, so that neither side can replay an exchange of its own.
        self._nonce = client_nonce + self._server_nonce
        salt = binascii.b2a_base64(self._verifier.salt, newline=False)
        self._server_first = b"r=%s,s=%s,i=%d" % (self._nonce, salt, self._verifier.iterations)
        return self._server_first

    def final(self, client_final: bytes) -> bytes:
        """Read client-final-message, write server-final-message. Raises ScramError unless the proof is right."""
        without_proof, comma, proof_text = client_final.rpartition(b",p=")
        if not comma or not self._server_first:
            raise ScramError("client-final-message has no proof")
        attributes = without_proof.split(b",")
        if len(attributes) < 2 or not attributes[0].startswith(b"c=") or not attributes[1].startswith(b"r="):
            raise ScramError("client-final-message is malformed")
        # (4) A client that was shown another certificate than ours has another binding: somebody stands between us.
        expected = self._gs2_header + (self._binding or b"" if self._mechanism == PLUS else b"")
        if not hmac.compare_digest(attributes[0][2:], binascii.b2a_base64(expected, newline=False)):
            raise ScramError("the channel binding does not match")
        if not hmac.compare_digest(attributes[1][2:], self._nonce):
            raise ScramError("the nonce does not match")
        try:
            proof = binascii.a2b_base64(proof_text, strict_mode=True)
        except binascii.Error:
            raise ScramError("the proof is not Base64") from None
        if len(proof) != KEY_BYTES:
            raise ScramError("the proof has the wrong length")
        # The last digit has bits that say nothing. Who sets them has written another message that means the same.
        if binascii.b2a_base64(proof, newline=False) != proof_text:
            raise ScramError("the proof is not written as Base64 writes it")
        # (5) A mock takes the same steps and the same time as a wrong password.
        auth_message = b"%s,%s,%s" % (self._client_first_bare, self._server_first, without_proof)
        signature = hmac.digest(self._verifier.stored_key, auth_message, "sha256")
        client_key = bytes(a ^ b for a, b in zip(proof, signature, strict=True))
        is_proved = hmac.compare_digest(hashlib.sha256(client_key).digest(), self._verifier.stored_key)
        if not is_proved or self._verifier.is_doomed:
            raise ScramError("the proof is wrong")
        # (6) Only who holds ServerKey can sign: the client learns that it was not talking to somebody else.
        server_signature = hmac.digest(self._verifier.server_key, auth_message, "sha256")
        return b"v=" + binascii.b2a_base64(server_signature, newline=False)

    def _check_flag(self, flag: bytes) -> None:
        if self._mechanism == PLUS:
            if flag != b"p=" + BINDING_TYPE:
                raise ScramError("SCRAM-SHA-256-PLUS without tls-server-end-point")
        elif flag == b"y":
            # The client can bind and believes that we cannot. Where we offered PLUS, somebody took it out of the list.
            if self._binding is not None:
                raise ScramError("channel binding was offered, and the client did not see it: downgrade")
        elif flag != b"n":
            raise ScramError("a channel binding flag that does not fit SCRAM-SHA-256")

"""The TLS identities of this worker: what is loaded now, and noticing a new one.

A connection keeps the identity it began with, context and binding hash together, so a new certificate never reaches
into a handshake or a session that runs. A new pair that cannot be loaded leaves the old one in use and is logged.
"""

import hashlib
import logging
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from cloister.base.errors import PreconditionError
from cloister.base.settings import Settings
from cloister.protocol.pgwire.handshake import ALPN

log = logging.getLogger(__name__)

_CIPHERS_TLS12: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
# Forward secrecy and AEAD only. TLS 1.3 has nothing else.


class ServerTls(ssl.SSLObject):
    """One connection's TLS; remembers which name the client asked for."""

    server_name: str | None = None


@dataclass(frozen=True, slots=True)
class TlsIdentity:
    context: ssl.SSLContext
    binding: bytes | None
    """`tls-server-end-point`; None where the certificate's signature has no hash of its own (Ed25519): RFC 5929 leaves
    it undefined, so channel binding is not offered."""


def load_identity(cert_file: Path, key_file: Path, alpn: Sequence[str] = (ALPN,)) -> TlsIdentity:
    """Raises PreconditionError with a sentence for the operator."""
    try:
        chain = cert_file.read_bytes()
        context = _context(cert_file, key_file, alpn)
        if cert_file.read_bytes() != chain:
            raise PreconditionError(public=f"{cert_file} is being written")
        leaf = x509.load_pem_x509_certificates(chain)[0]
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise PreconditionError(str(error), public=f"cannot load {cert_file} with {key_file}: {error}") from error
    return TlsIdentity(context, end_point_binding(leaf))


def end_point_binding(leaf: x509.Certificate) -> bytes | None:
    """RFC 5929 §4.1: the certificate hashed with its signature's hash, SHA-256 instead of MD5 and SHA-1."""
    algorithm = leaf.signature_hash_algorithm
    if algorithm is None:
        return None
    name = "sha256" if isinstance(algorithm, hashes.MD5 | hashes.SHA1) else algorithm.name
    der = leaf.public_bytes(_der())
    return hashlib.new(name.replace("-", "_"), der).digest()


def _der() -> Any:
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415 - used at a reload only

    return Encoding.DER


def _context(cert_file: Path, key_file: Path, alpn: Sequence[str]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS_TLS12)
    context.options |= (
        ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET | ssl.OP_CIPHER_SERVER_PREFERENCE
    )
    context.num_tickets = 0  # no resumption: no early data, and every session shows the certificate it is bound to
    context.load_cert_chain(cert_file, key_file)
    context.set_alpn_protocols(list(alpn))
    context.sslobject_class = ServerTls
    context.sni_callback = _remember_name
    return context


def _remember_name(tls: ssl.SSLObject | ssl.SSLSocket, name: str | None, _context: ssl.SSLContext) -> None:
    assert isinstance(tls, ServerTls)
    tls.server_name = name


class Certificates:
    """The identity for new connections. `refresh` is called about once a second and looks at two files."""

    def __init__(self, cert_file: Path, key_file: Path, alpn: Sequence[str] = (ALPN,)) -> None:
        self._files = (cert_file, key_file)
        self._alpn = alpn
        self._seen = self._look()
        self.identity = load_identity(*self._files, alpn)

    @classmethod
    def of(cls, settings: Settings, alpn: Sequence[str] = (ALPN,)) -> "Certificates":
        """What is served, the operator's own included: `trust/certificates` judges that and puts a copy here."""
        directory = settings.paths.certificates
        return cls(directory / "chain.pem", directory / "key.pem", alpn)

    def refresh(self) -> bool:
        """Load the pair if it changed. True if a new one is in use."""
        if (found := self._look()) == self._seen:
            return False
        try:
            self.identity = load_identity(*self._files, self._alpn)
        except PreconditionError as error:
            # Perhaps between the writing of the two files: tried again, because `_seen` stays.
            log.warning("keeping the old certificate: %s", error.public)
            return False
        self._seen = found
        log.info("a new certificate is in use")
        return True

    def _look(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_identity_of(path) for path in self._files)


def _identity_of(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return (stat.st_ino, stat.st_mtime_ns, stat.st_size)

"""Judging certificates: what one says, and what is wrong with a pair that an operator supplies. Pure."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, SignatureAlgorithmOID

from cloister.trust.certificates.authority import is_chain

RSA_BITS_MIN: Final = 2048
# Every client refuses less (CA/Browser Forum Baseline Requirements §6.1.5).

_HASHES: Final = (hashes.SHA256, hashes.SHA384, hashes.SHA512)


@dataclass(frozen=True, slots=True)
class CertificateInfo:
    """What a person wants to know about a certificate."""

    subject: str
    issuer: str
    names: tuple[str, ...]
    not_before: datetime
    not_after: datetime
    fingerprint: str
    """SHA-256, in hexadecimal."""
    is_self_signed: bool


def inspect(chain: bytes) -> list[CertificateInfo]:
    """Every certificate of a PEM file, in its order: the leaf is the first. Raises ValueError."""
    return [_info(certificate) for certificate in x509.load_pem_x509_certificates(chain)]


def problems(chain: bytes, key: bytes, domain: str, now: datetime) -> list[str]:
    """Everything that keeps this pair from serving `domain`, each in a sentence; empty if nothing does.

    1. Both files can be read, and the key is not encrypted.
    2. The key belongs to the first certificate.
    3. Each certificate is issued by the next: clients hold only the root.
    4. It is valid now.
    5. It covers `domain` and `*.domain`.
    6. It may be used by a server.
    7. Its signature has a hash, so that channel binding is defined, and a strong one.
    8. Its key is one that clients accept.
    """
    # 1. Readable.
    try:
        certificates = x509.load_pem_x509_certificates(chain)
    except ValueError:
        return ["the certificate file holds no certificate in PEM form"]
    try:
        private = serialization.load_pem_private_key(key, None)
    except TypeError:
        return ["the key is encrypted: give it without a passphrase"]
    except ValueError:
        return ["the key file holds no private key in PEM form"]
    leaf = certificates[0]
    found: list[str] = []
    # 2. A pair.
    if _public_bytes(private.public_key()) != _public_bytes(leaf.public_key()):
        found.append("the key does not belong to the first certificate (the server's own must come first)")
    # 3. A chain.
    if not is_chain(certificates):
        found.append("each certificate must be followed by the one that issued it")
    # 4. In time.
    for place, certificate in enumerate(certificates):
        which = "the certificate" if place == 0 else f"certificate {place + 1} of the chain"
        if now > certificate.not_valid_after_utc:
            found.append(f"{which} expired on {certificate.not_valid_after_utc:%Y-%m-%d}")
        if now < certificate.not_valid_before_utc:
            found.append(f"{which} is not valid before {certificate.not_valid_before_utc:%Y-%m-%d}")
    # 5. For these names.
    names = _names(leaf)
    found += [
        f"the certificate does not cover {name} (it covers {', '.join(names) or 'nothing'})"
        for name in (domain, f"*.{domain}")
        if not _covers(names, name)
    ]
    # 6. For a server.
    usage = _extension(leaf, x509.ExtendedKeyUsage)
    if usage is not None and ExtendedKeyUsageOID.SERVER_AUTH not in usage:
        found.append("the certificate is not for servers (no serverAuth in its extended key usage)")
    # 7. With a signature that has a hash.
    if leaf.signature_algorithm_oid == SignatureAlgorithmOID.RSASSA_PSS or leaf.signature_hash_algorithm is None:
        found.append(
            "channel binding is not defined for its signature: use ECDSA or RSA (PKCS#1) with SHA-256 or SHA-384"
        )
    elif not isinstance(leaf.signature_hash_algorithm, _HASHES):
        found.append(f"its signature uses {leaf.signature_hash_algorithm.name}, which is too weak")
    # 8. With a usual key.
    public = leaf.public_key()
    if isinstance(public, rsa.RSAPublicKey):
        if public.key_size < RSA_BITS_MIN:
            found.append(f"its RSA key has {public.key_size} bits, at least {RSA_BITS_MIN} are needed")
    elif not isinstance(public, ec.EllipticCurvePublicKey):
        found.append("its key is neither RSA nor ECDSA")
    return found


def _info(certificate: x509.Certificate) -> CertificateInfo:
    return CertificateInfo(
        subject=certificate.subject.rfc4514_string(),
        issuer=certificate.issuer.rfc4514_string(),
        names=tuple(_names(certificate)),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
        is_self_signed=certificate.subject == certificate.issuer,
    )


def _names(certificate: x509.Certificate) -> list[str]:
    names = _extension(certificate, x509.SubjectAlternativeName)
    return [] if names is None else [str(name.value) for name in names]


def _covers(names: list[str], wanted: str) -> bool:
    """RFC 6125: a wildcard stands for exactly one label. `wanted` may itself be one: then only the same will do."""
    lower = [name.lower() for name in names]
    _, _, parent = wanted.partition(".")
    return wanted in lower or (not wanted.startswith("*") and f"*.{parent}" in lower)


def _extension(certificate: x509.Certificate, kind: Any) -> Any | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _public_bytes(key: Any) -> bytes:
    encoded: bytes = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return encoded

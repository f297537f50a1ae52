"""An authority of our own: a root, an intermediate, and leaves for one domain. Pure, but for the randomness of keys.

The root is what clients are given to trust, so it can vouch for nothing but this platform's domain: its name constraints
say so, and a stolen key of ours cannot impersonate anybody else, even to a client that put our root among the system's.

Leaves are ECDSA P-256 with SHA-256: `tls-server-end-point` channel binding (RFC 5929) hashes a certificate with its
signature's hash, and has no answer for Ed25519 and RSA-PSS.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

ROOT_LIFE: Final = timedelta(days=3652)
# Every client holds the root: to exchange it is work for people, not for us.
INTERMEDIATE_LIFE: Final = timedelta(days=365)
LEAF_LIFE: Final = timedelta(days=30)
RENEW_AFTER: Final = 2 / 3
# Of a life. What is left, ten days for a leaf, is for noticing that renewal fails.
BACKDATE: Final = timedelta(hours=1)
# Clients' clocks are late by minutes.

COMMON_NAME_CHARS_MAX: Final = 64
# ub-common-name of RFC 5280. A longer domain is named by its subject alternative names alone, as every domain could be.

_LOOPBACK: Final = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))
_EVERY_ADDRESS: Final = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))
_CURVE: Final = ec.SECP256R1()


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def __repr__(self) -> str:
        return f"Identity({self.certificate.subject.rfc4514_string()})"


def names_of(domain: str) -> list[x509.GeneralName]:
    """What a leaf for `domain` vouches for: it, and every endpoint under it. A domain under `localhost` is this machine
    alone, so its leaf also covers the other names of this machine, for clients that cannot resolve ours."""
    names: list[x509.GeneralName] = [x509.DNSName(domain), x509.DNSName(f"*.{domain}")]
    if is_local(domain):
        names += [x509.DNSName("localhost")]
        names += [x509.IPAddress(ipaddress.ip_address(address)) for address in ("127.0.0.1", "::1")]
    return names


def is_local(domain: str) -> bool:
    return domain.endswith(".localhost")


def constraints_of(domain: str) -> x509.NameConstraints:
    if is_local(domain):
        permitted = [x509.DNSName("localhost"), *map(x509.IPAddress, _LOOPBACK)]
        return x509.NameConstraints(permitted, None)
    return x509.NameConstraints([x509.DNSName(domain)], [x509.IPAddress(network) for network in _EVERY_ADDRESS])


def new_root(domain: str, now: datetime) -> Identity:
    key = ec.generate_private_key(_CURVE)
    serial = x509.random_serial_number()
    # Two platforms' roots have different names: a client that trusts both finds the right one.
    name = _name(f"Cloister root {serial:040x}"[:22])
    builder = _builder(name, name, key, serial=serial, now=now, end=now + ROOT_LIFE)
    builder = _for_authority(builder, path_length=1).add_extension(constraints_of(domain), critical=True)
    return Identity(_signed(builder, key, key), key)


def new_intermediate(root: Identity, now: datetime) -> Identity:
    key = ec.generate_private_key(_CURVE)
    serial = x509.random_serial_number()
    end = min(now + INTERMEDIATE_LIFE, root.certificate.not_valid_after_utc)
    name = _name(f"Cloister intermediate {serial:040x}"[:30])
    builder = _builder(name, root.certificate.subject, key, serial=serial, now=now, end=end)
    return Identity(_signed(_for_authority(builder, path_length=0), key, root.key), key)


def new_leaf(intermediate: Identity, domain: str, now: datetime) -> Identity:
    key = ec.generate_private_key(_CURVE)
    end = min(now + LEAF_LIFE, intermediate.certificate.not_valid_after_utc)
    subject = _name(domain if len(domain) <= COMMON_NAME_CHARS_MAX else None)
    builder = (
        _builder(subject, intermediate.certificate.subject, key, serial=x509.random_serial_number(), now=now, end=end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names_of(domain)), critical=False)
    )
    return Identity(_signed(builder, key, intermediate.key), key)


def renew_at(certificate: x509.Certificate) -> datetime:
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    return certificate.not_valid_before_utc + life * RENEW_AFTER


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in certificates)


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _name(common_name: str | None) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Cloister")]
    if common_name is not None:
        attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, common_name))
    return x509.Name(attributes)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, *, serial: int, now: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - BACKDATE)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _for_authority(builder: x509.CertificateBuilder, *, path_length: int) -> x509.CertificateBuilder:
    return builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True).add_extension(
        _key_usage(key_cert_sign=True, crl_sign=True), critical=True
    )


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _signed(
    builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey, issuer_key: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    if key is not issuer_key:
        builder = builder.add_extension(authority, critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def permits(root: x509.Certificate, domain: str) -> bool:
    """The root was made for this domain."""
    try:
        return root.extensions.get_extension_for_class(x509.NameConstraints).value == constraints_of(domain)
    except x509.ExtensionNotFound:
        return False


def is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except Exception:  # a wrong name is a ValueError, a wrong signature InvalidSignature, a wrong type TypeError
        return False
    return True


def is_chain(certificates: Sequence[x509.Certificate]) -> bool:
    """Each is issued by the next."""
    return all(is_issued_by(one, issuer) for one, issuer in pairwise(certificates))

"""Loading a TLS identity: the binding hash, and what is refused."""

import datetime as dt
import hashlib
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from cloister.base.errors import PreconditionError
from cloister.edge.gateway.certificates import Certificates, end_point_binding, load_identity
from tests.fix_gateway import write_certificate

Key = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


def certificate(key: Key, algorithm: hashes.SHA256 | hashes.SHA384 | None) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + dt.timedelta(days=1))
    return builder.sign(key, algorithm)


def der(leaf: x509.Certificate) -> bytes:
    return leaf.public_bytes(serialization.Encoding.DER)


def test_the_binding_is_the_hash_of_the_signature() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = certificate(key, hashes.SHA256())
    assert end_point_binding(leaf) == hashlib.sha256(der(leaf)).digest()
    leaf = certificate(key, hashes.SHA384())
    assert end_point_binding(leaf) == hashlib.sha384(der(leaf)).digest()


def test_a_signature_without_a_hash_of_its_own_has_no_binding() -> None:
    assert end_point_binding(certificate(ed25519.Ed25519PrivateKey.generate(), None)) is None


def test_only_tls_1_2_and_1_3_with_forward_secrecy_and_aead(tmp_path: Path) -> None:
    write_certificate(tmp_path)
    context = load_identity(tmp_path / "chain.pem", tmp_path / "key.pem").context
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    for cipher in context.get_ciphers():
        assert cipher["aead"]
        assert cipher["protocol"] == "TLSv1.3" or cipher["name"].startswith("ECDHE")
    assert context.num_tickets == 0
    assert context.options & ssl.OP_NO_RENEGOTIATION


@pytest.mark.parametrize("broken", ["chain.pem", "key.pem"])
def test_files_that_cannot_be_loaded_are_one_sentence(tmp_path: Path, broken: str) -> None:
    write_certificate(tmp_path)
    (tmp_path / broken).write_text("nonsense")
    with pytest.raises(PreconditionError) as raised:
        load_identity(tmp_path / "chain.pem", tmp_path / "key.pem")
    assert raised.value.public.startswith("cannot load")


def test_a_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    write_certificate(tmp_path)
    chain = (tmp_path / "chain.pem").read_bytes()
    write_certificate(tmp_path)
    (tmp_path / "chain.pem").write_bytes(chain)
    with pytest.raises(PreconditionError):
        load_identity(tmp_path / "chain.pem", tmp_path / "key.pem")


def test_a_new_pair_is_noticed_and_half_a_pair_is_waited_for(tmp_path: Path) -> None:
    write_certificate(tmp_path)
    certificates = Certificates(tmp_path / "chain.pem", tmp_path / "key.pem")
    first = certificates.identity
    assert not certificates.refresh()
    key = (tmp_path / "key.pem").read_bytes()
    write_certificate(tmp_path)
    new_key = (tmp_path / "key.pem").read_bytes()
    (tmp_path / "key.pem").write_bytes(key)
    assert not certificates.refresh()
    assert certificates.identity is first
    (tmp_path / "key.pem").write_bytes(new_key)
    assert certificates.refresh()
    assert certificates.identity.binding != first.binding

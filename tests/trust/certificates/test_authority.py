"""What our authority issues, real clients accept: OpenSSL's own program, and Python with RFC 5280 taken strictly."""

import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from cloister.trust.certificates.authority import (
    LEAF_LIFE,
    Identity,
    is_chain,
    key_pem,
    new_intermediate,
    new_leaf,
    new_root,
    pem,
    permits,
    renew_at,
)

NOW = datetime.now(UTC).replace(microsecond=0)
DOMAINS = ["db.localhost", "db.example.com", f"{'a' * 60}.{'b' * 60}.example.com"]


def issue(domain: str) -> tuple[Identity, Identity, Identity]:
    root = new_root(domain, NOW)
    intermediate = new_intermediate(root, NOW)
    return root, intermediate, new_leaf(intermediate, domain, NOW)


def handshake(tmp_path: Path, root: Identity, intermediate: Identity, leaf: Identity, name: str) -> None:
    """A TLS client that verifies meets a server with this chain, in memory. Raises SSLCertVerificationError."""
    (tmp_path / "chain.pem").write_bytes(pem(leaf.certificate, intermediate.certificate))
    (tmp_path / "key.pem").write_bytes(key_pem(leaf.key))
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(tmp_path / "chain.pem", tmp_path / "key.pem")
    asking = ssl.create_default_context(cadata=pem(root.certificate).decode())
    asking.verify_flags |= ssl.VERIFY_X509_STRICT
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = asking.wrap_bio(back, there, server_hostname=name)
    server = serving.wrap_bio(there, back, server_side=True)
    done: set[ssl.SSLObject] = set()
    while len(done) < 2:
        for side in (client, server):
            try:
                side.do_handshake()
                done.add(side)
            except ssl.SSLWantReadError:
                pass


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_strict_client_accepts_every_name(tmp_path: Path, domain: str) -> None:
    chain = issue(domain)
    for name in (domain, f"ep-calm-forest-ab12cd34.{domain}", f"api.{domain}"):
        handshake(tmp_path, *chain, name)


def test_a_local_domain_covers_this_machines_other_names(tmp_path: Path) -> None:
    chain = issue("db.localhost")
    for name in ("localhost", "127.0.0.1", "::1"):
        handshake(tmp_path, *chain, name)
    public = issue("db.example.com")
    for name in ("localhost", "127.0.0.1", "other.example.com", "a.b.db.example.com"):
        with pytest.raises(ssl.SSLCertVerificationError):
            handshake(tmp_path, *public, name)


@pytest.mark.parametrize("domain", DOMAINS)
def test_openssl_verifies_strictly(tmp_path: Path, domain: str) -> None:
    root, intermediate, leaf = issue(domain)
    for name, identity in (("root", root), ("intermediate", intermediate), ("leaf", leaf)):
        (tmp_path / f"{name}.pem").write_bytes(pem(identity.certificate))
    command = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", f"ep-1.{domain}"]
    files = ["-CAfile", "root.pem", "-untrusted", "intermediate.pem", "leaf.pem"]
    result = subprocess.run([*command, *files], cwd=tmp_path, check=False, capture_output=True, text=True, timeout=30)
    assert result.stdout == "leaf.pem: OK\n", result.stderr


@pytest.mark.parametrize(
    ("ours", "theirs", "name"),
    [
        ("db.example.com", "example.org", "example.org"),
        ("db.example.com", "example.com", "example.com"),
        ("db.example.com", "evil.localhost", "127.0.0.1"),
        ("db.localhost", "example.org", "example.org"),
    ],
)
def test_a_stolen_authority_vouches_for_nobody_else(tmp_path: Path, ours: str, theirs: str, name: str) -> None:
    root, intermediate, _ = issue(ours)
    with pytest.raises(ssl.SSLCertVerificationError, match=r"permitted subtree violation|excluded subtree violation"):
        handshake(tmp_path, root, intermediate, new_leaf(intermediate, theirs, NOW), name)


def test_an_intermediate_cannot_make_another(tmp_path: Path) -> None:
    root, intermediate, _ = issue("db.localhost")
    below = new_intermediate(intermediate, NOW)
    (tmp_path / "root.pem").write_bytes(pem(root.certificate))
    (tmp_path / "between.pem").write_bytes(pem(intermediate.certificate, below.certificate))
    (tmp_path / "leaf.pem").write_bytes(pem(new_leaf(below, "db.localhost", NOW).certificate))
    command = ["openssl", "verify", "-CAfile", "root.pem", "-untrusted", "between.pem", "leaf.pem"]
    result = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True, timeout=30)
    assert "path length constraint exceeded" in result.stderr


def test_a_leaf_is_p256_with_sha256_for_a_month() -> None:
    _, _, leaf = issue("db.localhost")
    certificate = leaf.certificate
    assert isinstance(certificate.signature_hash_algorithm, hashes.SHA256)
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert isinstance(key.curve, ec.SECP256R1)
    assert certificate.not_valid_after_utc == NOW + LEAF_LIFE
    assert NOW + timedelta(days=19) < renew_at(certificate) < NOW + timedelta(days=21)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert not usage.key_cert_sign


def test_nothing_outlives_its_issuer() -> None:
    root = new_root("db.localhost", NOW)
    late = root.certificate.not_valid_after_utc - timedelta(days=10)
    intermediate = new_intermediate(root, late)
    leaf = new_leaf(intermediate, "db.localhost", late)
    assert intermediate.certificate.not_valid_after_utc == root.certificate.not_valid_after_utc
    assert leaf.certificate.not_valid_after_utc == root.certificate.not_valid_after_utc


def test_a_root_knows_its_domain() -> None:
    root = new_root("db.example.com", NOW).certificate
    assert permits(root, "db.example.com")
    assert not permits(root, "db.example.org")
    assert not permits(root, "db.localhost")


def test_a_chain_is_a_chain() -> None:
    root, intermediate, leaf = (identity.certificate for identity in issue("db.localhost"))
    stranger = new_root("db.localhost", NOW).certificate
    assert is_chain([leaf, intermediate, root])
    assert is_chain([leaf])
    assert not is_chain([leaf, root])
    assert not is_chain([leaf, intermediate, stranger])


def test_a_key_does_not_print() -> None:
    root = new_root("db.localhost", NOW)
    assert "PRIVATE" not in repr(root)
    assert repr(root).startswith("Identity(CN=Cloister root ")

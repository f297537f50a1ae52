"""`ensure` makes what is missing, due or wrong, and nothing else; a reader never meets half of a change."""

import os
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from cloister.base.errors import PreconditionError
from cloister.base.settings import Paths
from cloister.trust.certificates import Current, Renewed, Supplied, ensure, inspect
from cloister.trust.certificates.authority import key_pem, new_intermediate, new_leaf, new_root, pem
from cloister.trust.certificates.files import GENERATIONS_KEPT, serve, served
from cloister.trust.certificates.inspection import problems
from cloister.trust.certificates.renewal import served_by_nobody

DOMAIN = "db.localhost"
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    # The group of the gateways and the API need not exist where tests run.
    monkeypatch.setattr("cloister.trust.certificates.files.am_root", lambda: False)
    paths = Paths(tmp_path)
    paths.certificates.mkdir()
    return paths


def loads(paths: Paths) -> bytes:
    """As a front door does; the chain it got."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(paths.certificates / "chain.pem", paths.certificates / "key.pem")
    return (paths.certificates / "chain.pem").read_bytes()


def test_the_first_time_makes_all_three(paths: Paths) -> None:
    made = ensure(paths, DOMAIN, NOW)
    assert made == Renewed(NOW + 30 * DAY, ("root", "intermediate", "leaf"))
    leaf, intermediate = inspect(loads(paths))
    (root,) = inspect(paths.ca_file.read_bytes())
    assert leaf.names == (DOMAIN, f"*.{DOMAIN}", "localhost", "127.0.0.1", "::1")
    assert (leaf.issuer, intermediate.issuer) == (intermediate.subject, root.subject)
    assert root.is_self_signed
    issued = (paths.certificates / "authority" / "issued.log").read_text().splitlines()
    assert len(issued) == 3
    assert leaf.fingerprint in issued[-1]


def test_twice_is_once(paths: Paths) -> None:
    ensure(paths, DOMAIN, NOW)
    before = loads(paths)
    assert ensure(paths, DOMAIN, NOW + 19 * DAY) == Current(NOW + 30 * DAY)
    assert loads(paths) == before


def test_a_leaf_is_renewed_at_two_thirds_of_its_life_and_with_another_key(paths: Paths) -> None:
    ensure(paths, DOMAIN, NOW)
    chain, key, ca = loads(paths), (paths.certificates / "key.pem").read_bytes(), paths.ca_file.read_bytes()
    assert ensure(paths, DOMAIN, NOW + 21 * DAY) == Renewed(NOW + 51 * DAY, ("leaf",))
    assert loads(paths) != chain
    assert (paths.certificates / "key.pem").read_bytes() != key
    assert paths.ca_file.read_bytes() == ca, "clients notice nothing"


def test_years_pass_under_one_root(paths: Paths) -> None:
    ensure(paths, DOMAIN, NOW)
    ca = paths.ca_file.read_bytes()
    (root,) = x509.load_pem_x509_certificates(ca)
    renewed: set[str] = set()
    for day in range(0, 365 * 8, 7):
        result = ensure(paths, DOMAIN, NOW + day * DAY)
        renewed.update(result.what if isinstance(result, Renewed) else ())
        leaf, intermediate = x509.load_pem_x509_certificates(loads(paths))
        assert result.not_after - (NOW + day * DAY) > 2 * DAY
        assert leaf.not_valid_after_utc <= intermediate.not_valid_after_utc <= root.not_valid_after_utc
    assert renewed == {"intermediate", "leaf"}
    assert paths.ca_file.read_bytes() == ca
    assert "root" in getattr(ensure(paths, DOMAIN, NOW + 9.5 * 365 * DAY), "what", ())


def test_another_domain_needs_another_root(paths: Paths) -> None:
    ensure(paths, DOMAIN, NOW)
    moved = ensure(paths, "db.example.com", NOW)
    assert isinstance(moved, Renewed)
    assert moved.what == ("root", "intermediate", "leaf")
    assert inspect(loads(paths))[0].names == ("db.example.com", "*.db.example.com")


def test_a_domain_of_one_label_is_refused(paths: Paths) -> None:
    with pytest.raises(PreconditionError, match="needs a dot"):
        ensure(paths, "localhost", NOW)


@pytest.mark.parametrize(
    "damage",
    [
        lambda certificates: (certificates / "chain.pem").resolve().write_text("damaged"),
        lambda certificates: (certificates / "key.pem").resolve().unlink(),
        lambda certificates: (
            (certificates / "key.pem").resolve().write_bytes(key_pem(ec.generate_private_key(ec.SECP256R1())))
        ),
        lambda certificates: (certificates / "current").unlink(),
    ],
    ids=["a damaged chain", "no key", "another key", "no link"],
)
def test_what_is_damaged_is_made_anew(paths: Paths, damage: Callable[[Path], object]) -> None:
    ensure(paths, DOMAIN, NOW)
    damage(paths.certificates)
    assert ensure(paths, DOMAIN, NOW) == Renewed(NOW + 30 * DAY, ("leaf",))
    loads(paths)


def test_a_lost_ca_file_comes_back_as_it_was(paths: Paths) -> None:
    ensure(paths, DOMAIN, NOW)
    ca = paths.ca_file.read_bytes()
    paths.ca_file.unlink()
    assert isinstance(ensure(paths, DOMAIN, NOW), Current)
    assert paths.ca_file.read_bytes() == ca


def test_the_roots_key_may_be_elsewhere_until_an_intermediate_is_due(
    paths: Paths, caplog: pytest.LogCaptureFixture
) -> None:
    ensure(paths, DOMAIN, NOW)
    key = paths.certificates / "authority" / "root-and-key.pem"
    elsewhere = key.rename(paths.state_dir / "in-a-safe.pem")
    assert isinstance(ensure(paths, DOMAIN, NOW + 21 * DAY), Renewed)
    ensure(paths, DOMAIN, NOW + 300 * DAY)
    assert "the intermediate certificate is due" in caplog.text
    with pytest.raises(PreconditionError, match=r"put .*root-and-key\.pem back"):
        ensure(paths, DOMAIN, NOW + 366 * DAY)
    elsewhere.rename(key)
    assert ensure(paths, DOMAIN, NOW + 366 * DAY) == Renewed(NOW + 396 * DAY, ("intermediate", "leaf"))


def test_a_damaged_authority_is_not_silently_replaced(paths: Paths) -> None:
    ensure(paths, DOMAIN, NOW)
    (paths.certificates / "authority" / "root-and-key.pem").write_text("damaged")
    with pytest.raises(PreconditionError, match="is damaged"):
        ensure(paths, DOMAIN, NOW)


def test_private_keys_are_private(paths: Paths) -> None:
    previous = os.umask(0)
    try:
        ensure(paths, DOMAIN, NOW)
    finally:
        os.umask(previous)
    modes = {
        path.relative_to(paths.certificates).as_posix(): path.stat().st_mode & 0o777
        for path in paths.certificates.rglob("*")
        if not path.is_symlink()
    }
    assert modes == {
        "ca.pem": 0o644,
        "authority": 0o700,
        "authority/root-and-key.pem": 0o600,
        "authority/intermediate-and-key.pem": 0o600,
        "authority/issued.log": 0o600,
        "generations": 0o755,
        "generations/1": 0o755,
        "generations/1/chain.pem": 0o644,
        "generations/1/key.pem": 0o640,
    }


def test_every_generation_fits_together_and_old_ones_go(paths: Paths) -> None:
    for month in range(6):
        ensure(paths, DOMAIN, NOW + 30 * month * DAY)
        now_served = served(paths)
        assert now_served is not None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(now_served.chain, now_served.key)
        assert now_served.generation == str(month + 1)
    kept = sorted(entry.name for entry in (paths.certificates / "generations").iterdir())
    assert kept == ["4", "5", "6"]
    assert len(kept) == GENERATIONS_KEPT


def test_a_crash_before_the_exchange_leaves_the_old_pair(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure(paths, DOMAIN, NOW)
    before = loads(paths)

    def crash(*_: object) -> None:
        raise OSError("power")

    with monkeypatch.context() as patch:
        patch.setattr("cloister.trust.certificates.files._link", crash)
        with pytest.raises(OSError, match="power"):
            ensure(paths, DOMAIN, NOW + 21 * DAY)
    assert loads(paths) == before
    assert isinstance(ensure(paths, DOMAIN, NOW + 21 * DAY), Renewed)
    assert loads(paths) != before


def supplied_pair(directory: Path, domain: str, now: datetime = NOW) -> Supplied:
    root = new_root(domain, now)
    intermediate = new_intermediate(root, now)
    leaf = new_leaf(intermediate, domain, now)
    files = Supplied(directory / "fullchain.pem", directory / "privkey.pem")
    files.chain.write_bytes(pem(leaf.certificate, intermediate.certificate, root.certificate))
    files.key.write_bytes(key_pem(leaf.key))
    return files


def test_an_operators_pair_is_served_and_exchanged(paths: Paths, tmp_path: Path) -> None:
    ensure(paths, DOMAIN, NOW)
    files = supplied_pair(tmp_path, "db.example.com")
    assert ensure(paths, "db.example.com", NOW, files) == Renewed(NOW + 30 * DAY, ("supplied",))
    assert loads(paths) == files.chain.read_bytes()
    assert inspect(paths.ca_file.read_bytes())[0].subject == inspect(files.chain.read_bytes())[-1].subject
    assert isinstance(ensure(paths, "db.example.com", NOW, files), Current)
    supplied_pair(tmp_path, "db.example.com", NOW + DAY)
    assert isinstance(ensure(paths, "db.example.com", NOW + DAY, files), Renewed)
    back = ensure(paths, DOMAIN, NOW)
    assert isinstance(back, Renewed)
    assert back.what == ("leaf",), "our own root was kept meanwhile"


def test_an_operators_pair_that_will_not_do_leaves_the_old_one(paths: Paths, tmp_path: Path) -> None:
    ensure(paths, DOMAIN, NOW)
    before = loads(paths)
    files = supplied_pair(tmp_path, "db.example.com")
    with pytest.raises(PreconditionError, match=r"does not cover db\.localhost"):
        ensure(paths, DOMAIN, NOW, files)
    with pytest.raises(PreconditionError, match="No such file"):
        ensure(paths, DOMAIN, NOW, Supplied(tmp_path / "nothing.pem", files.key))
    assert loads(paths) == before


def certificate_with(
    names: list[str],
    *,
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | None = None,
    hash_: hashes.SHA256 | hashes.SHA384 | None = hashes.SHA256(),  # noqa: B008 - a value
    usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.SERVER_AUTH,
    is_pss: bool = False,
) -> tuple[bytes, bytes]:
    key = key or ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "operator")])
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, NOW - DAY, NOW + DAY)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(each) for each in names]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    )
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH) if is_pss else None
    certificate = builder.sign(key, hash_, rsa_padding=pss)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return pem(certificate), private


NAMES = ["db.example.com", "*.db.example.com"]
GOOD = certificate_with(NAMES)
RSA_KEY = rsa.generate_private_key(65537, 2048)


@pytest.mark.parametrize(
    ("pair", "now", "problem"),
    [
        (GOOD, NOW, None),
        (certificate_with(["*.example.com", "*.DB.example.com"]), NOW, None),
        (certificate_with(NAMES, hash_=hashes.SHA384()), NOW, None),
        (certificate_with(NAMES, key=RSA_KEY), NOW, None),
        (certificate_with(["db.example.com"]), NOW, "does not cover *.db.example.com"),
        (certificate_with(["*.db.example.com"]), NOW, "does not cover db.example.com"),
        (GOOD, NOW + 2 * DAY, "the certificate expired on 2026-05-02"),
        (GOOD, NOW - 2 * DAY, "is not valid before 2026-04-30"),
        ((GOOD[0], certificate_with(NAMES)[1]), NOW, "the key does not belong to the first certificate"),
        ((GOOD[0] + certificate_with(NAMES)[0], GOOD[1]), NOW, "must be followed by the one that issued it"),
        ((b"no PEM", GOOD[1]), NOW, "holds no certificate"),
        ((GOOD[0], b"no PEM"), NOW, "holds no private key"),
        (certificate_with(NAMES, key=ed25519.Ed25519PrivateKey.generate(), hash_=None), NOW, "channel binding is not"),
        (certificate_with(NAMES, key=RSA_KEY, is_pss=True), NOW, "channel binding is not defined"),
        (certificate_with(NAMES, key=rsa.generate_private_key(65537, 1024)), NOW, "its RSA key has 1024 bits"),  # noqa: S505 - refused
        (certificate_with(NAMES, usage=ExtendedKeyUsageOID.CLIENT_AUTH), NOW, "not for servers"),
    ],
)
def test_what_is_wrong_with_a_pair_is_said(pair: tuple[bytes, bytes], now: datetime, problem: str | None) -> None:
    found = problems(*pair, "db.example.com", now)
    assert any(problem in each for each in found) if problem else found == []


def test_an_encrypted_key_is_recognised() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    encrypted = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    assert problems(GOOD[0], encrypted, "db.example.com", NOW) == ["the key is encrypted: give it without a passphrase"]


def test_what_is_served_was_issued_or_given(paths: Paths, tmp_path: Path) -> None:
    """And what somebody else put in its place was neither."""
    assert served_by_nobody(paths) == ""
    ensure(paths, DOMAIN, NOW)
    assert served_by_nobody(paths) == ""
    theirs = new_leaf(new_intermediate(new_root(DOMAIN, NOW), NOW), DOMAIN, NOW)
    chain, key = pem(theirs.certificate), key_pem(theirs.key)
    serve(paths, chain, key)
    digest = theirs.certificate.fingerprint(hashes.SHA256()).hex()
    assert served_by_nobody(paths) == digest
    (tmp_path / "theirs.pem").write_bytes(chain)
    (tmp_path / "theirs.key").write_bytes(key)
    for _ in range(2):
        ensure(paths, DOMAIN, NOW, Supplied(tmp_path / "theirs.pem", tmp_path / "theirs.key"))
    assert served_by_nobody(paths) == "", "now it was given"
    assert (paths.certificates / "authority" / "issued.log").read_text().count(digest) == 1
    serve(paths, b"nonsense", key)
    assert served_by_nobody(paths) == "unreadable"

"""Bringing the certificates to where they must be: at every start, and daily after that. Root only.

Looks at what is there, then makes what is missing, due or wrong. Twice is once. Telling the front doors is not done
here: they look at the files themselves.
"""

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from cloister.base.errors import PreconditionError
from cloister.base.settings import Paths
from cloister.trust.certificates import files
from cloister.trust.certificates.authority import (
    INTERMEDIATE_LIFE,
    Identity,
    is_issued_by,
    key_pem,
    names_of,
    new_intermediate,
    new_leaf,
    new_root,
    pem,
    permits,
    renew_at,
)
from cloister.trust.certificates.inspection import problems

log = logging.getLogger(__name__)

SYSTEM_ROOTS: Final = Path("/etc/ssl/certs/ca-certificates.crt")
"""What the host trusts, on Debian and Ubuntu."""

SUPPLIED_WARNING: Final = timedelta(days=14)


@dataclass(frozen=True, slots=True)
class Supplied:
    """An operator's own certificate: PEM files, the server's first in the chain."""

    chain: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Current:
    """Nothing had to be done."""

    not_after: datetime


@dataclass(frozen=True, slots=True)
class Renewed:
    """Other certificates are served from now on."""

    not_after: datetime
    what: tuple[str, ...]
    """Of `root`, `intermediate`, `leaf`, `supplied`. With `root`, clients need the new ca.pem."""


def ensure(paths: Paths, domain: str, now: datetime, supplied: Supplied | None = None) -> Renewed | Current:
    """Have a valid certificate for `domain` served. Raises PreconditionError with a sentence for the operator; what was
    served before is served on.

    1. If the operator supplies one, judge it, and serve a copy: the originals are readable by root alone.
    2. Otherwise have a root that may vouch for this domain,
    3. an intermediate of that root that is not yet due, and
    4. a leaf of that intermediate, with the right names, that is not yet due.
    """
    if supplied is not None:
        return _serve_supplied(paths, domain, now, supplied)
    if "." not in domain:
        raise PreconditionError(public=f"domain {domain!r} needs a dot: no client accepts a certificate for *.{domain}")
    what: list[str] = []
    root, root_certificate = _root(paths, domain, now, what)
    intermediate = _intermediate(paths, root, root_certificate, now, what)
    leaf = _served_leaf(paths)
    if leaf is not None and _is_good(leaf, intermediate.certificate, domain, now):
        return Current(leaf.not_valid_after_utc)
    fresh = new_leaf(intermediate, domain, now)
    _log_issued(paths, fresh.certificate)
    files.serve(paths, pem(fresh.certificate, intermediate.certificate), key_pem(fresh.key))
    return Renewed(fresh.certificate.not_valid_after_utc, (*what, "leaf"))


def served_by_nobody(paths: Paths) -> str:
    """The SHA-256 of the certificate that is served, if `ensure` has not put it there; empty if it has, or none is."""
    serving = files.served(paths)
    if serving is None:
        return ""
    try:
        digest = x509.load_pem_x509_certificate(serving.chain.read_bytes()).fingerprint(hashes.SHA256()).hex()
    except ValueError:
        return "unreadable"
    return "" if f" sha256={digest} " in files.read_issued(paths) else digest


def _serve_supplied(paths: Paths, domain: str, now: datetime, supplied: Supplied) -> Renewed | Current:
    try:
        chain, key = supplied.chain.read_bytes(), supplied.key.read_bytes()
    except OSError as error:
        raise PreconditionError(public=f"{error.filename}: {error.strerror}") from error
    if found := problems(chain, key, domain, now):
        raise PreconditionError(public=f"{supplied.chain}: {'; '.join(found)}")
    certificates = x509.load_pem_x509_certificates(chain)
    not_after = min(certificate.not_valid_after_utc for certificate in certificates)
    if not_after - now < SUPPLIED_WARNING:
        log.warning("%s expires on %s", supplied.chain, f"{not_after:%Y-%m-%d}")
    if f" sha256={certificates[0].fingerprint(hashes.SHA256()).hex()} " not in files.read_issued(paths):
        _log_issued(paths, certificates[0], "given")
    serving = files.served(paths)
    if serving is not None and (serving.chain.read_bytes(), serving.key.read_bytes()) == (chain, key):
        return Current(not_after)
    # ca.pem is what clients verify with: the chain's own root, or what this host trusts.
    if certificates[-1].subject == certificates[-1].issuer:
        files.write_ca(paths, pem(certificates[-1]))
    elif SYSTEM_ROOTS.exists():
        files.write_ca(paths, SYSTEM_ROOTS.read_bytes())
    files.serve(paths, chain, key)
    return Renewed(not_after, ("supplied",))


def _root(paths: Paths, domain: str, now: datetime, what: list[str]) -> tuple[Identity | None, x509.Certificate]:
    """The root's certificate, and its key unless that was moved off this machine."""
    root = files.read_authority(paths, "root")
    public = files.read_ca(paths)
    certificate = root.certificate if root is not None else public
    if certificate is None or not _root_will_do(certificate, domain, now):
        root = new_root(domain, now)
        certificate = root.certificate
        files.write_authority(paths, "root", root)
        _log_issued(paths, certificate)
        what.append("root")
    if certificate != public:
        files.write_ca(paths, pem(certificate))
    return root, certificate


def _root_will_do(certificate: x509.Certificate, domain: str, now: datetime) -> bool:
    return permits(certificate, domain) and certificate.not_valid_after_utc - now > INTERMEDIATE_LIFE


def _intermediate(
    paths: Paths, root: Identity | None, root_certificate: x509.Certificate, now: datetime, what: list[str]
) -> Identity:
    known = files.read_authority(paths, "intermediate")
    is_ours = known is not None and is_issued_by(known.certificate, root_certificate)
    if known is not None and is_ours and now < renew_at(known.certificate):
        return known
    if root is None:
        where = paths.certificates / "authority" / "root-and-key.pem"
        if known is None or not is_ours or now >= known.certificate.not_valid_after_utc:
            raise PreconditionError(
                public=f"the intermediate certificate must be renewed: put {where} back for a moment"
            )
        log.warning("the intermediate certificate is due: put %s back for a moment", where)
        return known
    fresh = new_intermediate(root, now)
    files.write_authority(paths, "intermediate", fresh)
    _log_issued(paths, fresh.certificate)
    what.append("intermediate")
    return fresh


def _served_leaf(paths: Paths) -> x509.Certificate | None:
    """The leaf that is served, if its files are whole and fit together."""
    serving = files.served(paths)
    if serving is None:
        return None
    try:
        certificates = x509.load_pem_x509_certificates(serving.chain.read_bytes())
        key = load_pem_private_key(serving.key.read_bytes(), None)
    except (OSError, ValueError, TypeError):
        return None
    return certificates[0] if key.public_key() == certificates[0].public_key() else None


def _is_good(leaf: x509.Certificate, intermediate: x509.Certificate, domain: str, now: datetime) -> bool:
    return (
        leaf.not_valid_before_utc <= now < renew_at(leaf)
        and is_issued_by(leaf, intermediate)
        # Ours all have them; what an operator supplied before fails the line above.
        and list(leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value) == names_of(domain)
    )


def _log_issued(paths: Paths, certificate: x509.Certificate, how: str = "issued") -> None:
    line = (
        f"{certificate.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ} {certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ} "
        f"serial={certificate.serial_number:x} sha256={certificate.fingerprint(hashes.SHA256()).hex()} "
        f"subject={certificate.subject.rfc4514_string()!r} issuer={certificate.issuer.rfc4514_string()!r}"
    )
    files.log_issued(paths, line)
    log.info("%s %s", how, line)

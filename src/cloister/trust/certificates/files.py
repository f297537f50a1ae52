"""Where certificates lie, and how they change without anybody reading half of a change.

    ca.pem                            what clients verify with
    chain.pem, key.pem                links through `current`: the pair that is served
    current -> generations/N          exchanged in one rename(2): from one moment to the next both are new
    generations/N/{chain,key}.pem     never changed once `current` has pointed there; the last few are kept
    authority/root-and-key.pem        0600 root; may be moved off this machine, except when an intermediate is due
    authority/intermediate-and-key.pem
    authority/issued.log              one line for each signature, and each certificate that an operator gave

A reader who opens chain.pem before and key.pem after an exchange has a pair that does not fit, which loading it shows;
`served` gives the two paths of one generation.
"""

import contextlib
import grp
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from cloister.base.durable import sync_directory, write_durably
from cloister.base.errors import PreconditionError
from cloister.base.identities import SHARED_GROUP, am_root
from cloister.base.settings import Paths
from cloister.trust.certificates.authority import Identity, key_pem, pem

GENERATIONS_KEPT: Final = 3
# A reader that resolved `current` a moment ago must still find its files.


@dataclass(frozen=True, slots=True)
class Served:
    """The chain and the key of one generation: they belong together."""

    generation: str
    chain: Path
    key: Path


def served(paths: Paths) -> Served | None:
    """What is served now; None before the first certificate."""
    try:
        generation = (paths.certificates / "current").readlink().name
    except FileNotFoundError:
        return None
    directory = paths.certificates / "generations" / generation
    return Served(generation, directory / "chain.pem", directory / "key.pem")


def serve(paths: Paths, chain: bytes, key: bytes) -> Served:
    """Put a pair in place of the one that is served."""
    # 1. A new directory, closed to others until it is whole.
    generations = paths.certificates / "generations"
    generations.mkdir(mode=0o755, exist_ok=True)
    numbers = [int(entry.name) for entry in generations.iterdir() if entry.name.isdigit()]
    directory = generations / str(max(numbers, default=0) + 1)
    directory.mkdir(mode=0o700)
    # 2. Both files, on disk. The gateways and the API read the key through their common group.
    write_durably(directory / "chain.pem", chain, mode=0o644)
    shared_gid = grp.getgrnam(SHARED_GROUP).gr_gid if am_root() else -1
    write_durably(directory / "key.pem", key, mode=0o640, gid=shared_gid)
    directory.chmod(0o755)
    sync_directory(directory)
    # 3. One rename.
    _link(paths.certificates / "current", Path("generations") / directory.name)
    for name in ("chain.pem", "key.pem"):
        if not (paths.certificates / name).is_symlink():
            _link(paths.certificates / name, Path("current") / name)
    sync_directory(paths.certificates)
    # 4. Forget what nobody reads any more.
    for number in sorted(numbers)[: -(GENERATIONS_KEPT - 1) or None]:
        shutil.rmtree(generations / str(number))
    return Served(directory.name, directory / "chain.pem", directory / "key.pem")


def write_ca(paths: Paths, certificates: bytes) -> None:
    write_durably(paths.ca_file, certificates, mode=0o644)


def read_ca(paths: Paths) -> x509.Certificate | None:
    with contextlib.suppress(FileNotFoundError, ValueError):
        return x509.load_pem_x509_certificate(paths.ca_file.read_bytes())
    return None


def write_authority(paths: Paths, name: str, identity: Identity) -> None:
    """Certificate and key in one file: no crash can part them."""
    directory = paths.certificates / "authority"
    directory.mkdir(mode=0o700, exist_ok=True)
    write_durably(directory / f"{name}-and-key.pem", pem(identity.certificate) + key_pem(identity.key), mode=0o600)


def read_authority(paths: Paths, name: str) -> Identity | None:
    path = paths.certificates / "authority" / f"{name}-and-key.pem"
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        certificate, key = x509.load_pem_x509_certificate(content), load_pem_private_key(content, None)
    except (ValueError, TypeError) as error:
        raise PreconditionError(public=f"{path} is damaged: restore it, or remove it for a new one") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise PreconditionError(public=f"{path} holds a key that is not ours")
    return Identity(certificate, key)


def log_issued(paths: Paths, line: str) -> None:
    """A signature that is not in this log was not made by this code, and what is served and is not in it nobody gave us."""
    (paths.certificates / "authority").mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(
        paths.certificates / "authority" / "issued.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600
    )
    try:
        os.write(descriptor, line.encode() + b"\n")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_issued(paths: Paths) -> str:
    with contextlib.suppress(FileNotFoundError):
        return (paths.certificates / "authority" / "issued.log").read_text()
    return ""


def _link(path: Path, target: Path) -> None:
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(path)

"""Who signed a commit, and whether theirs is a signature that counts.

Git is asked for bytes alone, and what it says is held to the commit's name here: how it verifies, and with which program, a repository's own
configuration says, and so do its replacements of one object by another.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloister.cli.config import commits
from cloister.cli.failure import CommandError
from cloister.protocol.sshsig import PublicKey, SignatureError, allowed_signers, verify

_NAMESPACE: Final = "git"
_HEADERS: Final = {40: b"gpgsig", 64: b"gpgsig-sha256"}
"""What a commit's signature stands in, by the digits of its name."""

SIGNERS_BYTES_MAX: Final = 1024 * 1024
# Ten thousand people.


@dataclass(frozen=True, slots=True)
class Signer:
    principal: str
    fingerprint: str
    """SHA-256 of the key, in hexadecimal."""


Signers = Mapping[PublicKey, str]


def read(file: Path, path: Path) -> Signers:
    """Who may sign what is at `path`. The file lies elsewhere: whoever may change what is there would say who may. Raises CommandError,
    OSError."""
    tree = commits.tree_of(path)
    if tree is not None and file.resolve().is_relative_to(tree):
        raise CommandError(
            f"{file} is in the working tree that it is about: keep it where only its keepers can change it"
        )
    with file.open("rb") as content:
        said = content.read(SIGNERS_BYTES_MAX + 1)
    if len(said) > SIGNERS_BYTES_MAX:
        raise CommandError(f"{file} has more than {SIGNERS_BYTES_MAX} bytes")
    try:
        return allowed_signers(said.decode(), namespace=_NAMESPACE)
    except (SignatureError, UnicodeDecodeError) as error:
        raise CommandError(f"{file}: {error}") from None


def signer_of(path: Path, commit: str, signers: Signers) -> Signer:
    """Raises CommandError where there is none that counts."""
    # (1) The commit, to the byte: its name is its digest.
    raw = commits.raw_commit(path, commit)
    if raw is None:
        raise CommandError(f"{commit} is not in the repository, or not what its name says")
    # (2) One signature, of the kind that goes with the name; what was signed is everything else.
    signature, message = _split(raw, _HEADERS[len(commit)])
    if signature is None:
        raise CommandError(f"{commit} is not signed")
    # (3) Whose it is, and whether theirs counts.
    try:
        key = verify(signature, message, namespace=_NAMESPACE)
    except SignatureError as error:
        raise CommandError(f"the signature of {commit} is not good: {error}") from None
    if key not in signers:
        raise CommandError(f"{commit} is signed with a key that is not among those allowed: SHA-256 {key.fingerprint}")
    return Signer(signers[key], key.fingerprint)


def _split(raw: bytes, wanted: bytes) -> tuple[bytes | None, bytes]:
    """The signature of a commit, and the commit without it. None where there is none, or another kind beside it: of two, one would not be
    looked at."""
    head, blank, text = raw.partition(b"\n\n")
    kept: list[bytes] = []
    taken: list[bytes] = []
    inside = False
    for line in head.split(b"\n"):
        if line.startswith(b" "):
            (taken if inside else kept).append(line[1:] if inside else line)
            continue
        name, _, value = line.partition(b" ")
        inside = name in _HEADERS.values()
        if inside and (name != wanted or taken):
            return None, raw
        (taken if inside else kept).append(value if inside else line)
    return (b"\n".join(taken) + b"\n" if taken else None), b"\n".join(kept) + blank + text

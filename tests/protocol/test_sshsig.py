"""SSH's signatures: what ssh-keygen signs is read here, and nothing else passes for it."""

import base64
import contextlib
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.protocol.sshsig import PublicKey, SignatureError, allowed_signers, verify

MESSAGE = b"tree 1\n\nwhat was said\n"


def keygen(*words: str, stdin: bytes = b"") -> bytes:
    return subprocess.run(["ssh-keygen", *words], input=stdin, check=True, capture_output=True).stdout


class Signer:
    def __init__(self, directory: Path, kind: str = "ed25519") -> None:
        self.key = directory / kind
        keygen("-q", "-t", kind, "-N", "", "-C", "ada", "-f", str(self.key))
        self.public = self.key.with_suffix(".pub").read_text()

    def sign(self, message: bytes = MESSAGE, namespace: str = "git", *more: str) -> bytes:
        return keygen("-q", "-Y", "sign", "-f", str(self.key), "-n", namespace, *more, stdin=message)


@pytest.fixture(scope="module")
def ada(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    return Signer(tmp_path_factory.mktemp("ada"))


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_what_ssh_keygen_signs_is_whose_it_is(ada: Signer, algorithm: str) -> None:
    key = verify(ada.sign(MESSAGE, "git", f"-Ohashalg={algorithm}"), MESSAGE, namespace="git")
    assert allowed_signers(f"ada@example.com {ada.public}", namespace="git") == {key: "ada@example.com"}
    shown = keygen("-l", "-f", str(ada.key)).split()[1].removeprefix(b"SHA256:").decode()
    assert base64.b64decode(shown + "=").hex() == key.fingerprint


def test_another_message_another_purpose_and_another_algorithm_are_refused(ada: Signer, tmp_path: Path) -> None:
    for signature, message, namespace in (
        (ada.sign(), MESSAGE + b"\n", "git"),
        (ada.sign(namespace="file"), MESSAGE, "git"),
        (Signer(tmp_path, "ecdsa").sign(), MESSAGE, "git"),
        (b"-----BEGIN PGP SIGNATURE-----\n\nAAAA\n-----END PGP SIGNATURE-----\n", MESSAGE, "git"),
        (b"", MESSAGE, "git"),
        (ada.sign() + ada.sign(), MESSAGE, "git"),
        (ada.sign() + b"A" * 20_000, MESSAGE, "git"),
    ):
        with pytest.raises(SignatureError):
            verify(signature, message, namespace=namespace)


def test_no_byte_of_a_signature_may_be_another(ada: Signer) -> None:
    """Each of its bits counts, those of the reserved field included."""
    lines = ada.sign().splitlines()
    raw = base64.b64decode(b"".join(lines[1:-1]))
    for at in range(len(raw) + 1):
        flipped = raw[:at] + bytes(each ^ 1 for each in raw[at : at + 1]) + raw[at + 1 :]
        for other in {flipped, raw[:at], raw[:at] + b"\0" + raw[at:]} - {raw}:
            with contextlib.suppress(SignatureError):
                verify(b"\n".join([lines[0], base64.b64encode(other), lines[-1]]), MESSAGE, namespace="git")
                pytest.fail(f"byte {at}")


@given(st.binary(max_size=300))
def test_any_bytes_are_a_signature_or_refused(raw: bytes) -> None:
    armoured = b"-----BEGIN SSH SIGNATURE-----\n" + base64.b64encode(raw) + b"\n-----END SSH SIGNATURE-----\n"
    for each in (raw, armoured):
        with pytest.raises(SignatureError):
            verify(each, MESSAGE, namespace="git")


@given(st.text(max_size=200))
def test_any_text_is_a_file_of_signers_or_refused(text: str) -> None:
    with contextlib.suppress(SignatureError):
        assert all(isinstance(key, PublicKey) for key in allowed_signers(text, namespace="git"))


def test_what_is_not_understood_of_a_file_makes_nobody_good(ada: Signer) -> None:
    key = " ".join(ada.public.split()[:2])
    assert allowed_signers(f"# those\n\nada {key}\n", namespace="git").values()
    assert len(allowed_signers(f'ada namespaces="file,git" {key}', namespace="git")) == 1
    assert allowed_signers(f'ada namespaces="file" {key}', namespace="git") == {}
    for line in (
        f'ada valid-before="20200101" {key}',
        f"ada cert-authority {key}",
        f'ada namespaces="git" valid-after="20990101" {key}',
        "ada ssh-rsa AAAA",
        f"ada {key.split()[0]}",
        f"ada {key.split()[0]} AAAA",
        f"ada {key.split()[0]} !",
        key,
    ):
        with pytest.raises(SignatureError):
            allowed_signers(line, namespace="git")

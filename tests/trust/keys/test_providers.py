"""Root keys: read only from where nobody else reads, and an envelope opens only as what it was sealed as."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.base.errors import PreconditionError
from cloister.trust.keys.memory import SecretPage
from cloister.trust.keys.providers import (
    Context,
    FileProvider,
    KeyDamagedError,
    PassphraseProvider,
    Provider,
    create_passphrase,
    create_root_key,
    open_provider,
    passphrase_file,
    take_passphrase,
)
from cloister.trust.keys.providers.passphrase import VARIABLE
from cloister.trust.keys.providers.provider import FORMAT, RootKey

PASSPHRASE = b"correct horse battery staple"
HERE = Context("calm-forest-12345678", "volume", 1)
SECRET = bytes(range(32))


@pytest.fixture
def root_file(tmp_path: Path) -> Path:
    path = tmp_path / "root.key"
    create_root_key(path, uid=os.geteuid(), gid=os.getegid())
    return path


@pytest.fixture
def file_provider(root_file: Path) -> Iterator[FileProvider]:
    provider = FileProvider(root_file)
    yield provider
    provider.close()


def unwrap(provider: Provider, wrapped: bytes, context: Context) -> bytes:
    buffer = bytearray(len(SECRET))
    provider.unwrap_into(wrapped, context, memoryview(buffer))
    return bytes(buffer)


def test_what_is_wrapped_comes_back(file_provider: FileProvider) -> None:
    wrapped = file_provider.wrap(memoryview(SECRET), HERE)
    assert SECRET not in wrapped
    assert unwrap(file_provider, wrapped, HERE) == SECRET
    assert file_provider.wrap(memoryview(SECRET), HERE) != wrapped, "every envelope has a nonce of its own"


def test_every_flipped_bit_fails_closed(file_provider: FileProvider) -> None:
    wrapped = file_provider.wrap(memoryview(SECRET), HERE)
    for bit in range(8 * len(wrapped)):
        damaged = bytearray(wrapped)
        damaged[bit // 8] ^= 1 << bit % 8
        buffer = bytearray(b"x" * 32)
        with pytest.raises(KeyDamagedError):
            file_provider.unwrap_into(bytes(damaged), HERE, memoryview(buffer))
        assert buffer in (bytes(32), b"x" * 32), "nothing of a key that is not authentic is left"


@pytest.mark.parametrize("cut", [0, 1, 13, 60])
def test_a_cut_or_extended_envelope_fails(file_provider: FileProvider, cut: int) -> None:
    wrapped = file_provider.wrap(memoryview(SECRET), HERE)
    for damaged in (wrapped[:cut], wrapped + b"\0"):
        with pytest.raises(KeyDamagedError):
            unwrap(file_provider, damaged, HERE)


@pytest.mark.parametrize(
    "elsewhere",
    [
        Context("calm-forest-12345679", "volume", 1),
        Context("calm-forest-12345678", "backup", 1),
        Context("calm-forest-12345678", "volume", 2),
        Context("calm-forest-12345678volume", "", 1),
    ],
)
def test_an_envelope_moved_elsewhere_does_not_open(file_provider: FileProvider, elsewhere: Context) -> None:
    wrapped = file_provider.wrap(memoryview(SECRET), HERE)
    with pytest.raises(KeyDamagedError):
        unwrap(file_provider, wrapped, elsewhere)


_contexts = st.builds(Context, st.text(max_size=8), st.text(max_size=8), st.integers(1, 3))


@given(_contexts, _contexts, st.integers(1, 2), st.integers(1, 2))
@settings(max_examples=200)
def test_no_two_contexts_share_an_encoding(one: Context, other: Context, format_one: int, format_other: int) -> None:
    assert (one.encode(format_one) == other.encode(format_other)) == ((one, format_one) == (other, format_other))


def test_the_format_is_authenticated() -> None:
    assert HERE.encode(FORMAT) != HERE.encode(FORMAT + 1)


def test_another_root_key_does_not_open_it(file_provider: FileProvider, tmp_path: Path) -> None:
    create_root_key(tmp_path / "other.key", uid=os.geteuid(), gid=os.getegid())
    other = FileProvider(tmp_path / "other.key")
    assert other.root_version != file_provider.root_version
    with pytest.raises(KeyDamagedError):
        unwrap(other, file_provider.wrap(memoryview(SECRET), HERE), HERE)
    other.close()


def test_a_root_key_is_never_replaced(root_file: Path) -> None:
    before = root_file.read_bytes()
    with pytest.raises(FileExistsError):
        create_root_key(root_file, uid=os.geteuid(), gid=os.getegid())
    assert root_file.read_bytes() == before
    assert [path.name for path in root_file.parent.iterdir()] == ["root.key"]
    assert root_file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_root_key_that_others_can_read_is_refused(root_file: Path, mode: int) -> None:
    root_file.chmod(mode)
    with pytest.raises(PreconditionError, match=f"mode {mode:04o}, must be 0600"):
        FileProvider(root_file)


@pytest.mark.root
def test_a_root_key_of_another_user_is_refused(root_file: Path) -> None:
    os.chown(root_file, 65534, 65534)
    with pytest.raises(PreconditionError, match="belongs to uid 65534"):
        FileProvider(root_file)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_root_key_of_another_size_is_refused(root_file: Path, size: int) -> None:
    root_file.write_bytes(bytes(size))
    with pytest.raises(PreconditionError, match=f"{size} bytes"):
        FileProvider(root_file)


def test_a_link_a_directory_and_nothing_are_refused(root_file: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root_file)
    (tmp_path / "directory").mkdir(mode=0o700)
    for name in ("link", "directory", "nothing"):
        with pytest.raises(PreconditionError):
            FileProvider(tmp_path / name)


def test_a_passphrase_gives_the_same_root_key_at_every_start(root_file: Path) -> None:
    path = passphrase_file(root_file)
    create_passphrase(path, bytearray(PASSPHRASE), uid=os.geteuid(), gid=os.getegid())
    first, second = (PassphraseProvider(path, bytearray(PASSPHRASE)) for _ in range(2))
    assert unwrap(second, first.wrap(memoryview(SECRET), HERE), HERE) == SECRET
    assert first.root_version == second.root_version
    assert PASSPHRASE not in path.read_bytes()
    first.close()
    second.close()
    wrong = bytearray(b"correct horse battery stable")
    with pytest.raises(PreconditionError, match="not the passphrase"):
        PassphraseProvider(path, wrong)
    assert wrong == bytes(len(wrong)), "a passphrase is wiped even if it was wrong"
    path.write_bytes(b"{}")
    with pytest.raises(PreconditionError):
        PassphraseProvider(path, bytearray(PASSPHRASE))


def test_a_platform_with_a_passphrase_does_not_fall_back_to_a_file(
    root_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = open_provider(root_file)
    assert provider.name == "file"
    provider.close()
    create_passphrase(passphrase_file(root_file), bytearray(PASSPHRASE), uid=os.geteuid(), gid=os.getegid())
    with pytest.raises(PreconditionError, match="need a passphrase"):
        open_provider(root_file)
    monkeypatch.setenv(VARIABLE, PASSPHRASE.decode())
    provider = open_provider(root_file)
    assert provider.name == "passphrase"
    provider.close()


def test_a_short_passphrase_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PreconditionError, match="16 to 1024 bytes"):
        create_passphrase(tmp_path / "p", bytearray(b"hunter2"), uid=os.geteuid(), gid=os.getegid())


def test_a_passphrase_is_read_once_from_a_descriptor() -> None:
    reading, writing = os.pipe()
    os.write(writing, PASSPHRASE + b"\n")
    os.close(writing)
    assert bytes(take_passphrase(reading) or b"") == PASSPHRASE
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(reading)


def test_a_passphrase_is_read_from_a_systemd_credential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert take_passphrase() is None
    (tmp_path / "cloister-root-passphrase").write_bytes(PASSPHRASE)
    assert bytes(take_passphrase() or b"") == PASSPHRASE


def test_a_passphrase_in_the_environment_does_not_stay_there() -> None:
    script = (
        "from cloister.trust.keys.providers import take_passphrase\n"
        "assert take_passphrase() == b'correct horse battery staple'\n"
        "assert take_passphrase() is None\n"
        "assert b'horse' not in open('/proc/self/environ', 'rb').read()\n"
    )
    subprocess.run([sys.executable, "-c", script], env={VARIABLE: PASSPHRASE.decode()}, check=True, timeout=30)


def test_a_fingerprint_is_not_the_key() -> None:
    page = SecretPage(32)
    page.fill_randomly()
    key = bytes(page.buffer)
    root = RootKey(page)
    assert root.fingerprint not in key.hex()
    root.close()

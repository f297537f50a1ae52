"""The keystore's epochs: cut at any moment, the next start has one epoch, every living seal, and nobody else's."""

import os
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Final

import pytest

from cloister.base import durable
from cloister.base.errors import PreconditionError
from cloister.trust.keys import keystore as keystores
from cloister.trust.keys.keystore import ErasedError, Keystore
from cloister.trust.keys.providers.provider import Context, KeyDamagedError

ALIVE: Final = Context("calm-forest-12345678", "project", 1)
ERASED: Final = Context("calm-forest-87654321", "project", 1)


class CutError(Exception):
    """The power went."""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("keystore", "epochs"):
        (tmp_path / name).mkdir()
    return tmp_path


def opened(place: Path) -> Keystore:
    return Keystore(place / "keystore", place / "epochs")


def test_an_envelope_opens_for_its_project_and_version_alone(place: Path) -> None:
    keystore = opened(place)
    keystore.ensure(ALIVE.project_id, ERASED.project_id)
    sealed = keystore.seal(b"envelope of any length", ALIVE)
    assert opened(place).unseal(sealed, ALIVE) == b"envelope of any length"
    for other in (ERASED, Context(ALIVE.project_id, "project", 2), Context(ALIVE.project_id, "volume", 1)):
        with pytest.raises(KeyDamagedError):
            keystore.unseal(sealed, other)
    for damaged in (b"", sealed[:-1], bytes([sealed[0] ^ 1]) + sealed[1:]):
        with pytest.raises(KeyDamagedError):
            keystore.unseal(damaged, ALIVE)


def test_neither_file_alone_shows_a_seal_and_both_are_private(place: Path) -> None:
    keystore = opened(place)
    keystore.ensure(ALIVE.project_id)
    for path in (place / "keystore/seals.json", place / "epochs/epoch-000001.key"):
        assert path.stat().st_mode & 0o777 == 0o600
    (place / "epochs/epoch-000001.key").chmod(0o644)
    with pytest.raises(PreconditionError, match="must be 0600"):
        opened(place)


@pytest.mark.parametrize("cut", ["_create", "_open", "_write", "write_durably", "_destroy"])
def test_an_erasure_that_is_cut_leaves_one_epoch_and_all_who_live(
    place: Path, monkeypatch: pytest.MonkeyPatch, cut: str
) -> None:
    keystore = opened(place)
    keystore.ensure(ALIVE.project_id, ERASED.project_id)
    alive, erased = keystore.seal(b"alive", ALIVE), keystore.seal(b"erased", ERASED)

    def die(*_: object, **__: object) -> None:
        raise CutError

    with monkeypatch.context() as patched:
        patched.setattr(Keystore if hasattr(Keystore, cut) else keystores, cut, die)
        with pytest.raises(CutError):
            keystore.erase({ERASED.project_id})
    again = opened(place)
    assert len([*(place / "epochs").iterdir()]) == 1
    assert again.unseal(alive, ALIVE) == b"alive"
    again.erase({ERASED.project_id})
    with pytest.raises(ErasedError):
        again.unseal(erased, ERASED)
    assert opened(place).unseal(alive, ALIVE) == b"alive"


def test_a_broker_that_lives_on_after_a_failed_erasure_uses_no_epochs_number_twice(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The seals may be on disk when the writing of them fails: in its last step, after they replaced the old ones."""
    keystore = opened(place)
    keystore.ensure(ALIVE.project_id, ERASED.project_id)
    alive = keystore.seal(b"alive", ALIVE)

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    def write_and_fail(path: Path, content: bytes, *, mode: int) -> None:
        durable.write_durably(path, content, mode=mode)
        fail()

    for failing in (write_and_fail, fail):
        with monkeypatch.context() as patched:
            patched.setattr(keystores, "write_durably", failing)
            with pytest.raises(OSError, match="No space"):
                keystore.erase({ERASED.project_id})
        assert not keystore.erase({"calm-forest-00000000"}), "somebody else, who has no seal"
    assert opened(place).unseal(alive, ALIVE) == b"alive", "after a restart"


def test_an_old_epochs_key_that_could_not_be_destroyed_is_destroyed_at_the_next_try(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keystore = opened(place)
    keystore.ensure(ERASED.project_id)

    def fail(_: Path) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(keystores, "_destroy", fail)
        with pytest.raises(OSError, match="Input/output"):
            keystore.erase({ERASED.project_id})
    assert not keystore.erase({ERASED.project_id}), "its seal is gone already"
    assert [path.name for path in (place / "epochs").iterdir()] == ["epoch-000002.key"]


def test_whoever_opens_an_envelope_while_another_project_is_erased_is_of_one_epoch(place: Path) -> None:
    """Envelopes are opened on the loop and in threads, and an erasure is in a thread of its own."""

    class Interrupted(Keystore):
        """Somebody looks after each of its steps."""

        def __setattr__(self, name: str, value: object) -> None:
            super().__setattr__(name, value)
            if readers is not None:
                reader = pool.submit(self.unseal, alive, ALIVE)
                wait([reader], timeout=0.1)  # all the time it needs, if nobody keeps it waiting
                readers.append(reader)

    readers: list[Future[bytes]] | None = None
    alive = b""
    with ThreadPoolExecutor(4) as pool:
        keystore = Interrupted(place / "keystore", place / "epochs")
        keystore.ensure(ALIVE.project_id, ERASED.project_id)
        alive, readers = keystore.seal(b"alive", ALIVE), []
        keystore.erase({ERASED.project_id})
        assert [reader.result() for reader in readers] == [b"alive", b"alive"]


def test_an_erasure_begins_an_epoch_and_twice_is_once(place: Path) -> None:
    keystore = opened(place)
    keystore.ensure(ALIVE.project_id, ERASED.project_id)
    old = (place / "epochs/epoch-000001.key").read_bytes()
    held = os.open(place / "epochs/epoch-000001.key", os.O_RDONLY)
    assert keystore.erase({ERASED.project_id})
    assert not keystore.erase({ERASED.project_id})
    assert keystore.epoch == 2
    assert os.pread(held, 32, 0) != old, "overwritten, not only unlinked"
    os.close(held)
    assert [path.name for path in (place / "epochs").iterdir()] == ["epoch-000002.key"]

"""What a rotation makes is another key, and no envelope is believed that was not opened again."""

from pathlib import Path
from typing import Final, cast

import pytest

from cloister.base.database import Database
from cloister.trust.keys import rotation
from cloister.trust.keys.commands import KeyInfo
from cloister.trust.keys.envelopes import Chain, Envelopes, context_of
from cloister.trust.keys.memory import SecretPage
from cloister.trust.keys.providers.provider import KEY_BYTES, Context, KeyDamagedError, RootKey
from cloister.trust.keys.roots import Roots
from cloister.trust.keys.store import PROJECT, VOLUME, WrappedKey
from tests.trust.keys.rig import Rig

OF: Final = "calm-forest-12345678"


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path, cast("Database", None))  # envelopes know of none


@pytest.fixture
def envelopes(rig: Rig) -> Envelopes:
    keystore = rig.keystore()
    keystore.ensure(OF)
    return Envelopes(Roots(rig.root()), keystore)


@pytest.fixture
def own(envelopes: Envelopes) -> WrappedKey:
    """The project's own key."""
    return envelopes.mint_project_key(info(PROJECT))


@pytest.fixture
def volume(envelopes: Envelopes, own: WrappedKey) -> WrappedKey:
    """That of its volume, below it."""
    return envelopes.mint(own, info(VOLUME))


def info(purpose: str, version: int = 1, material: int = 1) -> KeyInfo:
    return KeyInfo(
        project_id=OF,
        purpose=purpose,
        version=version,
        material=material,
        state="enabled",
        provider="file" if purpose == PROJECT else PROJECT,
        created_at="",
    )


def unwrapped(by: RootKey, key: WrappedKey) -> bytes:
    assert key.wrapped is not None
    with SecretPage(KEY_BYTES) as page:
        by.unwrap_into(key.wrapped, context_of(key.info), page.buffer)
        return bytes(page.buffer)


def test_a_rotation_makes_another_project_key_which_alone_opens_what_is_below_it(
    envelopes: Envelopes, own: WrappedKey, volume: WrappedKey
) -> None:
    """Whoever came by the old key opens nothing of what stands after it."""
    root = envelopes.roots.current
    planned = rotation.plan(OF, [own, volume], root.name, root.root_version, renew=True)
    assert planned is not None
    made, moved = rotation.carry_out(planned, envelopes)
    with envelopes.opened(Chain(own, None)) as old, envelopes.opened(Chain(made, None)) as new:
        assert new.fingerprint != old.fingerprint
        assert unwrapped(new, moved) == unwrapped(old, volume), "the volume's stays what it is"
        with pytest.raises(KeyDamagedError):
            unwrapped(old, moved)
        with pytest.raises(KeyDamagedError):
            unwrapped(new, volume)


def test_a_project_key_that_would_not_open_again_is_none(rig: Rig, envelopes: Envelopes, own: WrappedKey) -> None:
    mistaken = Envelopes(Roots(rig.mistaken_root()), envelopes.keystore)
    with pytest.raises(KeyDamagedError, match="file does not give back"):
        mistaken.mint_project_key(info(PROJECT, 2, 2))
    with pytest.raises(KeyDamagedError, match="file does not give back"):
        mistaken.rewrap(own, info(PROJECT, 2))


def test_a_key_below_it_that_would_not_open_again_is_none(
    envelopes: Envelopes, own: WrappedKey, volume: WrappedKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = RootKey.wrap

    def mistaken(self: RootKey, plaintext: memoryview, context: Context) -> bytes:
        return honest(self, memoryview(bytes(len(plaintext))), context)

    monkeypatch.setattr(RootKey, "wrap", mistaken)
    with pytest.raises(KeyDamagedError, match="the project's key does not give back"):
        envelopes.mint(own, info(VOLUME, 2, 2))
    with pytest.raises(KeyDamagedError, match="the project's key does not give back"):
        envelopes.move(Chain(volume, own), own, info(VOLUME, 2))

"""What attacks on a whole platform have in common: the platform, unless the module's is of another kind."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attacks.signed_log import EVENTS, SignedLog
from tests.cli.conftest import cloister
from tests.fix_database import ControlDatabase
from tests.instance import Instance, tail

__all__ = ["cloister"]  # a fixture: commands in this process


@pytest.fixture(scope="session")
def shared_platform() -> Iterator[Instance]:
    with Instance("--idle-check-interval", "1", "--store-passwords") as instance:
        yield instance


@pytest.fixture
def platform(shared_platform: Instance) -> Iterator[Instance]:
    """With the end of its log, should the test fail."""
    with tail(shared_platform):
        yield shared_platform


@pytest.fixture
def iterations_asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many iterations were asked of OpenSSL, for each password. It does one."""
    real, numbers = hashlib.pbkdf2_hmac, []

    def counting(name: str, password: bytes, salt: bytes, iterations: int) -> bytes:
        numbers.append(iterations)
        return real(name, password, salt, 1)

    monkeypatch.setattr(hashlib, "pbkdf2_hmac", counting)
    return numbers


@pytest.fixture
def signed_log(
    control_database: ControlDatabase, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Iterator[SignedLog]:
    """An audit log of some events, all of them signed."""
    made = SignedLog(control_database, tmp_path, capsys)
    made.append(EVENTS)
    assert made.sign() == EVENTS
    yield made
    made.provider.close()

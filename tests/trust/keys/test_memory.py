"""A secret is held where nothing copies it, and is gone when it is let go."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cloister.trust.keys.memory import (
    SecretPage,
    is_sealed,
    read_hexadecimal,
    sealed_memfd,
    wipe,
    write_hexadecimal,
)


def test_a_page_is_random_once_filled_and_cannot_be_read_after_the_block() -> None:
    with SecretPage(32) as page:
        assert bytes(page.buffer) == bytes(32)
        page.fill_randomly()
        first = bytes(page.buffer)
        page.fill_randomly()
        assert len({bytes(32), first, bytes(page.buffer)}) == 3
        buffer = page.buffer
    with pytest.raises(ValueError, match="released"):
        buffer[0]


def test_a_page_is_zero_before_it_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    wiped: list[bytes] = []
    page = SecretPage(32)
    page.fill_randomly()

    class Observed:
        def close(self) -> None:
            wiped.append(ctypes.string_at(page._address, 32))

    mapping, page._map = page._map, Observed()  # type: ignore[assignment]
    page.close()
    mapping.close()
    assert wiped == [bytes(32)]


def test_a_forked_child_sees_zeros() -> None:
    with SecretPage(32) as page:
        page.fill_randomly()
        child = os.fork()
        if child == 0:
            os._exit(0 if bytes(page.buffer) == bytes(32) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert bytes(page.buffer) != bytes(32)


@pytest.mark.parametrize("size", [0, 100_000])
def test_a_page_has_a_size(size: int) -> None:
    with pytest.raises(ValueError):
        SecretPage(size)


def test_a_sealed_memfd_holds_its_content_and_takes_no_other() -> None:
    descriptor = sealed_memfd(memoryview(b"k" * 32), "cloister")
    try:
        assert is_sealed(descriptor)
        assert os.read(descriptor, 100) == b"k" * 32
        for attack in (
            lambda: os.pwrite(descriptor, b"x", 0),
            lambda: os.ftruncate(descriptor, 0),
            lambda: os.ftruncate(descriptor, 64),
        ):
            with pytest.raises(PermissionError):
                attack()
        with open(f"/proc/self/fd/{descriptor}", "rb") as again:
            assert again.read() == b"k" * 32, "whoever is given the path reads from the start"
        assert not os.get_inheritable(descriptor)
        assert str(Path(f"/proc/self/fd/{descriptor}").readlink()) == "/memfd:cloister (deleted)"
    finally:
        os.close(descriptor)


def test_an_ordinary_file_is_not_sealed() -> None:
    with open("/dev/null", "rb") as null:
        assert not is_sealed(null.fileno())


def test_wiping_is_in_place() -> None:
    secret = bytearray(b"secret")
    view = memoryview(secret)
    wipe(secret)
    assert bytes(view) == bytes(6)


def test_a_hardened_process_dumps_no_core_and_is_closed_to_its_own_user() -> None:
    script = """
import ctypes, os, resource
from cloister.trust.keys.memory import harden_process
prctl = ctypes.CDLL(None).prctl
PR_GET_DUMPABLE, PR_SET_DUMPABLE = 3, 4

def is_open_to_its_user():
    try:
        open("/proc/self/mem", "rb").close()
    except PermissionError:
        return False
    return True

if os.geteuid() == 0:
    os.setuid(65534)  # closes it, and the execve that comes next in the broker opens it again
assert prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0
assert is_open_to_its_user(), "the probe finds what is open"
assert harden_process().dumps_are_off
assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)
assert prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 0
assert not is_open_to_its_user()
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)


def test_hexadecimal_digits_are_written_in_place() -> None:
    secret, digits = bytes(range(0, 256, 8)), bytearray(64)
    write_hexadecimal(memoryview(secret), memoryview(digits))
    assert digits.decode() == secret.hex()


def test_hexadecimal_digits_are_read_in_place() -> None:
    secret, again = bytes(range(0, 256, 8)), bytearray(32)
    read_hexadecimal(memoryview(secret.hex().encode()), memoryview(again))
    assert again == secret
    with pytest.raises(ValueError, match="not found"):
        read_hexadecimal(memoryview(b"0G" * 32), memoryview(again))

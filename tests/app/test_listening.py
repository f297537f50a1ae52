"""The sockets that the platform listens at."""

import contextlib
import socket
import time
from collections.abc import Iterator

import pytest

from cloister.app import listening
from cloister.app.listening import listen
from cloister.base.errors import ConflictError
from cloister.base.settings import Address


@pytest.fixture
def taken() -> Iterator[socket.socket]:
    """Somebody listens there."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def address_of(sock: socket.socket) -> Address:
    return Address("127.0.0.1", sock.getsockname()[1])


def test_both_families_of_localhost_have_the_same_port() -> None:
    with contextlib.ExitStack() as held:
        found = [held.enter_context(sock).getsockname()[:2] for sock in listen(Address("localhost", 0))]
    assert "127.0.0.1" in {host for host, _ in found}
    assert len({port for _, port in found}) == 1


def test_a_port_that_is_taken_is_said_to_be(taken: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "LISTEN_PATIENCE_S", 0.0)
    with pytest.raises(ConflictError, match=r"cannot listen on 127\.0\.0\.1:\d+: Address already in use"):
        listen(address_of(taken))


def test_one_that_is_given_back_in_time_is_taken(taken: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a child of a supervisor that was killed, which had not yet asked to die with it."""
    address = address_of(taken)
    monkeypatch.setattr(time, "sleep", lambda _s: taken.close())
    (ours,) = listen(address)
    with ours:
        assert ours.getsockname()[1] == address.port
        assert taken.fileno() == -1

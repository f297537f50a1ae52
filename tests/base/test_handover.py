"""A connection that one process passes on to another."""

import asyncio
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from cloister.base import handover
from cloister.base.errors import UnavailableError
from cloister.base.handover import Giver, Receiver
from cloister.base.identities import service_of_uid

US: Any = frozenset({service_of_uid(os.geteuid())})


class Taken:
    """What a receiver got."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[tuple[socket.socket, str]] = asyncio.Queue()

    def __call__(self, sock: socket.socket, address: str) -> None:
        self.queue.put_nowait((sock, address))


def connection() -> tuple[socket.socket, socket.socket]:
    """A client's end, and the accepted one."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = socket.create_connection(listening.getsockname())
        return client, listening.accept()[0]


async def test_what_lies_in_the_socket_goes_along(tmp_path: Path) -> None:
    taken, giver = Taken(), Giver(tmp_path / "it.sock")
    receiver = Receiver(tmp_path / "it.sock", taken, allowed=US)
    receiver.start()
    client, accepted = connection()
    with client:
        client.sendall(b"hello")
        await giver.give(accepted, "192.0.2.7", patience_s=1)
        assert accepted.fileno() == -1
        sock, address = await asyncio.wait_for(taken.queue.get(), 5)
        with sock:
            assert address == "192.0.2.7"
            assert await asyncio.get_running_loop().sock_recv(sock, 16) == b"hello"
            assert os.get_inheritable(sock.fileno()) is False
            giver.close()
            sock.send(b"still here")
            assert client.recv(16) == b"still here"
    receiver.stop()
    assert not (tmp_path / "it.sock").exists()


async def test_a_receiver_that_comes_back_finds_who_waited(tmp_path: Path) -> None:
    taken, giver = Taken(), Giver(tmp_path / "it.sock")
    client, accepted = connection()
    with client:
        giving = asyncio.create_task(giver.give(accepted, "192.0.2.7", patience_s=10))
        await asyncio.sleep(0)
        receiver = Receiver(tmp_path / "it.sock", taken, allowed=US)
        receiver.start()
        await giving
        sock, _ = await asyncio.wait_for(taken.queue.get(), 5)
        sock.close()
        receiver.stop()
    giver.close()


async def test_a_receiver_without_a_descriptor_left_looks_again_after_a_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not as often as its loop turns."""
    taken, giver = Taken(), Giver(tmp_path / "it.sock")
    receiver = Receiver(tmp_path / "it.sock", taken, allowed=US)
    receiver.start()
    accept, clock = socket.socket.accept, asyncio.get_running_loop().time
    looked: list[float] = []

    def without(listening: socket.socket) -> Any:
        looked.append(clock())
        if looked[-1] - looked[0] < handover._PAUSE_S / 2:
            raise OSError(24, "too many open files")
        return accept(listening)

    client, accepted = connection()
    with client:
        await giver.give(accepted, "192.0.2.7", patience_s=1)
        monkeypatch.setattr(socket.socket, "accept", without)
        async with asyncio.timeout(5):
            sock, _ = await taken.queue.get()
        sock.close()
    assert len(looked) == 2
    giver.close()
    receiver.stop()


async def test_patience_ends_and_the_connection_is_the_givers_still(tmp_path: Path) -> None:
    client, accepted = connection()
    with client, accepted:
        with pytest.raises(UnavailableError):
            await Giver(tmp_path / "nobody.sock").give(accepted, "192.0.2.7", patience_s=0)
        assert accepted.fileno() >= 0


async def test_a_stranger_gives_nothing(tmp_path: Path) -> None:
    taken, giver = Taken(), Giver(tmp_path / "it.sock")
    receiver = Receiver(tmp_path / "it.sock", taken, allowed=frozenset())
    receiver.start()
    client, accepted = connection()
    with client:
        client.settimeout(5)
        await giver.give(accepted, "192.0.2.7", patience_s=1)  # the kernel queues it; nobody reads it
        assert await asyncio.to_thread(client.recv, 1) == b""
    assert taken.queue.empty()
    giver.close()
    receiver.stop()


async def test_only_tcp_connections_are_taken(tmp_path: Path) -> None:
    taken, giver = Taken(), Giver(tmp_path / "it.sock")
    receiver = Receiver(tmp_path / "it.sock", taken, allowed=US)
    receiver.start()
    ours, theirs = socket.socketpair()
    client, accepted = connection()
    with ours, client:
        await giver.give(theirs, "192.0.2.7", patience_s=1)
        await giver.give(accepted, "192.0.2.8", patience_s=1)
        sock, address = await asyncio.wait_for(taken.queue.get(), 5)
        sock.close()
        assert address == "192.0.2.8"
        assert taken.queue.empty()
    giver.close()
    receiver.stop()

"""Descriptors that come over a Unix socket."""

import os
import socket

from cloister.base import descriptors


def test_what_comes_is_inherited_by_nobody() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, open(os.devnull, "rb") as null:
        socket.send_fds(theirs, [b"two"], [null.fileno(), null.fileno()])
        data, received, flags = descriptors.receive(ours, 100, 2)
        assert (data, len(received), flags & socket.MSG_CTRUNC) == (b"two", 2, 0)
        for descriptor in received:
            assert not os.get_inheritable(descriptor)
            assert os.path.sameopenfile(descriptor, null.fileno())
            os.close(descriptor)


def test_more_than_there_is_room_for_is_told() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, open(os.devnull, "rb") as null:
        socket.send_fds(theirs, [b"many"], [null.fileno()] * 9)
        _, received, flags = descriptors.receive(ours, 100, 1)
        assert flags & socket.MSG_CTRUNC
        for descriptor in received:
            assert not os.get_inheritable(descriptor)
            os.close(descriptor)


def test_bytes_alone_bring_none() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"words")
        assert descriptors.receive(ours, 100, 1)[:2] == (b"words", [])

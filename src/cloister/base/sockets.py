"""Unix sockets of ours that other processes of ours connect to."""

import os
import socket
from pathlib import Path

from cloister.base.durable import unfinished


def listen_at(path: Path, kind: socket.SocketKind, *, mode: int, backlog: int) -> socket.socket:
    """A non-blocking socket that listens on `path`, in the place of what lay there, with these permission bits.

    It has them, and listens, before it has its name: who comes while it is made finds the socket of before, or none, and
    is never told that it may not connect, which would be believed.
    """
    made = unfinished(path)
    made.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK)
    try:
        listening.bind(str(made))
        os.chmod(made, mode)
        listening.listen(backlog)
        made.replace(path)
    except BaseException:
        listening.close()
        raise
    return listening

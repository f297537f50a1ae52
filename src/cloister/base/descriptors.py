"""Open descriptors: how many a process may hold, and how they come over a Unix socket.

`socket.recv_fds` does not hand its flags on in Python 3.11, so what it returns is inherited by whatever another thread starts before
it is said to close; and one may be the key of a tenant's volume. `receive` has the kernel say so as they come.
"""

import array
import contextlib
import resource
import socket


def raise_to_the_most() -> int:
    """The soft limit, 1024 almost everywhere for the sake of select(), becomes the hard one, which whoever runs the process has
    set. What it is then."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def receive(connection: socket.socket, bytes_max: int, descriptors_max: int) -> tuple[bytes, list[int], int]:
    """What came, the descriptors that came with it, and the flags of recvmsg(2): MSG_CTRUNC if there were more than
    `descriptors_max`. No program that is started inherits them; the caller closes them. Raises OSError as the socket does,
    BlockingIOError among others."""
    received = array.array("i")
    room = socket.CMSG_LEN(descriptors_max * received.itemsize)
    data, ancillary, flags, _ = connection.recvmsg(bytes_max, room, socket.MSG_CMSG_CLOEXEC)
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            received.frombytes(content[: len(content) - len(content) % received.itemsize])
    return data, list(received), flags

"""An accepted connection, passed from one process of ours to another before a byte of it was read.

One port serves two processes: the gateway's workers accept on it and look at the name that a client asks for; what is not
theirs goes on to the API as an open descriptor (`SCM_RIGHTS`), with the client's address beside it. From then on the giver
has no part in it: it can die, or be busy, and the connection does not notice.

The receiver believes the address, as it must believe a balancer's; so the kernel is asked who gives.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cloister.base import descriptors
from cloister.base.errors import UnavailableError
from cloister.base.identities import Service
from cloister.base.rpc.server import Peer
from cloister.base.sockets import listen_at

log = logging.getLogger(__name__)

_ADDRESS_BYTES_MAX: Final = 64
# An IPv6 address in text has 45 characters at most.

_BACKLOG: Final = 64
# As many workers as there may be: each holds one connection.

_PAUSE_S: Final = 0.05
# The receiver is being restarted, or has not read what was given before.


class Giver:
    """Gives connections to the process that listens on `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._channel: socket.socket | None = None

    async def give(self, sock: socket.socket, address: str, *, patience_s: float) -> None:
        """Pass the connection on and close our end of it. Raises UnavailableError if nobody takes it in time; then it is
        the caller's still."""
        deadline = asyncio.get_running_loop().time() + patience_s
        while not self._try(sock, address):
            if asyncio.get_running_loop().time() >= deadline:
                raise UnavailableError(f"nobody takes connections on {self._path.name}")
            await asyncio.sleep(_PAUSE_S)
        sock.close()

    def close(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _try(self, sock: socket.socket, address: str) -> bool:
        try:
            if self._channel is None:
                channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                channel.setblocking(False)
                try:
                    channel.connect(str(self._path))
                except BaseException:
                    channel.close()
                    raise
                self._channel = channel
            socket.send_fds(self._channel, [address.encode()], [sock.fileno()])
        except BlockingIOError:
            return False
        except OSError as error:
            log.info("cannot pass a connection on: %s", error)
            self.close()
            return False
        return True


class Receiver:
    """Takes connections. `take` gets each with its client's address and owns it."""

    def __init__(
        self, path: Path, take: Callable[[socket.socket, str], None], *, allowed: frozenset[Service | None]
    ) -> None:
        self._path = path
        self._take = take
        self._allowed = allowed
        self._listening: socket.socket | None = None
        self._channels: set[socket.socket] = set()

    def start(self) -> None:
        # Open to all: the kernel says who connects, in _accept.
        self._listening = listen_at(self._path, socket.SOCK_SEQPACKET, mode=0o666, backlog=_BACKLOG)
        asyncio.get_running_loop().add_reader(self._listening, self._accept)

    def stop(self) -> None:
        """Take no more. What was given and not yet taken is closed with the channel that it lies in."""
        if self._listening is not None:
            asyncio.get_running_loop().remove_reader(self._listening)
            self._listening.close()
            self._listening = None
            self._path.unlink(missing_ok=True)
        for channel in list(self._channels):
            self._drop(channel)

    def _accept(self) -> None:
        assert self._listening is not None
        try:
            channel, _ = self._listening.accept()
        except BlockingIOError:
            return
        except (
            OSError
        ) as error:  # out of descriptors: those in use come back, and until then it would be told of this one for ever
            log.warning("accepting on %s: %s", self._path.name, error)
            asyncio.get_running_loop().remove_reader(self._listening)
            asyncio.get_running_loop().call_later(_PAUSE_S, self._look_again, self._listening)
            return
        peer = Peer.of(channel)
        if peer.service not in self._allowed:
            log.warning("refused a caller on %s: uid %d pid %d", self._path.name, peer.uid, peer.pid)
            channel.close()
            return
        channel.setblocking(False)
        self._channels.add(channel)
        asyncio.get_running_loop().add_reader(channel, self._receive, channel)

    def _look_again(self, listening: socket.socket) -> None:
        if self._listening is listening:
            asyncio.get_running_loop().add_reader(listening, self._accept)

    def _receive(self, channel: socket.socket) -> None:
        """One at a time, so that many do not keep the event loop from its other work."""
        try:
            address, received, _flags = descriptors.receive(channel, _ADDRESS_BYTES_MAX, 1)
        except BlockingIOError:
            return
        except OSError:
            self._drop(channel)
            return
        if not address:
            self._drop(channel)
            return
        for descriptor in received:
            sock = socket.socket(fileno=descriptor)
            if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type != socket.SOCK_STREAM:
                log.error("what was given on %s is not a TCP connection", self._path.name)
                sock.close()
                continue
            sock.setblocking(False)
            self._take(sock, address.decode("ascii", "replace"))

    def _drop(self, channel: socket.socket) -> None:
        self._channels.discard(channel)
        with contextlib.suppress(OSError, ValueError):
            asyncio.get_running_loop().remove_reader(channel)
        channel.close()

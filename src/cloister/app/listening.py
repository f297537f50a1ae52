"""Listening sockets, opened once by the supervisor and shared by all who accept from them."""

import errno
import os
import socket
import time
from typing import Final

from cloister.base.errors import ConflictError, PreconditionError
from cloister.base.settings import Address

LISTEN_BACKLOG: Final = 1024

LISTEN_PATIENCE_S: Final = 5.0
# A supervisor that was killed may leave a child that it had just started, which holds these sockets until it gets to asking whether
# its parent is there: as long as a Python takes to start.

_PAUSE_S: Final = 0.05


def listen(address: Address) -> list[socket.socket]:
    """Listening sockets for an address: both families where the host is empty. Raises ConflictError if it is taken, and stays so
    for LISTEN_PATIENCE_S."""
    hosts: list[tuple[int, str]]
    if not address.host:
        hosts = [(socket.AF_INET6, "::"), (socket.AF_INET, "0.0.0.0")]  # noqa: S104 - every address, as was asked for
    elif address.host == "localhost":
        # Both, whatever /etc/hosts says: names below .localhost resolve to both.
        hosts = [(socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.1")]
    else:
        try:
            found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except OSError as error:
            raise PreconditionError(public=f"cannot listen on {address}: {error.strerror}") from error
        hosts = [(family, str(sockaddr[0])) for family, _, _, _, sockaddr in found]
    may_lack_ipv6 = address.host in ("", "localhost")
    sockets: list[socket.socket] = []
    port = address.port
    until = time.monotonic() + LISTEN_PATIENCE_S
    for family, host in dict.fromkeys(hosts):
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError:
            continue  # a host without IPv6
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            _take(sock, host, port, until)
        except OSError as error:
            sock.close()
            if family == socket.AF_INET6 and may_lack_ipv6 and error.errno == errno.EADDRNOTAVAIL:  # IPv6 is off
                continue
            raise ConflictError(public=f"cannot listen on {address}: {os.strerror(error.errno or 0)}") from error
        sock.setblocking(False)
        port = sock.getsockname()[1]  # the second family takes the port that the first was given
        sockets.append(sock)
    return sockets


def _take(sock: socket.socket, host: str, port: int, until: float) -> None:
    while True:
        try:
            sock.bind((host, port))
            sock.listen(LISTEN_BACKLOG)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > until:
                raise
            time.sleep(_PAUSE_S)
        else:
            return

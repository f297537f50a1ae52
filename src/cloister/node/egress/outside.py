"""The other end of a way out: found, held against what is forbidden, connected to, and made to prove who it is.

`reach` is one numbered procedure. The address that was checked is the address that is connected to: nothing is resolved
twice, so a name whose answer changes in between (DNS rebinding) gains nothing. A name of which one address is forbidden
is refused whole.

The wire is always PostgreSQL over TLS, and the certificate is always verified with the name or address of the rule. The
server's libpq in the compute may know no TLS at all; what it sends leaves the host encrypted all the same.
"""

import asyncio
import errno
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from cloister.base.egress import IpNetwork, is_allowed, reason_against
from cloister.base.errors import BadRequestError, ForbiddenError, UnavailableError
from cloister.base.ipallow import IpAddress

RESOLVE_TIMEOUT_S: Final = 5.0
CONNECT_TIMEOUT_S: Final = 10.0
# libpq users who set connect_timeout set 10.

ADDRESSES_TRIED_MAX: Final = 4
# A name may have dozens; somebody waits.

READ_BYTES: Final = 64 * 1024

_SSL_REQUEST: Final = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"

Resolve = Callable[[str, int], Awaitable[list[str]]]


@dataclass(frozen=True, slots=True)
class Outside:
    """A connection to the other end, after its proof."""

    address: str
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


async def reach(
    host: str,
    port: int,
    context: ssl.SSLContext,
    allowed: Sequence[IpNetwork],
    *,
    resolve: Resolve,
) -> Outside:
    """Raises ForbiddenError for where no way out leads, UnavailableError for what does not answer or does not prove who
    it is; their public faces are for the tenant."""
    # (1) Its addresses, asked for now and once.
    addresses = await _addresses(host, port, resolve)
    # (2) Each is held against the table, and against what is this machine's own.
    for address in addresses:
        if (why := reason_against(address, allowed)) is not None:
            raise ForbiddenError(f"{host} is {address}", public=f"{host} leads to {why}")
        if not is_allowed(address, allowed) and is_own(address):
            raise ForbiddenError(f"{host} is {address}, our own", public=f"{host} leads to the server itself")
    # (3) Connect to one of exactly these.
    connection, address = await _connected(host, port, addresses[:ADDRESSES_TRIED_MAX])
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            # (4) TLS or nothing.
            await _ask_for_tls(connection, host, port)
            # (5) Its certificate is for this name or address, by an authority of the rule's or the host's.
            reader, writer = await asyncio.open_connection(
                sock=connection, ssl=context, server_hostname=host, limit=READ_BYTES
            )
    except ssl.SSLCertVerificationError as error:
        connection.close()
        raise UnavailableError(
            f"{host}: {error}", public=f"the certificate of {host}:{port} is not trusted: {error.verify_message}"
        ) from error
    except (OSError, TimeoutError) as error:  # ssl.SSLError is an OSError
        connection.close()
        raise UnavailableError(f"{host}: {error!r}", public=f"{host}:{port} could not be spoken to over TLS") from error
    except BaseException:
        connection.close()
        raise
    return Outside(str(address), reader, writer)


def is_own(address: IpAddress) -> bool:
    """Whether it is an address of this machine: the kernel lets one be bound to, and no other. Anything else that goes
    wrong counts as yes."""
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError as error:
        return error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
    return True


def trusting(ca_pem: str | None) -> ssl.SSLContext:
    """A client's TLS that trusts this authority alone, or those of the host. Raises BadRequestError for a PEM that holds
    no certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca_pem is None:
        context.load_default_certs()
        return context
    try:
        context.load_verify_locations(cadata=ca_pem)
    except (ssl.SSLError, ValueError, TypeError) as error:  # TypeError: not ASCII
        raise BadRequestError(f"CA: {error}", public="the CA file holds no PEM certificate") from error
    if not context.cert_store_stats()["x509"]:
        raise BadRequestError(public="the CA file holds no PEM certificate")
    return context


async def _ask_for_tls(connection: socket.socket, host: str, port: int) -> None:
    """One byte of the answer is read: what a man in the middle put behind it is no TLS, and breaks the handshake."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(connection, _SSL_REQUEST)
    if await loop.sock_recv(connection, 1) != b"S":
        raise UnavailableError(
            f"{host} offers no TLS", public=f"{host}:{port} does not offer TLS, and nothing leaves in clear"
        )


async def _addresses(host: str, port: int, resolve: Resolve) -> list[IpAddress]:
    try:
        return [ip_address(host)]
    except ValueError:
        pass
    try:
        async with asyncio.timeout(RESOLVE_TIMEOUT_S):
            found = await resolve(host, port)
        # A scope (`fe80::1%eth0`) makes it an address that the table would not know.
        return list(dict.fromkeys(ip_address(text.partition("%")[0]) for text in found))
    except (OSError, TimeoutError, UnicodeError, ValueError) as error:
        raise UnavailableError(f"{host}: {error!r}", public=f"the name {host} could not be resolved") from error


async def _connected(host: str, port: int, addresses: Sequence[IpAddress]) -> tuple[socket.socket, IpAddress]:
    last: BaseException | None = None
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            for address in addresses:
                connection = socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET)
                try:
                    connection.setblocking(False)
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                    await asyncio.get_running_loop().sock_connect(connection, (str(address), port))
                except OSError as error:
                    connection.close()
                    last = error
                except BaseException:
                    connection.close()
                    raise
                else:
                    return connection, address
    except TimeoutError as error:
        last = error
    raise UnavailableError(f"{host}:{port}: {last!r}", public=f"{host}:{port} does not answer") from last

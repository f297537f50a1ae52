"""One exchange over HTTPS: to an address that was looked at, verified, no redirect followed, and no more of the answer than wanted."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import h11

from cloister.base.errors import UnavailableError
from cloister.trust.sending import targets

HEAD_BYTES_MAX: Final = 64 * 1024
# Of an answer.


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes


async def exchange(
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes = b"",
    *,
    ca_file: str,
    private: bool,
    wanted: int = 0,
) -> Answer:
    """The answer's body is read where `wanted` says how long it may be. Raises UnavailableError or OSError."""
    host, port, path = targets.target(url)
    address = await targets.resolved(host, port, private=private)
    reader, writer = await asyncio.open_connection(address, port, ssl=targets.tls(ca_file), server_hostname=host)
    try:
        connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES_MAX)
        head = {"Host": authority(host, port), "Content-Length": str(len(body)), "User-Agent": "cloister",
                "Connection": "close", **headers}  # fmt: skip
        writer.write(connection.send(h11.Request(method=method, target=path, headers=list(head.items()))) or b"")
        writer.write(connection.send(h11.Data(data=body)) or b"")
        connection.send(h11.EndOfMessage())
        await writer.drain()
        status, said, content = 0, {}, bytearray()
        while True:
            event = connection.next_event()
            match event:
                case h11.NEED_DATA:
                    data = await reader.read(65_536)
                    if not data and not status:
                        raise UnavailableError(public="closed without an answer")
                    connection.receive_data(data)
                case h11.Response():
                    status = event.status_code
                    said = {name.decode(): value.decode("latin-1") for name, value in event.headers}
                    if not wanted:
                        return Answer(status, said, b"")
                case h11.Data():
                    content += event.data
                    if len(content) > wanted:
                        raise UnavailableError(public=f"answered with more than {wanted} bytes")
                case h11.EndOfMessage():
                    return Answer(status, said, bytes(content))
                case h11.ConnectionClosed():
                    raise UnavailableError(public="closed without an answer")
    except h11.ProtocolError as error:
        raise UnavailableError(public=f"does not speak HTTP: {error}") from error
    finally:
        writer.transport.abort()


def authority(host: str, port: int) -> str:
    """As the Host header has it."""
    named = f"[{host}]" if ":" in host else host
    return named if port == 443 else f"{named}:{port}"

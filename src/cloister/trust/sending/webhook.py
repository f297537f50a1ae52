"""A webhook: one POST over HTTPS, signed, no redirect followed, and only 2xx is an arrival."""

import asyncio
import hashlib
import hmac
from typing import Final

import h11

from cloister.base.errors import UnavailableError
from cloister.trust.sending import targets

ANSWER_BYTES_MAX: Final = 64 * 1024
# Of a receiver's answer, of which only the status counts.

SIGNATURE: Final = "Cloister-Signature"


def signature(secret: str, at: int, body: bytes) -> str:
    """`t=SECONDS,v1=HEX`: HMAC-SHA-256 over the time, a dot, and the body. A receiver refuses old times."""
    digest = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


async def post(url: str, body: bytes, headers: dict[str, str], *, ca_file: str, private: bool) -> None:
    """One POST, no redirect followed. Raises UnavailableError unless the answer is 2xx."""
    host, port, path = targets.target(url)
    address = await targets.resolved(host, port, private=private)
    reader, writer = await asyncio.open_connection(address, port, ssl=targets.tls(ca_file), server_hostname=host)
    try:
        connection = h11.Connection(h11.CLIENT)
        named = f"[{host}]" if ":" in host else host
        head = {"Host": named if port == 443 else f"{named}:{port}", "Content-Type": "application/json",
                "Content-Length": str(len(body)), "User-Agent": "cloister", "Connection": "close", **headers}  # fmt: skip
        writer.write(connection.send(h11.Request(method="POST", target=path, headers=list(head.items()))) or b"")
        writer.write(connection.send(h11.Data(data=body)) or b"")
        connection.send(h11.EndOfMessage())
        await writer.drain()
        received = 0
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Response):
                if not 200 <= event.status_code < 300:
                    raise UnavailableError(public=f"answered {event.status_code}")
                return
            if event is h11.NEED_DATA:
                data = await reader.read(8192)
                received += len(data)
                if received > ANSWER_BYTES_MAX or not data:
                    raise UnavailableError(public="closed without an answer")
                connection.receive_data(data)
    except h11.ProtocolError as error:
        raise UnavailableError(public=f"does not speak HTTP: {error}") from error
    finally:
        writer.transport.abort()

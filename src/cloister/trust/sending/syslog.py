"""Syslog: RFC 5424 lines in RFC 5425 frames, over TLS with a verified certificate.

Syslog has no answer. So a call is a connection: the lines, then TLS's close, then the receiver's own close, which it sends
after it has read all that came before. Whoever dies with lines unread resets the connection instead, and the lines are sent
again. What a receiver had read and not yet written when it died, nobody can know: who cannot have that takes a webhook.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Mapping, Sequence
from typing import Final

from cloister.trust.sending import targets

ENTERPRISE: Final = "cloister@32473"
"""The number is the one RFC 5612 sets aside for documentation; we have none of our own."""

MSGID_CHARS: Final = 32
# As RFC 5424 has it.

TIMEOUT_S: Final = 10.0
# For each step: the connection, the lines, the close.


def line(pri: int, msgid: str, data: Mapping[str, str], text: str, *, at: str, host: str) -> bytes:
    """One message of RFC 5424 in printable ASCII, framed by its length as RFC 5425 wants it. Pure."""
    parameters = " ".join(f'{name}="{_parameter(value)}"' for name, value in data.items())
    head = f"<{pri}>1 {_word(at)} {_word(host)} cloister - {_word(msgid)[:MSGID_CHARS]}"
    said = f"{head} [{ENTERPRISE} {parameters}] {plain(text)}"
    encoded = said.encode("ascii", "replace")
    return f"{len(encoded)} ".encode() + encoded


def plain(text: str) -> str:
    """One line of printable ASCII."""
    return "".join(character if " " <= character <= "~" else "?" for character in str(text))


async def send(frames: Sequence[bytes], host: str, port: int, *, ca_file: str, private: bool) -> None:
    """Raises UnavailableError or OSError unless the receiver read all of them."""
    address = await targets.resolved(host, port, private=private)
    context = targets.tls(ca_file)

    def deliver() -> None:
        # In a thread, on a socket: asyncio's streams cannot say how the other side closed.
        with (
            socket.create_connection((address, port), TIMEOUT_S) as plain_socket,
            context.wrap_socket(plain_socket, server_hostname=host) as session,
        ):
            session.sendall(b"".join(frames))
            with contextlib.suppress(ssl.SSLEOFError):  # its close without TLS's: it had read to our end
                session.unwrap()

    await asyncio.to_thread(deliver)


def _word(text: str) -> str:
    """A field of the header."""
    return plain(text).replace(" ", "?") or "-"


def _parameter(value: str) -> str:
    return plain(value).replace("\\", "\\\\").replace('"', '\\"').replace("]", "\\]")

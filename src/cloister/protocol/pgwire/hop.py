"""What a hop must change between a client that speaks in clear, on a Unix socket, and a server behind TLS: one offer.

A server that sees TLS offers SCRAM-SHA-256-PLUS. A client that knows of none takes that for an attack and gives up (libpq:
"server offered SCRAM-SHA-256-PLUS authentication over a non-SSL connection"), rightly: it could not prove over which
channel it speaks. So the offer is taken out of the server's first authentication request. A server that insists on it is
left as it is, and refuses. Everything else passes unread.
"""

from typing import Final

from cloister.protocol.pgwire.frames import message

PLUS: Final = b"SCRAM-SHA-256-PLUS"
FIRST_MESSAGE_BYTES_MAX: Final = 8_192
# Mechanisms have names of 20 letters; what is longer is no such request.

_SASL: Final = b"\x00\x00\x00\x0a"
_BEFORE_IT: Final = b"vN"
# NegotiateProtocolVersion, and notices.


class Hop:
    """Feed what comes from the server; what it gives is for the client."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._is_through = False

    def feed(self, data: bytes) -> bytes:
        if self._is_through:
            return data
        self._held += data
        given = bytearray()
        while not self._is_through:
            if len(self._held) < 5:
                return bytes(given)
            kind, length = self._held[:1], int.from_bytes(self._held[1:5], "big")
            is_request = kind == b"R"
            if not (is_request or kind in _BEFORE_IT) or not 4 <= length <= FIRST_MESSAGE_BYTES_MAX:
                break
            if len(self._held) < 1 + length:
                return bytes(given)
            body = bytes(self._held[5 : 1 + length])
            del self._held[: 1 + length]
            given += message(bytes(kind), without_plus(body) if is_request else body)
            self._is_through = is_request
        self._is_through = True
        return bytes(given) + self.rest()

    def rest(self) -> bytes:
        """What is held of a message that never became whole."""
        held = bytes(self._held)
        self._held.clear()
        return held


def without_plus(body: bytes) -> bytes:
    """An authentication request's body without that offer, if it makes others."""
    names = body[4:].split(b"\0")
    others = [name for name in names if name != PLUS]
    is_offer = body.startswith(_SASL) and names[-2:] == [b"", b""]
    return _SASL + b"\0".join(others) if is_offer and any(others) else body

"""The other side: logging in to a compute, up to its first ReadyForQuery.

The compute trusts the gateway's Unix user (peer authentication), so nothing is asked for and nothing secret is sent. A
compute runs a tenant's code: what it says is parsed with the same care as what a client says.
"""

from dataclasses import dataclass, field
from typing import Final

from cloister.protocol.pgwire.frames import (
    BACKEND_MESSAGE_BYTES_MAX,
    INT32,
    UINT32,
    ProtocolViolationError,
    message,
    take_message,
)

LOGIN_BYTES_MAX: Final = 262_144
# All that a compute may say before it is ready; it is kept in memory until then.


class BackendError(Exception):
    """The compute refused, in its own words."""

    def __init__(self, raw: bytes, sqlstate: str, text: str) -> None:
        super().__init__(f"{sqlstate} {text}")
        self.raw = raw
        """The whole ErrorResponse, to be passed on as it is."""
        self.sqlstate = sqlstate


@dataclass(slots=True)
class BackendLogin:
    """Feed it until `is_ready`. Raises BackendError or ProtocolViolationError."""

    is_ready: bool = False
    greeting: bytes = b""
    """ParameterStatus and notices, as they came, for the client."""
    pid: int = 0
    secret: bytes = b""
    rest: bytes = b""
    """What came after ReadyForQuery."""
    _buffer: bytearray = field(default_factory=bytearray)
    _is_authenticated: bool = False

    def receive_data(self, data: bytes) -> None:
        self._buffer += data
        while not self.is_ready and (taken := take_message(self._buffer, BACKEND_MESSAGE_BYTES_MAX)) is not None:
            self._receive(*taken)
        if len(self.greeting) > LOGIN_BYTES_MAX:
            raise ProtocolViolationError("the compute said too much before it was ready")
        if self.is_ready:
            self.rest = bytes(self._buffer)
            self._buffer.clear()

    def _receive(self, kind: int, body: bytes) -> None:
        match chr(kind):
            case "R" if body == UINT32.pack(0):
                self._is_authenticated = True
            case "E":
                fields = error_fields(body)
                raise BackendError(message(b"E", body), fields.get("C", "XX000"), fields.get("M", ""))
            case "S" | "N" if self._is_authenticated:
                self.greeting += message(bytes((kind,)), body)
            case "N":
                pass  # before authentication there is nobody to tell
            case "K" if self._is_authenticated and len(body) >= 8:
                (self.pid,) = INT32.unpack_from(body)
                self.secret = body[4:]
            case "Z" if self._is_authenticated:
                self.is_ready = True
            case _:
                raise ProtocolViolationError(f"the compute sent an unexpected {chr(kind)!r} before it was ready")


def error_fields(body: bytes) -> dict[str, str]:
    """The fields of an ErrorResponse or NoticeResponse by their one-letter codes."""
    return {part[:1].decode("latin-1"): part[1:].decode("utf-8", "replace") for part in body.split(b"\0") if part}

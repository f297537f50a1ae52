"""The messages of the way in: what a client may say, and what a server answers.

Parsers take a body and return a frozen event or raise ProtocolViolationError; writers return whole messages.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from cloister.protocol.pgwire.frames import INT32, UINT32, ProtocolViolationError, message, packet

PROTOCOL_3: Final = 3
MINOR_MAX: Final = 2
# 3.2 (PostgreSQL 18) only lengthens the cancel key, which is ours; computes are spoken to in 3.0.

_CODE_CANCEL: Final = 80877102
_CODE_SSL: Final = 80877103
_CODE_GSSENC: Final = 80877104

PARAMETERS_MAX: Final = 64
# libpq sends about six; a pair takes four bytes at least, so the packet's limit alone would allow 2 500.

CANCEL_KEY_BYTES_MAX: Final = 256
# Protocol 3.2's own limit.


@dataclass(frozen=True, slots=True)
class SslRequest:
    pass


@dataclass(frozen=True, slots=True)
class GssEncRequest:
    pass


@dataclass(frozen=True, slots=True, repr=False)
class CancelRequest:
    pid: int
    secret: bytes


@dataclass(frozen=True, slots=True)
class Startup:
    minor: int
    parameters: Mapping[str, str]
    """As sent, `_pq_.*` options left out."""
    unknown_options: tuple[str, ...] = ()
    """Names of the `_pq_.*` options: we have none, and must say so."""

    @property
    def user(self) -> str:
        return self.parameters["user"]

    @property
    def database(self) -> str:
        """PostgreSQL's rule: the user's name, where no database is named."""
        return self.parameters.get("database") or self.user


@dataclass(frozen=True, slots=True, repr=False)
class SaslInitialResponse:
    mechanism: str
    data: bytes


@dataclass(frozen=True, slots=True, repr=False)
class SaslResponse:
    data: bytes


@dataclass(frozen=True, slots=True, repr=False)
class PasswordMessage:
    password: str


def parse_packet(body: bytes) -> SslRequest | GssEncRequest | CancelRequest | Startup:
    """The body of a packet, by its code."""
    (code,) = UINT32.unpack_from(body)
    match code:
        case 80877103:
            return _exact(body, SslRequest())
        case 80877104:
            return _exact(body, GssEncRequest())
        case 80877102:
            if not 12 <= len(body) <= 8 + CANCEL_KEY_BYTES_MAX:
                raise ProtocolViolationError("invalid length of cancel request")
            return CancelRequest(INT32.unpack_from(body, 4)[0], body[8:])
    if code >> 16 != PROTOCOL_3:
        raise ProtocolViolationError(
            f"unsupported frontend protocol {code >> 16}.{code & 0xFFFF}: server supports 3.0 to 3.{MINOR_MAX}",
        )
    return _parse_startup(code & 0xFFFF, body)


def _exact(body: bytes, event: SslRequest | GssEncRequest) -> SslRequest | GssEncRequest:
    if len(body) != 4:
        raise ProtocolViolationError("invalid length of startup packet")
    return event


def _parse_startup(minor: int, body: bytes) -> Startup:
    # Names and values alternate, each ends with NUL, an empty name ends the list, and nothing may follow.
    if not body.endswith(b"\0\0") and body[4:] != b"\0":
        raise ProtocolViolationError("invalid startup packet layout: expected terminator as last byte")
    texts = body[4:-1].split(b"\0")[:-1]
    if len(texts) % 2 or len(texts) > 2 * PARAMETERS_MAX:
        raise ProtocolViolationError("invalid startup packet layout: names and values do not pair")
    parameters: dict[str, str] = {}
    unknown: list[str] = []
    for name_bytes, value_bytes in zip(texts[::2], texts[1::2], strict=True):
        try:
            name, value = name_bytes.decode(), value_bytes.decode()
        except UnicodeDecodeError:
            raise ProtocolViolationError("startup packet is not valid UTF-8") from None
        if not name:
            raise ProtocolViolationError("invalid startup packet layout: a parameter has no name")
        if name.startswith("_pq_."):
            unknown.append(name)
        else:
            parameters[name] = value
    if not parameters.get("user"):
        raise ProtocolViolationError("no PostgreSQL user name specified in startup packet")
    return Startup(minor, parameters, tuple(unknown))


def parse_sasl_initial_response(body: bytes) -> SaslInitialResponse:
    name, nul, rest = body.partition(b"\0")
    if not nul or len(rest) < 4:
        raise ProtocolViolationError("malformed SASLInitialResponse")
    (length,) = INT32.unpack_from(rest)
    if length != len(rest) - 4:
        # -1 means "no initial response", which SCRAM always has.
        raise ProtocolViolationError("malformed SASLInitialResponse")
    return SaslInitialResponse(name.decode("ascii", "replace"), rest[4:])


def parse_password(body: bytes) -> PasswordMessage:
    if not body.endswith(b"\0") or b"\0" in body[:-1]:
        raise ProtocolViolationError("malformed password message")
    try:
        return PasswordMessage(body[:-1].decode())
    except UnicodeDecodeError:
        raise ProtocolViolationError("the password is not valid UTF-8") from None


AUTHENTICATION_OK: Final = message(b"R", UINT32.pack(0))
AUTHENTICATION_CLEARTEXT: Final = message(b"R", UINT32.pack(3))
READY_FOR_QUERY_IDLE: Final = message(b"Z", b"I")
TERMINATE: Final = message(b"X", b"")


def authentication_sasl(mechanisms: Iterable[str]) -> bytes:
    return message(b"R", UINT32.pack(10) + b"".join(name.encode() + b"\0" for name in mechanisms) + b"\0")


def authentication_sasl_continue(data: bytes) -> bytes:
    return message(b"R", UINT32.pack(11) + data)


def authentication_sasl_final(data: bytes) -> bytes:
    return message(b"R", UINT32.pack(12) + data)


def negotiate_protocol_version(minor: int, unknown_options: Iterable[str]) -> bytes:
    names = [name.encode() + b"\0" for name in unknown_options]
    return message(b"v", UINT32.pack(PROTOCOL_3 << 16 | minor) + UINT32.pack(len(names)) + b"".join(names))


def backend_key_data(pid: int, secret: bytes) -> bytes:
    return message(b"K", INT32.pack(pid) + secret)


def parameter_status(name: str, value: str) -> bytes:
    return message(b"S", name.encode() + b"\0" + value.encode() + b"\0")


def error_response(sqlstate: str, text: str, *, severity: str = "FATAL", hint: str = "") -> bytes:
    """One ErrorResponse. Texts are cut at NUL: the fields end there."""
    fields = [("S", severity), ("V", severity), ("C", sqlstate), ("M", text)] + ([("H", hint)] if hint else [])
    body = b"".join(
        code.encode() + value.replace("\0", " ").encode("utf-8", "replace") + b"\0" for code, value in fields
    )
    return message(b"E", body + b"\0")


def ssl_request() -> bytes:
    return packet(UINT32.pack(_CODE_SSL))


def gssenc_request() -> bytes:
    return packet(UINT32.pack(_CODE_GSSENC))


def cancel_request(pid: int, secret: bytes) -> bytes:
    return packet(UINT32.pack(_CODE_CANCEL) + INT32.pack(pid) + secret)


def startup_message(parameters: Mapping[str, str], minor: int = 0) -> bytes:
    pairs = b"".join(name.encode() + b"\0" + value.encode() + b"\0" for name, value in parameters.items())
    return packet(UINT32.pack(PROTOCOL_3 << 16 | minor) + pairs + b"\0")

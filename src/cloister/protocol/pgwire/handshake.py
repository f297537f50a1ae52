"""A client's way from its first byte to its proof.

Rule: what may happen when is in `NEXT`, and only there; what is not in the table is refused. There is no row that lets
a startup packet in before TLS.

The rim feeds bytes (`receive_data`) and facts it found out (`receive`: TlsEstablished, Credentials, AskForPassword,
PasswordVerdict) and carries out the commands that come back, in order. Until StartTls, bytes are the wire's; after it,
they are what TLS decrypted.

    OPENING ──SslRequest──▶ SECURING ──TlsEstablished──▶ STARTUP ──Startup──▶ LOOKUP ──Credentials──▶ SASL_FIRST
       │  └────DirectTls───▶                                                    │                        │
       └─GssEncRequest─▶ OPENING_NO_GSS                             AskForPassword                 SaslInitialResponse
                                                                                ▼                        ▼
                                                   PASSWORD ─▶ CHECKING ──PasswordVerdict──▶ PROVED ◀── SASL_FINAL
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, TypeAlias

from cloister.protocol.pgwire.frames import (
    PASSWORD_BYTES_MAX,
    STARTUP_BYTES_MAX,
    InsecureConnectionError,
    ProtocolViolationError,
    take_message,
    take_packet,
)
from cloister.protocol.pgwire.messages import (
    AUTHENTICATION_CLEARTEXT,
    MINOR_MAX,
    CancelRequest,
    GssEncRequest,
    PasswordMessage,
    SaslInitialResponse,
    SaslResponse,
    SslRequest,
    Startup,
    authentication_sasl,
    authentication_sasl_continue,
    authentication_sasl_final,
    negotiate_protocol_version,
    parse_packet,
    parse_password,
    parse_sasl_initial_response,
)
from cloister.protocol.scram import PLAIN, PLUS, ServerExchange, Verifier

TLS_HANDSHAKE_BYTE: Final = 0x16
# The first byte of a ClientHello's record; a packet's would be the top of a length below 10 000, so zero.

ALPN: Final = "postgresql"

INSECURE_TEXT: Final = "connection is insecure (try using `sslmode=require`)"


class BindingRequiredError(Exception):
    """The client does without channel binding where nothing else was offered."""


class State(Enum):
    OPENING = auto()
    OPENING_NO_GSS = auto()
    SECURING = auto()
    STARTUP = auto()
    LOOKUP = auto()
    PASSWORD = auto()
    CHECKING = auto()
    SASL_FIRST = auto()
    SASL_FINAL = auto()
    PROVED = auto()
    CLOSED = auto()


# -- what happened: found in the bytes (the others are in messages.py) or told by the rim


@dataclass(frozen=True, slots=True)
class DirectTls:
    """The client starts with TLS itself (`sslnegotiation=direct`)."""


@dataclass(frozen=True, slots=True)
class TlsEstablished:
    alpn: str | None


@dataclass(frozen=True, slots=True)
class AskForPassword:
    """The endpoint is not known: it must come in the password."""


@dataclass(frozen=True, slots=True)
class Credentials:
    verifier: Verifier
    nonce: str
    """Ours, unpredictable."""
    binding: bytes | None
    """The `tls-server-end-point` hash of the certificate in use; None if it has none."""
    is_binding_required: bool = False
    """Nothing else is offered. Not without a `binding`."""


@dataclass(frozen=True, slots=True)
class PasswordVerdict:
    is_right: bool


Event: TypeAlias = (
    SslRequest | GssEncRequest | DirectTls | CancelRequest | Startup | SaslInitialResponse | SaslResponse
    | PasswordMessage | TlsEstablished | AskForPassword | Credentials | PasswordVerdict
)  # fmt: skip


# -- what to do


@dataclass(frozen=True, slots=True, repr=False)
class Send:
    data: bytes


@dataclass(frozen=True, slots=True, repr=False)
class StartTls:
    first_bytes: bytes
    """What was read of the ClientHello already."""


@dataclass(frozen=True, slots=True)
class LookUp:
    startup: Startup


@dataclass(frozen=True, slots=True, repr=False)
class CheckPassword:
    password: str


@dataclass(frozen=True, slots=True, repr=False)
class Cancel:
    request: CancelRequest


@dataclass(frozen=True, slots=True, repr=False)
class Proved:
    last_word: bytes
    """To be sent before AuthenticationOk: the server's own proof. Kept back so that both go in one packet."""


@dataclass(frozen=True, slots=True)
class Disproved:
    """The password was wrong."""


Command: TypeAlias = Send | StartTls | LookUp | CheckPassword | Cancel | Proved | Disproved


NEXT: Final[dict[tuple[State, type[Event]], State]] = {
    (State.OPENING,        SslRequest):          State.SECURING,
    (State.OPENING,        DirectTls):           State.SECURING,
    (State.OPENING,        GssEncRequest):       State.OPENING_NO_GSS,  # answered 'N', once
    (State.OPENING,        CancelRequest):       State.CLOSED,  # libpq before 17 sends it in clear: docs/adr/0002
    (State.OPENING_NO_GSS, SslRequest):          State.SECURING,
    (State.OPENING_NO_GSS, DirectTls):           State.SECURING,
    (State.OPENING_NO_GSS, CancelRequest):       State.CLOSED,
    (State.SECURING,       TlsEstablished):      State.STARTUP,
    (State.STARTUP,        Startup):             State.LOOKUP,
    (State.STARTUP,        CancelRequest):       State.CLOSED,
    (State.LOOKUP,         Credentials):         State.SASL_FIRST,
    (State.LOOKUP,         AskForPassword):      State.PASSWORD,
    (State.PASSWORD,       PasswordMessage):     State.CHECKING,
    (State.CHECKING,       PasswordVerdict):     State.PROVED,
    (State.SASL_FIRST,     SaslInitialResponse): State.SASL_FINAL,
    (State.SASL_FINAL,     SaslResponse):        State.PROVED,
}  # fmt: skip


def _offered(credentials: Credentials) -> tuple[str, ...]:
    if credentials.is_binding_required:
        return (PLUS,)
    return (PLAIN,) if credentials.binding is None else (PLUS, PLAIN)


class Handshake:
    """One client, up to its proof. `receive_data` and `receive` raise ProtocolViolationError or ScramError; after
    either, the machine is of no more use."""

    def __init__(self, *, is_inside_tls: bool = False) -> None:
        """`is_inside_tls`: the bytes are inside TLS from the first one, which whoever feeds them has seen to."""
        self.state = State.STARTUP if is_inside_tls else State.OPENING
        self._buffer = bytearray()
        self._is_direct = False
        self._binding: bytes | None = None
        self._credentials: Credentials | None = None
        self._exchange: ServerExchange | None = None

    def receive_data(self, data: bytes) -> list[Command]:
        """Bytes of the client."""
        self._buffer += data
        return self._drain()

    def receive(self, event: Event) -> list[Command]:
        """A fact from the rim. Bytes that had to wait for it are read now."""
        return self._step(event) + self._drain()

    def _drain(self) -> list[Command]:
        commands: list[Command] = []
        while (event := self._next_event()) is not None:
            commands += self._step(event)
        return commands

    def _step(self, event: Event) -> list[Command]:
        before = self.state
        try:
            self.state = NEXT[before, type(event)]
        except KeyError:
            self.state = State.CLOSED
            if isinstance(event, Startup) and before in (State.OPENING, State.OPENING_NO_GSS):
                raise InsecureConnectionError(INSECURE_TEXT) from None
            raise ProtocolViolationError(f"unexpected {type(event).__name__}") from None
        match event:
            case SslRequest():
                # Bytes sent before TLS must never be read as if they had come inside it (CVE-2021-23214).
                if self._buffer:
                    raise ProtocolViolationError("received unencrypted data after SSL request")
                return [Send(b"S"), StartTls(b"")]
            case DirectTls():
                self._is_direct = True
                return [StartTls(self.take_rest())]
            case GssEncRequest():
                if self._buffer:
                    raise ProtocolViolationError("received unencrypted data after GSSAPI encryption request")
                return [Send(b"N")]
            case CancelRequest():
                return [Cancel(event)]
            case TlsEstablished():
                # Without ALPN, a browser could be made to speak to us (ALPACA): PostgreSQL asks for it here as well.
                if self._is_direct and event.alpn != ALPN:
                    raise ProtocolViolationError("direct TLS without ALPN protocol `postgresql`")
                return []
            case Startup():
                commands: list[Command] = []
                if event.minor > MINOR_MAX or event.unknown_options:
                    spoken = min(event.minor, MINOR_MAX)
                    commands.append(Send(negotiate_protocol_version(spoken, event.unknown_options)))
                return [*commands, LookUp(event)]
            case AskForPassword():
                return [Send(AUTHENTICATION_CLEARTEXT)]
            case PasswordMessage(password):
                return [CheckPassword(password)]
            case PasswordVerdict(is_right):
                return [Proved(b"") if is_right else Disproved()]
            case Credentials():
                self._credentials = event
                return [Send(authentication_sasl(_offered(event)))]
            case SaslInitialResponse(mechanism, data):
                assert self._credentials is not None
                if self._credentials.is_binding_required and mechanism != PLUS:
                    raise BindingRequiredError
                self._exchange = ServerExchange(
                    self._credentials.verifier,
                    mechanism=mechanism,
                    nonce=self._credentials.nonce,
                    binding=self._credentials.binding,
                )
                return [Send(authentication_sasl_continue(self._exchange.first(data)))]
            case SaslResponse(data):
                assert self._exchange is not None
                return [Proved(authentication_sasl_final(self._exchange.final(data)))]

    def take_rest(self) -> bytes:
        """Bytes that came after the last message: after the proof they are for the compute."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest

    def _next_event(self) -> Event | None:
        """The next event in the buffer, if this state reads any."""
        match self.state:
            case State.OPENING | State.OPENING_NO_GSS:
                if self._buffer and self._buffer[0] == TLS_HANDSHAKE_BYTE:
                    return DirectTls()
                body = take_packet(self._buffer, STARTUP_BYTES_MAX)
                return None if body is None else parse_packet(body)
            case State.STARTUP:
                body = take_packet(self._buffer, STARTUP_BYTES_MAX)
                return None if body is None else parse_packet(body)
            case State.PASSWORD:
                taken = take_message(self._buffer, PASSWORD_BYTES_MAX, b"p")
                return None if taken is None else parse_password(taken[1])
            case State.SASL_FIRST:
                taken = take_message(self._buffer, PASSWORD_BYTES_MAX, b"p")
                return None if taken is None else parse_sasl_initial_response(taken[1])
            case State.SASL_FINAL:
                taken = take_message(self._buffer, PASSWORD_BYTES_MAX, b"p")
                return None if taken is None else SaslResponse(taken[1])
            case _:
                return None

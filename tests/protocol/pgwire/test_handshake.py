"""The client's way in, as a transcript: what was received, what is answered, what is refused."""

import base64
import hashlib
import hmac
import itertools
import struct
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.protocol.pgwire.frames import InsecureConnectionError, ProtocolViolationError, message
from cloister.protocol.pgwire.handshake import (
    NEXT,
    AskForPassword,
    BindingRequiredError,
    Cancel,
    CheckPassword,
    Command,
    Credentials,
    Disproved,
    Event,
    Handshake,
    LookUp,
    PasswordVerdict,
    Proved,
    Send,
    StartTls,
    State,
    TlsEstablished,
)
from cloister.protocol.pgwire.messages import (
    AUTHENTICATION_CLEARTEXT,
    cancel_request,
    error_response,
    gssenc_request,
    negotiate_protocol_version,
    ssl_request,
    startup_message,
)
from cloister.protocol.scram import ScramError, Verifier

VERIFIER = Verifier.of_password("pencil", salt=b"0123456789abcdef", iterations=1)
CREDENTIALS = Credentials(VERIFIER, "server-nonce", b"B" * 32)
STARTUP = startup_message({"user": "ada", "database": "app", "application_name": "psql"})
FIRST = b"p=tls-server-end-point,,n=,r=client-nonce"


def in_state(state: State) -> Handshake:
    """A handshake brought to a state by a client that does everything right."""
    handshake = Handshake()
    while handshake.state is not state:
        before = handshake.state
        match before:
            case State.OPENING:
                handshake.receive_data(ssl_request())
            case State.SECURING:
                handshake.receive(TlsEstablished(None))
            case State.STARTUP:
                handshake.receive_data(STARTUP)
            case State.LOOKUP:
                handshake.receive(CREDENTIALS)
            case State.SASL_FIRST:
                handshake.receive_data(sasl_initial("SCRAM-SHA-256-PLUS", FIRST))
        assert handshake.state is not before
    return handshake


def sasl_initial(mechanism: str, data: bytes) -> bytes:
    return message(b"p", mechanism.encode() + b"\0" + struct.pack(">i", len(data)) + data)


def sasl_final(server_first: bytes, *, password: str) -> bytes:
    fields = dict(part.split(b"=", 1) for part in server_first.split(b","))
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(fields[b"s"]), int(fields[b"i"]))
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    cbind = base64.b64encode(b"p=tls-server-end-point,," + b"B" * 32)
    without_proof = b"c=" + cbind + b",r=" + fields[b"r"]
    auth_message = b"n=,r=client-nonce," + server_first + b"," + without_proof
    signature = hmac.digest(hashlib.sha256(client_key).digest(), auth_message, "sha256")
    proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
    return message(b"p", without_proof + b",p=" + base64.b64encode(proof))


def sent(commands: list[Command]) -> bytes:
    return b"".join(command.data for command in commands if isinstance(command, Send))


def test_ssl_request_then_tls() -> None:
    assert Handshake().receive_data(ssl_request()) == [Send(b"S"), StartTls(b"")]


def test_direct_tls_hands_over_what_was_read() -> None:
    hello = b"\x16\x03\x01\x02\x00rest of a ClientHello"
    handshake = Handshake()
    assert handshake.receive_data(hello) == [StartTls(hello)]
    assert handshake.receive(TlsEstablished("postgresql")) == []


@pytest.mark.parametrize("alpn", [None, "http/1.1", "h2"])
def test_direct_tls_needs_the_alpn_protocol(alpn: str | None) -> None:
    handshake = Handshake()
    handshake.receive_data(b"\x16\x03\x01")
    with pytest.raises(ProtocolViolationError, match="ALPN"):
        handshake.receive(TlsEstablished(alpn))


def test_gss_encryption_is_declined_once() -> None:
    handshake = Handshake()
    assert handshake.receive_data(gssenc_request()) == [Send(b"N")]
    with pytest.raises(ProtocolViolationError):
        handshake.receive_data(gssenc_request())


def test_after_gss_was_declined_tls_may_start() -> None:
    handshake = Handshake()
    handshake.receive_data(gssenc_request())
    assert handshake.receive_data(ssl_request()) == [Send(b"S"), StartTls(b"")]


@pytest.mark.parametrize("request_bytes", [ssl_request(), gssenc_request()])
def test_bytes_sent_before_tls_are_refused(request_bytes: bytes) -> None:
    with pytest.raises(ProtocolViolationError, match="unencrypted data"):
        Handshake().receive_data(request_bytes + STARTUP)


def test_a_plain_startup_is_refused_with_the_known_text() -> None:
    with pytest.raises(InsecureConnectionError) as raised:
        Handshake().receive_data(STARTUP)
    assert str(raised.value) == "connection is insecure (try using `sslmode=require`)"


def test_a_plain_startup_is_refused_after_gss_too() -> None:
    handshake = Handshake()
    handshake.receive_data(gssenc_request())
    with pytest.raises(InsecureConnectionError):
        handshake.receive_data(STARTUP)


@pytest.mark.parametrize("state", [State.OPENING, State.STARTUP])
def test_a_cancel_request_is_read_in_clear_and_inside_tls(state: State) -> None:
    (command,) = in_state(state).receive_data(cancel_request(-7, b"abcd"))
    assert isinstance(command, Cancel)
    assert (command.request.pid, command.request.secret) == (-7, b"abcd")


def test_tls_inside_tls_is_refused() -> None:
    with pytest.raises(ProtocolViolationError):
        in_state(State.STARTUP).receive_data(ssl_request())


def test_the_startup_packet_is_looked_up() -> None:
    (command,) = in_state(State.STARTUP).receive_data(STARTUP)
    assert isinstance(command, LookUp)
    assert command.startup.user == "ada"
    assert command.startup.database == "app"
    assert command.startup.parameters["application_name"] == "psql"


def test_without_a_database_it_is_the_users() -> None:
    (command,) = in_state(State.STARTUP).receive_data(startup_message({"user": "ada"}))
    assert isinstance(command, LookUp)
    assert command.startup.database == "ada"


@pytest.mark.parametrize(
    ("minor", "parameters", "answer"),
    [
        (0, {}, b""),
        (2, {}, b""),
        (3, {}, negotiate_protocol_version(2, [])),
        (0, {"_pq_.x": "1"}, negotiate_protocol_version(0, ["_pq_.x"])),
        (9999, {"_pq_.x": "1"}, negotiate_protocol_version(2, ["_pq_.x"])),
    ],
)
def test_newer_minor_versions_are_negotiated_down(minor: int, parameters: dict[str, str], answer: bytes) -> None:
    commands = in_state(State.STARTUP).receive_data(startup_message({"user": "ada", **parameters}, minor))
    assert sent(commands) == answer
    assert isinstance(commands[-1], LookUp)
    assert "_pq_.x" not in commands[-1].startup.parameters


@pytest.mark.parametrize("major", [1, 2, 4, 1235])
def test_other_major_versions_are_refused(major: int) -> None:
    body = struct.pack(">HH", major, 0) + b"user\0ada\0\0"
    with pytest.raises(ProtocolViolationError):
        in_state(State.STARTUP).receive_data(struct.pack(">I", len(body) + 4) + body)


@pytest.mark.parametrize(
    "body",
    [
        b"\0\3\0\0",
        b"\0\3\0\0\0",
        b"\0\3\0\0user\0ada\0",
        b"\0\3\0\0user\0\0",
        b"\0\3\0\0user\0ada\0database\0\0",
        b"\0\3\0\0database\0app\0\0",
        b"\0\3\0\0user\0\xff\xfe\0\0",
        b"\0\3\0\0user\0ada\0\0junk\0",
        b"\0\3\0\0" + b"a\0b\0" * 65 + b"user\0ada\0\0",
    ],
)
def test_a_startup_packet_that_is_refused(body: bytes) -> None:
    with pytest.raises(ProtocolViolationError):
        in_state(State.STARTUP).receive_data(struct.pack(">I", len(body) + 4) + body)


@pytest.mark.parametrize("length", [0, 3, 4, 7, 10_001, 2**31, 2**32 - 1])
@pytest.mark.parametrize("state", [State.OPENING, State.STARTUP])
def test_a_length_that_cannot_be_is_refused_at_once(state: State, length: int) -> None:
    packet = struct.pack(">I", length)
    if packet[0] == 0x16:
        pytest.skip("the first byte of a ClientHello")
    with pytest.raises(ProtocolViolationError):
        in_state(state).receive_data(packet)


def test_the_whole_way_to_a_proof() -> None:
    handshake = in_state(State.LOOKUP)
    assert b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0" in sent(handshake.receive(CREDENTIALS))
    server_first = sent(handshake.receive_data(sasl_initial("SCRAM-SHA-256-PLUS", FIRST)))[9:]
    (proved,) = handshake.receive_data(sasl_final(server_first, password="pencil"))
    assert isinstance(proved, Proved)
    assert proved.last_word.startswith(b"R")
    assert b"v=" in proved.last_word


def test_without_a_binding_plus_is_not_offered() -> None:
    offered = sent(in_state(State.LOOKUP).receive(Credentials(VERIFIER, "n", None)))
    assert b"PLUS" not in offered
    assert b"SCRAM-SHA-256\0\0" in offered


def test_where_a_binding_is_required_nothing_else_is_offered_or_taken() -> None:
    """Whoever ignores what was offered is told so before a proof of theirs exists."""
    required = replace(CREDENTIALS, is_binding_required=True)
    handshake = in_state(State.LOOKUP)
    assert sent(handshake.receive(required)).endswith(b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0\0")
    with pytest.raises(BindingRequiredError):
        handshake.receive_data(sasl_initial("SCRAM-SHA-256", b"n,,n=,r=abc"))
    handshake = in_state(State.LOOKUP)
    handshake.receive(required)
    server_first = sent(handshake.receive_data(sasl_initial("SCRAM-SHA-256-PLUS", FIRST)))[9:]
    (proved,) = handshake.receive_data(sasl_final(server_first, password="pencil"))
    assert isinstance(proved, Proved)


def test_a_wrong_password_is_a_scram_error() -> None:
    handshake = in_state(State.SASL_FIRST)
    server_first = sent(handshake.receive_data(sasl_initial("SCRAM-SHA-256-PLUS", FIRST)))[9:]
    with pytest.raises(ScramError):
        handshake.receive_data(sasl_final(server_first, password="crayon"))


def test_a_password_is_asked_for_only_where_the_endpoint_is_missing() -> None:
    handshake = in_state(State.LOOKUP)
    assert handshake.receive(AskForPassword()) == [Send(AUTHENTICATION_CLEARTEXT)]
    (command,) = handshake.receive_data(message(b"p", b"endpoint=ep-1;pencil\0"))
    assert isinstance(command, CheckPassword)
    assert command.password == "endpoint=ep-1;pencil"
    assert handshake.receive(PasswordVerdict(is_right=False)) == [Disproved()]


def test_bytes_after_the_proof_are_kept_for_the_compute() -> None:
    handshake = in_state(State.SASL_FIRST)
    server_first = sent(handshake.receive_data(sasl_initial("SCRAM-SHA-256-PLUS", FIRST)))[9:]
    handshake.receive_data(sasl_final(server_first, password="pencil") + b"Q\0\0\0\x06;\0")
    assert handshake.take_rest() == b"Q\0\0\0\x06;\0"


@pytest.mark.parametrize("state", [State.SASL_FIRST, State.SASL_FINAL])
@pytest.mark.parametrize("data", [b"Q", b"X", b"\0", b"p\0\0\x04\x01", b"p\0\0\0\x03", b"p\xff\xff\xff\xff"])
def test_other_messages_are_refused_at_their_first_bytes(state: State, data: bytes) -> None:
    with pytest.raises(ProtocolViolationError):
        in_state(state).receive_data(data)


@pytest.mark.parametrize(
    "body",
    [b"", b"SCRAM-SHA-256", b"SCRAM-SHA-256\0", b"SCRAM-SHA-256\0\0\0\0\x05n,,", b"SCRAM-SHA-256\0\xff\xff\xff\xff"],
)
def test_a_malformed_sasl_initial_response(body: bytes) -> None:
    with pytest.raises(ProtocolViolationError):
        in_state(State.SASL_FIRST).receive_data(message(b"p", body))


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-1", "PLAIN", "", "scram-sha-256"])
def test_a_mechanism_that_was_not_offered(mechanism: str) -> None:
    with pytest.raises(ScramError):
        in_state(State.SASL_FIRST).receive_data(sasl_initial(mechanism, FIRST))


def test_everything_not_in_the_table_is_refused() -> None:
    events: list[Event] = [
        Credentials(VERIFIER, "n", None),
        AskForPassword(),
        PasswordVerdict(is_right=True),
        TlsEstablished(None),
    ]
    for state in State:
        for event in events:
            if (state, type(event)) in NEXT:
                continue
            handshake = Handshake()
            handshake.state = state
            with pytest.raises(ProtocolViolationError):
                handshake.receive(event)
            assert handshake.state is State.CLOSED


def test_no_row_leads_from_clear_text_to_a_startup() -> None:
    reached = {State.OPENING}
    while new := {to for (at, event), to in NEXT.items() if at in reached and event is not TlsEstablished} - reached:
        reached |= new
    assert State.LOOKUP not in reached
    assert State.PROVED not in reached


# -- bytes may be cut anywhere, and may be anything

CONVERSATIONS = [
    (State.OPENING, ssl_request()),
    (State.OPENING, cancel_request(5, b"abcd")),
    (State.OPENING, gssenc_request()),
    (State.STARTUP, STARTUP),
    (State.STARTUP, cancel_request(5, b"x" * 32)),
    (State.SASL_FIRST, sasl_initial("SCRAM-SHA-256-PLUS", FIRST)),
]


@pytest.mark.parametrize(("state", "data"), CONVERSATIONS)
def test_byte_by_byte_is_the_same_as_at_once(state: State, data: bytes) -> None:
    whole, cut = in_state(state), in_state(state)
    commands: list[Command] = []
    for position in range(len(data)):
        commands += cut.receive_data(data[position : position + 1])
    assert commands == whole.receive_data(data)
    assert cut.state is whole.state


@settings(max_examples=100)
@given(conversation=st.sampled_from(CONVERSATIONS), cuts=st.lists(st.integers(0, 120), max_size=5))
def test_any_cut_is_the_same_as_at_once(conversation: tuple[State, bytes], cuts: list[int]) -> None:
    state, data = conversation
    cut = in_state(state)
    edges = [0, *sorted(min(position, len(data)) for position in cuts), len(data)]
    for start, end in itertools.pairwise(edges):
        cut.receive_data(data[start:end])
    whole = in_state(state)
    whole.receive_data(data)
    assert cut.state is whole.state


@settings(max_examples=300)
@given(
    state=st.sampled_from([State.OPENING, State.STARTUP, State.SASL_FIRST, State.SASL_FINAL]),
    chunks=st.lists(st.binary(max_size=60), max_size=4),
    prefix=st.sampled_from([b"", b"p", b"\0\0\0\x20\0\3\0\0", b"p\0\0\0\x10", b"\0\0\0\x10\x04\xd2\x16\x2e"]),
)
def test_garbage_is_parsed_or_refused_never_worse(state: State, chunks: list[bytes], prefix: bytes) -> None:
    handshake = in_state(state)
    try:
        for chunk in [prefix, *chunks]:
            handshake.receive_data(chunk)
    except (ProtocolViolationError, ScramError):
        pass
    assert len(handshake.take_rest()) <= 10_000


def test_secrets_do_not_print_themselves() -> None:
    for command in (CheckPassword("hunter2"), Send(b"hunter2"), Proved(b"hunter2")):
        assert "hunter2" not in repr(command)


def test_an_error_response_cannot_be_broken_out_of() -> None:
    assert error_response("28P01", 'user "a\0Cevil"').count(b"\0C") == 1

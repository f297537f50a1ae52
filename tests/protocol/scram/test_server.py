"""The exchange against the RFC's example, an independent client (scramp), and everything that must not pass."""

import base64
import hashlib
import hmac

import pytest
import scramp
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cloister.protocol.scram import PLAIN, PLUS, InvalidVerifierError, ScramError, ServerExchange, Verifier

SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
VERIFIER = Verifier.of_password("pencil", salt=SALT, iterations=4096)
NONCE = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
CLIENT_FIRST = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
CLIENT_FINAL = (
    b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
)
BINDING = hashlib.sha256(b"a certificate").digest()


def exchange(verifier: Verifier = VERIFIER, *, mechanism: str = PLAIN, binding: bytes | None = None) -> ServerExchange:
    return ServerExchange(verifier, mechanism=mechanism, nonce=NONCE, binding=binding)


def client_final(client_first: bytes, server_first: bytes, *, password: str, cbind: bytes = b"n,,") -> bytes:
    """A client's answer, computed here step by step."""
    fields = dict(part.split(b"=", 1) for part in server_first.split(b","))
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(fields[b"s"]), int(fields[b"i"]))
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    bare = client_first.split(b",", 2)[2]
    without_proof = b"c=" + base64.b64encode(cbind) + b",r=" + fields[b"r"]
    auth_message = bare + b"," + server_first + b"," + without_proof
    signature = hmac.digest(hashlib.sha256(client_key).digest(), auth_message, "sha256")
    proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
    return without_proof + b",p=" + base64.b64encode(proof)


def test_the_example_of_rfc_7677() -> None:
    server = exchange()
    assert server.first(CLIENT_FIRST) == (
        b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    )
    assert server.final(CLIENT_FINAL) == b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


@pytest.mark.parametrize("mechanism", [PLAIN, PLUS])
@pytest.mark.parametrize("password", ["pencil", "pâté ½", "a" * 200, "\u00a0space"])
def test_an_independent_client_proves_itself_and_us(mechanism: str, password: str) -> None:
    verifier = Verifier.of_password(password, salt=SALT)
    cbind = ("tls-server-end-point", BINDING) if mechanism == PLUS else None
    client = scramp.ScramClient([mechanism], "ada", password, channel_binding=cbind)
    server = exchange(verifier, mechanism=mechanism, binding=BINDING if mechanism == PLUS else None)
    client.set_server_first(server.first(client.get_client_first().encode()).decode())
    client.set_server_final(server.final(client.get_client_final().encode()).decode())


@pytest.mark.parametrize("mechanism", [PLAIN, PLUS])
def test_a_wrong_password_and_a_mock_fail_at_the_same_step(mechanism: str) -> None:
    header = b"p=tls-server-end-point,," if mechanism == PLUS else b"n,,"
    first = header + b"n=,r=abc"
    cbind = header + (BINDING if mechanism == PLUS else b"")
    for verifier in (VERIFIER, Verifier.mock("ep-1", "ghost", b"k" * 32)):
        server = exchange(verifier, mechanism=mechanism, binding=BINDING)
        final = client_final(first, server.first(first), password="crayon", cbind=cbind)
        with pytest.raises(ScramError, match="the proof is wrong"):
            server.final(final)


def test_a_doomed_verifier_refuses_even_a_right_proof() -> None:
    doomed = Verifier(VERIFIER.iterations, VERIFIER.salt, VERIFIER.stored_key, VERIFIER.server_key, is_doomed=True)
    server = exchange(doomed)
    with pytest.raises(ScramError, match="the proof is wrong"):
        server.final(client_final(CLIENT_FIRST, server.first(CLIENT_FIRST), password="pencil"))


def test_a_client_that_saw_no_channel_binding_is_refused_where_it_was_offered() -> None:
    with pytest.raises(ScramError, match="downgrade"):
        exchange(binding=BINDING).first(b"y,,n=,r=abc")


def test_a_client_that_can_bind_is_welcome_where_it_was_not_offered() -> None:
    assert exchange(binding=None).first(b"y,,n=,r=abc").startswith(b"r=abc" + NONCE.encode())


def test_the_binding_of_another_certificate_is_refused() -> None:
    first = b"p=tls-server-end-point,,n=,r=abc"
    server = exchange(mechanism=PLUS, binding=BINDING)
    elsewhere = hashlib.sha256(b"the certificate of somebody between us").digest()
    final = client_final(first, server.first(first), password="pencil", cbind=b"p=tls-server-end-point,," + elsewhere)
    with pytest.raises(ScramError, match="channel binding does not match"):
        server.final(final)


@pytest.mark.parametrize(
    ("mechanism", "first"),
    [
        (PLAIN, b""),
        (PLAIN, b"n,"),
        (PLAIN, b"n,,"),
        (PLAIN, b"n,a=admin,n=user,r=abc"),
        (PLAIN, b"p=tls-server-end-point,,n=,r=abc"),
        (PLUS, b"n,,n=,r=abc"),
        (PLUS, b"y,,n=,r=abc"),
        (PLUS, b"p=tls-unique,,n=,r=abc"),
        (PLAIN, b"n,,m=ext,n=,r=abc"),
        (PLAIN, b"n,,r=abc,n="),
        (PLAIN, b"n,,n=,r="),
        (PLAIN, b"n,,n=,r=a b"),
        (PLAIN, b"n,,n=,r=a\xffb"),
        (PLAIN, b"n,,n=,r=" + b"a" * 513),
        (PLAIN, b"x,,n=,r=abc"),
    ],
)
def test_a_first_message_that_is_refused(mechanism: str, first: bytes) -> None:
    with pytest.raises(ScramError):
        exchange(mechanism=mechanism, binding=BINDING).first(first)


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-1", "", PLUS])
def test_a_mechanism_that_was_not_offered(mechanism: str) -> None:
    with pytest.raises(ScramError):
        exchange(mechanism=mechanism, binding=None)


def test_the_final_message_must_repeat_the_gs2_header() -> None:
    server = exchange()
    with pytest.raises(ScramError, match="channel binding"):
        server.final(client_final(CLIENT_FIRST, server.first(CLIENT_FIRST), password="pencil", cbind=b"y,,"))


def test_a_replay_of_another_exchange_is_refused() -> None:
    server = ServerExchange(VERIFIER, mechanism=PLAIN, nonce="another", binding=None)
    server.first(CLIENT_FIRST)
    with pytest.raises(ScramError, match="nonce"):
        server.final(CLIENT_FINAL)


def test_a_final_message_before_the_first() -> None:
    with pytest.raises(ScramError):
        exchange().final(CLIENT_FINAL)


@settings(max_examples=200)
@given(position=st.integers(0, len(CLIENT_FINAL) - 1), byte=st.integers(0, 255))
@example(position=len(CLIENT_FINAL) - 2, byte=CLIENT_FINAL[-2] + 1)  # bits that say nothing
def test_no_changed_byte_passes(position: int, byte: int) -> None:
    changed = CLIENT_FINAL[:position] + bytes((byte,)) + CLIENT_FINAL[position + 1 :]
    server = exchange()
    server.first(CLIENT_FIRST)
    if changed == CLIENT_FINAL:
        assert server.final(changed).startswith(b"v=")
    else:
        with pytest.raises(ScramError):
            server.final(changed)


@settings(max_examples=200)
@given(first=st.binary(max_size=80), final=st.binary(max_size=120))
def test_garbage_is_refused_and_nothing_worse(first: bytes, final: bytes) -> None:
    server = exchange()
    with pytest.raises(ScramError):
        server.first(first)
    with pytest.raises(ScramError):
        server.final(final)


def test_a_verifier_reads_what_it_writes() -> None:
    assert Verifier.parse(str(VERIFIER)) == VERIFIER
    assert str(VERIFIER).startswith("SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "md5aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "SCRAM-SHA-256$0:c2FsdA==$" + "A" * 43 + "=:" + "A" * 43 + "=",
        "SCRAM-SHA-256$4096:****$" + "A" * 43 + "=:" + "A" * 43 + "=",
        "SCRAM-SHA-256$4096:c2FsdA$" + "A" * 43 + "=:" + "A" * 43 + "=",
        "SCRAM-SHA-256$99999999:c2FsdA==$" + "A" * 43 + "=:" + "A" * 43 + "=",
        "SCRAM-SHA-256$4096:c2FsdA==$AAAA:AAAA",
        str(VERIFIER) + "\n",
    ],
)
def test_what_is_not_a_verifier(text: str) -> None:
    with pytest.raises(InvalidVerifierError) as raised:
        Verifier.parse(text)
    assert not text or text not in str(raised.value)


def test_a_mock_is_stable_and_looks_like_a_stored_one() -> None:
    mock = Verifier.mock("ep-1", "ghost", b"k" * 32)
    assert mock == Verifier.mock("ep-1", "ghost", b"k" * 32)
    assert mock.salt != Verifier.mock("ep-1", "ghosu", b"k" * 32).salt
    assert mock.salt != Verifier.mock("ep-1g", "host", b"k" * 32).salt
    assert mock.salt != Verifier.mock("ep-1", "ghost", b"l" * 32).salt
    assert (mock.iterations, len(mock.salt)) == (VERIFIER.iterations, len(VERIFIER.salt))
    assert mock.is_doomed


def test_a_verifier_does_not_print_itself() -> None:
    assert "SCRAM" not in repr(VERIFIER)


def test_a_password_in_clear_is_checked_against_the_verifier() -> None:
    assert VERIFIER.matches_password("pencil")
    assert not VERIFIER.matches_password("crayon")
    assert not Verifier(
        *(VERIFIER.iterations, VERIFIER.salt, VERIFIER.stored_key, VERIFIER.server_key), True
    ).matches_password("pencil")


@pytest.mark.parametrize(
    ("typed", "same"),
    [("I\u00adX", "IX"), ("\u2168", "IX"), ("\u00aa", "a"), ("a\u00a0b", "a b")],
)
def test_saslprep_makes_two_spellings_one(typed: str, same: str) -> None:
    assert Verifier.of_password(typed, salt=SALT, iterations=1) == Verifier.of_password(same, salt=SALT, iterations=1)


@pytest.mark.parametrize("password", ["a\u0007\u00e9", "\u0627a", "\u00ad", "\U0001f512\ue000"])
def test_what_saslprep_refuses_is_used_as_it_is(password: str) -> None:
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), SALT, 1)
    expected = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    assert Verifier.of_password(password, salt=SALT, iterations=1).stored_key == expected

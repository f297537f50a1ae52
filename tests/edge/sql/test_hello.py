"""Whose is a connection? The name in its first bytes says so."""

import contextlib
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.edge.sql.hello import HELLO_BYTES_MAX, IncompleteHelloError, server_name


def client_hello(name: str | None, **settings: ssl.TLSVersion) -> bytes:
    context = ssl.create_default_context()
    context.check_hostname = False
    for setting, value in settings.items():
        setattr(context, setting, value)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_the_name_is_found_in_lower_case(version: ssl.TLSVersion) -> None:
    hello = client_hello("EP-Calm.DB.example", maximum_version=version)
    assert server_name(hello) == "ep-calm.db.example"


def test_without_a_name_there_is_none() -> None:
    assert server_name(client_hello(None)) is None


@pytest.mark.parametrize("length", [0, 1, 5, 6, 100, -1])
def test_a_part_of_it_is_not_enough(length: int) -> None:
    with pytest.raises(IncompleteHelloError):
        server_name(client_hello("ep-calm.db.example")[:length])


@pytest.mark.parametrize("text", [b"GET / HTTP/1.1\r\n\r\n", b"\0" * 8, b"\x16\x03\x01\xff\xff" + b"a" * 40])
def test_what_is_not_tls_has_no_name(text: bytes) -> None:
    assert server_name(text) is None


def test_a_hello_without_an_end_is_not_waited_for() -> None:
    """A record as long as may be, and the handshake message in it longer still."""
    endless = b"\x16\x03\x01\x40\x00\x01\x00\xff\xff" + b"\0" * (HELLO_BYTES_MAX - 9)
    assert server_name(endless) is None


@given(st.binary(max_size=200))
def test_any_bytes_have_a_name_or_none_or_are_incomplete(data: bytes) -> None:
    try:
        name = server_name(data)
    except IncompleteHelloError:
        return
    assert name is None or name == name.lower()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # ssl complains of names beyond ASCII
@given(st.integers(0, 500), st.integers(0, 255))
def test_a_bent_hello_does_not_break_us(position: int, value: int) -> None:
    hello = bytearray(client_hello("ep-calm.db.example"))
    hello[position % len(hello)] = value
    with contextlib.suppress(IncompleteHelloError):
        server_name(bytes(hello))

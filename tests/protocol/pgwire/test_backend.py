"""Logging in to a compute: what it may say, and that it cannot hurt."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.protocol.pgwire.backend import BackendError, BackendLogin
from cloister.protocol.pgwire.frames import ProtocolViolationError, message
from cloister.protocol.pgwire.messages import (
    AUTHENTICATION_CLEARTEXT,
    AUTHENTICATION_OK,
    READY_FOR_QUERY_IDLE,
    backend_key_data,
    error_response,
    parameter_status,
)

STATUS = parameter_status("server_version", "18.1") + parameter_status("TimeZone", "UTC")
GREETING = AUTHENTICATION_OK + STATUS + backend_key_data(4711, b"\1\2\3\4") + READY_FOR_QUERY_IDLE


def test_a_login() -> None:
    login = BackendLogin()
    login.receive_data(GREETING + b"later")
    assert login.is_ready
    assert (login.pid, login.secret) == (4711, b"\1\2\3\4")
    assert login.greeting == STATUS
    assert login.rest == b"later"


def test_byte_by_byte() -> None:
    login = BackendLogin()
    for position in range(len(GREETING)):
        assert not login.is_ready
        login.receive_data(GREETING[position : position + 1])
    assert login.is_ready
    assert login.greeting == STATUS


def test_the_computes_own_error_keeps_its_words() -> None:
    raw = error_response("3D000", 'database "nope" does not exist')
    with pytest.raises(BackendError) as raised:
        BackendLogin().receive_data(raw)
    assert raised.value.raw == raw
    assert raised.value.sqlstate == "3D000"


@pytest.mark.parametrize(
    "data",
    [
        AUTHENTICATION_CLEARTEXT,
        STATUS,
        READY_FOR_QUERY_IDLE,
        AUTHENTICATION_OK + message(b"D", b""),
        AUTHENTICATION_OK + backend_key_data(1, b""),
        b"S\x7f\xff\xff\xff",
        b"S\0\0\0\0",
    ],
)
def test_what_a_compute_may_not_say(data: bytes) -> None:
    with pytest.raises(ProtocolViolationError):
        BackendLogin().receive_data(data)


def test_a_compute_cannot_fill_the_gateways_memory() -> None:
    login = BackendLogin()
    login.receive_data(AUTHENTICATION_OK + parameter_status("x", "y" * 1_000) * 200)
    with pytest.raises(ProtocolViolationError, match="too much"):
        login.receive_data(parameter_status("x", "y" * 1_000) * 100)


@settings(max_examples=200)
@given(data=st.binary(max_size=100))
def test_garbage_is_read_or_refused(data: bytes) -> None:
    login = BackendLogin()
    try:
        login.receive_data(AUTHENTICATION_OK + data)
    except (ProtocolViolationError, BackendError):
        assert not login.is_ready

"""The PROXY protocol header: addresses, and everything that is refused."""

import contextlib
import struct
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.protocol.proxy_header import SIGNATURE, ProxyHeader, ProxyHeaderError, take_proxy_header


def header(command: int, family: int, body: bytes) -> bytes:
    return SIGNATURE + struct.pack(">BBH", command, family, len(body)) + body


V4 = header(0x21, 0x11, bytes([192, 0, 2, 7, 10, 0, 0, 1]) + struct.pack(">HH", 1234, 5432))
V6_BODY = ip_address("2001:db8::7").packed + ip_address("2001:db8::1").packed + struct.pack(">HH", 1234, 5432)
V6 = header(0x21, 0x21, V6_BODY + b"\x04\0\1x")
MAPPED = header(0x21, 0x21, ip_address("::ffff:192.0.2.9").packed + b"\0" * 20)


@pytest.mark.parametrize(
    ("data", "address"),
    [(V4, "192.0.2.7"), (V6, "2001:db8::7"), (MAPPED, "192.0.2.9")],
)
def test_the_source_address(data: bytes, address: str) -> None:
    buffer = bytearray(data + b"next")
    assert take_proxy_header(buffer) == ProxyHeader(ip_address(address))
    assert buffer == b"next"


def test_local_names_nobody() -> None:
    assert take_proxy_header(bytearray(header(0x20, 0x00, b""))) == ProxyHeader(None)


@pytest.mark.parametrize("data", [V4, V6])
def test_it_may_come_in_pieces(data: bytes) -> None:
    for end in range(len(data)):
        assert take_proxy_header(bytearray(data[:end])) is None


@pytest.mark.parametrize(
    "data",
    [
        b"PROXY TCP4 192.0.2.7 10.0.0.1 1234 5432\r\n",
        b"\0\0\0\x08\x04\xd2\x16\x2f",
        header(0x11, 0x11, b"\0" * 12),
        header(0x22, 0x11, b"\0" * 12),
        header(0x21, 0x12, b"\0" * 12),
        header(0x21, 0x31, b"\0" * 216),
        header(0x21, 0x11, b"\0" * 11),
        header(0x21, 0x00, b""),
        SIGNATURE + struct.pack(">BBH", 0x21, 0x11, 65_535),
    ],
)
def test_what_is_refused(data: bytes) -> None:
    with pytest.raises(ProxyHeaderError):
        take_proxy_header(bytearray(data))


@settings(max_examples=200)
@given(tail=st.binary(max_size=80), keep=st.integers(0, 12))
def test_garbage_is_read_or_refused(tail: bytes, keep: int) -> None:
    buffer = bytearray(SIGNATURE[:keep] + tail)
    with contextlib.suppress(ProxyHeaderError):
        take_proxy_header(buffer)

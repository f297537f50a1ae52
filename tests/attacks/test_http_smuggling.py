"""Threat: a request that two parsers read differently, so that the second half of one becomes a request of another."""

import pytest

from tests.edge.api.serving import answer_of, ends, request, serving

INNER = b"GET /api/v2/cloister/health HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize(
    "raw",
    [
        request("/api/v2/projects", "Content-Length: 5", "Content-Length: 6", method="POST", body=b"00000"),
        request("/api/v2/projects", "Content-Length: 4", "Transfer-Encoding: gzip", method="POST", body=b"0000"),
        request("/api/v2/projects", "Transfer-Encoding: xchunked", method="POST", body=b"0\r\n\r\n"),
        request("/api/v2/projects", "Content-Length: -1", method="POST"),
        request("/api/v2/projects", "Content-Length: 0x5", method="POST", body=b"00000"),
        request("/api/v2/projects", "Content-Length: +5", method="POST", body=b"00000"),
        request("/api/v2/projects", "Content-Length : 5", method="POST", body=b"00000"),
        request("/api/v2/projects", "Transfer-Encoding: chunked", method="POST", body=b"zz\r\n\r\n"),
        request("/api/v2/projects", "X: a\x00b"),
        request("/api/v2/projects", "Host: second"),
        b"GET /api/v2/projects HTTP/1.1\r\n\r\n",
        b"GET /api/v2/projects\r\n\r\n",
        b"GET /api/v2/pro jects HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
    ],
    ids=range(14),
)
async def test_what_can_be_read_two_ways_is_not_read(raw: bytes) -> None:
    """Refused, closed, and what follows is never taken for a request."""
    async with serving() as it, it.connect() as (reader, writer):
        writer.write(raw + b"\r\n" + INNER)
        received = await ends(reader)
        assert received.startswith(b"HTTP/1.1 400 Bad Request\r\n"), received[:80]
        assert received.count(b"HTTP/1.1 ") == 1
        assert b'"message":"malformed HTTP request"' in received
        assert b"ready" not in received


async def test_a_length_beside_chunks_does_not_count() -> None:
    """RFC 9112 6.3: chunks win. The body ends where they end, and not a byte of it becomes a request."""
    async with serving() as it, it.connect() as (reader, writer):
        writer.write(
            request(
                "/api/v2/projects",
                "Content-Type: application/json",
                "Content-Length: 3",
                "Transfer-Encoding: chunked",
                method="POST",
                body=b"2\r\n{}\r\n0\r\n\r\n",
            )
        )
        assert (await answer_of(reader))[0] == 401
        writer.write(request())
        assert (await answer_of(reader))[0] == 200


async def test_a_body_where_none_is_expected_does_not_become_a_request() -> None:
    async with serving() as it, it.connect() as (reader, writer):
        writer.write(
            request(
                "/api/v2/cloister/health",
                f"Content-Length: {len(INNER)}",
                "Content-Type: application/json",
                body=INNER,
            )
        )
        writer.write(request("/api/v2/nothing"))
        assert (await answer_of(reader))[0] == 200
        assert (await answer_of(reader))[0] == 401


async def test_a_head_that_is_too_long_is_refused_whole_or_in_pieces() -> None:
    async with serving() as it:
        async with it.connect() as (reader, writer):
            writer.write(request("/api/v2/projects", "X: " + "a" * 20_000))
            assert (await answer_of(reader))[0] == 431
        async with it.connect() as (reader, writer):
            writer.write(b"GET /api/v2/projects HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 300_000)
            assert (await ends(reader)).startswith(b"HTTP/1.1 400 Bad Request\r\n")


@pytest.mark.parametrize("version", ["2.0", "0.9", "1.2"])
async def test_another_version_of_http_is_not_guessed_at(version: str) -> None:
    async with serving() as it, it.connect() as (reader, writer):
        writer.write(f"GET /api/v2/cloister/health HTTP/{version}\r\nHost: x\r\n\r\n".encode())
        status, _, body = await answer_of(reader)
        assert status == 400
        assert b"ready" not in body

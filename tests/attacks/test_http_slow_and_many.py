"""Threat: somebody holds connections, sends slowly, reads slowly, or opens very many."""

import asyncio
import contextlib

import pytest

from cloister.edge.api import refusals, server
from tests.edge.api.serving import answer_of, ends, request, serving


@pytest.fixture(autouse=True)
def _short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_TIMEOUT_S", 0.15)
    monkeypatch.setattr(server, "IDLE_TIMEOUT_S", 0.3)
    monkeypatch.setattr(server, "REQUEST_TIMEOUT_S", 0.5)


async def test_a_connection_that_says_nothing_is_ended() -> None:
    async with serving() as it, it.connect() as (reader, _):
        assert await ends(reader) == b""


async def test_a_head_that_comes_byte_by_byte_is_ended() -> None:
    """Each byte does not give new patience: that is how slowloris lives."""
    async with serving() as it, it.connect() as (reader, writer):
        ending = asyncio.ensure_future(ends(reader))
        for byte in request():
            if ending.done():
                break
            with contextlib.suppress(ConnectionError):
                writer.write(bytes([byte]))
                await writer.drain()
            await asyncio.wait([ending], timeout=0.02)
        assert await ending == b""


async def test_a_second_head_that_comes_byte_by_byte_is_ended_too() -> None:
    async with serving() as it, it.connect() as (reader, writer):
        writer.write(request())
        assert (await answer_of(reader))[0] == 200
        writer.write(b"GET /api")
        assert await ends(reader) == b""


async def test_a_body_that_does_not_come_is_ended() -> None:
    async with serving() as it, it.connect() as (reader, writer):
        key = "Authorization: Bearer napi_" + "a" * 64
        writer.write(
            request("/api/v2/projects", key, "Content-Type: application/json", "Content-Length: 9", method="POST")
        )
        assert await ends(reader) == b""
        assert it.world.projects.created == []


async def test_a_refused_body_that_drips_is_ended() -> None:
    async with serving() as it, it.connect() as (reader, writer):
        writer.write(request("/api/v2/projects", "Content-Type: application/json", "Content-Length: 99", method="POST"))
        assert (await answer_of(reader))[0] == 401
        ending = asyncio.ensure_future(ends(reader))
        for _ in range(99):
            if ending.done():
                break
            with contextlib.suppress(ConnectionError):
                writer.write(b" ")
                await writer.drain()
            await asyncio.wait([ending], timeout=0.02)
        assert await ending == b""


async def test_an_idle_connection_is_ended_later() -> None:
    async with serving() as it, it.connect() as (reader, writer):
        for _ in range(2):
            writer.write(request())
            assert (await answer_of(reader))[0] == 200
        assert await ends(reader) == b""


async def test_one_address_cannot_take_every_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CONNECTIONS_PER_ADDRESS_MAX", 3)
    monkeypatch.setattr(server, "HEAD_TIMEOUT_S", 10.0)
    async with serving() as it, contextlib.AsyncExitStack() as stack:
        held = [await stack.enter_async_context(it.connect()) for _ in range(3)]
        for reader, writer in held:
            writer.write(request())
            assert (await answer_of(reader))[0] == 200
        async with it.connect() as (reader, _):
            assert await ends(reader) == b""
        held[0][1].close()
        await held[0][1].wait_closed()
        reader, writer = held[1]
        writer.write(request())
        assert (await answer_of(reader))[0] == 200
        async with it.connect() as (reader, writer):
            writer.write(request())
            assert (await answer_of(reader))[0] == 200


@pytest.mark.parametrize(
    ("limit", "reason"),
    [("CONNECTIONS_PER_ADDRESS_MAX", "connections_per_address"), ("CONNECTIONS_MAX", "connections")],
)
async def test_a_crowd_at_the_api_is_one_event_of_the_audit_log(
    monkeypatch: pytest.MonkeyPatch, limit: str, reason: str
) -> None:
    """A second; with how many it was."""
    monkeypatch.setattr(server, limit, 1)
    monkeypatch.setattr(server, "HEAD_TIMEOUT_S", 10.0)
    monkeypatch.setattr(refusals, "FLUSH_INTERVAL_S", 3600.0)
    async with serving() as it, it.connect() as (reader, writer):
        writer.write(request())
        assert (await answer_of(reader))[0] == 200
        for _ in range(20):
            async with it.connect() as (turned_away, _):
                assert await ends(turned_away) == b""
        (event,) = await it.world.refused()
    assert (event.actor, event.outcome, event.reason) == ("stranger", "denied", reason)
    assert (event.address, event.details) == ("127.0.0.1", {"count": 20})

"""A recorded session, with transports in memory and a control plane that keeps what it is told, or does not."""

import asyncio
from typing import Any, cast

import pytest

from cloister.base.directory import Spoken
from cloister.base.errors import UnavailableError
from cloister.edge.gateway.recording import RecordedRelay, Recorder
from cloister.protocol.pgwire.statements import TEXT_BYTES_MAX
from tests.edge.gateway.test_relay import Clear, Transport

READY = b"Z\x00\x00\x00\x05I"


def query(text: str) -> bytes:
    body = text.encode() + b"\0"
    return b"Q" + (len(body) + 4).to_bytes(4) + body


def done(tag: str) -> bytes:
    body = tag.encode() + b"\0"
    return b"C" + (len(body) + 4).to_bytes(4) + body + READY


class ReadableTransport(Transport):
    reads = True

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True


class Plane:
    """Stands in for the directory."""

    def __init__(self) -> None:
        self.chunks: list[tuple[int, list[Spoken]]] = []
        self.ended: list[str] = []
        self.may_answer = asyncio.Event()
        self.fails = False

    async def append_recording(self, _recording_id: str, chunk: int, statements: list[Spoken]) -> None:
        await self.may_answer.wait()
        if self.fails:
            raise UnavailableError("gone")
        self.chunks.append((chunk, statements))

    async def end_recording(self, _recording_id: str, reason: str) -> None:
        self.ended.append(reason)


class Scene:
    def __init__(self) -> None:
        self.plane, self.client, self.compute, self.tls = Plane(), ReadableTransport(), ReadableTransport(), Clear()
        self.recorder = Recorder(cast("Any", self.plane), "r")
        self.relay = RecordedRelay(self.client, cast("Any", self.tls), self.compute, self.recorder)

    def say(self, data: bytes) -> None:
        cast("Any", self.relay)._from_client._compute_write(data)

    def answer(self, data: bytes) -> None:
        cast("Any", self.compute.protocol).data_received(data)


async def test_the_clients_next_bytes_wait_for_the_record_of_the_last() -> None:
    scene = Scene()
    scene.relay.start(query("SELECT 1"))
    assert scene.compute.written == query("SELECT 1")
    scene.answer(done("SELECT 1"))
    assert not scene.client.reads
    scene.plane.may_answer.set()
    await scene.recorder.finish("client_left")
    assert scene.client.reads
    ((chunk, (spoken,)),) = scene.plane.chunks
    assert (chunk, spoken.text, spoken.tags, scene.plane.ended) == (0, "SELECT 1", ["SELECT 1"], ["client_left"])


async def test_a_record_that_cannot_be_kept_ends_the_session() -> None:
    scene = Scene()
    scene.plane.fails = True
    scene.plane.may_answer.set()
    scene.relay.start(query("SELECT 1"))
    scene.answer(done("SELECT 1"))
    assert await scene.relay.closed == "recording_failed"
    assert b"58000" in scene.tls.said
    assert scene.compute.is_gone
    await scene.recorder.finish("recording_failed")
    assert scene.plane.ended == []  # not a word that all is well


@pytest.mark.parametrize("nonsense", [b"\x01\x00\x00\x00\x04", b"Q\x00\x00\x00\x00"])
async def test_what_is_not_understood_does_not_reach_the_compute(nonsense: bytes) -> None:
    scene = Scene()
    scene.relay.start(b"")
    scene.say(nonsense)
    assert (await scene.relay.closed, scene.compute.written) == ("recording_failed", b"")


async def test_a_password_does_not_leave_the_gateway() -> None:
    scene = Scene()
    scene.plane.may_answer.set()
    scene.relay.start(query("ALTER ROLE app PASSWORD 'hunter2'"))
    await scene.recorder.finish("client_left")
    ((_, (spoken,)),) = scene.plane.chunks
    assert (spoken.text, spoken.outcome) == ("ALTER ROLE app PASSWORD '***'", "unknown")
    assert "hunter2" not in repr(spoken)


async def test_of_a_text_that_is_cut_no_literal_is_kept() -> None:
    """Which word would have told that it is a secret may lie behind the cut."""
    scene = Scene()
    scene.plane.may_answer.set()
    scene.relay.start(query("SELECT 'hunter2' " + " " * TEXT_BYTES_MAX + " AS password"))
    await scene.recorder.finish("client_left")
    ((_, (spoken,)),) = scene.plane.chunks
    assert "hunter2" not in repr(spoken)
    assert spoken.text.startswith("SELECT '***'")


async def test_a_recorded_session_is_nobodys_afterwards() -> None:
    scene = Scene()
    scene.relay.start(b"", READY)
    assert not scene.relay.goodbye(is_alone=True)

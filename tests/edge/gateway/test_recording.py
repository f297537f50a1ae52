"""A recorded session, with transports in memory and a control plane that keeps what it is told, or does not."""

import asyncio
from typing import Any, cast

import pytest

from cloister.base.directory import Spoken
from cloister.base.errors import UnavailableError
from cloister.edge.gateway.memory import Memory, Share
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


def message(kind: bytes, body: bytes) -> bytes:
    return kind + (len(body) + 4).to_bytes(4) + body


def parse(text: str, name: str) -> bytes:
    return message(b"P", f"{name}\0{text}\0".encode() + bytes(2))


def bind(source: str, portal: str) -> bytes:
    return message(b"B", f"{portal}\0{source}\0".encode() + bytes(6))


def execute(portal: str) -> bytes:
    return message(b"E", f"{portal}\0".encode() + bytes(4))


async def turn() -> None:
    """Whatever could go on has gone on."""
    for _ in range(10):
        await asyncio.sleep(0)


class ReadableTransport(Transport):
    reads = True

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True


class Plane:
    """Stands in for the directory."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.chunks: list[tuple[int, list[Spoken]]] = []
        self.ended: list[str] = []
        self.may_answer = asyncio.Event()
        self.fails = False

    async def append_recording(self, _recording_id: str, chunk: int, statements: list[Spoken]) -> None:
        self.asked.append([it.text for it in statements])
        await self.may_answer.wait()
        if self.fails:
            raise UnavailableError("gone")
        self.chunks.append((chunk, statements))

    async def end_recording(self, _recording_id: str, reason: str) -> None:
        self.ended.append(reason)


def room(size: int) -> Share:
    return Memory(total_max=size, per_endpoint_max=size, assured=0, public="no room").share("ep")


class Scene:
    def __init__(self, share: Share | None = None) -> None:
        self.plane, self.client, self.compute, self.tls = Plane(), ReadableTransport(), ReadableTransport(), Clear()
        self.recorder = Recorder(cast("Any", self.plane), "r", share or room(1 << 30))
        self.relay = RecordedRelay(self.client, cast("Any", self.tls), self.compute, self.recorder)

    def say(self, data: bytes) -> None:
        cast("Any", self.relay)._from_client._compute_write(data)

    async def stored(self) -> None:
        """All that waits, by a recorder that answers."""
        for _ in range(100):
            await asyncio.sleep(0)
        assert self.recorder.is_stored

    def answer(self, data: bytes) -> None:
        cast("Any", self.compute.protocol).data_received(data)


async def test_nothing_reaches_the_compute_that_is_not_written_down() -> None:
    """A recorder that never answers: whatever is said, and however it is cut."""
    scene = Scene()
    first = query("SELECT 1")
    scene.relay.start(first[:-1])
    assert scene.compute.written == first[:-1]  # no message yet, and nothing to execute
    scene.say(first[-1:])
    scene.say(query("SELECT 2"))
    await turn()
    assert scene.plane.asked == [["SELECT 1", "SELECT 2"]]
    assert (scene.compute.written, scene.client.reads) == (first[:-1], False)


async def test_what_was_said_goes_on_in_order_when_it_is_written_down() -> None:
    scene = Scene()
    pipeline = [query("SELECT 1"), query("SELECT 2"), b"S\x00\x00\x00\x04"]
    for said in pipeline:
        scene.say(said)
    scene.plane.may_answer.set()
    await scene.stored()
    assert (scene.compute.written, scene.client.reads) == (b"".join(pipeline), True)


async def test_the_clients_next_bytes_wait_for_the_record_of_the_last() -> None:
    scene = Scene()
    scene.plane.may_answer.set()
    scene.relay.start(query("SELECT 1"))
    await scene.stored()
    scene.plane.may_answer.clear()
    scene.answer(done("SELECT 1"))
    assert not scene.client.reads
    scene.plane.may_answer.set()
    await scene.recorder.finish("client_left")
    assert scene.client.reads
    asked, outcome = (spoken for _, chunk in scene.plane.chunks for spoken in chunk)
    assert (asked.number, asked.outcome, asked.text) == (1, "asked", "SELECT 1")
    assert (outcome.number, outcome.outcome, outcome.text, outcome.tags) == (1, "done", "SELECT 1", ["SELECT 1"])
    assert ([index for index, _ in scene.plane.chunks], scene.plane.ended) == ([0, 1], ["client_left"])


async def test_what_is_prepared_and_bound_is_written_down_with_the_execution_that_names_it() -> None:
    scene = Scene()
    scene.plane.may_answer.set()
    scene.say(parse("SELECT 2", "two") + bind("two", "p") + execute("p"))
    await scene.stored()
    ((_, chunk),) = scene.plane.chunks
    assert [(it.kind, it.text, it.name, it.source) for it in chunk] == [
        ("prepare", "SELECT 2", "two", ""), ("bind", "", "p", "two"), ("extended", "", "p", ""),
    ]  # fmt: skip


async def test_a_frozen_session_says_nothing_that_was_written_down_meanwhile() -> None:
    scene = Scene()
    scene.plane.may_answer.set()
    scene.say(query("SELECT 1"))
    scene.relay.freeze()
    await scene.stored()
    assert scene.compute.written == b""
    scene.relay.thaw()
    assert scene.compute.written == query("SELECT 1")


async def test_what_waits_is_dropped_with_its_session() -> None:
    scene = Scene()
    scene.say(query("SELECT 1"))
    scene.relay.end("access_over")
    scene.plane.may_answer.set()
    await scene.recorder.finish("access_over")
    assert scene.compute.written == b""
    assert [it.outcome for _, chunk in scene.plane.chunks for it in chunk] == ["asked", "unknown"]


async def test_what_an_endpoint_has_no_room_for_is_written_down_and_not_asked() -> None:
    share = room(5_000)
    scene = Scene(share)
    scene.plane.may_answer.set()
    scene.say(query("SELECT 1" + " " * 5_000))
    assert scene.relay.closed.result() == "out_of_memory"
    await scene.recorder.finish("out_of_memory")
    assert scene.compute.written == b""
    assert [it.outcome for _, chunk in scene.plane.chunks for it in chunk] == ["asked", "unknown"]
    share.hold(5_000)


async def test_a_record_that_cannot_be_kept_ends_the_session() -> None:
    scene = Scene()
    scene.plane.fails = True
    scene.plane.may_answer.set()
    scene.relay.start(query("SELECT 1"))
    assert await scene.relay.closed == "recording_failed"
    assert b"58000" in scene.tls.said
    assert scene.compute.is_gone
    assert scene.compute.written == b""
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
    said = [spoken for _, chunk in scene.plane.chunks for spoken in chunk]
    masked = "ALTER ROLE app PASSWORD '***'"
    assert [(it.text, it.outcome) for it in said] == [(masked, "asked"), (masked, "unknown")]
    assert "hunter2" not in repr(said)


async def test_of_a_text_that_is_cut_no_literal_is_kept() -> None:
    """Which word would have told that it is a secret may lie behind the cut."""
    scene = Scene()
    scene.plane.may_answer.set()
    scene.relay.start(query("SELECT 'hunter2' " + " " * TEXT_BYTES_MAX + " AS password"))
    await scene.recorder.finish("client_left")
    said = [spoken for _, chunk in scene.plane.chunks for spoken in chunk]
    assert "hunter2" not in repr(said)
    assert [it.text[:12] for it in said] == ["SELECT '***'"] * 2


async def test_a_recorded_session_is_nobodys_afterwards() -> None:
    scene = Scene()
    scene.relay.start(b"", READY)
    assert not scene.relay.goodbye(is_alone=True)

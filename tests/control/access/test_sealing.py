"""A recording opens whole and in order, or not at all."""

from datetime import UTC, datetime
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.base.directory import Spoken
from cloister.base.ids import ProjectId
from cloister.base.secret import Secret
from cloister.control.access.model import Recording
from cloister.control.access.sealing import (
    BrokenRecordingError,
    KeyRing,
    first_head,
    head_after,
    opened,
    seal,
)
from cloister.trust.keys.commands import OnBehalf
from tests.control.fake_node import FakeKeys

RECORDING, OTHER = UUID(int=1), UUID(int=2)
KEY = b"k" * 32
Chunks = list[tuple[int, bytes]]


def spoken(text: str) -> Spoken:
    return Spoken(kind="simple", text=text, outcome="done", began_ms=1, ended_ms=2)


def recorded(texts: list[list[str]], recording: UUID = RECORDING) -> tuple[Chunks, bytes]:
    head, chunks = first_head(recording), []
    for index, each in enumerate(texts):
        nonce = index.to_bytes(12)
        sealed = seal(KEY, recording, index, head, statements=[spoken(text) for text in each], nonce=nonce)
        chunks.append((index, sealed))
        head = head_after(head, index, sealed)
    return chunks, head


@settings(deadline=None)
@given(st.lists(st.lists(st.text(max_size=20), min_size=1, max_size=3), max_size=5))
def test_what_was_sealed_is_what_opens(texts: list[list[str]]) -> None:
    chunks, head = recorded(texts)
    assert [it.text for it in opened(KEY, RECORDING, head, chunks)] == [text for each in texts for text in each]


THREE = [["one"], ["two"], ["three"]]


def flipped(chunks: Chunks) -> Chunks:
    index, sealed = chunks[1]
    return [chunks[0], (index, sealed[:-1] + bytes([sealed[-1] ^ 1])), chunks[2]]


TAMPERINGS = {
    "a byte changed": flipped,
    "one left out": lambda chunks: [chunks[0], chunks[2]],
    "one left out, renumbered": lambda chunks: [chunks[0], (1, chunks[2][1])],
    "the last cut off": lambda chunks: chunks[:2],
    "two swapped": lambda chunks: [chunks[0], (1, chunks[2][1]), (2, chunks[1][1])],
    "one twice": lambda chunks: [*chunks, (3, chunks[2][1])],
    "all gone": lambda _: [],
    "another recording's": lambda _: recorded(THREE, OTHER)[0],
}


@pytest.mark.parametrize("tamper", TAMPERINGS.values(), ids=TAMPERINGS.keys())
def test_what_was_changed_does_not_open(tamper: object) -> None:
    chunks, head = recorded(THREE)
    with pytest.raises(BrokenRecordingError):
        opened(KEY, RECORDING, head, tamper(chunks))  # type: ignore[operator]


def test_another_key_opens_nothing() -> None:
    chunks, head = recorded(THREE)
    with pytest.raises(BrokenRecordingError):
        opened(b"x" * 32, RECORDING, head, chunks)


async def test_a_recording_from_before_opens_under_the_control_key_that_wrapped_it_and_no_other() -> None:
    derived = HKDF(SHA256(), 32, salt=None, info=b"cloister recording keys 1").derive(b"c" * 32)
    wrapped = b"n" * 12 + AESGCM(derived).encrypt(b"n" * 12, KEY, RECORDING.bytes)
    whose, ring = OnBehalf(actor="user:eve"), KeyRing(FakeKeys(), Secret(b"c" * 32))
    assert await ring.open(recording(RECORDING, wrapped), "replay", whose) == KEY
    elsewhere = KeyRing(FakeKeys(), Secret(b"d" * 32))
    for keys, of in ((ring, OTHER), (elsewhere, RECORDING)):
        with pytest.raises(BrokenRecordingError):
            await keys.open(recording(of, wrapped), "replay", whose)


def recording(recording_id: UUID, wrapped: bytes) -> Recording:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return Recording(
        id=recording_id, request_id=OTHER, project_id=ProjectId("calm-forest-12345678"), account_id=OTHER, email="e",
        address="::1", database="db", application="", began_at=now, ended_at=None, reason="", chunks=0, statements=0,
        head=first_head(recording_id), wrapped_key=wrapped,
    )  # fmt: skip

"""One passage: who gets in, who hears of it, what a refused client reads."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cloister.node.egress.commands import AnyEgressEvent, PassageClosed, PassageOpened, PassageRefused
from cloister.node.egress.outside import trusting
from cloister.node.egress.passage import Door, House, walk
from cloister.protocol.pgwire.backend import error_fields
from tests.node.egress.far import LOOPBACK, NAME, Far

PROJECT = "calm-forest-00000001"


class Hall:
    """A door, and everything around it."""

    def __init__(self, socket_path: Path) -> None:
        self.socket_path = socket_path
        self.uid = os.getuid()
        self.is_heard = True
        self.full: str | None = None
        self.explains = True
        self.inside = 0
        self.events: list[AnyEgressEvent] = []
        self.walks: list[asyncio.Task[None]] = []

    def house(self, allowed: Any = LOOPBACK) -> House:
        return House(allowed, self._take, self._give, lambda _project_id: self.explains, self._tell, self._resolve)

    async def _resolve(self, project_id: str, host: str, _port: int) -> list[str]:
        assert (project_id, host) == (PROJECT, NAME)
        return ["127.0.0.1"]

    def _take(self, _project_id: str) -> str | None:
        self.inside += self.full is None
        return self.full

    def _give(self, _project_id: str) -> None:
        self.inside -= 1

    def _tell(self, event: AnyEgressEvent) -> bool:
        self.events.append(event)
        return self.is_heard

    async def ask(self, words: bytes) -> bytes:
        """Say this, and give what comes until the end."""
        reader, writer = await asyncio.open_unix_connection(str(self.socket_path))
        writer.write(words)
        async with asyncio.timeout(20):
            answer = await reader.read()
        writer.close()
        await asyncio.gather(*self.walks)
        return answer


@pytest.fixture
async def hall(far: Far, tmp_path: Path) -> AsyncIterator[Hall]:
    hall = Hall(tmp_path / "door")

    def come(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        door = Door(PROJECT, hall.uid, f"{NAME}:{far.port}", NAME, far.port, trusting(far.ca_pem))
        hall.walks.append(asyncio.create_task(walk(door, hall.house(), reader, writer)))

    async with await asyncio.start_unix_server(come, hall.socket_path):
        yield hall


async def test_bytes_go_both_ways_and_are_counted(hall: Hall) -> None:
    assert await hall.ask(b"hello") == b"over TLS: hello"
    where = {"project_id": PROJECT, "target": hall.events[0].target, "host": NAME, "address": "127.0.0.1"}
    assert hall.events == [PassageOpened(**where), PassageClosed(**where, bytes_out=5, bytes_in=15)]
    assert hall.inside == 0


async def test_another_user_is_not_let_in_and_learns_nothing(hall: Hall, far: Far) -> None:
    hall.uid = os.getuid() + 1
    assert await hall.ask(b"") == b""
    assert hall.events == []
    assert far.requests == []


async def test_without_somebody_to_record_it_nothing_goes_out(hall: Hall, far: Far) -> None:
    hall.is_heard = False
    answer = error_fields((await hall.ask(b"hello"))[5:])
    assert answer["C"] == "08001"
    assert "cannot record" in answer["M"]
    assert not any(isinstance(event, PassageClosed) for event in hall.events)
    assert hall.inside == 0


async def test_a_full_house_says_so(hall: Hall, far: Far) -> None:
    hall.full = "too many connections are open"
    assert error_fields((await hall.ask(b"hello"))[5:])["M"] == "egress: too many connections are open"
    assert far.requests == []
    assert [type(event) for event in hall.events] == [PassageRefused]


async def test_who_goes_on_knocking_at_a_full_house_costs_no_event_and_no_descriptor(hall: Hall, far: Far) -> None:
    hall.full, hall.explains = "too many connections are open", False
    assert await hall.ask(b"") == b"", "closed at once, though it never says anything"
    assert hall.events == []
    assert far.requests == []


async def test_why_the_other_end_is_refused_is_read_by_the_client(hall: Hall, far: Far) -> None:
    far.answer = b"N"
    assert "does not offer TLS" in error_fields((await hall.ask(b"startup"))[5:])["M"]
    assert [type(event) for event in hall.events] == [PassageRefused]
    assert hall.inside == 0

"""The audit queue: batches, outages, and what happens when it is full."""

import asyncio

import pytest

from cloister.base.directory import ConnectionEvent
from cloister.base.errors import UnavailableError
from cloister.edge.gateway.errors import RefusedError
from cloister.edge.gateway.trail import Trail


def event(number: int) -> ConnectionEvent:
    return ConnectionEvent(action="connection.opened", at="", session_id=str(number))


class Recorder:
    def __init__(self) -> None:
        self.batches: list[list[ConnectionEvent]] = []
        self.failures = 0

    async def record(self, events: list[ConnectionEvent]) -> None:
        if self.failures:
            self.failures -= 1
            raise UnavailableError
        self.batches.append(list(events))


async def test_events_come_in_order_in_batches_and_each_once() -> None:
    recorder = Recorder()
    trail = Trail(recorder.record)
    for number in range(450):
        trail.add(event(number))
    running = asyncio.create_task(trail.run())
    await trail.finish(running)
    assert running.done()
    assert [len(batch) for batch in recorder.batches] == [200, 200, 50]
    assert [int(each.session_id) for batch in recorder.batches for each in batch] == list(range(450))


async def test_an_outage_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloister.edge.gateway.trail.AUDIT_RETRY_S", 0)
    recorder = Recorder()
    recorder.failures = 3
    trail = Trail(recorder.record)
    trail.add(event(1))
    running = asyncio.create_task(trail.run())
    await trail.finish(running)
    assert [each.session_id for batch in recorder.batches for each in batch] == ["1"]


async def test_at_half_the_queue_nobody_new_comes_in_and_the_ends_are_still_recorded() -> None:
    trail = Trail(Recorder().record, queue_max=4)
    trail.check_room()
    trail.add(event(1))
    trail.add(event(2))
    with pytest.raises(RefusedError) as raised:
        trail.check_room()
    assert raised.value.sqlstate == "57P03"
    trail.add(event(3))
    trail.add(event(4))
    assert trail.lost_count == 0
    trail.add(event(5))
    assert trail.lost_count == 1

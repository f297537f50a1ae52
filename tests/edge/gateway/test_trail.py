"""The audit queue: batches, outages, and what happens when it is full."""

import asyncio
from functools import partial

import pytest

from cloister.base.directory import ConnectionEvent, LookUp
from cloister.base.errors import UnavailableError
from cloister.edge.gateway import worker
from cloister.edge.gateway.errors import RefusedError
from cloister.edge.gateway.trail import Trail
from tests.fix_gateway import OTHER_ENDPOINT, PASSWORD, GatewayWorld


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


async def test_while_nothing_can_be_recorded_nobody_new_gets_in_or_wakes_anything(
    gateway_world: GatewayWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even to prove who they are; who is in stays in. All of it is recorded when it can be."""
    directory = gateway_world.directory
    monkeypatch.setattr(worker, "Trail", partial(Trail, queue_max=4))
    monkeypatch.setattr("cloister.edge.gateway.trail.AUDIT_RETRY_S", 0.01)
    directory.set_password("ada", PASSWORD, OTHER_ENDPOINT)
    directory.is_recording = False
    await gateway_world.start()
    async with await gateway_world.connect() as first, await gateway_world.connect():
        directory.is_asleep = True
        assert "temporarily unavailable" in await gateway_world.refusal(endpoint=OTHER_ENDPOINT)
        assert not [each for each in directory.asked if isinstance(each, LookUp) and each.endpoint == OTHER_ENDPOINT]
        assert directory.wakes == []
        await first.execute("SELECT 1")
        assert directory.events == []

        directory.is_recording = True
        (denied,) = await directory.until("connection.denied")
        assert denied.reason == "audit_unavailable"
        assert [each.action for each in directory.events] == ["connection.opened"] * 2 + ["connection.denied"]
        await (await gateway_world.connect(endpoint=OTHER_ENDPOINT)).close()
    assert len(directory.wakes) == 1

"""A restore that is tried: all of it comes back, is looked at, and is gone again."""

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Any

import pytest

from cloister.base.errors import ExhaustedError, InternalError, PreconditionError, UnprocessableError
from cloister.base.ids import TimelineId
from cloister.node.backups import drilling
from cloister.node.timelines import wal
from cloister.node.timelines.checking import Answer
from tests.node.backups.scene import FIRST, Scene
from tests.node.timelines.clusters import CHECKPOINT


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


async def sent(scene: Scene) -> TimelineId:
    """A base, and a segment after it."""
    timeline_id = scene.timeline()
    await scene.back_up(timeline_id)
    scene.running.add(timeline_id)
    scene.write(timeline_id, FIRST + 1)
    scene.archive(timeline_id, FIRST)
    await scene.send_wal(timeline_id)
    return timeline_id


def is_clean(scene: Scene, timeline_id: TimelineId) -> bool:
    """Nothing is there but the timeline that was."""
    volume = scene.volume
    return (
        [path.name for path in (volume / "timelines").iterdir()] == [timeline_id]
        and not list((volume / "unfinished").iterdir())
        and not list((volume / "trash").glob("*"))
    )


async def test_all_of_it_comes_back_and_is_gone_again(scene: Scene) -> None:
    timeline_id = await sent(scene)
    found = await scene.drill(timeline_id)
    (target, _) = scene.replays.replayed[-1]
    assert target.is_end
    assert {"global/pg_control", "base/5/16384"} <= set(scene.replays.laid[-1])
    assert f"pg_wal/{wal.segment_name(1, FIRST)}" in scene.replays.laid[-1]
    assert (found.databases, found.relations, found.damaged) == (2, 102, [])
    assert is_clean(scene, timeline_id)
    assert scene.keys.reasons[-1] == "drill"


async def test_what_is_damaged_is_told_by_its_numbers(scene: Scene) -> None:
    timeline_id = await sent(scene)
    scene.replays.answers[16384] = Answer(12, [(16400, "XX001"), (16402, "XX002")])
    found = await scene.drill(timeline_id)
    assert found.damaged == ["database 16384, relation 16400: XX001", "database 16384, relation 16402: XX002"]
    assert is_clean(scene, timeline_id)


async def test_a_cluster_full_of_damage_is_told_of_in_one_message(scene: Scene) -> None:
    timeline_id = await sent(scene)
    scene.replays.answers = {oid: Answer(9, [(oid, "XX001")] * 100) for oid in range(1, 5)}
    assert len((await scene.drill(timeline_id)).damaged) == drilling.DAMAGED_MAX


async def test_one_that_fails_leaves_nothing(scene: Scene) -> None:
    timeline_id = await sent(scene)
    scene.replays.refusal = InternalError("recovery ended with 1")
    with pytest.raises(InternalError):
        await scene.drill(timeline_id)
    assert is_clean(scene, timeline_id)


async def test_a_store_that_keeps_the_newest_back_does_not_pass(scene: Scene) -> None:
    timeline_id = await sent(scene)
    with pytest.raises(UnprocessableError):
        await scene.drill(timeline_id, known_lsn=wal.format_lsn((FIRST + 9) * wal.SEGMENT_BYTES))
    assert is_clean(scene, timeline_id)


async def test_without_a_backup_there_is_nothing_to_try(scene: Scene) -> None:
    timeline_id = scene.timeline()
    with pytest.raises(PreconditionError):
        await scene.drill(timeline_id)


@pytest.mark.parametrize(("limit", "where"), [("SPARE_BYTES", "volume"), ("FREE_TO_CREATE_BYTES", "disk")])
async def test_neither_the_tenants_server_nor_the_host_runs_out_of_room_for_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, limit: str, where: str
) -> None:
    """T14: what a tenant's own server would stop for."""
    timeline_id = await sent(scene)
    monkeypatch.setattr(drilling, limit, 2**62)
    with pytest.raises(ExhaustedError, match=where):
        await scene.drill(timeline_id)
    assert scene.replays.replayed == []


async def test_what_comes_has_to_find_room_and_a_fourth_more(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    timeline_id = await sent(scene)
    for limit in ("SPARE_BYTES", "FREE_TO_CREATE_BYTES"):
        monkeypatch.setattr(drilling, limit, 0)
    space = os.statvfs(scene.volume)
    free = space.f_bavail * space.f_frsize
    await scene.drill(timeline_id, bytes=free // 2)
    with pytest.raises(ExhaustedError):
        await scene.drill(timeline_id, bytes=free // 10 * 9)


async def test_one_is_tried_at_a_time(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that both found room for one would not have it."""
    first, second = await sent(scene), await sent(scene)
    at_once, look_through, both = 0, scene.replays.look_through, asyncio.Event()

    async def looking(*of: Any) -> dict[int, Answer]:
        nonlocal at_once
        at_once += 1
        if at_once > 1:
            both.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                await both.wait()
        at_once -= 1
        return await look_through(*of)

    monkeypatch.setattr(scene.replays, "look_through", looking)
    await asyncio.gather(scene.drill(first), scene.drill(second))
    assert not both.is_set()


async def test_a_copy_of_a_running_server_with_nothing_after_it_is_all_there_is(scene: Scene) -> None:
    """It ended with a switch: WAL goes on at the next segment, in which nothing is yet, and nothing of what was sent is kept back."""
    timeline_id = scene.timeline()
    scene.running.add(timeline_id)
    making, stop = scene.making(), CHECKPOINT + 300
    making.copy(timeline_id, None)
    label = f"START WAL LOCATION: {wal.format_lsn(CHECKPOINT)} (file {wal.segment_name(1, FIRST)})\n"
    making.finish_copy_for_history(timeline_id, label, stop)
    await scene.back_up(timeline_id)
    sent_to = (await scene.send_wal(timeline_id)).end_lsn
    assert wal.parse_lsn(sent_to) == (FIRST + 1) * wal.SEGMENT_BYTES
    assert (await scene.drill(timeline_id, known_lsn=sent_to)).damaged == []
    with pytest.raises(UnprocessableError):
        await scene.drill(timeline_id, known_lsn=wal.format_lsn((FIRST + 1) * wal.SEGMENT_BYTES + 1))

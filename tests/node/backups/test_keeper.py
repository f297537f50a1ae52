"""What is in a timeline's history goes into the store, once, and comes back from there."""

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cloister.base.errors import (
    BadRequestError,
    CloisterError,
    ConflictError,
    ForbiddenError,
    InvalidIdError,
    NotFoundError,
    PreconditionError,
    UnavailableError,
    UnprocessableError,
)
from cloister.base.ids import ProjectId, TimelineId, new_timeline_id
from cloister.node.backups import keeper as keeper_module
from cloister.node.backups import keys as keys_module
from cloister.node.backups import segments, sending
from cloister.node.commands import LOCK_SPARE_DAYS, BackUpTimeline, ReadBack, RestoreTimeline, SendWal
from cloister.node.timelines import archive, wal
from cloister.node.timelines.history import History
from cloister.node.timelines.tree import Abort
from cloister.protocol.backups.sealing import BackupKey
from tests.node.backups.bucket import secret_of
from tests.node.backups.scene import DAY_S, DAYS, FIRST, UID, Scene, files, owners
from tests.node.timelines.clusters import CHECKPOINT, control_file, segment

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the agent is root, and gives files away")

HEAD = f"{CHECKPOINT:016X}"


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


# ── bases ──


async def test_a_base_comes_back_file_by_file(scene: Scene) -> None:
    source = scene.timeline()
    data = scene.data(source)
    (data / "base/5/16385").write_bytes(os.urandom(3 * 1024**2 + 17))
    (data / "base/5/16386").touch()
    with (data / "base/5/16387").open("wb") as sparse:
        sparse.seek(5 * 1024**2)
        sparse.write(b"behind a hole")
    (data / "global/pg_control").write_bytes(control_file(checkpoint=CHECKPOINT + 800))
    backed = await scene.back_up(source)
    assert backed.base == f"{CHECKPOINT + 800:016X}"
    assert backed.new_chunks == backed.chunks
    assert backed.locked_until == scene.clock.at + (DAYS + LOCK_SPARE_DAYS) * DAY_S
    restored = scene.data(await scene.restore(source))
    assert scene.replays.laid == [{**files(data), "recovery.signal": b""}]
    assert owners(restored) >= {UID}
    assert (restored / "base/5/16387").stat().st_blocks < 5 * 1024**2 / 512


async def test_what_is_in_the_store_is_not_sent_again(scene: Scene) -> None:
    source = scene.timeline()
    first = await scene.back_up(source)
    scene.bucket.puts.clear()
    again = await scene.back_up(source)
    assert (again.new_chunks, again.chunks) == (0, first.chunks)
    assert [key.split("/")[-2] for key in scene.bucket.puts] == ["bases"]
    (scene.data(source) / "base/5/16384").write_bytes(b"other rows")
    (scene.data(source) / "global/pg_control").write_bytes(control_file(checkpoint=CHECKPOINT + 800))
    later = await scene.back_up(source)
    # The file, the control file, and the list of files.
    assert later.new_chunks == 3


async def test_what_is_not_locked_for_long_enough_is_sent_again(scene: Scene) -> None:
    source = scene.timeline()
    first = await scene.back_up(source)
    scene.clock.at += (LOCK_SPARE_DAYS - 1) * DAY_S
    still = await scene.back_up(source)
    assert still.new_chunks == 0
    assert still.locked_until < scene.clock.at + (DAYS + 2) * DAY_S
    scene.clock.at += 2 * DAY_S
    assert (await scene.back_up(source)).new_chunks == first.chunks
    assert {it.days for versions in scene.bucket.objects.values() for it in versions} == {DAYS + LOCK_SPARE_DAYS}


async def test_losing_what_was_remembered_costs_sending_again(scene: Scene) -> None:
    source = scene.timeline()
    first = await scene.back_up(source)
    scene.archive(source, FIRST)
    await scene.send_wal(source)
    for path in scene.directory.iterdir():
        path.write_bytes(b"nonsense")
    assert (await scene.back_up(source)).new_chunks == first.chunks
    assert (await scene.send_wal(source)).segments == 1
    assert files(scene.data(await scene.restore(source)))["base/5/16384"] == b"rows"


async def test_in_another_store_is_nothing_of_what_was_put_into_the_first(scene: Scene) -> None:
    source = scene.timeline()
    first = await scene.back_up(source)
    scene.archive(source, FIRST)
    await scene.send_wal(source)
    scene.bucket.name = "another"
    scene.bucket.objects.clear()
    assert (await scene.send_wal(source)).is_broken
    assert (await scene.back_up(source)).new_chunks == first.chunks


async def test_what_is_remembered_is_root_s_alone(scene: Scene) -> None:
    source = scene.timeline()
    await scene.back_up(source)
    assert {path.stat().st_mode & 0o777 for path in scene.directory.iterdir()} == {0o600}
    scene.backups.forget(scene.project_id)
    assert not list(scene.directory.iterdir())


async def test_a_base_is_there_when_all_that_it_names_is(scene: Scene) -> None:
    source = scene.timeline()
    present: list[int] = []
    scene.bucket.before_put = lambda key: (
        present.append(len(scene.bucket.keys("/chunks/"))) if "/bases/" in key else None
    )
    backed = await scene.back_up(source)
    assert present == [backed.chunks]


async def test_a_run_that_was_cut_off_goes_on_from_what_was_sent(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    source = scene.timeline()
    for number in range(8):
        (scene.data(source) / f"base/5/{17000 + number}").write_bytes(os.urandom(1024**2))
    (scene.data(source) / "global/pg_control").write_bytes(control_file(checkpoint=CHECKPOINT + 800))

    def fail(_key: str) -> None:
        if len(scene.bucket.puts) >= 5:
            raise UnprocessableError("the disk of the store is full")

    scene.bucket.before_put = fail
    with pytest.raises(UnprocessableError):
        await scene.back_up(source)
    assert not scene.bucket.keys("/bases/")
    sent, scene.bucket.before_put = len(scene.bucket.keys("/chunks/")), lambda _key: None
    backed = await scene.back_up(source)
    assert backed.new_chunks == backed.chunks - sent > 0


async def test_a_running_timeline_gives_its_newest_snapshot_and_one_at_rest_its_head(scene: Scene) -> None:
    source = scene.timeline()
    scene.running.add(source)
    (scene.data(source) / "global/pg_control").write_bytes(control_file(checkpoint=CHECKPOINT + 800))
    assert (await scene.back_up(source)).base == HEAD
    scene.running.clear()
    assert (await scene.back_up(source)).base == f"{CHECKPOINT + 800:016X}"


async def test_without_history_there_is_nothing_to_take(scene: Scene) -> None:
    source = scene.timeline()
    scene.running.add(source)
    scene.history(source).give_up()
    with pytest.raises(PreconditionError):
        await scene.back_up(source)
    (scene.layout.existing(source).directory / "frozen").touch()
    with pytest.raises(PreconditionError):
        await scene.send_wal(source)
    with pytest.raises(NotFoundError):
        await scene.back_up(new_timeline_id())


async def test_a_snapshot_that_is_given_up_meanwhile_ends_the_work(scene: Scene) -> None:
    source = scene.timeline()
    for number in range(20):
        (scene.data(source) / f"base/5/{17000 + number}").write_bytes(os.urandom(1024**2))
    (scene.data(source) / "global/pg_control").write_bytes(control_file(checkpoint=CHECKPOINT + 800))
    scene.bucket.before_put = lambda _key: _remove(scene, source)
    with pytest.raises(ConflictError):
        await scene.back_up(source)
    assert not scene.bucket.keys("/bases/")


def _remove(scene: Scene, timeline_id: TimelineId) -> None:
    history = scene.history(timeline_id)
    for snapshot in history.snapshots.all():
        for path in history.snapshots.data(snapshot).glob("base/5/1*"):
            path.unlink()


@pytest.mark.parametrize("days", [0, -1, 366])
async def test_for_how_long_it_is_kept_has_bounds(scene: Scene, days: int) -> None:
    """Nobody can take back what was locked for too long."""
    source = scene.timeline()
    with pytest.raises(BadRequestError):
        await scene.back_up(source, days=days)


@pytest.mark.parametrize("name", ["", "..", "../x", "/etc", "a" * 32 + "\0"])
async def test_no_other_name_becomes_a_path_or_a_key(scene: Scene, name: str) -> None:
    timeline = scene.timeline()
    for project_id, timeline_id in ((name, timeline), (scene.project_id, name)):
        ids = {"project_id": project_id, "timeline_id": timeline_id}
        for command in (
            BackUpTimeline(**ids, pg_version=18, retain_days=DAYS),
            SendWal(**ids, retain_days=DAYS),
            ReadBack(**ids, sample=1),
            RestoreTimeline(project_id=project_id, source_id=timeline, timeline_id=timeline_id, uid=UID, pg_version=18),
        ):
            with pytest.raises(InvalidIdError):
                await scene.backups.answer(command)
    with pytest.raises(InvalidIdError):
        await scene.backups.answer(
            RestoreTimeline(
                project_id=scene.project_id, source_id=name, timeline_id=new_timeline_id(), uid=UID, pg_version=18
            )
        )
    assert not scene.bucket.objects


# ── WAL ──


def stored(scene: Scene) -> list[str]:
    return [key.rpartition("/")[2] for key in scene.bucket.keys("/wal/")]


def name(number: int) -> str:
    return wal.segment_name(1, number)


async def test_segments_go_three_an_object_and_the_one_being_written_as_far_as_it_is(scene: Scene) -> None:
    source = scene.timeline()
    await scene.back_up(source)
    scene.archive(source, *range(FIRST, FIRST + 5))
    scene.write(source, FIRST + 5, b"the beginning")
    sent = await scene.send_wal(source)
    end = 24 + len(b"the beginning")
    assert stored(scene) == [
        f"{name(FIRST)}-{name(FIRST + 2)}",
        f"{name(FIRST + 3)}-{name(FIRST + 4)}",
        f"{name(FIRST + 5)}+{end:08X}",
    ]
    assert (sent.segments, sent.is_broken, sent.is_behind) == (6, False, False)
    assert sent.end_lsn == wal.format_lsn((FIRST + 5) * wal.SEGMENT_BYTES + end)
    assert sent.moment == scene.clock.at


async def test_nothing_is_sent_twice_and_what_is_new_is(scene: Scene) -> None:
    source = scene.timeline()
    await scene.back_up(source)
    scene.archive(source, FIRST)
    scene.write(source, FIRST + 1, b"a")
    await scene.send_wal(source)
    scene.backups = scene.new_backups()
    scene.bucket.puts.clear()
    assert (await scene.send_wal(source)).segments == 0
    assert not scene.bucket.puts
    scene.write(source, FIRST + 1, b"ab")
    assert (await scene.send_wal(source)).segments == 1
    # Whole, it is sent as that.
    scene.archive(source, FIRST + 1)
    assert (await scene.send_wal(source)).segments == 1
    assert stored(scene)[-1] == f"{name(FIRST + 1)}-{name(FIRST + 1)}"


async def test_a_finished_segment_that_is_not_archived_yet_is_whole_when_the_next_has_begun(scene: Scene) -> None:
    source = scene.timeline()
    await scene.back_up(source)
    for number in range(FIRST, FIRST + 3):
        scene.write(source, number)
    await scene.send_wal(source)
    assert stored(scene) == [f"{name(FIRST)}-{name(FIRST + 1)}", f"{name(FIRST + 2)}+0000001C"]


async def test_an_old_segment_under_the_name_of_a_coming_one_is_none(scene: Scene) -> None:
    source = scene.timeline()
    await scene.back_up(source)
    scene.archive(source, FIRST)
    path = scene.data(source) / "pg_wal" / name(FIRST + 1)
    path.write_bytes(segment(FIRST - 1))
    assert (await scene.send_wal(source)).end_lsn == wal.format_lsn((FIRST + 1) * wal.SEGMENT_BYTES)
    assert stored(scene) == [f"{name(FIRST)}-{name(FIRST)}"]


async def test_a_gap_is_told_until_a_base_lies_behind_it(scene: Scene) -> None:
    source = scene.timeline()
    await scene.back_up(source)
    scene.archive(source, FIRST)
    (scene.data(source) / "pg_wal" / name(FIRST)).unlink()
    await scene.send_wal(source)
    scene.archive(source, FIRST + 2, FIRST + 3)
    broken = await scene.send_wal(source)
    assert broken.is_broken
    assert broken.end_lsn == wal.format_lsn((FIRST + 1) * wal.SEGMENT_BYTES)
    behind = (FIRST + 2) * wal.SEGMENT_BYTES + 40
    (scene.data(source) / "pg_wal" / name(FIRST + 2)).write_bytes(segment(FIRST + 2))
    (scene.data(source) / "global/pg_control").write_bytes(control_file(checkpoint=behind))
    await scene.back_up(source)
    mended = await scene.send_wal(source)
    assert (mended.segments, mended.is_broken) == (2, False)


async def test_damaged_wal_is_not_sent_and_told_as_a_gap(scene: Scene) -> None:
    source = scene.timeline()
    await scene.back_up(source)
    scene.archive(source, FIRST, FIRST + 1, FIRST + 2)
    timeline = scene.layout.existing(source)
    History(scene.layout, timeline).collect(scene.clock.at, Abort())
    (timeline.archive / name(FIRST + 1)).write_bytes(segment(FIRST + 1)[:-1] + b"x")
    sent = await scene.send_wal(source)
    assert (sent.segments, sent.is_broken) == (1, True)
    assert sent.end_lsn == wal.format_lsn((FIRST + 1) * wal.SEGMENT_BYTES)


async def test_without_a_base_that_is_known_what_is_there_is_sent_and_a_base_is_asked_for(scene: Scene) -> None:
    source = scene.timeline()
    scene.archive(source, FIRST, FIRST + 1)
    sent = await scene.send_wal(source)
    assert (sent.segments, sent.is_broken) == (2, True)
    await scene.back_up(source)
    assert not (await scene.send_wal(source)).is_broken


async def test_a_call_sends_so_much_and_says_that_there_is_more(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "SEGMENTS_AT_ONCE_MAX", 3)
    source = scene.timeline()
    await scene.back_up(source)
    scene.archive(source, *range(FIRST, FIRST + 5))
    first = await scene.send_wal(source)
    assert (first.segments, first.is_behind) == (3, True)
    second = await scene.send_wal(source)
    assert (second.segments, second.is_behind) == (2, False)


async def test_what_was_sent_is_remembered_though_the_next_fails(scene: Scene) -> None:
    source = scene.timeline()
    await scene.back_up(source)
    scene.archive(source, *range(FIRST, FIRST + 5))

    def fail(key: str) -> None:
        if name(FIRST + 3) in key:
            raise PreconditionError("no more")

    scene.bucket.before_put = fail
    with pytest.raises(PreconditionError):
        await scene.send_wal(source)
    scene.bucket.before_put = lambda _key: None
    assert (await scene.send_wal(source)).segments == 2


async def test_an_outbox_that_is_filled_faster_than_it_is_emptied_holds_nobody_up(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop waits for the pass that is under way."""
    monkeypatch.setattr(archive, "COLLECTED_MAX", 1)
    source = scene.timeline()
    await scene.back_up(source)
    outbox = scene.layout.existing(source).outbox
    for number in range(FIRST, FIRST + 2 * segments.PASSES_MAX):
        (outbox / name(number)).write_bytes(segment(number))
    (scene.data(source) / "pg_wal" / name(FIRST)).unlink()
    scene.write(source, FIRST + 2 * segments.PASSES_MAX)
    first = await scene.send_wal(source)
    assert first.segments <= segments.PASSES_MAX
    assert (first.is_behind, first.is_broken) == (True, False)
    second = await scene.send_wal(source)
    assert (second.is_behind, second.is_broken) == (True, False) or second.segments
    for _ in range(2):
        second = await scene.send_wal(source)
    assert (second.is_behind, second.is_broken) == (False, False)
    assert stored(scene)[-1].startswith(f"{name(FIRST + 2 * segments.PASSES_MAX)}+")


# ── back from there ──


async def test_wal_is_laid_over_the_base(scene: Scene) -> None:
    source = scene.timeline()
    await scene.back_up(source)
    scene.archive(source, *range(FIRST, FIRST + 4))
    scene.write(source, FIRST + 4, b"the beginning")
    sent = await scene.send_wal(source)
    await scene.restore(source, known_lsn=sent.end_lsn)
    [(target, assembled)] = scene.replays.replayed
    assert target.is_end
    assert (assembled.reach.first, assembled.reach.end) == (FIRST, FIRST + 5)
    assert {path: content for path, content in scene.replays.laid[0].items() if path.startswith("pg_wal/0")} == {
        **{f"pg_wal/{name(it)}": segment(it, fill=bytes([it % 251 + 1])) for it in range(FIRST, FIRST + 4)},
        f"pg_wal/{name(FIRST + 4)}": (segment(FIRST + 4)[:24] + b"the beginning").ljust(wal.SEGMENT_BYTES, b"\0"),
    }


async def test_a_beginning_that_is_shorter_than_what_the_base_has_is_not_taken(scene: Scene) -> None:
    """It was sent before the server stopped, which wrote a checkpoint behind it that the base begins with."""
    source = scene.timeline()
    await scene.back_up(source)
    scene.write(source, FIRST, b"early")
    await scene.send_wal(source)
    scene.write(source, FIRST, b"early, and the checkpoint of the shutdown")
    (scene.data(source) / "global/pg_control").write_bytes(control_file(checkpoint=CHECKPOINT + 800))
    await scene.back_up(source)
    await scene.restore(source)
    assert b"the checkpoint of the shutdown" in scene.replays.laid[0][f"pg_wal/{name(FIRST)}"]


async def test_what_the_base_has_itself_counts_for_how_far_wal_goes(scene: Scene) -> None:
    """After a stop WAL is sent up to the shutdown, and then a base taken that has the same."""
    source = scene.timeline()
    await scene.back_up(source)
    scene.archive(source, FIRST)
    scene.write(source, FIRST + 1, b"and the checkpoint of the shutdown")
    sent = await scene.send_wal(source)
    head = (FIRST + 1) * wal.SEGMENT_BYTES + 28
    assert wal.parse_lsn(sent.end_lsn) > head
    (scene.data(source) / "global/pg_control").write_bytes(control_file(checkpoint=head))
    await scene.back_up(source)
    for key in scene.bucket.keys("/wal/"):
        del scene.bucket.objects[key]
    await scene.restore(source, known_lsn=sent.end_lsn)


async def test_after_a_crash_what_was_sent_last_counts_and_not_what_was_longer(scene: Scene) -> None:
    """A server that was cut off in a record writes over it, which may take less than there was of it."""
    source = scene.timeline()
    await scene.back_up(source)
    scene.write(source, FIRST, b"a commit, and the half of a very long record")
    await scene.send_wal(source)
    scene.write(source, FIRST, b"a commit, and another commit")
    sent = await scene.send_wal(source)
    await scene.restore(source)
    assert b"another commit" in scene.replays.laid[0][f"pg_wal/{name(FIRST)}"]
    # Somebody puts the old one again, who can put.
    [longer] = [key for key in scene.bucket.keys("/wal/") if not key.endswith(f"{24 + 28:08X}")]
    scene.bucket.put(longer, scene.bucket.latest(longer))
    await scene.restore(source, known_lsn=sent.end_lsn)
    assert b"another commit" in scene.replays.laid[1][f"pg_wal/{name(FIRST)}"]


async def test_to_ask_twice_is_to_ask_once(scene: Scene) -> None:
    source = scene.timeline()
    await scene.back_up(source)
    target = new_timeline_id()
    await asyncio.gather(*(scene.restore(source, timeline_id=target) for _ in range(3)))
    await scene.restore(source, timeline_id=target)
    assert len(scene.replays.replayed) == 1
    results = await asyncio.gather(*(scene.back_up(source) for _ in range(3)))
    assert len(set(results)) == 1


async def test_under_its_own_name_it_comes_back_where_it_is_gone(scene: Scene) -> None:
    source = scene.timeline()
    await scene.back_up(source)
    scene.layout.throw_away(scene.layout.existing(source).directory)
    await scene.restore(source, timeline_id=source)
    assert files(scene.data(source))["base/5/16384"] == b"rows"


async def bases(scene: Scene, source: TimelineId) -> list[int]:
    """Three of them, an hour apart, with WAL between; their places."""
    places = []
    for hour in range(3):
        places.append(CHECKPOINT + hour * 4 * wal.SEGMENT_BYTES)
        number = wal.segment_number(places[-1])
        scene.write(source, number)
        (scene.data(source) / "global/pg_control").write_bytes(control_file(checkpoint=places[-1]))
        await scene.back_up(source)
        scene.archive(source, *range(number, number + 4))
        await scene.send_wal(source)
        scene.clock.at += 3600
    return places


async def test_a_recovery_begins_with_the_last_base_before_the_point(scene: Scene) -> None:
    source = scene.timeline()
    began = scene.clock.at
    places = await bases(scene, source)
    first = wal.segment_number(CHECKPOINT)
    for at, number in [(began + 1, first), (began + 3601, first + 4), (began + 7201, first + 8)]:
        await scene.restore(source, at=at)
        assert scene.replays.replayed[-1][1].reach.first == number
    await scene.restore(source, lsn=wal.format_lsn(places[1] + 500))
    reach = scene.replays.replayed[-1][1].reach
    # Of the WAL, no more than leads there.
    assert (reach.first, reach.end) == (first + 4, first + 6)
    await scene.restore(source, at=began + 1)
    assert scene.replays.replayed[-1][1].reach.end == wal.segment_number(places[2]) + 1


async def test_a_point_that_the_store_has_nothing_for_is_refused_with_what_it_has(scene: Scene) -> None:
    source = scene.timeline()
    with pytest.raises(PreconditionError, match="no backup"):
        await scene.restore(source)
    began = scene.clock.at
    await bases(scene, source)
    with pytest.raises(PreconditionError, match="before what the store has"):
        await scene.restore(source, at=began - 1)
    with pytest.raises(PreconditionError, match="outside"):
        await scene.restore(source, lsn=wal.format_lsn(CHECKPOINT + 100 * wal.SEGMENT_BYTES))
    with pytest.raises(BadRequestError):
        await scene.restore(source, lsn="0/1", at=began)
    assert not scene.replays.replayed


async def test_of_a_moment_that_wal_may_not_reach_the_replay_says_whether_it_does(scene: Scene) -> None:
    source = scene.timeline()
    began = scene.clock.at
    await bases(scene, source)
    lost = next(key for key in scene.bucket.keys("/wal/") if f"/{name(FIRST)}-" in key)
    del scene.bucket.objects[lost]
    await scene.restore(source, at=began + 1)
    with pytest.raises(UnprocessableError, match="kept back, or was lost"):
        scene.replays.replayed[-1][1].require_whole()
    await scene.restore(source, at=began + 7201)
    scene.replays.replayed[-1][1].require_whole()


async def test_a_timeline_that_was_restored_under_its_own_name_goes_on_from_there(scene: Scene) -> None:
    """Its newest base lies before older ones, which are of what it is no more."""
    source = scene.timeline()
    places = await bases(scene, source)
    scene.layout.throw_away(scene.layout.existing(source).directory)
    await scene.restore(source, timeline_id=source, lsn=wal.format_lsn(places[0] + 100))
    backed = await scene.back_up(source)
    assert int(backed.base, 16) < places[2]
    (scene.data(source) / "base/5/16384").write_bytes(b"of the second life")
    (scene.data(source) / "global/pg_control").write_bytes(control_file(checkpoint=places[0] + 900, wal_timeline=2))
    await scene.back_up(source)
    await scene.restore(source)
    assert scene.replays.laid[-1]["base/5/16384"] == b"of the second life"


async def test_a_base_of_another_major_version_is_not_restored(scene: Scene) -> None:
    source = scene.timeline()
    await scene.back_up(source)
    for key in scene.bucket.keys("/bases/"):
        sealer = BackupKey(secret_of(scene.project_id), scene.project_id, 1)
        plain = sealer.open(key, scene.bucket.latest(key)).replace(b'"pg_version":18', b'"pg_version":17')
        scene.bucket.put(key, sealer.seal(key, plain, os.urandom(12)))
    with pytest.raises(PreconditionError, match="PostgreSQL 17"):
        await scene.restore(source)


async def test_what_is_read_back_is_told_and_what_is_damaged_is_sent_again(scene: Scene) -> None:
    source = scene.timeline()
    with pytest.raises(NotFoundError):
        await scene.read_back(source)
    backed = await scene.back_up(source)
    scene.archive(source, FIRST)
    await scene.send_wal(source)
    seen = await scene.read_back(source)
    assert (seen.base, seen.damaged) == (backed.base, [])
    assert seen.chunks == backed.chunks - 1  # the list beside them
    assert seen.bytes == backed.bytes
    assert (await scene.read_back(source, 1)).chunks == 1
    victim = scene.bucket.keys("/chunks/")[0]
    scene.bucket.objects[victim] = []
    seen = await scene.read_back(source)
    assert seen.damaged == [victim]
    assert (await scene.back_up(source)).new_chunks == 1
    assert (await scene.read_back(source)).damaged == []
    [newest] = scene.bucket.keys("/wal/")
    scene.bucket.objects[newest][-1].content = b"noise"
    assert (await scene.read_back(source)).damaged == [newest]


# ── who is asked, and what ends ──


async def test_each_use_of_the_key_is_for_a_reason_and_one_whose_compute_runs_is_kept(scene: Scene) -> None:
    source = scene.timeline()
    await scene.back_up(source)
    await scene.send_wal(source)
    await scene.send_wal(source)
    assert scene.keys.reasons == ["back_up"] * 3
    scene.running.add(source)
    scene.keys.reasons.clear()
    for _ in range(3):
        await scene.send_wal(source)
    assert scene.keys.reasons == ["back_up"]
    scene.backups.let_go(scene.project_id)
    await scene.send_wal(source)
    assert scene.keys.reasons == ["back_up"] * 2
    scene.clock.at += keys_module.KEPT_S
    await scene.send_wal(source)
    assert scene.keys.reasons == ["back_up"] * 3
    scene.keys.reasons.clear()
    await scene.read_back(source)
    await scene.restore(source)
    assert scene.keys.reasons == ["read_back", "restore"]


async def test_without_the_key_nothing_is_sent_and_nothing_comes_back(scene: Scene) -> None:
    """So ends the backup of a project whose keys are destroyed."""
    source = scene.timeline()
    await scene.back_up(source)
    scene.bucket.puts.clear()
    scene.keys.refusal = ForbiddenError("destroyed")
    for work in (scene.back_up(source), scene.send_wal(source), scene.restore(source), scene.read_back(source)):
        with pytest.raises(ForbiddenError):
            await work
    assert not scene.bucket.puts


async def test_a_store_that_does_not_answer_is_told_as_that(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloister.node.backups.objects.PAUSES_S", ())
    source = scene.timeline()
    await scene.back_up(source)
    scene.bucket.is_away = True
    scene.backups = scene.new_backups()
    for work in (scene.back_up(source), scene.send_wal(source), scene.restore(source), scene.read_back(source)):
        with pytest.raises(UnavailableError):
            await work


async def test_work_can_be_ended_and_says_so(scene: Scene) -> None:
    source = scene.timeline()
    reached, never = asyncio.Event(), asyncio.Event()

    async def call(_command: object, *, timeout_s: float = 0) -> object:
        reached.set()
        await never.wait()
        raise AssertionError(timeout_s)

    scene.bucket.call = call  # type: ignore[method-assign, assignment]
    sending_ = asyncio.create_task(scene.back_up(source))
    await reached.wait()
    await scene.backups.end_sending(scene.project_id)
    with pytest.raises(UnavailableError):
        await sending_
    reached.clear()
    restoring = asyncio.create_task(scene.restore(source))
    await reached.wait()
    await scene.backups.end_sending(scene.project_id)
    assert not restoring.done()
    await scene.backups.end_work(scene.project_id)
    with pytest.raises(UnavailableError):
        await restoring


async def test_the_timeline_is_free_while_it_is_sent(scene: Scene) -> None:
    source = scene.timeline()
    held: list[bool] = []
    scene.bucket.before_put = lambda _key: held.append(scene.locks.is_held(source))
    await scene.back_up(source)
    scene.archive(source, FIRST)
    await scene.send_wal(source)
    assert held
    assert not any(held)


async def test_how_many_work_at_a_time_is_bounded(scene: Scene, tmp_path: Path) -> None:
    """Each holds megabytes, whoever asks for how many."""
    sources = [scene.timeline() for _ in range(8)]
    most: list[int] = []
    await asyncio.gather(*(scene.back_up(source) for source in sources))
    for source in sources:
        scene.write(source, FIRST, b"more")
    holding = 0

    @contextlib.asynccontextmanager
    async def hold(project_id: ProjectId, *, lingers: bool = False) -> AsyncIterator[Path]:
        nonlocal holding
        holding += 1
        most.append(holding)
        try:
            async with scene.hold(project_id, lingers=lingers) as mountpoint:
                yield mountpoint
        finally:
            holding -= 1

    for limit, work in [
        (1, scene.back_up),  # of one project: what is remembered of it is one file
        (keeper_module.SENDS_AT_ONCE, scene.send_wal),
        (keeper_module.RESTORATIONS_AT_ONCE, scene.restore),
    ]:
        scene.backups = scene.new_backups(hold)
        most.clear()
        await asyncio.gather(*(work(source) for source in sources))  # type: ignore[operator]
        assert max(most) == limit
    scenes = [scene]
    for number in range(4):
        (tmp_path / str(number)).mkdir()
        scenes.append(Scene(tmp_path / str(number)))
    scenes[0].backups = scene.new_backups(hold)
    most.clear()
    sources = [it.timeline() for it in scenes]
    for it in scenes[1:]:
        it.backups = scenes[0].backups
    scene.volumes = {it.project_id: it.volume for it in scenes}
    await asyncio.gather(*(it.back_up(source) for it, source in zip(scenes, sources, strict=True)))
    assert max(most) == keeper_module.BASES_AT_ONCE


async def test_a_failed_restoration_leaves_nothing(scene: Scene) -> None:
    source, target = scene.timeline(), new_timeline_id()
    await scene.back_up(source)
    scene.replays.refusal = UnprocessableError("no replay")
    with pytest.raises(CloisterError):
        await scene.restore(source, timeline_id=target)
    assert not scene.layout.unfinished(target).exists
    assert not scene.layout.timeline(target).exists
    scene.replays.refusal = None
    await scene.restore(source, timeline_id=target)
    assert not scene.layout.has_trash


async def test_what_is_restored_twice_is_sent_as_it_is_the_second_time(scene: Scene) -> None:
    """Both times under its own name, and with one number of its WAL timeline, for no base was sent in between."""
    source = scene.timeline()
    await scene.back_up(source)

    async def lost_and_restored(fill: bytes, *parts: range) -> None:
        shutil.rmtree(scene.volume)
        scene.volume.mkdir()
        await scene.restore(source, timeline_id=source)
        for numbers in parts:
            for number in numbers:
                path = scene.layout.existing(source).outbox / wal.segment_name(2, number)
                path.write_bytes(segment(number, fill=fill))
            scene.making().collect(source, None)
            await scene.send_wal(source)

    await lost_and_restored(b"A", range(FIRST, FIRST + 6))
    await lost_and_restored(b"B", range(FIRST, FIRST + 2), range(FIRST + 2, FIRST + 4), range(FIRST + 4, FIRST + 6))
    await scene.back_up(source)
    shutil.rmtree(scene.volume)
    scene.volume.mkdir()
    await scene.restore(source, timeline_id=source)
    laid = scene.replays.laid[-1]
    found = {number: laid[f"pg_wal/{wal.segment_name(2, number)}"] for number in range(FIRST, FIRST + 6)}
    assert found == {number: segment(number, fill=b"B") for number in range(FIRST, FIRST + 6)}

"""Two platforms that would send into one bucket: one does, the other says so, and what comes back is one's alone."""

from pathlib import Path

import msgspec
import pytest

from cloister.base.errors import ConflictError, UnavailableError
from cloister.base.ids import TimelineId
from cloister.node.backups import senders
from cloister.node.backups.senders import LOOK_EVERY_S, RENEW_EVERY_S, VERSIONS_MAX, Mine
from cloister.node.commands import BackUpPlatform, GetStore, PlatformBacked, StoreState
from cloister.node.timelines import wal
from cloister.protocol.backups import keys as names
from cloister.protocol.backups.dumps import Dump
from tests.node.backups.scene import DAY_S, DAYS, FIRST, Scene
from tests.node.timelines.clusters import make_cluster, segment

FIRST_SEGMENT = f"pg_wal/{wal.segment_name(1, FIRST)}"


class Platform(Scene):
    """With a branch of the same name as the other's, whose first segment is full of one letter."""

    def __init__(self, directory: Path, letter: bytes, twin: "Platform | None" = None) -> None:
        directory.mkdir()
        super().__init__(directory)
        self.letter = letter
        if twin is not None:
            self.project_id, self.bucket, self.keys, self.clock = twin.project_id, twin.bucket, twin.keys, twin.clock
            self.backups = self.new_backups()
            self.making().fresh(twin.source, make_cluster)
        self.source: TimelineId = self.timeline() if twin is None else twin.source

    @property
    def mine(self) -> Mine:
        return senders.known(self.dumping.paths, self.bucket.name)

    def comes_of(self, other: "Platform") -> None:
        """As `recover-platform` leaves it."""
        senders.remember(self.dumping.paths, self.bucket.name, Mine(line=other.mine.line, number=other.mine.number))
        senders.take_over(self.dumping.paths)

    async def send(self) -> None:
        """A base, and WAL after it."""
        await self.back_up(self.source)
        outbox = self.layout.existing(self.source).outbox
        (outbox / wal.segment_name(1, FIRST)).write_bytes(segment(FIRST, fill=self.letter))
        self.making().collect(self.source, None)
        await self.send_wal(self.source)

    async def dump(self) -> PlatformBacked:
        backed: PlatformBacked = await self.backups.answer(BackUpPlatform(retain_days=DAYS))
        return backed

    async def comes_back(self) -> bytes:
        """The letter."""
        self.replays.laid.clear()
        await self.restore(self.source)
        return self.replays.laid[0][FIRST_SEGMENT][-1:]

    async def taken(self) -> str:
        state: StoreState = await self.backups.answer(GetStore())
        return state.taken


@pytest.fixture
def first(tmp_path: Path) -> Platform:
    return Platform(tmp_path / "first", b"a")


@pytest.fixture
def second(tmp_path: Path, first: Platform) -> Platform:
    return Platform(tmp_path / "second", b"b", first)


async def refused(platform: Platform) -> None:
    """Whatever it would send; and it says so."""
    platform.bucket.puts.clear()
    with pytest.raises(ConflictError, match="sends into this bucket"):
        await platform.back_up(platform.source)
    with pytest.raises(ConflictError, match="sends into this bucket"):
        await platform.send_wal(platform.source)
    with pytest.raises(ConflictError, match="--take-over"):
        await platform.dump()
    assert "another platform, on " in await platform.taken()
    assert platform.bucket.puts == []


async def test_who_does_not_know_that_it_is_the_one_sends_nothing(first: Platform, second: Platform) -> None:
    await first.send()
    assert await first.taken() == ""
    await refused(second)
    await first.send()


async def test_one_that_was_restored_from_there_sends_and_the_first_does_not_any_more(
    first: Platform, second: Platform
) -> None:
    await first.send()
    await first.dump()
    second.comes_of(first)
    await second.send()
    await second.dump()
    first.clock.at += LOOK_EVERY_S
    await refused(first)
    first.backups = first.new_backups()
    await refused(first)
    assert await second.taken() == ""
    await second.send()


async def test_what_comes_back_is_one_senders_alone(first: Platform, second: Platform) -> None:
    """Also of what the first sent before it had seen that it is not the one any more, and later than the second's."""
    await first.send()
    second.comes_of(first)
    first.clock.at += 1
    await second.send()
    first.clock.at += 1
    await first.send()
    assert (await first.comes_back(), await second.comes_back()) == (b"a", b"b")
    for it in (first, second):
        seen = await it.read_back(it.source)
        assert seen.damaged == []


async def test_before_it_sent_anything_the_second_has_what_the_first_sent(first: Platform, second: Platform) -> None:
    await first.send()
    second.comes_of(first)
    assert await second.comes_back() == b"a"


async def test_the_first_takes_it_back_and_what_was_sent_meanwhile_is_not_its_history(
    first: Platform, second: Platform
) -> None:
    await first.send()
    second.comes_of(first)
    await second.send()
    first.clock.at += LOOK_EVERY_S
    senders.take_over(first.dumping.paths)
    assert (await first.send_wal(first.source)).is_broken, "it begins anew, with a base"
    assert await first.comes_back() == b"a"
    await first.send()
    assert await first.comes_back() == b"a"
    assert [it[:8] for it in first.mine.line or []] == ["", "00000003"]
    second.clock.at += LOOK_EVERY_S
    await refused(second)


async def test_whose_claim_was_cut_off_has_it_unless_another_was_quicker(first: Platform, second: Platform) -> None:
    await first.send()

    def away(key: str) -> None:
        if key.startswith(names.SENDERS):
            raise UnavailableError("no answer")

    second.comes_of(first)
    second.bucket.before_put = away
    with pytest.raises(UnavailableError):
        await second.send()
    assert await first.taken() == "", "what was not put takes nothing"
    senders.take_over(first.dumping.paths)
    with pytest.raises(UnavailableError):
        await first.send()
    first.bucket.before_put = lambda _key: None
    second.backups = second.new_backups()
    await second.send()
    await refused(first)


async def test_who_takes_over_again_before_its_claim_was_there_leaves_no_number_out(
    first: Platform, second: Platform
) -> None:
    """As a drill, whose writer may put nothing, that is told to be the one; or who is cut off before the word for it is taken away."""
    await first.send()

    def away(key: str) -> None:
        if key.startswith(names.SENDERS):
            raise UnavailableError("no answer")

    second.comes_of(first)
    second.bucket.before_put = away
    with pytest.raises(UnavailableError):
        await second.send()
    second.bucket.before_put = lambda _key: None
    senders.take_over(second.dumping.paths)
    await second.send()
    first.clock.at += LOOK_EVERY_S
    await refused(first)
    assert [it[:8] for it in second.mine.line or []] == ["", "00000002"]


async def test_a_claim_whose_answer_was_lost_is_one(first: Platform, second: Platform) -> None:
    await first.send()
    second.comes_of(first)

    def lost(key: str) -> None:
        if key.startswith(names.SENDERS):
            claim = second.mine.claim
            second.bucket.put(key, senders.sealing_of(b"k" * 32).seal(key, msgspec.json.encode(claim), bytes(12)), DAYS)
            raise UnavailableError("no answer")

    second.bucket.before_put = lost
    with pytest.raises(UnavailableError):
        await second.send()
    second.bucket.before_put = lambda _key: None
    first.clock.at += LOOK_EVERY_S
    await refused(first)
    second.backups = second.new_backups()
    await second.send()
    senders.take_over(second.dumping.paths)
    await second.send()
    assert [it[:8] for it in second.mine.line or []] == ["", "00000002", "00000003"]


async def test_the_same_place_under_another_name_is_ours(first: Platform, second: Platform) -> None:
    """As when its endpoint is given otherwise, or the bucket was copied elsewhere."""
    await first.send()
    claim = first.mine.claim
    first.bucket.name = "the bucket, called otherwise"
    assert await first.taken() == ""
    await first.send()
    assert (first.mine.claim, first.mine.line) == (claim, [""])
    await refused(second)


async def test_what_is_damaged_here_is_as_good_as_lost(first: Platform) -> None:
    """Nothing is sent until root says which one it is; what there is comes back meanwhile."""
    await first.send()
    for content in (b"", first.dumping.paths.backup_sender.read_bytes()[:-9], b'{"a": 1}', b"\xff"):
        first.dumping.paths.backup_sender.write_bytes(content)
        first.backups = first.new_backups()
        await refused(first)
        assert await first.comes_back() == b"a"
    senders.take_over(first.dumping.paths)
    await first.send()


async def test_of_two_that_claim_at_once_the_first_has_it(first: Platform, second: Platform) -> None:
    """Both have looked, and seen nobody."""
    await first.send()
    second.comes_of(first)
    senders.take_over(first.dumping.paths)
    told: list[str] = []

    def at_once(key: str) -> None:
        """The other's, just before ours is there."""
        if key.startswith(names.SENDERS) and not told:
            told.append(key)
            first.bucket.put(key, sealed_claim(second, key), DAYS)

    first.bucket.before_put = at_once
    with pytest.raises(ConflictError):
        await first.send()
    assert told


def sealed_claim(platform: Platform, key: str) -> bytes:
    """What the platform would put, a second before."""
    claim = senders.Claim(platform.clock.at - 1, "00000002FFFFFFFF", "elsewhere")
    return senders.sealing_of(b"k" * 32).seal(key, msgspec.json.encode(claim), bytes(12))


async def test_nobody_stops_it_with_the_stores_credentials(first: Platform) -> None:
    """Names that are no claims, and what is put over its own."""
    await first.send()
    (own,) = first.bucket.keys("/senders/")
    for number in range(1, 40):
        first.bucket.put(names.sender(number, "0" * 64), first.bucket.latest(own))
        first.bucket.put(own, b"junk")
    first.bucket.put(own, None)
    first.clock.at += LOOK_EVERY_S
    await first.send()
    assert await first.taken() == ""
    first.backups = first.new_backups()
    await first.send()


async def test_junk_over_its_claim_has_no_list_asked_for(first: Platform) -> None:
    """Which a thief makes as long as they like: each look would take as long."""
    await first.send()
    (own,) = first.bucket.keys("/senders/")
    for _ in range(VERSIONS_MAX):
        first.bucket.put(own, b"junk")
    for number in range(100):
        first.bucket.put(names.sender(2, f"{number:064x}"), b"junk")
    first.bucket.listed.clear()
    first.clock.at += LOOK_EVERY_S
    await first.send()
    assert names.SENDERS not in first.bucket.listed


async def test_a_claim_is_put_again_before_it_is_gone(first: Platform) -> None:
    await first.send()
    first.bucket.puts.clear()
    for _ in range(int(RENEW_EVERY_S / DAY_S)):
        await first.send_wal(first.source)
        first.clock.at += DAY_S
    assert [key for key in first.bucket.puts if "/senders/" in key] == []
    await first.send_wal(first.source)
    assert len([key for key in first.bucket.puts if "/senders/" in key]) == 1


async def test_who_was_away_for_longer_than_claims_are_kept_sees_the_last(first: Platform, second: Platform) -> None:
    await first.send()
    for _ in range(3):
        senders.take_over(second.dumping.paths)
        second.clock.at += 40 * DAY_S
        await second.send()
    for key in first.bucket.keys("/senders/")[:-1]:
        del first.bucket.objects[key]
    await refused(first)


async def test_what_is_known_here_is_root_s_alone(first: Platform) -> None:
    await first.send()
    assert first.dumping.paths.backup_sender.stat().st_mode & 0o777 == 0o600


def test_what_comes_of_a_dump_from_before_there_were_claims_has_what_has_no_label() -> None:
    """And not what a drill sent since, which would be before it."""
    dump = Dump(moment=1, version="1", epoch=1, secrets={}, checkpoint=None, lists=[], files=1, bytes=1)
    assert senders.of_dump(dump) == Mine(line=[""], number=0)
    labels = ["", "0000000200000000"]
    assert senders.of_dump(msgspec.structs.replace(dump, line=labels, number=2)) == Mine(line=labels, number=2)
    assert senders.of_dump(msgspec.structs.replace(dump, number=2)) == Mine(line=None, number=2), "it was lost"

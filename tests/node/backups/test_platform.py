"""The control database goes into the store, once, and leaves nothing on the disk."""

from pathlib import Path

import pytest

from cloister.base.database import embedded
from cloister.base.errors import ExhaustedError, InternalError, PreconditionError, UnavailableError
from cloister.base.settings import Paths
from cloister.node.backups import platform
from cloister.node.backups.platform import Dumping
from cloister.node.commands import BackUpPlatform, PlatformBacked
from cloister.protocol.backups import keys as names
from cloister.protocol.backups.dumps import parse_dump
from cloister.protocol.backups.sealing import BackupKey
from tests.node.backups.bucket import secret_of
from tests.node.backups.scene import DAYS, Scene


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


async def sent(scene: Scene) -> PlatformBacked:
    backed: PlatformBacked = await scene.backups.answer(BackUpPlatform(retain_days=DAYS))
    return backed


async def test_its_own_object_is_last_behind_the_key_that_opens_it(scene: Scene) -> None:
    backed = await sent(scene)
    assert scene.bucket.puts[-2:] == [names.platform_key(1), names.dump(backed.name)]
    assert scene.bucket.latest(names.platform_key(1)) == b"wrapped"
    assert {key.split("/")[0] for key in scene.bucket.puts} == {"platform"}
    key = BackupKey(secret_of("platform"), names.PLATFORM, 1)
    dump = parse_dump(key.open(names.dump(backed.name), scene.bucket.latest(names.dump(backed.name))), backed.name)
    assert (dump.moment, dump.epoch, dump.secrets) == (scene.clock.at, 7, {"control.key": b"k" * 32})
    assert scene.keys.reasons == ["back_up"]


async def test_of_a_log_that_grew_its_end_is_sent(scene: Scene) -> None:
    first = await sent(scene)
    scene.bucket.puts.clear()
    scene.clock.at += 3600
    scene.dumping.files["3001.dat"] += b"more rows"
    later = await sent(scene)
    assert (first.chunks, later.chunks, later.new_chunks) == (6, 6, 2), "the last mebibyte, and the list"
    assert later.name > first.name


async def test_nothing_of_it_stays_on_the_disk(scene: Scene) -> None:
    await sent(scene)
    assert not scene.dumping.directory.exists()
    scene.bucket.is_away = True
    with pytest.raises(UnavailableError):
        await sent(scene)
    scene.bucket.is_away = False

    def away(_key: str) -> None:
        raise UnavailableError("no answer")

    scene.dumping.files["3003.dat"] = b"new"
    scene.bucket.before_put = away
    with pytest.raises(UnavailableError):
        await sent(scene)
    assert not scene.dumping.directory.exists()


async def test_a_file_that_cannot_be_sent_ends_it(scene: Scene) -> None:
    """One that is left out of a base is no PostgreSQL's; of a dump it would be a table."""
    scene.dumping.files["not a name.dat"] = b"rows"
    with pytest.raises(InternalError):
        await sent(scene)
    assert scene.bucket.keys("/dumps/") == []


async def test_a_database_of_the_operators_own_is_not_dumped(tmp_path: Path) -> None:
    with pytest.raises(PreconditionError, match="its operator's"):
        await Dumping(Paths(tmp_path), is_ours=False).dump()


async def test_the_databases_disk_is_not_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = Paths(tmp_path)
    left = paths.control_data / "dump-of-an-agent-that-died"
    left.mkdir(parents=True)
    monkeypatch.setattr(platform, "ROOM_BYTES_MIN", 2**62)
    with pytest.raises(ExhaustedError, match="no room"):
        await Dumping(paths).dump()
    assert not left.exists()


async def test_a_dump_that_fails_takes_no_key_and_puts_nothing(scene: Scene) -> None:
    scene.dumping.refusal = UnavailableError("pg_dump says no")
    with pytest.raises(UnavailableError):
        await sent(scene)
    assert scene.keys.reasons == scene.bucket.puts == []


async def test_what_the_server_drops_meanwhile_takes_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Listed, and gone before its size was asked for."""
    paths = Paths(tmp_path)
    (embedded.data_dir(paths) / "base" / "5").mkdir(parents=True)
    (embedded.data_dir(paths) / "base" / "5" / "16384").symlink_to("nowhere")
    monkeypatch.setattr(platform, "ROOM_BYTES_MIN", 2**62)
    with pytest.raises(ExhaustedError, match="no room"):
        await Dumping(paths).dump()

"""The control database goes into the store, once, and leaves nothing on the disk."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from cloister.base.database import embedded
from cloister.base.errors import BadRequestError, ExhaustedError, InternalError, PreconditionError, UnavailableError
from cloister.base.settings import Paths
from cloister.node.backups import platform
from cloister.node.backups.keeper import SAMPLE_MAX
from cloister.node.backups.platform import Dumping
from cloister.node.commands import BackUpPlatform, PlatformBacked, ReadBackPlatform, Seen
from cloister.protocol.backups import keys as names
from cloister.protocol.backups.dumps import encoded_dump, parse_dump
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


async def read_back(scene: Scene, name: str, sample: int = 100) -> Seen:
    seen: Seen = await scene.backups.answer(ReadBackPlatform(name=name, sample=sample))
    return seen


async def test_what_was_sent_is_read_back(scene: Scene) -> None:
    backed = await sent(scene)
    seen = await read_back(scene, backed.name)
    assert (seen.base, seen.chunks, seen.damaged) == (backed.name, 3, []), "equal mebibytes are one chunk"
    assert seen.bytes > 2**20
    assert (await read_back(scene, backed.name, 2)).chunks == 2
    assert scene.keys.reasons == ["back_up", "read_back", "read_back"]


@pytest.mark.parametrize("part", ["/chunks/", "/dumps/", "/keys/"])
async def test_what_is_gone_or_another_is_named(scene: Scene, part: str) -> None:
    backed = await sent(scene)
    (key, *_) = scene.bucket.keys(part)
    gone = scene.bucket.objects.pop(key)
    assert key in (await read_back(scene, backed.name)).damaged
    scene.bucket.put(key, gone[0].content[:-1] + b"?" if gone[0].content else None)
    assert key in (await read_back(scene, backed.name)).damaged


async def test_a_list_that_is_another_dumps_is_damage(scene: Scene) -> None:
    """Its chunks open, and are not what was counted."""
    first = await sent(scene)
    scene.clock.at += 3600
    scene.dumping.files["3003.dat"] = b"more rows"
    second = await sent(scene)
    key = BackupKey(secret_of("platform"), names.PLATFORM, 1)
    heads = [
        parse_dump(key.open(names.dump(name), scene.bucket.latest(names.dump(name))), name)
        for name in (first.name, second.name)
    ]
    mixed = encoded_dump(msgspec.structs.replace(heads[1], lists=heads[0].lists))
    scene.bucket.put(names.dump(second.name), key.seal(names.dump(second.name), mixed, bytes(12)))
    assert (await read_back(scene, second.name)).damaged == [names.dump(second.name)]


async def test_what_is_damaged_is_sent_again(scene: Scene) -> None:
    backed = await sent(scene)
    for key in scene.bucket.keys("/chunks/"):
        del scene.bucket.objects[key]
    scene.clock.at += 3600
    assert (await sent(scene)).new_chunks == 0, "nobody knows"
    await read_back(scene, backed.name)  # its list is gone, and the chunks are not known
    scene.clock.at += 3600
    assert (await sent(scene)).new_chunks == 1


@pytest.mark.parametrize("asked", [{"name": "../../secrets"}, {"sample": -1}, {"sample": SAMPLE_MAX + 1}])
async def test_a_name_that_is_none_and_a_sample_too_large_are_refused(scene: Scene, asked: dict[str, Any]) -> None:
    with pytest.raises(BadRequestError):
        await read_back(scene, **{"name": "0" * 16} | asked)


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

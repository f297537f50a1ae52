"""A store that holds the control database, or whoever writes to it, gives something else: nothing but what this platform sent comes back.

Whoever has the writer's credentials, and a platform of their own, can put what they like under any name.
"""

import os
from pathlib import Path

import msgspec
import pytest

from cloister.base.errors import NotFoundError, PreconditionError, UnprocessableError
from cloister.node.backups import senders
from cloister.node.backups.laying import Laying
from cloister.node.backups.objects import Store
from cloister.node.backups.recovering import Found, Recovering, RootKeys
from cloister.node.backups.senders import Mine
from cloister.node.commands import BackUpPlatform, PlatformBacked
from cloister.node.timelines.tree import Abort
from cloister.protocol.backups import keys as names
from cloister.protocol.backups.bases import CHUNK_BYTES
from cloister.protocol.backups.dumps import encoded_dump
from cloister.protocol.backups.sealing import BackupKey
from cloister.trust.keys import platform
from cloister.trust.keys.commands import DumpKeyInfo
from cloister.trust.keys.memory import SecretPage
from cloister.trust.keys.providers import FileProvider, create_root_key
from cloister.trust.keys.roots import Roots
from tests.node.backups.bucket import BackupKeys, Bucket
from tests.node.backups.scene import DAYS, Scene

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the agent is root, and gives files away")

HOUR_S = 3600


class Keys(BackupKeys):
    """A platform's key of dumps, under its root key."""

    def __init__(self, root: FileProvider, material: int, secret: bytes) -> None:
        super().__init__()
        self.material, self.secret = material, secret
        empty = platform.Envelope(
            material=material, made_at="2026", provider=root.name, root_version=root.root_version, wrapped=b""
        )
        with SecretPage(32) as page:
            page.buffer[:] = secret
            self.envelope = msgspec.structs.replace(empty, wrapped=root.wrap(page.buffer, empty.context))

    async def dump_key(self, reason: str) -> tuple[DumpKeyInfo, SecretPage]:
        page = SecretPage(32)
        page.buffer[:] = self.secret
        return DumpKeyInfo(material=self.material, envelope=msgspec.json.encode(self.envelope), epoch=7), page

    def seal(self, name: str, plain: bytes) -> bytes:
        return BackupKey(self.secret, names.PLATFORM, self.material).seal(name, plain, os.urandom(12))


class Platform:
    def __init__(self, directory: Path, material: int = 5) -> None:
        directory.mkdir()
        self.directory = directory
        create_root_key(directory / "root.key", uid=os.geteuid(), gid=os.getegid())
        self.root = FileProvider(directory / "root.key")
        self.keys = Keys(self.root, material, os.urandom(32))
        self.scene = Scene(directory)
        self.scene.keys = self.keys
        self.scene.backups = self.scene.new_backups()

    @property
    def bucket(self) -> Bucket:
        return self.scene.bucket

    async def send(self) -> PlatformBacked:
        self.scene.clock.at += HOUR_S
        backed: PlatformBacked = await self.scene.backups.answer(BackUpPlatform(retain_days=DAYS))
        return backed

    async def find(self, at: float | None = None) -> Found:
        return await self._recovering().find(at, self.scene.clock.at)

    async def recover(self) -> dict[str, bytes]:
        recovering = self._recovering()
        found = await recovering.find(None, self.scene.clock.at)
        data = self.directory / f"laid-{len(list(self.directory.iterdir()))}"
        laying = Laying(data, os.geteuid())
        laying.begin()

        async def in_thread(function):  # type: ignore[no-untyped-def]
            return function(Abort())

        await recovering.lay(found.dump, laying, in_thread)
        return {path.name: path.read_bytes() for path in data.iterdir()}

    def _recovering(self) -> Recovering:
        store = Store(self.bucket)
        return Recovering(store, RootKeys(store, Roots(self.root)))


@pytest.fixture
def ours(tmp_path: Path) -> Platform:
    return Platform(tmp_path / "ours")


@pytest.fixture
def theirs(tmp_path: Path) -> Platform:
    return Platform(tmp_path / "theirs")


async def test_what_was_sent_comes_back(ours: Platform) -> None:
    await ours.send()
    assert await ours.recover() == ours.scene.dumping.files


async def test_another_platforms_dump_is_not_ours(ours: Platform, theirs: Platform) -> None:
    """In whole, with its key, and later than ours; and where there is nothing else."""
    mine = await ours.send()
    theirs.scene.clock.at += HOUR_S
    await theirs.send()
    for key, versions in theirs.bucket.objects.items():
        for version in versions:
            ours.bucket.put(key, version.content)
    ours.scene.clock.at += 3 * HOUR_S
    found = await ours.find()
    assert (found.dump.name, len(found.damaged)) == (mine.name, 1)
    assert await ours.recover() == ours.scene.dumping.files
    for key in ours.bucket.keys(mine.name):
        del ours.bucket.objects[key]
    with pytest.raises(PreconditionError, match="opens with this root key"):
        await ours.find()


async def test_a_key_in_our_keys_place_opens_nothing_and_hides_nothing(ours: Platform, theirs: Platform) -> None:
    await ours.send()
    ours.bucket.put(names.platform_key(5), msgspec.json.encode(theirs.keys.envelope))
    ours.bucket.put(names.platform_key(5), b"{}")
    assert await ours.recover() == ours.scene.dumping.files
    for version in ours.bucket.objects[names.platform_key(5)]:
        version.content = msgspec.json.encode(theirs.keys.envelope)
    with pytest.raises(PreconditionError, match="opens with this root key"):
        await ours.find()


async def test_our_envelope_under_another_name_is_not_that_key(ours: Platform) -> None:
    backed = await ours.send()
    other = Keys(ours.root, 6, ours.keys.secret)
    other.envelope = ours.keys.envelope
    ours.bucket.put(names.platform_key(6), msgspec.json.encode(other.envelope))
    head = names.dump(backed.name)
    sealed = ours.bucket.latest(head)
    ours.bucket.objects[head] = []
    ours.bucket.put(head, sealed[:5] + (6).to_bytes(4, "big") + sealed[9:])
    with pytest.raises(PreconditionError, match="opens with this root key"):
        await ours.find()


async def test_an_old_dump_under_a_later_name_is_none(ours: Platform) -> None:
    first = await ours.send()
    second = await ours.send()
    later = names.dump(f"{int(second.name, 16) + 1:016X}")
    ours.bucket.put(later, ours.bucket.latest(names.dump(first.name)))
    found = await ours.find()
    assert (found.dump.name, found.damaged) == (second.name, [names.dump_name(later)])


async def test_nor_with_a_name_that_its_sealed_head_does_not_have(ours: Platform) -> None:
    """Only who has the key could do that; a name is held to what it names all the same."""
    first = await ours.send()
    found = await ours.find()
    later = f"{int(first.name, 16) + 1:016X}"
    ours.bucket.put(names.dump(later), ours.keys.seal(names.dump(later), encoded_dump(found.dump)))
    assert (await ours.find()).damaged == [later]


async def test_a_later_dump_that_is_hidden_by_a_marker_is_the_newest(ours: Platform) -> None:
    await ours.send()
    second = await ours.send()
    ours.bucket.put(names.dump(second.name), None)
    assert (await ours.find()).dump.name == second.name


async def test_names_from_the_future_hide_nothing(ours: Platform) -> None:
    backed = await ours.send()
    for number in range(100):
        ours.bucket.put(names.dump(f"{2**63 + number:016X}"), b"")
    found = await ours.find()
    assert (found.dump.name, found.damaged) == (backed.name, [])


async def test_a_moment_says_which(ours: Platform) -> None:
    first = await ours.send()
    second = await ours.send()
    assert (await ours.find(second.moment - 1)).dump.name == first.name
    with pytest.raises(PreconditionError, match="none from before"):
        await ours.find(first.moment - 1)


async def test_what_the_one_before_sent_after_another_took_over_is_not_the_newest(
    ours: Platform, tmp_path: Path
) -> None:
    """A drill's platform, and the one that it was made of, which has not seen it yet; and names that somebody makes to be the last."""
    first = await ours.send()
    (tmp_path / "other").mkdir()
    other = Scene(tmp_path / "other")
    other.bucket, other.keys, other.clock = ours.bucket, ours.keys, ours.scene.clock
    other.backups = other.new_backups()
    senders.remember(other.dumping.paths, ours.bucket.name, Mine(line=[""], number=1))
    senders.take_over(other.dumping.paths)
    command = BackUpPlatform(retain_days=DAYS)
    ours.scene.clock.at += 1
    taken: PlatformBacked = await other.backups.answer(command)
    ours.scene.clock.at += 1
    last: PlatformBacked = await ours.scene.backups.answer(command)
    assert first.name < taken.name < last.name
    ours.bucket.put(names.dump(names.labelled(last.name, "F" * 16)), ours.bucket.latest(names.dump(last.name)))
    found = await ours.find()
    assert (found.dump.name, found.damaged) == (taken.name, [names.labelled(last.name, "F" * 16)])
    assert (found.dump.number, found.dump.line) == (2, ["", taken.name[17:]])
    assert (await ours.find(taken.moment - 0.5)).dump.name == first.name


@pytest.mark.parametrize("harm", ["swapped", "cut off", "gone", "from a project"])
async def test_one_chunk_that_is_not_what_was_sent_ends_it(ours: Platform, harm: str) -> None:
    """And no older dump takes its place: that loss somebody must want."""
    await ours.send()
    ours.scene.dumping.files["3001.dat"] = rows = b"other rows" * 200_000
    await ours.send()
    sealing = BackupKey(ours.keys.secret, names.PLATFORM, ours.keys.material)
    pieces = [names.chunk(names.PLATFORM, sealing.chunk_id(rows[at : at + CHUNK_BYTES])) for at in (0, CHUNK_BYTES)]
    for chunk, other in (pieces, reversed(pieces)):
        kept = ours.bucket.objects[chunk]
        ours.bucket.objects[chunk] = []
        match harm:
            case "swapped":
                ours.bucket.put(chunk, ours.bucket.latest(other))
            case "cut off":
                content = kept[-1].content
                assert content is not None
                ours.bucket.put(chunk, content[:-1])
            case "from a project":
                key = BackupKey(ours.keys.secret, "calm-forest-12345678", ours.keys.material)
                ours.bucket.put(chunk, key.seal(chunk, b"rows", os.urandom(12)))
        with pytest.raises(NotFoundError if harm == "gone" else UnprocessableError):
            await ours.recover()
        ours.bucket.objects[chunk] = kept
    assert await ours.recover() == ours.scene.dumping.files


async def test_a_dump_with_fewer_files_than_it_counted_is_refused(ours: Platform) -> None:
    await ours.send()
    found = await ours.find()
    for changes in ({"files": 2}, {"bytes": found.dump.bytes - 1}):
        less = msgspec.structs.replace(found.dump, **changes)
        head = names.dump(less.name)
        ours.bucket.put(head, ours.keys.seal(head, encoded_dump(less)))
        with pytest.raises(UnprocessableError, match="has other files than it says"):
            await ours.recover()

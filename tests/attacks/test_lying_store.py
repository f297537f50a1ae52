"""Whoever has taken over the store, or the credentials to write there, gives back what they like. None of it becomes data of a project unless the
project's own agent put it there, under that name; nothing is written outside of the directory that is being restored, and no
memory is filled. What they can do is to keep something back, and that is told."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cloister.base.errors import ExhaustedError, PreconditionError, UnprocessableError
from cloister.base.ids import TimelineId, new_project_id, new_timeline_id
from cloister.node.backups import finding, objects
from cloister.node.backups.commands import GetObject, ListObjects
from cloister.node.backups.laying import Laying
from cloister.node.timelines import wal
from cloister.node.timelines.tree import Abort
from cloister.protocol.backups import keys
from cloister.protocol.backups.bases import Entry, Piece
from cloister.protocol.backups.keys import WalName
from cloister.protocol.backups.sealing import OBJECT_BYTES_MAX, BackupKey
from tests.node.backups.bucket import Bucket, secret_of
from tests.node.backups.scene import FIRST, UID, Scene, files
from tests.node.timelines.clusters import CHECKPOINT, control_file, segment

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the agent is root, and gives files away")

Lie = Callable[[Bucket, str], None]
ESCAPED = "/tmp/cloister-escaped"
JUNK = b"CLBK1" + bytes(200)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


async def backed_up(scene: Scene) -> TimelineId:
    source = scene.timeline()
    (scene.data(source) / "base/5/16385").write_bytes(os.urandom(1024**2))
    (scene.data(source) / "base/5/16386").write_bytes(os.urandom(1024**2))
    (scene.data(source) / "global/pg_control").write_bytes(control_file(checkpoint=CHECKPOINT + 800))
    await scene.back_up(source)
    scene.archive(source, *range(FIRST, FIRST + 4))
    scene.write(source, FIRST + 4, b"the beginning")
    await scene.send_wal(source)
    return source


async def refused(scene: Scene, source: TimelineId, **more: Any) -> str:
    """Gives what the operator is told. Nothing is left, and nothing was replayed."""
    target = new_timeline_id()
    before = files(scene.volume / "timelines")
    with pytest.raises((UnprocessableError, PreconditionError)) as error:
        await scene.restore(source, timeline_id=target, **more)
    assert not scene.replays.replayed
    assert not scene.layout.unfinished(target).exists
    assert files(scene.volume / "timelines") == before
    return error.value.public


def names_below(path: Path) -> set[str]:
    """Of all that is there, but for what was thrown away."""
    return {str(it) for it in path.rglob("*") if "trash" not in it.parts}


def escaped() -> bool:
    return Path(ESCAPED).exists()


def one_of(scene: Scene, what: str) -> str:
    return scene.bucket.keys(f"/{what}/")[0]


def replaced(by: bytes) -> Lie:
    def lie(bucket: Bucket, key: str) -> None:
        bucket.objects[key] = []
        bucket.put(key, by)

    return lie


def cut_off(bucket: Bucket, key: str) -> None:
    replaced(bucket.latest(key)[:-1])(bucket, key)


def changed(bucket: Bucket, key: str) -> None:
    content = bytearray(bucket.latest(key))
    content[-1] ^= 1
    replaced(bytes(content))(bucket, key)


def of_another_project(bucket: Bucket, key: str) -> None:
    """Sealed well, by the key of a project that whoever lies has as their own."""
    other = new_project_id()
    replaced(BackupKey(secret_of(other), other, 1).seal(key, b"theirs", bytes(12)))(bucket, key)


def of_another_name(bucket: Bucket, key: str) -> None:
    """The project's own, moved from its place."""
    kind = next(kind for kind in ("/chunks/", "/wal/") if kind in key)
    other = next(it for it in bucket.keys(kind) if it != key)
    replaced(bucket.latest(other))(bucket, key)


def too_large(bucket: Bucket, key: str) -> None:
    replaced(bytes(OBJECT_BYTES_MAX + 1))(bucket, key)


def with_another_material(bucket: Bucket, key: str) -> None:
    content = bytearray(bucket.latest(key))
    content[8] = 77
    replaced(bytes(content))(bucket, key)


@pytest.mark.parametrize(
    "lie", [replaced(JUNK), replaced(b""), cut_off, changed, of_another_project, of_another_name, too_large, with_another_material],
    ids=["junk", "empty", "cut off", "changed", "of another project", "of another name", "too large", "another key"],
)  # fmt: skip
@pytest.mark.parametrize("what", ["chunks", "wal"])
async def test_what_was_not_put_there_is_refused(scene: Scene, what: str, lie: Lie) -> None:
    source = await backed_up(scene)
    victim = one_of(scene, what)
    lie(scene.bucket, victim)
    assert victim in await refused(scene, source)


@pytest.mark.parametrize("lie", [replaced(JUNK), cut_off, changed, of_another_project], ids=str)
async def test_a_base_that_does_not_open_is_refused(scene: Scene, lie: Lie) -> None:
    source = await backed_up(scene)
    victim = one_of(scene, "bases")
    lie(scene.bucket, victim)
    assert victim in await refused(scene, source)


@pytest.mark.parametrize("what", ["chunks", "bases", "wal"])
@pytest.mark.parametrize("is_marker", [True, False], ids=["deleted", "overwritten"])
async def test_what_was_put_over_an_object_or_deletes_it_does_not_hide_it(
    scene: Scene, what: str, is_marker: bool
) -> None:
    """What whoever has the writer's credentials can do to what is locked."""
    source = await backed_up(scene)
    for key in scene.bucket.keys(f"/{what}/"):
        for _ in range(objects.VERSIONS_TRIED_MAX + 3):
            scene.bucket.put(key, None if is_marker else JUNK)
    restored = await scene.restore(source)
    assert files(scene.data(restored))["base/5/16385"] == files(scene.data(source))["base/5/16385"]
    assert scene.replays.replayed[0][1].reach.end == FIRST + 5


async def test_junk_under_names_of_wal_does_not_hide_what_is_true(scene: Scene) -> None:
    source = await backed_up(scene)
    prefix = keys.wal(scene.project_id, source)
    names = [wal.segment_name(1, number) for number in range(FIRST, FIRST + 6)]
    for text in (
        *(f"{name}-{name}" for name in names[:3]),
        f"{names[0]}-{names[1]}",
        f"{names[2]}-{names[4]}",
        f"{names[4]}-{names[5]}",
        f"{names[4]}+00100000",
        f"{names[4]}+FFFFFFFF",
        f"{names[0]}-{wal.segment_name(1, FIRST + 100)}",
        f"{names[2]}-{names[0]}",
        f"{names[0]}-{wal.segment_name(2, FIRST)}",
        "0000000100000000FFFFFFFF-0000000100000000FFFFFFFF",
        "nonsense",
    ):
        scene.bucket.put(prefix + text, JUNK)
    known_lsn = wal.format_lsn((FIRST + 4) * wal.SEGMENT_BYTES + 24 + len("the beginning"))
    await scene.restore(source, known_lsn=known_lsn)
    laid = scene.replays.laid[0]
    assert [laid[f"pg_wal/{name}"][:60] for name in names[:4]] == [
        segment(number, fill=bytes([number % 251 + 1]))[:60] for number in range(FIRST, FIRST + 4)
    ]
    assert b"the beginning" in laid[f"pg_wal/{names[4]}"]
    scene.replays.replayed.clear()
    # Who does not know how far WAL goes is told that there is more which does not open.
    assert names[4] in await refused(scene, source)


async def test_of_junk_behind_the_last_wal_no_more_than_the_beginning_is_asked_for(scene: Scene) -> None:
    """Each object takes some requests, and a restoration has an hour."""
    source = await backed_up(scene)
    for number in range(FIRST + 4, FIRST + 204):
        name = wal.segment_name(1, number)
        scene.bucket.put(keys.wal_object(scene.project_id, source, WalName(name, name)), JUNK)
    asked: list[str] = []
    answered = scene.bucket.call

    async def call(command: Any, *, timeout_s: float = 0) -> Any:
        if isinstance(command, GetObject):
            asked.append(command.key)
        return await answered(command, timeout_s=timeout_s)

    scene.bucket.call = call  # type: ignore[method-assign]
    known_lsn = wal.format_lsn((FIRST + 4) * wal.SEGMENT_BYTES + 24 + len("the beginning"))
    await scene.restore(source, known_lsn=known_lsn)
    assert len([key for key in asked if "/wal/" in key]) < 20


async def test_wal_under_another_segment_s_name_is_refused_though_it_was_sealed_for_it(scene: Scene) -> None:
    source = await backed_up(scene)
    third = wal.segment_name(1, FIRST + 3)
    key = keys.wal_object(scene.project_id, source, WalName(third, third))
    seal(scene, key, segment(FIRST + 2))
    assert key in await refused(scene, source)


@pytest.mark.parametrize("is_all", [True, False])
async def test_a_store_that_keeps_the_newest_back_is_found_out(scene: Scene, is_all: bool) -> None:
    """Nothing in what it gives shows that there was more. Whoever asks knows."""
    source = await backed_up(scene)
    known_lsn = wal.format_lsn((FIRST + 4) * wal.SEGMENT_BYTES + 24 + len("the beginning"))
    await scene.restore(source, known_lsn=known_lsn)
    for key in scene.bucket.keys("/wal/")[0 if is_all else -1 :]:
        del scene.bucket.objects[key]
    scene.replays.replayed.clear()
    assert "something is kept back, or was lost" in await refused(scene, source, known_lsn=known_lsn)
    assert "outside" in await refused(scene, source, lsn=known_lsn)


async def test_where_the_newest_base_is_damaged_an_older_one_leads_to_the_same_place(scene: Scene) -> None:
    source = await backed_up(scene)
    old = set(scene.bucket.keys("/chunks/"))
    (scene.data(source) / "base/5/16386").write_bytes(os.urandom(1024**2))
    (scene.data(source) / "global/pg_control").write_bytes(
        control_file(checkpoint=(FIRST + 4) * wal.SEGMENT_BYTES + 30)
    )
    await scene.back_up(source)
    for key in set(scene.bucket.keys("/chunks/")) - old:
        del scene.bucket.objects[key]
    await scene.restore(source)
    assert (scene.replays.replayed[0][1].reach.first, scene.replays.replayed[0][1].reach.end) == (FIRST, FIRST + 5)
    assert scene.replays.laid[0]["base/5/16386"] != files(scene.data(source))["base/5/16386"]
    scene.replays.replayed.clear()
    lost = scene.bucket.keys("/wal/")[-2]
    content = scene.bucket.objects.pop(lost)
    assert "kept back, or was lost" in await refused(scene, source)
    scene.bucket.objects[lost] = content
    for key in old:
        del scene.bucket.objects[key]
    assert "is not there" in await refused(scene, source)


async def test_an_older_object_of_the_same_name_is_the_same_content(scene: Scene) -> None:
    """A chunk's name is that of its content, so to give an older version gains nothing."""
    source = await backed_up(scene)
    scene.clock.at += 3_000_000
    await scene.back_up(source)
    for versions in scene.bucket.objects.values():
        del versions[1:]
    restored = await scene.restore(source)
    assert files(scene.data(restored))["base/5/16385"] == files(scene.data(source))["base/5/16385"]


async def test_objects_do_not_name_as_many_keys_as_they_like(scene: Scene) -> None:
    """Each use of a key is an event in the audit log."""
    source = await backed_up(scene)
    for material, key in enumerate(scene.bucket.keys("/bases/") * 20, 2):
        content = bytearray(scene.bucket.latest(key))
        content[8] = material
        scene.bucket.put(key, bytes(content))
    scene.keys.reasons.clear()
    await scene.restore(source)
    assert len(scene.keys.reasons) <= 4


async def test_a_listing_that_never_ends_is_given_up(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    source = await backed_up(scene)
    monkeypatch.setattr(objects, "PAGES_MAX", 0)
    assert "pages" in await refused(scene, source)


@pytest.mark.parametrize(("most", "begins"), [(80, FIRST + 4), (finding.WAL_MAX, FIRST + 5)])
async def test_junk_under_names_of_wal_refuses_nothing(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, most: int, begins: int
) -> None:
    """However much of it: behind the last of ours with a gap or without, on other lines, and as beginnings of each segment."""
    source = await backed_up(scene)
    monkeypatch.setattr(finding, "WAL_MAX", most)
    monkeypatch.setattr(finding, "NAMES_MAX", 4)
    prefix = keys.wal(scene.project_id, source)
    for number in range(FIRST, FIRST + 150):
        name = wal.segment_name(1, number)
        for length in {*range(1, 80)} - {24 + len("the beginning")}:
            scene.bucket.put(prefix + WalName(name, name, length).text, JUNK)
        if number >= begins:
            scene.bucket.put(prefix + WalName(name, name).text, JUNK)
        scene.bucket.put(prefix + wal.segment_name(1, number) + "?", JUNK)
        scene.bucket.put(prefix + WalName(wal.segment_name(2, number), wal.segment_name(2, number)).text, JUNK)
    asked: list[str] = []
    answered = scene.bucket.call

    async def call(command: Any, *, timeout_s: float = 0) -> Any:
        if isinstance(command, ListObjects) and command.prefix == prefix:
            asked.append(command.after.key if command.after else "")
        return await answered(command, timeout_s=timeout_s)

    scene.bucket.call = call  # type: ignore[method-assign]
    known_lsn = wal.format_lsn((FIRST + 4) * wal.SEGMENT_BYTES + 24 + len("the beginning"))
    await scene.restore(source, known_lsn=known_lsn)
    laid = scene.replays.laid[0]
    assert b"the beginning" in laid[f"pg_wal/{wal.segment_name(1, FIRST + 4)}"]
    assert not [key for key in asked if key[len(prefix) :] >= wal.segment_name(1, FIRST + 100)]


async def test_junk_under_names_of_bases_does_not_hide_those_from_before(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much of it: whoever has the writer's credentials can have it locked for years, and nobody takes it away."""
    source = await backed_up(scene)
    monkeypatch.setattr(finding, "BASES_MAX", 4)
    for number in range(20):
        scene.bucket.put(keys.base(scene.project_id, source, f"{number:016X}"), JUNK)
        scene.bucket.put(keys.base(scene.project_id, source, f"{number:08X}{2**32 - 1:08X}"), JUNK)
    restored = await scene.restore(source)
    assert files(scene.data(restored))["base/5/16385"] == files(scene.data(source))["base/5/16385"]
    scene.bucket.puts.clear()
    (scene.data(source) / "global/pg_control").write_bytes(
        control_file(checkpoint=(FIRST + 4) * wal.SEGMENT_BYTES + 30)
    )
    await scene.back_up(source)
    [newest] = [key for key in scene.bucket.puts if "/bases/" in key]
    assert (await scene.read_back(source)).base == newest.rpartition("/")[2], (
        "nor those from afterwards, before there is more"
    )


async def test_a_listing_of_what_was_not_asked_for_is_refused(scene: Scene) -> None:
    source = await backed_up(scene)
    honest = scene.bucket._page

    def page(command: Any) -> Any:
        answer = honest(command)
        return msgspec.structs.replace(
            answer, objects=[msgspec.structs.replace(it, key="projects/x/" + it.key[9:]) for it in answer.objects]
        )

    scene.bucket._page = page  # type: ignore[method-assign]
    assert "not asked for" in await refused(scene, source)


# ── and one who has the project's backup key as well, so that all opens ──


def seal(scene: Scene, key: str, plain: bytes) -> None:
    sealer = BackupKey(secret_of(scene.project_id), scene.project_id, 1)
    scene.bucket.objects[key] = []
    scene.bucket.put(key, sealer.seal(key, plain, os.urandom(12)))


async def with_list(scene: Scene, source: TimelineId, entries: list[Any], chunk: bytes = b"hostile") -> None:
    """The base has these files and no others."""
    sealer = BackupKey(secret_of(scene.project_id), scene.project_id, 1)
    chunk_id = sealer.chunk_id(chunk)
    seal(scene, keys.chunk(scene.project_id, chunk_id), chunk)
    plain = msgspec.json.encode(entries).replace(b"CHUNK", chunk_id.encode())
    list_id = sealer.chunk_id(plain)
    seal(scene, keys.chunk(scene.project_id, list_id), plain)
    key = one_of(scene, "bases")
    base = msgspec.json.decode(sealer.open(key, scene.bucket.latest(key)))
    seal(scene, key, msgspec.json.encode({**base, "lists": [list_id]}))


PIECES = [[0, 7, "CHUNK", 0]]


@pytest.mark.parametrize(
    "entries",
    [
        [["../escaped", 7, PIECES]],
        [[ESCAPED, 7, PIECES]],
        [["base", None, []], ["base/../../escaped", 7, PIECES]],
        [["..", None, []], ["../escaped", 7, PIECES]],
        [["PG_VERSION", 7, PIECES], ["PG_VERSION", 7, PIECES]],
        [["a", 7, PIECES], ["a", None, []]],
        [["a", 7, [[0, 7, "CHUNK", 0], [3, 4, "CHUNK", 0]]]],
        [["a", 7, [[-8, 7, "CHUNK", 0]]]],
        [["a", -1, []]],
        [["a", 7, [[0, 7, "CHUNK", 1]]]],
        [["a", 2**60, []]],
        [["a", 7, [[0, 7, "../../../secret", 0]]]],
        [["x" * 300, 7, PIECES]],
        [["/".join("d" * depth), None, []] for depth in range(1, 9)],
        "no list at all",
    ],
)  # fmt: skip
async def test_a_list_of_files_leads_nowhere_else(scene: Scene, tmp_path: Path, entries: list[Any]) -> None:
    source = await backed_up(scene)
    await with_list(scene, source, entries)
    before = names_below(tmp_path)
    with pytest.raises(UnprocessableError):
        await scene.restore(source)
    assert names_below(tmp_path) <= before | {str(scene.volume / "unfinished")}
    assert not escaped()
    assert not scene.replays.replayed


async def test_a_list_that_is_not_what_the_base_says_is_refused(scene: Scene) -> None:
    source = await backed_up(scene)
    await with_list(scene, source, [["base", None, []]])
    assert "other files than it says" in await refused(scene, source)


def test_what_lies_there_already_is_not_written_through(tmp_path: Path) -> None:
    """Whatever was listed: laying goes through no link, and opens no file that it did not make."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"of another tenant")
    laying = Laying(tmp_path / "data", UID)
    laying.begin()
    (tmp_path / "data/link").symlink_to(tmp_path)
    (tmp_path / "data/file").symlink_to(secret)
    chunk = Piece(0, 4, "ab" * 32)
    for entry in (Entry("file", 4, [chunk]), Entry("link/new", 4, [chunk]), Entry("link"), Entry("file")):
        with pytest.raises(OSError):
            laying.make([entry], Abort())
    for path in ("file", "link/secret"):
        with pytest.raises(OSError):
            laying.write(b"junk", [(path, chunk)], Abort())
    (tmp_path / "data/pg_wal").symlink_to(tmp_path)
    with pytest.raises(OSError):
        laying.segment("secret", b"junk")
    assert secret.read_bytes() == b"of another tenant"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "secret"]


def test_a_full_volume_is_told_as_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    laying = Laying(tmp_path / "data", UID)
    laying.begin()
    laying.make([Entry("a", 4, [])], Abort())

    def full(*_arguments: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(ExhaustedError):
        laying.write(b"junk", [("a", Piece(0, 4, "ab" * 32))], Abort())

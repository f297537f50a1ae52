"""Backups in a bucket, against whoever has taken over the server, root and both credentials: what was put stays, and is found."""

import itertools
import os
import re
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from cloister.base.errors import BadRequestError, PreconditionError, UnavailableError, UnprocessableError
from cloister.base.identities import Service
from cloister.base.rpc import Command
from cloister.node.backups import courier
from cloister.node.backups.commands import GetObject, GetVersion, ListObjects, LookAtStore, Place, PutObject
from cloister.protocol.backups import keys
from cloister.protocol.backups.sealing import OBJECT_BYTES_MAX
from cloister.trust.sending.s3 import LISTING_BYTES_MAX, Bucket
from tests.node.backups.post import PROJECT, Post, a_post
from tests.node.backups.scene import FIRST, Scene, files
from tests.node.timelines.clusters import CHECKPOINT, control_file
from tests.trust.sending.store import READER, RIGHTS, WRITER, Store, a_store, sha256
from tests.trust.sentinel.receiver import make_certificate

CHUNK = keys.chunk(PROJECT, "ab" * 32)
BASE = keys.base(PROJECT, "0" * 32, "0" * 16)
EVERYTHING = {"put", "get", "list", "look", "delete", "retain"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    certificate = tmp_path_factory.mktemp("store") / "both.pem"
    make_certificate(certificate)
    with a_store(certificate) as store:
        yield store


@pytest.fixture
async def post(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Post]:
    store.door.rights = {name: set(may) for name, may in RIGHTS.items()}
    monkeypatch.setattr(courier, "PAUSES_S", ())
    async with a_post(store, monkeypatch) as post:
        post.bucket = f"b-{tmp_path.name.replace('_', '-')[-40:].strip('-')}"
        store.make(post.bucket)
        post.say()
        post.asked()
        yield post


def stolen(store: Store, who: str) -> Any:
    """AWS's own client with credentials from the server."""
    return boto3.client(
        "s3", region_name="eu-central-1", endpoint_url=store.endpoint, verify=str(store.certificate),
        aws_access_key_id=who, aws_secret_access_key="stolen",
    )  # fmt: skip


@pytest.mark.parametrize("days", [30, 37])
async def test_each_object_is_locked_for_as_long_as_was_said(post: Post, days: int) -> None:
    """BK3. By the store's word, in the mode that no credential lifts."""
    before = datetime.now(UTC)
    for key in (CHUNK, BASE, "platform/20261130T110000Z/control"):
        await post.call(PutObject(key=key, content=b"sealed", retain_days=days))
        there = post.store.client.head_object(Bucket=post.bucket, Key=f"db/{key}")
        assert there["ObjectLockMode"] == "COMPLIANCE"
        assert there["ObjectLockRetainUntilDate"] >= before.replace(microsecond=0) + timedelta(days=days)


@pytest.mark.parametrize("days", [-1, 0, 1, 29, 401])
async def test_no_object_is_put_for_less_than_30_days_nor_for_ever(post: Post, days: int) -> None:
    with pytest.raises(BadRequestError):
        await post.call(PutObject(key=CHUNK, content=b"sealed", retain_days=days))
    assert post.asked() == []


async def test_a_bucket_without_a_lock_gets_nothing(post: Post) -> None:
    """Not even a request to put: a store that ignores the lock of an object would take it."""
    post.bucket = f"{post.bucket[:50]}-loose"
    post.store.make(post.bucket, locks=False)
    post.say()
    with pytest.raises(PreconditionError, match="gets nothing"):
        await post.call(PutObject(key=CHUNK, content=b"sealed", retain_days=37))
    post.store.client.put_bucket_versioning(Bucket=post.bucket, VersioningConfiguration={"Status": "Enabled"})
    with pytest.raises(PreconditionError, match="gets nothing"):
        await post.call(PutObject(key=CHUNK, content=b"sealed", retain_days=37))
    assert WRITER not in {who for who, _ in post.asked()}
    facts = await post.call(LookAtStore())
    assert "no object lock" in facts.problem


async def test_a_bucket_that_keeps_one_version_gets_nothing(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it says of locks: one that is put over another has removed it."""

    async def no(_bucket: Bucket) -> bool:
        return False

    monkeypatch.setattr(Bucket, "versioning", no)
    with pytest.raises(PreconditionError, match="gets nothing"):
        await post.call(PutObject(key=CHUNK, content=b"sealed", retain_days=37))
    assert WRITER not in {who for who, _ in post.asked()}


async def test_a_bucket_that_does_not_say_whether_it_locks_gets_nothing(post: Post) -> None:
    post.store.door.rights[READER] = {"get", "list"}
    with pytest.raises(UnavailableError, match="AccessDenied"):
        await post.call(PutObject(key=CHUNK, content=b"sealed", retain_days=37))
    assert WRITER not in {who for who, _ in post.asked()}


@pytest.mark.parametrize("who", [WRITER, READER])
async def test_whoever_has_the_server_takes_nothing_away_within_30_days(post: Post, who: str) -> None:
    """BK6. With both credentials as powerful as a careless policy makes them: the original is still what can be asked for."""
    await post.call(PutObject(key=CHUNK, content=b"the original", retain_days=37))
    (original,) = (await post.call(ListObjects(prefix=CHUNK))).objects
    post.store.door.rights = {name: set(EVERYTHING) for name in (WRITER, READER)}
    thief, place = stolen(post.store, who), {"Bucket": post.bucket, "Key": f"db/{CHUNK}"}

    # Deleted, with and without a word about governance.
    for bypass in (False, True):
        with pytest.raises(ClientError, match="AccessDenied"):
            thief.delete_object(**place, VersionId=original.version, BypassGovernanceRetention=bypass)
    # Locked for less.
    soon = datetime.now(UTC) + timedelta(seconds=1)
    for mode in ("COMPLIANCE", "GOVERNANCE"):
        with pytest.raises(ClientError, match="AccessDenied"):
            thief.put_object_retention(
                **place, VersionId=original.version, Retention={"Mode": mode, "RetainUntilDate": soon}
            )
    # Covered by another, then by a marker.
    thief.put_object(**place, Body=b"ransom", ChecksumSHA256=sha256(b"ransom"))
    assert (await post.call(GetObject(key=CHUNK))).content == b"ransom"
    thief.delete_object(**place)

    listed = (await post.call(ListObjects(prefix=CHUNK))).objects
    assert [each.is_marker for each in listed] == [True, False, False]
    assert listed[-1].version == original.version
    found = await post.call(GetVersion(key=CHUNK, version=listed[-1].version))
    assert found.content == b"the original"
    assert found.locked_until is not None
    assert found.locked_until > (datetime.now(UTC) + timedelta(days=30)).timestamp()


@pytest.mark.skipif(os.geteuid() != 0, reason="the agent is root, and gives files away")
async def test_a_whole_backup_survives_whoever_has_the_server(post: Post, tmp_path: Path) -> None:
    """BK6, the drill: agent, courier and store. Every object is covered, hidden and asked to be deleted; a restoration gives every
    file as it was, and the same backup read back is whole."""
    scene = Scene(tmp_path / "node")
    scene.backups = scene.new_backups(through=post.client)
    source = scene.timeline()
    data = scene.data(source)
    (data / "base/5/16385").write_bytes(os.urandom(1024**2 + 17))
    (data / "global/pg_control").write_bytes(control_file(checkpoint=CHECKPOINT + 800))
    await scene.back_up(source)
    scene.archive(source, FIRST, FIRST + 1)
    scene.write(source, FIRST + 2, b"the beginning")
    await scene.send_wal(source)
    before = await scene.restore(source)

    post.store.door.rights = {name: set(EVERYTHING) for name in (WRITER, READER)}
    thief = stolen(post.store, WRITER)
    there = thief.list_object_versions(Bucket=post.bucket)["Versions"]
    assert {re.sub(r"^db/(\w+/)(?:[a-z]+-[a-z]+-[0-9]+/)?(\w+)/.*", r"\1\2", each["Key"]) for each in there} == {
        "projects/chunks",
        f"projects/{source}",
        "platform/senders",
    }
    covers = itertools.cycle([b"ransom", b"CLBK1" + bytes(200), b"x" * (OBJECT_BYTES_MAX + 1)])
    for each in there:
        place = {"Bucket": post.bucket, "Key": each["Key"]}
        with pytest.raises(ClientError, match="AccessDenied"):
            thief.delete_object(**place, VersionId=each["VersionId"])
        cover = next(covers)
        thief.put_object(**place, Body=cover, ChecksumSHA256=sha256(cover))
        if cover == b"ransom":
            thief.delete_object(**place)

    scene.backups = scene.new_backups(through=post.client)
    restored = await scene.restore(source)
    laid_before, laid = scene.replays.laid
    assert laid == laid_before
    assert files(scene.data(restored)) == files(scene.data(before))
    assert (await scene.read_back(source)).damaged == []


@pytest.mark.parametrize(
    "cover",
    [
        {"Body": b"x" * (3 * OBJECT_BYTES_MAX)},
        {"Body": b"x", "StorageClass": "GLACIER"},
    ],
    ids=["too long", "archived"],
)
async def test_what_is_put_over_an_object_does_not_hide_it(post: Post, cover: dict[str, Any]) -> None:
    """That the newest version is not given is said of it alone, so that another is asked for."""
    await post.call(PutObject(key=CHUNK, content=b"the original", retain_days=37))
    post.store.client.put_object(Bucket=post.bucket, Key=f"db/{CHUNK}", **cover)
    newest, original = (await post.call(ListObjects(prefix=CHUNK))).objects
    for command in (GetObject(key=CHUNK), GetVersion(key=CHUNK, version=newest.version)):
        with pytest.raises(UnprocessableError):
            await post.call(command)
    # One that only they can have decrypted, in the words of AWS; moto knows of none.
    post.store.door.failures[:] = [400]
    with pytest.raises(UnprocessableError):
        await post.call(GetVersion(key=CHUNK, version=newest.version))
    assert (await post.call(GetVersion(key=CHUNK, version=original.version))).content == b"the original"


async def test_keys_that_somebody_put_between_ours_do_not_break_a_list(post: Post) -> None:
    """As long as they can be, and of characters that XML spells out: a page of them is still read, and the next one asked for."""
    await post.call(PutObject(key=BASE, content=b"sealed", retain_days=37))
    start = f"db/projects/{PROJECT}/"
    for number in range(3):
        name = f"{start}{number}"
        post.store.client.put_object(Bucket=post.bucket, Key=name + '"' * (1024 - len(name)), Body=b"")
    page = await post.call(ListObjects(prefix=f"projects/{PROJECT}/"))
    assert len(page.objects) == 4
    assert 1000 * (1024 * len("&quot;") + 1024) < LISTING_BYTES_MAX
    behind = Place(page.objects[1].key, page.objects[1].version)
    assert len((await post.call(ListObjects(prefix=f"projects/{PROJECT}/", after=behind))).objects) == 2


@pytest.mark.parametrize(
    "key",
    [
        "", "/", "projects", "projects/", "db/projects/x", "/projects/x", "projects/../other/x", "projects/./x", "../projects/x",
        "probes/x", "checkpoints/x", "projects/x?versionId=1", "projects/x#", "projects/x y", "projects/x%2e%2e/y", "projects/\N{LATIN SMALL LETTER E WITH ACUTE}",
        "projects/x\n", "projects/x\0", "projects/" + "x" * 201, "PROJECTS/x", "platform", "platform/../x", "platform\\x",
    ],
)  # fmt: skip
async def test_nothing_outside_of_what_is_ours_is_put_or_asked_for(post: Post, key: str) -> None:
    commands: list[Command[Any]] = [
        PutObject(key=key, content=b"x", retain_days=37),
        GetObject(key=key),
        GetVersion(key=key, version="x"),
        *([] if key == "projects/" else [ListObjects(prefix=key)]),
    ]
    for command in commands:
        with pytest.raises(BadRequestError):
            await post.call(command)
    assert post.asked() == []


async def test_a_list_goes_on_only_within_what_is_listed(post: Post) -> None:
    with pytest.raises(BadRequestError):
        await post.call(ListObjects(prefix="projects/a/", after=Place("projects/b/c")))
    assert post.asked() == []


@pytest.mark.parametrize("caller", [each for each in Service if each is not Service.AGENT])
async def test_nobody_but_root_is_answered(store: Store, monkeypatch: pytest.MonkeyPatch, caller: Service) -> None:
    """Not the API, and not a process of the courier's own user."""
    async with a_post(store, monkeypatch, caller=caller) as post:
        post.say()
        post.asked()
        with pytest.raises(UnavailableError):
            await post.call(GetObject(key=CHUNK))
        assert post.asked() == []
        assert post.socket.stat().st_mode & 0o777 == 0o600

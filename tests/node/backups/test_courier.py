"""The courier between the agent and a store: what it puts, gets and lists, as whom, and what it does when the store does not."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cloister.base.errors import (
    BadRequestError,
    NotFoundError,
    PreconditionError,
    UnavailableError,
    UnprocessableError,
)
from cloister.base.rpc import Command
from cloister.base.rpc.wire import LENGTH, Reply, Request, frame
from cloister.node.backups import courier
from cloister.node.backups.commands import (
    GetObject,
    GetVersion,
    ListObjects,
    LookAtStore,
    NameStore,
    ObjectInfo,
    Place,
    ProbeStore,
    PutObject,
)
from cloister.node.backups.courier import PAUSES_S
from cloister.protocol.backups import keys
from cloister.protocol.backups.keys import WalName
from cloister.protocol.backups.sealing import OBJECT_BYTES_MAX
from cloister.trust.sending.https import Answer
from tests.node.backups.post import PROJECT, Post, a_post
from tests.trust.sending.store import READER, RIGHTS, WRITER, Store, a_store
from tests.trust.sentinel.receiver import make_certificate

TIMELINE = "0" * 32
BEGINNING = keys.wal_object(PROJECT, TIMELINE, WalName("0" * 24, "0" * 24, 4096))
CHUNK = keys.chunk(PROJECT, "ab" * 32)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    certificate = tmp_path_factory.mktemp("store") / "both.pem"
    make_certificate(certificate)
    with a_store(certificate) as store:
        yield store


@pytest.fixture
async def post(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Post]:
    store.door.rights = {name: set(may) for name, may in RIGHTS.items()}
    store.door.failures.clear()
    monkeypatch.setattr(courier, "PAUSES_S", (0.0,) * len(PAUSES_S))
    async with a_post(store, monkeypatch) as post:
        post.bucket = f"b-{tmp_path.name.replace('_', '-')[-40:].strip('-')}"
        store.make(post.bucket)
        post.say()
        post.asked()
        yield post


async def put(post: Post, key: str, content: bytes = b"sealed", days: int = 37) -> None:
    await post.call(PutObject(key=key, content=content, retain_days=days))


async def listed(post: Post, prefix: str) -> list[ObjectInfo]:
    found, after = [], None
    while True:
        page = await post.call(ListObjects(prefix=prefix, after=after))
        found += page.objects
        if (after := page.after) is None:
            return found


async def test_what_is_put_comes_back_and_is_locked_and_encrypted_there(post: Post) -> None:
    """A key with a plus in it, too."""
    content = bytes(range(256)) * 4096
    await put(post, BEGINNING, content)
    got = await post.call(GetObject(key=BEGINNING))
    assert got.content == content
    there = post.store.client.get_object(Bucket=post.bucket, Key=f"db/{BEGINNING}")
    assert there["VersionId"] == got.version
    assert (there["ObjectLockMode"], there["ServerSideEncryption"]) == ("COMPLIANCE", "AES256")
    days = there["ObjectLockRetainUntilDate"] - datetime.now(UTC)
    assert timedelta(days=36, hours=23) < days <= timedelta(days=37)
    assert got.locked_until == there["ObjectLockRetainUntilDate"].timestamp()


async def test_the_writer_only_puts_and_the_reader_never_does(post: Post) -> None:
    """Each with the rights that docs/backups.md gives it, and no request of one in the other's name."""
    await put(post, CHUNK)
    await post.call(GetObject(key=CHUNK))
    (info,) = await listed(post, "projects/")
    await post.call(GetVersion(key=CHUNK, version=info.version))
    asked = post.asked()
    assert {what for who, what in asked if who == WRITER} == {"put"}
    assert {what for who, what in asked if who == READER} == {"get", "list", "look"}


async def test_every_version_is_listed_and_given_whatever_was_put_over_it(post: Post) -> None:
    await put(post, CHUNK, b"the first")
    await put(post, CHUNK, b"the second")
    post.store.client.delete_object(Bucket=post.bucket, Key=f"db/{CHUNK}")
    with pytest.raises(NotFoundError):
        await post.call(GetObject(key=CHUNK))
    marker, second, first = await listed(post, f"projects/{PROJECT}/chunks/")
    assert [marker.is_marker, second.is_marker, first.is_marker] == [True, False, False]
    assert {marker.key, second.key, first.key} == {CHUNK}
    assert (await post.call(GetVersion(key=CHUNK, version=first.version))).content == b"the first"
    assert (await post.call(GetVersion(key=CHUNK, version=second.version))).content == b"the second"
    with pytest.raises(NotFoundError):
        await post.call(GetVersion(key=CHUNK, version=marker.version))
    assert abs(first.put_at - datetime.now(UTC).timestamp()) < 60


async def test_a_long_list_comes_by_pages_without_a_gap(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page may end between two versions of one key, and at a key that is none of ours."""
    wanted = [keys.chunk(PROJECT, f"{number:064x}") for number in range(5)]
    for key in wanted:
        await put(post, key)
        await put(post, key)
    stranger = f"db/projects/{PROJECT}/chunks/00/~ not one of ours"
    post.store.client.put_object(Bucket=post.bucket, Key=stranger, Body=b"x")
    monkeypatch.setattr("cloister.trust.sending.s3.PAGE_KEYS", 3)
    found = await listed(post, f"projects/{PROJECT}/chunks/")
    assert [each.key for each in found] == [
        *(key for key in wanted for _ in range(2)),
        stranger.removeprefix("db/"),
    ]
    assert len({each.version for each in found}) == 11
    page = await post.call(ListObjects(prefix="projects/", after=Place(wanted[3])))
    assert [each.key for each in page.objects][:2] == [wanted[4]] * 2


async def test_what_is_not_there_is_not_found(post: Post) -> None:
    with pytest.raises(NotFoundError):
        await post.call(GetObject(key=CHUNK))
    with pytest.raises((NotFoundError, UnavailableError)):
        await post.call(GetVersion(key=CHUNK, version="no-such-version"))


async def test_more_than_an_object_of_ours_is_not_taken_and_not_given(post: Post) -> None:
    await put(post, CHUNK, b"x" * OBJECT_BYTES_MAX)
    assert len((await post.call(GetObject(key=CHUNK))).content) == OBJECT_BYTES_MAX
    for content in (b"", b"x" * (OBJECT_BYTES_MAX + 1)):
        with pytest.raises(BadRequestError):
            await put(post, CHUNK, content)
    post.store.client.put_object(Bucket=post.bucket, Key=f"db/{CHUNK}", Body=b"x" * (OBJECT_BYTES_MAX + 1))
    with pytest.raises(UnprocessableError):
        await post.call(GetObject(key=CHUNK))


async def test_a_store_that_stumbles_is_asked_again(post: Post) -> None:
    post.store.door.failures[:] = [503, 500, 429]
    await put(post, CHUNK)
    assert (await post.call(GetObject(key=CHUNK))).content == b"sealed"


async def test_a_store_that_stays_away_is_told_and_so_is_one_that_refuses(post: Post) -> None:
    """After four attempts; a refusal, which asking again does not change, after one."""
    await put(post, CHUNK)
    post.asked()
    post.store.door.failures[:] = [503] * 9
    with pytest.raises(UnavailableError) as away:
        await put(post, CHUNK)
    assert "answered 503" in away.value.public
    assert len(post.asked()) == len(PAUSES_S) + 1
    post.store.door.failures.clear()
    post.store.door.rights[WRITER] = set()
    with pytest.raises(UnavailableError) as refused:
        await put(post, CHUNK)
    assert refused.value.public == f"s3://{post.bucket}/db/ answered 403 AccessDenied: no"
    assert len(post.asked()) == 1


async def test_a_store_that_hangs_is_given_up(post: Post, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(courier, "ATTEMPT_TIMEOUT_S", 0.05)
    monkeypatch.setattr(courier, "PAUSES_S", ())
    make_certificate(tmp_path / "both.pem")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "both.pem")
    gone = asyncio.Event()

    async def hang(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gone.wait()
        writer.close()

    async with await asyncio.start_server(hang, "127.0.0.1", 0, ssl=tls) as server:
        port = server.sockets[0].getsockname()[1]
        post.say(endpoint=f"https://127.0.0.1:{port}", ca_file=str(tmp_path / "both.pem"))
        with pytest.raises(UnavailableError) as error:
            await post.call(GetObject(key=CHUNK))
        assert error.value.public.endswith("did not answer in time")
        gone.set()


async def test_another_store_holds_from_the_next_call_on_and_without_one_nothing_is_done(post: Post) -> None:
    await put(post, CHUNK)
    before = await post.call(NameStore())
    post.say(prefix="elsewhere/")
    assert await post.call(NameStore()) != before
    with pytest.raises(NotFoundError):
        await post.call(GetObject(key=CHUNK))
    await put(post, CHUNK)
    assert post.store.client.head_object(Bucket=post.bucket, Key=f"elsewhere/{CHUNK}")
    post.file.write_text('{"bucket": 1}')
    with pytest.raises(PreconditionError, match=r"store\.json"):
        await post.call(GetObject(key=CHUNK))
    post.file.unlink()
    commands: list[Command[Any]] = [GetObject(key=CHUNK), LookAtStore(), ProbeStore(), NameStore()]
    for command in commands:
        with pytest.raises(PreconditionError, match="no store"):
            await post.call(command)


async def test_no_more_requests_at_a_time_than_were_meant(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many calls there are: what has come back waits in memory."""
    under_way = most = 0

    async def get(*_args: object, **_options: object) -> object:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.01)
        under_way -= 1
        raise UnavailableError(public="no")

    monkeypatch.setattr(courier, "PAUSES_S", ())
    monkeypatch.setattr("cloister.trust.sending.s3.Bucket.get", get)
    await asyncio.gather(*(post.call(GetObject(key=CHUNK)) for _ in range(12)), return_exceptions=True)
    assert most == courier.REQUESTS_MAX


async def test_whoever_reads_slowly_gets_every_answer(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    """And is not cut off as somebody who never reads: an agent that is busy for a moment has many calls under way."""

    async def get(*_args: object, **_options: object) -> Answer:
        return Answer(200, {}, b"x" * OBJECT_BYTES_MAX)

    monkeypatch.setattr("cloister.trust.sending.s3.Bucket.get", get)
    reader, writer = await asyncio.open_unix_connection(str(post.socket))
    for number in range(1, 13):
        asked = msgspec.msgpack.encode(GetObject(key=CHUNK))
        writer.write(frame(msgspec.msgpack.encode(Request(number, msgspec.Raw(asked)))))
    for _ in range(50):
        await asyncio.sleep(0.001)  # so that all of them could have been answered
    seen = set()
    for _ in range(12):
        (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
        seen.add(msgspec.msgpack.decode(await reader.readexactly(length), type=Reply).id)
    assert seen == set(range(1, 13))
    writer.close()


async def test_a_look_says_what_the_store_is_and_leaves_nothing(post: Post) -> None:
    facts = await post.call(LookAtStore())
    assert (facts.name, facts.problem, facts.too_much) == (post.bucket, "", [])
    assert (facts.has_versions, facts.has_lock, facts.can_put, facts.can_get) == (True, True, True, True)
    assert facts.kept_days is None
    assert "Versions" not in post.store.client.list_object_versions(Bucket=post.bucket)
    rule = {
        "ID": "cloister", "Status": "Enabled", "Filter": {"Prefix": "db/"},
        "Expiration": {"Days": 38}, "NoncurrentVersionExpiration": {"NoncurrentDays": 1},
    }  # fmt: skip
    post.store.client.put_bucket_lifecycle_configuration(
        Bucket=post.bucket, LifecycleConfiguration={"Rules": [rule | {"Status": "Disabled"}]}
    )
    assert (await post.call(LookAtStore())).kept_days is None
    post.store.client.put_bucket_lifecycle_configuration(Bucket=post.bucket, LifecycleConfiguration={"Rules": [rule]})
    assert (await post.call(LookAtStore())).kept_days == 39


async def test_what_a_credential_can_too_much_is_found_by_doing_it(post: Post) -> None:
    """And what it cannot, all-powerful as it is: take away the probe before its day."""
    assert (await post.call(ProbeStore())).warnings == []
    for may in post.store.door.rights.values():
        may |= {"put", "get", "list", "look", "delete", "retain"}
    probed = await post.call(ProbeStore())
    assert probed.problems == []
    assert probed.is_encrypted
    assert [each.partition(":")[0] for each in probed.warnings] == [
        "the writer's credentials can read",
        "the writer's credentials can list what is there",
        "the reader's credentials can write",
        "the writer's credentials can hide objects behind a marker",
        "the reader's credentials can hide objects behind a marker",
    ]
    assert probed.facts.too_much == [
        "the writer's credentials can list what is there",
        "the writer's credentials can delete versions that are not locked",
    ]
    assert probed.locked_until is not None
    left = datetime.fromtimestamp(probed.locked_until, UTC) - datetime.now(UTC)
    assert timedelta(hours=23) < left < timedelta(hours=25)
    versions = post.store.client.list_object_versions(Bucket=post.bucket, Prefix=probed.key)["Versions"]
    assert probed.key in [each["Key"] for each in versions]


@pytest.mark.parametrize(
    ("who", "problem"),
    [(WRITER, "the writer's credentials may not put"), (READER, "the reader's credentials may not list and get")],
)
async def test_what_a_credential_lacks_is_said(post: Post, who: str, problem: str) -> None:
    post.store.door.rights[who] = {"look"}
    facts = await post.call(LookAtStore())
    assert problem in facts.problem
    probed = await post.call(ProbeStore())
    assert problem in "; ".join(probed.problems)
    assert probed.locked_until is None


async def test_where_the_writer_may_put_nothing_all_that_is_there_comes_back(post: Post) -> None:
    """So that a way back is tried on another machine which does not send, into what another one lives of."""
    await put(post, CHUNK)
    post.store.door.rights[WRITER] = set()
    assert [it.key for it in await listed(post, "projects/")] == [CHUNK]
    assert (await post.call(GetObject(key=CHUNK))).content == b"sealed"
    facts = await post.call(LookAtStore())
    assert (facts.has_lock, facts.has_versions, facts.can_get, facts.can_put) == (True, True, True, False)
    with pytest.raises(UnavailableError):
        await put(post, BEGINNING)

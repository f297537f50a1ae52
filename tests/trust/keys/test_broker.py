"""The broker answers those it knows with what they may have, and records first."""

import asyncio
import contextlib
import hashlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from uuid import UUID

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from cloister.base import trials
from cloister.base.database import Database
from cloister.base.errors import (
    BadRequestError,
    ConflictError,
    ForbiddenError,
    InternalError,
    NotFoundError,
    PreconditionError,
    UnavailableError,
)
from cloister.base.identities import Service
from cloister.base.rpc import Peer
from cloister.base.rpc.wire import LENGTH, Reply, Request, frame
from cloister.protocol.merkle.notes import VerifierKey
from cloister.protocol.merkle.tree import Tree, consistency_proof
from cloister.trust.audit.reader import Recorded, events
from cloister.trust.keys.broker import MAY, REQUEST_BYTES_MAX, KeyBroker
from cloister.trust.keys.client import KeyClient
from cloister.trust.keys.commands import BACKUP, AnyCommand, ListKeys, OnBehalf, RecordingEnvelope
from cloister.trust.keys.envelopes import Envelopes
from cloister.trust.keys.notary import Notary
from cloister.trust.keys.providers import FileProvider, create_root_key
from cloister.trust.keys.roots import Roots
from tests.fix_database import DatabaseAs
from tests.trust.keys.rig import Rig, shows

PROJECT = "calm-forest-12345678"
OTHER = "calm-forest-87654321"
RECORDING = UUID(int=7)
ALICE = OnBehalf(actor="user:alice", address="192.0.2.7", request_id="r-1")


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[FileProvider]:
    create_root_key(tmp_path / "root.key", uid=os.geteuid(), gid=os.getegid())
    provider = FileProvider(tmp_path / "root.key")
    yield provider
    provider.close()


@pytest.fixture
async def database(database_as: DatabaseAs) -> Database:
    return await database_as("cloister_keys")


class Caller:
    """Who the kernel will say is calling."""

    def __init__(self) -> None:
        self.service: Service | None = Service.API
        self.pid = os.getpid()

    def peer_of(self, _: socket.socket) -> Peer:
        return Peer(self.pid, 12345, self.service)


@pytest.fixture
def caller() -> Caller:
    return Caller()


@pytest.fixture
async def client(
    database: Database, provider: FileProvider, tmp_path: Path, caller: Caller
) -> AsyncIterator[KeyClient]:
    keeper = Rig(tmp_path, database).keeper(provider)
    notary = Notary(Roots(provider), tmp_path)
    broker = KeyBroker(database, keeper, tmp_path / "keys.sock", notary, peer_of=caller.peer_of)
    await broker.start()
    yield KeyClient(tmp_path / "keys.sock")
    await broker.stop()
    assert not (tmp_path / "keys.sock").exists()


@pytest.fixture
def recorded(database_as: DatabaseAs) -> Callable[[], object]:
    """Read as the API does: the broker's role may append, and not look."""

    async def read() -> list[Recorded]:
        reading = await database_as("cloister_api")
        async with reading.reading() as tx:
            return await events(tx)

    return read


@pytest.fixture
def as_agent(caller: Caller, client: KeyClient) -> Callable[..., object]:
    async def unwrap(project_id: str = PROJECT, purpose: str = "volume") -> bytes:
        caller.service = Service.AGENT
        descriptor = await client.unwrap(project_id, "open", purpose)
        try:
            return os.pread(descriptor, 100, 0)
        finally:
            os.close(descriptor)

    return unwrap


async def test_a_key_is_created_once_and_unwrapped_as_often_as_asked(client, as_agent, recorded) -> None:  # type: ignore[no-untyped-def]
    created = await client.create(PROJECT)
    assert (created.project_id, created.purpose, created.version, created.state) == (PROJECT, "volume", 1, "enabled")
    assert await client.create(PROJECT) == created, "twice is once"
    keys = [await as_agent() for _ in range(3)]
    assert len(set(keys)) == 1
    assert len(keys[0]) == 64
    assert len(bytes.fromhex(keys[0].decode())) == 32
    assert keys[0] == keys[0].lower()
    log = list(reversed(await recorded()))
    assert [entry.event.action for entry in log] == [*["key.create"] * 2, *["key.unwrap"] * 3]
    unwrap = log[2].event
    assert (unwrap.actor, unwrap.project_id, unwrap.resource) == ("platform:agent", PROJECT, "volume/1")
    assert (unwrap.reason, unwrap.outcome) == ("open", "ok")
    assert not any(shows(str(entry).encode(), bytes.fromhex(keys[0].decode())) for entry in log)


async def test_projects_and_purposes_have_keys_of_their_own(client, as_agent, caller) -> None:  # type: ignore[no-untyped-def]
    for project, purpose in ((PROJECT, "volume"), (PROJECT, "backup"), (OTHER, "volume")):
        caller.service = Service.API
        await client.create(project, purpose)
    assert len({await as_agent(PROJECT), await as_agent(PROJECT, "backup"), await as_agent(OTHER)}) == 3


async def test_destroyed_is_for_good(client, as_agent, caller, database, recorded) -> None:  # type: ignore[no-untyped-def]
    await client.create(PROJECT)
    await client.create(PROJECT, "backup")
    assert await client.destroy(PROJECT) == 3, "and the project's own key"
    assert await client.destroy(PROJECT) == 0, "twice is once"
    with pytest.raises(ConflictError, match="destroyed"):
        await client.create(PROJECT)
    assert [key.state for key in await client.list(PROJECT)] == ["destroyed"] * 3
    with pytest.raises(PreconditionError, match="destroyed"):
        await as_agent()
    async with database.reading() as tx:
        assert await tx.fetch_value("SELECT count(wrapped) FROM wrapped_key") == 0
    newest = (await recorded())[0].event
    assert (newest.action, newest.outcome) == ("key.unwrap", "denied"), "an attempt is recorded too"


async def test_a_disabled_key_is_refused_and_said_to_be(client, as_agent) -> None:  # type: ignore[no-untyped-def]
    await client.create(PROJECT)
    await client.change(PROJECT, "disable", ALICE)
    with pytest.raises(PreconditionError, match="the key of this project is disabled"):
        await as_agent()


async def test_a_project_without_a_key(as_agent) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(NotFoundError):
        await as_agent()


async def test_keys_are_listed_without_their_wrapped_form(client) -> None:  # type: ignore[no-untyped-def]
    await client.create(PROJECT)
    await client.create(OTHER)
    assert [(key.project_id, key.purpose) for key in await client.list()] == [
        (project, purpose) for project in (PROJECT, OTHER) for purpose in ("project", "volume")
    ]
    assert {key.project_id for key in await client.list(OTHER)} == {OTHER}


async def test_many_creations_at_once_make_one_key(client) -> None:  # type: ignore[no-untyped-def]
    made = await asyncio.gather(*(client.create(PROJECT) for _ in range(8)))
    assert all(info == made[0] for info in made)
    assert [key.purpose for key in await client.list()] == ["project", "volume"]


async def test_many_unwraps_at_once(client, as_agent) -> None:  # type: ignore[no-untyped-def]
    await client.create(PROJECT)
    digests = {hashlib.sha256(key).digest() for key in await asyncio.gather(*(as_agent() for _ in range(20)))}
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("project", "purpose"),
    [
        ("../etc", "volume"),
        (PROJECT + "\n", "volume"),
        (PROJECT, ""),
        (PROJECT, "a/b"),
        (PROJECT, "x" * 65),
        (PROJECT, "é"),
        (PROJECT, "project"),
    ],
)
async def test_names_are_parsed_at_the_door(client, as_agent, project: str, purpose: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(BadRequestError):
        await client.create(project, purpose)
    with pytest.raises(BadRequestError):
        await as_agent(project, purpose)


def test_every_command_has_one_caller() -> None:
    assert set(MAY) == set(AnyCommand.__args__)


async def test_a_key_of_another_root_key_is_recognised(client, as_agent, database, recorded) -> None:  # type: ignore[no-untyped-def]
    await client.create(PROJECT)
    async with database.transaction() as tx:
        await tx.execute("UPDATE wrapped_key SET root_version = 'another' WHERE purpose = 'project'")
    with pytest.raises(PreconditionError, match="wrapped by root key file/another"):
        await as_agent()
    failed, attempt = (entry.event for entry in (await recorded())[:2])
    assert (attempt.outcome, failed.outcome) == ("ok", "failed")


async def test_a_broker_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError):
        await KeyClient(tmp_path / "nobody.sock", connect_patience_s=0).list()


async def test_a_broker_that_is_restarted_is_waited_for(  # type: ignore[no-untyped-def]
    database: Database, provider: FileProvider, tmp_path: Path, caller
) -> None:
    asking = asyncio.create_task(KeyClient(tmp_path / "late.sock").list())
    await asyncio.sleep(0)  # it has tried once and found nobody
    keeper = Rig(tmp_path, database).keeper(provider)
    notary = Notary(Roots(provider), tmp_path)
    broker = KeyBroker(database, keeper, tmp_path / "late.sock", notary, peer_of=caller.peer_of)
    await broker.start()
    assert await asking == []
    await broker.stop()


async def raw(path: Path, data: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(data)
    writer.write_eof()
    try:
        return await asyncio.wait_for(reader.read(), 5)
    except ConnectionResetError:
        return b""
    finally:
        writer.close()
        with contextlib.suppress(ConnectionResetError):  # it was closed before all of `data` was read
            await writer.wait_closed()


GARBAGE = {
    "nothing": b"",
    "half a length": b"\0",
    "ones": b"\xff" * 100,
    "a long frame": LENGTH.pack(REQUEST_BYTES_MAX + 1),
    "no MessagePack": frame(b"\xc1"),
    "an empty frame": frame(b""),
    "HTTP": b"GET / HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE)
async def test_garbage_ends_the_connection_and_nothing_else(client, tmp_path: Path, data: bytes) -> None:  # type: ignore[no-untyped-def]
    assert await raw(tmp_path / "keys.sock", data) == b""
    assert await client.list() == []


async def test_a_frame_may_arrive_cut_anywhere(client, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    await client.create(PROJECT)
    message = frame(msgspec.msgpack.encode(Request(7, msgspec.Raw(msgspec.msgpack.encode(ListKeys())))))
    reader, writer = await asyncio.open_unix_connection(tmp_path / "keys.sock")
    for byte in message:
        writer.write(bytes([byte]))
        await writer.drain()
    (length,) = struct.unpack(">I", await reader.readexactly(4))
    reply = msgspec.msgpack.decode(await reader.readexactly(length), type=Reply)
    assert reply.id == 7
    assert reply.failure is None
    writer.close()
    await writer.wait_closed()


async def test_an_unknown_command_is_answered_so(client, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    body = msgspec.Raw(msgspec.msgpack.encode({"type": "ExportKey", "project_id": PROJECT}))
    answer = await raw(tmp_path / "keys.sock", frame(msgspec.msgpack.encode(Request(1, body))))
    failure = msgspec.msgpack.decode(answer[4:], type=Reply).failure
    assert failure is not None
    assert isinstance(failure.error(), BadRequestError)


async def test_an_unwrap_that_cannot_be_recorded_is_refused(  # type: ignore[no-untyped-def]
    client, as_agent, database_as: DatabaseAs, monkeypatch: pytest.MonkeyPatch, caller
) -> None:
    await client.create(PROJECT)
    opened: list[object] = []
    monkeypatch.setattr(Envelopes, "open_into", lambda *arguments: opened.append(arguments))
    superuser = await database_as("postgres")
    async with superuser.transaction() as tx:
        await tx.execute("REVOKE EXECUTE ON FUNCTION audit_append(text[], text[]) FROM cloister_keys")
    with pytest.raises(InternalError):
        await as_agent()
    assert opened == [], "it was not even taken out of its envelope"


async def test_who_may_not_is_refused_and_recorded(client, caller, recorded) -> None:  # type: ignore[no-untyped-def]
    await client.create(PROJECT)
    with pytest.raises(ForbiddenError):
        await client.unwrap(PROJECT, "open")
    event = (await recorded())[0].event
    assert (event.action, event.actor, event.outcome) == ("key.denied", "platform:api", "denied")
    assert (event.project_id, event.details["command"]) == (PROJECT, "UnwrapKey")
    caller.service = Service.AGENT
    for attempt in (client.create(OTHER), client.destroy(PROJECT), client.list()):
        with pytest.raises(ForbiddenError):
            await attempt
    refused = [entry.event.details["command"] for entry in await recorded() if entry.event.action == "key.denied"]
    assert refused == ["ListKeys", "DestroyKeys", "CreateKey", "UnwrapKey"], "each one, not one in a while"
    for stranger in (Service.GATEWAY, Service.DATABASE, Service.KEYS, None):
        caller.service = stranger
        with pytest.raises(UnavailableError):
            await client.unwrap(PROJECT, "open")


async def test_what_root_tries_as_everybody_is_no_event_and_what_others_ask_meanwhile_is(  # type: ignore[no-untyped-def]
    client, caller, recorded, tmp_path
) -> None:
    """Nor is a service of ours that may call, and asks for what it may not, ever part of a trial."""
    caller.service = Service.GATEWAY
    with trials.trying(tmp_path / "keys.sock", os.geteuid()) as announce:
        announce(caller.pid)
        with pytest.raises(UnavailableError):
            await client.list()
        caller.service, caller.pid = Service.DATABASE, caller.pid + 1
        with pytest.raises(UnavailableError):
            await client.list()
        caller.service, caller.pid = Service.AGENT, caller.pid - 1
        with pytest.raises(ForbiddenError):
            await client.list()
    denied = [entry.event for entry in await recorded() if entry.event.action == "key.denied"]
    assert [event.actor for event in reversed(denied)] == ["platform:database", "platform:agent"]


async def test_the_agent_alone_has_a_backup_key_and_for_a_recorded_reason(client, caller, recorded) -> None:  # type: ignore[no-untyped-def]
    await client.create(PROJECT, BACKUP)
    with pytest.raises(ForbiddenError):
        await client.backup_key(PROJECT, "restore")
    caller.service = Service.AGENT
    material, page = await client.backup_key(PROJECT, "back_up")
    with page:
        descriptor = await client.unwrap(PROJECT, "read_back", BACKUP, material=material)
        assert bytes(page.buffer).hex().encode() == os.pread(descriptor, 100, 0)
        os.close(descriptor)
    uses = [it.event for it in reversed(await recorded()) if it.event.action == "key.unwrap"]
    assert [(it.resource, it.reason, it.outcome) for it in uses] == [
        ("backup/1", "back_up", "ok"),
        ("backup/1", "read_back", "ok"),
    ]


async def test_the_agent_alone_has_the_key_of_dumps(client, caller, recorded) -> None:  # type: ignore[no-untyped-def]
    for service in (Service.API, Service.SENTINEL, None):
        caller.service = service
        with pytest.raises((ForbiddenError, UnavailableError)):
            await client.dump_key("back_up")
    caller.service = Service.AGENT
    info, page = await client.dump_key("back_up")
    with page:
        assert len(bytes(page.buffer)) == 32
        assert not shows(info.envelope, bytes(page.buffer))
    assert (await recorded())[0].event.resource == f"dumps/{info.material}"


async def test_the_api_has_the_key_of_one_recording_and_never_that_of_them_all(client, caller, recorded) -> None:  # type: ignore[no-untyped-def]
    envelope, key = await client.make_recording_key(PROJECT, RECORDING, ALICE)
    assert await client.open_recording_key(PROJECT, RECORDING, envelope, "replay", ALICE) == key
    log = [(it.event.actor, it.event.address, it.event.reason) for it in await recorded()]
    assert log[0] == ("user:alice", "192.0.2.7", "replay")
    assert not any(shows(str(entry).encode(), key) for entry in await recorded())
    with pytest.raises(ForbiddenError):
        await client.unwrap(PROJECT, "replay", "recording")
    with pytest.raises(BadRequestError):
        await client.open_recording_key(PROJECT, "not one", envelope, "replay", ALICE)
    with pytest.raises(BadRequestError):
        await client.open_recording_key(PROJECT, RECORDING, RecordingEnvelope(envelope.wrapped, -1), "replay", ALICE)
    caller.service = Service.AGENT
    for attempt in (
        client.make_recording_key(PROJECT, RECORDING, ALICE),
        client.open_recording_key(PROJECT, RECORDING, envelope, "replay", ALICE),
    ):
        with pytest.raises(ForbiddenError):
            await attempt


async def test_the_api_has_the_keys_of_segments_and_never_that_of_them_all(client, caller, recorded) -> None:  # type: ignore[no-untyped-def]
    public, wrapped = await client.make_statement_key(PROJECT, 1)
    share = X25519PrivateKey.generate().public_key().public_bytes_raw()
    keys = await client.open_statement_keys(PROJECT, 1, wrapped, [share] * 64, ALICE)
    assert (len(public), len(keys), {len(key) for key in keys}) == (32, 64, {32})
    log = [(it.event.actor, it.event.address, it.event.reason) for it in await recorded()]
    assert log[0] == ("user:alice", "192.0.2.7", "read")
    with pytest.raises(ForbiddenError):
        await client.unwrap(PROJECT, "read", "statements")
    with pytest.raises(BadRequestError):
        await client.make_statement_key(PROJECT, 0)
    caller.service = Service.AGENT
    for attempt in (
        client.make_statement_key(PROJECT, 2),
        client.open_statement_keys(PROJECT, 1, wrapped, [share], ALICE),
    ):
        with pytest.raises(ForbiddenError):
            await attempt


async def test_checkpoints_are_signed_for_the_api_if_they_extend_the_last(client, caller, recorded) -> None:  # type: ignore[no-untyped-def]
    leaves = [bytes([number]) * 32 for number in range(9)]
    assert (await client.last_checkpoint()).size == 0
    five, nine = Tree().extended(leaves[:5]), Tree().extended(leaves)
    await client.sign_checkpoint(five, [])
    signed = await client.sign_checkpoint(nine, consistency_proof(five, leaves[5:]))
    assert await client.last_checkpoint() == signed
    assert VerifierKey.parse(signed.key).opened(signed.note).root == nine.root
    with pytest.raises(ConflictError, match="no extension"):
        await client.sign_checkpoint(five, [])
    (refused,) = await recorded()
    assert (refused.event.action, refused.event.actor) == ("key.denied", "platform:api")
    assert refused.event.details["command"].startswith("SignCheckpoint: a tree of 5 events is no extension of the 9")
    caller.service = Service.AGENT
    with pytest.raises(ForbiddenError):
        await client.last_checkpoint()
    with pytest.raises(ForbiddenError):
        await client.sign_checkpoint(five, [])


async def test_the_largest_tree_that_can_be_fits_into_a_request(client) -> None:  # type: ignore[no-untyped-def]
    largest = Tree(2**63 - 1, (bytes(32),) * 63)
    with pytest.raises(ConflictError, match="no extension"):
        await client.sign_checkpoint(largest, [bytes(32)] * 126)

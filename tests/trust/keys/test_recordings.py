"""The keys of recordings stand below their project's: rotated and erased with it, and each opens one recording."""

import os
from pathlib import Path
from typing import Final
from uuid import UUID

import asyncpg
import pytest

from cloister.base.database import Database
from cloister.base.errors import CloisterError, ConflictError, PreconditionError, UnprocessableError
from cloister.trust.audit.events import Event
from cloister.trust.audit.reader import events
from cloister.trust.keys.keeper import Keeper
from cloister.trust.keys.keystore import ErasedError
from cloister.trust.keys.providers.provider import RootKey
from cloister.trust.keys.recordings import RecordingKeys
from tests.fix_database import DatabaseAs
from tests.trust.keys.rig import ALICE, Rig
from tests.trust.keys.test_keeper import dump, put_back

PROJECT: Final = "calm-forest-12345678"
NEIGHBOUR: Final = "calm-forest-87654321"
RECORDING: Final = UUID(int=7)
ANOTHER: Final = UUID(int=8)


@pytest.fixture
async def database(database_as: DatabaseAs) -> Database:
    return await database_as("cloister_keys")


@pytest.fixture
def rig(tmp_path: Path, database: Database) -> Rig:
    return Rig(tmp_path, database)


def taken(descriptor: int) -> bytes:
    try:
        return bytes.fromhex(os.pread(descriptor, 100, 0).decode())
    finally:
        os.close(descriptor)


async def made(keeper: Keeper, project_id: str = PROJECT, recording_id: UUID = RECORDING) -> tuple[bytes, bytes]:
    wrapped, descriptor = await RecordingKeys(keeper).make(project_id, recording_id, ALICE)
    return wrapped, taken(descriptor)


async def opened(keeper: Keeper, wrapped: bytes, project_id: str = PROJECT, recording_id: UUID = RECORDING) -> bytes:
    return taken(await RecordingKeys(keeper).open(project_id, recording_id, wrapped, "replay", ALICE))


async def log(database_as: DatabaseAs) -> list[Event]:
    async with (await database_as("cloister_api")).reading() as tx:
        return [it.event for it in reversed(await events(tx))]


async def test_a_key_opens_its_own_recording_and_each_use_is_recorded(rig: Rig, database_as: DatabaseAs) -> None:
    keeper = rig.keeper()
    wrapped, key = await made(keeper)
    assert len(key) == 32
    assert key not in wrapped
    assert (await made(keeper, recording_id=ANOTHER))[1] != key
    assert await opened(rig.keeper(), wrapped) == key, "after a restart"
    uses = [it for it in await log(database_as) if it.resource == "recording/1" and it.action == "key.unwrap"]
    assert [(it.actor, it.reason, it.details["recording"]) for it in uses] == [
        ("user:alice", "record", str(RECORDING)),
        ("user:alice", "record", str(ANOTHER)),
        ("user:alice", "replay", str(RECORDING)),
    ]


async def test_it_opens_no_other_recording_and_not_when_it_was_changed(rig: Rig, database_as: DatabaseAs) -> None:
    keeper = rig.keeper()
    wrapped, _ = await made(keeper)
    await made(keeper, NEIGHBOUR)
    damaged = bytes([*wrapped[:-1], wrapped[-1] ^ 1])
    for attempt in (
        opened(keeper, wrapped, recording_id=ANOTHER),
        opened(keeper, wrapped, NEIGHBOUR),
        opened(keeper, damaged),
        opened(keeper, b""),
    ):
        with pytest.raises(UnprocessableError):
            await attempt
    tried = [(it.outcome, it.details["recording"]) for it in (await log(database_as))[-2:]]
    assert tried == [("ok", str(RECORDING)), ("failed", str(RECORDING))]


async def test_rotations_and_another_root_touch_no_recording(rig: Rig) -> None:
    keeper = rig.keeper()
    wrapped, key = await made(keeper)
    await keeper.rotations.rotate(PROJECT, ALICE)
    assert {(it.purpose, it.version, it.material) for it in await keeper.list(PROJECT)} == {
        ("project", 1, 1), ("project", 2, 2), ("recording", 1, 1), ("recording", 2, 1),
    }  # fmt: skip
    await rig.keeper(rig.root("second"), rig.root("root")).reconcile()
    assert await opened(rig.keeper(rig.root("second")), wrapped) == key


async def test_a_project_that_is_erased_takes_its_recordings_along_also_out_of_a_backup(rig: Rig) -> None:
    keeper = rig.keeper()
    wrapped, _ = await made(keeper)
    neighbours, key = await made(keeper, NEIGHBOUR)
    rows = await dump(rig.database)
    await keeper.rings.destroy(PROJECT, ALICE)
    with pytest.raises(PreconditionError, match="destroyed"):
        await opened(keeper, wrapped)
    with pytest.raises(ConflictError, match="destroyed"):
        await made(keeper, recording_id=ANOTHER)
    await put_back(rig.database, rows)
    async with rig.database.transaction() as tx:
        await tx.execute("UPDATE key_ring SET state = 'enabled'")
    with pytest.raises(ErasedError):
        await opened(rig.keeper(), wrapped)
    assert await opened(rig.keeper(), neighbours, NEIGHBOUR) == key


async def test_where_keys_are_disabled_nothing_is_recorded_or_replayed(rig: Rig, database_as: DatabaseAs) -> None:
    keeper = rig.keeper()
    wrapped, key = await made(keeper)
    await keeper.rings.change(PROJECT, "disable", 30, "", ALICE)
    for attempt in (opened(keeper, wrapped), made(keeper, recording_id=ANOTHER)):
        with pytest.raises(PreconditionError, match="disabled"):
            await attempt
        assert (await log(database_as))[-1].outcome == "denied"
    await keeper.rings.change(PROJECT, "enable", 30, "", ALICE)
    assert await opened(keeper, wrapped) == key


async def test_a_use_that_cannot_be_recorded_opens_nothing(
    rig: Rig, database_as: DatabaseAs, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = rig.keeper()
    wrapped, _ = await made(keeper)
    used: list[object] = []
    monkeypatch.setattr(RootKey, "unwrap_into", lambda *arguments: used.append(arguments))
    async with (await database_as("postgres")).transaction() as tx:
        await tx.execute("REVOKE EXECUTE ON FUNCTION audit_append(text[]) FROM cloister_keys")
    for attempt in (opened(keeper, wrapped), made(keeper, recording_id=ANOTHER)):
        with pytest.raises((asyncpg.InsufficientPrivilegeError, CloisterError)):
            await attempt
    assert used == []

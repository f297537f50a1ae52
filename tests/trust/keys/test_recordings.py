"""The keys of recordings stand below their project's: rotated and erased with it, and each opens one recording."""

import os
from datetime import timedelta
from pathlib import Path
from typing import Final
from uuid import UUID

import asyncpg
import pytest

from cloister.base.clock import FakeClock
from cloister.base.database import Database
from cloister.base.errors import CloisterError, ConflictError, PreconditionError, UnprocessableError
from cloister.trust.audit.events import Event
from cloister.trust.audit.reader import events
from cloister.trust.keys.commands import RecordingEnvelope
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


async def made(
    keeper: Keeper, project_id: str = PROJECT, recording_id: UUID = RECORDING
) -> tuple[RecordingEnvelope, bytes]:
    wrapped, descriptor = await RecordingKeys(keeper).make(project_id, recording_id, ALICE)
    return wrapped, taken(descriptor)


async def opened(
    keeper: Keeper, wrapped: RecordingEnvelope, project_id: str = PROJECT, recording_id: UUID = RECORDING
) -> bytes:
    return taken(await RecordingKeys(keeper).open(project_id, recording_id, wrapped, "replay", ALICE))


async def log(database_as: DatabaseAs) -> list[Event]:
    async with (await database_as("cloister_api")).reading() as tx:
        return [it.event for it in reversed(await events(tx))]


async def test_a_key_opens_its_own_recording_and_each_use_is_recorded(rig: Rig, database_as: DatabaseAs) -> None:
    keeper = rig.keeper()
    wrapped, key = await made(keeper)
    assert len(key) == 32
    assert key not in wrapped.wrapped
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
    damaged = bytes([*wrapped.wrapped[:-1], wrapped.wrapped[-1] ^ 1])
    for attempt in (
        opened(keeper, wrapped, recording_id=ANOTHER),
        opened(keeper, wrapped, NEIGHBOUR),
        opened(keeper, RecordingEnvelope(damaged, wrapped.seal)),
        opened(keeper, RecordingEnvelope(wrapped.wrapped, None)),
        opened(keeper, RecordingEnvelope(b"", wrapped.seal)),
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
        await tx.execute("REVOKE EXECUTE ON FUNCTION audit_append(text[], text[]) FROM cloister_keys")
    for attempt in (opened(keeper, wrapped), made(keeper, recording_id=ANOTHER)):
        with pytest.raises((asyncpg.InsufficientPrivilegeError, CloisterError)):
            await attempt
    assert used == []


async def ended(owner: Database, seal: int | None, *, is_over: bool = True, project_id: str = PROJECT) -> None:
    """In the control database, as age does it; or one that goes on being kept."""
    async with owner.transaction() as tx:
        await tx.execute("SET LOCAL session_replication_role = replica")  # without everything that a recording is of
        await tx.execute(
            """INSERT INTO recording (id, request_id, project_id, account_id, wrapped_key, erased_at, seal, address, database,
                                      application, session_id, began_at, head)
               SELECT id, id, $1, id, CASE WHEN $2 THEN NULL ELSE '\\x01'::bytea END, CASE WHEN $2 THEN now() END, $3,
                      '', '', '', '', now(), sha256(uuid_send(id))
                 FROM gen_random_uuid() id""",
            project_id,
            is_over,
            seal,
        )


async def test_a_month_whose_recordings_have_ended_does_not_come_back_with_any_backup(
    rig: Rig, database_as: DatabaseAs
) -> None:
    """Threat: yesterday's control database and yesterday's seals. A month of which one is kept stays, and so does this year's."""
    owner, keeper = await database_as("postgres"), rig.keeper()
    assert isinstance(rig.clock, FakeClock)
    over, _ = await made(keeper)
    neighbours, theirs = await made(keeper, NEIGHBOUR)
    rig.clock.advance(timedelta(days=40))
    kept, key = await made(keeper, recording_id=ANOTHER)
    rig.clock.advance(timedelta(days=400))
    young, news = await made(keeper)
    assert len({over.seal, kept.seal, young.seal}) == 3
    seals = (rig.keystore_directory / "seals.json").read_bytes()
    for seal in (over.seal, kept.seal, young.seal):
        await ended(owner, seal)
    await ended(owner, kept.seal, is_over=False)
    await ended(owner, neighbours.seal, is_over=False, project_id=NEIGHBOUR)
    assert await keeper.rings.erase_statements(PROJECT, ALICE) == 1
    await keeper.reconcile()
    for it in (keeper, rig.keeper()):
        with pytest.raises(ErasedError):
            await opened(it, over)
        assert await opened(it, kept, recording_id=ANOTHER) == key
        assert await opened(it, young) == news, "whatever the control database says"
        assert await opened(it, neighbours, NEIGHBOUR) == theirs
    (event,) = [it for it in await log(database_as) if it.action == "key.destroy"]
    assert (event.actor, event.resource, event.project_id) == ("user:alice", f"recordings/{over.seal}", PROJECT)
    (rig.keystore_directory / "seals.json").write_bytes(seals)
    with pytest.raises(PreconditionError, match="destroyed on purpose"):
        rig.keystore()


async def test_a_month_of_recordings_that_was_cut_short_is_completed(rig: Rig, database_as: DatabaseAs) -> None:
    over, _ = await made(rig.keeper())
    await ended(await database_as("postgres"), over.seal)
    assert isinstance(rig.clock, FakeClock)
    rig.clock.advance(timedelta(days=400))
    again = rig.keeper()
    await again.reconcile()
    with pytest.raises(ErasedError):
        await opened(again, over)

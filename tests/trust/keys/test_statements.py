"""The keys of statement logs stand below their project's: rotated and erased with it, and each opens one segment."""

import os
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest

from cloister.base.clock import FakeClock
from cloister.base.database import Database
from cloister.base.directory import StatementRecord
from cloister.base.errors import BadRequestError, ConflictError, PreconditionError, UnprocessableError
from cloister.trust.audit.events import Event
from cloister.trust.audit.reader import events
from cloister.trust.audit.segments import SHARE_BYTES, open_sized, seal
from cloister.trust.keys.keeper import Keeper
from cloister.trust.keys.keystore import ErasedError
from cloister.trust.keys.statements import SHARES_MAX, Pair, StatementKeys
from tests.fix_database import DatabaseAs
from tests.trust.keys.rig import AGENT, ALICE, Rig
from tests.trust.keys.test_keeper import dump, put_back

PROJECT: Final = "calm-forest-12345678"
NEIGHBOUR: Final = "calm-forest-87654321"
SAID: Final = StatementRecord(
    at="2026-01-01T00:00:00.000000Z", session_id="s", project_id=PROJECT, branch_id="b", endpoint_id="e", role="ada",
    database="app", address="192.0.2.1", kind="simple", outcome="done", text="SELECT 'Bob'",
)  # fmt: skip


@pytest.fixture
async def database(database_as: DatabaseAs) -> Database:
    return await database_as("cloister_keys")


@pytest.fixture
async def project_row(database_as: DatabaseAs) -> Database:
    """The database as its owner, with the project in it."""
    owner = await database_as("postgres")
    async with owner.transaction() as tx:
        await tx.execute(
            """INSERT INTO organization (id, name) VALUES ('org-1', 'One');
               INSERT INTO account (id, email, name) VALUES ('00000000-0000-4000-8000-000000000001', 'ada@example.org', 'Ada');
               INSERT INTO volume (project_id, branch_id, timeline_id, uid, pg_version, size_bytes, state)
                 VALUES ('calm-forest-12345678', 'br-1', 'tl-1', 1900000001, 18, 1, 'taken');
               INSERT INTO project (id, org_id, owner_id, name, region_id, pg_version, store_passwords)
                 VALUES ('calm-forest-12345678', 'org-1', '00000000-0000-4000-8000-000000000001', 'x', 'local', 18, false)"""
        )
    return owner


@pytest.fixture
def rig(tmp_path: Path, database: Database) -> Rig:
    return Rig(tmp_path, database)


async def made(keeper: Keeper, project_id: str = PROJECT, generation: int = 1) -> tuple[Pair, bytes]:
    """The pair, and a segment sealed for it."""
    public, wrapped = await StatementKeys(keeper).make(project_id, generation, AGENT)
    return Pair(project_id, generation, wrapped), seal(public, project_id, generation, [SAID])


async def read(keeper: Keeper, pair: Pair, *bodies: bytes) -> list[StatementRecord]:
    shares = [body[:SHARE_BYTES] for body in bodies]
    descriptor = await StatementKeys(keeper).open(pair, shares, "read", ALICE)
    try:
        keys = bytes.fromhex(os.pread(descriptor, 10_000, 0).decode())
    finally:
        os.close(descriptor)
    assert len(keys) == 32 * len(bodies)
    return [
        each for n, body in enumerate(bodies) for each in open_sized(keys[32 * n : 32 * n + 32], body)[0]
    ]  # fmt: skip


async def log(database_as: DatabaseAs) -> list[Event]:
    async with (await database_as("cloister_api")).reading() as tx:
        return [it.event for it in reversed(await events(tx))]


async def test_a_segment_is_read_with_a_key_of_its_own_and_each_use_is_recorded(
    rig: Rig, database_as: DatabaseAs
) -> None:
    pair, body = await made(rig.keeper())
    another = seal((await StatementKeys(rig.keeper()).make(PROJECT, 2, AGENT))[0], PROJECT, 2, [SAID])
    assert await read(rig.keeper(), pair, body) == [SAID], "after a restart"
    with pytest.raises(ConflictError):
        await read(rig.keeper(), pair, another)
    uses = [it for it in await log(database_as) if it.resource == "statements/1" and it.action == "key.unwrap"]
    assert [(it.actor, it.reason, it.details["generation"], it.details.get("segments")) for it in uses] == [
        ("platform:agent", "seal", 1, None),
        ("platform:agent", "seal", 2, None),
        ("user:alice", "read", 1, 1),
        ("user:alice", "read", 1, 1),
    ]


async def test_as_many_segments_as_a_page_has_are_opened_at_once(rig: Rig) -> None:
    pair, body = await made(rig.keeper())
    assert await read(rig.keeper(), pair, *[body] * SHARES_MAX) == [SAID] * SHARES_MAX
    for shares in ([], [body[:SHARE_BYTES]] * (SHARES_MAX + 1), [b"short"]):
        with pytest.raises(BadRequestError):
            await StatementKeys(rig.keeper()).open(pair, shares, "read", ALICE)


async def test_an_envelope_opens_for_its_project_and_generation_only(rig: Rig) -> None:
    keeper = rig.keeper()
    pair, body = await made(keeper)
    await made(keeper, generation=2)
    await made(keeper, NEIGHBOUR)
    damaged = bytes([*pair.wrapped[:-1], pair.wrapped[-1] ^ 1])
    for wrong in (
        Pair(PROJECT, 2, pair.wrapped),
        Pair(NEIGHBOUR, 1, pair.wrapped),
        Pair(PROJECT, 1, damaged),
        Pair(PROJECT, 1, b""),
    ):
        with pytest.raises(UnprocessableError):
            await read(keeper, wrong, body)


async def test_a_share_of_small_order_is_refused(rig: Rig) -> None:
    pair, _ = await made(rig.keeper())
    with pytest.raises(UnprocessableError):
        await read(rig.keeper(), pair, bytes(100))


async def test_rotations_and_another_root_touch_no_segment(rig: Rig) -> None:
    keeper = rig.keeper()
    pair, body = await made(keeper)
    await keeper.rotations.rotate(PROJECT, ALICE)
    await rig.keeper(rig.root("second"), rig.root("root")).reconcile()
    assert await read(rig.keeper(rig.root("second")), pair, body) == [SAID]


async def test_a_project_that_is_erased_takes_its_statements_along_also_out_of_a_backup(rig: Rig) -> None:
    keeper = rig.keeper()
    pair, body = await made(keeper)
    neighbours, theirs = await made(keeper, NEIGHBOUR)
    rows = await dump(rig.database)
    await keeper.rings.destroy(PROJECT, ALICE)
    with pytest.raises(PreconditionError, match="destroyed"):
        await read(keeper, pair, body)
    await put_back(rig.database, rows)
    with pytest.raises(ErasedError):
        await read(rig.keeper(), pair, body)
    assert rig.keystore().project_ids() == {NEIGHBOUR}, "its seals are gone, those of its months too"
    assert await read(rig.keeper(), neighbours, theirs) == [SAID]


async def erased(owner: Database, *generations: int, project_id: str = PROJECT) -> None:
    """In the control database, as two people's word does it."""
    async with owner.transaction() as tx:
        for generation in generations:
            await tx.execute(
                """INSERT INTO statement_key (project_id, generation, public, erased_at)
                   VALUES ($1, $2, decode(repeat('00', 32), 'hex'), now())""",
                project_id,
                generation,
            )


async def test_an_erased_month_does_not_come_back_with_any_backup_and_the_others_stay(
    rig: Rig, database_as: DatabaseAs, project_row: Database
) -> None:
    """Threat: yesterday's control database and yesterday's seals, put back after the erasure of today."""
    keeper = rig.keeper()
    (first, body), (second, later) = await made(keeper), await made(keeper, generation=2)
    neighbours, theirs = await made(keeper, NEIGHBOUR)
    seals = (rig.keystore_directory / "seals.json").read_bytes()
    await erased(project_row, 1)
    assert await keeper.rings.erase_statements(PROJECT, ALICE) == 1
    assert await keeper.rings.erase_statements(PROJECT, ALICE) == 0, "twice is once"
    for it in (keeper, rig.keeper()):
        with pytest.raises(ErasedError):  # the envelope is as it was yesterday
            await read(it, first, body)
        assert await read(it, second, later) == [SAID]
        assert await read(it, neighbours, theirs) == [SAID]
    (event,) = [it for it in await log(database_as) if it.action == "key.destroy"]
    assert (event.actor, event.resource, event.project_id) == ("user:alice", "statement_key/1", PROJECT)
    (rig.keystore_directory / "seals.json").write_bytes(seals)
    with pytest.raises(PreconditionError, match="destroyed on purpose"):
        rig.keystore()


async def test_an_erasure_that_was_cut_short_is_completed(rig: Rig, project_row: Database) -> None:
    pair, body = await made(rig.keeper())
    await erased(project_row, 1)
    again = rig.keeper()
    await again.reconcile()
    with pytest.raises(ErasedError):
        await read(again, pair, body)


async def test_a_destruction_that_was_scheduled_gives_way_to_a_legal_hold(
    rig: Rig, database_as: DatabaseAs, project_row: Database
) -> None:
    """On its day the keys are disabled, and the log says why they are still there. So is the record."""
    keeper = rig.keeper()
    pair, body = await made(keeper)
    await keeper.rings.change(PROJECT, "destroy", 7, "", ALICE)
    async with project_row.transaction() as tx:
        await tx.execute(
            """INSERT INTO audit_hold (id, project_id, reason, placed_by)
               SELECT gen_random_uuid(), $1, 'matter 17', id FROM account""",
            PROJECT,
        )
    assert isinstance(rig.clock, FakeClock)
    rig.clock.advance(timedelta(days=8))
    await keeper.reconcile()
    (event,) = [it for it in await log(database_as) if it.action == "key.destroy"]
    assert (event.outcome, "legal hold" in str(event.details["error"])) == ("failed", True)
    assert (await keeper.rings.info(PROJECT)).state == "disabled"
    for destroying in (keeper.rings.destroy(PROJECT, ALICE), keeper.rings.change(PROJECT, "destroy", 7, "", ALICE)):
        with pytest.raises(UnprocessableError, match="legal hold"):
            await destroying
    await keeper.rings.change(PROJECT, "enable", 0, "", ALICE)
    assert await read(rig.keeper(), pair, body) == [SAID]


async def test_no_seal_of_a_month_is_taken_that_was_not_erased(rig: Rig, project_row: Database) -> None:
    """Threat: the API's process asks the broker to."""
    keeper = rig.keeper()
    pair, body = await made(keeper)
    await erased(project_row, 2)
    assert await keeper.rings.erase_statements(PROJECT, ALICE) == 0
    assert await read(keeper, pair, body) == [SAID]


async def test_where_keys_are_disabled_nothing_is_read(rig: Rig, database_as: DatabaseAs) -> None:
    keeper = rig.keeper()
    pair, body = await made(keeper)
    await keeper.rings.change(PROJECT, "disable", 30, "", ALICE)
    for attempt in (read(keeper, pair, body), made(keeper, generation=2)):
        with pytest.raises(PreconditionError, match="disabled"):
            await attempt
    assert (await log(database_as))[-1].outcome == "denied"
    await keeper.rings.change(PROJECT, "enable", 30, "", ALICE)
    assert await read(keeper, pair, body) == [SAID]

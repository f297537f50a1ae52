"""The keys of statement logs stand below their project's: rotated and erased with it, and each opens one segment."""

import os
from pathlib import Path
from typing import Final

import pytest

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

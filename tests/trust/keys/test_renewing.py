"""A further key for a project's volume, and the end of the one it had."""

from pathlib import Path
from typing import Any

import asyncpg
import pytest

from cloister.base.database import Database
from cloister.base.errors import ConflictError, PreconditionError, UnprocessableError
from cloister.trust.keys.keeper import Keeper
from tests.fix_database import ControlDatabase
from tests.trust.keys.rig import AGENT, ALICE, Rig, read_key
from tests.trust.keys.test_superseded import _DESTROY, _PROTECTED, PROJECT, database, let_pass, owner, states

__all__ = ["database", "owner"]


@pytest.fixture
async def keeper(tmp_path: Path, database: Database) -> Keeper:
    keeper = Rig(tmp_path, database).keeper()
    await keeper.create(PROJECT, "volume", ALICE)
    return keeper


async def read(keeper: Keeper, material: int) -> bytes:
    return await read_key(keeper, PROJECT, material=material)


async def test_a_further_key_stands_beside_the_one_the_volume_has(keeper: Keeper, owner: Any) -> None:
    first = await read(keeper, 1)
    made = await keeper.renew(PROJECT, 1, ALICE)
    assert (made.version, made.material) == (2, 2)
    assert await keeper.renew(PROJECT, 1, ALICE) == await keeper.renew(PROJECT, 1, ALICE), "twice is once"
    assert await read(keeper, 1) == first
    assert await read(keeper, 2) != first
    assert (await keeper.renew(PROJECT, 2, ALICE)).material == 3


async def test_both_are_rotated_and_stay_what_they_are(keeper: Keeper, owner: Any) -> None:
    await keeper.renew(PROJECT, 1, ALICE)
    both = [await read(keeper, material) for material in (1, 2)]
    await keeper.rotations.rotate(PROJECT, ALICE)
    assert [await read(keeper, material) for material in (1, 2)] == both
    assert [it[:2] for it in await states(owner)] == [("project", 1), ("project", 2)] + [
        ("volume", version) for version in (1, 2, 3, 4)
    ]


async def test_the_old_key_is_destroyed_in_all_its_envelopes(keeper: Keeper, owner: Any) -> None:
    await keeper.renew(PROJECT, 1, ALICE)
    await keeper.rotations.rotate(PROJECT, ALICE)
    new = await read(keeper, 2)
    assert await keeper.retire(PROJECT, 1, ALICE) == 2
    assert await keeper.retire(PROJECT, 1, ALICE) == 0, "twice is once"
    with pytest.raises(PreconditionError, match="destroyed"):
        await read(keeper, 1)
    assert await read(keeper, 2) == new == await read_key(keeper, PROJECT)
    await keeper.rotations.rotate(PROJECT, ALICE)
    assert await read(keeper, 2) == new


async def test_the_last_key_of_a_volume_is_not_destroyed(keeper: Keeper) -> None:
    key = await read(keeper, 1)
    with pytest.raises(ConflictError, match="only key"):
        await keeper.retire(PROJECT, 1, ALICE)
    await keeper.renew(PROJECT, 1, ALICE)
    await keeper.retire(PROJECT, 2, ALICE)
    with pytest.raises(ConflictError, match="only key"):
        await keeper.retire(PROJECT, 1, ALICE)
    assert await read(keeper, 1) == key
    assert (await keeper.renew(PROJECT, 1, ALICE)).material == 3, "never the number of one that was destroyed"


async def test_where_keys_may_not_be_used_none_is_made(keeper: Keeper) -> None:
    await keeper.rings.change(PROJECT, "disable", 30, "", ALICE)
    with pytest.raises(PreconditionError, match="disabled"):
        await keeper.renew(PROJECT, 1, ALICE)


async def test_each_step_is_in_the_log_before_the_key_is_used(keeper: Keeper, owner: Any) -> None:
    await keeper.renew(PROJECT, 1, ALICE)
    await keeper.unwrap(PROJECT, "volume", "reencrypt", AGENT, material=1)
    await keeper.retire(PROJECT, 1, ALICE)
    rows = await owner.fetch(
        """SELECT action, actor, body::jsonb ->> 'resource' AS resource, body::jsonb ->> 'reason' AS reason
             FROM audit_event ORDER BY seq OFFSET 2"""
    )
    assert [tuple(row) for row in rows] == [
        ("key.unwrap", "user:alice", "project/1", "renew"),
        ("key.create", "user:alice", "volume/2", "reencrypt"),
        ("key.unwrap", "platform:agent", "volume/1", "reencrypt"),
        ("key.destroy", "user:alice", "volume/1", "reencrypted"),
    ]


async def test_a_protected_project_keeps_the_key_for_seven_days_after_its_volume_left_it(
    keeper: Keeper, owner: Any, control_database: ControlDatabase
) -> None:
    """By the API's word that it did, at a time that is the database's; the broker alone, or too early, destroys nothing."""
    await keeper.renew(PROJECT, 1, ALICE)
    await owner.execute(_PROTECTED)
    with pytest.raises(UnprocessableError):
        await keeper.retire(PROJECT, 1, ALICE)
    await let_pass(owner, 30)
    await keeper.reconcile()
    assert ("volume", 1, "enabled") in await states(owner), "a new key alone does not make the old one superfluous"
    broker = await asyncpg.connect(
        control_database.url("cloister_keys"), server_settings={"search_path": "cloister,pg_catalog"}
    )
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await broker.execute("INSERT INTO reencryption DEFAULT VALUES")
    await broker.close()

    await owner.execute(
        """INSERT INTO reencryption (project_id, old_material, material, state, is_urgent, asked_by, begun_at)
           VALUES ($1, 1, 2, 'copying', false, 'x', now() - interval '1 year')""",
        PROJECT,
    )
    await owner.execute("UPDATE reencryption SET state = 'done', finished_at = now() - interval '1 year'")
    await keeper.reconcile()
    assert ("volume", 1, "enabled") in await states(owner)
    await owner.execute("ALTER TABLE reencryption DISABLE TRIGGER USER")
    await owner.execute("UPDATE reencryption SET finished_at = now() - interval '7 days'")
    with pytest.raises(asyncpg.PostgresError, match="cannot destroy keys"):
        await owner.execute(_DESTROY, "volume", 2)
    await keeper.reconcile()
    assert ("volume", 1, "destroyed") in await states(owner)
    assert ("volume", 2, "enabled") in await states(owner)

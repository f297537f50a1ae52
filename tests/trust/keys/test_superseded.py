"""What a rotation replaced may go, also where a branch is protected; nothing else may, and the database holds that."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, LiteralString

import asyncpg
import pytest

from cloister.base.database import Database
from cloister.base.errors import UnprocessableError
from cloister.trust.keys.keeper import Keeper
from tests.fix_database import ControlDatabase, DatabaseAs
from tests.trust.keys.rig import ALICE, Rig, read_key

PROJECT = "calm-forest-12345678"


@pytest.fixture
async def database(database_as: DatabaseAs) -> Database:
    return await database_as("cloister_keys")


@pytest.fixture
async def owner(control_database: ControlDatabase) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(control_database.url(), server_settings={"search_path": "cloister,pg_catalog"})
    yield connection
    await connection.close()


_PROTECTED: LiteralString = """
    INSERT INTO organization (id, name) VALUES ('org-1', 'One');
    INSERT INTO account (id, email, name) VALUES ('00000000-0000-4000-8000-000000000001', 'ada@example.org', 'Ada');
    INSERT INTO volume (project_id, branch_id, timeline_id, uid, pg_version, size_bytes, state)
        VALUES ('calm-forest-12345678', 'br-prod', 'tl-prod', 1900000001, 18, 1, 'taken');
    INSERT INTO project (id, org_id, owner_id, name, region_id, pg_version, store_passwords)
        VALUES ('calm-forest-12345678', 'org-1', '00000000-0000-4000-8000-000000000001', 'prod', 'local', 18, false);
    BEGIN;
    INSERT INTO branch (id, project_id, parent_id, timeline_id, name, is_default, is_protected, state)
        VALUES ('br-prod', 'calm-forest-12345678', NULL, 'tl-prod', 'main', true, true, 'ready');
    INSERT INTO timeline (id, project_id, branch_id, state, began_at)
        VALUES ('tl-prod', 'calm-forest-12345678', 'br-prod', 'ready', now());
    COMMIT;
"""

_DESTROY: LiteralString = (
    "UPDATE wrapped_key SET state = 'destroyed', wrapped = NULL WHERE (purpose, version) = ($1, $2)"
)


@pytest.fixture
async def rotated(tmp_path: Path, database: Database, owner: Any) -> Keeper:
    """Of a project with a protected branch, rotated once and moved to another root once."""
    rig = Rig(tmp_path, database)
    await rig.keeper().create(PROJECT, "volume", ALICE)
    await rig.keeper().rotations.rotate(PROJECT, ALICE)
    keeper = rig.keeper(rig.root("second"), rig.root("root"))
    await owner.execute(_PROTECTED)
    await keeper.reconcile()
    assert await states(owner) == [("project", 1, "enabled"), ("project", 2, "enabled"), ("project", 3, "enabled"),
                                   ("volume", 1, "enabled"), ("volume", 2, "enabled")]  # fmt: skip
    return keeper


async def states(owner: Any) -> list[tuple[str, int, str]]:
    rows = await owner.fetch("SELECT purpose, version, state FROM wrapped_key ORDER BY purpose, version")
    return [tuple(row) for row in rows]


async def let_pass(owner: Any, days: int) -> None:
    """Only who owns the table can, and must take the triggers off for it."""
    await owner.execute("ALTER TABLE wrapped_key DISABLE TRIGGER USER")
    await owner.execute("UPDATE wrapped_key SET created_at = created_at - make_interval(days => $1)", days)
    await owner.execute("ALTER TABLE wrapped_key ENABLE ALWAYS TRIGGER wrapped_key_protection")
    await owner.execute("ALTER TABLE wrapped_key ENABLE ALWAYS TRIGGER wrapped_key_birth")


async def test_a_protected_projects_keys_are_rotated_and_what_is_replaced_goes_after_a_week(
    rotated: Keeper, owner: Any
) -> None:
    key = await read_key(rotated, PROJECT)
    await let_pass(owner, 6)
    await rotated.reconcile()
    assert {state for *_, state in await states(owner)} == {"enabled"}
    await let_pass(owner, 1)
    for _ in range(2):  # what is below first, then the project key that wrapped it
        await rotated.reconcile()
    assert await states(owner) == [
        ("project", 1, "destroyed"),
        ("project", 2, "destroyed"),
        ("project", 3, "enabled"),
        ("volume", 1, "destroyed"),
        ("volume", 2, "enabled"),
    ]
    assert await read_key(rotated, PROJECT) == key
    for purpose, version in (("project", 3), ("volume", 2)):
        with pytest.raises(asyncpg.PostgresError, match="cannot destroy keys of project with protected branches"):
            await owner.execute(_DESTROY, purpose, version)


async def test_a_broker_gone_bad_cannot_backdate_what_it_puts_in_a_keys_place(
    rotated: Keeper, database: Database, owner: Any
) -> None:
    async with database.transaction() as tx:
        await tx.execute(
            """INSERT INTO wrapped_key (project_id, purpose, version, material, provider, root_version, state, wrapped,
                                        created_at)
               VALUES ($1, 'volume', 3, 1, 'project', '2', 'enabled', 'noise', now() - interval '1 year')""",
            PROJECT,
        )
    for version in (1, 2):
        with pytest.raises(asyncpg.PostgresError, match="cannot destroy keys of project with protected branches"):
            await owner.execute(_DESTROY, "volume", version)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE wrapped_key SET wrapped = 'noise' WHERE version = 1",
        "UPDATE wrapped_key SET state = 'destroyed', wrapped = NULL, version = 9 WHERE version = 1 AND purpose = 'volume'",
        "UPDATE wrapped_key SET state = 'destroyed', wrapped = NULL, created_at = now() WHERE version = 1",
        "UPDATE wrapped_key SET state = 'disabled' WHERE version = 1",
        "UPDATE wrapped_key SET material = 2 WHERE version = 1",
        "DELETE FROM wrapped_key WHERE version = 1",
        "DELETE FROM key_ring",
    ],
)
async def test_nothing_else_about_a_superseded_version_changes(
    rotated: Keeper, owner: Any, change: LiteralString
) -> None:
    await let_pass(owner, 30)
    with pytest.raises(asyncpg.PostgresError, match="cannot destroy keys of project with protected branches"):
        await owner.execute(change)


async def test_a_project_key_stays_while_something_stands_under_it(rotated: Keeper, owner: Any) -> None:
    await let_pass(owner, 30)
    with pytest.raises(asyncpg.PostgresError, match="cannot destroy keys of project with protected branches"):
        await owner.execute(_DESTROY, "project", 1)
    await owner.execute(_DESTROY, "volume", 1)
    await owner.execute(_DESTROY, "project", 1)


async def test_a_scheduled_destruction_gives_way_to_a_branch_that_was_protected_meanwhile(
    rotated: Keeper, owner: Any
) -> None:
    with pytest.raises(UnprocessableError, match="protected branches"):
        await rotated.rings.change(PROJECT, "destroy", 7, "", ALICE)
    await owner.execute("ALTER TABLE key_ring DISABLE TRIGGER USER")
    await owner.execute("UPDATE key_ring SET state = 'pending_destruction', destroy_at = '2026-01-01 00:00Z'")
    await owner.execute("ALTER TABLE key_ring ENABLE ALWAYS TRIGGER key_ring_protection")
    await rotated.reconcile()
    assert (await rotated.rings.info(PROJECT)).state == "disabled"
    assert {state for *_, state in await states(owner)} == {"enabled"}
    body = await owner.fetchval("SELECT body FROM audit_event ORDER BY seq DESC LIMIT 1")
    assert '"outcome":"failed"' in body

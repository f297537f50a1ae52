"""Losing the tag `pii` without the permission: by every verb of a member's, and by rows that a process of ours could write.

How tags follow the data where nobody attacks: tests/control/tags.
"""

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from cloister.base.database import Database
from cloister.base.errors import ForbiddenError, UnprocessableError
from cloister.base.ids import OrgId
from cloister.control.branches.model import HEAD, SCHEMA_ONLY, Restore
from cloister.control.calling import Caller
from cloister.control.projects.model import NewProject
from cloister.control.services import ProjectCreated
from cloister.trust.access.permissions import Permission
from tests.control.branches.scenes import branched, seen
from tests.control.land import CALLER, ORG, Land, a_land
from tests.fix_database import DatabaseAs

MEMBER = Caller(CALLER.principal, "request-3", "192.0.2.1", frozenset(Permission) - {Permission.TAG_LIFT})
GOES_WITH_A_REASON = "without a recorded reason"

_PAST = """INSERT INTO timeline (id, project_id, branch_id, state, ended_at)
           VALUES ('tl-past', '{project}', '{branch}', 'ready', now());"""
"""What the branch was before it was reset: of it no other row says anything."""

LAUNDERING = {
    "branch_tagging": [
        "UPDATE branch SET tags = '{{}}' WHERE id = '{branch}'",
        "UPDATE branch SET tags = '{{team-a}}' WHERE id = '{branch}'",
    ],
    "project_tagging": ["UPDATE project SET tags = '{{}}' WHERE id = '{project}'"],
    "snapshot_tagging": [
        "UPDATE snapshot SET tags = '{{}}' WHERE branch_id = '{branch}'",
        "UPDATE snapshot SET timeline_id = '{other_timeline}' WHERE branch_id = '{branch}'",
        "UPDATE snapshot SET branch_id = '{other}' WHERE branch_id = '{branch}'",
    ],
    "timeline_tagging": [
        """INSERT INTO timeline (id, project_id, branch_id, source_id, state, ended_at)
           VALUES ('tl-new', '{project}', '{other}', '{timeline}', 'making', now())"""
    ],
    "timeline_keeps_tags": [
        "UPDATE timeline SET branch_id = NULL WHERE id = '{timeline}'",
        "UPDATE timeline SET branch_id = '{other}', ended_at = now() WHERE id = '{timeline}'",
        "UPDATE timeline SET source_id = NULL WHERE id = '{other_timeline}'",
        _PAST + "DELETE FROM timeline WHERE id = 'tl-past'",
        _PAST + "UPDATE timeline SET id = 'tl-another' WHERE id = 'tl-past'",
    ],
    "branch_keeps_tags": [
        """INSERT INTO timeline (id, project_id, state, ended_at) VALUES ('tl-alone', '{project}', 'ready', now());
           INSERT INTO branch (id, project_id, timeline_id, name, is_default, state, tags)
           VALUES ('br-alone', '{project}', 'tl-alone', 'alone', false, 'ready', '{{pii}}');
           DELETE FROM branch WHERE id = 'br-alone'"""
    ],
    "snapshot_keeps_tags": ["DELETE FROM snapshot WHERE branch_id = '{branch}'"],
}
"""By the trigger that is against it."""

MALFORMED = ["{pii,protected}", "{Pii,pii}", "{pii,pii}", "{prod,pii}", "{pii,NULL}", "{{pii},{prod}}"]


@pytest.fixture
async def land(database_as: DatabaseAs) -> AsyncIterator[Land]:
    async with a_land(await database_as("cloister_api")) as ready:
        yield ready


@pytest.fixture
async def shop(land: Land) -> ProjectCreated:
    created: ProjectCreated = await land.control.projects.create(CALLER, NewProject(org_id=OrgId(ORG), name="shop"))
    await land.finish(created.operations)
    return created


@pytest.fixture
async def laundry(land: Land, shop: ProjectCreated) -> dict[str, str]:
    """A project and a branch that are `pii`, with a snapshot, and a branch that was made before and is not."""
    dev = await branched(land, shop, name="dev")
    await land.control.tags.change(CALLER, shop.project.id, None, add=["pii"])
    await land.control.tags.change(CALLER, shop.project.id, shop.branch.id, add=["pii"])
    _, operations = await land.control.snapshots.create(
        CALLER, shop.project.id, shop.branch.id, name="before", point=HEAD, expires_at=None
    )
    await land.finish(operations)
    return {
        "project": shop.project.id,
        "branch": shop.branch.id,
        "timeline": shop.branch.timeline_id,
        "other": dev.branch.id,
        "other_timeline": dev.branch.timeline_id,
    }


async def test_a_member_who_may_not_lift_has_no_verb_that_does(land: Land, shop: ProjectCreated) -> None:
    """Said, restored over, taken a snapshot of, branched, put in its place: it stays, and where the data goes it comes along."""
    control, project, main = land.control, shop.project.id, shop.branch.id
    clean = (await branched(land, shop, name="clean")).branch
    for of in (None, main):
        await control.tags.change(MEMBER, project, of, add=["pii"])
        with pytest.raises(ForbiddenError, match="tag:lift"):
            await control.tags.change(MEMBER, project, of, remove=["pii"], reason="I say so")

    # (1) The data into a branch that is not tagged, and back over the one that is.
    restored = await control.branches.restore(MEMBER, project, clean.id, Restore(source_id=main))
    await land.finish(restored.operations)
    assert (await seen(land, clean)).tags == {"pii"}
    fresh = (await branched(land, shop, name="fresh", init_source=SCHEMA_ONLY)).branch
    assert fresh.tags == frozenset(), "no row of it"
    wish = Restore(source_id=fresh.id, preserve_under_name="before")
    restored = await control.branches.restore(MEMBER, project, main, wish)
    await land.finish(restored.operations)
    assert restored.preserved is not None
    assert (await seen(land, restored.preserved)).tags == {"pii"}
    assert (await seen(land, shop.branch)).tags == {"pii"}

    # (2) A snapshot, and a branch of it.
    taken, operations = await control.snapshots.create(
        MEMBER, project, restored.preserved.id, name="s", point=HEAD, expires_at=None
    )
    await land.finish(operations)
    beside = await control.snapshots.restore(MEMBER, project, taken.id, name="b", target_id=None, is_final=False)
    assert beside.branch.tags == {"pii"}
    await land.finish(beside.operations)

    # (3) Gone and back.
    _, operations = await control.branches.delete(MEMBER, project, beside.branch.id)
    await land.finish(operations)
    back, operations = await control.branches.recover(MEMBER, project, beside.branch.id)
    await land.finish(operations)
    assert back.tags == {"pii"}


async def test_no_row_that_a_process_writes_takes_the_tag_off(
    land: Land, laundry: dict[str, str], database_as: DatabaseAs
) -> None:
    """Each trigger is taken out in turn, and then every attempt on it succeeds: none is there for nothing."""
    owner = await database_as("postgres")
    for name, statements in LAUNDERING.items():
        for statement in (it.format(**laundry) for it in statements):
            with pytest.raises(UnprocessableError):
                await _tried(land.database, statement)
            async with owner.transaction() as tx:
                await tx.execute(f"ALTER TABLE cloister.{name.partition('_')[0]} DISABLE TRIGGER {name}")
            await _tried(land.database, statement)
            async with owner.transaction() as tx:
                await tx.execute(f"ALTER TABLE cloister.{name.partition('_')[0]} ENABLE ALWAYS TRIGGER {name}")
    for tags in MALFORMED:
        with pytest.raises(asyncpg.CheckViolationError):
            await _tried(land.database, f"UPDATE branch SET tags = '{tags}' WHERE id = '{laundry['other']}'")
    many = "ARRAY(SELECT 't' || to_char(n, 'FM00') FROM generate_series(1, 17) AS n)"
    with pytest.raises(asyncpg.CheckViolationError):
        await _tried(land.database, f"UPDATE branch SET tags = {many} WHERE id = '{laundry['other']}'")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await _tried(
            land.database,
            f"INSERT INTO tag_lifting VALUES ('{laundry['branch']}', pg_current_xact_id(), '{{pii}}', 1)",
        )


async def _tried(database: Database, statement: str) -> None:
    """And taken back."""
    with contextlib.suppress(_EnoughError):
        async with database.transaction() as tx:
            await tx.execute(statement)
            raise _EnoughError


class _EnoughError(Exception):
    pass


async def test_a_row_that_shows_the_data_has_the_tag(land: Land, laundry: dict[str, str]) -> None:
    """A second branch on the timeline, and one that is put on it."""
    async with land.database.transaction() as tx:
        made = await tx.fetch_value(
            """INSERT INTO branch (id, project_id, timeline_id, name, is_default, state)
               VALUES ('br-copy', $1, $2, 'copy', false, 'init') RETURNING tags""",
            laundry["project"],
            laundry["timeline"],
        )
        assert made == ["pii"]
        await tx.execute("DELETE FROM branch WHERE id = 'br-copy'")
        moved = await tx.fetch_value(
            "UPDATE branch SET timeline_id = $2 WHERE id = $1 RETURNING tags", laundry["other"], laundry["timeline"]
        )
        assert moved == ["pii"]


LIES: list[dict[str, Any]] = [
    {"action": "tag.set"},
    {"branch_id": "br-another"},
    {"project_id": "another"},
    {"actor": ""},
    {"outcome": "denied"},
    {"details": {"lifted": "prod"}},
]


async def test_a_lifting_whose_event_says_something_else_is_refused(land: Land, laundry: dict[str, str]) -> None:
    event: dict[str, Any] = {"action": "tag.lift", "actor": "user:1", "details": {"lifted": "pii"}}
    event |= {"project_id": laundry["project"], "branch_id": laundry["branch"]}
    for lie in LIES:
        await refused_to_lift(land, laundry, event | lie, {"reason": "masked"})
    await refused_to_lift(land, laundry, event, {"reason": " "})
    await refused_to_lift(land, laundry, event, None)


async def refused_to_lift(
    land: Land, laundry: dict[str, str], event: dict[str, Any], personal: dict[str, Any] | None
) -> None:
    with pytest.raises(UnprocessableError, match=GOES_WITH_A_REASON):
        async with land.database.transaction() as tx:
            await tx.execute(
                "SELECT lift_tags($1, $2, $3, $4, $5)",
                laundry["project"],
                laundry["branch"],
                ["pii"],
                json.dumps(event),
                None if personal is None else json.dumps(personal),
            )


async def test_a_lifting_is_for_its_transaction_and_what_it_names(land: Land, shop: ProjectCreated) -> None:
    tags, project, main = land.control.tags, shop.project.id, shop.branch.id
    await tags.change(CALLER, project, main, add=["pii", "prod"])
    await tags.change(CALLER, project, main, remove=["prod"])
    await tags.change(CALLER, project, main, add=["prod"])
    for left in ([], ["prod"], ["pii"]):
        with pytest.raises(UnprocessableError, match=GOES_WITH_A_REASON):
            async with land.database.transaction() as tx:
                await tx.execute("UPDATE branch SET tags = $2 WHERE id = $1", main, left)

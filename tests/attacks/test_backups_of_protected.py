"""Threat: whoever may not copy a protected branch, or not alone, takes its backup instead; or a process that was taken over does, or makes
the catalogue forget what is locked.

On the real control plane and its database; the node and the store are made up.
"""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

import asyncpg
import pytest

from cloister.base.errors import ForbiddenError, NotFoundError, UnprocessableError
from cloister.base.ids import BranchId
from cloister.control.backups.model import Wish
from cloister.control.branches.consents import Act
from cloister.control.branches.model import HEAD, BranchChange
from cloister.control.services import ProjectCreated
from cloister.trust.access.permissions import Permission
from tests.control.backups.office import Office, a_project
from tests.control.branches.scenes import VERIFIER, protect, refused
from tests.control.land import ANOTHER, CALLER, ORG, a_land
from tests.fix_database import ControlDatabase, DatabaseAs

UNGRANTED: Final = replace(CALLER, grants=CALLER.grants - {Permission.BRANCH_CREATE_FROM_PROTECTED})
OF_MAIN: Final = Wish(branch_id=None, point=HEAD, name=None)


@pytest.fixture
async def office(database_as: DatabaseAs) -> AsyncIterator[Office]:
    async with a_land(await database_as("cloister_api")) as land:
        yield Office(land)


@pytest.fixture
async def sent(office: Office) -> ProjectCreated:
    """A protected branch with a backup."""
    created = await a_project(office, "secret")
    await protect(office.land, created)
    await office.look()
    return created


async def restored(office: Office, created: ProjectCreated, wish: Wish = OF_MAIN) -> Any:
    return await office.land.control.backups.restore(CALLER, created.project.id, wish)


async def test_who_may_not_copy_it_may_not_restore_it(office: Office, sent: ProjectCreated) -> None:
    with refused(ForbiddenError, "branch:create_from_protected"):
        await office.land.control.backups.restore(UNGRANTED, sent.project.id, OF_MAIN)


async def test_what_is_restored_has_none_of_its_passwords(office: Office, sent: ProjectCreated) -> None:
    found = await restored(office, sent)
    await office.land.finish(found.operations)
    assert [it.role.name for it in found.passwords] == ["neondb_owner"]
    assert "ScrubTimeline" in office.land.node.calls
    route = await office.land.look_up(found.endpoints[0].id, "neondb_owner")
    assert route.verifier not in (sent.role.verifier, VERIFIER)
    (told,) = await office.land.details_of("backup.restore")
    assert (told["of_protected"], told["source"]) == (True, sent.branch.id)


async def test_a_protection_that_was_taken_off_since_gives_no_passwords_away(
    office: Office, sent: ProjectCreated
) -> None:
    """It was protected when this was sent."""
    land = office.land
    await land.control.branches.update(CALLER, sent.project.id, sent.branch.id, BranchChange(is_protected=False))
    with refused(ForbiddenError, "branch:create_from_protected"):
        await land.control.backups.restore(UNGRANTED, sent.project.id, OF_MAIN)
    found = await restored(office, sent)
    await land.finish(found.operations)
    assert "ScrubTimeline" in land.node.calls


async def test_where_two_are_needed_for_a_copy_one_restores_nothing(office: Office, sent: ProjectCreated) -> None:
    land, consents = office.land, office.land.control.consents
    await consents.require(CALLER, ORG, is_required=True)
    await land.add_another()
    with refused(UnprocessableError, "consent of another person"):
        await restored(office, sent)
    asked = await consents.ask(CALLER, sent.project.id, sent.branch.id, Act.COPY, "ticket 4711")
    await consents.agree(ANOTHER, sent.project.id, sent.branch.id, asked.id)
    found = await restored(office, sent)
    await land.finish(found.operations)
    (told,) = await land.details_of("backup.restore")
    assert told["consent"] == str(asked.id)
    with refused(UnprocessableError, "consent of another person"):
        await restored(office, sent)


def _operation(created: ProjectCreated, **more: object) -> tuple[str, str | None, str]:
    recipe = {"source_branch_id": "", "sources": [created.branch.timeline_id], "target_id": "tl-x", "is_backup": True}
    return created.project.id, None, json.dumps({"recipe": recipe, **more})


_SUBMIT: Final = """
    INSERT INTO operation (id, project_id, branch_id, machine, action, status, step, input, resource, holds_resource, run_at, deadline_at, created_at, updated_at)
    VALUES (gen_random_uuid(), $1, $2, 'create_branch', 'create_branch', 'scheduling', 'make', $3::jsonb, 'branch:x', true, now(),
            now() + interval '1 hour', now(), now())"""


@pytest.mark.parametrize("scrubs", [False, None, 1, "yes"])
async def test_no_operation_is_accepted_that_restores_it_with_its_passwords(
    office: Office, sent: ProjectCreated, scrubs: object
) -> None:
    """Also when the protection is gone: whatever the process that submits it says."""
    land = office.land
    told = r"cannot restore a backup of a protected branch with its passwords"
    for is_protected in (True, False):
        if not is_protected:
            await land.control.branches.update(
                CALLER, sent.project.id, sent.branch.id, BranchChange(is_protected=False)
            )
        async with land.database.transaction() as tx:
            with pytest.raises(UnprocessableError, match=told):
                await tx.execute(_SUBMIT, *_operation(sent, scrubs=scrubs))


async def test_no_operation_forgets_it_after_it_was_accepted(office: Office, sent: ProjectCreated) -> None:
    async with office.land.database.transaction() as tx:
        await tx.execute(_SUBMIT, *_operation(sent, scrubs=True))
        with pytest.raises(UnprocessableError, match="with its passwords"):
            await tx.execute("UPDATE operation SET input = input || '{\"scrubs\": false}' WHERE resource = 'branch:x'")


async def test_the_rows_of_what_is_locked_stay_what_they_are(office: Office, sent: ProjectCreated) -> None:
    land = office.land
    for statement in (
        "DELETE FROM backup_base",
        "UPDATE backup_base SET locked_until = now()",
        "UPDATE backup_base SET stop_lsn = '0/1'",
        "UPDATE backup_base SET timeline_id = 'tl-x'",
    ):
        with pytest.raises(UnprocessableError):
            async with land.database.transaction() as tx:
                await tx.execute(statement)
    async with land.database.transaction() as tx:
        await tx.execute("UPDATE backup_base SET is_protected = false, project_id = 'another'")
        row = await tx.fetch_row("SELECT * FROM backup_base")
    assert row is not None
    assert (row["is_protected"], row["project_id"]) == (True, sent.project.id)


async def test_what_is_not_locked_any_more_may_be_forgotten(
    office: Office, sent: ProjectCreated, control_database: ControlDatabase
) -> None:
    owner = await asyncpg.connect(control_database.url("postgres"))
    await owner.execute("ALTER TABLE cloister.backup_base DISABLE TRIGGER backup_base_holds")
    await owner.execute("UPDATE cloister.backup_base SET locked_until = now() - interval '1 second'")
    await owner.execute("ALTER TABLE cloister.backup_base ENABLE ALWAYS TRIGGER backup_base_holds")
    await owner.close()
    async with office.land.database.transaction() as tx:
        await tx.execute("DELETE FROM backup_base")


async def test_another_project_s_backup_is_not_there(office: Office, sent: ProjectCreated) -> None:
    other = await a_project(office)
    wish = Wish(branch_id=BranchId(sent.branch.id), point=HEAD, name=None)
    with refused(NotFoundError, "branch not found"):
        await office.land.control.backups.restore(CALLER, other.project.id, wish)


async def test_an_erased_project_does_not_come_back(office: Office) -> None:
    """Its keys are gone; what lies locked in the store is noise, and the log says until when it lies there."""
    land = office.land
    created = await a_project(office)
    await office.look()
    _, operations = await land.control.projects.delete(CALLER, created.project.id, hard=True)
    await land.finish(operations)
    assert created.project.id in land.keys.destroyed
    for act in (
        land.control.backups.restore(CALLER, created.project.id, OF_MAIN),
        land.control.backups.restore_project(CALLER, created.project.id),
        land.control.backups.take(CALLER, created.project.id, None),
    ):
        with refused(NotFoundError, "not found"):
            await act
    await office.look(timedelta(days=1))
    told = (await land.details_of("project.delete"))[-1]
    assert told["backups"] == 1
    assert str(told["backups_locked_until"]) > land.clock.now().isoformat()

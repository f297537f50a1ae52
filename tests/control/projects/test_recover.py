"""Deleting a project, getting it back, and the end of it."""

from datetime import timedelta

import pytest

from cloister.base.errors import ConflictError, NotFoundError, UnavailableError, UnprocessableError
from cloister.base.ids import OrgId
from cloister.base.past import Past, joined
from cloister.control.branches.rules import RECOVERABLE_FOR
from cloister.control.calling import Page
from cloister.control.projects.model import ProjectChange
from cloister.control.projects.operations import DELETE_DEADLINE
from cloister.control.services import ProjectCreated
from tests.control.branches.scenes import branched
from tests.control.land import CALLER, ORG, Land

OURS = [OrgId(ORG)]


async def deleted(land: Land, **new: object) -> ProjectCreated:
    created = await land.project(**new)
    _, operations = await land.control.projects.delete(CALLER, created.project.id)
    await land.finish(operations)
    return created


async def test_a_deleted_project_is_unreachable_at_once_and_its_volume_is_locked(land: Land) -> None:
    gateway = land.connect_gateway()
    created = await land.project()
    project_id, endpoint_id = created.project.id, created.endpoint.id
    _, operations = await land.control.projects.delete(CALLER, project_id)
    assert not (await land.look_up(endpoint_id, "neondb_owner")).is_known, "before any operation has run"
    assert gateway.names().count("Invalidate") == 1, "sessions are looked at again"
    await land.finish(operations)
    assert land.node.computes == {}
    assert not land.node.images[project_id].is_open
    assert project_id in land.keys.enabled, "nothing is destroyed"
    with pytest.raises(NotFoundError):
        await land.control.projects.get(project_id)
    with pytest.raises(NotFoundError):
        await land.plane.waker.wake(endpoint_id)
    with pytest.raises(NotFoundError):
        await land.control.projects.update(CALLER, project_id, ProjectChange(name="x"))
    with pytest.raises(NotFoundError):
        await land.control.projects.delete(CALLER, project_id)
    await land.plane.reconciler.start_owed()
    await land.plane.caretaker.by_the_clock()
    await land.plane.caretaker.by_the_bytes()
    assert (land.node.computes, land.node.images[project_id].is_open) == ({}, False), "nobody opens it"
    assert await land.control.projects.find(OURS, Page(), None) == []
    assert [it.id for it in await land.control.projects.find_deleted(OURS, Page(), None)] == [project_id]
    assert await land.control.projects.find_deleted([OrgId("org-other-one-00000000")], Page(), None) == []


async def test_it_comes_back_as_it_was(land: Land) -> None:
    created = await land.project(role_name="ada", store_passwords=True)
    project_id = created.project.id
    child = await branched(land, created, name="dev")
    land.node.write(created.endpoint.id, "one")
    changed = await land.control.roles.reset_password(CALLER, project_id, created.branch.id, "ada")
    await land.finish(changed.operations)
    before = await land.look_up(created.endpoint.id, "ada")
    _, operations = await land.control.endpoints.delete(CALLER, project_id, child.endpoints[0].id)
    await land.finish(operations)
    _, operations = await land.control.projects.delete(CALLER, project_id)
    await land.finish(operations)

    project, found = await land.control.projects.recover(CALLER, project_id)
    assert (project.id, project.deleted_at, project.settings) == (project_id, None, created.project.settings)
    assert {it.name for it in found} == {"main", "dev"}
    after = await land.look_up(created.endpoint.id, "ada")
    assert (after.is_known, after.verifier, after.socket_dir) == (True, before.verifier, None), "it sleeps"
    assert (await land.row(created.endpoint.id))["is_clean"], "its roles were read when it was put away"
    assert await land.control.endpoints.find(project_id, child.branch.id) == [], "deleted before the project was"
    await land.plane.waker.wake(created.endpoint.id)
    password = await land.control.roles.reveal_password(CALLER, project_id, created.branch.id, "ada")
    assert password.reveal() == changed.password.reveal()
    assert await land.control.projects.find_deleted(OURS, Page(), None) == []
    with pytest.raises(ConflictError):
        await land.control.projects.recover(CALLER, project_id)
    assert (await land.actions()).count("project.recover") == 1


async def test_computes_at_a_point_in_the_past_end_before_the_volume_closes(land: Land) -> None:
    created = await land.project()
    place = joined(created.branch.id, Past(lsn=land.node.write(created.endpoint.id, "one")))
    await land.plane.standbys.wake(place, stale_generation=0)
    assert len(land.node.computes) == 2
    _, operations = await land.control.projects.delete(CALLER, created.project.id)
    await land.plane.standbys.look_after_all()
    await land.finish_later(operations)
    assert (land.node.computes, land.node.images[created.project.id].is_open) == ({}, False)


async def test_after_the_term_it_is_destroyed_and_not_a_moment_before(land: Land) -> None:
    created = await deleted(land)
    project_id = created.project.id
    land.clock.advance(RECOVERABLE_FOR - timedelta(minutes=1))
    await land.control.projects.purge_deleted()
    assert project_id in land.keys.enabled
    land.clock.advance(timedelta(minutes=2))
    assert await land.control.projects.find_deleted(OURS, Page(), None) == []
    with pytest.raises(NotFoundError):
        await land.control.projects.recover(CALLER, project_id)
    for _ in range(2):  # the second round finds nothing to do
        await land.control.projects.purge_deleted()
    async with land.database.reading() as tx:
        (row,) = await tx.fetch("SELECT id FROM operation WHERE machine = 'delete_project'")
    await land.plane.engine.wait(row["id"], timeout_s=10.0)
    assert (land.node.images, land.keys.enabled) == ({}, set())
    assert (await land.actions()).count("project.purge") == 1


async def test_a_destruction_that_gave_up_is_taken_up_again(still_land: Land) -> None:
    """Nobody but us can: the project is gone for whoever asked for it."""
    land = still_land
    created = await land.project()
    land.node.failing["StopCompute"] = UnavailableError("on fire")
    await land.control.projects.delete(CALLER, created.project.id, hard=True)
    await land.settle()
    land.clock.advance(DELETE_DEADLINE)
    await land.settle()
    assert created.project.id in land.keys.enabled, "it has given up"
    del land.node.failing["StopCompute"]
    await land.control.projects.purge_deleted()
    assert await land.plane.engine.run_due() == 0, "not without a pause"
    land.clock.advance(DELETE_DEADLINE)
    for _ in range(2):  # the second round finds nothing to do
        await land.control.projects.purge_deleted()
        await land.settle()
    assert (land.node.images, land.keys.enabled) == ({}, set())
    assert [event.reason for event in await land.events("project.purge")] == ["its destruction gave up"]


async def test_it_can_be_destroyed_at_once_alive_or_deleted(land: Land) -> None:
    for created in (await land.project(), await deleted(land)):
        _, operations = await land.control.projects.delete(CALLER, created.project.id, hard=True)
        await land.finish(operations)
        with pytest.raises(NotFoundError):
            await land.control.projects.recover(CALLER, created.project.id)
        with pytest.raises(NotFoundError):
            await land.control.projects.delete(CALLER, created.project.id, hard=True)
    assert (land.node.images, land.keys.enabled) == ({}, set())


async def test_the_database_itself_gives_nobody_back_what_is_destroyed(land: Land) -> None:
    created = await land.project()
    _, operations = await land.control.projects.delete(CALLER, created.project.id, hard=True)
    with pytest.raises(UnprocessableError, match="destroyed"):
        async with land.database.transaction() as tx:
            await tx.execute("UPDATE project SET deleted_at = NULL WHERE id = $1", created.project.id)
    await land.finish(operations)


async def test_a_protected_branch_is_neither_deleted_with_its_project_nor_protected_afterwards(land: Land) -> None:
    created = await deleted(land)
    with pytest.raises(UnprocessableError):
        async with land.database.transaction() as tx:
            await tx.execute("UPDATE branch SET is_protected = true WHERE id = $1", created.branch.id)
    other = await land.project()
    async with land.database.transaction() as tx:
        await tx.execute("UPDATE branch SET is_protected = true WHERE id = $1", other.branch.id)
    for hard in (False, True):
        with pytest.raises(UnprocessableError, match="protected"):
            await land.control.projects.delete(CALLER, other.project.id, hard=hard)


async def test_pages_of_deleted_projects_follow_each_other_and_end(land: Land) -> None:
    ids = [(await deleted(land, name=f"project {number}")).project.id for number in range(3)]
    seen: list[str] = []
    cursor: str | None = None
    while page := await land.control.projects.find_deleted(OURS, Page(2, cursor), None):
        seen += [project.id for project in page]
        cursor = page[-1].id
    assert seen == ids[::-1]
    assert [it.id for it in await land.control.projects.find_deleted(OURS, Page(), "PROJECT 1")] == [ids[1]]


async def test_a_cursor_does_not_tell_whether_somebody_else_deleted_such_a_project(land: Land) -> None:
    await deleted(land)
    theirs = (await deleted(land)).project.id
    async with land.database.transaction() as tx:
        await tx.execute("INSERT INTO organization (id, name) VALUES ('org-wild-river-00000001', 'Wild')")
        await tx.execute("UPDATE project SET org_id = 'org-wild-river-00000001' WHERE id = $1", theirs)
    for cursor in (theirs, "calm-forest-99999999"):
        assert await land.control.projects.find_deleted(OURS, Page(5, cursor), None) == []

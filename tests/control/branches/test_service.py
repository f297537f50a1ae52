"""The verbs on branches."""

import pytest

from cloister.base.errors import NotFoundError
from cloister.base.ids import BranchId, ProjectId
from cloister.control.calling import Page
from tests.control.land import CALLER, Land


async def test_a_project_has_its_default_branch_and_nobody_elses(land: Land) -> None:
    created, other = await land.project(branch_name="trunk"), await land.project()
    project_id = created.project.id
    found = await land.control.branches.find(project_id, Page(), None)
    assert [(branch.name, branch.is_default, branch.state) for branch in found] == [("trunk", True, "ready")]
    assert await land.control.branches.default(project_id) == found[0]
    assert await land.control.branches.get(project_id, created.branch.id) == found[0]
    assert await land.control.branches.find(project_id, Page(10, found[0].id), None) == []
    assert await land.control.branches.find(project_id, Page(), "TRUN") == found
    assert await land.control.branches.find(project_id, Page(), "%") == []
    with pytest.raises(NotFoundError):
        await land.control.branches.get(project_id, other.branch.id)
    with pytest.raises(NotFoundError):
        await land.control.branches.get(project_id, BranchId("br-no-such-00000000"))
    with pytest.raises(NotFoundError):
        await land.control.branches.find(ProjectId("no-such-00000000"), Page(), None)


async def test_the_branches_of_a_deleted_project_are_gone(land: Land) -> None:
    created = await land.project()
    await land.control.projects.delete(CALLER, created.project.id)
    with pytest.raises(NotFoundError):
        await land.control.branches.default(created.project.id)

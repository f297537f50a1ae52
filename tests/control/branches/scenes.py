"""What the tests of branches do before they look."""

import contextlib
from collections.abc import Iterator
from typing import Any, Final

import pytest

from cloister.base.errors import CloisterError
from cloister.base.ids import BranchId, EndpointId
from cloister.base.secret import new_password
from cloister.control.branches.model import Branch, BranchChange, BranchCreated, NewBranch
from cloister.control.calling import Caller, Page
from cloister.control.computes.model import NewEndpoint
from cloister.control.computes.runner import Cause, running_of
from cloister.control.computes.sessions import Running
from cloister.control.computes.store import placed
from cloister.control.operations.model import Operation
from cloister.control.roles.passwords import new_verifier
from cloister.control.services import ProjectCreated
from tests.control.land import CALLER, Land

CAUSE: Final = Cause("test", "test")
UNGRANTED: Final = Caller(CALLER.principal, "request-2", "192.0.2.1")
PAGE: Final = Page(100)
VERIFIER: Final = new_verifier(new_password())


async def branched(land: Land, created: ProjectCreated, *, finish: bool = True, **new: Any) -> BranchCreated:
    new.setdefault("endpoints", [NewEndpoint(branch_id=BranchId(""))])
    child: BranchCreated = await land.control.branches.create(CALLER, created.project.id, NewBranch(**new))
    if finish:
        await land.finish(child.operations)
    return child


async def running(land: Land, endpoint_id: EndpointId) -> Running:
    async with land.database.reading() as tx:
        there = await placed(tx, endpoint_id)
    return running_of(there.endpoint, there.pg_version)


def holds(land: Land, child: BranchCreated) -> list[str]:
    return land.node.words_of(child.branch.timeline_id)


@contextlib.contextmanager
def refused(kind: type[CloisterError], words: str) -> Iterator[None]:
    """The client is told so in these words."""
    with pytest.raises(kind) as refusal:
        yield
    assert words in refusal.value.public


async def protect(land: Land, created: ProjectCreated) -> None:
    await land.control.branches.update(CALLER, created.project.id, created.branch.id, BranchChange(is_protected=True))


async def seen(land: Land, branch: Branch) -> Branch:
    found: Branch = await land.control.branches.get(branch.project_id, branch.id)
    return found


async def words(land: Land, branch: Branch) -> list[str]:
    """What the branch holds now."""
    return land.node.words_of((await seen(land, branch)).timeline_id)


async def of_project(land: Land, created: ProjectCreated) -> list[Operation]:
    """All its operations."""
    found: list[Operation] = await land.control.operations.find(created.project.id, PAGE)
    return found

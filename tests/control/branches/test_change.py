"""Renaming, expiry, protection, and what is looked at."""

from datetime import timedelta

import pytest

from cloister.base.directory import Invalidate
from cloister.base.errors import BadRequestError, ConflictError, ForbiddenError, UnprocessableError
from cloister.control.branches.model import BranchChange
from cloister.control.projects.model import AllowedIps, ProjectSettings
from tests.control.branches.scenes import UNGRANTED, branched, protect, refused
from tests.control.land import CALLER, Land


async def test_a_branch_is_renamed_unless_the_name_is_taken(land: Land) -> None:
    created = await land.project()
    child = await branched(land, created, name="dev", endpoints=[])
    branch, _ = await land.control.branches.update(
        CALLER, created.project.id, child.branch.id, BranchChange(name="dev 2")
    )
    assert branch.name == "dev 2"
    with pytest.raises(ConflictError):
        await land.control.branches.update(CALLER, created.project.id, child.branch.id, BranchChange(name="main"))
    assert (await land.actions())[-1] == "branch.update"


async def test_expiry_is_for_branches_that_may_go(land: Land) -> None:
    created = await land.project()
    child = await branched(land, created, name="dev", endpoints=[])
    project_id, soon = created.project.id, land.clock.now() + timedelta(hours=1)
    branch, _ = await land.control.branches.update(CALLER, project_id, child.branch.id, BranchChange(expires_at=soon))
    assert (branch.expires_at, branch.ttl_interval_seconds) == (soon, 3600)
    with refused(UnprocessableError, "cannot have children"):
        await branched(land, created, parent_id=child.branch.id)
    with refused(BadRequestError, "Default branch cannot have an expiration date"):
        await land.control.branches.set_as_default(CALLER, project_id, child.branch.id)
    with refused(BadRequestError, "Protected branch cannot have an expiration date"):
        await land.control.branches.update(CALLER, project_id, child.branch.id, BranchChange(is_protected=True))
    branch, _ = await land.control.branches.update(
        CALLER, project_id, child.branch.id, BranchChange(never_expires=True)
    )
    assert (branch.expires_at, branch.ttl_interval_seconds) == (None, None)
    for expires_at in (land.clock.now(), land.clock.now() + timedelta(days=31)):
        with refused(BadRequestError, "at most 30 days"):
            await land.control.branches.update(CALLER, project_id, child.branch.id, BranchChange(expires_at=expires_at))
    with refused(BadRequestError, "Default branch"):
        await land.control.branches.update(CALLER, project_id, created.branch.id, BranchChange(expires_at=soon))
    await branched(land, created, parent_id=child.branch.id, name="leaf", endpoints=[])
    with refused(UnprocessableError, "has children"):
        await land.control.branches.update(CALLER, project_id, child.branch.id, BranchChange(expires_at=soon))


async def test_protecting_and_unprotecting_are_permissions_and_events_of_their_own(land: Land) -> None:
    created = await land.project()
    for wanted in (True, False):
        change = BranchChange(is_protected=wanted)
        with pytest.raises(ForbiddenError):
            await land.control.branches.update(UNGRANTED, created.project.id, created.branch.id, change)
        branch, _ = await land.control.branches.update(CALLER, created.project.id, created.branch.id, change)
        assert branch.is_protected is wanted
    assert (await land.actions())[-2:] == ["branch.protect", "branch.unprotect"]


async def test_who_is_connected_is_looked_at_again_when_a_branch_is_protected_or_no_more(land: Land) -> None:
    """An allow list may be for protected branches only: gateways are told when the route has it, and when no more."""
    allowed_ips = AllowedIps(ips=["192.0.2.1"], protected_branches_only=True)
    created = await land.project(settings=ProjectSettings(allowed_ips=allowed_ips))
    gateway = land.connect_gateway()
    for wanted, allowed in ((True, ["192.0.2.1"]), (False, None)):
        gateway.heard.clear()
        change = BranchChange(is_protected=wanted)
        await land.control.branches.update(CALLER, created.project.id, created.branch.id, change)
        assert gateway.heard == [Invalidate(project_id=created.project.id)]
        assert (await land.look_up(created.endpoint.id, "neondb_owner")).allowed_ips == allowed


async def test_branches_are_counted_and_found(land: Land) -> None:
    created = await land.project()
    await protect(land, created)
    for number in range(3):
        await branched(land, created, name=f"pr-{number}", endpoints=[])
    assert await land.control.branches.count(created.project.id, None) == 4
    assert await land.control.branches.count(created.project.id, "PR-") == 3
    usages = await land.control.branches.usages(created.project.id)
    assert len(usages) == 4
    window = await land.control.branches.window(created.project.id, created.branch.id)
    assert window.since <= window.until == land.clock.now()

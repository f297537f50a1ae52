"""The rules in code: what they say, that the database says the same, and who gets which password."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib import resources

import pytest

from cloister.base.errors import BadRequestError, ForbiddenError, UnprocessableError
from cloister.base.ids import BranchId, ProjectId, TimelineId
from cloister.control.branches import operations as branch_operations
from cloister.control.branches import protection
from cloister.control.branches.model import HEAD, Branch, Restore
from cloister.control.calling import Caller
from cloister.control.computes import operations as compute_operations
from cloister.control.computes import protection as endpoint_protection
from cloister.control.projects import operations as project_operations
from cloister.control.roles import operations as role_operations
from cloister.control.roles.server import RoleState
from cloister.protocol.scram import Verifier
from cloister.trust.access.permissions import Permission
from tests.control.branches.scenes import branched, seen
from tests.control.land import CALLER, Land
from tests.protected import BRANCH_MACHINES, HARMLESS_MACHINES, PROJECT_MACHINES, TIMELINE_MACHINES

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PLAIN = Branch(
    id=BranchId("br-calm-forest-12345678"),
    project_id=ProjectId("calm-forest-12345678"),
    parent_id=None,
    parent_lsn=None,
    parent_timestamp=None,
    init_source="parent-data",
    timeline_id=TimelineId("tl-calm-forest-12345678"),
    name="main",
    is_default=True,
    is_protected=False,
    state="ready",
    expires_at=None,
    ttl_interval_seconds=None,
    created_at=NOW,
    updated_at=NOW,
)
PROTECTED = replace(PLAIN, is_protected=True)
NOBODY_IN_PARTICULAR = Caller(CALLER.principal, "request-2", "192.0.2.1")
"""Came by a route that states nothing in `may_need`."""


def role(name: str, verifier: str | None = "SCRAM-SHA-256$…", *, can_login: bool = True) -> RoleState:
    return RoleState(name, verifier, can_login, None)


def test_the_database_says_the_same_words() -> None:
    sql = (resources.files("cloister.base.database") / "migrations" / "0002_protection.sql").read_text()
    ours = {
        value
        for module in (protection, endpoint_protection)
        for name, value in vars(module).items()
        if name.startswith("CANNOT_")
    }
    theirs = set(re.findall(r"'((?:cannot (?!protect\b)|Protected )[^']+)'", sql))
    assert ours == theirs


def test_every_machine_is_known_to_the_database_or_to_be_harmless() -> None:
    machines = {
        machine.name
        for module in (branch_operations, compute_operations, project_operations, role_operations)
        for machine in module.MACHINES
    }
    known = {*PROJECT_MACHINES, *BRANCH_MACHINES, *TIMELINE_MACHINES}
    assert machines == known | HARMLESS_MACHINES
    migrations = sorted((resources.files("cloister.base.database") / "migrations").iterdir(), key=lambda it: it.name)
    *_before, listed = re.findall(r"FUNCTION destroys.*?END;", "".join(it.read_text() for it in migrations), re.DOTALL)
    assert set(re.findall(r"'(\w+_\w+)'", listed)) == known


async def test_the_database_looks_for_timelines_where_the_machines_name_them(land: Land) -> None:
    """`aimed_at` reads an operation's input: what would be deleted must be under one of its words."""
    created = await land.project()
    land.clock.advance(timedelta(seconds=1))
    child = await branched(land, created)
    project_id, control = created.project.id, land.control
    snapshot, operations = await control.snapshots.create(
        CALLER, project_id, created.branch.id, name=None, point=HEAD, expires_at=None
    )
    await land.finish(operations)
    beside = await control.snapshots.restore(
        CALLER, project_id, snapshot.id, name=None, target_id=child.branch.id, is_final=False
    )
    await land.finish(beside.operations)
    _, operations = await control.snapshots.finalize(CALLER, project_id, beside.branch.id, name="old")
    await land.finish(operations)
    restored = await control.branches.restore(
        CALLER, project_id, beside.branch.id, Restore(source_id=created.branch.id)
    )
    await land.finish(restored.operations)
    _, operations = await control.snapshots.delete(CALLER, project_id, snapshot.id)
    await land.finish(operations)

    now = await seen(land, beside.branch)
    async with land.database.reading() as tx:
        rows = await tx.fetch(
            """SELECT machine, coalesce(input -> 'recipe' ->> 'target_id', input ->> 'timeline_id', input ->> 'replaced_id')
                      AS aim FROM operation WHERE destroys(machine) IN ('branch', 'timeline')"""
        )
    assert {(row["machine"], row["aim"]) for row in rows} == {
        ("create_branch", child.branch.timeline_id),
        ("create_branch", beside.branch.timeline_id),
        ("take_snapshot", snapshot.timeline_id),
        ("finalize_restore", child.branch.id),
        ("restore_branch", now.timeline_id),
        ("delete_timeline", snapshot.timeline_id),
    }


@pytest.mark.parametrize(
    ("refuse", "told"),
    [
        (protection.refuse_delete, "cannot delete protected branch"),
        (protection.refuse_reset, "cannot reset protected branch"),
        (protection.refuse_archive, "cannot archive protected branch"),
    ],
)
def test_refusals(refuse, told: str) -> None:  # type: ignore[no-untyped-def]
    refuse(PLAIN)
    with pytest.raises(UnprocessableError) as refusal:
        refuse(PROTECTED)
    assert refusal.value.public == told


def test_an_expiry_is_refused_with_neons_code() -> None:
    protection.refuse_expiry(is_protected=False)
    with pytest.raises(BadRequestError) as refusal:
        protection.refuse_expiry(is_protected=True)
    assert refusal.value.code == "PROTECTED_BRANCH_EXPIRATION_NOT_ALLOWED"


def test_a_project_names_what_holds_it() -> None:
    protection.refuse_deleting_project([])
    with pytest.raises(UnprocessableError, match="main, prod"):
        protection.refuse_deleting_project(["main", "prod"])
    with pytest.raises(UnprocessableError, match=r"b0, b1, b2, b3, b4…$"):
        protection.refuse_deleting_project([f"b{number}" for number in range(100)])


def test_copying_a_protected_branch_takes_a_right_of_its_own() -> None:
    protection.require_copying(NOBODY_IN_PARTICULAR, PLAIN)
    protection.require_copying(replace(CALLER, grants=frozenset({Permission.BRANCH_CREATE_FROM_PROTECTED})), PROTECTED)
    for others in (NOBODY_IN_PARTICULAR, replace(CALLER, grants=frozenset({Permission.BRANCH_UNPROTECT}))):
        with pytest.raises(ForbiddenError, match="branch:create_from_protected"):
            protection.require_copying(others, PROTECTED)


@pytest.mark.parametrize(
    ("before", "after", "needed"),
    [
        (False, None, None),
        (True, None, None),
        (False, False, None),
        (True, True, None),
        (False, True, Permission.BRANCH_PROTECT),
        (True, False, Permission.BRANCH_UNPROTECT),
    ],
)
def test_changing_protection_takes_a_right_of_its_own(
    before: bool,
    after: bool | None,
    needed: Permission | None,
) -> None:
    branch = replace(PLAIN, is_protected=before)
    all_others = frozenset(Permission) - {needed}
    if needed is None:
        protection.require_protection_change(NOBODY_IN_PARTICULAR, branch, after)
        return
    with pytest.raises(ForbiddenError, match=needed.value):
        protection.require_protection_change(replace(CALLER, grants=all_others), branch, after)
    protection.require_protection_change(replace(CALLER, grants=frozenset({needed})), branch, after)


def test_every_role_of_a_child_that_could_log_in_gets_a_password_of_its_own() -> None:
    theirs = [
        role("neondb_owner"),
        role("made_by_sql"),
        role("group", can_login=False),
        role("without_password", None),
        role("cloister_admin"),
        role("neon_superuser"),
    ]
    assert protection.verifiers_of_child(theirs, is_source_protected=False) is None, "nothing is scrubbed"
    verifiers = protection.verifiers_of_child(theirs, is_source_protected=True)
    assert verifiers is not None
    assert verifiers.kept == {}
    assert [renewal.name for renewal in verifiers.renewed] == ["neondb_owner", "made_by_sql"]
    passwords = {renewal.password.reveal() for renewal in verifiers.renewed}
    assert len(passwords) == 2
    for renewal in verifiers.renewed:
        made, other = Verifier.parse(renewal.verifier), "npg_somethingElse1"
        assert str(Verifier.of_password(renewal.password.reveal(), salt=made.salt)) == renewal.verifier
        assert str(Verifier.of_password(other, salt=made.salt)) != renewal.verifier


def test_a_child_that_is_reset_keeps_its_own_passwords() -> None:
    theirs = [role("neondb_owner"), role("new_in_parent"), role("now_nologin", can_login=False)]
    own = {"neondb_owner": "SCRAM-SHA-256$own", "gone_in_parent": "SCRAM-SHA-256$x", "now_nologin": "SCRAM-SHA-256$y"}
    verifiers = protection.verifiers_after_restore(own, theirs, is_source_protected=True)
    assert verifiers is not None
    assert verifiers.kept == {"neondb_owner": "SCRAM-SHA-256$own"}
    assert [renewal.name for renewal in verifiers.renewed] == ["new_in_parent"]
    assert protection.verifiers_after_restore(own, theirs, is_source_protected=False) is None

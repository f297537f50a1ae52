"""Organizations, members and grants, over a real control database; what the API's role may do, and no more."""

import asyncio
from dataclasses import replace
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from cloister.base.clock import FakeClock
from cloister.base.database import Database, Transaction
from cloister.base.errors import (
    BadRequestError,
    BusyError,
    CloisterError,
    ConflictError,
    NotFoundError,
    PreconditionError,
    UnprocessableError,
)
from cloister.base.ids import OrgId, ProjectId
from cloister.control.calling import Caller
from cloister.control.organizations import store
from cloister.control.organizations.model import Invitation
from cloister.control.organizations.service import OrganizationService
from cloister.control.projects import store as projects
from cloister.control.projects.model import Project
from cloister.trust.access.keys import ApiKeys, NewKey
from cloister.trust.access.principals import Grant, Holder, Principal
from cloister.trust.audit.reader import events
from tests.fix_database import ControlDatabase

ADA, BOB, EVE = UUID(int=1), UUID(int=2), UUID(int=3)
HERE, THERE = OrgId("org-calm-forest-00000001"), OrgId("org-calm-forest-00000002")
SHOP, BLOG, THEIRS = (ProjectId(f"calm-forest-0000000{n}") for n in (1, 2, 3))
CALLER = Caller(Principal(ADA, 1, "ada@example.com", "Ada", {HERE: "admin"}), "req-1", "192.0.2.7")


@pytest.fixture
def service(database: Database) -> OrganizationService:
    return OrganizationService(database, FakeClock())


@pytest.fixture
def keys(database: Database) -> ApiKeys:
    return ApiKeys(database, FakeClock())


async def project(database: Database, project_id: ProjectId = SHOP) -> Project:
    async with database.reading() as tx:
        return await projects.get(tx, project_id)


async def log(database: Database) -> list[tuple[str, str, dict[str, Any]]]:
    async with database.reading() as tx:
        return [(it.event.action, it.event.resource, it.event.details) for it in reversed(await events(tx))]


async def roles(service: OrganizationService, org_id: OrgId = HERE) -> dict[str, str]:
    return {it.email: it.role for it in await service.members(org_id)}


async def protect(database: Database) -> None:
    async with database.transaction() as tx:
        await tx.execute("INSERT INTO timeline (id, project_id, state) VALUES ('timeline-0', $1, 'ready')", SHOP)
        await tx.execute(
            """INSERT INTO branch (id, project_id, timeline_id, name, is_default, state, is_protected)
               VALUES ('br-0', $1, 'timeline-0', 'main', true, 'ready', true)""",
            SHOP,
        )


async def work_on(database: Database, project_id: ProjectId) -> None:
    async with database.transaction() as tx:
        await tx.execute(
            """INSERT INTO operation (id, project_id, action, machine, status, step, input, resource, holds_resource,
                                      run_at, deadline_at, created_at, updated_at)
               VALUES ('1', $1, 'start_compute', 'start_compute', 'running', 'start', '{}', 'x', true,
                       now(), now(), now(), now())""",
            project_id,
        )


async def test_a_new_organization_has_who_made_it_as_its_admin(
    service: OrganizationService, database: Database
) -> None:
    made = await service.create(CALLER, "Acme")
    assert await roles(service, made.id) == {"ada@example.com": "admin"}
    assert [it.name for it in await service.find([made.id])] == ["Acme"]
    assert await log(database) == [("organization.create", "Acme", {})]


async def test_a_new_account_is_of_no_organization_and_its_key_opens_it(
    service: OrganizationService, keys: ApiKeys, database: Database
) -> None:
    made, key = await service.create_account(CALLER, "Zoe@example.com", "Zoe")
    principal = await keys.authenticate(key.reveal(), "::1")
    assert (principal.account_id, principal.memberships, principal.is_operator) == (made.id, {}, False)
    with pytest.raises(ConflictError):
        await service.create_account(CALLER, "zoe@EXAMPLE.com", "Zoe")
    for email in ("zoe", "zoe@", "z oe@example.com", "a\n@example.com", "@example.com"):
        with pytest.raises(BadRequestError):
            await service.create_account(CALLER, email, "Zoe")
    assert [it[:2] for it in await log(database)] == [("account.create", str(made.id))]
    assert key.reveal() not in str(await log(database))


async def test_who_is_invited_is_a_member_at_once(service: OrganizationService, database: Database) -> None:
    (joined,) = await service.invite(CALLER, HERE, [Invitation("EVE@example.com", "viewer")])
    assert (joined.account_id, joined.role) == (EVE, "viewer")
    assert await service.member(HERE, EVE) == joined
    assert await log(database) == [("member.add", str(EVE), {"email": "eve@example.com", "role": "viewer"})]


@pytest.mark.parametrize(
    ("second", "error"), [("nobody@example.com", UnprocessableError), ("bob@example.com", ConflictError)]
)
async def test_invitations_are_all_accepted_or_none(
    service: OrganizationService, database: Database, second: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await service.invite(CALLER, HERE, [Invitation("eve@example.com", "viewer"), Invitation(second, "viewer")])
    assert "eve@example.com" not in await roles(service)
    assert await log(database) == []


async def test_a_role_changes_and_both_are_recorded(service: OrganizationService, database: Database) -> None:
    assert (await service.change_role(CALLER, HERE, BOB, "viewer")).role == "viewer"
    details = {"email": "bob@example.com", "role": "viewer", "was": "editor"}
    assert await log(database) == [("member.update", str(BOB), details)]
    with pytest.raises(NotFoundError):
        await service.change_role(CALLER, THERE, BOB, "admin")


async def test_the_last_admin_stays_one(service: OrganizationService, database: Database) -> None:
    for attempt in (service.change_role(CALLER, HERE, ADA, "editor"), service.remove(CALLER, HERE, ADA)):
        with pytest.raises(UnprocessableError) as refused:
            await attempt
        assert refused.value.public == "cannot remove or downgrade the only admin of an organization"
    assert (await service.change_role(CALLER, HERE, ADA, "admin")).role == "admin"
    await service.change_role(CALLER, HERE, BOB, "admin")
    await service.remove(CALLER, HERE, ADA)
    assert await roles(service) == {"bob@example.com": "admin"}


async def test_two_admins_who_remove_each_other_leave_one(service: OrganizationService) -> None:
    await service.change_role(CALLER, HERE, BOB, "admin")
    outcomes = await asyncio.gather(
        service.remove(CALLER, HERE, ADA), service.remove(CALLER, HERE, BOB), return_exceptions=True
    )
    assert sorted(type(it).__name__ for it in outcomes) == ["NoneType", "UnprocessableError"]
    assert list((await roles(service)).values()) == ["admin"]


async def test_who_was_just_removed_is_not_recorded_as_removed_again(
    service: OrganizationService, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    removing = store.remove_member

    async def removed_meanwhile(tx: Transaction, org_id: OrgId, account_id: UUID) -> bool:
        async with database.transaction() as another:
            await removing(another, org_id, account_id)
        return await removing(tx, org_id, account_id)

    monkeypatch.setattr(store, "remove_member", removed_meanwhile)
    with pytest.raises(NotFoundError):
        await service.remove(CALLER, HERE, BOB)
    assert await log(database) == []


async def test_who_is_removed_loses_their_grants_and_finds_nothing_at_the_next_call(
    service: OrganizationService, keys: ApiKeys, database: Database
) -> None:
    bob = replace(CALLER, principal=replace(CALLER.principal, account_id=BOB))
    _, key = await keys.create(bob, NewKey(name="laptop"))
    await service.grant(CALLER, await project(database), "bob@example.com", "admin", may_add_members=False)
    before = await keys.authenticate(key.reveal(), "::1")
    assert (before.memberships, before.grants) == ({HERE: "editor"}, {SHOP: Grant(HERE, "admin")})
    await service.remove(CALLER, HERE, BOB)
    after = await keys.authenticate(key.reveal(), "::1")
    assert (after.memberships, after.grants) == ({}, {})
    assert await service.grants(SHOP) == []
    with pytest.raises(NotFoundError):
        await service.remove(CALLER, HERE, BOB)


async def test_a_grant_to_a_stranger_makes_a_collaborator_of_them(
    service: OrganizationService, database: Database
) -> None:
    granted = await service.grant(CALLER, await project(database), "Eve@example.com", "viewer", may_add_members=True)
    assert (await roles(service))["eve@example.com"] == "collaborator"
    assert await service.grants(SHOP) == [granted]
    again = await service.grant(CALLER, await project(database), "eve@example.com", "editor", may_add_members=False)
    assert (again.id, again.role) == (granted.id, "editor")
    revoked = await service.revoke_grant(CALLER, await project(database), granted.id)
    assert revoked.email == "eve@example.com"
    assert await service.grants(SHOP) == []
    with pytest.raises(NotFoundError):
        await service.revoke_grant(CALLER, await project(database), granted.id)
    assert [it[0] for it in await log(database)] == ["member.add", "access.grant", "access.grant", "access.revoke"]


async def test_a_grant_is_taken_back_only_through_its_own_project(
    service: OrganizationService, database: Database
) -> None:
    granted = await service.grant(CALLER, await project(database), "bob@example.com", "viewer", may_add_members=False)
    with pytest.raises(NotFoundError):
        await service.revoke_grant(CALLER, await project(database, THEIRS), granted.id)
    assert await service.grants(SHOP) == [granted]


async def test_a_members_role_in_a_project_is_the_grant_that_permissions_lists(
    service: OrganizationService, database: Database
) -> None:
    shop = await project(database)
    for _ in range(2):
        changed = await service.set_project_role(CALLER, shop, BOB, "admin", is_sure=False)
    assert (changed.standing.effective, changed.standing.source) == ("admin", "explicit")
    assert [(it.email, it.role) for it in await service.grants(SHOP)] == [("bob@example.com", "admin")]
    for _ in range(2):
        changed = await service.set_project_role(CALLER, shop, BOB, None, is_sure=False)
    assert (changed.standing.effective, changed.standing.source) == ("editor", "org_role_default")
    assert await service.grants(SHOP) == []
    with pytest.raises(NotFoundError):
        await service.set_project_role(CALLER, shop, EVE, "viewer", is_sure=False)
    told = [(action, details["role"], details["was"]) for action, _, details in await log(database)]
    assert told == [
        ("access.grant", "admin", None),
        ("access.grant", "admin", "admin"),
        ("access.revoke", None, "admin"),
        ("access.revoke", None, None),
    ]


async def test_of_those_who_may_nothing_only_who_grants_is_told(
    service: OrganizationService, database: Database
) -> None:
    await service.invite(CALLER, HERE, [Invitation("eve@example.com", "collaborator")])
    shop = await project(database)
    some = await service.standings(shop, and_without_access=False)
    everybody = await service.standings(shop, and_without_access=True)
    assert [it.email for it in some] == ["ada@example.com", "bob@example.com"]
    assert [it.email for it in everybody if it not in some] == ["eve@example.com"]


async def test_nobody_lowers_themselves_by_mistake(service: OrganizationService, database: Database) -> None:
    shop = await project(database)
    bob = replace(CALLER, principal=Principal(BOB, 2, "bob@example.com", "Bob", {HERE: "editor"}))
    await service.set_project_role(CALLER, shop, BOB, "admin", is_sure=False)
    with pytest.raises(PreconditionError):
        await service.set_project_role(bob, shop, BOB, None, is_sure=False)
    assert [it.role for it in await service.grants(SHOP)] == ["admin"], "nothing was changed"
    assert (await service.set_project_role(bob, shop, BOB, "editor", is_sure=True)).standing.effective == "editor"
    # An organization's admin keeps what they may, whatever is granted: nothing to confirm.
    assert (await service.set_project_role(CALLER, shop, ADA, "viewer", is_sure=False)).standing.effective == "admin"
    assert (await service.set_project_role(CALLER, shop, ADA, None, is_sure=False)).standing.effective == "admin"


async def test_who_loses_a_role_may_still_have_passwords_and_keys(
    service: OrganizationService, keys: ApiKeys, database: Database
) -> None:
    await service.change_role(CALLER, HERE, BOB, "collaborator")
    shop = await project(database)
    bob = replace(CALLER, principal=Principal(BOB, 2, "bob@example.com", "Bob", {HERE: "editor"}))
    await keys.create(bob, NewKey(name="ci", org_id=HERE, project_id=SHOP))

    async def hints(role: Any) -> tuple[bool, bool]:
        changed = await service.set_project_role(CALLER, shop, BOB, role, is_sure=False)
        return changed.knows_passwords, changed.made_keys

    assert await hints("admin") == (False, False)
    assert await hints("editor") == (False, True)
    assert await hints("viewer") == (True, True)
    assert await hints(None) == (False, True)


async def test_without_the_right_to_add_members_nobody_learns_who_has_an_account(
    service: OrganizationService, database: Database
) -> None:
    answers = set()
    for email in ("eve@example.com", "nobody@example.com"):
        with pytest.raises(UnprocessableError) as refused:
            await service.grant(CALLER, await project(database), email, "viewer", may_add_members=False)
        answers.add(refused.value.public.replace(email, ""))
    assert len(answers) == 1
    assert "eve@example.com" not in await roles(service)


async def test_a_project_moves_and_leaves_grants_and_keys_behind(
    service: OrganizationService, keys: ApiKeys, database: Database
) -> None:
    await service.grant(CALLER, await project(database), "bob@example.com", "admin", may_add_members=False)
    created, key = await keys.create(CALLER, NewKey(name="ci", org_id=HERE, project_id=SHOP))
    assert (await keys.authenticate(key.reveal(), "::1")).holder is Holder.PROJECT
    await service.transfer(CALLER, HERE, THERE, [SHOP, BLOG, SHOP])
    assert {(await project(database, it)).org_id for it in (SHOP, BLOG)} == {THERE}
    assert await service.grants(SHOP) == []
    with pytest.raises(CloisterError):
        await keys.authenticate(key.reveal(), "::1")
    assert created.id not in [it.id for it in await keys.find_of(HERE)]
    moved = [it for it in await log(database) if it[0] == "project.transfer"]
    assert [it[2] for it in moved] == [{"destination_org_id": THERE}] * 2


async def test_a_transfer_is_all_or_nothing(service: OrganizationService, database: Database) -> None:
    with pytest.raises(NotFoundError):
        await service.transfer(CALLER, HERE, THERE, [SHOP, THEIRS])
    assert (await project(database)).org_id == HERE
    for wrong in ([], [SHOP] * 401):
        with pytest.raises(BadRequestError):
            await service.transfer(CALLER, HERE, THERE, wrong)
    with pytest.raises(BadRequestError):
        await service.transfer(CALLER, HERE, HERE, [SHOP])
    assert await log(database) == []


async def test_a_project_with_a_protected_branch_does_not_move(
    service: OrganizationService, database: Database
) -> None:
    await protect(database)
    with pytest.raises(UnprocessableError) as refused:
        await service.transfer(CALLER, HERE, THERE, [SHOP])
    assert refused.value.public == "cannot transfer project with protected branches"
    with pytest.raises(UnprocessableError):
        async with database.transaction() as tx:
            await tx.execute("UPDATE project SET org_id = $2 WHERE id = $1", SHOP, THERE)


async def test_of_another_organizations_project_nobody_learns_that_it_is_busy_or_protected(
    service: OrganizationService, database: Database
) -> None:
    await protect(database)
    await work_on(database, SHOP)
    with pytest.raises(NotFoundError) as refused:
        await service.transfer(CALLER, THERE, HERE, [SHOP])
    with pytest.raises(NotFoundError) as unknown:
        await service.transfer(CALLER, THERE, HERE, [ProjectId("calm-forest-99999999")])
    assert refused.value.public == unknown.value.public
    with pytest.raises(BusyError):
        await service.transfer(CALLER, HERE, THERE, [SHOP])


async def test_a_grant_without_a_membership_cannot_be(database: Database) -> None:
    """Whatever the code does."""
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        async with database.transaction() as tx:
            await tx.execute(
                "INSERT INTO project_grant VALUES (gen_random_uuid(), $1, $2, $3, 'admin', $4)", SHOP, HERE, EVE, ADA
            )
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        async with database.transaction() as tx:
            await tx.execute(
                "INSERT INTO project_grant VALUES (gen_random_uuid(), $1, $2, $3, 'admin', $4)", THEIRS, HERE, BOB, ADA
            )


async def test_no_process_switches_the_rule_about_admins_off(control_database: ControlDatabase) -> None:
    connection = await asyncpg.connect(control_database.url("cloister_api"))
    try:
        for statement in (
            "TRUNCATE cloister.membership",
            "ALTER TABLE cloister.membership DISABLE TRIGGER admin_remains",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
    finally:
        await connection.close()

"""The verbs on roles and databases."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from cloister.base.errors import (
    BusyError,
    ConflictError,
    InternalError,
    NotFoundError,
    PreconditionError,
    UnavailableError,
    UnprocessableError,
)
from cloister.base.ids import BranchId
from cloister.base.secret import Secret
from cloister.control.branches.model import Point
from cloister.control.operations.model import Status
from cloister.control.projects.model import NewProject
from cloister.control.roles.passwords import Vault
from cloister.control.roles.server import RoleState
from cloister.protocol.scram import Verifier
from tests.control.branches.scenes import branched
from tests.control.computes.test_reconcile import VERIFIER
from tests.control.land import CALLER, Land

STRANGE = ['a"b', "a'; DROP TABLE x; --", "ünï-çødé", "🦜" * 15, "x" * 63, "../../etc/passwd", "%I $1 \\", " "]


@pytest.mark.parametrize("name", STRANGE)
@pytest.mark.parametrize("is_asleep", [True, False])
async def test_a_role_is_made_with_a_password_that_opens_it(land: Land, name: str, is_asleep: bool) -> None:
    created = await (land.sleeping_project() if is_asleep else land.project())
    where = created.project.id, created.branch.id
    changed = await land.control.roles.create(CALLER, *where, name, can_login=True)
    assert changed.password.reveal().startswith("npg_")
    route = await land.look_up(created.endpoint.id, name)
    if is_asleep and route.socket_dir is None:
        assert Verifier.parse(route.verifier).matches_password(changed.password.reveal()), "good at once"
    await land.finish(changed.operations)
    role = land.node.catalog_of(created.endpoint.id).roles[name]
    assert role.can_login
    assert Verifier.parse(role.verifier or "").matches_password(changed.password.reveal())
    assert (await land.control.roles.get(*where, name)).name == name
    land.clock.advance(timedelta(seconds=1))
    assert (await land.look_up(created.endpoint.id, name)).verifier == role.verifier


async def test_a_role_and_a_database_can_be_asked_for_before_the_project_is_ready(land: Land) -> None:
    created = await land.control.projects.create(CALLER, NewProject())
    where = created.project.id, created.branch.id
    changed = await land.control.roles.create(CALLER, *where, "ada", can_login=True)
    await land.finish(created.operations + changed.operations)
    _, operations = await land.control.databases.create(CALLER, *where, "shop", "ada")
    await land.finish(operations)
    assert land.node.catalog_of(created.endpoint.id).databases == {"neondb": "neondb_owner", "shop": "ada"}


@pytest.mark.parametrize(
    ("what", "is_of_the_past"), [("role", False), ("role", True), ("password", False), ("database", False)]
)
async def test_what_is_asked_for_before_a_branch_is_ready_is_not_forgotten(
    land: Land, what: str, is_of_the_past: bool
) -> None:
    """What its data holds is written down in between."""
    created = await land.project()
    land.clock.advance(timedelta(seconds=1))
    land.node.write(created.endpoint.id, "one")
    is_going_on = asyncio.Event()

    async def wait(command: Any) -> None:
        if type(command).__name__ in ("CopyTimeline", "RecoverTimeline"):
            await is_going_on.wait()

    land.node.before = wait
    point = Point(at=land.clock.now()) if is_of_the_past else Point()
    child = await branched(land, created, finish=False, point=point)
    where = created.project.id, child.branch.id
    name, password = "ada", None
    match what:
        case "role":
            changed = await land.control.roles.create(CALLER, *where, name, can_login=True)
            operations, password = changed.operations, changed.password
        case "password":
            name = created.role.name
            changed = await land.control.roles.reset_password(CALLER, *where, name)
            operations, password = changed.operations, changed.password
        case _:
            _, operations = await land.control.databases.create(CALLER, *where, "shop", created.role.name)
    is_going_on.set()
    await land.finish_later(child.operations + operations)
    catalog = land.node.catalog_of(child.endpoints[0].id)
    known = {role.name: role.verifier for role in await land.control.roles.find(*where)}
    assert known == {role.name: role.verifier for role in catalog.roles.values()}
    assert password is None or Verifier.parse(known[name]).matches_password(password.reveal())
    databases = {database.name: database.owner_name for database in await land.control.databases.find(*where)}
    assert databases == catalog.databases


async def test_a_client_that_wakes_a_branch_finds_what_was_asked_for(land: Land) -> None:
    created = await land.sleeping_project()
    await land.control.roles.create(CALLER, created.project.id, created.branch.id, "ada", can_login=True)
    await land.plane.waker.wake(created.endpoint.id)
    assert "ada" in land.node.catalog_of(created.endpoint.id).roles


async def test_reset_gives_a_new_password_and_the_old_one_is_good_until_then(land: Land) -> None:
    created = await land.project()
    where = created.project.id, created.branch.id
    land.node.deaf.add(created.endpoint.id)
    changed = await land.control.roles.reset_password(CALLER, *where, "neondb_owner")
    old = land.node.catalog_of(created.endpoint.id).roles["neondb_owner"].verifier
    assert old == created.role.verifier
    land.node.deaf.clear()
    await land.finish_later(changed.operations)
    new = land.node.catalog_of(created.endpoint.id).roles["neondb_owner"].verifier
    assert new is not None
    assert Verifier.parse(new).matches_password(changed.password.reveal())
    assert not Verifier.parse(new).matches_password(created.password.reveal())


async def test_a_role_that_was_made_by_sql_is_not_taken_for_ours(land: Land) -> None:
    created = await land.project()
    roles = land.node.catalog_of(created.endpoint.id).roles
    roles["ada"] = RoleState("ada", VERIFIER, can_login=True, valid_until=None)
    changed = await land.control.roles.create(CALLER, created.project.id, created.branch.id, "ada", can_login=True)
    await land.finish(changed.operations, Status.FAILED)
    assert roles["ada"].verifier == VERIFIER
    with pytest.raises(NotFoundError):
        await land.control.roles.get(created.project.id, created.branch.id, "ada")


@pytest.mark.parametrize("name", ["pg_x", "cloister_admin", "neon_superuser", "public", "postgres"])
async def test_reserved_role_names_are_refused(land: Land, name: str) -> None:
    created = await land.project()
    with pytest.raises(UnprocessableError):
        await land.control.roles.create(CALLER, created.project.id, created.branch.id, name, can_login=True)


async def test_what_is_there_what_is_not_and_what_still_owns(land: Land) -> None:
    created = await land.project()
    where = created.project.id, created.branch.id
    with pytest.raises(ConflictError):
        await land.control.roles.create(CALLER, *where, "neondb_owner", can_login=True)
    with pytest.raises(NotFoundError):
        await land.control.roles.reset_password(CALLER, *where, "nobody")
    with pytest.raises(NotFoundError):
        await land.control.roles.delete(CALLER, *where, "nobody")
    with pytest.raises(NotFoundError):
        await land.control.roles.find(created.project.id, BranchId("br-no-such-00000000"))
    with pytest.raises(UnprocessableError):
        await land.control.roles.delete(CALLER, *where, "neondb_owner")
    with pytest.raises(NotFoundError):
        await land.control.databases.create(CALLER, *where, "shop", "nobody")
    with pytest.raises(ConflictError):
        await land.control.databases.create(CALLER, *where, "neondb", "neondb_owner")
    with pytest.raises(UnprocessableError):
        await land.control.databases.create(CALLER, *where, "template1", "neondb_owner")


async def test_two_changes_at_once_are_one_too_many(land: Land) -> None:
    created = await land.project()
    where = created.project.id, created.branch.id
    land.node.deaf.add(created.endpoint.id)
    await land.control.roles.create(CALLER, *where, "ada", can_login=True)
    with pytest.raises(BusyError):
        await land.control.roles.create(CALLER, *where, "grace", can_login=True)
    with pytest.raises(NotFoundError):
        await land.control.roles.get(*where, "grace")


async def test_a_branch_without_a_writer_cannot_be_changed(land: Land) -> None:
    created = await land.project()
    _, operations = await land.control.endpoints.delete(CALLER, created.project.id, created.endpoint.id)
    await land.finish(operations)
    with pytest.raises(UnprocessableError):
        await land.control.roles.create(CALLER, created.project.id, created.branch.id, "ada", can_login=True)


async def test_databases_are_made_changed_and_dropped(land: Land) -> None:
    created = await land.project()
    where = created.project.id, created.branch.id
    changed = await land.control.roles.create(CALLER, *where, "ada", can_login=True)
    await land.finish(changed.operations)
    made, operations = await land.control.databases.create(CALLER, *where, "shop", "neondb_owner")
    await land.finish(operations)
    databases = land.node.catalog_of(created.endpoint.id).databases
    assert databases["shop"] == "neondb_owner"
    updated, operations = await land.control.databases.update(
        CALLER, *where, "shop", new_name="store", owner_name="ada"
    )
    await land.finish(operations)
    assert (updated.id, databases["store"], "shop" in databases) == (made.id, "ada", False)
    _, operations = await land.control.databases.update(CALLER, *where, "store", new_name=None, owner_name=None)
    assert operations == []
    _, operations = await land.control.databases.delete(CALLER, *where, "store")
    await land.finish(operations)
    assert databases == {"neondb": "neondb_owner"}
    with pytest.raises(NotFoundError):
        await land.control.databases.get(*where, "store")
    _, operations = await land.control.roles.delete(CALLER, *where, "ada")
    await land.finish(operations)
    assert "ada" not in land.node.catalog_of(created.endpoint.id).roles


async def test_a_role_without_login_has_no_password_to_show(land: Land) -> None:
    created = await land.project(store_passwords=True)
    where = created.project.id, created.branch.id
    changed = await land.control.roles.create(CALLER, *where, "group", can_login=False)
    assert changed.password is None
    await land.finish(changed.operations)
    land.clock.advance(timedelta(seconds=1))
    assert (await land.look_up(created.endpoint.id, "group")).is_doomed
    with pytest.raises(PreconditionError):
        await land.control.roles.reveal_password(CALLER, *where, "group")


async def test_passwords_are_revealed_only_where_they_are_stored(land: Land) -> None:
    without = await land.project()
    with pytest.raises(PreconditionError) as refused:
        await land.control.roles.reveal_password(CALLER, without.project.id, without.branch.id, "neondb_owner")
    assert refused.value.public == "Storing passwords is disabled"

    storing = await land.project(store_passwords=True)
    where = storing.project.id, storing.branch.id
    revealed = await land.control.roles.reveal_password(CALLER, *where, "neondb_owner")
    assert revealed.reveal() == storing.password.reveal()
    assert (await land.actions())[-1] == "role.reveal_password"

    # Changed by SQL: what is stored opens nothing any more, and is forgotten with the next copy.
    roles = land.node.catalog_of(storing.endpoint.id).roles
    roles["neondb_owner"] = RoleState("neondb_owner", VERIFIER, can_login=True, valid_until=None)
    _, operations = await land.control.endpoints.suspend(CALLER, storing.project.id, storing.endpoint.id)
    await land.finish(operations)
    with pytest.raises(PreconditionError):
        await land.control.roles.reveal_password(CALLER, *where, "neondb_owner")


async def test_a_password_is_in_one_answer_and_in_no_row(land: Land) -> None:
    """In clear nowhere, and sealed only where the project asked for it: shown once."""
    created = await land.project()
    where = created.project.id, created.branch.id
    made = await land.control.roles.create(CALLER, *where, "ada", can_login=True)
    await land.finish(made.operations)
    renewed = await land.control.roles.reset_password(CALLER, *where, "ada")
    await land.finish(renewed.operations)
    assert await sealed_passwords(land) == 0
    rows = await everything(land)
    assert "ada" in rows
    for password in (created.password, made.password, renewed.password):
        assert password.reveal() not in rows
        assert password.reveal().encode().hex() not in rows
    await land.project(store_passwords=True)
    assert await sealed_passwords(land) == 1


async def sealed_passwords(land: Land) -> int:
    async with land.database.reading() as tx:
        found: int = await tx.fetch_value("SELECT count(password) FROM pg_role")
        return found


async def everything(land: Land) -> str:
    """All rows of the control database, as text; bytes are hexadecimal."""
    async with land.database.reading() as tx:
        tables = await tx.fetch(
            "SELECT c.oid::regclass::text AS name FROM pg_class c WHERE c.relnamespace = current_schema()::regnamespace"
            " AND c.relkind = 'r' AND has_table_privilege(c.oid, 'SELECT')"
        )
        return "\n".join(
            [
                await tx.fetch_value(f"SELECT coalesce(string_agg(t::text, '\n'), '') FROM {it['name']} t")
                for it in tables
            ]
        )


def test_a_sealed_password_opens_in_its_own_place_only() -> None:
    vault = Vault(Secret(b"k" * 32))
    branch, other = BranchId("br-a-b-00000000"), BranchId("br-a-b-00000001")
    sealed = vault.seal(branch, "ada", Secret("npg_x"))
    assert vault.open(branch, "ada", sealed).reveal() == "npg_x"
    assert b"npg_x" not in sealed
    for place, role in [(other, "ada"), (branch, "grace")]:
        with pytest.raises(InternalError):
            vault.open(place, role, sealed)
    with pytest.raises(InternalError):
        Vault(Secret(b"j" * 32)).open(branch, "ada", sealed)


async def test_a_change_waits_for_a_compute_that_does_not_start_yet(land: Land) -> None:
    created = await land.sleeping_project()
    land.node.failing["StartCompute"] = UnavailableError("later")
    changed = await land.control.roles.create(CALLER, created.project.id, created.branch.id, "ada", can_login=True)
    del land.node.failing["StartCompute"]
    await land.finish_later(changed.operations)
    assert "ada" in land.node.catalog_of(created.endpoint.id).roles


async def test_a_change_that_cannot_be_is_taken_back_where_no_compute_starts_either(land: Land) -> None:
    """Or a password that no server has would be good while the branch sleeps, and a role that nobody made would be told."""
    created = await land.sleeping_project()
    where = created.project.id, created.branch.id
    land.node.failing["StartCompute"] = PreconditionError(public="the key of this project is disabled")
    reset = await land.control.roles.reset_password(CALLER, *where, created.role.name)
    await land.finish(reset.operations, Status.FAILED)
    made = await land.control.roles.create(CALLER, *where, "ada", can_login=True)
    await land.finish(made.operations, Status.FAILED)
    _, operations = await land.control.databases.create(CALLER, *where, "shop", created.role.name)
    await land.finish(operations, Status.FAILED)
    assert (await land.look_up(created.endpoint.id, created.role.name)).verifier == created.role.verifier
    assert [role.name for role in await land.control.roles.find(*where)] == [created.role.name]
    assert [database.name for database in await land.control.databases.find(*where)] == [created.database.name]


async def test_roles_of_all_branches_that_are_there_are_told_together(land: Land) -> None:
    created, other = await land.project(), await land.project()
    child = await branched(land, created, name="dev")
    told = await land.control.roles.find_all(created.project.id)
    owners = {role.branch_id: role.verifier for role in told if role.name == "neondb_owner"}
    assert set(owners) == {created.branch.id, child.branch.id}
    assert owners[created.branch.id] == owners[child.branch.id], "what the advisors warn of"
    _, operations = await land.control.branches.delete(CALLER, created.project.id, child.branch.id)
    await land.finish(operations)
    assert {role.branch_id for role in await land.control.roles.find_all(created.project.id)} == {created.branch.id}
    _, operations = await land.control.projects.delete(CALLER, other.project.id)
    await land.finish(operations)
    assert await land.control.roles.find_all(other.project.id) == []

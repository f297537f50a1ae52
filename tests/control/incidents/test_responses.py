"""What an operator does about a finding, and whether what is said of it is so."""

import pytest

from cloister.base.errors import UnavailableError
from cloister.base.ids import OperationId
from cloister.control.computes import holds
from cloister.control.incidents.model import Response
from cloister.control.operations.model import Operation
from cloister.control.services import ProjectCreated
from tests.control.land import CALLER, Land
from tests.fix_database import DatabaseAs

FINDING = "fd-000000000001"


async def found(database_as: DatabaseAs, created: ProjectCreated) -> None:
    """Something about the project's endpoint, and no role of it."""
    database = await database_as("cloister_sentinel")
    async with database.transaction() as tx:
        await tx.execute(
            """INSERT INTO finding (id, rule, level, title, summary, response, fingerprint, subject, first_seq, last_seq,
                                    first_at, last_at)
               VALUES ($1, 'r', 'high', 't', 's', 'r', 'f',
                       jsonb_build_object('project_id', $2::text, 'endpoint_id', $3::text), 1, 1, '', '')""",
            FINDING,
            created.project.id,
            created.endpoint.id,
        )


async def test_the_passwords_of_all_roles_are_changed(land: Land, database_as: DatabaseAs) -> None:
    """One operation at a time works on an endpoint."""
    created = await land.project()
    made = await land.control.roles.create(CALLER, created.project.id, created.branch.id, "ada", can_login=True)
    await land.finish(made.operations)
    await found(database_as, created)
    catalog = land.node.catalog_of(created.endpoint.id)
    before = {name: role.verifier for name, role in catalog.roles.items()}
    responded = await land.control.incidents.respond(CALLER, FINDING, Response.ROTATE_CREDENTIALS)
    assert len(before) == len(responded.done) == 2
    assert all("is worth nothing" in each for each in responded.done)
    assert all(role.verifier != before[name] for name, role in catalog.roles.items())


async def test_a_password_that_could_not_be_changed_is_not_said_to_be(land: Land, database_as: DatabaseAs) -> None:
    created = await land.sleeping_project()
    await found(database_as, created)
    async with land.database.transaction() as tx:
        await holds.put(tx, created.project.id, finding_id=FINDING, held_by="operator")
    responded = await land.control.incidents.respond(CALLER, FINDING, Response.ROTATE_CREDENTIALS)
    (said,) = responded.done
    assert "could not be changed" in said
    assert land.node.catalog_of(created.endpoint.id).roles[created.role.name].verifier == created.role.verifier


async def test_one_role_that_takes_long_keeps_no_other_from_being_changed(
    land: Land, database_as: DatabaseAs, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = await land.project()
    made = await land.control.roles.create(CALLER, created.project.id, created.branch.id, "ada", can_login=True)
    await land.finish(made.operations)
    await found(database_as, created)
    wait, asked = land.plane.engine.wait, []

    async def slowly(operation_id: OperationId, *, timeout_s: float) -> Operation:
        asked.append(operation_id)
        ended = await wait(operation_id, timeout_s=timeout_s)
        if len(asked) == 1:
            raise UnavailableError("it is not done yet")
        return ended

    monkeypatch.setattr(land.plane.engine, "wait", slowly)
    first, second = (await land.control.incidents.respond(CALLER, FINDING, Response.ROTATE_CREDENTIALS)).done
    assert "is not changed, so far as is known" in first
    assert "is worth nothing" in second

"""Every machine of roles and databases, crashed everywhere."""

from typing import Any

import pytest

from cloister.control.operations.machine import Machine
from cloister.control.roles import store
from cloister.control.roles.operations import (
    CHANGE_DATABASE,
    CREATE_DATABASE,
    CREATE_ROLE,
    DROP_DATABASE,
    DROP_ROLE,
    SET_PASSWORD,
    RolesWorld,
)
from cloister.control.roles.server import RoleState
from tests.control.computes.test_reconcile import VERIFIER
from tests.control.land import Land
from tests.crashes import Case, every_step_survives_a_crash

NEW_VERIFIER = VERIFIER.replace("$MDEy", "$MTIz")
BY_SQL = VERIFIER.replace("$MDEy", "$MjM0")

INPUTS: dict[str, dict[str, Any]] = {
    CREATE_ROLE.name: {"name": "grace", "can_login": True},
    SET_PASSWORD.name: {"name": "ada"},
    DROP_ROLE.name: {"name": "ada"},
    CREATE_DATABASE.name: {"name": "fresh", "owner_name": "ada"},
    CHANGE_DATABASE.name: {"name": "shop", "new_name": "store", "owner_name": "ada", "old_owner_name": "neondb_owner"},
    DROP_DATABASE.name: {"name": "shop"},
}


class Cases:
    """A running branch with a role `ada` and a database `shop`; what the API's verb writes is written."""

    def __init__(self, land: Land, machine: Machine[RolesWorld]) -> None:
        self._land = land
        self._machine = machine

    async def __call__(self) -> Case[RolesWorld]:
        land = self._land
        created = await land.project()
        branch_id = created.branch.id
        catalog = land.node.catalog_of(created.endpoint.id)
        # The tenant has changed the password by SQL since the copy was made: taking back must bring back this one.
        catalog.roles["ada"] = RoleState("ada", BY_SQL, can_login=True, valid_until=None)
        catalog.roles["neondb_owner"] = RoleState("neondb_owner", VERIFIER, can_login=True, valid_until=None)
        catalog.databases["shop"] = "neondb_owner"
        async with land.database.transaction() as tx:
            await store.add_role(tx, branch_id, "ada", pending_verifier=VERIFIER, can_login=True, sealed=None)
            await store.settle_verifier(tx, branch_id, "ada")
            await store.add_database(tx, branch_id, "shop", "neondb_owner")
            match self._machine.name:
                case CREATE_ROLE.name:
                    await store.add_role(
                        tx, branch_id, "grace", pending_verifier=NEW_VERIFIER, can_login=True, sealed=None
                    )
                case SET_PASSWORD.name:
                    await store.ask_verifier(tx, branch_id, "ada", NEW_VERIFIER, None)
                case CREATE_DATABASE.name:
                    await store.add_database(tx, branch_id, "fresh", "ada")
                case CHANGE_DATABASE.name:
                    await store.change_database(tx, branch_id, "shop", new_name="store", owner_name="ada")

        async def look() -> Any:
            async with land.database.reading() as tx:
                pending = [role.name for role in await store.roles_of(tx, branch_id) if role.verifier == NEW_VERIFIER]
            return {
                "roles": {role.name: role.verifier for role in catalog.roles.values()},
                "databases": dict(catalog.databases),
                # A row that promises what the server does not have, or the other way round.
                "promises kept": [name for name in pending if name in catalog.roles
                                  and catalog.roles[name].verifier == NEW_VERIFIER],
            }  # fmt: skip

        return Case(
            world=RolesWorld(land.database, land.plane.waker),
            input=INPUTS[self._machine.name],
            look=look,
            project_id=created.project.id,
            branch_id=branch_id,
            endpoint_id=created.endpoint.id,
            resource=f"trial:{created.endpoint.id}",
        )


@pytest.mark.parametrize(
    "machine",
    [CREATE_ROLE, SET_PASSWORD, DROP_ROLE, CREATE_DATABASE, CHANGE_DATABASE, DROP_DATABASE],
    ids=lambda machine: machine.name,
)
async def test_survives_crashes(still_land: Land, machine: Machine[RolesWorld]) -> None:
    await every_step_survives_a_crash(machine, Cases(still_land, machine), still_land.database)

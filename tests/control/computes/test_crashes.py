"""Every machine of endpoints, crashed everywhere."""

from typing import Any

import pytest

from cloister.control.computes.operations import DELETE, DOZE, FIRST_START, START, SUSPEND, ComputesWorld
from cloister.control.computes.runner import Cause
from cloister.control.operations.machine import Machine
from cloister.control.projects.model import NewProject
from cloister.control.roles.names import TEMPLATE_DATABASE, TEMPLATE_ROLE
from tests.control.land import CALLER, Land
from tests.crashes import Case, every_step_survives_a_crash


class Cases:
    def __init__(self, land: Land, machine: Machine[ComputesWorld]) -> None:
        self._land = land
        self._machine = machine

    async def __call__(self) -> Case[ComputesWorld]:
        land, machine = self._land, self._machine
        if machine is FIRST_START:
            # Everything but the first start itself: its operation is the one under trial.
            created = await land.control.projects.create(CALLER, NewProject(role_name="ada", database_name="shop"))
            async with land.database.transaction() as tx:
                await tx.execute("DELETE FROM operation WHERE endpoint_id = $1", created.endpoint.id)
            await land.settle()
        else:
            created = await land.project()
            if machine is START:
                await land.plane.suspender.at_once(created.endpoint.id, CAUSE)

        async def look() -> Any:
            row = await land.row(created.endpoint.id)
            runs = created.endpoint.id in land.node.computes
            catalog = land.node.images[created.project.id].catalog
            is_configured = catalog.roles.get("ada") is not None and catalog.databases.get("shop") == "ada"
            return {
                "runs": runs,
                "row": (row["state"], row["socket_dir"] is not None),
                # What a failed first start has renamed is found again by the next one.
                "configured": is_configured if runs else None,
                "template": {TEMPLATE_ROLE, TEMPLATE_DATABASE} & {*catalog.roles, *catalog.databases} if runs else None,
                "is_open": land.node.images[created.project.id].is_open,
            }

        plane = land.plane
        return Case(
            world=ComputesWorld(
                land.database, plane.runner, plane.suspender, plane.sessions, plane.gateways, plane.standbys
            ),
            input={},
            look=look,
            project_id=created.project.id,
            branch_id=created.branch.id,
            endpoint_id=created.endpoint.id,
            resource=f"trial:{created.endpoint.id}",
        )


CAUSE = Cause("test", "test")


@pytest.mark.parametrize("machine", [FIRST_START, START, SUSPEND, DOZE, DELETE], ids=lambda machine: machine.name)
async def test_survives_crashes(still_land: Land, machine: Machine[ComputesWorld]) -> None:
    await every_step_survives_a_crash(machine, Cases(still_land, machine), still_land.database)

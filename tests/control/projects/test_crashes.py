"""Every machine of projects, crashed everywhere."""

from typing import Any

import pytest

from cloister.control.operations.machine import Machine
from cloister.control.projects.model import NewProject
from cloister.control.projects.operations import CREATE_PROJECT, MACHINES, ProjectsWorld
from tests.control.land import CALLER, Land
from tests.crashes import Case, every_step_survives_a_crash


class Cases:
    def __init__(self, land: Land, machine: Machine[ProjectsWorld]) -> None:
        self._land = land
        self._machine = machine

    async def __call__(self) -> Case[ProjectsWorld]:
        land = self._land
        if self._machine is CREATE_PROJECT:
            created = await land.control.projects.create(CALLER, NewProject())
            async with land.database.transaction() as tx:
                await tx.execute("DELETE FROM operation WHERE project_id = $1", created.project.id)
        else:
            created = await land.project()

        async def look() -> Any:
            async with land.database.reading() as tx:
                state = await tx.fetch_value(
                    "SELECT state FROM branch WHERE id = $1 AND deleted_at IS NULL", created.branch.id
                )
            return {
                "key": created.project.id in land.keys.enabled,
                "volume": created.project.id in land.node.images,
                "runs": created.endpoint.id in land.node.computes,
                "is_ready": state == "ready",
            }

        return Case(
            world=ProjectsWorld(land.database, land.node, land.keys, land.plane.runner, land.plane.suspender),
            input={},
            look=look,
            project_id=created.project.id,
            resource=f"trial:{created.project.id}",
        )


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
async def test_survives_crashes(still_land: Land, machine: Machine[ProjectsWorld]) -> None:
    await every_step_survives_a_crash(machine, Cases(still_land, machine), still_land.database)

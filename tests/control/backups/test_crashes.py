"""The machine that brings a whole project back, crashed everywhere."""

from typing import Any

from cloister.control.backups.operations import RESTORE_PROJECT, BackupsWorld, work_for
from tests.control.backups.office import Office, a_project
from tests.control.land import Land
from tests.crashes import Case, every_step_survives_a_crash


async def test_survives_crashes(still_land: Land) -> None:
    office = Office(still_land)

    async def a_case() -> Case[BackupsWorld]:
        created = await a_project(office)
        await office.look()
        still_land.node.cut_power()
        del still_land.node.images[created.project.id]
        async with still_land.database.reading() as tx:
            work = await work_for(tx, created.project.id)

        async def look() -> Any:
            timeline = still_land.node.find_timeline(created.branch.timeline_id)
            return {
                "volume": created.project.id in still_land.node.images,
                "words": None if timeline is None else timeline.words(),
                "runs": created.endpoint.id in still_land.node.computes,
            }

        world = BackupsWorld(
            still_land.database, still_land.node, still_land.keys, still_land.plane.runner, office.keeper.is_back
        )
        return Case(
            world=world,
            input={"timelines": work},
            look=look,
            project_id=created.project.id,
            resource=f"trial:{created.project.id}",
        )

    await every_step_survives_a_crash(RESTORE_PROJECT, a_case, still_land.database)

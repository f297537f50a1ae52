"""What the operator holds because of findings: until the last of them is released."""

from cloister.control.computes import holds
from tests.control.land import Land


async def test_what_two_findings_hold_is_held_until_both_are_released(land: Land) -> None:
    created = await land.sleeping_project()
    project_id, endpoint_id = created.project.id, created.endpoint.id

    async def keeps_down() -> bool:
        async with land.database.reading() as tx:
            return await holds.keeps_down(tx, project_id, endpoint_id)

    async with land.database.transaction() as tx:
        for finding_id in ("fd-one", "fd-two"):
            for is_first in (True, False):
                assert await holds.put(tx, project_id, finding_id=finding_id, held_by="operator") is is_first
    everything = f"everything of project {project_id}"
    async with land.database.transaction() as tx:
        assert await holds.release(tx, "fd-one") == [f"{everything}, which is still held because of fd-two"]
    assert await keeps_down()
    async with land.database.transaction() as tx:
        assert await holds.release(tx, "fd-one") == []
        assert await holds.release(tx, "fd-two") == [everything]
    assert not await keeps_down()


async def test_a_role_that_two_findings_lock_is_let_in_when_both_are_released(land: Land) -> None:
    created = await land.sleeping_project(role_name="ada")

    async def is_let_in() -> bool:
        route = await land.look_up(created.endpoint.id, "ada")
        return not route.is_held

    assert await is_let_in()
    async with land.database.transaction() as tx:
        for finding_id in ("fd-one", "fd-two"):
            await holds.put(tx, created.project.id, role="ada", finding_id=finding_id, held_by="operator")
    for finding_id, is_over in (("fd-one", False), ("fd-two", True)):
        assert not await is_let_in()
        async with land.database.transaction() as tx:
            await holds.release(tx, finding_id)
        assert await is_let_in() is is_over

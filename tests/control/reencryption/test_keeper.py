"""Re-encryptions over a real control database and a fake node: from the wish to the end, and cut off in between."""

from datetime import timedelta

import asyncpg
import pytest

from cloister.base.errors import BadRequestError, CloisterError, ConflictError, ExhaustedError, NotFoundError
from cloister.base.ids import ProjectId
from cloister.control.reencryption.keeper import PATIENCE, RETRY
from cloister.control.reencryption.model import Reencryption, State, Wish
from cloister.node.commands import BYTES_PER_S_MIN, CopyState
from tests.control.land import CALLER, ORG, Land
from tests.fix_database import ControlDatabase

URGENT = Wish(is_urgent=True)


class Office:
    """A project, and what is done with its data."""

    def __init__(self, land: Land, project_id: ProjectId) -> None:
        self.land, self.project_id = land, project_id
        self.service = land.control.reencryptions
        self.image = land.node.images[project_id]

    async def begin(self, wish: Wish = URGENT) -> Reencryption:
        it: Reencryption = await self.service.begin(CALLER, self.project_id, wish)
        return it

    async def look(self, copy: CopyState | None = None) -> Reencryption:
        """A look of the keeper's, the copy being so far."""
        if copy is not None:
            self.image.copy = copy
        await self.land.plane.reencryption_keeper.pass_once()
        it: Reencryption = await self.service.get(self.project_id)
        return it

    @property
    def materials(self) -> set[int]:
        return self.land.keys.materials[self.project_id]

    async def steps(self) -> list[str]:
        return [it["step"] for it in await self.land.details_of("key.reencrypt")]


@pytest.fixture
async def office(land: Land) -> Office:
    return Office(land, (await land.project()).project.id)


async def test_a_project_that_works_is_encrypted_anew(office: Office) -> None:
    """The wish, the copy, the pause, the new key; the old one is destroyed when the volume has the new one, and not before."""
    it = await office.begin(Wish(20_000_000, is_urgent=True))
    assert (it.state, it.old_material, it.material) == (State.COPYING, 1, 2)
    it = await office.look()
    assert (it.passed_bytes, it.used_bytes, it.ready_at) == (10, 20, None)
    assert office.image.bytes_per_s == 20_000_000
    assert office.land.node.computes
    assert office.materials == {1, 2}
    it = await office.look(CopyState.READY)
    assert it.ready_at is not None
    assert not office.land.node.computes, "put to sleep"
    assert office.image.material == 2
    assert office.materials == {1, 2}
    it = await office.look()
    assert (it.state, it.paused_s) == (State.DONE, 0.5)
    assert office.materials == {2}
    assert await office.steps() == ["begin", "done"]
    (_, done) = await office.land.details_of("key.reencrypt")
    assert done == {"step": "done", "material": 2, "old_key": "destroyed", "paused_ms": 500}
    assert (await office.begin()).material == 3


async def test_without_hurry_it_waits_until_the_project_sleeps(office: Office) -> None:
    await office.begin(Wish())
    it = await office.look(CopyState.READY)
    assert office.image.material == 1
    assert office.land.node.computes
    office.land.clock.advance(PATIENCE - timedelta(seconds=1))
    await office.look()
    assert office.image.material == 1
    office.land.node.computes.clear()  # it sleeps
    await office.look()
    assert office.image.material == 2
    assert it.ready_at is not None


async def test_a_project_that_never_sleeps_is_paused_after_a_day(office: Office) -> None:
    await office.begin(Wish())
    await office.look(CopyState.READY)
    office.land.clock.advance(PATIENCE)
    await office.look()
    assert office.image.material == 2


@pytest.mark.parametrize("cut_after", ["switch", "retire"])
async def test_cut_off_near_the_end_the_next_look_ends_it(office: Office, cut_after: str) -> None:
    """The API dies when the volume has its new key, and before it could say so."""
    await office.begin()
    await office.look(CopyState.READY)
    if cut_after == "retire":
        await office.land.keys.retire(office.project_id, 1, CALLER.on_behalf)
    await office.land.restart_api()
    office.service = office.land.control.reencryptions
    assert (await office.look()).state is State.DONE
    assert office.materials == {2}


async def test_a_key_that_an_attempt_left_is_taken_by_the_next(office: Office) -> None:
    await office.land.keys.renew(office.project_id, 1, CALLER.on_behalf)
    assert (await office.begin()).material == 2
    assert office.materials == {1, 2}


async def test_paused_it_goes_on_when_it_is_asked_for_again(office: Office) -> None:
    await office.begin(Wish(10_000_000))
    await office.look()
    assert (await office.service.pause(CALLER, office.project_id)).state is State.PAUSED
    assert (await office.look()).state is State.PAUSED
    assert office.land.node.calls[-1] == "StopCopy"
    assert office.image.copy is CopyState.NONE
    assert (await office.begin(Wish(30_000_000))).state is State.COPYING
    await office.look()
    assert (office.image.copy, office.image.bytes_per_s) == (CopyState.COPYING, 30_000_000)
    assert office.materials == {1, 2}
    assert await office.steps() == ["begin", "pause", "resume"]


async def test_cancelled_the_copy_and_its_key_are_gone(office: Office) -> None:
    await office.begin()
    await office.look()
    assert (await office.service.cancel(CALLER, office.project_id)).state is State.CANCELLING
    with pytest.raises(ConflictError):
        await office.begin()
    assert (await office.look()).state is State.CANCELLED
    assert "StopCopy dropped" in office.land.node.calls
    assert office.materials == {1}
    with pytest.raises(ConflictError):
        await office.service.cancel(CALLER, office.project_id)


async def test_cancelled_too_late_it_is_done(office: Office) -> None:
    """The key that would be destroyed is the one that the volume has."""
    await office.begin()
    await office.look(CopyState.READY)
    await office.service.cancel(CALLER, office.project_id)
    assert (await office.look()).state is State.DONE
    assert office.materials == {2}


async def test_with_a_protected_branch_the_old_key_is_left_to_the_database(office: Office) -> None:
    office.land.keys.protected.add(office.project_id)
    await office.begin()
    await office.look(CopyState.READY)
    assert (await office.look()).state is State.DONE
    assert office.materials == {1, 2}
    assert (await office.land.details_of("key.reencrypt"))[-1]["old_key"] == "destroyed after seven days"


async def test_cancelled_with_a_protected_branch_it_begins_again_with_the_same_key(office: Office) -> None:
    office.land.keys.protected.add(office.project_id)
    await office.begin()
    await office.service.cancel(CALLER, office.project_id)
    assert (await office.look()).state is State.CANCELLED
    it = await office.begin()
    assert (it.state, it.material, it.finished_at) == (State.COPYING, 2, None)


@pytest.mark.parametrize("error", [ExhaustedError("x", public="no room"), NotFoundError("x", public="no volume")])
async def test_what_the_node_refuses_is_said_at_once_and_nothing_is_begun(office: Office, error: CloisterError) -> None:
    office.land.node.copy_refusal = error
    with pytest.raises(type(error)):
        await office.begin()
    with pytest.raises(NotFoundError):
        await office.service.get(office.project_id)
    assert office.land.keys.materials == {}


async def test_what_fails_later_is_told_and_tried_again_after_a_while(office: Office) -> None:
    await office.begin()
    office.land.node.copy_refusal = ExhaustedError("x", public="no room")
    assert (await office.look()).problem == "no room"
    office.land.node.copy_refusal = None
    assert (await office.look(CopyState.READY)).problem == "no room"
    office.land.clock.advance(RETRY)
    await office.look()
    assert office.image.material == 2


async def test_a_pace_that_never_ends_is_refused(office: Office) -> None:
    with pytest.raises(BadRequestError):
        await office.begin(Wish(BYTES_PER_S_MIN - 1))


async def test_a_policy_has_old_data_encrypted_anew(office: Office, control_database: ControlDatabase) -> None:
    owner = await asyncpg.connect(control_database.url(), server_settings={"search_path": "cloister,pg_catalog"})
    await owner.execute("INSERT INTO key_policy VALUES ($1, 365, 90)", ORG)
    await owner.close()
    office.land.clock.advance(timedelta(days=89))
    await office.land.plane.reencryption_keeper.pass_once()
    with pytest.raises(NotFoundError):
        await office.service.get(office.project_id)
    office.land.clock.advance(timedelta(days=1, minutes=1))
    it = await office.look()
    assert (it.asked_by, it.state, it.wish) == ("platform:api", State.COPYING, Wish())
    await office.look(CopyState.READY)
    office.land.node.computes.clear()
    await office.look()
    assert (await office.look()).state is State.DONE


async def test_two_are_copied_at_a_time_and_one_that_waits_for_sleep_holds_up_nobody(land: Land) -> None:
    offices = [Office(land, (await land.project()).project.id) for _ in range(3)]
    for each in offices:
        await each.begin(Wish())
        land.clock.advance(timedelta(seconds=1))
    await land.plane.reencryption_keeper.pass_once()
    assert [each.image.copy for each in offices] == [CopyState.COPYING, CopyState.COPYING, CopyState.NONE]
    offices[0].image.copy = CopyState.READY
    for _ in range(2):
        await land.plane.reencryption_keeper.pass_once()
    assert [each.image.copy for each in offices] == [CopyState.READY, CopyState.COPYING, CopyState.COPYING]


# -- what the database holds


async def test_what_is_done_stays_and_when_is_the_databases_word(office: Office) -> None:
    await office.begin()
    await office.look(CopyState.READY)
    await office.look()
    async with office.land.database.transaction() as tx:
        assert await tx.fetch_value("SELECT finished_at > now() - interval '1 minute' FROM reencryption")
    with pytest.raises(CloisterError, match="stays as it is"):
        async with office.land.database.transaction() as tx:
            await tx.execute("UPDATE reencryption SET finished_at = now() - interval '1 year'")


async def test_nobody_says_that_something_is_done_that_was_not_begun(office: Office) -> None:
    with pytest.raises(CloisterError, match="begins with copying"):
        async with office.land.database.transaction() as tx:
            await tx.execute(
                """INSERT INTO reencryption (project_id, old_material, material, state, is_urgent, asked_by, begun_at,
                                             finished_at)
                   VALUES ($1, 1, 2, 'done', false, 'x', now(), now() - interval '1 year')""",
                office.project_id,
            )

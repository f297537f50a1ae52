"""The relay's doors: those of the rules, in places that the agent made, and no others."""

import asyncio
import resource
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cloister.base.errors import BadRequestError
from cloister.base.identities import COMPUTE_UID_FIRST
from cloister.base.settings import Settings
from cloister.node.egress import relay
from cloister.node.egress.commands import KeepOnly, SetWays, Way
from cloister.node.egress.place import make_place
from cloister.node.egress.relay import DOORS_PER_PROJECT_MAX, Relay
from tests.node.egress.far import Far

SHOP, BLOG = "calm-forest-00000001", "calm-forest-00000002"
CONNECTION = None


class Doors:
    def __init__(self, settings: Settings) -> None:
        self.paths = settings.paths
        self.relay = Relay(settings)

    async def say(
        self, project_id: str, *targets: str, ca_pem: str | None = None, uid: int = COMPUTE_UID_FIRST
    ) -> None:
        ways = tuple(Way(target, ca_pem) for target in targets)
        await self.relay._answer(CONNECTION, SetWays(project_id=project_id, uid=uid, ways=ways))  # type: ignore[arg-type]

    async def keep_only(self, *project_ids: str) -> dict[str, str]:
        standing = await self.relay._answer(CONNECTION, KeepOnly(project_ids))  # type: ignore[arg-type]
        return dict(standing.digests)

    def of(self, project_id: str) -> set[str]:
        place = self.paths.egress_doors / project_id
        return {str(path.relative_to(place)) for path in place.rglob(".s.PGSQL.*")}


@pytest.fixture
async def doors() -> AsyncIterator[Doors]:
    with tempfile.TemporaryDirectory() as state_dir:
        settings = Settings(state_dir=state_dir)
        settings.paths.egress_doors.mkdir(parents=True)
        settings.paths.egress_run.mkdir()
        doors = Doors(settings)
        await doors.relay.start()
        yield doors
        await doors.relay.stop()
        shutil.rmtree(settings.paths.run)


async def _until(condition) -> None:  # type: ignore[no-untyped-def]
    async with asyncio.timeout(20):
        while True:
            if condition():
                return
            await asyncio.sleep(0.01)


async def test_it_may_open_as_many_files_as_whoever_started_it_allows() -> None:
    """A thousand, as a shell has them, would be two projects' doors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with tempfile.TemporaryDirectory() as state_dir:
        settings = Settings(state_dir=state_dir)
        settings.paths.egress_doors.mkdir(parents=True)
        settings.paths.egress_run.mkdir()
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, hard - 1), hard))
        try:
            other = Relay(settings)
            await other.start()
            assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
            await other.stop()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            shutil.rmtree(settings.paths.run)


async def test_doors_are_those_of_the_rules(doors: Doors) -> None:
    make_place(doors.paths, SHOP)
    await doors.say(SHOP, "203.0.113.8/31:5432", "db.example.com:6432")
    assert doors.of(SHOP) == {
        "203.0.113.8/.s.PGSQL.5432",
        "203.0.113.9/.s.PGSQL.5432",
        "db.example.com/.s.PGSQL.6432",
    }
    await doors.say(SHOP, "db.example.com:6432", "db.example.com:5432")
    assert doors.of(SHOP) == {"db.example.com/.s.PGSQL.6432", "db.example.com/.s.PGSQL.5432"}
    await doors.say(SHOP)
    assert doors.of(SHOP) == set()
    assert list((doors.paths.egress_doors / SHOP).iterdir()) == []


async def test_a_place_that_is_made_later_gets_its_doors_then(doors: Doors) -> None:
    await doors.say(SHOP, "db.example.com:5432")
    place = make_place(doors.paths, SHOP)
    await _until(lambda: any(place.iterdir()) and doors.of(SHOP))
    assert doors.of(SHOP) == {"db.example.com/.s.PGSQL.5432"}


async def test_a_project_that_is_not_named_any_more_has_none(doors: Doors) -> None:
    for project_id in (SHOP, BLOG):
        make_place(doors.paths, project_id)
        await doors.say(project_id, "db.example.com:5432")
    digests = await doors.keep_only(SHOP)
    assert set(digests) == {SHOP}
    assert doors.of(BLOG) == set()
    assert doors.of(SHOP) != set()


async def test_a_door_that_stays_is_not_touched_and_one_that_trusts_another_is(doors: Doors, far: Far) -> None:
    place = make_place(doors.paths, SHOP)
    path = place / "db.example.com" / ".s.PGSQL.5432"
    await doors.say(SHOP, "db.example.com:5432")
    before = path.stat().st_ino
    await doors.say(SHOP, "db.example.com:5432", "203.0.113.9:5432")
    assert path.stat().st_ino == before
    opened = doors.relay._projects[SHOP].opened["db.example.com", 5432]
    await doors.say(SHOP, "db.example.com:5432", ca_pem=far.ca_pem)
    assert not opened.server.is_serving()
    await doors.say(SHOP, "db.example.com:5432", ca_pem=far.ca_pem, uid=COMPUTE_UID_FIRST + 1)
    assert doors.relay._projects[SHOP].doors[0].uid == COMPUTE_UID_FIRST + 1


async def test_who_the_kernel_let_in_before_a_door_was_shut_is_not_inside_afterwards(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the accepting and the first step through there are some turns of the loop: at each, the rule is taken away."""
    inside: set[int] = set()

    async def stay(*_: object) -> None:
        inside.add(turns)
        try:
            await asyncio.Event().wait()
        finally:
            inside.discard(turns)

    monkeypatch.setattr(relay, "walk", stay)
    place = make_place(doors.paths, SHOP)
    for turns in range(3, 12):  # earlier, asyncio itself finds that there is no server any more
        await doors.say(SHOP, "db.example.com:5432")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(place / "db.example.com" / ".s.PGSQL.5432"))
            await _turn(turns)
            await doors.say(SHOP)
            await _turn(12)
            assert not inside


async def _turn(times: int) -> None:
    for _ in range(times):
        await asyncio.sleep(0)


def test_no_project_makes_more_of_its_refusals_than_the_record_can_bear(tmp_path: Path) -> None:
    house = Relay(Settings(state_dir=str(tmp_path)))._house
    assert sum(house.may_explain(SHOP) for _ in range(1_000)) <= relay.EXPLANATIONS_AT_ONCE + 5
    assert house.may_explain(BLOG)


async def test_what_an_earlier_relay_left_is_gone(doors: Doors) -> None:
    place = make_place(doors.paths, SHOP)
    (place / "db.example.com").mkdir()
    (place / "db.example.com" / ".s.PGSQL.5432").touch()
    await doors.relay.stop()
    doors.relay = Relay(Settings(state_dir=str(doors.paths.state_dir)))
    await doors.relay.start()
    assert doors.of(SHOP) == set()


@pytest.mark.parametrize("project_id", ["../computes", "", "x/y"])
async def test_a_name_that_is_no_projects_never_becomes_a_path(doors: Doors, project_id: str) -> None:
    with pytest.raises(BadRequestError):
        await doors.say(project_id, "db.example.com:5432")


async def test_only_computes_get_doors_and_not_any_number(doors: Doors) -> None:
    for uid in (0, 1000, COMPUTE_UID_FIRST - 1):
        with pytest.raises(BadRequestError):
            await doors.say(SHOP, "db.example.com:5432", uid=uid)
    many = [f"203.0.{n}.0/24:5432" for n in range(DOORS_PER_PROJECT_MAX // 256 + 1)]
    with pytest.raises(BadRequestError):
        await doors.say(SHOP, *many)


def test_the_longest_path_of_a_door_outside_may_exceed_a_sockets_address(tmp_path: Path) -> None:
    """Why a door is bound through a descriptor."""
    assert len(f"/run/cloister/01234567/doors/{SHOP}/{'a' * 80}/.s.PGSQL.65535") > 108

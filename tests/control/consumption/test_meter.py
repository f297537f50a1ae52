"""Consumption over a real control database, a fake node and a clock that the test moves."""

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest

from cloister.base.database import Database
from cloister.base.ids import OrgId, ProjectId
from cloister.control.branches import timelines
from cloister.control.consumption.accounting import Amounts
from cloister.control.consumption.frames import Granularity, Span, beginning
from cloister.control.consumption.meter import Meter
from cloister.control.consumption.service import ConsumptionService
from cloister.control.consumption.store import Asked
from cloister.control.services import ProjectCreated
from cloister.node.commands import TimelineInfo
from tests.control.land import CALLER, ORG, Land

MINUTE = timedelta(minutes=1)


class Site:
    """One project whose compute runs, and a meter."""

    def __init__(self, land: Land, created: ProjectCreated) -> None:
        self.land, self.created = land, created
        self.meter = Meter(land.database, land.clock)
        self.service = ConsumptionService(land.database)

    async def later(self, time: timedelta) -> None:
        """Counting every minute."""
        until = self.land.clock.now() + time
        while self.land.clock.now() < until:
            self.land.clock.advance(min(MINUTE, until - self.land.clock.now()))
            await self.meter.count()

    async def measured(self, *, end_lsn: str, logical: int = 1000, history: int = 10) -> None:
        async with self.land.database.transaction() as tx:
            info = TimelineInfo(
                timeline_id=self.created.branch.timeline_id,
                is_running=True,
                end_lsn=end_lsn,
                logical_bytes=logical,
                unique_bytes=logical + history,
                history_bytes=history,
            )
            await timelines.measured(tx, info, self.land.clock.now())

    def asked(self, granularity: Granularity = "hourly", *, org_id: str = ORG, granted: Any = ()) -> Asked:
        now = self.land.clock.now()
        begin, end = beginning(granularity, now - timedelta(days=40)), now + timedelta(days=40)
        return Asked([OrgId(org_id)] if org_id else [], granted, Span(granularity, begin, end))

    async def total(self, granularity: Granularity = "hourly") -> Amounts:
        taken = await self.service.by_project(self.asked(granularity), after=None, limit=10)
        return sum((frame.amounts for it in taken for frame in it.frames), Amounts())


@pytest.fixture
async def site(land: Land) -> Site:
    created = await land.project()
    site = Site(land, created)
    await site.meter.count()
    return site


async def test_a_compute_is_counted_while_it_runs(site: Site) -> None:
    await site.later(90 * MINUTE)
    awake = await site.total()
    assert awake.active_s == pytest.approx(90 * 60)
    assert awake.cu_s == pytest.approx(90 * 60 * site.created.endpoint.max_cu)
    _, operations = await site.land.control.endpoints.suspend(CALLER, site.created.project.id, site.created.endpoint.id)
    await site.land.finish(operations)
    await site.later(10 * MINUTE)
    assert await site.total() == awake


async def test_a_crash_of_ours_neither_loses_nor_doubles(site: Site) -> None:
    await site.later(5 * MINUTE)
    await asyncio.gather(*(Meter(site.land.database, site.land.clock).count() for _ in range(3)))
    assert (await site.total()).active_s == pytest.approx(300)
    site.land.clock.advance(timedelta(hours=2))
    await Meter(site.land.database, site.land.clock).count()
    assert (await site.total()).active_s == pytest.approx(300 + 7200), "the compute ran on"


async def test_bytes_are_what_the_node_measured(site: Site) -> None:
    await site.later(MINUTE)
    assert (await site.total()).seen_s == 0, "nobody has measured yet"
    await site.measured(end_lsn="0/2000000")
    await site.later(60 * MINUTE)
    await site.measured(end_lsn="0/2000100")
    await site.later(MINUTE)
    await site.later(MINUTE)
    amounts = await site.total()
    assert amounts.seen_s == pytest.approx(62 * 60)
    assert amounts.root_byte_s == amounts.logical_byte_s == pytest.approx(1000 * 62 * 60)
    assert amounts.history_byte_s == pytest.approx(10 * 62 * 60)
    assert amounts.written_bytes == 256, "from the first place that was known, and once"


async def test_a_server_that_makes_up_where_its_wal_ends_stops_nobodys_count(site: Site) -> None:
    """Threat: a tenant took their server over, and what it says of itself is counted."""
    await site.measured(end_lsn="0/1")
    await site.later(MINUTE)
    for _ in range(3):
        for end_lsn in ("FFFFFFFF/FFFFFFFF", "0/1"):
            await site.measured(end_lsn=end_lsn, logical=2**63 - 1, history=0)
            await site.later(MINUTE)
    amounts = await site.total()
    assert amounts.active_s == pytest.approx(7 * 60)
    assert amounts.written_bytes == pytest.approx(3 * 2.0**64), "and never less than nothing"


async def test_by_branch_by_day_and_by_month_it_is_the_same(site: Site) -> None:
    await site.measured(end_lsn="0/1")
    await site.later(timedelta(hours=20))
    hourly = await site.total()
    assert (await site.total("daily")).active_s == pytest.approx(hourly.active_s)
    assert (await site.total("monthly")).root_byte_s == pytest.approx(hourly.root_byte_s)
    (branch,) = await site.service.by_branch(site.asked("daily"), after=None, limit=10)
    assert branch.branch_id == site.created.branch.id
    assert sum(it.amounts.active_s for it in branch.frames) == pytest.approx(hourly.active_s)
    assert all(it.end - it.begin == timedelta(days=1) for it in branch.frames)
    after = (branch.project_id, branch.branch_id)
    assert await site.service.by_branch(site.asked(), after=after, limit=10) == []


async def test_old_hours_become_days_and_old_days_go(site: Site, land: Land) -> None:
    await site.later(timedelta(hours=3))
    before = await site.total("daily")
    site.land.clock.advance(timedelta(days=9))
    await site.meter.count()
    hours = await rows(land.database)
    assert all(it == beginning("daily", it) for it in hours if it < land.clock.now() - timedelta(days=8))
    assert (await site.total("daily")).active_s == pytest.approx(before.active_s + 9 * 86_400)
    site.land.clock.advance(timedelta(days=410))
    await site.meter.count()
    assert min(await rows(land.database)) >= land.clock.now() - timedelta(days=401)


async def rows(database: Database) -> list[datetime]:
    async with database.reading() as tx:
        return [row["hour"] for row in await tx.fetch("SELECT hour FROM consumption")]


async def test_what_a_project_took_stays_with_the_organization_that_it_was_of(site: Site, land: Land) -> None:
    await site.later(5 * MINUTE)
    project_id = site.created.project.id
    other = OrgId("org-wild-river-00000001")
    async with land.database.transaction() as tx:
        await tx.execute("INSERT INTO organization (id, name) VALUES ($1, 'Wild')", other)
        await tx.execute("UPDATE project SET org_id = $2 WHERE id = $1", project_id, other)
    await site.later(5 * MINUTE)

    async def seconds(asked: Asked) -> float:
        taken = await site.service.by_project(asked, after=None, limit=10)
        return sum(frame.amounts.active_s for it in taken for frame in it.frames)

    assert await seconds(site.asked()) == pytest.approx(300)
    assert await seconds(site.asked(org_id=other)) == pytest.approx(300)
    assert await seconds(site.asked(org_id="", granted=[project_id])) == pytest.approx(300)
    assert await seconds(site.asked(org_id="", granted=[ProjectId("calm-forest-99999999")])) == 0


async def test_pages_go_from_the_last_created_project_to_the_first(site: Site, land: Land) -> None:
    second = await land.project()
    await site.later(2 * MINUTE)
    first_page = await site.service.by_project(site.asked(), after=None, limit=1)
    assert [it.project_id for it in first_page] == [second.project.id]
    rest = await site.service.by_project(site.asked(), after=second.project.id, limit=5)
    assert [it.project_id for it in rest] == [site.created.project.id]


async def test_a_page_does_not_tell_whether_somebody_else_has_the_project_that_it_would_follow(
    site: Site, land: Land
) -> None:
    theirs = (await land.project()).project.id
    async with land.database.transaction() as tx:
        await tx.execute("INSERT INTO organization (id, name) VALUES ('org-wild-river-00000001', 'Wild')")
        await tx.execute("UPDATE project SET org_id = 'org-wild-river-00000001' WHERE id = $1", theirs)
    await site.later(2 * MINUTE)
    for after in (theirs, ProjectId("calm-forest-99999999")):
        assert await site.service.by_project(site.asked(), after=after, limit=5) == []

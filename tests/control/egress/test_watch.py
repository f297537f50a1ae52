"""The relay is brought to what the rules say, whatever it was; and who went through is recorded."""

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator
from typing import Any

import pytest

from cloister.base.identities import Service
from cloister.base.ids import OrgId
from cloister.base.rpc import Connection, Server
from cloister.base.rpc.server import Peer
from cloister.base.settings import Settings
from cloister.control.egress.service import EgressService
from cloister.control.egress.watch import EgressWatch
from cloister.control.projects.model import NewProject, Project
from cloister.node.commands import Done
from cloister.node.egress.commands import (
    AnyEgressCommand,
    KeepOnly,
    PassageClosed,
    PassageOpened,
    PassageRefused,
    SetWays,
    Standing,
)
from cloister.trust.audit.reader import events
from tests.control.land import CALLER, ORG, Land


class FakeRelay:
    """Keeps what it is told, as the relay does."""

    def __init__(self, settings: Settings) -> None:
        self.said: dict[str, SetWays] = {}
        self.times_set = 0
        self.server = Server(
            settings.paths.egress_socket, AnyEgressCommand, self._answer, allowed=frozenset({Service.API})
        )

    async def _answer(self, _connection: Connection, command: AnyEgressCommand) -> Any:
        if isinstance(command, KeepOnly):
            self.said = {name: said for name, said in self.said.items() if name in command.project_ids}
            return Standing({name: said.digest for name, said in self.said.items()})
        self.times_set += 1
        self.said[command.project_id] = command
        return Done()


@pytest.fixture
async def settings(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Settings]:
    """This process plays the API and the relay."""
    monkeypatch.setattr(Peer, "of", lambda _sock: Peer(1, 1, Service.API))
    with tempfile.TemporaryDirectory() as state_dir:
        settings = Settings(state_dir=state_dir)
        settings.paths.egress_run.mkdir(parents=True)
        yield settings
        shutil.rmtree(settings.paths.run)


@pytest.fixture
async def relay(settings: Settings) -> AsyncIterator[FakeRelay]:
    relay = FakeRelay(settings)
    await relay.server.start()
    yield relay
    await relay.server.stop()


@pytest.fixture
async def watch(settings: Settings, relay: FakeRelay, still_land: Land) -> AsyncIterator[EgressWatch]:
    watch = EgressWatch(settings.paths, still_land.database)
    yield watch
    await watch.close()


@pytest.fixture
async def project(still_land: Land) -> Project:
    created: Any = await still_land.control.projects.create(CALLER, NewProject(org_id=OrgId(ORG), name="shop"))
    found: Project = created.project
    return found


async def test_the_relay_is_told_what_differs_and_no_more(
    still_land: Land, project: Project, watch: EgressWatch, relay: FakeRelay
) -> None:
    service = EgressService(still_land.database, (), poke=watch.poke)
    rule = await service.allow(CALLER, project, "db.example.com:5432", None)
    await watch.compare()
    await watch.compare()
    assert [way.target for way in relay.said[project.id].ways] == ["db.example.com:5432"]
    assert relay.times_set == 1
    relay.said.clear()  # It was started again.
    await watch.compare()
    assert set(relay.said) == {project.id}
    await service.remove(CALLER, project, rule.id)
    await watch.compare()
    assert relay.said == {}


async def test_a_deleted_project_has_no_way_out(
    still_land: Land, project: Project, watch: EgressWatch, relay: FakeRelay
) -> None:
    await EgressService(still_land.database, (), poke=watch.poke).allow(CALLER, project, "db.example.com:5432", None)
    async with still_land.database.transaction() as tx:
        await tx.execute("UPDATE project SET deleted_at = now() WHERE id = $1", project.id)
    await watch.compare()
    assert relay.said == {}


async def test_who_went_through_is_recorded(
    still_land: Land, project: Project, watch: EgressWatch, relay: FakeRelay
) -> None:
    await watch.compare()
    where = {"project_id": project.id, "target": "db.example.com:5432", "host": "db.example.com"}
    (connection,) = relay.server.connections
    connection.send_event(PassageOpened(**where, address="203.0.113.7"))
    connection.send_event(PassageClosed(**where, address="203.0.113.7", bytes_out=5, bytes_in=7))
    connection.send_event(PassageRefused(**where, reason="db.example.com leads to a private network"))
    running = asyncio.create_task(watch.run())
    found: list[Any] = []
    async with asyncio.timeout(20):
        while len(found) < 3:
            async with still_land.database.reading() as tx:
                found = await events(tx, project_ids=[project.id], action="egress.", before_seq=None, limit=10)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    refused, closed, opened = (each.event for each in found)
    assert [refused.action, closed.action, opened.action] == ["egress.refused", "egress.closed", "egress.opened"]
    assert {each.org_id for each in (refused, closed, opened)} == {ORG}
    assert opened.details["address"] == "203.0.113.7"
    assert (closed.details["bytes_out"], closed.details["bytes_in"]) == (5, 7)
    assert refused.reason == "db.example.com leads to a private network"

"""Projects, and a store that they are sent to."""

from datetime import timedelta
from typing import Final

from cloister.control.backups.model import Backups
from cloister.control.services import ProjectCreated
from tests.control.fake_store import FakeStore
from tests.control.land import Land

A_MOMENT: Final = timedelta(seconds=1)


class Office:
    def __init__(self, land: Land) -> None:
        self.land = land
        self.keeper = land.plane.backup_keeper
        self.store = land.node.store = FakeStore()

    async def look(self, after: timedelta = A_MOMENT) -> None:
        """A look of the keeper's, and all that it begins."""
        self.land.clock.advance(after)
        await self.keeper.look()
        await self.keeper.settle()

    def done(self) -> list[str]:
        """Since it was asked last."""
        calls = [
            name for name in self.land.node.calls if name in ("BackUpTimeline", "SendWal", "ReadBack", "DrillRestore")
        ]
        self.land.node.calls.clear()
        return calls

    async def found(self, created: ProjectCreated) -> Backups:
        it: Backups = await self.land.control.backups.find(created.project.id)
        return it


async def a_project(office: Office, word: str = "one") -> ProjectCreated:
    created = await office.land.project()
    office.land.node.write(created.endpoint.id, word)
    return created

"""One-shot, as root, when everything but the control database has stopped: the last event of an orderly end."""

from cloister.app.prepare import note
from cloister.base.database import owner
from cloister.base.settings import Settings
from cloister.trust.audit import Action


async def run(settings: Settings) -> None:
    async with owner.connected(settings) as database:
        await note(database, Action.PLATFORM_STOP, settings)

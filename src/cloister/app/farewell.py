"""One-shot, as root, when everything but the control database has stopped: the last event of an orderly end."""

from cloister.app.prepare import note
from cloister.base.database import Database, embedded
from cloister.base.settings import Settings
from cloister.trust.audit import Action


async def run(settings: Settings) -> None:
    database = Database(socket_dir=settings.paths.control_socket_dir, role=embedded.OWNER, url=settings.database_url)
    await database.open(patience_s=5)
    try:
        await note(database, Action.PLATFORM_STOP, settings)
    finally:
        await database.close()

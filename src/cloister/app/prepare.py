"""One-shot, as root, once the control database runs: certificates, the schema, the first organization and key."""

from typing import Final

from cloister import __version__
from cloister.app import certificates
from cloister.base.database import Database, embedded, owner
from cloister.base.durable import write_durably
from cloister.base.secret import Secret
from cloister.base.settings import Settings
from cloister.trust.access.bootstrap import bootstrap
from cloister.trust.audit import Action, Event, record

START_PATIENCE_S: Final = 30.0
# It has just been started, and may have a crash to recover from.


async def run(settings: Settings) -> None:
    await certificates.run(settings)
    paths = settings.paths
    if settings.database_url:
        await embedded.migrate_external(settings.database_url)
    else:
        await embedded.migrate_embedded(paths)
    async with owner.connected(settings, patience_s=START_PATIENCE_S) as database:
        known = Secret(paths.admin_key.read_text().strip()) if paths.admin_key.exists() else None
        key = await bootstrap(database, known)
        if known is None or key.reveal() != known.reveal():
            write_durably(paths.admin_key, f"{key.reveal()}\n".encode(), mode=0o600)
        await note(database, Action.PLATFORM_START, settings)


async def note(database: Database, action: Action, settings: Settings) -> None:
    """Record that the platform starts or stops."""
    async with database.transaction() as tx:
        details = {"version": __version__, "storage": settings.storage, "domain": settings.domain}
        await record(tx, Event(action=action, actor="platform:supervisor", details=details))

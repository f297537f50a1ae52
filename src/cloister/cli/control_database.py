"""Reading the control database on the server itself, past the API: for what must not take the API's word."""

import contextlib
from collections.abc import AsyncIterator

from cloister.base.database import Database, embedded
from cloister.base.settings import Settings

PATIENCE_S = 3.0
# A platform that is up answers in milliseconds; one that is down should be said to be down.


@contextlib.asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator[Database]:
    """A connection as the database's owner. Raises UnavailableError."""
    if settings.database_url:
        database = Database(url=settings.database_url)
    else:
        database = Database(socket_dir=settings.paths.control_socket_dir, role=embedded.OWNER)
    await database.open(patience_s=PATIENCE_S)
    try:
        yield database
    finally:
        await database.close()

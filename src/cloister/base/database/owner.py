"""The control database as its owner, for what root does on the server itself: the first key, the platform's own events, and whatever
must not take the API's word.
"""

import contextlib
from collections.abc import AsyncIterator
from typing import Final

from cloister.base.database.embedded import OWNER
from cloister.base.database.pool import Database
from cloister.base.settings import Settings

PATIENCE_S: Final = 3.0
# A platform that is up answers in milliseconds; one that is down should be said to be down.


@contextlib.asynccontextmanager
async def connected(settings: Settings, *, patience_s: float | None = None) -> AsyncIterator[Database]:
    """Raises UnavailableError."""
    database = Database(socket_dir=settings.paths.control_socket_dir, role=OWNER, url=settings.database_url)
    await database.open(patience_s=PATIENCE_S if patience_s is None else patience_s)
    try:
        yield database
    finally:
        await database.close()

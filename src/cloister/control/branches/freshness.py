"""Asks the running server of a protected branch who its roles are, before a copy of it gets passwords of its own.

The copy of a catalog is as old as the last suspend or change of ours. A role made by SQL since then would come out of the
copying without a password, and nobody would have been shown one. So the rows are brought up to date first, where that
takes a moment; where it does not, the answer is as good as the rows are.
"""

import asyncio
import logging
from typing import Final

from cloister.base.database import Database
from cloister.base.errors import CloisterError
from cloister.base.ids import BranchId, ProjectId
from cloister.control.branches import store
from cloister.control.computes.sessions import Sessions
from cloister.control.roles import store as catalog

_log = logging.getLogger(__name__)

PATIENCE_S: Final = 1.0
# A server answers in a millisecond. One that its tenant has taken over does not hold up a request for long.


class Freshness:
    def __init__(self, database: Database, sessions: Sessions) -> None:
        self._database = database
        self._sessions = sessions

    async def of_protected(self, project_id: ProjectId, branch_id: BranchId | None) -> None:
        """`branch_id` None: the default branch."""
        try:
            async with self._database.reading() as tx:
                branch = (
                    await store.default(tx, project_id)
                    if branch_id is None
                    else await store.get(tx, project_id, branch_id)
                )
                writer = await store.writer_at_work(tx, branch.id) if branch.is_protected else None
                if writer is None or not await store.is_settled(tx, branch.id):
                    return
                known = await catalog.as_it_stands(tx, branch.id)
            async with asyncio.timeout(PATIENCE_S), self._sessions.fresh(writer) as server:
                roles, databases = await server.roles(), await server.databases()
            async with self._database.transaction() as tx:
                if await catalog.as_it_stands(tx, branch.id, holds=True) == known:
                    await catalog.keep_catalog(tx, branch.id, roles, databases)
        except (CloisterError, TimeoutError) as error:
            _log.info("roles of %s are taken as they were last read: %s", branch_id, error)

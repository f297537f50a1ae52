"""What happens to projects without anybody asking: a deleted one that nobody recovered in time is destroyed.

Holds no state that a crash could lose: what is due stands in the rows, and destroying is an operation.
"""

import asyncio
import logging
from typing import Final

from cloister.base.errors import CloisterError
from cloister.control.projects.service import ProjectService

_log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 60.0
# The term is a matter of days.


class ProjectCaretaker:
    def __init__(self, projects: ProjectService) -> None:
        self._projects = projects

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                await self._projects.purge_deleted()
            except CloisterError as error:
                _log.warning("looking after deleted projects: %s", error)
            except Exception:  # the loop must outlive whatever one round throws
                _log.exception("looking after deleted projects failed")

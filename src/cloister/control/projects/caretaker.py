"""What happens to projects without anybody asking: a deleted one that nobody recovered in time is destroyed.

Holds no state that a crash could lose: what is due stands in the rows, and destroying is an operation.
"""

import logging
from typing import Final

from cloister.control.projects.service import ProjectService
from cloister.control.repeating import repeat

_log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 60.0
# The term is a matter of days.


class ProjectCaretaker:
    def __init__(self, projects: ProjectService) -> None:
        self._projects = projects

    async def run(self) -> None:
        """Until cancelled."""
        await repeat(self._projects.purge_deleted, LOOK_EVERY_S, _log, "looking after deleted projects", at_once=False)

"""Threat: somebody changes something, and the audit log has no word of it; or has one of what was not done.

Every call that changes something is made over HTTP, on the real control plane and its database, of which only the node is made up:
once with a log that takes no event, and once with one that does.
"""

from pathlib import Path

import pytest

from cloister.edge.api.routes import ROUTES
from cloister.edge.api.scim import application as scim
from tests.attacks.every_change import STORIES, WITHOUT_EVENT
from tests.attacks.town import Does, Provisions, a_town
from tests.fix_database import ControlDatabase, DatabaseAs

CHANGES = {route.name for route in ROUTES if route.audit is not None and not route.is_recorded_here}
"""And those reads that are recorded where changes are."""


def test_every_change_has_an_example() -> None:
    steps = [step for story in STORIES.values() for step in story]
    assert {step.route for step in steps if isinstance(step, Does)} == CHANGES
    told = {(step.method, step.path.split("/")[1]) for step in steps if isinstance(step, Provisions)}
    assert told == set(scim._ATTEMPTED)
    assert set(WITHOUT_EVENT) <= CHANGES


@pytest.mark.parametrize("story", STORIES)
async def test_what_is_done_is_recorded_and_what_cannot_be_recorded_is_not_done(
    story: str, control_database: ControlDatabase, database_as: DatabaseAs, tmp_path: Path
) -> None:
    """The event is of this call: who called, from where, and what it was done to. The call that was refused for want of a log is
    made again and succeeds, so it had left nothing."""
    async with a_town(control_database, database_as, tmp_path) as town:
        for step in STORIES[story]:
            if isinstance(step, Does):
                await town.does(step, is_silent=step.route in WITHOUT_EVENT)
            elif isinstance(step, Provisions):
                await town.provisions(step)
            else:
                await step(town)
        assert not town.wrong, "\n".join(town.wrong)

"""The guards over a real control database: the role of the API can do what they do."""

from cloister.app.guards import StoredAudit
from cloister.trust.audit import Action, Event
from cloister.trust.audit.verify import Intact
from tests.edge.api.world import FakeNotary
from tests.fix_database import DatabaseAs


async def test_the_log_is_appended_read_and_verified(database_as: DatabaseAs) -> None:
    log = StoredAudit(await database_as("cloister_api"), FakeNotary())
    await log.record(*(Event(action=Action.PROJECT_GET, actor="user:x", project_id=it) for it in ("a", "b")))
    assert [it.event.project_id for it in await log.find(project_ids=["a"], action=None, before_seq=None, limit=9)] == [
        "a"
    ]
    assert [it.seq for it in await log.find(project_ids=None, action=None, before_seq=2, limit=9)] == [1]
    verdict, _ = await log.verify([])
    assert isinstance(verdict, Intact)
    assert verdict.head.seq == 2

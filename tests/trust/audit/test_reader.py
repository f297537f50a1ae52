"""Events are found by project, action and time, newest first, a page at a time."""

from datetime import UTC, datetime

from cloister.base.database import Database
from cloister.trust.audit import Event, record
from cloister.trust.audit.events import timestamp
from cloister.trust.audit.reader import events
from tests.fix_database import DatabaseAs


def at(minute: int) -> datetime:
    return datetime(2026, 1, 1, 12, minute, tzinfo=UTC)


async def filled(database_as: DatabaseAs) -> Database:
    database = await database_as("cloister_api")
    async with database.transaction() as tx:
        for minute, (action, project) in enumerate(
            [("project.create", "p1"), ("connection.opened", "p1"), ("connection.denied", "p2"), ("platform.start", "")]
        ):
            await record(tx, Event(action=action, actor="user:1", project_id=project, at=timestamp(at(minute))))
    return database


async def test_filters(database_as: DatabaseAs) -> None:
    database = await filled(database_as)
    async with database.reading() as tx:

        async def found(**filters: object) -> list[int]:
            return [recorded.seq for recorded in await events(tx, **filters)]  # type: ignore[arg-type]

        assert await found() == [4, 3, 2, 1]
        assert await found(project_ids=["p1"]) == [2, 1]
        assert await found(project_ids=["p1", "p2"]) == [3, 2, 1]
        assert await found(project_ids=[]) == [], "a reader with no projects sees nothing"
        assert await found(action="connection.denied") == [3]
        assert await found(action="connection.") == [3, 2]
        assert await found(action="connection.%") == [], "a filter is not a pattern"
        assert await found(since=at(2)) == [4, 3]
        assert await found(limit=2) == [4, 3]
        assert await found(limit=2, before_seq=3) == [2, 1]
        assert await found(limit=0) == [4], "a limit is at least one"

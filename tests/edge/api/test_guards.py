"""The guards over a real control database: the role of the API can do what they do."""

from cloister.app.guards import StoredAudit, StoredOrganizations
from cloister.base.database import Database
from cloister.trust.audit import Action, Event
from cloister.trust.audit.verify import Intact
from tests.edge.api.world import ADA, BOB, ORG, OTHER_ORG
from tests.fix_database import DatabaseAs


async def test_organizations_and_members(database_as: DatabaseAs) -> None:
    database = await database_as("cloister_api")
    await _two_organizations(database)
    organizations = StoredOrganizations(database)
    assert [it.id for it in await organizations.find([ORG])] == [ORG]
    assert [(it.email, it.role) for it in await organizations.members(ORG)] == [(ADA.email, "admin")]
    assert await organizations.are_all([ORG, OTHER_ORG])
    assert not await organizations.are_all([ORG])
    assert not await organizations.are_all([])
    assert await organizations.project_ids([ORG, OTHER_ORG]) == []


async def test_the_log_is_appended_read_and_verified(database_as: DatabaseAs) -> None:
    log = StoredAudit(await database_as("cloister_api"))
    await log.record(*(Event(action=Action.PROJECT_GET, actor="user:x", project_id=it) for it in ("a", "b")))
    assert [it.event.project_id for it in await log.find(project_ids=["a"], action=None, before_seq=None, limit=9)] == [
        "a"
    ]
    assert [it.seq for it in await log.find(project_ids=None, action=None, before_seq=2, limit=9)] == [1]
    verdict = await log.verify([])
    assert isinstance(verdict, Intact)
    assert verdict.head.seq == 2


async def _two_organizations(database: Database) -> None:
    async with database.transaction() as tx:
        for org_id, principal, role in ((ORG, ADA, "admin"), (OTHER_ORG, BOB, "member")):
            await tx.execute("INSERT INTO organization (id, name) VALUES ($1, 'Example')", org_id)
            await tx.execute(
                "INSERT INTO account (id, email, name) VALUES ($1, $2, $3)",
                principal.account_id,
                principal.email,
                principal.name,
            )
            await tx.execute("INSERT INTO membership VALUES ($1, $2, $3)", org_id, principal.account_id, role)

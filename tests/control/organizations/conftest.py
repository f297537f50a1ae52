"""Two organizations over a real control database."""

import pytest

from cloister.base.database import Database
from tests.control.organizations.test_service import ADA, BLOG, BOB, EVE, HERE, SHOP, THEIRS, THERE
from tests.fix_database import DatabaseAs


@pytest.fixture
async def database(database_as: DatabaseAs) -> Database:
    """Ada is the admin of both organizations, Bob an editor of the first; Eve is of none."""
    database = await database_as("cloister_api")
    async with database.transaction() as tx:
        for account_id, name in ((ADA, "ada"), (BOB, "bob"), (EVE, "eve")):
            await tx.execute(
                "INSERT INTO account (id, email, name) VALUES ($1, $2, $3)", account_id, f"{name}@example.com", name
            )
        for org_id in (HERE, THERE):
            await tx.execute("INSERT INTO organization (id, name) VALUES ($1, 'Example')", org_id)
            await tx.execute("INSERT INTO membership (org_id, account_id, role) VALUES ($1, $2, 'admin')", org_id, ADA)
        await tx.execute("INSERT INTO membership (org_id, account_id, role) VALUES ($1, $2, 'editor')", HERE, BOB)
        for number, (project_id, org_id) in enumerate(((SHOP, HERE), (BLOG, HERE), (THEIRS, THERE))):
            await tx.execute(
                "INSERT INTO volume VALUES ($1, $2, $3, $4, 18, 1, 'taken')",
                project_id,
                f"br-{number}",
                f"timeline-{number}",
                number,
            )
            await tx.execute(
                """INSERT INTO project (id, org_id, owner_id, name, region_id, pg_version, store_passwords)
                   VALUES ($1, $2, $3, 'x', 'here', 18, false)""",
                project_id,
                org_id,
                ADA,
            )
    return database

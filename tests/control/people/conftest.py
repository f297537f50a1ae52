"""People, over a real control database and an issuer in the process."""

import pytest

from tests.control.people.company import Company
from tests.fix_database import DatabaseAs


@pytest.fixture
async def company(database_as: DatabaseAs) -> Company:
    made = Company(await database_as("cloister_api"))
    await made.begin()
    return made

"""A directory that speaks, over a real control database."""

import pytest

from tests.control.people.company import Company
from tests.control.scim.scene import Scene
from tests.fix_database import DatabaseAs


@pytest.fixture
async def scene(database_as: DatabaseAs) -> Scene:
    company = Company(await database_as("cloister_api"))
    await company.begin()
    made = Scene(company)
    await made.begin()
    return made

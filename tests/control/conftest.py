from collections.abc import AsyncIterator

import pytest

from tests.control.land import Land, a_land
from tests.fix_database import DatabaseAs


@pytest.fixture
async def land(database_as: DatabaseAs) -> AsyncIterator[Land]:
    async with a_land(await database_as("cloister_api")) as ready:
        yield ready

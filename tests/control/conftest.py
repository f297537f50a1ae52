from collections.abc import AsyncIterator

import pytest

from tests.control.land import Land, a_land
from tests.fix_database import DatabaseAs


@pytest.fixture
async def land(database_as: DatabaseAs) -> AsyncIterator[Land]:
    async with a_land(await database_as("cloister_api")) as ready:
        yield ready


@pytest.fixture
async def still_land(database_as: DatabaseAs) -> AsyncIterator[Land]:
    """No engine runs by itself: for tests that run one operation under their own eyes."""
    async with a_land(await database_as("cloister_api"), runs_operations=False) as ready:
        yield ready

"""A gateway worker with both doors, and a client of the second."""

from collections.abc import AsyncIterator

import pytest

from tests.fix_gateway import GatewayWorld
from tests.sql_client import SqlClient


@pytest.fixture
async def sql_world(gateway_world: GatewayWorld) -> GatewayWorld:
    await gateway_world.start(https=True)
    return gateway_world


@pytest.fixture
async def sql(sql_world: GatewayWorld) -> AsyncIterator[SqlClient]:
    async with await SqlClient.open(sql_world) as client:
        yield client

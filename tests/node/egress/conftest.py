import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.node.egress.far import Far


@pytest.fixture
async def far(tmp_path: Path) -> AsyncIterator[Far]:
    far = Far(tmp_path)
    async with await asyncio.start_server(far.serve, "127.0.0.1", 0) as server:
        far.port = server.sockets[0].getsockname()[1]
        yield far

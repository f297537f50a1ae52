"""The trees of the whole source are some millions of objects, which are kept for these tests only."""

from collections.abc import Iterator

import pytest

from tests.house.source import nodes, tree


@pytest.fixture(scope="package", autouse=True)
def _trees() -> Iterator[None]:
    """Kept, they would be walked through by the garbage collector for the rest of the run, and several times at its end."""
    yield
    nodes.cache_clear()
    tree.cache_clear()

"""What attacks on a whole platform have in common. The platform is their module's own: `shared_platform`."""

from collections.abc import Iterator

import pytest

from tests.instance import Instance, tail


@pytest.fixture
def platform(shared_platform: Instance) -> Iterator[Instance]:
    """With the end of its log, should the test fail."""
    with tail(shared_platform):
        yield shared_platform

"""One platform for the journeys that leave it as they found it, and one for those that kill and stop it; a journey that needs
a platform of another kind, or whole silence, starts its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.front import Front
from tests.instance import Instance, Tenant, tail
from tests.token_server import TokenServer


@pytest.hookimpl(tryfirst=True)  # before those that were not asked for are taken out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.journey)
            if item.get_closest_marker("root") is None:
                raise pytest.UsageError(
                    f"{item.nodeid}: a journey is for root, and scripts/test looks here for no other"
                )


@pytest.fixture(scope="session")
def issuer() -> Iterator[TokenServer]:
    with TokenServer() as issuer:
        yield issuer


@pytest.fixture(scope="session")
def shared_instance(issuer: TokenServer) -> Iterator[Instance]:
    # The loopback, so that one project can be led to another, through the gateway.
    loopback = ("--egress-allow", "127.0.0.0/8", "--egress-allow", "::1/128")
    trusting = ("--jwks-network", "127.0.0.1", "--jwks-ca", str(issuer.ca_file))
    with Instance("--idle-check-interval", "1", *trusting, *loopback) as instance:
        yield instance


@pytest.fixture
def instance(shared_instance: Instance) -> Iterator[Instance]:
    """The shared platform, with its logs added to a failure."""
    with tail(shared_instance):
        yield shared_instance


@pytest.fixture(scope="session")
def shared_tenant(shared_instance: Instance) -> Tenant:
    return shared_instance.create_project("shared")


@pytest.fixture
def tenant(shared_tenant: Tenant, instance: Instance) -> Tenant:
    return shared_tenant


@pytest.fixture(scope="session")
def front(shared_instance: Instance) -> Iterator[Front]:
    with Front(shared_instance) as front:
        yield front


@pytest.fixture(scope="session")
def shared_mortal() -> Iterator[Instance]:
    with Instance() as instance:
        yield instance


@pytest.fixture
def mortal(shared_mortal: Instance) -> Iterator[Instance]:
    """The platform for journeys that kill processes of it, or stop it: then the next brings it up again."""
    with tail(shared_mortal):
        if not shared_mortal.descendants():
            shared_mortal.up()
        yield shared_mortal

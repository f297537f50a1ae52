"""Many projects on one server: they wake when somebody comes, twenty at a time, and leave nothing when they sleep."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests import leftovers
from tests.instance import Instance, Tenant, tail

pytestmark = pytest.mark.root

AT_ONCE = 20


@pytest.mark.parametrize("count", [5, pytest.param(100, marks=pytest.mark.soak)])
def test_all_sleep_all_wake_all_sleep(count: int) -> None:
    with Instance(workers=2) as instance, tail(instance), ThreadPoolExecutor(AT_ONCE) as threads:
        tenants = [instance.create_project(f"one-of-{count}-{number}", wait=False) for number in range(count)]

        def first(numbered: tuple[int, Tenant]) -> None:
            number, tenant = numbered
            # A hundred are made at once, which on a slow host takes each of them longer than a client waits for a wake.
            instance.settle(tenant.project_id, timeout_s=300)
            with tenant.connect() as connection:
                connection.execute("CREATE TABLE mine AS SELECT %s AS n", (number,))

        def ask(numbered: tuple[int, Tenant]) -> float:
            number, tenant = numbered
            began = time.monotonic()
            with tenant.connect(connect_timeout=60) as connection:
                assert connection.execute("SELECT n FROM mine").fetchone() == (number,)
            return time.monotonic() - began

        list(threads.map(first, enumerate(tenants)))
        _suspend_all(instance, tenants)
        took = sorted(threads.map(ask, enumerate(tenants)))
        print(f"{count} wakes, {AT_ONCE} at once: median {took[count // 2]:.2f} s, slowest {took[-1]:.2f} s")
        _suspend_all(instance, tenants)
        # Each has its own rows still, and not another's.
        list(threads.map(ask, enumerate(tenants)))
        _suspend_all(instance, tenants)


def _suspend_all(instance: Instance, tenants: list[Tenant]) -> None:
    for tenant in tenants:
        instance.settle(tenant.project_id)
        instance.api("POST", f"/projects/{tenant.project_id}/endpoints/{tenant.endpoint_id}/suspend")
    for tenant in tenants:
        instance.settle(tenant.project_id)
        assert instance.endpoint(tenant)["current_state"] == "idle"
    leftovers.await_none(instance)

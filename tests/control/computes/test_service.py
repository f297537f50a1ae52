"""The verbs on endpoints."""

from typing import Any

import pytest

from cloister.base.errors import (
    BadRequestError,
    BusyError,
    ConflictError,
    NotFoundError,
    PreconditionError,
    UnavailableError,
    UnprocessableError,
)
from cloister.base.ids import BranchId, EndpointId, ProjectId
from cloister.control.computes.model import EndpointChange, NewEndpoint
from cloister.control.operations.model import Status
from cloister.node.commands import StopCompute
from tests.control.land import CALLER, Land


async def test_start_and_suspend_and_again(land: Land) -> None:
    created = await land.project()
    where = created.project.id, created.endpoint.id
    assert (await land.control.endpoints.start(CALLER, *where))[1] == [], "it runs"
    _, operations = await land.control.endpoints.suspend(CALLER, *where)
    assert [operation.action for operation in operations] == ["suspend_compute"]
    await land.finish(operations)
    assert (await land.control.endpoints.suspend(CALLER, *where))[1] == [], "it sleeps"
    _, operations = await land.control.endpoints.start(CALLER, *where)
    assert [operation.action for operation in operations] == ["start_compute"]
    assert (await land.control.endpoints.get(*where)).desired == "active"
    await land.finish(operations)
    assert created.endpoint.id in land.node.computes


async def test_a_start_under_way_is_joined(land: Land) -> None:
    created = await land.sleeping_project()
    where = created.project.id, created.endpoint.id
    land.node.failing["StartCompute"] = UnavailableError("later")
    _, first = await land.control.endpoints.start(CALLER, *where)
    _, second = await land.control.endpoints.start(CALLER, *where)
    assert [operation.id for operation in first] == [operation.id for operation in second]
    with pytest.raises(BusyError):
        await land.control.endpoints.suspend(CALLER, *where)


async def test_restart_is_a_suspend_and_a_start_after_it(land: Land) -> None:
    created = await land.project()
    before = land.node.computes[created.endpoint.id].generation
    _, operations = await land.control.endpoints.restart(CALLER, created.project.id, created.endpoint.id)
    assert [operation.action for operation in operations] == ["suspend_compute", "start_compute"]
    await land.finish(operations)
    assert land.node.computes[created.endpoint.id].generation > before


async def test_limits_apply_at_the_next_start(land: Land) -> None:
    created = await land.project()
    where = created.project.id, created.endpoint.id
    endpoint, operations = await land.control.endpoints.update(
        CALLER,
        *where,
        EndpointChange(min_cu=0.5, max_cu=0.5, suspend_timeout_seconds=-1, pg_settings={"work_mem": "8MB"}),
    )
    assert (endpoint.max_cu, operations) == (0.5, [])
    assert land.node.specs[created.endpoint.id].cpu_cores == 2.0
    _, operations = await land.control.endpoints.restart(CALLER, *where)
    await land.finish(operations)
    spec = land.node.specs[created.endpoint.id]
    assert (spec.cpu_cores, spec.memory_bytes, spec.settings) == (0.5, 2 * 1024**3, {"work_mem": "8MB"})


@pytest.mark.parametrize(
    "change",
    [
        {"min_cu": 4.0},  # above the maximum
        {"max_cu": 0.1},
        {"max_cu": 17.0},
        {"max_cu": float("nan")},
        {"suspend_timeout_seconds": 59},
        {"suspend_timeout_seconds": -2},
        {"suspend_timeout_seconds": 604_801},
        {"pg_settings": {"shared_preload_libraries": "evil"}},
        {"pg_settings": {"work_mem": "1\nshared_preload_libraries='x'"}},
    ],
)
async def test_what_cannot_be_is_refused(land: Land, change: dict[str, Any]) -> None:
    created = await land.project()
    with pytest.raises((BadRequestError, UnprocessableError)):
        await land.control.endpoints.update(CALLER, created.project.id, created.endpoint.id, EndpointChange(**change))


async def test_disabling_suspends_and_forbids_a_start(land: Land) -> None:
    created = await land.project()
    where = created.project.id, created.endpoint.id
    _, operations = await land.control.endpoints.update(CALLER, *where, EndpointChange(is_disabled=True))
    await land.finish(operations)
    assert land.node.computes == {}
    with pytest.raises(PreconditionError):
        await land.control.endpoints.start(CALLER, *where)
    await land.control.endpoints.update(CALLER, *where, EndpointChange(is_disabled=False))
    assert (await land.plane.waker.wake(created.endpoint.id)).was_cold


async def test_one_writer_per_branch_and_never_two_servers_on_one_directory(land: Land) -> None:
    created = await land.project()
    new = NewEndpoint(branch_id=created.branch.id)
    with pytest.raises(ConflictError):
        await land.control.endpoints.create(CALLER, created.project.id, new)

    async def not_yet(command: Any) -> None:
        if isinstance(command, StopCompute):
            raise UnavailableError("later")

    land.node.before = not_yet
    _, deleting = await land.control.endpoints.delete(CALLER, created.project.id, created.endpoint.id)
    with pytest.raises(BusyError):
        await land.control.endpoints.create(CALLER, created.project.id, new)
    land.node.before = None
    await land.finish_later(deleting)

    endpoint, operations = await land.control.endpoints.create(CALLER, created.project.id, new)
    await land.finish(operations)
    assert set(land.node.computes) == {endpoint.id}
    assert not (await land.look_up(endpoint.id, "neondb_owner")).is_doomed, "the branch kept its roles"
    assert not (await land.look_up(created.endpoint.id, "neondb_owner")).is_known


async def test_what_is_not_there_is_not_found(land: Land) -> None:
    created, other = await land.project(), await land.project()
    for project_id, endpoint_id in [
        (created.project.id, EndpointId("ep-no-such-00000000")),
        (created.project.id, other.endpoint.id),
        (ProjectId("no-such-00000000"), created.endpoint.id),
    ]:
        with pytest.raises(NotFoundError):
            await land.control.endpoints.get(project_id, endpoint_id)
        with pytest.raises(NotFoundError):
            await land.control.endpoints.suspend(CALLER, project_id, endpoint_id)
    with pytest.raises(NotFoundError):
        await land.control.endpoints.find(created.project.id, BranchId("br-no-such-00000000"))
    with pytest.raises(NotFoundError):
        await land.control.endpoints.create(CALLER, created.project.id, NewEndpoint(branch_id=other.branch.id))
    assert [endpoint.id for endpoint in await land.control.endpoints.find(created.project.id)] == [created.endpoint.id]


async def test_a_start_that_cannot_be_ends_failed_and_asleep(land: Land) -> None:
    created = await land.sleeping_project()
    land.node.failing["StartCompute"] = UnprocessableError("bad setting", public="bad setting")
    _, operations = await land.control.endpoints.start(CALLER, created.project.id, created.endpoint.id)
    await land.finish(operations, Status.FAILED)
    row = await land.row(created.endpoint.id)
    assert (row["state"], row["desired"]) == ("idle", "idle")

"""The verbs on endpoints. Each is one transaction: rows, operation, audit event."""

import dataclasses
from collections.abc import Mapping
from datetime import datetime
from typing import Final

from cloister.base.clock import Clock
from cloister.base.database import Database
from cloister.base.errors import BusyError, ConflictError, PreconditionError, UnprocessableError
from cloister.base.ids import BranchId, EndpointId, ProjectId, new_endpoint_id
from cloister.control.calling import Caller
from cloister.control.claims import claim_branch, claim_endpoint, hold_project
from cloister.control.computes import operations, protection, store
from cloister.control.computes.gateways import Gateways
from cloister.control.computes.limits import check_compute_units, check_pg_settings, check_suspend_timeout
from cloister.control.computes.model import READ_ONLY, READ_WRITE, TYPES, Endpoint, EndpointChange, NewEndpoint, State
from cloister.control.computes.operations import START_RESOURCE
from cloister.control.operations.engine import Engine
from cloister.control.operations.model import Operation
from cloister.control.roles import store as catalog
from cloister.trust.audit import Action, Event, record

READERS_PER_BRANCH_MAX: Final = 8
# Each that is awake has a compute's memory, and is given all that the branch's server writes.


class EndpointService:
    def __init__(self, database: Database, engine: Engine, gateways: Gateways, clock: Clock) -> None:
        self._database = database
        self._engine = engine
        self._gateways = gateways
        self._clock = clock

    async def find(self, project_id: ProjectId, branch_id: BranchId | None = None) -> list[Endpoint]:
        async with self._database.reading() as tx:
            if branch_id is not None:
                await catalog.branch_exists(tx, project_id, branch_id)
            return await store.find(tx, project_id, branch_id)

    async def get(self, project_id: ProjectId, endpoint_id: EndpointId) -> Endpoint:
        async with self._database.reading() as tx:
            return await store.get(tx, project_id, endpoint_id)

    async def create(self, caller: Caller, project_id: ProjectId, new: NewEndpoint) -> tuple[Endpoint, list[Operation]]:
        check_type(new.type)
        async with self._database.transaction() as tx:
            # Everything else on the branch must be over, above all the end of an endpoint that was just deleted: two
            # servers on one data directory, in namespaces that hide them from each other, would destroy it.
            await claim_branch(tx, project_id, new.branch_id)
            await catalog.branch_exists(tx, project_id, new.branch_id)
            there = await store.find(tx, project_id, new.branch_id)
            if new.type == READ_ONLY:
                check_readers(sum(endpoint.is_reader for endpoint in there) + 1)
            else:
                if not all(endpoint.is_reader for endpoint in there):
                    raise ConflictError(
                        f"{new.branch_id} has a writer", public="branch already has a read-write endpoint"
                    )
                if await store.has_compute(tx, new.branch_id):
                    raise BusyError(f"a compute of {new.branch_id} still runs")
            defaults = await store.defaults_of(tx, project_id)
            endpoint = new_endpoint(
                project_id,
                new.branch_id,
                new,
                defaults,
                self._clock.now(),
                is_first=not await store.is_configured(tx, new.branch_id),
                is_clean=await store.is_branch_clean(tx, new.branch_id),
            )
            check_endpoint(endpoint, await store.pg_version_of(tx, project_id))
            endpoint = await store.add(tx, endpoint)
            machine = operations.FIRST_START if endpoint.state is State.INIT else operations.START
            started = [] if new.is_disabled else [await operations.submit(tx, self._engine, machine, endpoint)]
            await record(tx, _event(Action.ENDPOINT_CREATE, caller, endpoint, started))
        return endpoint, self._kicked(started)

    async def update(
        self, caller: Caller, project_id: ProjectId, endpoint_id: EndpointId, change: EndpointChange
    ) -> tuple[Endpoint, list[Operation]]:
        """Limits and settings apply at the next start; the suspend timeout at once; disabling suspends."""
        async with self._database.transaction() as tx:
            await hold_project(tx, project_id)
            await store.hold(tx, endpoint_id)
            old = await store.get(tx, project_id, endpoint_id)
            caller.require_version(old.version)
            wanted = _changed(old, change)
            check_endpoint(wanted, await store.pg_version_of(tx, project_id))
            operations_: list[Operation] = []
            if wanted.is_disabled and not old.is_disabled:
                protection.refuse_endpoint(
                    protection.CANNOT_DISABLE_ENDPOINT, is_protected=await store.is_protected(tx, endpoint_id)
                )
                if old.is_awake:
                    await claim_endpoint(tx, project_id, endpoint_id)
                    operations_ = [await operations.submit(tx, self._engine, operations.SUSPEND, wanted)]
            endpoint = await store.change(
                tx,
                endpoint_id,
                min_cu=wanted.min_cu,
                max_cu=wanted.max_cu,
                suspend_timeout_seconds=wanted.suspend_timeout_seconds,
                pg_settings=wanted.pg_settings,
                is_disabled=wanted.is_disabled,
            )
            await record(tx, _event(Action.ENDPOINT_UPDATE, caller, endpoint, operations_, _differences(old, wanted)))
        self._gateways.invalidate(endpoint_id=endpoint_id)
        return endpoint, self._kicked(operations_)

    async def delete(
        self, caller: Caller, project_id: ProjectId, endpoint_id: EndpointId
    ) -> tuple[Endpoint, list[Operation]]:
        async with self._database.transaction() as tx:
            await claim_endpoint(tx, project_id, endpoint_id)
            await store.hold(tx, endpoint_id)
            endpoint = await store.get(tx, project_id, endpoint_id)
            caller.require_version(endpoint.version)
            protection.refuse_endpoint(
                protection.CANNOT_DELETE_ENDPOINT, is_protected=await store.is_protected(tx, endpoint_id)
            )
            if endpoint.state is State.INIT:
                raise BusyError(f"{endpoint_id} was never started")
            await store.delete(tx, endpoint_id)
            operation = await operations.submit(tx, self._engine, operations.DELETE, endpoint)
            await record(tx, _event(Action.ENDPOINT_DELETE, caller, endpoint, [operation]))
        return endpoint, self._kicked([operation])

    async def start(
        self, caller: Caller, project_id: ProjectId, endpoint_id: EndpointId
    ) -> tuple[Endpoint, list[Operation]]:
        """Started already: nothing to do. Being started: that operation."""
        async with self._database.transaction() as tx:
            await hold_project(tx, project_id)
            endpoint = await store.get(tx, project_id, endpoint_id)
            _refuse_disabled(endpoint)
            operation = await self._engine.current(tx, START_RESOURCE.format(endpoint_id))
            operations_ = [] if operation is None else [operation]
            if operation is None and endpoint.state is not State.ACTIVE:
                await claim_endpoint(tx, project_id, endpoint_id)
                await store.want(tx, endpoint_id, State.ACTIVE)
                machine = operations.FIRST_START if endpoint.state is State.INIT else operations.START
                operations_ = [await operations.submit(tx, self._engine, machine, endpoint)]
            await record(tx, _event(Action.ENDPOINT_START, caller, endpoint, operations_))
        return endpoint, self._kicked(operations_)

    async def suspend(
        self, caller: Caller, project_id: ProjectId, endpoint_id: EndpointId
    ) -> tuple[Endpoint, list[Operation]]:
        """Asleep already: nothing to do. A start that is just being written down is waited for."""
        async with self._database.transaction() as tx:
            await claim_endpoint(tx, project_id, endpoint_id)
            await store.hold(tx, endpoint_id)
            endpoint = await store.get(tx, project_id, endpoint_id)
            operations_: list[Operation] = []
            if endpoint.is_awake:
                operations_ = [await operations.submit(tx, self._engine, operations.SUSPEND, endpoint)]
            await store.want(tx, endpoint_id, State.IDLE)
            await record(tx, _event(Action.ENDPOINT_SUSPEND, caller, endpoint, operations_))
        return endpoint, self._kicked(operations_)

    async def restart(
        self, caller: Caller, project_id: ProjectId, endpoint_id: EndpointId
    ) -> tuple[Endpoint, list[Operation]]:
        async with self._database.transaction() as tx:
            await claim_endpoint(tx, project_id, endpoint_id)
            endpoint = await store.get(tx, project_id, endpoint_id)
            _refuse_disabled(endpoint)
            if endpoint.state is State.INIT:
                raise BusyError(f"{endpoint_id} was never started")
            operations_: list[Operation] = []
            if endpoint.is_awake:
                operations_.append(await operations.submit(tx, self._engine, operations.SUSPEND, endpoint))
            after = operations_[0] if operations_ else None
            operations_.append(await operations.submit(tx, self._engine, operations.START, endpoint, after=after))
            await record(tx, _event(Action.ENDPOINT_RESTART, caller, endpoint, operations_))
        return endpoint, self._kicked(operations_)

    def _kicked(self, operations_: list[Operation]) -> list[Operation]:
        self._engine.kick_all(operations_)
        return operations_


def new_endpoint(
    project_id: ProjectId,
    branch_id: BranchId,
    new: NewEndpoint,
    defaults: store.Defaults,
    now: datetime,
    *,
    is_first: bool,
    is_clean: bool = True,
) -> Endpoint:
    """`is_first`: no server of the branch's data was configured yet, so its first start has to do that."""
    max_cu = new.max_cu if new.max_cu is not None else max(defaults.max_cu, new.min_cu or 0.0)
    min_cu = new.min_cu if new.min_cu is not None else min(defaults.min_cu, max_cu)
    timeout = new.suspend_timeout_seconds
    is_first = is_first and new.type == READ_WRITE
    return Endpoint(
        id=new_endpoint_id(),
        project_id=project_id,
        branch_id=branch_id,
        type=new.type,
        min_cu=min_cu,
        max_cu=max_cu,
        suspend_timeout_seconds=defaults.suspend_timeout_seconds if timeout is None else timeout,
        pg_settings=dict(defaults.pg_settings if new.pg_settings is None else new.pg_settings),
        is_disabled=new.is_disabled,
        desired=State.IDLE if new.is_disabled else State.ACTIVE,
        state=State.INIT if is_first else State.IDLE,
        generation=0,
        socket_dir=None,
        is_clean=is_first or is_clean or new.type == READ_ONLY,
        started_at=None,
        last_active_at=None,
        suspended_at=None,
        created_at=now,
        updated_at=now,
    )


def _changed(old: Endpoint, change: EndpointChange) -> Endpoint:
    given = {name: value for name, value in dataclasses.asdict(change).items() if value is not None}
    return dataclasses.replace(old, **given)


def check_type(type_: str) -> None:
    """Raises UnprocessableError."""
    if type_ not in TYPES:
        raise UnprocessableError(f"type {type_[:40]!r}", public="an endpoint is read_write or read_only")


def check_readers(count: int) -> None:
    """Raises UnprocessableError."""
    if count > READERS_PER_BRANCH_MAX:
        raise UnprocessableError(
            f"{count} readers", public=f"a branch has at most {READERS_PER_BRANCH_MAX} read-only endpoints"
        )


def check_endpoint(endpoint: Endpoint, pg_version: int) -> None:
    """Raises BadRequestError, UnprocessableError."""
    check_compute_units(endpoint.min_cu, endpoint.max_cu)
    check_suspend_timeout(endpoint.suspend_timeout_seconds)
    check_pg_settings(endpoint.pg_settings, pg_version=pg_version, max_cu=endpoint.max_cu)


def _refuse_disabled(endpoint: Endpoint) -> None:
    if endpoint.is_disabled:
        raise PreconditionError(f"{endpoint.id} is disabled", public="endpoint is disabled")


def _differences(old: Endpoint, new: Endpoint) -> dict[str, object]:
    fields = ("min_cu", "max_cu", "suspend_timeout_seconds", "is_disabled", "pg_settings")
    return {name: getattr(new, name) for name in fields if getattr(new, name) != getattr(old, name)}


def _event(
    action: Action,
    caller: Caller,
    endpoint: Endpoint,
    operations_: list[Operation],
    details: Mapping[str, object] | None = None,
) -> Event:
    return caller.event(
        action,
        project_id=endpoint.project_id,
        branch_id=endpoint.branch_id,
        endpoint_id=endpoint.id,
        operations=operations_,
        details=details,
    )

"""Endpoints: the hosts that clients connect to, and the computes behind them."""

from cloister.base.errors import NotFoundError
from cloister.control.computes.model import Endpoint, EndpointChange, NewEndpoint
from cloister.control.operations.model import Operation
from cloister.edge.api import paths
from cloister.edge.api.call import Call, NoQuery, Plain, Versioned
from cloister.edge.api.endpoint import endpoint
from cloister.edge.api.wire import endpoints as wire
from cloister.edge.api.wire.operations import operations
from cloister.trust.access.permissions import Permission
from cloister.trust.audit import Action

_COLLECTION = "/projects/{project_id}/endpoints"
_ONE = "/projects/{project_id}/endpoints/{endpoint_id}"


@endpoint("GET", _COLLECTION, permission=Permission.ENDPOINT_READ, audit=Action.ENDPOINT_LIST)
async def list_endpoints(call: Plain) -> wire.EndpointList:
    found = await call.control.endpoints.find(call.project_id)
    return wire.EndpointList(endpoints=[wire.endpoint(it, call.settings) for it in found])


@endpoint(
    "GET",
    "/projects/{project_id}/branches/{branch_id}/endpoints",
    permission=Permission.ENDPOINT_READ,
    audit=Action.ENDPOINT_LIST,
)
async def list_branch_endpoints(call: Plain) -> wire.EndpointList:
    branch = await call.control.branches.get(call.project_id, call.branch_id)
    found = await call.control.endpoints.find(call.project_id, branch.id)
    return wire.EndpointList(endpoints=[wire.endpoint(it, call.settings) for it in found])


@endpoint("GET", _ONE, permission=Permission.ENDPOINT_READ, audit=Action.ENDPOINT_GET, versioned=True)
async def get_endpoint(call: Plain) -> Versioned[wire.EndpointAnswer]:
    it = await call.control.endpoints.get(call.project_id, call.endpoint_id)
    return Versioned(wire.EndpointAnswer(endpoint=wire.endpoint(it, call.settings)), it.version)


@endpoint("POST", _COLLECTION, permission=Permission.ENDPOINT_MANAGE, audit=Action.ENDPOINT_CREATE, status=201)
async def create_endpoint(call: Call[wire.CreateEndpoint, NoQuery]) -> wire.EndpointOperations:
    body = call.body.endpoint
    new = NewEndpoint(
        branch_id=paths.branch_id(body.branch_id),
        type=body.type,
        min_cu=body.autoscaling_limit_min_cu,
        max_cu=body.autoscaling_limit_max_cu,
        suspend_timeout_seconds=body.suspend_timeout_seconds,
        pg_settings=None if body.settings is None else body.settings.pg_settings,
        is_disabled=bool(body.disabled),
    )
    return _answer(call, await call.control.endpoints.create(call.caller, call.project_id, new))


@endpoint("PATCH", _ONE, permission=Permission.ENDPOINT_MANAGE, audit=Action.ENDPOINT_UPDATE, versioned=True)
async def update_endpoint(call: Call[wire.UpdateEndpoint, NoQuery]) -> Versioned[wire.EndpointOperations]:
    body = call.body.endpoint
    change = EndpointChange(
        min_cu=body.autoscaling_limit_min_cu,
        max_cu=body.autoscaling_limit_max_cu,
        suspend_timeout_seconds=body.suspend_timeout_seconds,
        pg_settings=None if body.settings is None else body.settings.pg_settings,
        is_disabled=body.disabled,
    )
    it, started = await call.control.endpoints.update(call.caller, call.project_id, call.endpoint_id, change)
    return Versioned(_answer(call, (it, started)), it.version)


@endpoint("DELETE", _ONE, permission=Permission.ENDPOINT_MANAGE, audit=Action.ENDPOINT_DELETE, versioned=True)
async def delete_endpoint(call: Plain) -> wire.EndpointOperations | None:
    try:
        return _answer(call, await call.control.endpoints.delete(call.caller, call.project_id, call.endpoint_id))
    except NotFoundError:
        call.require_no_version()
        return None  # as at Neon: deleted twice is deleted


@endpoint("POST", _ONE + "/start", permission=Permission.ENDPOINT_OPERATE, audit=Action.ENDPOINT_START)
async def start_endpoint(call: Plain) -> wire.EndpointOperations:
    return _answer(call, await call.control.endpoints.start(call.caller, call.project_id, call.endpoint_id))


@endpoint("POST", _ONE + "/suspend", permission=Permission.ENDPOINT_OPERATE, audit=Action.ENDPOINT_SUSPEND)
async def suspend_endpoint(call: Plain) -> wire.EndpointOperations:
    return _answer(call, await call.control.endpoints.suspend(call.caller, call.project_id, call.endpoint_id))


@endpoint("POST", _ONE + "/restart", permission=Permission.ENDPOINT_OPERATE, audit=Action.ENDPOINT_RESTART)
async def restart_endpoint(call: Plain) -> wire.EndpointOperations:
    return _answer(call, await call.control.endpoints.restart(call.caller, call.project_id, call.endpoint_id))


def _answer(call: Call[object, object], changed: tuple[Endpoint, list[Operation]]) -> wire.EndpointOperations:
    it, started = changed
    return wire.EndpointOperations(endpoint=wire.endpoint(it, call.settings), operations=operations(started, call.now))

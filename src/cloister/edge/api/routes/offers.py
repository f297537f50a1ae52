"""Projects that go to another organization by request and acceptance."""

from datetime import timedelta

from cloister.base.errors import BadRequestError
from cloister.base.ids import OrgId
from cloister.control.organizations.offers import OFFERED_FOR_DEFAULT
from cloister.edge.api import paths
from cloister.edge.api.call import Call, NoQuery
from cloister.edge.api.endpoint import endpoint
from cloister.edge.api.wire import organizations as wire
from cloister.trust.access.permissions import Permission
from cloister.trust.audit import Action

_REQUESTS = "/projects/{project_id}/transfer_requests"


@endpoint("POST", _REQUESTS, permission=Permission.PROJECT_OFFER, audit=Action.PROJECT_OFFER, status=201)
async def create_transfer_request(call: Call[wire.CreateTransferRequest, NoQuery]) -> wire.TransferRequest:
    assert call.project is not None
    seconds = call.body.ttl_seconds
    lasts = OFFERED_FOR_DEFAULT if seconds is None else timedelta(seconds=seconds)
    return wire.transfer_request(await call.control.offers.offer(call.caller, call.project, lasts))


@endpoint(
    "PUT",
    _REQUESTS + "/{request_id}",
    permission=Permission.PROJECT_CREATE,
    audit=Action.PROJECT_TRANSFER,
    status=204,
    from_outside=True,
)
async def accept_transfer_request(call: Call[wire.AcceptTransferRequest, NoQuery]) -> None:
    """Whoever accepts is asked for the request's id, and for the right to make projects where it goes."""
    await call.control.offers.accept(call.caller, call.project_id, call.transfer_request_id, _destination(call))


def _destination(call: Call[wire.AcceptTransferRequest, NoQuery]) -> OrgId:
    if call.body.org_id is not None:
        destination = paths.org_id(call.body.org_id)
        call.require_in(destination, Permission.PROJECT_CREATE)
        return destination
    if len(call.org_ids) != 1:
        raise BadRequestError(public="org_id is required, you can find it on your organization settings page")
    return call.org_ids[0]

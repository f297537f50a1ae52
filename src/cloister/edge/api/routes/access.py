"""Access of people to a project's data: asked for, decided about by others, recorded. Ours: Neon's API has nothing like it."""

from typing import Final

from cloister.edge.api.call import Call, NoQuery, Plain
from cloister.edge.api.endpoint import endpoint
from cloister.edge.api.wire import access as wire
from cloister.trust.access.permissions import Permission
from cloister.trust.audit import Action

_REQUESTS: Final = "/cloister/projects/{project_id}/access_requests"
_REQUEST: Final = _REQUESTS + "/{access_id}"
_RECORDINGS: Final = "/cloister/projects/{project_id}/recordings"
_SHIFTS: Final = "/cloister/organizations/{org_id}/on_call"
_DECIDERS: Final = (Permission.ACCESS_APPROVE, Permission.ACCESS_REQUEST)
"""The second for a breaking of the glass, which only the request says."""


@endpoint("GET", _REQUESTS, permission=Permission.ACCESS_READ, audit=Action.ACCESS_REQUEST_LIST)
async def list_access_requests(call: Plain) -> wire.AccessRequestList:
    found = await call.control.access.find(call.project_id)
    return wire.AccessRequestList(access_requests=[wire.request(it) for it in found])


@endpoint("GET", _REQUEST, permission=Permission.ACCESS_READ, audit=Action.ACCESS_REQUEST_LIST)
async def get_access_request(call: Plain) -> wire.AccessRequestAnswer:
    return wire.answer(await call.control.access.get(call.project_id, call.access_id))


@endpoint("POST", _REQUESTS, permission=Permission.ACCESS_REQUEST, audit=Action.ACCESS_REQUEST, status=201)
async def create_access_request(call: Call[wire.CreateAccessRequest, NoQuery]) -> wire.AccessRequestAnswer:
    assert call.project is not None
    new = wire.new_request(call.body.access_request)
    return wire.answer(await call.control.access.request(call.caller, call.project, new))


@endpoint(
    "POST",
    _REQUEST + "/approve",
    permission=Permission.ACCESS_READ,
    audit=Action.ACCESS_APPROVE,
    may_need=_DECIDERS,
)
async def approve_access_request(call: Plain) -> wire.AccessRequestAnswer:
    return wire.answer(await call.control.access.approve(call.caller, call.project_id, call.access_id))


@endpoint("POST", _REQUEST + "/deny", permission=Permission.ACCESS_READ, audit=Action.ACCESS_DENY, may_need=_DECIDERS)
async def deny_access_request(call: Call[wire.DenyAccess, NoQuery]) -> wire.AccessRequestAnswer:
    denied = await call.control.access.deny(call.caller, call.project_id, call.access_id, call.body.reason)
    return wire.answer(denied)


@endpoint(
    "POST",
    _REQUEST + "/terminate",
    permission=Permission.ACCESS_READ,
    audit=Action.ACCESS_END,
    may_need=(Permission.ACCESS_APPROVE,),
)
async def terminate_access(call: Plain) -> wire.AccessRequestAnswer:
    return wire.answer(await call.control.access.terminate(call.caller, call.project_id, call.access_id))


@endpoint("POST", _REQUEST + "/credentials", permission=Permission.ACCESS_REQUEST, audit=Action.ACCESS_CREDENTIALS)
async def create_access_credentials(call: Plain) -> wire.AccessCredentials:
    made = await call.control.access.credentials(call.caller, call.project_id, call.access_id)
    databases = await call.control.databases.find(call.project_id, made.request.branch_id)
    return wire.credentials(made, [it.name for it in databases], call.settings)


@endpoint("GET", _REQUEST + "/recordings", permission=Permission.ACCESS_READ, audit=Action.RECORDING_LIST)
async def list_access_recordings(call: Plain) -> wire.RecordingList:
    found = await call.control.access.recordings(call.project_id, call.access_id)
    return wire.RecordingList(recordings=[wire.recording(it) for it in found])


@endpoint("GET", _RECORDINGS, permission=Permission.ACCESS_READ, audit=Action.RECORDING_LIST)
async def list_recordings(call: Plain) -> wire.RecordingList:
    found = await call.control.access.recordings(call.project_id, None)
    return wire.RecordingList(recordings=[wire.recording(it) for it in found])


@endpoint(
    "GET",
    _RECORDINGS + "/{recording_id}",
    permission=Permission.RECORDING_READ,
    audit=Action.RECORDING_READ,
    service_records=True,
)
async def get_recording(call: Plain) -> wire.RecordingAnswer:
    return wire.replayed(await call.control.access.replay(call.caller, call.project_id, call.recording_id))


@endpoint("GET", _SHIFTS, permission=Permission.MEMBER_READ, audit=Action.ON_CALL_LIST)
async def list_shifts(call: Plain) -> wire.ShiftList:
    return wire.ShiftList(shifts=[wire.shift(it) for it in await call.control.access.shifts(call.org_id)])


@endpoint("POST", _SHIFTS, permission=Permission.MEMBER_MANAGE, audit=Action.ON_CALL_ADD, status=201)
async def create_shift(call: Call[wire.NewShiftBody, NoQuery]) -> wire.ShiftView:
    body = call.body
    added = await call.control.access.add_shift(call.caller, call.org_id, body.email, body.starts_at, body.ends_at)
    return wire.shift(added)


@endpoint("DELETE", _SHIFTS + "/{shift_id}", permission=Permission.MEMBER_MANAGE, audit=Action.ON_CALL_REMOVE)
async def remove_shift(call: Plain) -> wire.ShiftView:
    return wire.shift(await call.control.access.remove_shift(call.caller, call.org_id, call.shift_id))

"""What the sentinel found, for operators. A tenant's own view of what concerns them is the audit log of their project."""

from typing import Annotated, Final, Literal

import msgspec

from cloister.control.incidents.model import Response
from cloister.edge.api.call import Call, NoBody, NoQuery, Plain
from cloister.edge.api.endpoint import endpoint
from cloister.edge.api.wire import findings as wire
from cloister.edge.api.wire.platform import AuditEventList, audit_event
from cloister.trust.access.permissions import Permission
from cloister.trust.audit import Action

_FINDING: Final = "/cloister/findings/{finding_id}"


class ListFindings(msgspec.Struct, frozen=True):
    state: Literal["open", "acknowledged", "resolved"] | None = None
    """Without it: those that are not resolved."""
    run: Annotated[str, msgspec.Meta(max_length=32)] | None = None
    """Of one self-test; tests are not shown otherwise."""
    limit: Annotated[int, msgspec.Meta(ge=1, le=500)] = 100
    mine: bool = False
    """Assigned to the account that asks."""
    overdue: bool = False


class MeasureFindings(msgspec.Struct, frozen=True):
    days: Annotated[int, msgspec.Meta(ge=1, le=400)] = 30


@endpoint("GET", "/cloister/findings", permission=Permission.FINDING_READ, audit=Action.FINDING_LIST)
async def list_findings(call: Call[NoBody, ListFindings]) -> wire.FindingList:
    query = call.query
    found = await call.services.findings.find(
        state=query.state,
        run=query.run,
        limit=query.limit,
        assignee_id=call.caller.principal.account_id if query.mine else None,
        overdue=query.overdue,
    )
    return wire.FindingList(findings=[wire.finding(it) for it in found])


@endpoint("GET", "/cloister/findings/metrics", permission=Permission.FINDING_READ, audit=Action.FINDING_LIST)
async def measure_findings(call: Call[NoBody, MeasureFindings]) -> wire.MetricsAnswer:
    return wire.metrics(call.query.days, await call.services.findings.measure(call.query.days))


@endpoint("GET", "/cloister/sentinel", permission=Permission.FINDING_READ, audit=Action.FINDING_LIST)
async def get_sentinel(call: Plain) -> wire.PulseView:
    return wire.pulse(await call.services.findings.pulse())


@endpoint(
    "POST", "/cloister/sentinel/test", permission=Permission.FINDING_MANAGE, audit=Action.SENTINEL_PROBE, status=202
)
async def test_sentinel(call: Plain) -> wire.SelfTest:
    run, rules = await call.services.findings.test(call.caller)
    return wire.SelfTest(run=run, rules=rules)


@endpoint("GET", _FINDING, permission=Permission.FINDING_READ, audit=Action.FINDING_LIST)
async def get_finding(call: Plain) -> wire.FindingAnswer:
    return wire.FindingAnswer(finding=wire.finding(await call.services.findings.get(call.finding_id)))


@endpoint("GET", _FINDING + "/timeline", permission=Permission.FINDING_READ, audit=Action.FINDING_LIST)
async def get_finding_timeline(call: Plain) -> AuditEventList:
    found = await call.services.findings.timeline(call.finding_id)
    return AuditEventList(events=[audit_event(it) for it in found])


@endpoint("POST", _FINDING + "/notes", permission=Permission.FINDING_MANAGE, audit=Action.FINDING_NOTE)
async def note_finding(call: Call[wire.Note, NoQuery]) -> wire.FindingAnswer:
    noted = await call.services.findings.note(call.caller, call.finding_id, call.body.text)
    return wire.FindingAnswer(finding=wire.finding(noted))


@endpoint("POST", _FINDING + "/assign", permission=Permission.FINDING_MANAGE, audit=Action.FINDING_ASSIGN)
async def assign_finding(call: Call[wire.Assign, NoQuery]) -> wire.FindingAnswer:
    assigned = await call.services.findings.assign(call.caller, call.finding_id, call.body.email)
    return wire.FindingAnswer(finding=wire.finding(assigned))


@endpoint("POST", _FINDING + "/acknowledge", permission=Permission.FINDING_MANAGE, audit=Action.FINDING_ACKNOWLEDGE)
async def acknowledge_finding(call: Call[wire.Move, NoQuery]) -> wire.FindingAnswer:
    moved = await call.services.findings.move(call.caller, call.finding_id, "acknowledged", call.body.note)
    return wire.FindingAnswer(finding=wire.finding(moved))


@endpoint("POST", _FINDING + "/resolve", permission=Permission.FINDING_MANAGE, audit=Action.FINDING_RESOLVE)
async def resolve_finding(call: Call[wire.Move, NoQuery]) -> wire.FindingAnswer:
    moved = await call.services.findings.move(call.caller, call.finding_id, "resolved", call.body.note)
    return wire.FindingAnswer(finding=wire.finding(moved))


@endpoint("POST", _FINDING + "/respond", permission=Permission.FINDING_MANAGE, audit=Action.FINDING_RESPOND)
async def respond_to_finding(call: Call[wire.Respond, NoQuery]) -> wire.RespondedAnswer:
    done = await call.control.incidents.respond(call.caller, call.finding_id, Response(call.body.action))
    return wire.responded(done, call.now)


@endpoint("POST", _FINDING + "/release", permission=Permission.FINDING_MANAGE, audit=Action.FINDING_RELEASE)
async def release_finding(call: Plain) -> wire.RespondedAnswer:
    return wire.responded(await call.control.incidents.release(call.caller, call.finding_id), call.now)

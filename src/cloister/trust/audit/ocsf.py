"""An event in the words of the Open Cybersecurity Schema Framework, which collectors of logs read without being taught. Pure.

What has no place there is in `unmapped`; the event's own text, which the chain hashes, is `raw_data`, what is personal in it, to
which that commits, `unmapped.personal`, and its hash is the `metadata.uid`: the same event has the same id however often it is sent, and another event, in a log that was rolled back,
has another.
"""

from collections.abc import Mapping
from datetime import datetime
from ipaddress import ip_address
from typing import Any, Final, NamedTuple

from cloister import __version__
from cloister.trust.audit.events import Event, parse

VERSION: Final = "1.3.0"
"""Of the schema. Newer ones only add."""

_IAM: Final = (3, "Identity & Access Management")
_APPLICATION: Final = (6, "Application Activity")


class Shape(NamedTuple):
    class_uid: int
    activity_id: int


_CLASSES: Final = {
    3002: ("Authentication", *_IAM),
    6003: ("API Activity", *_APPLICATION),
    6005: ("Datastore Activity", *_APPLICATION),
}
_ACTIVITIES: Final = {
    3002: {1: "Logon", 2: "Logoff"},
    6003: {1: "Create", 2: "Read", 3: "Update", 4: "Delete", 99: "Other"},
    6005: {1: "Read", 2: "Update", 4: "Query", 6: "Create", 7: "Delete", 8: "List", 10: "Decrypt", 99: "Other"},
}

_ACTIONS: Final = {
    Shape(3002, 1): "connection.opened connection.denied api.refused session.create",
    Shape(3002, 2): "connection.closed",
    Shape(
        6003, 1
    ): """access.break_glass access.credentials access.grant access.request account.create api_key.create audit.erase_ask
        audit.forget_ask audit.hold audit.hold_lift_ask audit.retention_ask backup.ask backup.check_ask backup.take branch.create consent.ask egress.allow endpoint.create export.add group.map
        identity.link issuer.add jwks.create key.create member.add on_call.add organization.create passkey.add
        project.create project.offer review.start role.create scim.enable scim.group_create scim.rotate scim.user_create service_account.create service_account.rotate
        snapshot.create volume.create""",
    Shape(
        6003, 2
    ): """access.list access.request_list advisor.read api_key.list audit.erase_list audit.forget_list audit.hold_list audit.level_get
        audit.read audit.retention_get backup.check backup.list branch.get branch.list branch.mask_get connection_uri.read consent.list consumption.read egress.list endpoint.get
        endpoint.list finding.list group.list issuer.list jwks.list key.backup key.drill key.list member.list on_call.list
        operation.get operation.list passkey.list project.get project.list recording.list recording.read region.list
        review.list role.get role.list role.reveal_password scim.get scim.read service_account.list snapshot.list
        snapshot.schedule_get user.get""",
    Shape(
        6003, 3
    ): """access.approve access.deny account.disable account.enable audit.level_set audit.retention_set backup.exclude backup.include backup.restore branch.anonymize branch.mask branch.protect branch.recover
        branch.restore branch.set_as_default branch.unprotect branch.update consent.agree consent.policy endpoint.restart endpoint.start
        endpoint.suspend endpoint.update finding.acknowledge finding.assign finding.note finding.release finding.resolve finding.respond
        key.cancel key.disable key.enable key.policy key.reencrypt key.root key.rotate key.schedule
        member.update passkey.policy project.recover project.transfer project.update review.close review.decide review.policy
        role.empower role.reset_password scim.group_update scim.user_activate scim.user_deactivate scim.user_update service_account.disable service_account.enable service_account.orphan
        service_account.update snapshot.restore snapshot.schedule snapshot.update store.set tag.lift tag.set""",
    Shape(
        6003, 4
    ): """access.revoke api_key.revoke audit.erase audit.forget audit.hold_lift audit.minimum audit.prune branch.delete branch.purge consent.end egress.remove
        endpoint.delete export.remove group.unmap issuer.remove jwks.delete key.destroy member.remove
        on_call.remove passkey.recover passkey.remove project.delete project.purge role.delete scim.disable scim.group_delete scim.user_delete service_account.remove snapshot.delete store.remove""",
    Shape(
        6003, 99
    ): """access.end access.expire audit.mismatch backup.fail backup.overdue branch.advise branch.finalize certificate.strange compute.aged compute.crashed
        compute.start compute.stop connection.cancel egress.closed egress.opened egress.refused flow.closed flow.open
        key.denied key.overdue log.secret operation.failed passkey.use platform.recover platform.start platform.stop repair.done repair.overdue sentinel.probe
        statement.refused volume.failed""",
    Shape(6005, 1): "audit.statements_read connection.reading database.get schema.read",
    Shape(6005, 2): "database.update",
    Shape(6005, 4): "statements.seal",
    Shape(6005, 6): "database.create",
    Shape(6005, 7): "database.delete",
    Shape(6005, 8): "database.list",
    Shape(6005, 10): "key.unwrap",
    Shape(6005, 99): "recording.end recording.start statements.gap",
}

SHAPES: Final[Mapping[str, Shape]] = {
    action: shape for shape, actions in _ACTIONS.items() for action in actions.split()
}
"""Of every action that there is; a test finds one that is not here."""

_OTHER: Final = Shape(6003, 99)
# What a newer version recorded, or somebody else.

_SEVERITIES: Final = {1: "Informational", 2: "Low", 3: "Medium", 4: "High", 5: "Critical"}
_BY_OUTCOME: Final = {"ok": 1, "denied": 2}
_BY_ACTION: Final = {
    "access.break_glass": 5,
    "audit.mismatch": 5,
    "audit.erase": 4,
    "audit.forget": 4,
    "statements.gap": 4,
    "key.denied": 4,
    "flow.open": 4,
    "log.secret": 4,
    "certificate.strange": 5,
}

_RESOURCES: Final = ("endpoint_id", "branch_id", "project_id", "org_id", "operation_id")


def encoded(seq: int, text: str, personal: str | None, digest: bytes, *, origin: str) -> dict[str, Any]:
    """The event number `seq` with these texts and this hash, in the log of the platform `origin`."""
    event = parse(text, personal)
    shape = SHAPES.get(event.action, _OTHER)
    class_name, category_uid, category_name = _CLASSES[shape.class_uid]
    severity = max(_BY_OUTCOME.get(event.outcome, 3), _BY_ACTION.get(event.action, 1))
    activity = _ACTIVITIES[shape.class_uid][shape.activity_id]
    found: dict[str, Any] = {
        "class_uid": shape.class_uid,
        "class_name": class_name,
        "category_uid": category_uid,
        "category_name": category_name,
        "activity_id": shape.activity_id,
        "activity_name": activity,
        "type_uid": shape.class_uid * 100 + shape.activity_id,
        "type_name": f"{class_name}: {activity}",
        "severity_id": severity,
        "severity": _SEVERITIES[severity],
        "status_id": 1 if event.outcome == "ok" else 2,
        "status": "Success" if event.outcome == "ok" else "Failure",
        "time": _milliseconds(event.at),
        "message": f"{event.action} by {event.actor}: {event.outcome}",
        "metadata": {
            "version": VERSION,
            "product": {"name": "Cloister", "vendor_name": "Cloister", "version": __version__},
            "uid": digest.hex(),
            "sequence": seq,
            "log_name": "audit",
            "log_provider": origin,
            "original_time": event.at,
        },
        "raw_data": text,
        "unmapped": _unmapped(event) | _given(personal=personal, erasure=event.erasure),
    }
    if event.reason:
        found["status_detail"] = event.reason
    if correlation := event.request_id or event.operation_id:
        found["metadata"]["correlation_uid"] = correlation
    if event.project_id:
        found["metadata"]["tenant_uid"] = event.project_id
    return found | _of_class(event, shape)


def _of_class(event: Event, shape: Shape) -> dict[str, Any]:
    user, source = _user(event.actor), _source(event)
    if shape.class_uid == 3002:
        service = {"name": "PostgreSQL" if event.action.startswith("connection.") else "API"}
        return {"user": user, "src_endpoint": source, "service": service | _given(uid=event.endpoint_id)}
    common: dict[str, Any] = {"actor": {"user": user}, "src_endpoint": source}
    if shape.class_uid == 6005:
        named = event.resource or event.project_id or "unknown"
        database = {"type_id": 1, "type": "Relational", "name": named} | _given(uid=event.project_id)
        return common | {"database": database}
    api: dict[str, Any] = {"operation": event.action, "service": {"name": "Cloister"}}
    if event.request_id:
        api["request"] = {"uid": event.request_id}
    resources = [
        {"type": name.removesuffix("_id"), "uid": value} for name in _RESOURCES if (value := getattr(event, name))
    ]
    if event.resource:
        resources.append({"type": event.action.partition(".")[0], "name": event.resource})
    return common | {"api": api} | ({"resources": resources} if resources else {})


def _user(actor: str) -> dict[str, Any]:
    """`user:…`, `key:…`, `role:…` are somebody's; `platform:…`, `scim:…` and a bare uid are the system's."""
    kind, _, name = actor.partition(":")
    is_system = kind in ("platform", "scim", "uid")
    known = {"uid": actor or "unknown", "name": name or actor or "unknown"}
    return known | ({"type_id": 3, "type": "System"} if is_system else {"type_id": 1, "type": "User"})


def _source(event: Event) -> dict[str, str]:
    try:
        return {"ip": str(ip_address(event.address.partition("%")[0]))}
    except ValueError:
        return {"svc_name": event.actor if event.actor.startswith("platform:") else "cloister"}


def _unmapped(event: Event) -> dict[str, Any]:
    ids = {name: value for name in (*_RESOURCES, "resource", "address") if (value := getattr(event, name))}
    return {"action": event.action, "outcome": event.outcome, **ids} | _given(details=event.details)


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value}


def _milliseconds(at: str) -> int:
    """An event that is not readable has no time; it was before all others, then."""
    try:
        return int(datetime.fromisoformat(at).timestamp() * 1000)
    except ValueError:
        return 0

"""Cloister's own routes: what Neon has no word for."""

from typing import Annotated, Any, Final
from uuid import UUID

import msgspec

from cloister.base.errors import BadRequestError, NotFoundError
from cloister.base.ids import ProjectId
from cloister.edge.api import paths
from cloister.edge.api.call import Call, NoBody, Plain
from cloister.edge.api.endpoint import Public, endpoint
from cloister.edge.api.wire import platform as wire
from cloister.edge.api.wire.common import CursorPage
from cloister.trust.access.permissions import Permission
from cloister.trust.audit import Action
from cloister.trust.audit.reader import Subject
from cloister.trust.audit.verify import Head

NOTED_HEADS_MAX: Final = 64


@endpoint("GET", "/cloister/health", permission=Public("a health check: version and readiness, no data"), audit=None)
async def get_health(call: Plain) -> wire.Health:
    return wire.Health(version=call.services.version, ready=await call.services.is_ready())


class ListAuditEvents(msgspec.Struct, frozen=True):
    project_id: str | None = None
    action: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    """One action, or a group of them if it ends with a dot: `connection.`"""
    role: Annotated[str, msgspec.Meta(max_length=63)] | None = None
    """Only what this database role did."""
    address: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    """Only what was done from there."""
    account: Annotated[str, msgspec.Meta(max_length=254)] | None = None
    """Only what this account did, by its e-mail address: itself, its keys, the roles of its approved access."""
    cursor: int | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100


@endpoint("GET", "/cloister/audit/events", permission=Permission.AUDIT_READ, audit=Action.AUDIT_READ)
async def list_audit_events(call: Call[NoBody, ListAuditEvents]) -> wire.AuditEventList:
    query = call.query
    if query.cursor is not None and not 0 <= query.cursor < 2**63:
        raise BadRequestError(public="invalid cursor")
    found = await call.services.audit.find(
        project_ids=await _visible_projects(call, query.project_id),
        action=query.action,
        before_seq=query.cursor,
        limit=query.limit,
        subject=Subject(role=query.role, address=query.address, account=query.account),
    )
    return wire.AuditEventList(
        events=[wire.audit_event(it) for it in found],
        pagination=CursorPage(cursor=str(found[-1].seq)) if found else None,
        pruned=await pruned(call),
    )


async def pruned(call: Call[Any, Any]) -> str | None:
    gone = await call.services.audit.gone()
    return None if gone is None else str(gone)


class AskWho(msgspec.Struct, frozen=True):
    event: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)] | None = None
    """Its number in the log."""
    session_id: UUID | None = None
    """As a statement has it, and the events of its connection."""


@endpoint("GET", "/cloister/audit/who", permission=Permission.AUDIT_READ, audit=Action.AUDIT_READ)
async def get_audit_who(call: Call[NoBody, AskWho]) -> wire.AuditWho:
    """From an event or a session to a person. One of somebody else's is not there."""
    query = call.query
    asked = query.event if query.session_id is None else str(query.session_id)
    if asked is None or (query.event is not None and query.session_id is not None):
        raise BadRequestError(public="event or session_id must be given")
    found = await call.services.audit.who(await _visible_projects(call, None), asked)
    if found is None:
        raise NotFoundError(public="; ".join(filter(None, ["event not found", await pruned(call)])))
    return wire.who(found)


class VerifyAudit(msgspec.Struct, frozen=True):
    noted: Annotated[str, msgspec.Meta(max_length=8192)] | None = None
    """Heads noted earlier, `SEQ:HASH`, separated by commas."""


@endpoint("GET", "/cloister/audit/verify", permission=Permission.PLATFORM_READ, audit=Action.AUDIT_READ)
async def verify_audit(call: Call[NoBody, VerifyAudit]) -> wire.AuditVerdict:
    """Replay the chain, and hold it to the last checkpoint that the key broker signed. It is the whole platform's: only who
    may read all of it can verify it."""
    try:
        noted = [Head.parse(text.strip()) for text in call.query.noted.split(",")] if call.query.noted else []
    except ValueError:
        raise BadRequestError(public="noted must be SEQ:HASH, as an earlier verification gave it") from None
    if len(noted) > NOTED_HEADS_MAX:
        raise BadRequestError(public=f"at most {NOTED_HEADS_MAX} noted heads")
    return wire.verdict(*await call.services.audit.verify(noted))


class ListVolumeKeys(msgspec.Struct, frozen=True):
    project_id: str | None = None


@endpoint("GET", "/cloister/keys", permission=Permission.KEY_READ, audit=Action.KEY_LIST)
async def list_volume_keys(call: Call[NoBody, ListVolumeKeys]) -> wire.VolumeKeyList:
    visible = await _visible_projects(call, call.query.project_id)
    only = call.query.project_id if visible is not None and len(visible) == 1 else None
    found = await call.services.volume_keys.find(only)
    return wire.VolumeKeyList(keys=[wire.volume_key(it) for it in found if visible is None or it.project_id in visible])


async def _visible_projects(call: Call[Any, Any], asked: str | None) -> list[ProjectId] | None:
    """The project asked for, if it is (or was) one of those that the principal holds the permission in; else all of these.
    None, which is the whole platform and what belongs to no project, only for who may read that."""
    sees_all = call.also_permits(Permission.PLATFORM_READ)
    if sees_all and asked is None:
        return None
    visible = [*await call.control.organizations.project_ids(call.org_ids), *call.project_ids]
    if asked is None:
        return visible
    project_id = paths.project_id(asked)
    if project_id not in visible and not sees_all:
        raise NotFoundError(public="project not found")
    return [project_id]

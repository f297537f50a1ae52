"""Cloister's own: the audit log, the volume keys, the platform's health."""

from typing import Any

import msgspec

from cloister.edge.api.wire.common import CursorPage, Wire
from cloister.protocol.merkle.notes import SignedTree
from cloister.trust.audit.events import timestamp
from cloister.trust.audit.people import Chain
from cloister.trust.audit.reader import Recorded
from cloister.trust.audit.verify import Broken, Intact
from cloister.trust.keys.commands import KeyInfo


class Health(Wire, frozen=True, kw_only=True):
    version: str
    ready: bool


class AuditEventView(Wire, frozen=True, kw_only=True):
    seq: int
    hash: str
    """SHA-256, hex: covers the event and every one before it."""
    event: dict[str, Any]


class AuditEventList(Wire, frozen=True, kw_only=True):
    events: list[AuditEventView]
    pagination: CursorPage | None = None
    pruned: str | None = None
    """In words, which events there are none of here any more. Left out: every one is there."""


class AuditPerson(Wire, frozen=True, kw_only=True):
    id: str
    email: str
    name: str


class AuditApproval(Wire, frozen=True, kw_only=True):
    id: str
    reason: str
    state: str
    approved_by: list[str]
    ends_at: str | None = None


class AuditWho(Wire, frozen=True, kw_only=True):
    at: str
    actor: str
    address: str
    endpoint_id: str
    program: str
    tls_version: str
    session_id: str
    request_id: str
    role: str
    key_id: int | None = None
    key_name: str | None = None
    account: AuditPerson | None = None
    """Null where nobody can be told, and for who does not belong to the project's organization."""
    access_request: AuditApproval | None = None
    token_subject: str | None = None
    """Of the token that opened the session."""
    event: AuditEventView
    opened: AuditEventView | None = None
    password_given_by: list[AuditEventView]
    same_request: list[AuditEventView]


class AuditVerdict(Wire, frozen=True, kw_only=True):
    is_intact: bool
    head: str | None = None
    """`SEQ:HASH` of the last event. Note it outside: `?noted=` holds a later log to it."""
    broken_at: int | None = None
    fault: str | None = None
    erased: int = 0
    """Of so many events what is personal was erased, and the log says by whom."""
    pruned: int = 0
    """The events up to this one went, and the log says so."""
    pruned_at: str | None = None
    older: int = 0
    """So many of the heads noted are from among those: there is nothing any more that they could be held to."""
    checkpoint: int
    """How many events the key broker had signed: the log was held to them."""
    note: str
    """That checkpoint, signed."""
    key: str
    """The key that verifies `note`. Compare it with the one noted elsewhere."""


class VolumeKeyView(Wire, frozen=True, kw_only=True):
    project_id: str
    purpose: str
    version: int
    state: str
    provider: str
    created_at: str


class VolumeKeyList(Wire, frozen=True, kw_only=True):
    keys: list[VolumeKeyView]


def audit_event(it: Recorded) -> AuditEventView:
    return AuditEventView(seq=it.seq, hash=it.hash.hex(), event=msgspec.to_builtins(it.event))


def who(it: Chain) -> AuditWho:
    event = it.event.event
    # What is told once, when the session opens, holds for what it did.
    first = event if it.opened is None else it.opened.event
    known = {**first.details, **event.details}
    approved = it.approved

    def text(name: str) -> str:
        return str(known.get(name, ""))

    return AuditWho(
        at=event.at,
        actor=event.actor,
        address=event.address or first.address,
        endpoint_id=event.endpoint_id or first.endpoint_id,
        program=text("application_name") or text("client"),
        tls_version=text("tls_version"),
        session_id=text("session_id"),
        request_id=event.request_id,
        role=it.role,
        key_id=it.key_id,
        key_name=it.key_name or None,
        account=None
        if it.person is None
        else AuditPerson(id=str(it.person.account_id), email=it.person.email, name=it.person.name),
        access_request=None
        if approved is None
        else AuditApproval(
            id=str(approved.request_id),
            reason=approved.reason,
            state=approved.state,
            approved_by=approved.approved_by,
            ends_at=None if approved.ends_at is None else timestamp(approved.ends_at),
        ),
        token_subject=text("subject") or None,
        event=audit_event(it.event),
        opened=None if it.opened is None else audit_event(it.opened),
        password_given_by=[audit_event(each) for each in it.given_by],
        same_request=[audit_event(each) for each in it.request],
    )


def verdict(it: Intact | Broken, last: SignedTree) -> AuditVerdict:
    match it:
        case Intact():
            return AuditVerdict(
                is_intact=True,
                head=str(it.head),
                erased=it.erased,
                pruned=it.pruned,
                pruned_at=None if it.pruned_at is None else timestamp(it.pruned_at),
                older=it.older,
                checkpoint=last.size,
                note=last.note,
                key=last.key,
            )
        case Broken(seq, fault):
            return AuditVerdict(
                is_intact=False,
                broken_at=seq,
                fault=fault.value,
                checkpoint=last.size,
                note=last.note,
                key=last.key,
            )


def volume_key(it: KeyInfo) -> VolumeKeyView:
    return VolumeKeyView(
        project_id=it.project_id,
        purpose=it.purpose,
        version=it.version,
        state=it.state,
        provider=it.provider,
        created_at=it.created_at,
    )

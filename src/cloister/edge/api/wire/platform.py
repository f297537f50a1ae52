"""Cloister's own: the audit log, the volume keys, the platform's health."""

from typing import Any

import msgspec

from cloister.edge.api.wire.common import CursorPage, Wire
from cloister.protocol.merkle.notes import SignedTree
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


class AuditVerdict(Wire, frozen=True, kw_only=True):
    is_intact: bool
    head: str | None = None
    """`SEQ:HASH` of the last event. Note it outside: `?noted=` holds a later log to it."""
    broken_at: int | None = None
    fault: str | None = None
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


def verdict(it: Intact | Broken, last: SignedTree) -> AuditVerdict:
    match it:
        case Intact(head):
            return AuditVerdict(is_intact=True, head=str(head), checkpoint=last.size, note=last.note, key=last.key)
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

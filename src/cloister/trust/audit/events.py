"""One event: who did what to which thing, when, from where, and how it ended.

Values come partly from strangers (application names, role names, addresses). They are encoded as JSON in printable
ASCII, so one event is one line, cannot forge another and cannot steer a terminal; long values are cut.
docs/audit-log-format.md describes the result for those who read the log without us.

An event is kept as two texts. Its body is hashed, and stays. What is personal in it stands in a text of its own, of which the body
has a commitment, so that it can be erased and every proof stays (docs/adr/0041-forgetting.md).
"""

import contextlib
import hashlib
import json
import math
import secrets
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import msgspec

from cloister.trust.audit.actions import Action

VALUE_CHARS_MAX: Final = 512
# A role or database name has at most 63 bytes; beyond this a value is an attempt to fill the log.

ITEMS_MAX: Final = 64
# No event of ours has more than a dozen details.

CUT: Final = "…"
# Ends every value that was cut.


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An event before it is appended. `actor` is `user:<uuid>`, `key:<id>`, `role:<name>`, or `platform:<process>`."""

    action: str
    actor: str
    at: str = ""
    """RFC 3339 UTC with microseconds; filled in at recording where empty."""
    outcome: str = "ok"
    """`ok`, `denied`, `failed`."""
    org_id: str = ""
    project_id: str = ""
    branch_id: str = ""
    endpoint_id: str = ""
    operation_id: str = ""
    resource: str = ""
    """What it was done to, where that is none of the ids: a role's name, a key's version."""
    address: str = ""
    request_id: str = ""
    reason: str = ""
    details: dict[str, Any] = {}
    """Flat; never a secret."""
    erasure: str = ""
    """Of an event that was read: by which forgetting what is personal in it was erased. Empty: it is all there."""


_KEPT: Final = tuple(name for name in Event.__struct_fields__ if name != "erasure")

PERSONAL_DETAILS: Final = frozenset(
    {
        "allowed_ips",
        "application_name",
        "client",
        "email",
        "name",
        "note",
        "owner",
        "passkey",
        "passkeys",
        "role_names",
        "signer",
        "subject",
        "to",
        "user_name",
        "was_owner",
    }
)
"""Details that name a person, or their device, or are a person's own words."""

PERSONAL_REASONS: Final = frozenset(
    {
        Action.ACCESS_BREAK_GLASS,
        Action.ACCESS_DENY,
        Action.ACCESS_REQUEST,
        Action.AUDIT_ERASE,
        Action.AUDIT_ERASE_ASK,
        Action.AUDIT_FORGET,
        Action.AUDIT_FORGET_ASK,
        Action.AUDIT_HOLD,
        Action.AUDIT_HOLD_LIFT,
        Action.AUDIT_HOLD_LIFT_ASK,
        Action.AUDIT_RETENTION_ASK,
        Action.AUDIT_RETENTION_SET,
        Action.BACKUP_EXCLUDE,
        Action.CONSENT_AGREE,
        Action.CONSENT_ASK,
        Action.KEY_DISABLE,
        Action.KEY_SCHEDULE,
        Action.PASSKEY_RECOVER,
        Action.RECORDING_START,
        Action.TAG_LIFT,
        Action.TAG_SET,
    }
)
"""Actions whose reason a person wrote. The others' is one of our own words, and stays."""

SALT_BYTES: Final = 16
# Nobody guesses an address from its digest by trying them all: there are few addresses, and many salts.

_encoded: Final = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode
# One for all: `json.dumps` would make one each time.

_ROLE: Final = "role:"
# Of an actor, and of a database's roles: what follows is a name that somebody chose for somebody.


class Written(NamedTuple):
    """An event as it is kept."""

    body: str
    personal: str | None
    """None: nothing in it is."""


class _Part(msgspec.Struct, frozen=True):
    """What is personal in an event."""

    actor: str = ""
    resource: str = ""
    address: str = ""
    reason: str = ""
    details: dict[str, Any] = {}


class _Mark(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """That it was erased, and nothing else: no commitment holds what stood beside it."""

    erasure: str
    erased_at: str


def written(event: Event) -> Written:
    """The canonical texts of an event: JSON, printable ASCII, keys in the order of `Event`, empty fields left out.

    What is hashed and kept is these texts, so they need not be reproducible, only readable.
    """
    if not event.at:
        event = msgspec.structs.replace(event, at=timestamp(datetime.now(UTC)))
    fields = {name: _tame(value) for name in _KEPT if (value := getattr(event, name)) not in ("", {})}
    if not (part := _set_apart(fields)):
        return Written(_line(fields), None)
    personal = _line({"salt": secrets.token_urlsafe(SALT_BYTES), **part})
    return Written(_line({**fields, "personal": commitment(personal)}), personal)


def commitment(personal: str) -> str:
    """What the body says of it."""
    return f"sha256:{hashlib.sha256(personal.encode('utf-8', 'replace')).hexdigest()}"


def erasure_of(personal: str) -> str:
    """By which forgetting it was erased; empty: it is there, or it is nothing of ours."""
    try:
        return msgspec.json.decode(personal, type=_Mark).erasure if '"erasure"' in personal else ""
    except (msgspec.DecodeError, UnicodeEncodeError):
        return ""


def parse(body: str, personal: str | None = None) -> Event:
    """The event in these texts, which may be older or newer than this code: unknown keys are passed over. That they belong together
    is `verify`'s to say. What is personal fills the places that were left for it, and takes that of nothing that the body says.

    A body that is no event of ours (somebody with a right to append called the database directly) comes back as an
    event that says so: one strange line must not hide the others.
    """
    try:
        event = msgspec.json.decode(body, type=Event)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return Event(action="unreadable", actor="", outcome="failed", details={"body": _tame(body)})
    part, erasure = _Part(), ""
    if personal is not None and not (erasure := erasure_of(personal)):
        with contextlib.suppress(msgspec.DecodeError, UnicodeEncodeError):
            part = msgspec.json.decode(personal, type=_Part)
    return msgspec.structs.replace(
        event,
        actor=part.actor if event.actor == _ROLE and part.actor.startswith(_ROLE) else event.actor,
        resource=event.resource or part.resource,
        address=event.address or part.address,
        reason=event.reason or part.reason,
        details=part.details | event.details,
        erasure=erasure,
    )


def _set_apart(fields: dict[str, Any]) -> dict[str, Any]:
    """Takes what is personal out of the fields of an event. Of an actor that is a role, the kind stays."""
    part: dict[str, Any] = {}
    action, details = fields.get("action"), fields.get("details", {})
    if fields.get("actor", "").startswith(_ROLE):
        part["actor"], fields["actor"] = fields["actor"], _ROLE
    if "resource" in fields and any(str(it).startswith("role.") for it in (action, details.get("attempted"))):
        part["resource"] = fields.pop("resource")
    if "address" in fields:
        part["address"] = fields.pop("address")
    if "reason" in fields and action in PERSONAL_REASONS:
        part["reason"] = fields.pop("reason")
    if found := {name: value for name, value in details.items() if name in PERSONAL_DETAILS}:
        part["details"] = found
        fields["details"] = {name: value for name, value in details.items() if name not in found}
        if not fields["details"]:
            del fields["details"]
    return part


def _line(fields: dict[str, Any]) -> str:
    # JSON escapes what is below U+0020 and, with ensure_ascii, what is above U+007E, except for DEL itself.
    return _encoded(fields).replace("\x7f", "\\u007f")


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC, always 27 characters: such texts sort as the moments do."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _tame(value: Any) -> Any:
    """`value` within the limits, and such that the database's jsonb can hold it."""
    if isinstance(value, str):
        if len(value) <= VALUE_CHARS_MAX and value.isascii() and "\0" not in value:
            return value  # as nearly all are
        # Cut before the rest is looked at: a value of a megabyte must cost nothing. jsonb cannot hold U+0000, and a lone
        # surrogate is not text.
        text = value[: VALUE_CHARS_MAX + 1].replace("\0", "\ufffd").encode("utf-8", "replace").decode()
        return text if len(text) <= VALUE_CHARS_MAX else text[:VALUE_CHARS_MAX] + CUT
    if isinstance(value, dict):
        return {_tame(str(key)): _tame(inner) for key, inner in list(value.items())[:ITEMS_MAX]}
    if isinstance(value, list):
        return [_tame(inner) for inner in value[:ITEMS_MAX]]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value

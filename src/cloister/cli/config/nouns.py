"""What a configuration can say: the kinds of things, the settings of each, and where the API has them. One table.

A thing is a `Node`: of a kind, with a name within its parent, settings by dotted path, and the things below it. The same
type says what a file wants and what the platform has. A setting that is not in a node is not spoken of: in what is
wanted, it is left as it is; in what is there, the API does not say it.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

from cloister.base import tags
from cloister.base.audit_levels import AuditLevel
from cloister.base.egress import Target
from cloister.base.errors import CloisterError
from cloister.base.ipallow import ENTRIES_MAX, IpRange
from cloister.base.limits import CU_MAX, CU_MIN, SUSPEND_TIMEOUT_MAX_S, SUSPEND_TIMEOUT_MIN_S

Value: TypeAlias = bool | int | float | str | list[str] | dict[str, str]
Settings: TypeAlias = Mapping[str, Value]

NEVER: Final = "never"
FOREVER: Final = "forever"

TEXT_CHARS_MAX: Final = 16_384
# A chain of certificates, which is the longest text there is.
NAME_CHARS_MAX: Final = 256
READERS_MAX: Final = 8
PAIRS_MAX: Final = 200
SCHEDULE_ITEMS_MAX: Final = 16
GRANTS_MAX: Final = 100
# As the API has them.

PROJECT_ROLES: Final = ("viewer", "editor", "admin")
SERVICE_ROLES: Final = ("collaborator", "viewer", "editor")
"""Of a machine in the whole organization: an admin governs, and machines do not."""
MEMBER_ROLES: Final = (*SERVICE_ROLES, "admin")
"""From the least to the most."""


class FormError(ValueError):
    """A value has not the form that its setting wants. The message says which that is."""


Form: TypeAlias = Callable[[Any], Value]
"""From what TOML or the API gave to the one way in which we write that. Raises FormError."""


def _flag(value: Any) -> Value:
    if not isinstance(value, bool):
        raise FormError("true or false")
    return value


def _whole(low: int, high: int, word: str = "", others: tuple[int, ...] = ()) -> Form:
    """A whole number; or a word that stands for its absence."""

    def form(value: Any) -> Value:
        if word and value == word:
            return word
        is_number = isinstance(value, int) and not isinstance(value, bool)
        if not is_number or not (low <= value <= high or value in others):
            more = "".join(f", or {each}" for each in others)
            raise FormError(f"a whole number from {low} to {high}{more}{f', or {word!r}' if word else ''}")
        return int(value)

    return form


def _size(value: Any) -> Value:
    """Compute units. 1 and 1.0 are one size."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not CU_MIN <= value <= CU_MAX:
        raise FormError(f"a number of compute units from {CU_MIN} to {CU_MAX:g}")
    return float(value)


def _word(*words: str) -> Form:
    def form(value: Any) -> Value:
        if value not in words or not isinstance(value, str):
            raise FormError(f"one of {', '.join(words)}")
        return value

    return form


def _text(chars_max: int) -> Form:
    def form(value: Any) -> Value:
        if not isinstance(value, str) or not 1 <= len(value) <= chars_max or not is_text(value):
            raise FormError(f"a text of 1 to {chars_max} characters")
        return value

    return form


def _addresses(value: Any) -> Value:
    """Entries of an allow list. Their order says nothing, so it is not kept."""
    if not isinstance(value, list) or len(value) > ENTRIES_MAX or not all(isinstance(each, str) for each in value):
        raise FormError(f"a list of at most {ENTRIES_MAX} addresses, ranges A-B, or networks A/PREFIX")
    for each in value:
        try:
            IpRange.parse(each)
        except CloisterError as error:
            raise FormError(error.public) from None
    return sorted({each.strip() for each in value})


def _tags(value: Any) -> Value:
    """In no order."""
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise FormError("a list of tags, a word each")
    try:
        tags.require_room(tags.checked(value))
    except CloisterError as error:
        raise FormError(error.public) from None
    return sorted(set(value))


def _schedule(value: Any) -> Value:
    """When snapshots are taken by themselves, a text for each item, in no order."""
    if not isinstance(value, list) or len(value) > SCHEDULE_ITEMS_MAX or not all(isinstance(it, str) for it in value):
        raise FormError(f"a list of at most {SCHEDULE_ITEMS_MAX} texts like 'daily hour=3 retention_seconds=604800'")
    return sorted({schedule_text(schedule_item(each)) for each in value})


def schedule_item(text: str) -> dict[str, str | int]:
    """As the API has it. Raises FormError."""
    frequency, *words = text.split()[:5] or [""]
    matches = [match for word in words if (match := _SCHEDULED.fullmatch(word))]
    numbers = {match[1]: int(match[2]) for match in matches}
    if frequency not in _FREQUENCIES or len(numbers) != len(text.split()) - 1:
        raise FormError(
            f"{', '.join(_FREQUENCIES)}, and after it {', '.join(f'{word}=NUMBER' for word in _SCHEDULE_WORDS)}"
        )
    return {"frequency": frequency} | numbers


def schedule_text(item: Mapping[str, Any]) -> str:
    said = [f"{word}={item[word]}" for word in _SCHEDULE_WORDS if item.get(word) is not None]
    return " ".join([str(item["frequency"]), *said])


_FREQUENCIES: Final = ("hourly", "daily", "weekly", "monthly", "yearly")
_SCHEDULE_WORDS: Final = ("hour", "day", "month", "retention_seconds")
_SCHEDULED: Final = re.compile(rf"({'|'.join(_SCHEDULE_WORDS)})=([0-9]{{1,10}})")


def _pairs(value: Any) -> Value:
    if (
        not isinstance(value, dict)
        or len(value) > PAIRS_MAX
        or not all(isinstance(each, str) and is_text(each) for each in (*value, *value.values()))
        or not all(value)
    ):
        raise FormError(f"a table of at most {PAIRS_MAX} texts, each in quotes")
    return dict(sorted(value.items()))


def _grants(value: Any) -> Value:
    """Projects and the role in each."""
    roles = list(value.values()) if isinstance(value, dict) else []
    names = list(value) if isinstance(value, dict) else [""]
    if (
        len(names) > GRANTS_MAX
        or not all(each in PROJECT_ROLES for each in roles)
        or not all(isinstance(each, str) and each and is_text(each) for each in names)
    ):
        raise FormError(f"a table of at most {GRANTS_MAX} projects, each with one of {', '.join(PROJECT_ROLES)}")
    return dict(sorted(value.items()))


def _somebody(value: Any) -> Value:
    return _email(value if isinstance(value, str) else "")


def _moment(value: Any) -> Value:
    """In UTC and whole seconds, as the API says it; or `never`. The API's own text is taken as well."""
    if value in (None, NEVER):
        return NEVER
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            value = None
    if not isinstance(value, datetime) or value.tzinfo is None or value.microsecond:
        raise FormError("a time with whole seconds and a zone, like 2027-01-31T12:00:00Z, or 'never'")
    try:
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except OverflowError:
        raise FormError("a time within the calendar") from None


@dataclass(frozen=True, slots=True)
class Setting:
    path: str
    """In a file, below its thing: `ip_allow.addresses`."""
    form: Form
    at: str = ""
    """In the API's object of the thing, and in the body that changes it. Empty: it has a call of its own, or another form."""
    call: str = "itself"
    """Which call changes it: the thing's own, or another."""
    is_fixed: bool = False
    """Said when the thing is made; nothing changes it afterwards."""
    is_needed: bool = False
    """The thing cannot be made without."""


@dataclass(frozen=True, slots=True)
class Kind:
    settings: tuple[Setting, ...]
    holds: tuple[str, ...] = ()
    """Kinds of things below it, in the order in which they are written."""
    is_one: bool = False
    """There is at most one, which has no name."""
    is_renamed: bool = False
    """The API can give it another name."""
    parse_name: Callable[[str], str] | None = None
    """From how a file writes the name to how the platform does. Raises FormError."""
    by_path: Mapping[str, Setting] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_path", {each.path: each for each in self.settings})


def _target(text: str) -> str:
    try:
        return str(Target.parse(text))
    except CloisterError as error:
        raise FormError(error.public) from None


def _email(text: str) -> str:
    if not re.fullmatch(r"[^@\s]+@[^@\s]+", text) or len(text) > 254:
        raise FormError("an e-mail address")
    return text.lower()  # the platform tells none apart by that


def _group(text: str) -> str:
    """A group of an issuer's: the issuer's name here, and the group as its tokens say it, which may begin with another slash."""
    issuer, _, group = text.partition("/")
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,31}", issuer) or not 1 <= len(group) <= NAME_CHARS_MAX:
        raise FormError("ISSUER/GROUP: the name that the issuer has here, and the group's")
    return text


def _account_name(text: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,31}", text):
        raise FormError("1 to 32 small letters, digits and hyphens, a letter first")
    return text


def _number(text: str) -> str:
    if not re.fullmatch(r"[1-8]", text):
        raise FormError(f"a number from 1 to {READERS_MAX}: the oldest reader is 1")
    return text


_SUSPEND: Final = _whole(SUSPEND_TIMEOUT_MIN_S, SUSPEND_TIMEOUT_MAX_S, others=(0, -1))
_AMOUNT: Final = _whole(0, 2**63 - 1)
_RECORD_DAYS: Final = _whole(365, 36_500, FOREVER)

_COMPUTE: Final = (
    Setting("min_cu", _size, "autoscaling_limit_min_cu"),
    Setting("max_cu", _size, "autoscaling_limit_max_cu"),
    Setting("suspend_timeout_seconds", _SUSPEND, "suspend_timeout_seconds"),
    Setting("disabled", _flag, "disabled"),
    Setting("pg_settings", _pairs, "settings.pg_settings"),
)

KINDS: Final[Mapping[str, Kind]] = {
    "organization": Kind(
        (
            Setting("keys.rotate_days", _whole(1, 2560), call="keys"),
            Setting("keys.reencrypt_days", _whole(1, 2560, NEVER), call="keys"),
            Setting("passkeys.required", _flag, call="passkeys"),
            Setting("consents.required", _flag, call="consents"),
            Setting("access_reviews.every_days", _whole(7, 366, NEVER), call="access_reviews"),
            Setting("access_reviews.answer_days", _whole(1, 60), call="access_reviews"),
            Setting("access_reviews.unanswered_rights_lapse", _flag, call="access_reviews"),
            Setting("audit_retention.statements_days", _RECORD_DAYS, call="statements"),
            Setting("audit_retention.recordings_days", _RECORD_DAYS, call="recordings"),
        ),
        holds=("group", "member", "service_account", "project"),
    ),
    "project": Kind(
        (
            Setting("pg_version", _whole(10, 99), "pg_version", is_fixed=True),
            Setting("store_passwords", _flag, "store_passwords", is_fixed=True),
            Setting("history_retention_seconds", _whole(0, 2_592_000), "history_retention_seconds"),
            Setting("audit_level", _word(*AuditLevel), call="audit_level"),
            Setting("tags", _tags, "tags", call="tags"),
            Setting("default_branch", _text(NAME_CHARS_MAX), call="default_branch"),
            Setting("block_public_connections", _flag, "settings.block_public_connections"),
            Setting("require_channel_binding", _flag, "settings.require_channel_binding"),
            Setting("logical_replication", _flag, "settings.enable_logical_replication"),
            Setting("ip_allow.addresses", _addresses, "settings.allowed_ips.ips"),
            Setting("ip_allow.protected_only", _flag, "settings.allowed_ips.protected_branches_only"),
            Setting("quota.active_time_seconds", _AMOUNT, "settings.quota.active_time_seconds"),
            Setting("quota.compute_time_seconds", _AMOUNT, "settings.quota.compute_time_seconds"),
            Setting("quota.written_data_bytes", _AMOUNT, "settings.quota.written_data_bytes"),
            Setting("quota.data_transfer_bytes", _AMOUNT, "settings.quota.data_transfer_bytes"),
            Setting("quota.logical_size_bytes", _AMOUNT, "settings.quota.logical_size_bytes"),
            Setting("defaults.min_cu", _size, "default_endpoint_settings.autoscaling_limit_min_cu"),
            Setting("defaults.max_cu", _size, "default_endpoint_settings.autoscaling_limit_max_cu"),
            Setting("defaults.suspend_timeout_seconds", _SUSPEND, "default_endpoint_settings.suspend_timeout_seconds"),
            Setting("defaults.pg_settings", _pairs, "default_endpoint_settings.pg_settings"),
        ),
        holds=("egress", "permission", "branch"),
        is_renamed=True,
    ),
    "egress": Kind((Setting("ca_pem", _text(TEXT_CHARS_MAX), "ca_pem"),), parse_name=_target),
    "permission": Kind((Setting("role", _word(*PROJECT_ROLES), "role", is_needed=True),), parse_name=_email),
    "group": Kind((Setting("role", _word(*MEMBER_ROLES), "role", is_needed=True),), parse_name=_group),
    "member": Kind((Setting("role", _word(*MEMBER_ROLES), "role", is_needed=True),), parse_name=_email),
    "service_account": Kind(
        (
            Setting("role", _word(*SERVICE_ROLES), "role"),
            Setting("grants", _grants),
            Setting("owner", _somebody, "owner"),
            Setting("disabled", _flag),
        ),
        parse_name=_account_name,
    ),
    "branch": Kind(
        (
            Setting("parent", _text(NAME_CHARS_MAX), is_fixed=True),
            Setting("protected", _flag, "protected"),
            Setting("expires_at", _moment, "expires_at"),
            Setting("snapshots", _schedule, call="snapshots"),
            Setting("tags", _tags, "tags", call="tags"),
        ),
        holds=("compute", "reader", "role", "database"),
        is_renamed=True,
    ),
    "compute": Kind(_COMPUTE, is_one=True),
    "reader": Kind(_COMPUTE, parse_name=_number),
    "role": Kind((Setting("login", _flag, is_fixed=True),)),
    "database": Kind((Setting("owner", _text(63), "owner_name", is_needed=True),), is_renamed=True),
}


PEOPLE: Final = ("group", "member", "service_account")
"""What an organization holds beside its projects."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    kind: str
    name: str
    key: str = ""
    """What a file calls it, where that is not its name: two projects may have one name. Never part of what is compared."""
    was: str = ""
    """The name that it has had, where it is to have another."""
    id: str = ""
    settings: Settings = field(default_factory=dict)
    children: Mapping[str, tuple["Node", ...]] = field(default_factory=dict)
    """By kind."""
    whole: frozenset[str] = frozenset()
    """Kinds of children of which there are to be no others than these."""

    def of(self, kind: str) -> tuple["Node", ...]:
        return self.children.get(kind, ())

    @property
    def word(self) -> str:
        """In an address."""
        return self.key or self.name


Trail: TypeAlias = tuple[tuple[str, str], ...]
"""Where a thing is: kinds and words, from its project down. Empty: the organization."""


def address(trail: Trail) -> str:
    """As a file would have it in brackets: `project.shop.branch.main`."""
    words = [word for kind, name in trail for word in ((kind,) if KINDS[kind].is_one else (kind, toml_key(name)))]
    return ".".join(words) or "organization"


_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")


def toml_key(text: str) -> str:
    return text if _BARE.fullmatch(text) else toml_text(text)


def toml_text(text: str) -> str:
    """A basic string. What a terminal would act on, or what hides or reorders text, is an escape."""
    return f'"{"".join(map(_escaped, text))}"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    if character.isprintable():
        return character
    if character in _SHORT:
        return _SHORT[character]
    return f"\\u{ord(character):04X}" if ord(character) <= 0xFFFF else f"\\U{ord(character):08X}"


_SHORT: Final = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}


def is_text(text: str) -> bool:
    """What PostgreSQL can store."""
    return "\0" not in text and text.encode("utf-8", "replace").decode() == text

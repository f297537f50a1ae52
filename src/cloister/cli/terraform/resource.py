"""What a kind of thing is to the provider: attributes, and the calls that make, read, change and end one.

Settings, how they are written and where the API has them are those of `cloister config` (`cli/config/nouns.py`): `ip_allow.addresses`
in a file is `ip_allow_addresses` here.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, TypeAlias

from cloister.cli.api import Api, ApiError, Json, segment
from cloister.cli.config.nouns import KINDS, Form, FormError, Value
from cloister.cli.config.platform import settings_of
from cloister.cli.terraform.platform import Platform
from cloister.cli.terraform.schema import Attribute, Schema, Type, Use
from cloister.cli.terraform.values import UNKNOWN

State: TypeAlias = dict[str, Any]

TYPES: Final[Mapping[str, Type]] = {
    "keys.rotate_days": Type.NUMBER,
    "keys.reencrypt_days": Type.TEXT,
    "passkeys.required": Type.FLAG,
    "consents.required": Type.FLAG,
    "access_reviews.every_days": Type.TEXT,
    "access_reviews.answer_days": Type.NUMBER,
    "access_reviews.unanswered_rights_lapse": Type.FLAG,
    "audit_retention.statements_days": Type.TEXT,
    "audit_retention.recordings_days": Type.TEXT,
    "pg_version": Type.NUMBER,
    "store_passwords": Type.FLAG,
    "history_retention_seconds": Type.NUMBER,
    "audit_level": Type.TEXT,
    "block_public_connections": Type.FLAG,
    "require_channel_binding": Type.FLAG,
    "logical_replication": Type.FLAG,
    "ip_allow.addresses": Type.SET,
    "ip_allow.protected_only": Type.FLAG,
    "quota.active_time_seconds": Type.NUMBER,
    "quota.compute_time_seconds": Type.NUMBER,
    "quota.written_data_bytes": Type.NUMBER,
    "quota.data_transfer_bytes": Type.NUMBER,
    "quota.logical_size_bytes": Type.NUMBER,
    "defaults.min_cu": Type.NUMBER,
    "defaults.max_cu": Type.NUMBER,
    "defaults.suspend_timeout_seconds": Type.NUMBER,
    "defaults.pg_settings": Type.TABLE,
    "min_cu": Type.NUMBER,
    "max_cu": Type.NUMBER,
    "suspend_timeout_seconds": Type.NUMBER,
    "disabled": Type.FLAG,
    "pg_settings": Type.TABLE,
    "ca_pem": Type.TEXT,
    "role": Type.TEXT,
    "protected": Type.FLAG,
    "expires_at": Type.TEXT,
    "snapshots": Type.SET,
    "tags": Type.SET,
    "login": Type.FLAG,
    "owner": Type.TEXT,
}
"""Of settings, by their path in a file."""

_FOLLOWS: Final = {
    f"access_reviews.{each}": "access_reviews_every_days" for each in ("answer_days", "unanswered_rights_lapse")
}
"""What comes and goes with another setting, by that one's attribute."""

ELSEWHERE: Final = {"project": {"default_branch"}, "branch": {"parent"}}
"""What a file says by a name, and Terraform by an id or not at all."""


def settings(kind: str, *, use: Use = Use.KEPT) -> tuple[Attribute, ...]:
    return tuple(
        Attribute(
            name_of(each.path),
            TYPES[each.path],
            Use.NEEDED if each.is_needed else use,
            form=_spelled(each.form) if kind == "organization" else each.form,
            replaces=each.is_fixed or kind == "egress",
            follows=_FOLLOWS.get(each.path, ""),
        )
        for each in KINDS[kind].settings
        if each.path not in ELSEWHERE.get(kind, ())
    )


def _spelled(form: Form) -> Form:
    """A number, or a word in its place: a text, as Terraform has no type for both."""

    def spelled(value: Any) -> Value:
        return form(int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value)

    return spelled


def name_of(path: str) -> str:
    return path.replace(".", "_")


def named(kind: str) -> Form | None:
    parse = KINDS[kind].parse_name
    if parse is None:
        return None

    def form(value: Any) -> Value:
        return parse(str(value))

    return form


def form_of(kind: str, path: str) -> Form:
    """As a file has it."""
    return KINDS[kind].by_path[path].form


ID: Final = Attribute("id", use=Use.TOLD, text="Which one it is.")
PROJECT_ID: Final = Attribute("project_id", replaces=True, text="The project that it is in.")
BRANCH_ID: Final = Attribute("branch_id", replaces=True, text="The branch that it is on.")
ADOPT: Final = Attribute(
    "adopt",
    Type.FLAG,
    Use.FREE,
    text="Whether to take over what is there under this name already, as a new project's root branch is. It stays when this resource goes.",
)


@dataclass(frozen=True, slots=True)
class Made:
    identity: State
    """With which it can be read."""
    operations: list[Json] = field(default_factory=list)


class Resource(ABC):
    """A kind of thing. States have every attribute of the schema."""

    name: ClassVar[str]
    schema: ClassVar[Schema]
    identity: ClassVar[tuple[str, ...]]
    """Attributes that say which one it is, in the order in which an import's id has them."""
    said_once: ClassVar[frozenset[str]] = frozenset()
    """What is said when it is made, and the API does not tell afterwards."""
    stays: ClassVar[bool] = False
    """It was there before, and is when the resource goes."""

    def attribute(self, name: str) -> Attribute:
        return next(each for each in self.schema.attributes if each.name == name)

    @abstractmethod
    def create(self, platform: Platform, wanted: State) -> Made:
        """`wanted` may hold what is not known yet."""

    @abstractmethod
    def read(self, platform: Platform, state: State) -> State | None:
        """What the API tells of it; None if it is gone."""

    def change(self, platform: Platform, state: State, changed: State) -> None:  # noqa: ARG002 - for those that can be
        """`state` as it is now. `changed` is of attributes that need no other thing for it."""
        raise AssertionError("another value makes another thing")

    @abstractmethod
    def delete(self, platform: Platform, state: State) -> None: ...

    def unknown_to(self, platform: Platform, wanted: State, seen: set[str]) -> None:  # noqa: B027 - most have nothing to add
        """Before one is planned to be made: raises CommandError where one is there that nobody speaks of."""

    def is_protected(self, platform: Platform, state: State) -> str:  # noqa: ARG002 - most kinds are not
        """Why the platform would not delete it, in its words. Empty: it would."""
        return ""


class Listed(Resource):
    """What the API makes, lists and takes away, but does not change."""

    field: ClassVar[str]
    """Of the list in an answer."""

    @abstractmethod
    def path(self, state: State) -> str: ...

    def found(self, platform: Platform, state: State) -> Json | None:
        try:
            listed: list[Json] = platform.api.get(self.path(state)).get(self.field) or []
        except ApiError as error:
            if error.status != 404:
                raise
            return None
        return next((each for each in listed if self.is_it(each, state)), None)

    def is_it(self, listed: Json, state: State) -> bool:
        return bool(listed["id"] == state["id"])

    def delete(self, platform: Platform, state: State) -> None:
        platform.finish(platform.api.delete(f"{self.path(state)}/{segment(state['id'])}"))


def known_settings(wanted: Mapping[str, Any], kind: str) -> dict[str, Value]:
    """Settings of a kind that are known, by their path."""
    found = {each.path: wanted.get(name_of(each.path)) for each in KINDS[kind].settings}
    return {path: value for path, value in found.items() if value is not None and value is not UNKNOWN}


def told_settings(kind: str, thing: Json) -> State:
    found = settings_of(kind, thing)
    return {
        name_of(each.path): found.get(each.path)
        for each in KINDS[kind].settings
        if each.at and each.path not in ELSEWHERE.get(kind, ())
    }


def given(wanted: State, *names: str) -> Json:
    return {name: wanted[name] for name in names if wanted.get(name) not in (None, UNKNOWN)}


def or_gone(api: Api, path: str) -> Json | None:
    try:
        return api.get(path)
    except ApiError as error:
        if error.status != 404:
            raise
        return None


def normal(attribute: Attribute, value: Any) -> Any:
    """The one way of writing it, to compare by. What has no form is as it is."""
    if attribute.form is None or value is None or value is UNKNOWN:
        return value
    try:
        return attribute.form(value)
    except FormError:
        return value

"""What several nouns share."""

from datetime import UTC, datetime
from typing import Annotated, Final, TypeAlias

import msgspec

PROVISIONER: Final = "cloister"
PLATFORM_ID: Final = "self-hosted"
CREATION_SOURCE: Final = "api"

Moment: TypeAlias = Annotated[str, msgspec.Meta(extra_json_schema={"format": "date-time"})]
"""RFC 3339 in UTC with whole seconds, as Neon sends it."""

Name256: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class Wire(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of every answer. It does not print its fields: some hold a password that is shown once, to one person."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """Base of every body. Unknown fields are ignored."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


class CursorPage(Wire, frozen=True, kw_only=True):
    """Neon's pagination of projects and operations: sent even with the last page, absent with an empty one."""

    cursor: str


class NextPage(Wire, frozen=True, kw_only=True):
    """Neon's pagination of branches and members: `next` is absent at the end, or its tools would ask for ever."""

    next: str | None = None
    sort_by: str | None = None
    sort_order: str | None = None


def moment(value: datetime) -> str:
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def optional_moment(value: datetime | None) -> str | None:
    return None if value is None else moment(value)

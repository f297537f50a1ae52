"""Tags."""

from typing import Annotated, Final, TypeAlias

import msgspec

from cloister.base.tags import KEPT, TAG_CHARS_MAX, TAGS_MAX
from cloister.edge.api.wire.common import Request, Wire

CHANGED_MAX: Final = TAGS_MAX + len(KEPT)
# All that a thing can have.

REASON_CHARS_MAX: Final = 500
# A sentence or two, for whoever reads the log.

Tags: TypeAlias = Annotated[
    list[Annotated[str, msgspec.Meta(min_length=1, max_length=2 * TAG_CHARS_MAX)]], msgspec.Meta(max_length=CHANGED_MAX)
]
# A tag that is too long is told why, by who knows the rule (base/tags.py).


class ChangeTags(Request, frozen=True, kw_only=True):
    add: Tags = msgspec.field(default_factory=list)
    remove: Tags = msgspec.field(default_factory=list)
    reason: Annotated[str, msgspec.Meta(max_length=REASON_CHARS_MAX)] | None = None
    """Why `pii` or `prod` is taken off: the audit log has it."""


class TagsAnswer(Wire, frozen=True, kw_only=True):
    tags: list[str]
    """Its own: a branch has its project's besides."""

"""Tags: what people say of a project or a branch, in a word each, for policies and people to go by.

A few words mean something to Cloister (`KEPT`, `DERIVED`); every other is the organization's own. docs/tags.md has the meaning of
each, the control database (migration 0028) the same rules once more.
"""

import re
from collections.abc import Iterable
from typing import Final

from cloister.base.errors import BadRequestError

PII: Final = "pii"
"""Data about people."""
PROD: Final = "prod"
"""What customers rely on."""
KEPT: Final = frozenset({PII, PROD})
"""They follow the data, and taking one off is a permission of its own."""

PROTECTED: Final = "protected"
"""What a protected branch has, and nobody sets."""
DERIVED: Final = frozenset({PROTECTED})

TAG_CHARS_MAX: Final = 32
# A word that a table can show, not a sentence: whoever wants to explain has docs.

TAGS_MAX: Final = 16
# Besides KEPT, so that what follows the data always has room. More than a person reads at a glance says nothing.

_TAG: Final = re.compile(rf"[a-z][a-z0-9._-]{{0,{TAG_CHARS_MAX - 1}}}")


def checked(tags: Iterable[str]) -> frozenset[str]:
    """Raises BadRequestError for what nobody can set."""
    found = frozenset(tags)
    for tag in sorted(found):
        if tag in DERIVED:
            raise BadRequestError(tag, public=f"the tag {tag} follows from the branch itself and is not set")
        if not _TAG.fullmatch(tag):
            raise BadRequestError(
                f"tag {tag[:80]!r}",
                public=f"a tag has at most {TAG_CHARS_MAX} lower-case letters, digits, dots, dashes and underscores, "
                "and begins with a letter",
            )
    return found


def require_room(tags: frozenset[str]) -> None:
    """Raises BadRequestError."""
    if len(tags - KEPT) > TAGS_MAX:
        raise BadRequestError(
            f"{len(tags)} tags", public=f"at most {TAGS_MAX} tags besides {' and '.join(sorted(KEPT))}"
        )

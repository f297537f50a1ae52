"""Which version of a thing a caller has seen: what `ETag` says, and what `If-Match` asks for (RFC 9110, 8.8.3 and 13.1.1). Pure.

A version is a digest of what can be set about a thing, so that it moves when somebody changes that, and not when a compute wakes or
a size is measured. What must stay true: a condition that cannot be read is refused, never passed over.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from cloister.base.errors import BadRequestError, PreconditionError

HEADER: Final = "If-Match"
ANSWER: Final = "ETag"
MOVED: Final = "VERSION_MOVED"
"""The code of a refusal, for who wants to look again."""

_DIGITS: Final = 32
# 128 bits of a SHA-256: nobody gains by making two versions alike, and by chance none are.

_ALSO: Final = frozenset({0x21, *range(0x23, 0x7F), *range(0x80, 0x100)})
# etagc of RFC 9110; headers come as Latin-1.


class MovedError(PreconditionError):
    """It is not as the caller saw it."""

    public = "it is not as If-Match says: somebody changed it meanwhile. Look again"
    code = MOVED


@dataclass(frozen=True, slots=True)
class Condition:
    """The request is for a thing of one of these versions."""

    versions: frozenset[str] = frozenset()
    is_any: bool = False
    """`*`: as long as there is one."""

    def require(self, version: str) -> None:
        """Raises MovedError."""
        if not self.is_any and version not in self.versions:
            raise MovedError


def version(kind: str, *parts: object) -> str:
    """Of all that is said, and of the kind of thing: one is never taken for another's."""
    said = msgspec.json.encode([kind, *parts], order="deterministic")
    return hashlib.sha256(said).hexdigest()[:_DIGITS]


def tag(of: str) -> str:
    """As an entity tag. A strong one, since If-Match compares no other."""
    return f'"{of}"'


def parse(headers: Sequence[str]) -> Condition | None:
    """None where nothing was asked for. Several lines are one list. Raises BadRequestError."""
    if not headers:
        return None
    text = ",".join(headers)
    if text.strip(" \t") == "*":
        return Condition(is_any=True)
    strong, seen = set(), 0
    at, needs_comma = 0, False
    # (1) One character after the other: a tag may hold commas, so the list cannot be split at them.
    while at < len(text):
        if text[at] in " \t":
            at += 1
        elif text[at] == ",":  # empty elements are allowed
            at, needs_comma = at + 1, False
        else:
            if needs_comma:
                raise _unreadable()
            # (2) Weak tags are read, and count for nothing: If-Match compares strongly.
            is_weak = text.startswith("W/", at)
            opaque, at = _opaque(text, at + 2 * is_weak)
            seen, needs_comma = seen + 1, True
            if not is_weak:
                strong.add(opaque)
    # (3) A condition without a tag is none that could hold.
    if not seen:
        raise _unreadable()
    return Condition(frozenset(strong))


def _opaque(text: str, at: int) -> tuple[str, int]:
    """What stands between the quotes that begin there, and the place behind them."""
    end = text.find('"', at + 1)
    if not text.startswith('"', at) or end < 0 or not all(ord(each) in _ALSO for each in text[at + 1 : end]):
        raise _unreadable()
    return text[at + 1 : end], end + 1


def _unreadable() -> BadRequestError:
    return BadRequestError(public=f'{HEADER} must be * or a list of entity tags, like "VERSION", "VERSION"')

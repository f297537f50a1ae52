"""The difference of two texts as `diff -u` shows it, with bounded effort.

Texts come from tenants, and the usual ways to compare lines can be made to take minutes. Here the effort grows with the
number of edits (Myers' algorithm), and beyond EDITS_MAX of them what lies between the common beginning and the common end
is shown as replaced: still a true difference, only not the shortest. Pure.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

EDITS_MAX: Final = 1000
# Lines taken out and put in. The work grows with the square: at this many it is half a second.

CONTEXT_LINES: Final = 3


@dataclass(frozen=True, slots=True)
class _Change:
    """Lines `a_from` to `a_to` of the one become `b_from` to `b_to` of the other."""

    a_from: int
    a_to: int
    b_from: int
    b_to: int


def unified_diff(before: str, after: str, *, before_name: str, after_name: str) -> str:
    """Empty if they are the same."""
    a, b = _lines(before), _lines(after)
    changes = _changes(a, b)
    if not changes:
        return ""
    lines = [f"--- {before_name}", f"+++ {after_name}"]
    for hunk in _hunks(changes):
        lines.extend(_shown(a, b, hunk))
    return "\n".join(lines) + "\n"


def _lines(text: str) -> list[str]:
    """By newlines alone: what else Python takes for the end of a line may stand in the middle of a function's text."""
    return text.removesuffix("\n").split("\n") if text else []


def _changes(a: Sequence[str], b: Sequence[str]) -> list[_Change]:
    start = 0
    while start < min(len(a), len(b)) and a[start] == b[start]:
        start += 1
    end = 0
    while end < min(len(a), len(b)) - start and a[-1 - end] == b[-1 - end]:
        end += 1
    middle_a, middle_b = a[start : len(a) - end], b[start : len(b) - end]
    if not middle_a and not middle_b:
        return []
    path = _shortest(middle_a, middle_b)
    if path is None:
        return [_Change(start, len(a) - end, start, len(b) - end)]
    return _joined(path, len(middle_a), len(middle_b), start)


def _shortest(a: Sequence[str], b: Sequence[str]) -> list[tuple[int, int]] | None:
    """The lines that stay, as pairs of indexes; None beyond EDITS_MAX.

    `reach[k]` is how far into `a` one gets with so many edits on the diagonal k = x - y; the reaches of all rounds are kept
    to walk back."""
    reach = {1: 0}
    rounds: list[dict[int, int]] = []
    for edits in range(min(len(a) + len(b), EDITS_MAX) + 1):
        rounds.append(reach.copy())
        for k in range(-edits, edits + 1, 2):
            is_down = k == -edits or (k != edits and reach[k - 1] < reach[k + 1])
            x = reach[k + 1] if is_down else reach[k - 1] + 1
            y = x - k
            while x < len(a) and y < len(b) and a[x] == b[y]:
                x, y = x + 1, y + 1
            reach[k] = x
            if x >= len(a) and y >= len(b):
                return _walked_back(rounds, len(a), len(b))
    return None


def _walked_back(rounds: list[dict[int, int]], x: int, y: int) -> list[tuple[int, int]]:
    kept = []
    for edits in range(len(rounds) - 1, -1, -1):
        reach, k = rounds[edits], x - y
        is_down = k == -edits or (k != edits and reach[k - 1] < reach[k + 1])
        from_k = k + 1 if is_down else k - 1
        from_x = reach[from_k] if edits else 0
        from_y = from_x - from_k if edits else 0
        while x > from_x and y > from_y:
            x, y = x - 1, y - 1
            kept.append((x, y))
        x, y = from_x, from_y
    return kept[::-1]


def _joined(kept: list[tuple[int, int]], len_a: int, len_b: int, offset: int) -> list[_Change]:
    """What lies between the lines that stay."""
    changes = []
    a_at = b_at = 0
    for x, y in [*kept, (len_a, len_b)]:
        if x > a_at or y > b_at:
            changes.append(_Change(a_at + offset, x + offset, b_at + offset, y + offset))
        a_at, b_at = x + 1, y + 1
    return changes


def _hunks(changes: list[_Change]) -> Iterator[list[_Change]]:
    """Changes whose contexts meet are shown together."""
    hunk: list[_Change] = []
    for change in changes:
        if hunk and change.a_from - hunk[-1].a_to > 2 * CONTEXT_LINES:
            yield hunk
            hunk = []
        hunk.append(change)
    yield hunk


def _shown(a: Sequence[str], b: Sequence[str], hunk: list[_Change]) -> Iterator[str]:
    first, last = hunk[0], hunk[-1]
    before = min(CONTEXT_LINES, first.a_from)
    after = min(CONTEXT_LINES, len(a) - last.a_to)
    a_span = _span(first.a_from - before, last.a_to + after)
    b_span = _span(first.b_from - before, last.b_to + after)
    yield f"@@ -{a_span} +{b_span} @@"
    at = first.a_from - before
    for change in hunk:
        yield from (f" {line}" for line in a[at : change.a_from])
        yield from (f"-{line}" for line in a[change.a_from : change.a_to])
        yield from (f"+{line}" for line in b[change.b_from : change.b_to])
        at = change.a_to
    yield from (f" {line}" for line in a[at : at + after])


def _span(start: int, stop: int) -> str:
    """As `diff` counts: from one, without a length of one, and an empty span stands after the line before it."""
    length = stop - start
    if length == 1:
        return str(start + 1)
    return f"{start + 1 if length else start},{length}"

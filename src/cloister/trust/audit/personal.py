"""Holding what is personal in events to their bodies, and what was erased of it to the events that say so. Pure.

1. What is personal in an event is the text to which its body commits, or the mark of an erasure in its place. Anything else was put
   there by somebody.
2. An erasure that marks events is one of which the log says so, once: how many events, and the SHA-256 of their numbers.
3. The events with its mark are these: not one more, which somebody erased unseen; and not one less, whose erasing somebody undid.

Which events these are, the control database says; it is believed as far as that digest fits.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from cloister.trust.audit.actions import Action
from cloister.trust.audit.events import commitment, erasure_of
from cloister.trust.audit.faults import Fault

NUMBER_BYTES: Final = 8
# Of an event, big endian, as in the chain.


@dataclass(frozen=True, slots=True)
class _Told:
    """What the log says of an erasure."""

    seq: int
    """Of the event that says so."""
    events: object
    sha256: object

    def fits(self, numbers: Sequence[int]) -> bool:
        return (self.events, self.sha256) == (len(numbers), digest(numbers))


class Personal:
    """`feed` each event, in order; then ask `first_wrong`. `lists`: erasure → the events that it erased."""

    def __init__(self, lists: Mapping[str, Sequence[int]], *, after: int = 0) -> None:
        """`after`: the events up to this one were pruned, erased or not."""
        self._lists = lists
        self._after = after
        self._marked: defaultdict[str, list[int]] = defaultdict(list)
        self._told: dict[str, _Told] = {}

    @property
    def erased(self) -> int:
        """Of so many events."""
        return sum(map(len, self._marked.values()))

    def feed(self, seq: int, body: Any, personal: str | None) -> bool:
        """Whether it is what the body, decoded, commits to, or marked as erased (1)."""
        fields = body if isinstance(body, dict) else {}
        if fields.get("action") == Action.AUDIT_FORGET:
            self._tell(seq, fields.get("details"))
        claimed = fields.get("personal")
        if personal is None or claimed is None:
            return personal is None and claimed is None
        if erasure := erasure_of(personal):
            self._marked[erasure].append(seq)
            return True
        return bool(commitment(personal) == claimed)

    def first_wrong(self) -> tuple[int, Fault] | None:
        """The first event that is erased, or is not, other than the log says (2, 3)."""
        wrong = [(numbers[0], Fault.ERASED) for each, numbers in self._marked.items() if each not in self._told]
        for erasure, told in self._told.items():
            marked, meant = self._marked.get(erasure, []), self._lists.get(erasure, ())
            if told.fits(marked):
                continue
            if not told.fits(meant):
                wrong.append((told.seq, Fault.MISTOLD))
                continue
            meant = [each for each in meant if each > self._after]
            wrong += [(each, Fault.ERASED) for each in sorted({*marked} - {*meant})[:1]]
            wrong += [(each, Fault.BACK) for each in sorted({*meant} - {*marked})[:1]]
        return min(wrong, default=None)

    def _tell(self, seq: int, details: Any) -> None:
        if isinstance(details, dict):
            told = _Told(seq, details.get("events"), details.get("sha256"))
            self._told.setdefault(str(details.get("erasure")), told)


class _Claim(msgspec.Struct, frozen=True):
    personal: str | None = None


def fits(body: str, personal: str | None) -> bool:
    """Of one event, whoever erased it (1). For a body that is no event there is nothing to be said."""
    try:
        claimed = msgspec.json.decode(body, type=_Claim).personal
    except (msgspec.DecodeError, UnicodeEncodeError):
        return True
    return Personal({}).feed(0, {"personal": claimed}, personal)


def digest(numbers: Iterable[int]) -> str:
    """Of events, in their order."""
    return hashlib.sha256(b"".join(each.to_bytes(NUMBER_BYTES, "big", signed=True) for each in numbers)).hexdigest()

"""What rules remember of each thing they watch, in bounded memory.

`Groups` keeps the most recently touched; `lost` counts those that were pushed out while they still mattered, which is what
somebody does who wants the sentinel to forget. That is an alarm of its own.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, Final, Generic, Protocol, TypeVar

GROUPS_MAX: Final = 4096
# Of one rule. With a dozen entries each some megabytes for all rules together.

Key = tuple[str, ...]


class Entry(Protocol):
    """What is remembered of one group."""

    def matters(self, now: float) -> bool:
        """Whether forgetting it now could hide something."""
        ...

    def dump(self) -> Any: ...


E = TypeVar("E", bound=Entry)


class Groups(Generic[E]):
    def __init__(self, make: Callable[[], E], load: Callable[[Any], E], *, groups_max: int = GROUPS_MAX) -> None:
        self._make = make
        self._load = load
        self._groups_max = groups_max
        self._entries: OrderedDict[Key, E] = OrderedDict()
        self.lost = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._entries)

    def touched(self, key: Key, now: float) -> E:
        """The group's entry, made if it is new."""
        entry = self._entries.get(key)
        if entry is None:
            if len(self._entries) >= self._groups_max:
                _, oldest = self._entries.popitem(last=False)
                self.lost += oldest.matters(now)
            entry = self._entries[key] = self._make()
        else:
            self._entries.move_to_end(key)
        return entry

    def known(self, key: Key) -> E | None:
        """The group's entry, left as it is, and where it is."""
        return self._entries.get(key)

    def dump(self) -> list[Any]:
        """The oldest first."""
        return [[list(key), entry.dump()] for key, entry in self._entries.items()]

    def load(self, dumped: list[Any]) -> None:
        self._entries = OrderedDict((tuple(key), self._load(entry)) for key, entry in dumped[-self._groups_max :])


class Grouped(Generic[E]):
    """What keeps an entry for each group, and nothing else that outlives a restart."""

    def __init__(self, groups: Groups[E]) -> None:
        self._groups = groups

    @property
    def lost(self) -> int:
        return self._groups.lost

    def dump(self) -> Any:
        return self._groups.dump()

    def load(self, dumped: Any) -> None:
        self._groups.load(dumped)

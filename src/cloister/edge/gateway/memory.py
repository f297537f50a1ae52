"""How much of this worker's memory clients take for one purpose, all together and those of one endpoint. Pure.

Nobody is refused for what others have, below what each endpoint is assured of: one tenant's appetite is not another's end.
"""

from typing import Final, Self

from cloister.edge.gateway.errors import RefusedError

_OUT_OF_MEMORY: Final = "53200"


class Memory:
    def __init__(self, *, total_max: int, per_endpoint_max: int, assured: int, public: str) -> None:
        """`total_max` may be exceeded by as much as is `assured` to each endpoint. `public` is said to who is refused."""
        self._total_max = total_max
        self._per_endpoint_max = per_endpoint_max
        self._assured = assured
        self._public = public
        self._total = 0
        self._of: dict[str, int] = {}

    def share(self, endpoint: str) -> "Share":
        return Share(self, endpoint)

    def _take(self, endpoint: str, size: int) -> None:
        of_it = self._of.get(endpoint, 0) + size
        is_too_much = self._total + size > self._total_max and of_it > self._assured
        if of_it > self._per_endpoint_max or is_too_much:
            raise RefusedError("out_of_memory", _OUT_OF_MEMORY, self._public)
        self._of[endpoint] = of_it
        self._total += size

    def _give(self, endpoint: str, size: int) -> None:
        self._total -= size
        left = self._of.get(endpoint, 0) - size
        if left > 0:
            self._of[endpoint] = left
        else:
            self._of.pop(endpoint, None)


class Share:
    """What one request or session takes; given back at the end of the `with` block, or by `hold(0)`."""

    def __init__(self, memory: Memory, endpoint: str) -> None:
        self._memory = memory
        self._endpoint = endpoint
        self._size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.hold(0)

    def grow(self, size: int) -> None:
        """Raises RefusedError."""
        self._memory._take(self._endpoint, size)  # noqa: SLF001 - a part of it
        self._size += size

    def hold(self, size: int) -> None:
        """So much in all, from now on. Raises RefusedError where that is more than before, and too much."""
        if size > self._size:
            self.grow(size - self._size)
        elif size < self._size:
            self._memory._give(self._endpoint, self._size - size)  # noqa: SLF001
            self._size = size

"""How much of this worker's memory bodies and answers take, all together and for one endpoint. Pure."""

from typing import Final, Self

from cloister.edge.gateway.errors import RefusedError

_OUT_OF_MEMORY: Final = "53200"


class Memory:
    def __init__(self, *, total_max: int, per_endpoint_max: int) -> None:
        self._total_max = total_max
        self._per_endpoint_max = per_endpoint_max
        self._total = 0
        self._of: dict[str, int] = {}

    def share(self, endpoint: str) -> "Share":
        return Share(self, endpoint)

    def _take(self, endpoint: str, size: int) -> None:
        of_it = self._of.get(endpoint, 0) + size
        if of_it > self._per_endpoint_max or self._total + size > self._total_max:
            raise RefusedError(
                "out_of_memory", _OUT_OF_MEMORY, "too many large requests at once: try again in a moment"
            )
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
    """What one request takes; given back at the end of the `with` block."""

    def __init__(self, memory: Memory, endpoint: str) -> None:
        self._memory = memory
        self._endpoint = endpoint
        self._size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._memory._give(self._endpoint, self._size)  # noqa: SLF001 - a part of it
        self._size = 0

    def grow(self, size: int) -> None:
        """Raises RefusedError."""
        self._memory._take(self._endpoint, size)  # noqa: SLF001
        self._size += size

"""A request and its answer, whichever HTTP carries them: `http1` one after the other, `http2` side by side."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final, Protocol
from uuid import uuid4

if TYPE_CHECKING:
    import asyncio

    from cloister.edge.gateway.memory import Share

Header = tuple[str, str]

_ALWAYS: Final[tuple[Header, ...]] = (
    ("access-control-allow-origin", "*"),
    ("cache-control", "no-store"),
    ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
    ("strict-transport-security", "max-age=63072000; includeSubDomains"),
    ("x-content-type-options", "nosniff"),
)
# Any page may ask: no cookie and no address lets anybody in, only the password in the request itself.

SEND_BYTES: Final = 262_144
"""Of an answer at once; who takes longer than `limits.SEND_TIMEOUT_S` for them keeps megabytes of ours."""


@dataclass(frozen=True)
class Request:
    """A request's head."""

    method: bytes
    target: bytes
    authority: str
    """`Host`, or `:authority`: with a port, if the client said one."""
    headers: Sequence[tuple[bytes, bytes]]
    """Names in lower case."""

    @property
    def name(self) -> str:
        """The host it is for. A port is the client's view of a forwarded one."""
        host, colon, port = self.authority.rpartition(":")
        return (host if colon and port.isdigit() else self.authority).lower().removesuffix(".")

    @cached_property
    def texts(self) -> dict[str, str]:
        return {name.decode("latin-1"): value.decode("latin-1") for name, value in self.headers}

    @property
    def size(self) -> int:
        return sum(len(name) + len(value) for name, value in self.headers)


class Exchange(Protocol):
    @property
    def request(self) -> Request: ...

    async def body(self, share: "Share | None") -> bytes:
        """Up to its end; with no share there should be none. Raises RequestError, ClientLeftError, and what `share` raises."""
        ...

    async def say(self, status: int, body: bytes, headers: Iterable[Header] = (), *, close: bool = False) -> None:
        """The answer; the first one counts. `close`: the client is to come again by another connection. Raises
        ClientLeftError."""
        ...

    @property
    def left(self) -> "asyncio.Future[None]":
        """Done when nobody waits for the answer any more."""
        ...


Serve = Callable[[Exchange], Awaitable[None]]
"""Answers one request. Raises RequestError where it is not one that can be answered."""

Patience = Callable[[], float]
"""How long the next request may be waited for, in seconds."""


def answer_headers(status: int, length: int, more: Iterable[Header]) -> list[Header]:
    said = [*_ALWAYS, ("neon-request-id", str(uuid4())), *more]
    if status != 204:
        said += [("content-type", "application/json"), ("content-length", str(length))]
    return said

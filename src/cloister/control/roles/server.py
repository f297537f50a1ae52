"""What the control plane asks of a branch's running server about roles and databases.

`catalog.py` is the real one, in SQL; tests put in a fake that keeps the same rules. Whoever implements this talks to a
server that a hostile tenant may have taken over: every answer is bounded in time and size, and is the tenant's word about
the tenant's own branch, nothing more.
"""

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Protocol

from msgspec import Meta

from cloister.base.ids import EndpointId


@dataclass(frozen=True, slots=True)
class RoleState:
    name: str
    verifier: str | None
    """None as well where the server has one that the ledger does not know: see ledger.py."""
    can_login: bool
    valid_until: Annotated[datetime, Meta(tz=True)] | None
    has_unchecked_password: bool = False


@dataclass(frozen=True, slots=True)
class DatabaseState:
    name: str
    owner_name: str


class Server(Protocol):
    async def roles(self) -> list[RoleState]:
        """Roles that are not the platform's own, oldest first, at most ROLES_READ_MAX."""
        ...

    async def databases(self) -> list[DatabaseState]: ...
    async def create_role(self, name: str, verifier: str, *, can_login: bool) -> None:
        """With the attributes of Neon's API-made roles. Raises ConflictError."""
        ...

    async def set_verifier(self, name: str, verifier: str) -> None:
        """Raises NotFoundError."""
        ...

    async def rename_role(self, name: str, new_name: str) -> None: ...
    async def drop_role(self, name: str) -> None:
        """What the role owns inside databases goes to each database's owner. Gone already is success. Raises
        UnprocessableError while it owns a database."""
        ...

    async def open_access(self, name: str, until: datetime, *, may_write: bool) -> None:
        """A role that reads all data, or writes it too, and nothing else, for an access that was approved. Without a
        password. Twice is once."""
        ...

    async def close_access(self, name: str) -> None:
        """End the role's sessions and drop it. Gone already is success."""
        ...

    async def create_database(self, name: str, owner_name: str) -> None:
        """Raises ConflictError, NotFoundError (no such owner), ExhaustedError (no space)."""
        ...

    async def rename_database(self, name: str, new_name: str) -> None:
        """Raises ConflictError while somebody uses it."""
        ...

    async def give_database(self, name: str, owner_name: str) -> None: ...
    async def drop_database(self, name: str) -> None:
        """Ends the sessions in it. Gone already is success."""
        ...


class Servers(Protocol):
    """How a machine gets at a branch's server, and says that it changed something there."""

    def awake(self, endpoint_id: EndpointId) -> AbstractAsyncContextManager[Server]:
        """Start the endpoint's compute if it sleeps, and keep it from being suspended inside the block."""
        ...

    def roles_changed(self, endpoint_id: EndpointId) -> None:
        """Whoever keeps verifiers of this endpoint must ask again."""
        ...

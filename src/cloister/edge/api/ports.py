"""What the API needs from the guards, beside the verbs of `control/services.py`.

`trust/` provides these; `app/` puts them in; tests put in fakes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from cloister.base.ids import OrgId, ProjectId
from cloister.base.secret import Secret
from cloister.control.calling import Caller
from cloister.trust.access.keys import ApiKey
from cloister.trust.access.permissions import Permission
from cloister.trust.access.principals import Principal
from cloister.trust.audit import Event
from cloister.trust.audit.reader import Recorded
from cloister.trust.audit.verify import Broken, Head, Intact
from cloister.trust.keys.commands import KeyInfo


class ApiKeys(Protocol):
    async def authenticate(self, bearer: str, address: str) -> Principal:
        """Raises UnauthenticatedError for a key that is unknown or revoked, in the same words."""
        ...

    async def create(self, caller: Caller, name: str) -> tuple[ApiKey, Secret[str]]: ...

    async def find(self, principal: Principal) -> list[ApiKey]: ...

    async def revoke(self, caller: Caller, key_id: int) -> ApiKey:
        """Raises NotFoundError for a key that is not this account's."""
        ...


class Decider(Protocol):
    def authorize(
        self, principal: Principal, permission: Permission, *, org_id: str, project_id: str | None = None
    ) -> None:
        """Raises ForbiddenError, or NotFoundError where the principal may not know that it exists."""
        ...


@dataclass(frozen=True, slots=True)
class Organization:
    id: OrgId
    name: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Member:
    account_id: UUID
    email: str
    role: str


class Organizations(Protocol):
    async def find(self, org_ids: Sequence[OrgId]) -> list[Organization]: ...

    async def members(self, org_id: OrgId) -> list[Member]: ...

    async def are_all(self, org_ids: Sequence[OrgId]) -> bool:
        """There is no other organization on this platform."""
        ...

    async def project_ids(self, org_ids: Sequence[OrgId]) -> list[ProjectId]:
        """Every project they have or had."""
        ...


class AuditLog(Protocol):
    async def record(self, *events: Event) -> None:
        """Append in a transaction of its own. Raises UnavailableError."""
        ...

    async def find(
        self, *, project_ids: Sequence[str] | None, action: str | None, before_seq: int | None, limit: int
    ) -> list[Recorded]:
        """Newest first; `project_ids` None: of the whole platform."""
        ...

    async def verify(self, noted: Sequence[Head]) -> Intact | Broken: ...


class VolumeKeys(Protocol):
    async def find(self, project_id: str | None) -> list[KeyInfo]: ...

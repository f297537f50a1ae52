"""What the API needs from the guards, beside the verbs of `control/services.py`.

`trust/` provides these; `app/` puts them in; tests put in fakes.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol
from uuid import UUID

from cloister.base.secret import Secret
from cloister.control.calling import Caller
from cloister.protocol.merkle.notes import SignedTree
from cloister.trust.access.keys import ApiKey, NewKey
from cloister.trust.access.permissions import Permission
from cloister.trust.access.principals import Principal
from cloister.trust.audit import Event
from cloister.trust.audit.minimum import Gone
from cloister.trust.audit.people import Chain
from cloister.trust.audit.reader import EVERYBODY, Recorded, Subject
from cloister.trust.audit.verify import Broken, Head, Intact
from cloister.trust.keys.commands import KeyInfo, KeyPolicy, KeystoreInfo, RingInfo
from cloister.trust.sentinel.clocks import Measured
from cloister.trust.sentinel.desk import Finding, Pulse


class ApiKeys(Protocol):
    async def authenticate(self, bearer: str, address: str) -> Principal:
        """Raises UnauthenticatedError for a key that is unknown, revoked or expired, or that does not open from there, in
        the same words."""
        ...

    async def create(self, caller: Caller, new: NewKey) -> tuple[ApiKey, Secret[str]]: ...

    async def find(self, principal: Principal) -> list[ApiKey]: ...

    async def find_of(self, org_id: str) -> list[ApiKey]: ...

    async def revoke(self, caller: Caller, key_id: int, org_id: str | None = None) -> ApiKey:
        """Of the caller's own, or of the organization. Raises NotFoundError for any other."""
        ...


class Decider(Protocol):
    def authorize(
        self,
        principal: Principal,
        permission: Permission,
        *,
        org_id: str | None = None,
        project_id: str | None = None,
        tags: Iterable[str] = (),
    ) -> None:
        """Raises ForbiddenError, or NotFoundError where the principal may not know that it exists."""
        ...


class AuditLog(Protocol):
    async def record(self, *events: Event) -> None:
        """Append in a transaction of its own. Raises UnavailableError."""
        ...

    async def find(
        self,
        *,
        project_ids: Sequence[str] | None,
        action: str | None,
        before_seq: int | None,
        limit: int,
        subject: Subject = EVERYBODY,
    ) -> list[Recorded]:
        """Newest first; `project_ids` None: of the whole platform."""
        ...

    async def who(self, project_ids: Sequence[str] | None, event: int | str) -> Chain | None:
        """From an event's number or a session's id to a person; None if it is none of these projects'."""
        ...

    async def gone(self) -> Gone | None:
        """Which events were pruned; None: every one is there."""
        ...

    async def verify(self, noted: Sequence[Head]) -> tuple[Intact | Broken, SignedTree]:
        """The verdict, and the last tree that the key broker had signed before: the log was held to it. Raises
        UnavailableError where the broker cannot say."""
        ...


class Findings(Protocol):
    """What the sentinel found (`trust/sentinel/desk.py`)."""

    async def find(
        self, *, state: str | None, run: str | None, limit: int, assignee_id: UUID | None = None, overdue: bool = False
    ) -> list[Finding]: ...
    async def get(self, finding_id: str) -> Finding: ...
    async def timeline(self, finding_id: str) -> list[Recorded]: ...
    async def move(self, caller: Caller, finding_id: str, state: str, note: str) -> Finding: ...
    async def note(self, caller: Caller, finding_id: str, text: str) -> Finding: ...
    async def assign(self, caller: Caller, finding_id: str, email: str) -> Finding: ...
    async def measure(self, days: int) -> list[Measured]: ...
    async def test(self, caller: Caller) -> tuple[str, list[str]]: ...
    async def pulse(self) -> Pulse: ...


class VolumeKeys(Protocol):
    """The key broker; it records what it does itself, in the caller's name."""

    async def find(self, project_id: str | None) -> list[KeyInfo]: ...

    async def ring(self, project_id: str) -> RingInfo:
        """Raises NotFoundError."""
        ...

    async def rotate(self, caller: Caller, project_id: str) -> RingInfo: ...

    async def change(self, caller: Caller, project_id: str, change: str, *, days: int, reason: str) -> RingInfo:
        """`disable`, `enable`, `destroy`, `cancel`. Raises ConflictError where the state does not allow it."""
        ...

    async def policy(self, org_id: str) -> KeyPolicy: ...

    async def set_policy(self, caller: Caller, org_id: str, policy: KeyPolicy) -> KeyPolicy: ...

    async def keystore(self) -> KeystoreInfo: ...

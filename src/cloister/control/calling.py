"""Who calls a service, and which page of a list they want."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cloister.base import reviewed
from cloister.base.errors import ForbiddenError
from cloister.base.versions import Condition
from cloister.control.operations.model import Operation
from cloister.trust.access.permissions import Permission
from cloister.trust.access.principals import Principal
from cloister.trust.audit import Action, Event
from cloister.trust.keys.commands import OnBehalf


@dataclass(frozen=True, slots=True)
class Caller:
    """On whose behalf, for the audit log."""

    principal: Principal
    request_id: str
    address: str
    grants: frozenset[Permission] = frozenset()
    """What the front door found the principal to hold beyond the route's own permission, of what the route states in
    `may_need`. For what only the service can see, inside its transaction: that the branch is protected."""
    client: str = ""
    """The program, as it calls itself: a hint for whoever reads the log, and nothing to decide by."""
    change: str = ""
    """The reviewed change it belongs to, as they say (`base/reviewed.py`)."""
    condition: Condition | None = None
    """Which version of the thing they have seen, where they say so."""

    def require_version(self, version: str) -> None:
        """Of the thing as it is now, held by the transaction that changes it. Raises MovedError."""
        if self.condition is not None:
            self.condition.require(version)

    def require(self, permission: Permission) -> None:
        """Raises ForbiddenError. A route that forgot to state what it may need is refused, not let through."""
        if permission not in self.grants:
            raise ForbiddenError(
                f"{self.principal.actor} lacks {permission}", public=f"permission denied: {permission} is needed"
            )

    @property
    def on_behalf(self) -> OnBehalf:
        """As the key broker is told of them."""
        return OnBehalf(
            actor=self.principal.actor,
            address=self.address,
            request_id=self.request_id,
            client=self.client,
            change=self.change,
        )

    def event(
        self,
        action: Action,
        *,
        org_id: str = "",
        project_id: str = "",
        branch_id: str = "",
        endpoint_id: str = "",
        resource: str = "",
        operations: Sequence[Operation] = (),
        reason: str = "",
        details: Mapping[str, object] | None = None,
    ) -> Event:
        """That they did it; `operations` are those that do the work, of which the first is named."""
        return Event(
            action=action,
            actor=self.principal.actor,
            org_id=org_id,
            project_id=project_id,
            branch_id=branch_id,
            endpoint_id=endpoint_id,
            operation_id=operations[0].id if operations else "",
            resource=resource,
            address=self.address,
            request_id=self.request_id,
            reason=reason,
            details=named(self.client) | reviewed.details(self.change) | dict(details or {}),
        )


def named(client: str) -> dict[str, object]:
    """The detail that says which program called, where it said so."""
    return {"client": client} if client else {}


@dataclass(frozen=True, slots=True)
class Page:
    """Neon's cursor pagination: `limit` rows after `cursor` (the last id of the page before)."""

    limit: int = 10
    cursor: str | None = None

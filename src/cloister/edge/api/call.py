"""One call as a handler sees it: authenticated, permitted, parsed.

`Call[Body, Query]` is a promise of `boundary.py`: whoever holds one may trust that its principal holds the route's
permission in the organization (or, where the route names none, in each of `org_ids`), and that every id in it has the
form of one.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeAlias, TypeVar, cast
from uuid import UUID

import msgspec

from cloister.base.clock import Clock
from cloister.base.errors import CloisterError, NotFoundError
from cloister.base.ids import BranchId, EndpointId, OperationId, OrgId, ProjectId, SnapshotId
from cloister.base.settings import Settings
from cloister.base.versions import Condition, MovedError
from cloister.control.calling import Caller
from cloister.control.projects.model import Project
from cloister.control.services import Control
from cloister.edge.api.idempotency import Answers
from cloister.edge.api.ports import ApiKeys, AuditLog, Decider, Findings, VolumeKeys
from cloister.trust.access.permissions import Permission
from cloister.trust.access.principals import Principal

B_co = TypeVar("B_co", covariant=True)
Q_co = TypeVar("Q_co", covariant=True)
A_co = TypeVar("A_co", covariant=True)


class NoBody(msgspec.Struct, frozen=True):
    """The route takes no body; one that is sent is ignored."""


class NoQuery(msgspec.Struct, frozen=True):
    """The route takes no query; one that is sent is ignored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Everything behind the API."""

    control: Control
    api_keys: ApiKeys
    decider: Decider
    audit: AuditLog
    volume_keys: VolumeKeys
    findings: Findings
    answers: Answers
    settings: Settings
    clock: Clock
    version: str
    is_ready: Callable[[], Awaitable[bool]]
    """Whether the platform can serve tenants now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[B_co, Q_co]):
    services: Services
    request_id: str
    address: str
    now: datetime
    principal: Principal
    org_ids: tuple[OrgId, ...]
    """Where the principal holds the route's permission: the one organization the path leads to, or all there are. Empty for
    what is asked of oneself or of the platform."""
    project: Project | None
    """The project the path names."""
    path: dict[str, Any]
    """The path's parameters, parsed."""
    query: Q_co
    body: B_co
    project_ids: tuple[ProjectId, ...] = ()
    """Projects of other organizations in which it is held: granted for them alone."""
    grants: frozenset[Permission] = frozenset()
    """Of the route's `may_need`, what the principal holds on the path's project."""
    tags: frozenset[str] = frozenset()
    """Of what in the path's project the path names."""
    client: str = ""
    """The program, as it calls itself (`content.client`)."""
    change: str = ""
    """The reviewed change it belongs to, as it says."""
    condition: Condition | None = None
    """Which version of the path's thing the caller has seen."""

    @property
    def caller(self) -> Caller:
        return Caller(
            principal=self.principal,
            request_id=self.request_id,
            address=self.address,
            grants=self.grants,
            client=self.client,
            change=self.change,
            condition=self.condition,
        )

    @property
    def control(self) -> Control:
        return self.services.control

    @property
    def settings(self) -> Settings:
        return self.services.settings

    @property
    def org_id(self) -> OrgId:
        return cast("OrgId", self.path["org_id"])

    @property
    def project_id(self) -> ProjectId:
        return cast("ProjectId", self.path["project_id"])

    @property
    def branch_id(self) -> BranchId:
        return cast("BranchId", self.path["branch_id"])

    @property
    def endpoint_id(self) -> EndpointId:
        return cast("EndpointId", self.path["endpoint_id"])

    @property
    def operation_id(self) -> OperationId:
        return cast("OperationId", self.path["operation_id"])

    @property
    def snapshot_id(self) -> SnapshotId:
        return cast("SnapshotId", self.path["snapshot_id"])

    @property
    def role_name(self) -> str:
        return cast("str", self.path["role_name"])

    @property
    def database_name(self) -> str:
        return cast("str", self.path["database_name"])

    @property
    def member_id(self) -> UUID:
        return cast("UUID", self.path["member_id"])

    @property
    def permission_id(self) -> UUID:
        return cast("UUID", self.path["permission_id"])

    @property
    def jwks_id(self) -> UUID:
        return cast("UUID", self.path["jwks_id"])

    @property
    def transfer_request_id(self) -> UUID:
        return cast("UUID", self.path["request_id"])

    @property
    def rule_id(self) -> UUID:
        return cast("UUID", self.path["rule_id"])

    @property
    def erasure_id(self) -> UUID:
        return cast("UUID", self.path["erasure_id"])

    @property
    def forgetting_id(self) -> UUID:
        return cast("UUID", self.path["forgetting_id"])

    @property
    def consent_id(self) -> UUID:
        return cast("UUID", self.path["consent_id"])

    @property
    def hold_id(self) -> UUID:
        return cast("UUID", self.path["hold_id"])

    @property
    def retention_id(self) -> UUID:
        return cast("UUID", self.path["retention_id"])

    @property
    def access_id(self) -> UUID:
        return cast("UUID", self.path["access_id"])

    @property
    def recording_id(self) -> UUID:
        return cast("UUID", self.path["recording_id"])

    @property
    def review_id(self) -> UUID:
        return cast("UUID", self.path["review_id"])

    @property
    def item_number(self) -> int:
        return cast("int", self.path["item_number"])

    @property
    def shift_id(self) -> UUID:
        return cast("UUID", self.path["shift_id"])

    @property
    def issuer_id(self) -> UUID:
        return cast("UUID", self.path["issuer_id"])

    @property
    def service_account_id(self) -> UUID:
        return cast("UUID", self.path["service_account_id"])

    @property
    def passkey_id(self) -> UUID:
        return cast("UUID", self.path["passkey_id"])

    @property
    def group_id(self) -> UUID:
        return cast("UUID", self.path["group_id"])

    @property
    def finding_id(self) -> str:
        return cast("str", self.path["finding_id"])

    @property
    def key_id(self) -> int:
        return cast("int", self.path["key_id"])

    def require_no_version(self) -> None:
        """What is not there has none that the caller could have seen. Raises MovedError."""
        if self.condition is not None:
            raise MovedError

    def within(self, org_id: OrgId) -> tuple[tuple[OrgId, ...], tuple[ProjectId, ...]]:
        """Of one organization, where the principal holds the route's permission: in all of it, or in single projects. Raises
        NotFoundError for one in which they hold it nowhere."""
        if org_id in self.org_ids:
            return (org_id,), ()
        project_ids = tuple(it for it in self.project_ids if self.principal.grants[it].org_id == org_id)
        if not project_ids:
            raise NotFoundError(public="organization not found")
        return (), project_ids

    def also_permits(self, permission: Permission) -> bool:
        """Whether the principal holds a further permission: on the path's project, in its organization, or at all."""
        org_id = None if self.project is None else self.project.org_id
        project_id = None if self.project is None else self.project.id
        try:
            self.services.decider.authorize(
                self.principal, permission, org_id=org_id, project_id=project_id, tags=self.tags
            )
        except CloisterError:
            return False
        return True

    def require_in(self, org_id: OrgId, permission: Permission) -> None:
        """In another organization than the path's. Raises ForbiddenError, or NotFoundError where the principal may not
        know of it."""
        try:
            self.services.decider.authorize(self.principal, permission, org_id=org_id)
        except NotFoundError:
            raise NotFoundError(public="organization not found") from None


@dataclass(frozen=True, slots=True)
class Versioned(Generic[A_co]):
    """An answer, and the version that its thing has now."""

    answer: A_co
    version: str


Plain: TypeAlias = Call[NoBody, NoQuery]
"""A call that says everything in its path."""

"""The verbs of the control plane, as the front doors see them.

`edge/api` is written against these protocols; `control/*/service.py` implements them; `app/` puts the two together.
Every verb takes the acting Principal and a request id for the audit log, changes rows, audit and operation in one
transaction, and returns at once: the operations it returns do the work. Errors are those of `base/errors.py`. A front
door has already checked the permission; a service checks what is possible.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

from cloister.base.audit_levels import AuditLevel
from cloister.base.ids import BranchId, EndpointId, OperationId, OrgId, ProjectId, SnapshotId
from cloister.base.secret import Secret
from cloister.control.access.model import NewRequest, Recording, Request, Shift
from cloister.control.access.service import Credentials, Replayed
from cloister.control.backups.model import Backups as BackupsFound
from cloister.control.backups.model import Wish as RestoreWish
from cloister.control.branches.consents import Act, Consent, ConsentPolicy
from cloister.control.branches.masking_store import Masking
from cloister.control.branches.model import (
    HEAD,
    Branch,
    BranchChange,
    BranchCreated,
    BranchRestored,
    MaskingRule,
    NewBranch,
    Point,
    Restore,
    ScheduleItem,
    Snapshot,
    SnapshotChange,
    SnapshotRestored,
    Usage,
    Window,
)
from cloister.control.branches.tables import Table
from cloister.control.calling import Caller, Page
from cloister.control.computes.model import Endpoint, EndpointChange, NewEndpoint
from cloister.control.consumption.service import Taken
from cloister.control.consumption.store import Asked
from cloister.control.egress.model import EgressRule
from cloister.control.incidents.model import Responded, Response
from cloister.control.jwks.model import Jwks, NewJwks
from cloister.control.operations.model import Operation
from cloister.control.organizations.model import (
    Account,
    Invitation,
    Member,
    Organization,
    OrganizationRole,
    ProjectGrant,
    ProjectRole,
)
from cloister.control.organizations.offers import Offer
from cloister.control.organizations.standing import Standing, StandingChanged
from cloister.control.passkeys.model import Challenge, Creation, Passkey, PrivilegedRequest
from cloister.control.people.model import Begin, Begun, Finish, Group, Issuer, LoggedIn, NewGroup, NewIssuer
from cloister.control.projects.erasures import Erasure
from cloister.control.projects.forgetting import Forgetting, SubjectKind
from cloister.control.projects.holds import Hold
from cloister.control.projects.model import About, NewProject, Project, ProjectChange, ProjectCreated, Tagged
from cloister.control.projects.retention import Class, Old, Prunable, Retention
from cloister.control.reencryption.model import Reencryption, Wish
from cloister.control.reviews.model import Policy, Review
from cloister.control.roles.model import DatabaseInfo, Role, RoleChanged
from cloister.control.scim import model as scim
from cloister.control.scim.service import GroupsOf
from cloister.control.service_accounts.model import Change, KeyWish, NewServiceAccount, ServiceAccount
from cloister.protocol.scim import GroupAttributes, UserAttributes
from cloister.protocol.webauthn import Assertion, Registration
from cloister.trust.audit.statements import Segment

__all__ = [
    "Access",
    "Backups",
    "Branches",
    "Control",
    "Databases",
    "Egress",
    "Endpoints",
    "KeySets",
    "Operations",
    "Organizations",
    "ProjectCreated",
    "Projects",
    "RoleChanged",
    "Roles",
    "Schemas",
    "Snapshots",
    "Statements",
]


class Projects(Protocol):
    async def create(self, caller: Caller, new: NewProject) -> ProjectCreated: ...
    async def find(
        self, org_ids: Sequence[OrgId], page: Page, search: str | None, *, project_ids: Sequence[ProjectId] = ()
    ) -> list[Project]:
        """All of the organizations', and these."""
        ...

    async def find_deleted(
        self, org_ids: Sequence[OrgId], page: Page, search: str | None, *, project_ids: Sequence[ProjectId] = ()
    ) -> list[Project]:
        """The same, of those that can be recovered."""
        ...

    async def get(self, project_id: ProjectId, *, and_deleted: bool = False) -> Project:
        """`and_deleted`: also one that can be recovered."""
        ...

    async def about(self, project_id: ProjectId, about: About, *, and_deleted: bool = False) -> Tagged:
        """The same, with the tags of what in it is asked about."""
        ...

    async def update(
        self, caller: Caller, project_id: ProjectId, change: ProjectChange
    ) -> tuple[Project, list[Operation]]: ...
    async def delete(
        self, caller: Caller, project_id: ProjectId, *, hard: bool = False
    ) -> tuple[Project, list[Operation]]:
        """`hard`: at once and for good; otherwise it can be recovered for a while."""
        ...

    async def recover(self, caller: Caller, project_id: ProjectId) -> tuple[Project, list[Branch]]:
        """And its branches."""
        ...


class Egress(Protocol):
    """Ways out of a project's computes."""

    async def find(self, project: Project) -> list[EgressRule]: ...
    async def allow(self, caller: Caller, project: Project, to: str, ca_pem: str | None) -> EgressRule: ...
    async def remove(self, caller: Caller, project: Project, rule_id: UUID) -> EgressRule: ...


class Tags(Protocol):
    """Of projects and branches: control/tags/service.py."""

    async def change(
        self,
        caller: Caller,
        project_id: ProjectId,
        branch_id: BranchId | None,
        *,
        add: Iterable[str] = (),
        remove: Iterable[str] = (),
        reason: str = "",
    ) -> frozenset[str]: ...


class Organizations(Protocol):
    """Whoever asks in a project's or an organization's name was permitted to; see control/organizations/service.py."""

    async def find(self, org_ids: Sequence[OrgId]) -> list[Organization]: ...
    async def project_ids(self, org_ids: Sequence[OrgId]) -> list[ProjectId]:
        """Every project they have or had."""
        ...

    async def create(self, caller: Caller, name: str) -> Organization: ...
    async def create_account(self, caller: Caller, email: str, name: str) -> tuple[Account, Secret[str]]: ...
    async def members(self, org_id: OrgId) -> list[Member]: ...
    async def member(self, org_id: OrgId, account_id: UUID) -> Member: ...
    async def invite(self, caller: Caller, org_id: OrgId, invitations: Sequence[Invitation]) -> list[Member]: ...
    async def change_role(self, caller: Caller, org_id: OrgId, account_id: UUID, role: OrganizationRole) -> Member: ...
    async def remove(self, caller: Caller, org_id: OrgId, account_id: UUID) -> None: ...
    async def grants(self, project_id: ProjectId) -> list[ProjectGrant]: ...
    async def grant(
        self, caller: Caller, project: Project, email: str, role: ProjectRole, *, may_add_members: bool
    ) -> ProjectGrant: ...
    async def revoke_grant(self, caller: Caller, project: Project, grant_id: UUID) -> ProjectGrant: ...
    async def standings(self, project: Project, *, and_without_access: bool) -> list[Standing]: ...
    async def set_project_role(
        self, caller: Caller, project: Project, account_id: UUID, role: ProjectRole | None, *, is_sure: bool
    ) -> StandingChanged: ...
    async def transfer(
        self, caller: Caller, source: OrgId, destination: OrgId, project_ids: Sequence[ProjectId]
    ) -> None: ...


class Offers(Protocol):
    """Projects that go to another organization by request and acceptance: control/organizations/offers.py."""

    async def offer(self, caller: Caller, project: Project, lasts: timedelta = ...) -> Offer: ...
    async def accept(self, caller: Caller, project_id: ProjectId, offer_id: UUID, destination: OrgId) -> None: ...


class Access(Protocol):
    """Access of people to a project's data: control/access/service.py."""

    async def request(self, caller: Caller, project: Project, new: NewRequest) -> Request: ...
    async def find(self, project_id: ProjectId) -> list[Request]: ...
    async def get(self, project_id: ProjectId, request_id: UUID) -> Request: ...
    async def approve(self, caller: Caller, project_id: ProjectId, request_id: UUID) -> Request: ...
    async def deny(self, caller: Caller, project_id: ProjectId, request_id: UUID, reason: str) -> Request: ...
    async def terminate(self, caller: Caller, project_id: ProjectId, request_id: UUID) -> Request: ...
    async def credentials(self, caller: Caller, project_id: ProjectId, request_id: UUID) -> Credentials: ...
    async def recordings(self, project_id: ProjectId, request_id: UUID | None) -> list[Recording]: ...
    async def replay(self, caller: Caller, project_id: ProjectId, recording_id: UUID) -> Replayed: ...
    async def shifts(self, org_id: OrgId) -> list[Shift]: ...
    async def add_shift(
        self, caller: Caller, org_id: OrgId, email: str, starts_at: datetime, ends_at: datetime
    ) -> Shift: ...
    async def remove_shift(self, caller: Caller, org_id: OrgId, shift_id: UUID) -> Shift: ...


class Reviews(Protocol):
    """Reviews of who may what in an organization: control/reviews/service.py."""

    async def find(self, org_id: OrgId) -> list[Review]: ...
    async def get(self, org_id: OrgId, review_id: UUID) -> Review: ...
    async def start(self, caller: Caller, org_id: OrgId, *, answer_days: int, lapses: bool) -> Review: ...
    async def decide(
        self, caller: Caller, org_id: OrgId, review_id: UUID, number: int, *, keeps: bool, note: str
    ) -> Review: ...
    async def close(self, caller: Caller, org_id: OrgId, review_id: UUID) -> Review: ...
    async def policy(self, org_id: OrgId) -> Policy: ...
    async def set_policy(
        self, caller: Caller, org_id: OrgId, *, every_days: int, answer_days: int, lapses: bool
    ) -> Policy: ...
    async def remove_policy(self, caller: Caller, org_id: OrgId) -> Policy: ...


class Branches(Protocol):
    async def find(self, project_id: ProjectId, page: Page, search: str | None) -> list[Branch]: ...
    async def get(self, project_id: ProjectId, branch_id: BranchId) -> Branch: ...
    async def default(self, project_id: ProjectId) -> Branch: ...
    async def count(self, project_id: ProjectId, search: str | None) -> int: ...
    async def usage(self, project_id: ProjectId, branch_id: BranchId) -> Usage: ...
    async def usages(self, project_id: ProjectId) -> dict[BranchId, Usage]:
        """Of all its branches at once, the deleted ones that can be recovered included: lists show the sizes."""
        ...

    async def window(self, project_id: ProjectId, branch_id: BranchId) -> Window: ...
    async def create(self, caller: Caller, project_id: ProjectId, new: NewBranch) -> BranchCreated: ...
    async def update(
        self, caller: Caller, project_id: ProjectId, branch_id: BranchId, change: BranchChange
    ) -> tuple[Branch, list[Operation]]: ...
    async def delete(
        self, caller: Caller, project_id: ProjectId, branch_id: BranchId, *, hard: bool = False
    ) -> tuple[Branch, list[Operation]]:
        """`hard`: at once and for good; otherwise it can be recovered for a while."""
        ...

    async def find_deleted(self, project_id: ProjectId) -> list[Branch]:
        """Those that can still be recovered."""
        ...

    async def recover(
        self, caller: Caller, project_id: ProjectId, branch_id: BranchId
    ) -> tuple[Branch, list[Operation]]: ...
    async def restore(
        self, caller: Caller, project_id: ProjectId, branch_id: BranchId, wish: Restore
    ) -> BranchRestored: ...
    async def set_as_default(
        self, caller: Caller, project_id: ProjectId, branch_id: BranchId
    ) -> tuple[Branch, list[Operation]]: ...


class Maskings(Protocol):
    """Of branches in which columns hold something else than in their parent: control/branches/masking.py."""

    async def get(self, project_id: ProjectId, branch_id: BranchId) -> Masking: ...
    async def change_rules(
        self, caller: Caller, project_id: ProjectId, branch_id: BranchId, rules: Sequence[MaskingRule]
    ) -> Masking: ...
    async def start(
        self, caller: Caller, project_id: ProjectId, branch_id: BranchId
    ) -> tuple[Masking, list[Operation]]: ...


class Snapshots(Protocol):
    async def find(self, project_id: ProjectId) -> list[Snapshot]: ...
    async def create(
        self,
        caller: Caller,
        project_id: ProjectId,
        branch_id: BranchId,
        *,
        name: str | None,
        point: Point,
        expires_at: datetime | None,
    ) -> tuple[Snapshot, list[Operation]]: ...
    async def update(
        self, caller: Caller, project_id: ProjectId, snapshot_id: SnapshotId, change: SnapshotChange
    ) -> Snapshot: ...
    async def delete(
        self, caller: Caller, project_id: ProjectId, snapshot_id: SnapshotId
    ) -> tuple[Snapshot, list[Operation]]: ...
    async def restore(
        self,
        caller: Caller,
        project_id: ProjectId,
        snapshot_id: SnapshotId,
        *,
        name: str | None,
        target_id: BranchId | None,
        is_final: bool,
    ) -> SnapshotRestored:
        """Into a new branch, or (`target_id` and `is_final`) over that one; a new branch that is not final yet can take
        the target's place later, by `finalize`."""
        ...

    async def finalize(
        self, caller: Caller, project_id: ProjectId, branch_id: BranchId, *, name: str | None
    ) -> tuple[Branch, list[Operation]]:
        """Let a branch that was restored from a snapshot take the place of the one that it was restored for."""
        ...

    async def schedule(self, project_id: ProjectId, branch_id: BranchId) -> list[ScheduleItem]: ...
    async def set_schedule(
        self, caller: Caller, project_id: ProjectId, branch_id: BranchId, items: list[ScheduleItem]
    ) -> list[ScheduleItem]: ...


class Backups(Protocol):
    """In the operator's store: control/backups/service.py. Without a branch, of all of the project's."""

    async def find(self, project_id: ProjectId) -> BackupsFound: ...
    async def take(self, caller: Caller, project_id: ProjectId, branch_id: BranchId | None) -> BackupsFound: ...
    async def check(
        self, caller: Caller, project_id: ProjectId, branch_id: BranchId | None, *, by_restoring: bool
    ) -> BackupsFound: ...
    async def restore(self, caller: Caller, project_id: ProjectId, wish: RestoreWish) -> SnapshotRestored: ...
    async def restore_project(self, caller: Caller, project_id: ProjectId) -> list[Operation]: ...
    async def leave_out(self, caller: Caller, project_id: ProjectId, reason: str) -> BackupsFound: ...
    async def take_in(self, caller: Caller, project_id: ProjectId) -> BackupsFound: ...


class Schemas(Protocol):
    async def sql(
        self, caller: Caller, project_id: ProjectId, branch_id: BranchId, database: str, point: Point = HEAD
    ) -> str:
        """As pg_dump --schema-only writes it."""
        ...

    async def tables(
        self, caller: Caller, project_id: ProjectId, branch_id: BranchId, database: str, point: Point = HEAD
    ) -> list[Table]: ...


class Endpoints(Protocol):
    async def find(self, project_id: ProjectId, branch_id: BranchId | None = None) -> list[Endpoint]: ...
    async def get(self, project_id: ProjectId, endpoint_id: EndpointId) -> Endpoint: ...
    async def create(
        self, caller: Caller, project_id: ProjectId, new: NewEndpoint
    ) -> tuple[Endpoint, list[Operation]]: ...
    async def update(
        self, caller: Caller, project_id: ProjectId, endpoint_id: EndpointId, change: EndpointChange
    ) -> tuple[Endpoint, list[Operation]]: ...
    async def delete(
        self, caller: Caller, project_id: ProjectId, endpoint_id: EndpointId
    ) -> tuple[Endpoint, list[Operation]]: ...
    async def start(
        self, caller: Caller, project_id: ProjectId, endpoint_id: EndpointId
    ) -> tuple[Endpoint, list[Operation]]: ...
    async def suspend(
        self, caller: Caller, project_id: ProjectId, endpoint_id: EndpointId
    ) -> tuple[Endpoint, list[Operation]]: ...
    async def restart(
        self, caller: Caller, project_id: ProjectId, endpoint_id: EndpointId
    ) -> tuple[Endpoint, list[Operation]]: ...


class Roles(Protocol):
    async def find(self, project_id: ProjectId, branch_id: BranchId) -> list[Role]: ...
    async def find_all(self, project_id: ProjectId) -> list[Role]:
        """On all its branches."""
        ...

    async def get(self, project_id: ProjectId, branch_id: BranchId, name: str) -> Role: ...
    async def create(
        self, caller: Caller, project_id: ProjectId, branch_id: BranchId, name: str, *, can_login: bool
    ) -> RoleChanged: ...
    async def delete(
        self, caller: Caller, project_id: ProjectId, branch_id: BranchId, name: str
    ) -> tuple[Role, list[Operation]]: ...
    async def reset_password(
        self, caller: Caller, project_id: ProjectId, branch_id: BranchId, name: str
    ) -> RoleChanged: ...
    async def reveal_password(
        self, caller: Caller, project_id: ProjectId, branch_id: BranchId, name: str
    ) -> Secret[str]:
        """Raises PreconditionError ("Storing passwords is disabled") unless the project stores passwords."""
        ...


class Databases(Protocol):
    async def find(self, project_id: ProjectId, branch_id: BranchId) -> list[DatabaseInfo]: ...
    async def get(self, project_id: ProjectId, branch_id: BranchId, name: str) -> DatabaseInfo: ...
    async def create(
        self, caller: Caller, project_id: ProjectId, branch_id: BranchId, name: str, owner_name: str
    ) -> tuple[DatabaseInfo, list[Operation]]: ...
    async def update(
        self,
        caller: Caller,
        project_id: ProjectId,
        branch_id: BranchId,
        name: str,
        *,
        new_name: str | None,
        owner_name: str | None,
    ) -> tuple[DatabaseInfo, list[Operation]]: ...
    async def delete(
        self, caller: Caller, project_id: ProjectId, branch_id: BranchId, name: str
    ) -> tuple[DatabaseInfo, list[Operation]]: ...


class KeySets(Protocol):
    async def find(self, project_id: ProjectId) -> list[Jwks]: ...
    async def create(self, caller: Caller, project_id: ProjectId, new: NewJwks) -> Jwks: ...
    async def delete(self, caller: Caller, project_id: ProjectId, jwks_id: UUID) -> Jwks: ...


class Consents(Protocol):
    """Of another person, to a copy of a protected branch: control/branches/consents.py."""

    async def policy(self, org_id: OrgId) -> ConsentPolicy: ...
    async def require(self, caller: Caller, org_id: OrgId, *, is_required: bool) -> ConsentPolicy: ...
    async def find(self, project_id: ProjectId, branch_id: BranchId) -> list[Consent]: ...
    async def ask(
        self,
        caller: Caller,
        project_id: ProjectId,
        branch_id: BranchId,
        act: Act,
        reason: str,
        *,
        rules: Sequence[MaskingRule] = (),
    ) -> Consent: ...
    async def agree(self, caller: Caller, project_id: ProjectId, branch_id: BranchId, consent_id: UUID) -> Consent: ...
    async def end(self, caller: Caller, project_id: ProjectId, branch_id: BranchId, consent_id: UUID) -> Consent: ...


class Statements(Protocol):
    """What clients execute, as far as a project has it recorded."""

    async def level(self, project_id: ProjectId) -> AuditLevel: ...
    async def set_level(self, caller: Caller, project_id: ProjectId, level: AuditLevel) -> AuditLevel: ...
    async def segments(
        self, caller: Caller, project_id: ProjectId, *, before: int | None, limit: int
    ) -> list[Segment]: ...


class Erasures(Protocol):
    """The erasing of what clients executed: control/projects/erasures.py."""

    async def find(self, project_id: ProjectId) -> list[Erasure]: ...
    async def ask(self, caller: Caller, project_id: ProjectId, reason: str, up_to: datetime | None) -> Erasure: ...
    async def agree(self, caller: Caller, project_id: ProjectId, erasure_id: UUID) -> Erasure: ...


class Forgettings(Protocol):
    """The erasing of one person in the audit log's events: control/projects/forgetting.py. Without a project, in all of them."""

    async def find(self, project_id: ProjectId | None) -> list[Forgetting]: ...
    async def ask(
        self, caller: Caller, project_id: ProjectId | None, kind: SubjectKind, subject: str, reason: str
    ) -> Forgetting: ...
    async def agree(self, caller: Caller, project_id: ProjectId | None, forgetting_id: UUID) -> Forgetting: ...


class Holds(Protocol):
    """What keeps a project's record from every erasing: control/projects/holds.py."""

    async def find(self, project_id: ProjectId) -> list[Hold]: ...
    async def place(self, caller: Caller, project_id: ProjectId, reason: str) -> Hold: ...
    async def ask_to_lift(self, caller: Caller, project_id: ProjectId, hold_id: UUID, reason: str) -> Hold: ...
    async def lift(self, caller: Caller, project_id: ProjectId, hold_id: UUID) -> Hold: ...


class Retentions(Protocol):
    """For how long what is recorded is kept: control/projects/retention.py."""

    async def find(self, org_id: OrgId | None) -> list[Retention]: ...
    async def preview(self, org_id: OrgId, what: Class, days: int | None) -> list[Old]: ...
    async def preview_events(self, days: int | None) -> Prunable: ...
    async def set(
        self, caller: Caller, org_id: OrgId | None, what: Class, days: int | None, reason: str
    ) -> Retention: ...
    async def agree(self, caller: Caller, org_id: OrgId | None, retention_id: UUID) -> Retention: ...


class Incidents(Protocol):
    """What an operator does about a finding: control/incidents/service.py."""

    async def respond(self, caller: Caller, finding_id: str, action: Response) -> Responded: ...
    async def release(self, caller: Caller, finding_id: str) -> Responded: ...


class Consumption(Protocol):
    """What was taken over time: control/consumption/service.py."""

    async def by_project(self, asked: Asked, *, after: ProjectId | None, limit: int) -> list[Taken]: ...
    async def by_branch(self, asked: Asked, *, after: tuple[ProjectId, BranchId] | None, limit: int) -> list[Taken]: ...


class Reencryptions(Protocol):
    """A project's data under another key: control/reencryption/service.py."""

    async def get(self, project_id: ProjectId) -> Reencryption: ...
    async def begin(self, caller: Caller, project_id: ProjectId, wish: Wish) -> Reencryption: ...
    async def pause(self, caller: Caller, project_id: ProjectId) -> Reencryption: ...
    async def cancel(self, caller: Caller, project_id: ProjectId) -> Reencryption: ...


class Operations(Protocol):
    async def find(self, project_id: ProjectId, page: Page) -> list[Operation]:
        """Newest first."""
        ...

    async def get(self, project_id: ProjectId, operation_id: OperationId) -> Operation: ...


class ServiceAccounts(Protocol):
    """What machines are and may: control/service_accounts/service.py. With a new key comes the key itself, this once."""

    async def find(self, org_id: OrgId) -> list[ServiceAccount]: ...
    async def create(
        self, caller: Caller, org_id: OrgId, new: NewServiceAccount
    ) -> tuple[ServiceAccount, Secret[str]]: ...
    async def change(self, caller: Caller, org_id: OrgId, account_id: UUID, change: Change) -> ServiceAccount: ...
    async def rotate(
        self, caller: Caller, org_id: OrgId, account_id: UUID, wish: KeyWish, overlap: timedelta
    ) -> tuple[ServiceAccount, Secret[str]]: ...
    async def remove(self, caller: Caller, org_id: OrgId, account_id: UUID) -> ServiceAccount: ...


class Issuers(Protocol):
    """At which people log in, and what their groups give: control/people/issuers.py."""

    async def find(self) -> list[Issuer]: ...
    async def add(self, caller: Caller, new: NewIssuer) -> Issuer: ...
    async def remove(self, caller: Caller, issuer_id: UUID) -> Issuer: ...
    async def groups(self, org_id: OrgId) -> list[Group]: ...
    async def map_group(self, caller: Caller, org_id: OrgId, new: NewGroup) -> Group: ...
    async def unmap_group(self, caller: Caller, org_id: OrgId, group_id: UUID) -> Group: ...
    async def disable(self, caller: Caller, email: str, *, is_disabled: bool) -> Account: ...


class Logins(Protocol):
    """A person's login: control/people/logins.py."""

    async def begin(self, begin: Begin, *, links: int | None = None) -> Begun: ...
    async def finish(self, caller: Caller, finish: Finish) -> LoggedIn:
        """`caller` is nobody yet. Raises LoginRefusedError."""
        ...


class Scim(Protocol):
    """An organization's directory: control/scim/service.py. With a new token comes the token itself, this once."""

    async def status(self, org_id: OrgId) -> scim.Status: ...
    async def enable(self, caller: Caller, org_id: OrgId) -> tuple[scim.Status, Secret[str]]: ...
    async def rotate(self, caller: Caller, org_id: OrgId) -> tuple[scim.Status, Secret[str]]: ...
    async def disable(self, caller: Caller, org_id: OrgId) -> scim.Status: ...

    async def authenticate(self, bearer: str, address: str) -> scim.Directory:
        """Raises UnauthenticatedError."""
        ...

    async def users(self, by: scim.Speaking, wanted: scim.Wanted) -> tuple[int, list[scim.User], GroupsOf]: ...
    async def user(self, by: scim.Speaking, user_id: UUID) -> tuple[scim.User, GroupsOf]: ...
    async def create_user(self, by: scim.Speaking, wanted: UserAttributes) -> scim.User: ...
    async def change_user(
        self, by: scim.Speaking, user_id: UUID, change: Callable[[UserAttributes], UserAttributes]
    ) -> tuple[scim.User, GroupsOf]: ...
    async def delete_user(self, by: scim.Speaking, user_id: UUID) -> None: ...

    async def groups(
        self, by: scim.Speaking, wanted: scim.Wanted, *, with_members: bool
    ) -> tuple[int, list[scim.Group]]: ...
    async def group(self, by: scim.Speaking, group_id: UUID) -> scim.Group: ...
    async def create_group(self, by: scim.Speaking, wanted: GroupAttributes) -> scim.Group: ...
    async def change_group(
        self, by: scim.Speaking, group_id: UUID, change: Callable[[GroupAttributes], GroupAttributes]
    ) -> scim.Group: ...
    async def delete_group(self, by: scim.Speaking, group_id: UUID) -> None: ...


class Passkeys(Protocol):
    """Of the caller, and what organizations demand: control/passkeys/service.py."""

    async def find(self, caller: Caller) -> list[Passkey]: ...
    async def begin(self, caller: Caller) -> Creation: ...
    async def add(self, caller: Caller, name: str, said: Registration) -> Passkey: ...
    async def remove(self, caller: Caller, passkey_id: UUID) -> Passkey: ...
    async def shown(self, challenge: bytes) -> Challenge | Creation: ...
    async def is_required(self, org_id: OrgId) -> bool: ...
    async def require(self, caller: Caller, org_id: OrgId, *, is_required: bool) -> bool: ...


class Proofs(Protocol):
    """That whoever does something privileged is there: control/passkeys/proofs.py."""

    async def ask(self, caller: Caller, asked: PrivilegedRequest, assertion: Assertion | None) -> Challenge | None:
        """None: it may be done. Raises PasskeyRefusedError."""
        ...


@dataclass(frozen=True, slots=True)
class Control:
    """Everything a front door may call."""

    projects: Projects
    branches: Branches
    maskings: Maskings
    consents: Consents
    snapshots: Snapshots
    backups: Backups
    schemas: Schemas
    endpoints: Endpoints
    roles: Roles
    databases: Databases
    operations: Operations
    organizations: Organizations
    offers: Offers
    issuers: Issuers
    logins: Logins
    scim: Scim
    passkeys: Passkeys
    proofs: Proofs
    jwks: KeySets
    statements: Statements
    erasures: Erasures
    forgettings: Forgettings
    holds: Holds
    retentions: Retentions
    egress: Egress
    tags: Tags
    access: Access
    reviews: Reviews
    service_accounts: ServiceAccounts
    incidents: Incidents
    consumption: Consumption
    reencryptions: Reencryptions

"""The API over a control plane of dictionaries, with two organizations that may not see each other.

`ada` is an admin of the first, `bob` an editor of the second, `eve` has a key of neither. The fakes follow the contracts
of `control/services.py` and `edge/api/ports.py` and remember what was asked of them.
"""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from starlette.applications import Starlette

from cloister.base.audit_levels import AuditLevel
from cloister.base.clock import FakeClock
from cloister.base.directory import Spoken
from cloister.base.egress import Target
from cloister.base.errors import (
    CloisterError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    PreconditionError,
    UnauthenticatedError,
    UnprocessableError,
)
from cloister.base.ids import BranchId, EndpointId, OperationId, OrgId, ProjectId, SnapshotId, TimelineId
from cloister.base.secret import Secret
from cloister.base.settings import Address, Settings
from cloister.base.tags import KEPT
from cloister.control.access.model import NewRequest, Recording, Request, Shift
from cloister.control.access.model import State as AccessState
from cloister.control.access.service import Credentials, Replayed
from cloister.control.backups.model import Backups as BackupsFound
from cloister.control.backups.model import Base, BranchBackups, LeftOut, Progress
from cloister.control.backups.model import Wish as RestoreWish
from cloister.control.branches.consents import PERMISSIONS, Act, Consent, ConsentPolicy
from cloister.control.branches.masking_store import Masking
from cloister.control.branches.model import (
    HEAD,
    Branch,
    BranchChange,
    BranchCreated,
    BranchRestored,
    MaskingRule,
    NewBranch,
    NewPassword,
    Point,
    Restore,
    ScheduleItem,
    Snapshot,
    SnapshotChange,
    SnapshotRestored,
    Usage,
    Window,
)
from cloister.control.branches.tables import Column, Constraint, Referenced, Table
from cloister.control.calling import Caller, Page
from cloister.control.computes.model import Endpoint, EndpointChange, NewEndpoint, State
from cloister.control.consumption.accounting import Amounts
from cloister.control.consumption.service import Frame, Taken
from cloister.control.consumption.store import Asked
from cloister.control.egress.model import EgressRule
from cloister.control.incidents.model import Responded, Response
from cloister.control.jwks.model import Jwks, NewJwks
from cloister.control.naming import checked_name
from cloister.control.operations.model import Operation, Status
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
from cloister.control.people.logins import LoginRefusedError
from cloister.control.people.model import Begin, Begun, Finish, Group, Issuer, LoggedIn, NewGroup, NewIssuer
from cloister.control.projects.erasures import Erasure
from cloister.control.projects.forgetting import Forgetting, SubjectKind
from cloister.control.projects.holds import Hold
from cloister.control.projects.model import (
    About,
    EndpointDefaults,
    NewProject,
    Project,
    ProjectChange,
    ProjectSettings,
    Tagged,
)
from cloister.control.projects.retention import Class, Old, Prunable, Retention
from cloister.control.projects.settings import checked_defaults, checked_settings, merged_settings
from cloister.control.reencryption.model import Reencryption, Wish
from cloister.control.reencryption.model import State as Reencrypted
from cloister.control.reviews.model import Item, Kind, Policy, Review
from cloister.control.roles.model import DatabaseInfo, Role
from cloister.control.scim.model import Status as ScimStatus
from cloister.control.service_accounts.model import Change, KeyWish, NewServiceAccount, ServiceAccount
from cloister.control.service_accounts.model import Key as ServiceKey
from cloister.control.services import Control, ProjectCreated, RoleChanged
from cloister.edge.api.application import create_app
from cloister.edge.api.call import Services
from cloister.edge.api.idempotency import Answer, Answers, Slot
from cloister.edge.api.ports import Decider
from cloister.protocol.merkle.notes import Checkpoint, SignedTree, VerifierKey
from cloister.protocol.merkle.tree import Tree
from cloister.protocol.webauthn import Assertion, Credential, Registration
from cloister.trust.access.keys import ApiKey, NewKey
from cloister.trust.access.permissions import OF_ONESELF, OF_THE_PLATFORM, Permission
from cloister.trust.access.principals import Principal
from cloister.trust.audit import Event
from cloister.trust.audit.minimum import Gone
from cloister.trust.audit.people import Chain
from cloister.trust.audit.reader import EVERYBODY, Recorded, Subject
from cloister.trust.audit.statements import Segment
from cloister.trust.audit.verify import Broken, Head, Intact
from cloister.trust.keys.commands import KeyInfo, KeyPolicy, KeystoreInfo, RingInfo, RootCount
from cloister.trust.sentinel import clocks
from cloister.trust.sentinel.clocks import Measured
from cloister.trust.sentinel.desk import Finding, Pulse

NOW: Final = datetime(2026, 3, 4, 5, 6, 7, 890_000, tzinfo=UTC)
PASSWORD: Final = "npg_p%/@:shown1234567890"
ORG: Final = OrgId("org-calm-forest-00000001")
OTHER_ORG: Final = OrgId("org-calm-forest-00000002")
PROJECT: Final = ProjectId("calm-forest-00000001")
OTHER_PROJECT: Final = ProjectId("calm-forest-00000002")
GONE_PROJECT: Final = ProjectId("calm-forest-00000003")
"""Deleted, and can be recovered."""
NO_PROJECT: Final = ProjectId("calm-forest-99999999")
BRANCH: Final = BranchId("br-calm-forest-aaaaaaaa")
CHILD: Final = BranchId("br-calm-forest-bbbbbbbb")
GONE: Final = BranchId("br-calm-forest-dddddddd")
"""Deleted, and can be recovered."""
SNAPSHOT: Final = SnapshotId("snap-calm-forest-aaaaaaaa")
USAGE: Final = Usage(logical_bytes=8_000_000, unique_bytes=12_288, history_bytes=1_048_576, measured_at=None)
TIMELINE: Final = TimelineId("00" * 16)
ENDPOINT: Final = EndpointId("ep-calm-forest-aaaaaaaa")
OPERATION: Final = OperationId("11111111-2222-3333-4444-555555555555")
ADA_KEY: Final = "napi_" + "a" * 64
BOB_KEY: Final = "napi_" + "b" * 64


def principal(number: int, memberships: dict[str, str]) -> Principal:
    return Principal(
        account_id=uuid.UUID(int=number),
        key_id=number,
        email=f"user{number}@example.com",
        name=f"User {number}",
        memberships=memberships,
    )


ADA: Final = principal(1, {ORG: "admin"})
BOB: Final = principal(2, {OTHER_ORG: "editor"})
GRANT: Final = uuid.UUID(int=99)
OFFER: Final = uuid.UUID(int=97)
REVIEW: Final = uuid.UUID(int=98)
SERVICE_ACCOUNT: Final = uuid.UUID(int=99)
EGRESS_RULE: Final = uuid.UUID(int=98)
FINDING: Final = "fd-0123456789ab"

_EDITORS_MAY_NOT: Final = {Permission.PROJECT_DELETE, Permission.AUDIT_READ, Permission.KEY_READ}


class FakeKeys:
    def __init__(self) -> None:
        self.principals = {ADA_KEY: ADA, BOB_KEY: BOB}
        self.asked = 0
        self.keys = {
            7: ApiKey(7, "laptop", ADA.account_id, ADA.name, NOW, None, None),
            9: ApiKey(9, "ci", ADA.account_id, ADA.name, NOW, None, None, ORG),
        }
        self.created: list[NewKey] = []

    async def authenticate(self, bearer: str, address: str) -> Principal:
        self.asked += 1
        if bearer not in self.principals:
            raise UnauthenticatedError(public="invalid API key")
        return self.principals[bearer]

    async def create(self, caller: Caller, new: NewKey) -> tuple[ApiKey, Secret[str]]:
        self.created.append(new)
        who = caller.principal
        key = ApiKey(8, new.name, who.account_id, who.name, NOW, None, None, new.org_id, new.project_id)
        self.keys[8] = key
        return key, Secret("napi_" + "n" * 64)

    async def find(self, principal: Principal) -> list[ApiKey]:
        return [it for it in self.keys.values() if it.account_id == principal.account_id and it.org_id is None]

    async def find_of(self, org_id: str) -> list[ApiKey]:
        return [it for it in self.keys.values() if it.org_id == org_id]

    async def revoke(self, caller: Caller, key_id: int, org_id: str | None = None) -> ApiKey:
        key = self.keys.get(key_id)
        if key is None or key.org_id != org_id or (org_id is None and key.account_id != caller.principal.account_id):
            raise NotFoundError(public="API key not found")
        return key


class FakeDecider:
    """Admins may everything in their organization, everybody else nearly; for others it does not exist."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Permission]] = []
        self.refused: set[Permission] = set()

    def authorize(
        self,
        principal: Principal,
        permission: Permission,
        *,
        org_id: str | None = None,
        project_id: str | None = None,
        tags: Iterable[str] = (),
    ) -> None:
        self.asked.append((principal.email, permission))
        if permission in self.refused or (permission is Permission.PLATFORM_READ and not principal.is_operator):
            raise ForbiddenError
        if permission in OF_ONESELF | OF_THE_PLATFORM:
            return
        assert org_id is not None
        role = principal.memberships.get(org_id)
        if role is None:
            raise NotFoundError
        if role != "admin" and permission in _EDITORS_MAY_NOT:
            raise ForbiddenError


class FakeMaskings:
    """Of CHILD; every other branch is none."""

    def __init__(self) -> None:
        self.masking = Masking(
            project_id=PROJECT,
            branch_id=CHILD,
            rules=[
                MaskingRule(
                    database="neondb", schema="public", table="people", column="email", function="anon.hash(email)"
                )
            ],
            state="initialized",
            message="",
            work={},
            created_at=NOW,
            changed_at=NOW,
            started_at=None,
            completed_at=None,
            started_by=None,
        )
        self.started: list[BranchId] = []

    async def get(self, project_id: ProjectId, branch_id: BranchId) -> Masking:
        if branch_id != CHILD:
            raise NotFoundError(public="the branch is no anonymized branch")
        return self.masking

    async def change_rules(
        self, caller: Caller, project_id: ProjectId, branch_id: BranchId, rules: Sequence[MaskingRule]
    ) -> Masking:
        self.masking = replace(await self.get(project_id, branch_id), rules=list(rules))
        return self.masking

    async def start(
        self, caller: Caller, project_id: ProjectId, branch_id: BranchId
    ) -> tuple[Masking, list[Operation]]:
        self.masking = replace(await self.get(project_id, branch_id), state="anonymizing", started_at=NOW)
        self.started.append(branch_id)
        return self.masking, []


class FakeTags:
    async def change(
        self,
        caller: Caller,
        project_id: ProjectId,
        branch_id: BranchId | None,
        *,
        add: Iterable[str] = (),
        remove: Iterable[str] = (),
        reason: str = "",
    ) -> frozenset[str]:
        if not KEPT.isdisjoint(remove):
            caller.require(Permission.TAG_LIFT)
        return frozenset(add)


class FakeEgress:
    def __init__(self) -> None:
        self.rules = [
            EgressRule(
                id=EGRESS_RULE,
                project_id=PROJECT,
                target=Target.parse("203.0.113.7:5432"),
                ca_pem=None,
                created_by="user:ada",
                created_at=NOW,
            )
        ]

    async def find(self, project: Project) -> list[EgressRule]:
        return self.rules

    async def allow(self, caller: Caller, project: Project, to: str, ca_pem: str | None) -> EgressRule:
        return replace(self.rules[0], target=Target.parse(to), ca_pem=ca_pem)

    async def remove(self, caller: Caller, project: Project, rule_id: uuid.UUID) -> EgressRule:
        if rule_id != EGRESS_RULE:
            raise NotFoundError(public="egress rule not found")
        return self.rules[0]


ACCESS: Final = UUID("aaaaaaaa-0000-4000-8000-000000000001")
ACCESS_REQUEST: Final = Request(
    id=ACCESS,
    org_id=ORG,
    project_id=PROJECT,
    branch_id=BRANCH,
    account_id=UUID(int=7),
    email="dev@example.com",
    reason="INC-7",
    duration=timedelta(hours=1),
    may_write=False,
    is_break_glass=False,
    state=AccessState.ACTIVE,
    requested_at=NOW,
    answer_by=NOW + timedelta(hours=1),
    ends_at=NOW + timedelta(hours=1),
    closed_at=None,
    role=f"cloister_access_{ACCESS.hex}",
    approved_by=("ada@example.com",),
)
RECORDING: Final = Recording(
    id=ACCESS,
    request_id=ACCESS,
    project_id=PROJECT,
    account_id=UUID(int=7),
    email="dev@example.com",
    address="192.0.2.7",
    database="neondb",
    application="psql",
    began_at=NOW,
    ended_at=None,
    reason="",
    chunks=1,
    statements=1,
    head=b"h" * 32,
    wrapped_key=b"",
)
SPOKEN: Final = Spoken(
    kind="simple", text="SELECT 1", outcome="done", tags=["SELECT 1"], rows=1, began_ms=1, ended_ms=3
)
SHIFT: Final = Shift(
    id=ACCESS,
    org_id=ORG,
    account_id=UUID(int=7),
    email="dev@example.com",
    starts_at=NOW,
    ends_at=NOW + timedelta(hours=8),
)


class FakeAccess:
    """One request, one recording, one shift; all that is asked of it is noted."""

    def __init__(self) -> None:
        self.changes: list[Any] = []

    async def request(self, caller: Caller, project: Project, new: NewRequest) -> Request:
        self.changes.append((caller, project.id, new))
        return ACCESS_REQUEST

    async def find(self, project_id: ProjectId) -> list[Request]:
        return [ACCESS_REQUEST] if project_id == PROJECT else []

    async def get(self, project_id: ProjectId, request_id: UUID) -> Request:
        found: Request = _only(await self.find(project_id), request_id)
        return found

    async def approve(self, caller: Caller, project_id: ProjectId, request_id: UUID) -> Request:
        caller.require(Permission.ACCESS_APPROVE)  # as the service does, with the request at hand
        return await self._changed("approve", caller, project_id, request_id)

    async def deny(self, caller: Caller, project_id: ProjectId, request_id: UUID, reason: str) -> Request:
        caller.require(Permission.ACCESS_APPROVE)  # as the service does, with the request at hand
        return await self._changed("deny", caller, project_id, request_id)

    async def terminate(self, caller: Caller, project_id: ProjectId, request_id: UUID) -> Request:
        caller.require(Permission.ACCESS_APPROVE)  # as the service does, with the request at hand
        return await self._changed("terminate", caller, project_id, request_id)

    async def credentials(self, caller: Caller, project_id: ProjectId, request_id: UUID) -> Credentials:
        found = await self._changed("credentials", caller, project_id, request_id)
        return Credentials(found, ENDPOINT, Secret("npg_shown0once0shown"))

    async def recordings(self, project_id: ProjectId, request_id: UUID | None) -> list[Recording]:
        return [RECORDING] if project_id == PROJECT else []

    async def replay(
        self,
        caller: Caller,
        project_id: ProjectId,
        recording_id: UUID,
    ) -> Replayed:
        return Replayed(_only(await self.recordings(project_id, None), recording_id), [SPOKEN], None)

    async def shifts(self, org_id: OrgId) -> list[Shift]:
        return [SHIFT] if org_id == ORG else []

    async def add_shift(
        self, caller: Caller, org_id: OrgId, email: str, starts_at: datetime, ends_at: datetime
    ) -> Shift:
        self.changes.append((caller, org_id, email, starts_at, ends_at))
        return SHIFT

    async def remove_shift(self, caller: Caller, org_id: OrgId, shift_id: UUID) -> Shift:
        self.changes.append((caller, org_id, shift_id))
        return SHIFT

    async def _changed(self, verb: str, caller: Caller, project_id: ProjectId, request_id: UUID) -> Request:
        found = await self.get(project_id, request_id)
        self.changes.append((verb, caller, project_id, request_id))
        return found


def _only(found: Sequence[Any], wanted: UUID) -> Any:
    for it in found:
        if it.id == wanted:
            return it
    raise NotFoundError(public="not found")


class FakeOrganizations:
    def __init__(self) -> None:
        self.changes: list[Any] = []
        self.rows = [Member(ADA.account_id, ADA.email, "admin", NOW)]

    async def find(self, org_ids: Sequence[OrgId]) -> list[Organization]:
        return [Organization(it, "Example", NOW) for it in (ORG, OTHER_ORG) if it in org_ids]

    async def project_ids(self, org_ids: Sequence[OrgId]) -> list[ProjectId]:
        return [it for org, it in ((ORG, PROJECT), (OTHER_ORG, OTHER_PROJECT)) if org in org_ids]

    async def create(self, caller: Caller, name: str) -> Organization:
        self.changes.append(name)
        return Organization(ORG, name, NOW)

    async def create_account(self, caller: Caller, email: str, name: str) -> tuple[Account, Secret[str]]:
        self.changes.append(email)
        return Account(uuid.UUID(int=3), email, name, NOW), Secret("napi_" + "n" * 64)

    async def members(self, org_id: OrgId) -> list[Member]:
        return self.rows

    async def member(self, org_id: OrgId, account_id: uuid.UUID) -> Member:
        for row in self.rows:
            if row.account_id == account_id:
                return row
        raise NotFoundError(public="member not found")

    async def invite(self, caller: Caller, org_id: OrgId, invitations: Sequence[Invitation]) -> list[Member]:
        self.changes.extend(invitations)
        return [Member(uuid.UUID(int=3), it.email, it.role, NOW) for it in invitations]

    async def change_role(self, caller: Caller, org_id: OrgId, account_id: uuid.UUID, role: OrganizationRole) -> Member:
        self.changes.append(role)
        return replace(await self.member(org_id, account_id), role=role)

    async def remove(self, caller: Caller, org_id: OrgId, account_id: uuid.UUID) -> None:
        self.changes.append(await self.member(org_id, account_id))

    async def grants(self, project_id: ProjectId) -> list[ProjectGrant]:
        return [ProjectGrant(GRANT, project_id, BOB.account_id, BOB.email, "editor", NOW)]

    async def grant(
        self, caller: Caller, project: Project, email: str, role: ProjectRole, *, may_add_members: bool
    ) -> ProjectGrant:
        self.changes.append((email, role, may_add_members))
        return ProjectGrant(GRANT, project.id, BOB.account_id, email, role, NOW)

    async def revoke_grant(self, caller: Caller, project: Project, grant_id: uuid.UUID) -> ProjectGrant:
        if grant_id != GRANT:
            raise NotFoundError(public="permission not found")
        self.changes.append(grant_id)
        return (await self.grants(project.id))[0]

    async def standings(self, project: Project, *, and_without_access: bool) -> list[Standing]:
        found = [
            Standing(ADA.account_id, ADA.email, ADA.name, "admin", None),
            Standing(BOB.account_id, BOB.email, BOB.name, "viewer", "editor"),
        ]
        nobody = Standing(uuid.UUID(int=3), "eve@example.com", "Eve", "collaborator", None)
        return [*found, nobody] if and_without_access else found

    async def set_project_role(
        self, caller: Caller, project: Project, account_id: uuid.UUID, role: ProjectRole | None, *, is_sure: bool
    ) -> StandingChanged:
        self.changes.append((account_id, role, is_sure))
        for standing in await self.standings(project, and_without_access=True):
            if standing.account_id == account_id:
                return StandingChanged(replace(standing, granted=role), knows_passwords=True, made_keys=False)
        raise NotFoundError(public="member not found")

    async def transfer(
        self, caller: Caller, source: OrgId, destination: OrgId, project_ids: Sequence[ProjectId]
    ) -> None:
        self.changes.append((source, destination, *project_ids))


class FakeOffers:
    def __init__(self) -> None:
        self.changes: list[Any] = []

    async def offer(self, caller: Caller, project: Project, lasts: timedelta = timedelta(days=1)) -> Offer:
        self.changes.append((project.id, lasts))
        return Offer(OFFER, project.id, NOW, NOW + lasts)

    async def accept(self, caller: Caller, project_id: ProjectId, offer_id: uuid.UUID, destination: OrgId) -> None:
        if offer_id != OFFER:
            raise NotFoundError(public="transfer request not found")
        self.changes.append((project_id, offer_id, destination))


class FakeReencryptions:
    async def get(self, project_id: ProjectId) -> Reencryption:
        return Reencryption(
            project_id=project_id, material=2, old_material=1, wish=Wish(), asked_by="user:alice", begun_at=NOW
        )

    async def begin(self, caller: Caller, project_id: ProjectId, wish: Wish) -> Reencryption:
        return replace(await self.get(project_id), wish=wish)

    async def pause(self, caller: Caller, project_id: ProjectId) -> Reencryption:
        return replace(await self.get(project_id), state=Reencrypted.PAUSED)

    async def cancel(self, caller: Caller, project_id: ProjectId) -> Reencryption:
        return replace(await self.get(project_id), state=Reencrypted.CANCELLING)


ISSUER: Final = Issuer(
    id=uuid.UUID(int=96),
    name="company",
    url="https://login.example.com",
    client_id="cloister",
    client_secret=None,
    domains=("example.com",),
    groups_claim="groups",
    operators=None,
    session=timedelta(hours=8),
    created_at=NOW,
)
GROUP: Final = Group(id=ISSUER.id, issuer="company", name="dba", org_id=ORG, role="editor", created_at=NOW)


SCIM: Final = ScimStatus(
    org_id=ORG,
    is_enabled=True,
    enabled_at=NOW,
    last_used_at=None,
    last_used_from=None,
    users=0,
    active=0,
    linked=0,
    groups=0,
)


class FakeScim:
    """What people say about a directory. What one says itself is tried on a real database (tests/edge/api/scim)."""

    def __init__(self) -> None:
        self.changes: list[str] = []

    async def status(self, org_id: OrgId) -> ScimStatus:
        return SCIM

    async def enable(self, caller: Caller, org_id: OrgId) -> tuple[ScimStatus, Secret[str]]:
        self.changes.append("enable")
        return SCIM, Secret("scim_" + "t" * 43)

    async def rotate(self, caller: Caller, org_id: OrgId) -> tuple[ScimStatus, Secret[str]]:
        self.changes.append("rotate")
        return SCIM, Secret("scim_" + "u" * 43)

    async def disable(self, caller: Caller, org_id: OrgId) -> ScimStatus:
        self.changes.append("disable")
        return SCIM

    async def authenticate(self, bearer: str, address: str) -> Any:
        raise UnauthenticatedError

    async def _unreached(self, *_args: Any, **_named: Any) -> Any:
        raise AssertionError("nobody is authenticated here")

    users = user = create_user = change_user = delete_user = _unreached
    groups = group = create_group = change_group = delete_group = _unreached


class FakeIssuers:
    """One issuer, one group of it."""

    def __init__(self) -> None:
        self.changes: list[Any] = []

    async def find(self) -> list[Issuer]:
        return [ISSUER]

    async def add(self, caller: Caller, new: NewIssuer) -> Issuer:
        self.changes.append(new)
        return ISSUER

    async def remove(self, caller: Caller, issuer_id: UUID) -> Issuer:
        it: Issuer = _only([ISSUER], issuer_id)
        self.changes.append(issuer_id)
        return it

    async def groups(self, org_id: OrgId) -> list[Group]:
        return [GROUP]

    async def map_group(self, caller: Caller, org_id: OrgId, new: NewGroup) -> Group:
        self.changes.append(new)
        return GROUP

    async def unmap_group(self, caller: Caller, org_id: OrgId, group_id: UUID) -> Group:
        it: Group = _only([GROUP], group_id)
        self.changes.append(group_id)
        return it

    async def disable(self, caller: Caller, email: str, *, is_disabled: bool) -> Account:
        self.changes.append((email, is_disabled))
        return Account(uuid.UUID(int=3), email, "Eve", NOW)


class FakeLogins:
    """Lets in whoever brings the state `good`; of `disabled` it knows whose it is."""

    def __init__(self) -> None:
        self.begun: list[tuple[Begin, int | None]] = []

    async def begin(self, begin: Begin, *, links: int | None = None) -> Begun:
        self.begun.append((begin, links))
        return Begun(
            issuer="company",
            url="https://login.example.com/auth?state=good",
            redirect_uri=f"http://127.0.0.1:{begin.port}/login/company",
            state=Secret("good"),
            expires_at=NOW,
        )

    async def finish(self, caller: Caller, finish: Finish) -> LoggedIn:
        if finish.state == "disabled":
            raise LoginRefusedError("account_disabled", "is disabled", actor="user:eve", subject="company/u-1")
        if finish.state != "good":
            raise LoginRefusedError("login_unknown", "no such login")
        return LoggedIn(
            account_id=ADA.account_id,
            email=ADA.email,
            name=ADA.name,
            issuer="company",
            roles={ORG: "admin"},
            is_operator=False,
            key_id=9,
            key=Secret("napi_" + "s" * 64),
            expires_at=NOW,
        )


PASSKEY: Final = uuid.UUID(int=70)
CHALLENGE: Final = "Y2Nj" * 10 + "Y2M"
"""In base64url: 32 times the letter c."""
A_PASSKEY: Final = Passkey(
    id=PASSKEY,
    account_id=ADA.account_id,
    name="key ring",
    credential=Credential(b"credential", b"public key", 1),
    created_at=NOW,
    last_used_at=None,
)
REGISTRATION: Final = {
    "name": "key ring",
    "credential": {"response": {"clientDataJSON": "e30", "attestationObject": "oA"}},
}


class FakePasskeys:
    """The real ones are tested in tests/control/passkeys; with the front door before them, in tests/attacks/test_passkeys.py."""

    def __init__(self) -> None:
        self.is_demanded = False

    async def find(self, caller: Caller) -> list[Passkey]:
        return [A_PASSKEY]

    async def begin(self, caller: Caller) -> Creation:
        return Creation(
            challenge=b"c" * 32,
            rp_id="db.test",
            account_id=caller.principal.account_id,
            email=caller.principal.email,
            name=caller.principal.name,
            passkeys=(b"credential",),
            address=caller.address,
            expires_at=NOW,
        )

    async def add(self, caller: Caller, name: str, said: Registration) -> Passkey:
        return replace(A_PASSKEY, name=name)

    async def remove(self, caller: Caller, passkey_id: UUID) -> Passkey:
        if passkey_id != PASSKEY:
            raise NotFoundError(public="passkey not found")
        return A_PASSKEY

    async def shown(self, challenge: bytes) -> Challenge | Creation:
        if challenge != b"c" * 32:
            raise NotFoundError(public="this link was used, or is over: begin again")
        return A_CHALLENGE

    async def is_required(self, org_id: OrgId) -> bool:
        return self.is_demanded

    async def require(self, caller: Caller, org_id: OrgId, *, is_required: bool) -> bool:
        self.is_demanded = is_required
        return is_required


A_CHALLENGE: Final = Challenge(
    challenge=b"c" * 32,
    rp_id="db.test",
    passkeys=(b"credential",),
    act="delete a project",
    target=f"DELETE /api/v2/projects/{PROJECT}?",
    address="192.0.2.1",
    expires_at=NOW,
)


class FakeProofs:
    """Nobody has a passkey, until `challenge` is set."""

    def __init__(self) -> None:
        self.challenge: Challenge | None = None
        self.asked: list[tuple[Caller, PrivilegedRequest, Assertion | None]] = []

    async def ask(self, caller: Caller, asked: PrivilegedRequest, assertion: Assertion | None) -> Challenge | None:
        self.asked.append((caller, asked, assertion))
        return self.challenge if assertion is None else None


class FakeConsumption:
    """One project, whose one branch took the same in every hour."""

    def __init__(self) -> None:
        self.asked: list[tuple[Asked, Any, int]] = []
        amounts = Amounts(3600.0, 900.0, 1e6, 3600.0, 3600 * 8e6, 3600 * 8e6, 0.0, 3600 * 1e6)
        hour = NOW.replace(minute=0, second=0, microsecond=0)
        self.frames = (Frame(hour, hour + timedelta(hours=1), amounts),)

    async def by_project(self, asked: Asked, *, after: ProjectId | None, limit: int) -> list[Taken]:
        self.asked.append((asked, after, limit))
        return [Taken(PROJECT, self.frames)]

    async def by_branch(self, asked: Asked, *, after: tuple[ProjectId, BranchId] | None, limit: int) -> list[Taken]:
        self.asked.append((asked, after, limit))
        return [Taken(PROJECT, self.frames, BRANCH)]


class FakeServiceAccounts:
    """One, with a key."""

    def __init__(self) -> None:
        self.changes: list[Any] = []
        key = ServiceKey(8, "napi_abcd", NOW + timedelta(days=90), None, None)
        self.account = ServiceAccount(
            id=SERVICE_ACCOUNT,
            org_id=ORG,
            name="ci",
            role="viewer",
            grants={PROJECT: "editor"},
            owner_id=ADA.account_id,
            owner=ADA.email,
            created_at=NOW,
            orphaned_at=None,
            disabled_at=None,
            keys=(key,),
        )

    async def find(self, org_id: OrgId) -> list[ServiceAccount]:
        return [self.account]

    async def create(self, caller: Caller, org_id: OrgId, new: NewServiceAccount) -> tuple[ServiceAccount, Secret[str]]:
        self.changes.append((org_id, new))
        return self.account, Secret("napi_" + "m" * 64)

    async def change(self, caller: Caller, org_id: OrgId, account_id: UUID, change: Change) -> ServiceAccount:
        self.changes.append((org_id, account_id, change))
        return self.account

    async def rotate(
        self, caller: Caller, org_id: OrgId, account_id: UUID, wish: KeyWish, overlap: timedelta
    ) -> tuple[ServiceAccount, Secret[str]]:
        self.changes.append((org_id, account_id, wish, overlap))
        return self.account, Secret("napi_" + "m" * 64)

    async def remove(self, caller: Caller, org_id: OrgId, account_id: UUID) -> ServiceAccount:
        self.changes.append((org_id, account_id))
        return self.account


class FakeReviews:
    def __init__(self) -> None:
        self.changes: list[Any] = []
        item = Item(
            1, Kind.MEMBER, str(BOB.account_id), None, BOB.account_id, {"email": "ada@example.com", "role": "admin"}
        )
        self.review = Review(REVIEW, ORG, "ada@example.com", NOW, NOW + timedelta(days=14), True, None, (item,))

    async def find(self, org_id: OrgId) -> list[Review]:
        return [self.review]

    async def get(self, org_id: OrgId, review_id: uuid.UUID) -> Review:
        return self.review

    async def start(self, caller: Caller, org_id: OrgId, *, answer_days: int, lapses: bool) -> Review:
        self.changes.append((org_id, answer_days, lapses))
        return self.review

    async def decide(
        self, caller: Caller, org_id: OrgId, review_id: uuid.UUID, number: int, *, keeps: bool, note: str
    ) -> Review:
        self.changes.append((org_id, review_id, number, keeps, note))
        return self.review

    async def close(self, caller: Caller, org_id: OrgId, review_id: uuid.UUID) -> Review:
        self.changes.append((org_id, review_id))
        return self.review

    async def policy(self, org_id: OrgId) -> Policy:
        return Policy(90, 14, True, NOW)

    async def set_policy(
        self, caller: Caller, org_id: OrgId, *, every_days: int, answer_days: int, lapses: bool
    ) -> Policy:
        self.changes.append((org_id, every_days, answer_days, lapses))
        return Policy(every_days, answer_days, lapses, NOW)

    async def remove_policy(self, caller: Caller, org_id: OrgId) -> Policy:
        self.changes.append(org_id)
        return Policy(90, 14, True, NOW)


class FakeAudit:
    def __init__(self) -> None:
        self.events: list[Event] = []
        self.error: CloisterError | None = None

    async def record(self, *events: Event) -> None:
        if self.error is not None:
            raise self.error
        self.events.extend(events)

    async def find(
        self,
        *,
        project_ids: Sequence[str] | None,
        action: str | None,
        before_seq: int | None,
        limit: int,
        subject: Subject = EVERYBODY,
    ) -> list[Recorded]:
        return [
            Recorded(seq, event, bytes(32))
            for seq, event in reversed(list(enumerate(self.events, 1)))
            if (project_ids is None or event.project_id in project_ids)
            and (action is None or event.action == action)
            and (before_seq is None or seq < before_seq)
            and subject.role in (None, event.actor.removeprefix("role:"))
        ][:limit]

    async def who(self, project_ids: Sequence[str] | None, event: int | str) -> Chain | None:
        return None

    async def gone(self) -> Gone | None:
        return None

    async def verify(self, noted: Sequence[Head]) -> tuple[Intact | Broken, SignedTree]:
        return Intact(Head(len(self.events), bytes(32))), await FakeNotary().last_checkpoint()


class FakeNotary:
    """Has signed `tree`."""

    def __init__(self, tree: Tree = Tree()) -> None:  # noqa: B008 - immutable
        self.tree = tree
        self._private = Ed25519PrivateKey.from_private_bytes(bytes(32))

    async def last_checkpoint(self) -> SignedTree:
        key = VerifierKey("test/audit", self._private.public_key().public_bytes_raw())
        text = Checkpoint(key.name, self.tree.size, self.tree.root).text
        note = key.note(text, self._private.sign(text.encode()))
        return SignedTree(size=self.tree.size, peaks=list(self.tree.peaks), note=note, key=str(key))

    async def sign_checkpoint(self, tree: Tree, proof: Sequence[bytes]) -> SignedTree:
        self.tree = tree
        return await self.last_checkpoint()


class FakeVolumeKeys:
    def __init__(self) -> None:
        self.state = "enabled"
        self.changes: list[tuple[object, ...]] = []

    async def find(self, project_id: str | None) -> list[KeyInfo]:
        return [
            KeyInfo(
                project_id=it,
                purpose="volume",
                version=1,
                state="enabled",
                provider="file",
                created_at="2026-03-04T05:06:07Z",
            )
            for it in (PROJECT, OTHER_PROJECT)
            if project_id in (None, it)
        ]

    async def ring(self, project_id: str) -> RingInfo:
        return RingInfo(
            project_id=project_id,
            state=self.state,
            destroy_at="2026-04-04T05:06:07Z" if self.state == "pending_destruction" else "",
            rotated_at="2026-03-04T05:06:07Z",
            rotate_days=365,
            keys=await self.find(project_id),
        )

    async def rotate(self, caller: Caller, project_id: str) -> RingInfo:
        return await self.ring(project_id)

    async def change(self, caller: Caller, project_id: str, change: str, *, days: int, reason: str) -> RingInfo:
        self.changes.append((caller.principal.actor, project_id, change, days, reason))
        self.state = {"disable": "disabled", "enable": "enabled", "destroy": "pending_destruction"}.get(
            change, "disabled"
        )
        return await self.ring(project_id)

    async def policy(self, org_id: str) -> KeyPolicy:
        return KeyPolicy(rotate_days=365)

    async def set_policy(self, caller: Caller, org_id: str, policy: KeyPolicy) -> KeyPolicy:
        return policy

    async def keystore(self) -> KeystoreInfo:
        root = RootCount(provider="file", root_version="0123456789abcdef", is_current=True, is_held=True, projects=2)
        return KeystoreInfo(epoch=1, seals=2, roots=[root])


class FakeFindings:
    """One finding."""

    def __init__(self) -> None:
        self.finding = Finding(
            id=FINDING,
            rule="failed-logins",
            level="medium",
            title="Many failed logins",
            summary="Failed logins of role app",
            response="Ask.",
            subject={"project_id": PROJECT},
            state="open",
            is_test=False,
            alarms=1,
            first_seq=1,
            last_seq=1,
            first_at="",
            last_at="",
            raised_at=NOW,
            changed_by="",
            note="",
            alerts=({"channel": "hook", "kind": "raised", "attempts": 1, "delivered_at": NOW, "error": ""},),
        )

    async def find(
        self, *, state: str | None, run: str | None, limit: int, assignee_id: UUID | None = None, overdue: bool = False
    ) -> list[Finding]:
        return [self.finding]

    async def get(self, finding_id: str) -> Finding:
        if finding_id != FINDING:
            raise NotFoundError(public="finding not found")
        return self.finding

    async def move(self, caller: Caller, finding_id: str, state: str, note: str) -> Finding:
        return replace(await self.get(finding_id), state=state, note=note)

    async def timeline(self, finding_id: str) -> list[Recorded]:
        await self.get(finding_id)
        return []

    async def note(self, caller: Caller, finding_id: str, text: str) -> Finding:
        note = {"noted_at": NOW, "noted_by": caller.principal.actor, "text": text}
        return replace(await self.get(finding_id), notes=(note,))

    async def assign(self, caller: Caller, finding_id: str, email: str) -> Finding:
        return replace(await self.get(finding_id), assignee=email)

    async def measure(self, days: int) -> list[Measured]:
        return clocks.measure([], NOW, NOW)

    async def test(self, caller: Caller) -> tuple[str, list[str]]:
        return "0123456789ab", ["failed-logins"]

    async def pulse(self) -> Pulse:
        return Pulse(NOW, 0, 0, 1)


class FakeIncidents:
    async def respond(self, caller: Caller, finding_id: str, action: Response) -> Responded:
        if finding_id != FINDING:
            raise NotFoundError(public="finding not found")
        return Responded((f"did {action}",))

    async def release(self, caller: Caller, finding_id: str) -> Responded:
        if finding_id != FINDING:
            raise NotFoundError(public="finding not found")
        return Responded(("released",))


class MemoryAnswers(Answers):
    """The same contract without a database. The real one is tested against PostgreSQL."""

    def __init__(self) -> None:
        self.rows: dict[tuple[uuid.UUID, str], tuple[bytes, Answer | None]] = {}

    async def begin(self, slot: Slot, now: datetime) -> Answer | None:
        digest, answer = self.rows.setdefault((slot.account_id, slot.key), (slot.digest, None))
        if (slot.account_id, slot.key) in self.rows and digest != slot.digest:
            raise UnprocessableError(public="this Idempotency-Key was used for another request")
        return answer

    async def finish(self, slot: Slot, answer: Answer) -> None:
        self.rows[slot.account_id, slot.key] = (slot.digest, answer)

    async def abandon(self, slot: Slot) -> None:
        del self.rows[slot.account_id, slot.key]

    async def sweep(self, now: datetime) -> int:
        return 0


def project(project_id: ProjectId = PROJECT, org_id: OrgId = ORG, **changes: Any) -> Project:
    made = Project(
        id=project_id,
        org_id=org_id,
        owner_id=ADA.account_id,
        name=project_id,
        region_id="self-hosted",
        pg_version=18,
        store_passwords=False,
        history_retention_seconds=86400,
        settings=ProjectSettings(),
        default_endpoint_settings=EndpointDefaults(),
        created_at=NOW,
        updated_at=NOW,
    )
    return replace(made, **changes)


def branch(branch_id: BranchId = BRANCH, *, is_default: bool = True, **changes: Any) -> Branch:
    made = Branch(
        id=branch_id,
        project_id=PROJECT,
        parent_id=None,
        parent_lsn=None,
        parent_timestamp=None,
        init_source="parent-data",
        timeline_id=TIMELINE,
        name="main" if is_default else branch_id,
        is_default=is_default,
        is_protected=False,
        state="ready",
        expires_at=None,
        ttl_interval_seconds=None,
        created_at=NOW,
        updated_at=NOW,
    )
    return replace(made, **changes)


def a_snapshot(**changes: Any) -> Snapshot:
    made = Snapshot(
        id=SNAPSHOT,
        project_id=PROJECT,
        branch_id=BRANCH,
        timeline_id=TIMELINE,
        name="before the migration",
        is_manual=True,
        lsn="0/15E9A30",
        taken_at=NOW,
        expires_at=None,
        created_at=NOW,
        updated_at=NOW,
    )
    return replace(made, **changes)


JWKS = uuid.UUID("22222222-3333-4444-8555-666666666666")


def a_key_set() -> Jwks:
    return Jwks(
        id=JWKS,
        project_id=PROJECT,
        branch_id=BRANCH,
        url="https://issuer.test/jwks",
        provider_name="Issuer",
        audience="shop",
        issuer=None,
        role_names=("authenticated",),
        keys=(),
        fetched_at=NOW,
        tried_at=NOW,
        created_at=NOW,
        updated_at=NOW,
    )


def an_endpoint(**changes: Any) -> Endpoint:
    made = Endpoint(
        id=ENDPOINT,
        project_id=PROJECT,
        branch_id=BRANCH,
        type="read_write",
        min_cu=0.25,
        max_cu=2.0,
        suspend_timeout_seconds=0,
        pg_settings={},
        is_disabled=False,
        desired=State.ACTIVE,
        state=State.IDLE,
        generation=1,
        socket_dir=None,
        is_clean=True,
        started_at=None,
        last_active_at=NOW,
        suspended_at=NOW,
        created_at=NOW,
        updated_at=NOW,
    )
    return replace(made, **changes)


def operation(number: int = 0, **changes: Any) -> Operation:
    made = Operation(
        id=OPERATION if number == 0 else OperationId(str(uuid.UUID(int=number))),
        project_id=PROJECT,
        branch_id=BRANCH,
        endpoint_id=ENDPOINT,
        action="apply_config",
        machine="change_role",
        status=Status.RUNNING,
        step="apply",
        is_undoing=False,
        failures_count=1,
        run_at=NOW,
        deadline_at=NOW,
        created_at=NOW,
        updated_at=NOW,
    )
    return replace(made, **changes)


def a_role(name: str = "neondb_owner") -> Role:
    return Role(BRANCH, name, True, None, None, NOW, NOW)


def a_database(name: str = "neondb", owner: str = "neondb_owner") -> DatabaseInfo:
    return DatabaseInfo(5, BRANCH, name, owner, NOW, NOW)


def _after(rows: list[Any], page: Page) -> list[Any]:
    ids = [row.id for row in rows]
    start = ids.index(page.cursor) + 1 if page.cursor in ids else 0
    return rows[start : start + page.limit]


@dataclass
class FakeProjects:
    rows: dict[str, Project] = field(
        default_factory=lambda: {PROJECT: project(), OTHER_PROJECT: project(OTHER_PROJECT, OTHER_ORG)}
    )
    deleted: dict[str, Project] = field(default_factory=lambda: {GONE_PROJECT: project(GONE_PROJECT, deleted_at=NOW)})
    hard: list[bool] = field(default_factory=list)
    created: list[NewProject] = field(default_factory=list)
    changes: list[ProjectChange] = field(default_factory=list)
    asked: list[About] = field(default_factory=list)
    error: Exception | None = None

    async def create(self, caller: Caller, new: NewProject) -> ProjectCreated:
        if self.error is not None:
            raise self.error
        checked_name("project name", new.name or "x")
        checked_settings(new.settings or ProjectSettings())
        checked_defaults(new.default_endpoint_settings or EndpointDefaults(), 18)
        self.created.append(new)
        assert new.org_id is not None
        made = project(PROJECT, new.org_id, name=new.name or PROJECT)
        return ProjectCreated(
            project=made,
            branch=branch(),
            endpoint=an_endpoint(),
            role=a_role(new.role_name),
            password=Secret(PASSWORD),
            database=a_database(new.database_name, new.role_name),
            operations=[operation()],
        )

    async def find(
        self, org_ids: Sequence[OrgId], page: Page, search: str | None, *, project_ids: Sequence[ProjectId] = ()
    ) -> list[Project]:
        rows = [row for row in self.rows.values() if row.org_id in org_ids or row.id in project_ids]
        return _after([row for row in rows if search is None or search in row.name], page)

    async def find_deleted(
        self, org_ids: Sequence[OrgId], page: Page, search: str | None, *, project_ids: Sequence[ProjectId] = ()
    ) -> list[Project]:
        rows = [row for row in self.deleted.values() if row.org_id in org_ids or row.id in project_ids]
        return _after([row for row in rows if search is None or search in row.name], page)

    async def get(self, project_id: ProjectId, *, and_deleted: bool = False) -> Project:
        there = self.rows | self.deleted if and_deleted else self.rows
        if project_id not in there:
            raise NotFoundError(f"no project {project_id}", public="project not found")
        return there[project_id]

    async def about(self, project_id: ProjectId, about: About, *, and_deleted: bool = False) -> Tagged:
        self.asked.append(about)
        found = await self.get(project_id, and_deleted=and_deleted)
        return Tagged(found, found.tags)

    async def update(
        self, caller: Caller, project_id: ProjectId, change: ProjectChange
    ) -> tuple[Project, list[Operation]]:
        merged_settings(self.rows[project_id].settings, change.settings or {})
        self.changes.append(change)
        return self.rows[project_id], []

    async def delete(
        self, caller: Caller, project_id: ProjectId, *, hard: bool = False
    ) -> tuple[Project, list[Operation]]:
        self.hard.append(hard)
        return await self.get(project_id, and_deleted=hard), [operation()]

    async def recover(self, caller: Caller, project_id: ProjectId) -> tuple[Project, list[Branch]]:
        if project_id not in self.deleted:
            raise ConflictError(public="project is not deleted")
        return replace(self.deleted[project_id], deleted_at=None), [branch()]


@dataclass
class FakeBranches:
    rows: list[Branch] = field(default_factory=lambda: [branch(), branch(CHILD, is_default=False, parent_id=BRANCH)])
    deleted: list[Branch] = field(
        default_factory=lambda: [branch(GONE, is_default=False, parent_id=BRANCH, deleted_at=NOW)]
    )
    created: list[NewBranch] = field(default_factory=list)
    changes: list[BranchChange] = field(default_factory=list)
    restored: list[tuple[BranchId, Restore]] = field(default_factory=list)
    hard: list[bool] = field(default_factory=list)
    grants: list[frozenset[Permission]] = field(default_factory=list)
    passwords: list[NewPassword] = field(default_factory=list)
    """What a child of a protected branch gets."""
    roles: list[Role] = field(default_factory=lambda: [a_role()])
    error: CloisterError | None = None

    async def find(self, project_id: ProjectId, page: Page, search: str | None) -> list[Branch]:
        ids = [row.id for row in self.rows]
        if page.cursor is not None and page.cursor not in ids:
            return []
        return [row for row in _after(self.rows, page) if search is None or search in row.name]

    async def get(self, project_id: ProjectId, branch_id: BranchId) -> Branch:
        for row in self.rows:
            if row.id == branch_id:
                return row
        raise NotFoundError(public="branch not found")

    async def default(self, project_id: ProjectId) -> Branch:
        return self.rows[0]

    async def count(self, project_id: ProjectId, search: str | None) -> int:
        return len([row for row in self.rows if search is None or search in row.name])

    async def usage(self, project_id: ProjectId, branch_id: BranchId) -> Usage:
        return USAGE

    async def usages(self, project_id: ProjectId) -> dict[BranchId, Usage]:
        return {row.id: USAGE for row in self.rows}

    async def window(self, project_id: ProjectId, branch_id: BranchId) -> Window:
        return Window(NOW - timedelta(days=1), NOW)

    async def create(self, caller: Caller, project_id: ProjectId, new: NewBranch) -> BranchCreated:
        self.grants.append(caller.grants)
        if self.error is not None:
            raise self.error
        self.created.append(new)
        return BranchCreated(
            branch=branch(CHILD, is_default=False, parent_id=new.parent_id or BRANCH, is_protected=new.is_protected),
            endpoints=[an_endpoint(branch_id=CHILD, type=it.type) for it in new.endpoints],
            roles=self.roles,
            databases=[a_database()],
            passwords=self.passwords,
            operations=[operation()],
        )

    async def update(
        self, caller: Caller, project_id: ProjectId, branch_id: BranchId, change: BranchChange
    ) -> tuple[Branch, list[Operation]]:
        self.grants.append(caller.grants)
        self.changes.append(change)
        return await self._changed(branch_id)

    async def delete(
        self, caller: Caller, project_id: ProjectId, branch_id: BranchId, *, hard: bool = False
    ) -> tuple[Branch, list[Operation]]:
        self.hard.append(hard)
        return await self._changed(branch_id)

    async def find_deleted(self, project_id: ProjectId) -> list[Branch]:
        return self.deleted

    async def recover(
        self, caller: Caller, project_id: ProjectId, branch_id: BranchId
    ) -> tuple[Branch, list[Operation]]:
        for row in self.deleted:
            if row.id == branch_id:
                return replace(row, deleted_at=None), [operation()]
        raise NotFoundError(public="branch not found")

    async def restore(
        self, caller: Caller, project_id: ProjectId, branch_id: BranchId, wish: Restore
    ) -> BranchRestored:
        self.grants.append(caller.grants)
        self.restored.append((branch_id, wish))
        it, started = await self._changed(branch_id)
        return BranchRestored(it, None, self.passwords, started)

    async def set_as_default(
        self, caller: Caller, project_id: ProjectId, branch_id: BranchId
    ) -> tuple[Branch, list[Operation]]:
        return await self._changed(branch_id)

    async def _changed(self, branch_id: BranchId) -> tuple[Branch, list[Operation]]:
        if self.error is not None:
            raise self.error
        return await self.get(PROJECT, branch_id), [operation()]


@dataclass
class FakeJwks:
    rows: list[Jwks] = field(default_factory=lambda: [a_key_set()])
    created: list[NewJwks] = field(default_factory=list)

    async def find(self, project_id: ProjectId) -> list[Jwks]:
        return self.rows

    async def create(self, caller: Caller, project_id: ProjectId, new: NewJwks) -> Jwks:
        self.created.append(new)
        return a_key_set()

    async def delete(self, caller: Caller, project_id: ProjectId, jwks_id: uuid.UUID) -> Jwks:
        for row in self.rows:
            if row.id == jwks_id:
                return row
        raise NotFoundError(public="JWKS not found")


@dataclass
class FakeSnapshots:
    rows: list[Snapshot] = field(default_factory=lambda: [a_snapshot()])
    created: list[dict[str, Any]] = field(default_factory=list)
    changes: list[SnapshotChange] = field(default_factory=list)
    restored: list[dict[str, Any]] = field(default_factory=list)
    finalized: list[tuple[BranchId, str | None]] = field(default_factory=list)
    items: list[ScheduleItem] = field(default_factory=list)
    passwords: list[NewPassword] = field(default_factory=list)

    async def find(self, project_id: ProjectId) -> list[Snapshot]:
        return self.rows

    async def create(
        self,
        caller: Caller,
        project_id: ProjectId,
        branch_id: BranchId,
        *,
        name: str | None,
        point: Point,
        expires_at: datetime | None,
    ) -> tuple[Snapshot, list[Operation]]:
        self.created.append({"branch_id": branch_id, "name": name, "point": point, "expires_at": expires_at})
        return a_snapshot(), [operation()]

    async def update(
        self, caller: Caller, project_id: ProjectId, snapshot_id: SnapshotId, change: SnapshotChange
    ) -> Snapshot:
        self.changes.append(change)
        return self._found(snapshot_id)

    async def delete(
        self, caller: Caller, project_id: ProjectId, snapshot_id: SnapshotId
    ) -> tuple[Snapshot, list[Operation]]:
        return self._found(snapshot_id), [operation()]

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
        self._found(snapshot_id)
        self.restored.append({"name": name, "target_id": target_id, "is_final": is_final})
        made = branch(CHILD, is_default=False, parent_id=BRANCH)
        return SnapshotRestored(made, [an_endpoint(branch_id=CHILD)], self.passwords, [operation()])

    async def finalize(
        self, caller: Caller, project_id: ProjectId, branch_id: BranchId, *, name: str | None
    ) -> tuple[Branch, list[Operation]]:
        self.finalized.append((branch_id, name))
        return branch(branch_id), [operation()]

    async def schedule(self, project_id: ProjectId, branch_id: BranchId) -> list[ScheduleItem]:
        return self.items

    async def set_schedule(
        self, caller: Caller, project_id: ProjectId, branch_id: BranchId, items: list[ScheduleItem]
    ) -> list[ScheduleItem]:
        self.items = items
        return items

    def _found(self, snapshot_id: SnapshotId) -> Snapshot:
        for row in self.rows:
            if row.id == snapshot_id:
                return row
        raise NotFoundError(public="snapshot not found")


ORDERS = Table(
    schema="public",
    name="orders",
    columns=[
        Column(name="id", type="bigint", nullable=False, generated=False),
        Column(name="customer", type="integer", nullable=True, generated=False),
    ],
    constraints=[
        Constraint(type="primary_key", columns=["id"], name="orders_pkey", referenced_table=None),
        Constraint(
            type="foreign_key",
            columns=["customer"],
            name="orders_customer_fkey",
            referenced_table=Referenced(schema="public", table="customers", columns=["id"]),
        ),
    ],
)


@dataclass
class FakeSchemas:
    texts: dict[str, str] = field(default_factory=lambda: {BRANCH: "a\nb\n", CHILD: "a\nb\nc\n"})
    asked: list[tuple[BranchId, str, Point]] = field(default_factory=list)

    async def sql(
        self, caller: Caller, project_id: ProjectId, branch_id: BranchId, database: str, point: Point = HEAD
    ) -> str:
        self.asked.append((branch_id, database, point))
        return self.texts[branch_id]

    async def tables(
        self, caller: Caller, project_id: ProjectId, branch_id: BranchId, database: str, point: Point = HEAD
    ) -> list[Table]:
        self.asked.append((branch_id, database, point))
        return [ORDERS] if branch_id == BRANCH else []


@dataclass
class FakeEndpoints:
    rows: list[Endpoint] = field(default_factory=lambda: [an_endpoint()])
    created: list[NewEndpoint] = field(default_factory=list)
    changes: list[EndpointChange] = field(default_factory=list)

    async def find(self, project_id: ProjectId, branch_id: BranchId | None = None) -> list[Endpoint]:
        return self.rows

    async def get(self, project_id: ProjectId, endpoint_id: EndpointId) -> Endpoint:
        for row in self.rows:
            if row.id == endpoint_id:
                return row
        raise NotFoundError(public="endpoint not found")

    async def create(self, caller: Caller, project_id: ProjectId, new: NewEndpoint) -> tuple[Endpoint, list[Operation]]:
        self.created.append(new)
        return an_endpoint(), [operation()]

    async def update(
        self, caller: Caller, project_id: ProjectId, endpoint_id: EndpointId, change: EndpointChange
    ) -> tuple[Endpoint, list[Operation]]:
        self.changes.append(change)
        return await self._changed(endpoint_id)

    async def delete(
        self, caller: Caller, project_id: ProjectId, endpoint_id: EndpointId
    ) -> tuple[Endpoint, list[Operation]]:
        return await self._changed(endpoint_id)

    async def start(
        self, caller: Caller, project_id: ProjectId, endpoint_id: EndpointId
    ) -> tuple[Endpoint, list[Operation]]:
        return await self._changed(endpoint_id)

    async def suspend(
        self, caller: Caller, project_id: ProjectId, endpoint_id: EndpointId
    ) -> tuple[Endpoint, list[Operation]]:
        return await self._changed(endpoint_id)

    async def restart(
        self, caller: Caller, project_id: ProjectId, endpoint_id: EndpointId
    ) -> tuple[Endpoint, list[Operation]]:
        return await self._changed(endpoint_id)

    async def _changed(self, endpoint_id: EndpointId) -> tuple[Endpoint, list[Operation]]:
        return await self.get(PROJECT, endpoint_id), [operation()]


@dataclass
class FakeRoles:
    names: set[str] = field(default_factory=lambda: {"neondb_owner", "a/b"})
    stored_password: str | None = None

    async def find(self, project_id: ProjectId, branch_id: BranchId) -> list[Role]:
        return [a_role(name) for name in sorted(self.names)]

    async def find_all(self, project_id: ProjectId) -> list[Role]:
        return await self.find(project_id, BRANCH)

    async def get(self, project_id: ProjectId, branch_id: BranchId, name: str) -> Role:
        if name not in self.names:
            raise NotFoundError(public="role not found")
        return a_role(name)

    async def create(
        self, caller: Caller, project_id: ProjectId, branch_id: BranchId, name: str, *, can_login: bool
    ) -> RoleChanged:
        if name in self.names:
            raise ConflictError(public="role already exists")
        self.names.add(name)
        return RoleChanged(a_role(name), Secret(PASSWORD) if can_login else None, [operation()])

    async def delete(
        self, caller: Caller, project_id: ProjectId, branch_id: BranchId, name: str
    ) -> tuple[Role, list[Operation]]:
        role = await self.get(project_id, branch_id, name)
        self.names.discard(name)
        return role, [operation()]

    async def reset_password(
        self, caller: Caller, project_id: ProjectId, branch_id: BranchId, name: str
    ) -> RoleChanged:
        return RoleChanged(await self.get(project_id, branch_id, name), Secret(PASSWORD), [operation()])

    async def reveal_password(
        self, caller: Caller, project_id: ProjectId, branch_id: BranchId, name: str
    ) -> Secret[str]:
        if self.stored_password is None:
            raise PreconditionError(public="Storing passwords is disabled")
        return Secret(self.stored_password)


@dataclass
class FakeDatabases:
    names: set[str] = field(default_factory=lambda: {"neondb"})

    async def find(self, project_id: ProjectId, branch_id: BranchId) -> list[DatabaseInfo]:
        return [a_database(name) for name in sorted(self.names)]

    async def get(self, project_id: ProjectId, branch_id: BranchId, name: str) -> DatabaseInfo:
        if name not in self.names:
            raise NotFoundError(public="database not found")
        return a_database(name)

    async def create(
        self, caller: Caller, project_id: ProjectId, branch_id: BranchId, name: str, owner_name: str
    ) -> tuple[DatabaseInfo, list[Operation]]:
        return a_database(name, owner_name), [operation()]

    async def update(
        self,
        caller: Caller,
        project_id: ProjectId,
        branch_id: BranchId,
        name: str,
        *,
        new_name: str | None,
        owner_name: str | None,
    ) -> tuple[DatabaseInfo, list[Operation]]:
        await self.get(project_id, branch_id, name)
        return a_database(new_name or name, owner_name or "neondb_owner"), [operation()]

    async def delete(
        self, caller: Caller, project_id: ProjectId, branch_id: BranchId, name: str
    ) -> tuple[DatabaseInfo, list[Operation]]:
        return await self.get(project_id, branch_id, name), [operation()]


@dataclass
class FakeStatements:
    now: AuditLevel = AuditLevel.BASE

    async def level(self, project_id: ProjectId) -> AuditLevel:
        return self.now

    async def set_level(self, caller: Caller, project_id: ProjectId, level: AuditLevel) -> AuditLevel:
        if level.is_lower_than(self.now):
            caller.require(Permission.AUDIT_LEVEL_LOWER)
        self.now = level
        return level

    async def segments(self, caller: Caller, project_id: ProjectId, *, before: int | None, limit: int) -> list[Segment]:
        return [Segment(3, [], 0)] if before is None else []


ERASURE: Final = UUID(int=9)


class FakeErasures:
    it = Erasure(
        id=ERASURE,
        project_id=PROJECT,
        up_to=None,
        reason="asked for by whom it is about",
        asked_by="ada@example.com",
        asked_at=NOW,
        agreed_by=None,
        agreed_at=None,
        segments=0,
        statements=0,
        remaining=0,
    )

    async def find(self, project_id: ProjectId) -> list[Erasure]:
        return [self.it]

    async def ask(self, caller: Caller, project_id: ProjectId, reason: str, up_to: datetime | None) -> Erasure:
        return replace(self.it, reason=reason, up_to=up_to)

    async def agree(self, caller: Caller, project_id: ProjectId, erasure_id: UUID) -> Erasure:
        if erasure_id != self.it.id:
            raise NotFoundError(public="erasure not found")
        return replace(self.it, agreed_by="bob@example.com", agreed_at=NOW, segments=3, statements=40)


FORGETTING: Final = UUID(int=12)


class FakeForgettings:
    it = Forgetting(
        id=FORGETTING,
        project_id=PROJECT,
        kind=SubjectKind.ROLE,
        subject="app",
        reason="asked for by whom it is about",
        asked_by="ada@example.com",
        asked_at=NOW,
        agreed_by=None,
        agreed_at=None,
        up_to=41,
        events=3,
        remaining=0,
    )

    async def find(self, project_id: ProjectId | None) -> list[Forgetting]:
        return [replace(self.it, project_id=project_id)]

    async def ask(
        self, caller: Caller, project_id: ProjectId | None, kind: SubjectKind, subject: str, reason: str
    ) -> Forgetting:
        return replace(self.it, project_id=project_id, kind=kind, subject=subject, reason=reason)

    async def agree(self, caller: Caller, project_id: ProjectId | None, forgetting_id: UUID) -> Forgetting:
        if forgetting_id != self.it.id:
            raise NotFoundError(public="forgetting not found")
        return replace(self.it, project_id=project_id, subject=None, agreed_by="bob@example.com", agreed_at=NOW)


HOLD: Final = UUID(int=10)


class FakeHolds:
    it = Hold(
        id=HOLD,
        project_id=PROJECT,
        reason="matter 17",
        placed_by="ada@example.com",
        placed_at=NOW,
        lift_reason=None,
        lift_asked_by=None,
        lift_asked_at=None,
        lifted_by=None,
        lifted_at=None,
    )

    async def find(self, project_id: ProjectId) -> list[Hold]:
        return [self.it]

    async def place(self, caller: Caller, project_id: ProjectId, reason: str) -> Hold:
        return replace(self.it, reason=reason)

    async def ask_to_lift(self, caller: Caller, project_id: ProjectId, hold_id: UUID, reason: str) -> Hold:
        self._find(hold_id)
        return replace(self.it, lift_reason=reason, lift_asked_by="ada@example.com", lift_asked_at=NOW)

    async def lift(self, caller: Caller, project_id: ProjectId, hold_id: UUID) -> Hold:
        self._find(hold_id)
        return replace(self.it, lifted_by="bob@example.com", lifted_at=NOW)

    def _find(self, hold_id: UUID) -> None:
        if hold_id != self.it.id:
            raise NotFoundError(public="hold not found")


class FakeBackups:
    """Of one branch, a base."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, BranchId | None]] = []
        self.wishes: list[RestoreWish] = []
        self.left_out: LeftOut | None = None

    async def find(self, project_id: ProjectId) -> BackupsFound:
        base = Base(
            timeline_id=TimelineId("a" * 32),
            name="000000000200A028",
            is_protected=False,
            start_lsn="0/2000028",
            stop_lsn="0/200A028",
            moment=NOW - timedelta(hours=1),
            bytes=25_000_000,
            new_bytes=3_000_000,
            chunks=30,
            sent_at=NOW - timedelta(hours=1),
            locked_until=NOW + timedelta(days=37),
        )
        progress = Progress(
            timeline_id=base.timeline_id,
            since=base.moment,
            end_lsn="0/3000000",
            moment=NOW - timedelta(seconds=7),
            looked_at=NOW - timedelta(seconds=7),
        )
        branch = BranchBackups(
            branch_id=BRANCH,
            name="main",
            timeline_id=base.timeline_id,
            deleted_at=None,
            is_protected=False,
            progress=progress,
            bases=[base],
        )
        return BackupsFound(has_store=True, left_out=self.left_out, branches=[branch])

    async def take(self, caller: Caller, project_id: ProjectId, branch_id: BranchId | None) -> BackupsFound:
        self.asked.append(("take", branch_id))
        return await self.find(project_id)

    async def check(
        self, caller: Caller, project_id: ProjectId, branch_id: BranchId | None, *, by_restoring: bool
    ) -> BackupsFound:
        self.asked.append(("try" if by_restoring else "check", branch_id))
        return await self.find(project_id)

    async def restore(self, caller: Caller, project_id: ProjectId, wish: RestoreWish) -> SnapshotRestored:
        self.wishes.append(wish)
        made = branch(CHILD, is_default=False, parent_id=BRANCH)
        return SnapshotRestored(made, [an_endpoint(branch_id=CHILD)], [], [operation()])

    async def restore_project(self, caller: Caller, project_id: ProjectId) -> list[Operation]:
        return [operation()]

    async def leave_out(self, caller: Caller, project_id: ProjectId, reason: str) -> BackupsFound:
        self.left_out = LeftOut(reason=reason, asked_by=caller.principal.actor, asked_at=NOW)
        return await self.find(project_id)

    async def take_in(self, caller: Caller, project_id: ProjectId) -> BackupsFound:
        self.left_out = None
        return await self.find(project_id)


CONSENT: Final = UUID(int=14)


class FakeConsents:
    it = Consent(
        id=CONSENT,
        project_id=PROJECT,
        branch_id=BRANCH,
        act=Act.COPY,
        reason="INC-7",
        asked_by="ada@example.com",
        asked_as="user:1",
        asked_at=NOW,
        asker_id=UUID(int=1),
        agreed_by=None,
        agreed_at=None,
        used_for=None,
        used_at=None,
        rules=[],
        ended_by=None,
        ended_at=None,
    )

    async def policy(self, org_id: OrgId) -> ConsentPolicy:
        return ConsentPolicy(is_required=False)

    async def require(self, caller: Caller, org_id: OrgId, *, is_required: bool) -> ConsentPolicy:
        return ConsentPolicy(is_required=is_required)

    async def find(self, project_id: ProjectId, branch_id: BranchId) -> list[Consent]:
        return [self.it]

    async def ask(
        self,
        caller: Caller,
        project_id: ProjectId,
        branch_id: BranchId,
        act: Act,
        reason: str,
        *,
        rules: Sequence[MaskingRule] = (),
    ) -> Consent:
        caller.require(PERMISSIONS[act])
        return replace(self.it, act=act, reason=reason, rules=list(rules))

    async def agree(self, caller: Caller, project_id: ProjectId, branch_id: BranchId, consent_id: UUID) -> Consent:
        caller.require(PERMISSIONS[self.it.act])
        return replace(self.it, agreed_by="bob@example.com", agreed_at=NOW)

    async def end(self, caller: Caller, project_id: ProjectId, branch_id: BranchId, consent_id: UUID) -> Consent:
        caller.require(PERMISSIONS[self.it.act])
        return replace(self.it, ended_by="bob@example.com", ended_at=NOW)


RETENTION: Final = UUID(int=11)


class FakeRetentions:
    it = Retention(
        id=RETENTION,
        org_id=ORG,
        what=Class.STATEMENTS,
        days=400,
        reason="records policy 3",
        asked_by="ada@example.com",
        asked_at=NOW,
        agreed_by=None,
        holds_from=None,
        state="asked",
    )

    async def find(self, org_id: OrgId | None) -> list[Retention]:
        return [self.it]

    async def preview(self, org_id: OrgId, what: Class, days: int | None) -> list[Old]:
        return [Old(what, PROJECT, "statement_key/1", 40, NOW, NOW, is_held=False)]

    async def preview_events(self, days: int | None) -> Prunable:
        return Prunable(0, 512, "age", None)

    async def set(self, caller: Caller, org_id: OrgId | None, what: Class, days: int | None, reason: str) -> Retention:
        return replace(self.it, org_id=org_id, what=what, days=days, reason=reason)

    async def agree(self, caller: Caller, org_id: OrgId | None, retention_id: UUID) -> Retention:
        if retention_id != self.it.id:
            raise NotFoundError(public="retention not found")
        return replace(self.it, agreed_by="bob@example.com", holds_from=NOW, state="agreed")


@dataclass
class FakeOperations:
    rows: list[Operation] = field(default_factory=lambda: [operation()])

    async def find(self, project_id: ProjectId, page: Page) -> list[Operation]:
        return _after(self.rows, page)

    async def get(self, project_id: ProjectId, operation_id: OperationId) -> Operation:
        for row in self.rows:
            if row.id == operation_id:
                return row
        raise NotFoundError(public="operation not found")


class World:
    """Everything behind the API, and clients of it. `answers` may be given to test with the real table."""

    def __init__(
        self, *, answers: Answers | None = None, decider: Decider | None = None, postgres_port: int = 5432
    ) -> None:
        self.projects = FakeProjects()
        self.branches = FakeBranches()
        self.snapshots = FakeSnapshots()
        self.backups = FakeBackups()
        self.jwks = FakeJwks()
        self.schemas = FakeSchemas()
        self.endpoints = FakeEndpoints()
        self.roles = FakeRoles()
        self.databases = FakeDatabases()
        self.operations = FakeOperations()
        self.organizations = FakeOrganizations()
        self.statements = FakeStatements()
        self.erasures = FakeErasures()
        self.forgettings = FakeForgettings()
        self.holds = FakeHolds()
        self.retentions = FakeRetentions()
        self.offers = FakeOffers()
        self.consumption = FakeConsumption()
        self.issuers = FakeIssuers()
        self.scim = FakeScim()
        self.logins = FakeLogins()
        self.passkeys = FakePasskeys()
        self.proofs = FakeProofs()
        self.egress = FakeEgress()
        self.tags = FakeTags()
        self.maskings = FakeMaskings()
        self.consents = FakeConsents()
        self.access = FakeAccess()
        self.reviews = FakeReviews()
        self.service_accounts = FakeServiceAccounts()
        self.keys = FakeKeys()
        self.decider = FakeDecider()
        self.audit = FakeAudit()
        self.answers = answers or MemoryAnswers()
        self.clock = FakeClock(NOW)
        self.settings = Settings(
            state_dir=str(Path("/nonexistent")), domain="db.test", listen_postgres=Address("", postgres_port)
        )
        self.services = Services(
            control=Control(
                projects=self.projects,
                branches=self.branches,
                snapshots=self.snapshots,
                backups=self.backups,
                schemas=self.schemas,
                endpoints=self.endpoints,
                roles=self.roles,
                databases=self.databases,
                operations=self.operations,
                organizations=self.organizations,
                offers=self.offers,
                jwks=self.jwks,
                statements=self.statements,
                erasures=self.erasures,
                forgettings=self.forgettings,
                holds=self.holds,
                retentions=self.retentions,
                egress=self.egress,
                tags=self.tags,
                maskings=self.maskings,
                consents=self.consents,
                access=self.access,
                reviews=self.reviews,
                service_accounts=self.service_accounts,
                issuers=self.issuers,
                logins=self.logins,
                scim=self.scim,
                passkeys=self.passkeys,
                proofs=self.proofs,
                incidents=FakeIncidents(),
                consumption=self.consumption,
                reencryptions=FakeReencryptions(),
            ),
            api_keys=self.keys,
            decider=decider or self.decider,
            audit=self.audit,
            volume_keys=FakeVolumeKeys(),
            findings=FakeFindings(),
            answers=self.answers,
            settings=self.settings,
            clock=self.clock,
            version="0.1.0",
            is_ready=self._is_ready,
        )
        self.app: Starlette = create_app(self.services)

    def client(self, key: str | None = ADA_KEY, *, address: str = "192.0.2.1") -> httpx.AsyncClient:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        transport = httpx.ASGITransport(self.app, client=(address, 40000))
        return httpx.AsyncClient(transport=transport, base_url="https://api.test/api/v2", headers=headers)

    async def refused(self) -> list[Event]:
        """The refused calls so far, as the log has them."""
        await self.app.state.boundary.refusals.flush()
        return [event for event in self.audit.events if event.action == "api.refused"]

    def later(self, seconds: float) -> None:
        self.clock.advance(timedelta(seconds=seconds))

    async def _is_ready(self) -> bool:
        return True

"""Organizations, their members, and who was granted a project."""

from typing import Annotated, Final, Literal

import msgspec

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
from cloister.control.organizations.standing import Source, Standing, StandingChanged
from cloister.edge.api.wire.accounts import PLAN
from cloister.edge.api.wire.common import Moment, Name256, NextPage, Request, Wire, moment

Email = Annotated[
    str, msgspec.Meta(min_length=3, max_length=254, pattern=r"^[^@\s]+@[^@\s]+$", extra_json_schema={"format": "email"})
]
RoleBody = Literal["admin", "member", "editor", "viewer", "collaborator"]
"""`member` is Neon's older word for an editor."""


class OrganizationView(Wire, frozen=True, kw_only=True):
    id: str
    name: str
    handle: str
    plan: str
    created_at: Moment
    managed_by: str
    updated_at: Moment


class OrganizationList(Wire, frozen=True, kw_only=True):
    organizations: list[OrganizationView]


class MemberView(Wire, frozen=True, kw_only=True):
    id: str
    user_id: str
    org_id: str
    role: str
    joined_at: Moment
    by_groups_of: str | None = None
    """Ours: the issuer whose groups give the role; absent where somebody gave it."""


class MemberUser(Wire, frozen=True, kw_only=True):
    email: str


class MemberWithUser(Wire, frozen=True, kw_only=True):
    member: MemberView
    user: MemberUser


class MemberList(Wire, frozen=True, kw_only=True):
    members: list[MemberWithUser]
    pagination: NextPage


class UpdateMember(Request, frozen=True, kw_only=True):
    role: RoleBody


class InvitationBody(Request, frozen=True, kw_only=True):
    email: Email
    role: RoleBody


class CreateInvitations(Request, frozen=True, kw_only=True):
    invitations: Annotated[list[InvitationBody], msgspec.Meta(min_length=1, max_length=100)]


class InvitationView(Wire, frozen=True, kw_only=True):
    id: str
    email: str
    org_id: str
    invited_by: str
    invited_at: Moment
    role: str


class InvitationList(Wire, frozen=True, kw_only=True):
    invitations: list[InvitationView]


class Empty(Wire, frozen=True, kw_only=True):
    """Neon's EmptyResponse."""


class TransferProjects(Request, frozen=True, kw_only=True):
    destination_org_id: str
    project_ids: Annotated[list[str], msgspec.Meta(min_length=1, max_length=400)]


class CreateTransferRequest(Request, frozen=True, kw_only=True):
    ttl_seconds: Annotated[int, msgspec.Meta(ge=1, le=365 * 86_400)] | None = None
    """How long it can be accepted; a day, if it is not said."""


class TransferRequest(Wire, frozen=True, kw_only=True):
    id: str
    project_id: str
    created_at: Moment
    expires_at: Moment


class AcceptTransferRequest(Request, frozen=True, kw_only=True):
    org_id: str | None = None


class ProjectPermission(Wire, frozen=True, kw_only=True):
    id: str
    granted_to_email: str
    granted_at: Moment
    revoked_at: Moment | None = None
    role: str
    """Ours."""


class ProjectPermissionList(Wire, frozen=True, kw_only=True):
    project_permissions: list[ProjectPermission]


class GrantPermission(Request, frozen=True, kw_only=True):
    email: Email
    role: ProjectRole = "editor"
    """Ours. Neon's request has none: whom a project is shared with may do everything but delete it."""


Level = Literal["VIEWER", "EDITOR", "ADMIN"]


class ProjectMember(Wire, frozen=True, kw_only=True):
    member_id: str
    user_id: str
    email: str
    name: str
    org_role: str
    project_role: ProjectRole | None = None
    org_default_project_permission: Level | None = None
    explicit_project_permission: Level | None = None
    effective_project_permission: Level | None = None
    grant_source: Source


class ProjectMembers(Wire, frozen=True, kw_only=True):
    project_members: list[ProjectMember]
    pagination: NextPage


class SetProjectMemberRole(Request, frozen=True, kw_only=True):
    role: ProjectRole


class ProjectMemberRole(Wire, frozen=True, kw_only=True):
    project_id: str
    member_id: str
    user_id: str
    email: str
    name: str
    org_role: str
    project_role: ProjectRole | None = None
    org_default_project_permission: Level | None = None
    explicit_project_permission: Level | None = None
    effective_project_permission: Level | None = None
    credential_rotation_recommended: bool = False
    org_api_key_rotation_recommended: bool = False


class CreateOrganization(Request, frozen=True, kw_only=True):
    name: Name256


class CreateAccount(Request, frozen=True, kw_only=True):
    email: Email
    name: Name256


class AccountCreated(Wire, frozen=True, kw_only=True):
    id: str
    email: str
    name: str
    created_at: Moment
    key: str
    """Shown once."""


def organization(it: Organization) -> OrganizationView:
    return OrganizationView(
        id=it.id,
        name=it.name,
        handle=it.id,
        plan=PLAN,
        created_at=moment(it.created_at),
        managed_by="console",
        updated_at=moment(it.created_at),
    )


def member(it: Member, org_id: str) -> MemberView:
    account_id = str(it.account_id)
    return MemberView(
        id=account_id,
        user_id=account_id,
        org_id=org_id,
        role=it.role,
        joined_at=moment(it.joined_at),
        by_groups_of=it.issuer or None,
    )


def member_with_user(it: Member, org_id: str) -> MemberWithUser:
    return MemberWithUser(member=member(it, org_id), user=MemberUser(email=it.email))


def role_of(body: RoleBody) -> OrganizationRole:
    return "editor" if body == "member" else body


def invitation(body: InvitationBody) -> Invitation:
    return Invitation(body.email, role_of(body.role))


def accepted(it: Member, org_id: str, invited_by: str) -> InvitationView:
    return InvitationView(
        id=str(it.account_id),
        email=it.email,
        org_id=org_id,
        invited_by=invited_by,
        invited_at=moment(it.joined_at),
        role=it.role,
    )


def transfer_request(it: Offer) -> TransferRequest:
    return TransferRequest(
        id=str(it.id),
        project_id=it.project_id,
        created_at=moment(it.created_at),
        expires_at=moment(it.expires_at),
    )


def permission(it: ProjectGrant, revoked_at: str | None = None) -> ProjectPermission:
    return ProjectPermission(
        id=str(it.id),
        granted_to_email=it.email,
        granted_at=moment(it.granted_at),
        revoked_at=revoked_at,
        role=it.role,
    )


_LEVELS: Final[dict[ProjectRole | None, Level | None]] = {
    "admin": "ADMIN",
    "editor": "EDITOR",
    "viewer": "VIEWER",
    None: None,
}


def project_member(it: Standing) -> ProjectMember:
    return ProjectMember(
        member_id=str(it.account_id),
        user_id=str(it.account_id),
        email=it.email,
        name=it.name,
        org_role=it.role,
        project_role=it.granted,
        org_default_project_permission=_LEVELS[it.by_role],
        explicit_project_permission=_LEVELS[it.granted],
        effective_project_permission=_LEVELS[it.effective],
        grant_source=it.source,
    )


def project_member_role(it: StandingChanged, project_id: str) -> ProjectMemberRole:
    standing = it.standing
    return ProjectMemberRole(
        project_id=project_id,
        member_id=str(standing.account_id),
        user_id=str(standing.account_id),
        email=standing.email,
        name=standing.name,
        org_role=standing.role,
        project_role=standing.granted,
        org_default_project_permission=_LEVELS[standing.by_role],
        explicit_project_permission=_LEVELS[standing.granted],
        effective_project_permission=_LEVELS[standing.effective],
        credential_rotation_recommended=it.knows_passwords,
        org_api_key_rotation_recommended=it.made_keys,
    )


def account_created(it: Account, key: str) -> AccountCreated:
    return AccountCreated(id=str(it.id), email=it.email, name=it.name, created_at=moment(it.created_at), key=key)

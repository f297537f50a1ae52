"""Organizations, who is of them, and who was granted one of their projects."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, TypeAlias
from uuid import UUID

from cloister.base.ids import OrgId, ProjectId

ORGANIZATION_ROLES: Final = ("admin", "editor", "viewer", "collaborator")
PROJECT_ROLES: Final = ("admin", "editor", "viewer")

OrganizationRole: TypeAlias = Literal["admin", "editor", "viewer", "collaborator"]
ProjectRole: TypeAlias = Literal["admin", "editor", "viewer"]


@dataclass(frozen=True, slots=True)
class Organization:
    id: OrgId
    name: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Account:
    id: UUID
    email: str
    name: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Member:
    account_id: UUID
    email: str
    role: str
    joined_at: datetime


@dataclass(frozen=True, slots=True)
class Invitation:
    """To somebody who has an account here, so it is accepted as it is made."""

    email: str
    role: OrganizationRole


@dataclass(frozen=True, slots=True)
class ProjectGrant:
    id: UUID
    project_id: ProjectId
    account_id: UUID
    email: str
    role: str
    granted_at: datetime

"""Organizations, who is of them, and who was granted one of their projects."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, TypeAlias
from uuid import UUID

from cloister.base.ids import OrgId, ProjectId

ORGANIZATION_ROLES: Final = ("admin", "editor", "viewer", "collaborator")
PROJECT_ROLES: Final = ("admin", "editor", "viewer")

OrganizationRole: TypeAlias = Literal["admin", "editor", "viewer", "collaborator"]
ProjectRole: TypeAlias = Literal["admin", "editor", "viewer"]

_EMAIL: Final = re.compile(r"[^\s@\x00-\x1f\x7f]{1,64}@[^\s@\x00-\x1f\x7f]{1,189}")


def is_address(email: str) -> bool:
    """Whether it is somebody's is not ours to find out: it is a name to address them by."""
    return _EMAIL.fullmatch(email) is not None


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
    issuer: str = ""
    """Whose groups give it; empty where somebody did."""


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

"""What somebody's role in an organization and what was granted to them come to in one project. Pure.

The policies decide who may what (trust/access/policies). This says the same in Neon's words, for people to look at; a test
holds both to each other.
"""

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias
from uuid import UUID

from cloister.control.organizations.model import PROJECT_ROLES, ProjectRole

Source: TypeAlias = Literal["explicit", "org_role_default", "org_admin_override", "unassigned"]

_BY_ROLE: Final[dict[str, ProjectRole]] = {"admin": "admin", "editor": "editor", "viewer": "viewer"}
"""What a role in the organization makes of somebody in each of its projects: a collaborator, nothing."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Of one member of the project's organization."""

    account_id: UUID
    email: str
    name: str
    role: str
    """In the organization."""
    granted: ProjectRole | None
    """For this project."""

    @property
    def by_role(self) -> ProjectRole | None:
        return _BY_ROLE.get(self.role)

    @property
    def effective(self) -> ProjectRole | None:
        """The larger of the two; None: they do not learn that the project exists."""
        return min(self.by_role, self.granted, key=_weakness)

    @property
    def source(self) -> Source:
        """Where that comes from."""
        if self.effective is None:
            return "unassigned"
        if self.by_role == "admin":
            return "org_admin_override"
        return "org_role_default" if self.effective == self.by_role else "explicit"


def is_less(one: ProjectRole | None, other: ProjectRole | None) -> bool:
    return _weakness(one) > _weakness(other)


def _weakness(role: ProjectRole | None) -> int:
    return len(PROJECT_ROLES) if role is None else PROJECT_ROLES.index(role)


@dataclass(frozen=True, slots=True)
class StandingChanged:
    standing: Standing
    knows_passwords: bool
    """They could read connection strings until now and cannot any more: what they have seen still opens the databases."""
    made_keys: bool
    """They may do less than before, and keys that they made for the project are still good."""

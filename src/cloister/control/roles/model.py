"""What a role and a database are, as the control plane last read them from the branch's catalog."""

from dataclasses import dataclass
from datetime import datetime

from cloister.base import versions
from cloister.base.ids import BranchId
from cloister.base.secret import Secret
from cloister.control.operations.model import Operation


@dataclass(frozen=True, slots=True)
class Role:
    branch_id: BranchId
    name: str
    can_login: bool
    verifier: str | None
    valid_until: datetime | None
    created_at: datetime
    updated_at: datetime

    @property
    def version(self) -> str:
        """One that was dropped and made again is another; one with another password is the same."""
        return versions.version("role", self.branch_id, self.name, self.can_login, self.created_at)


@dataclass(frozen=True, slots=True)
class DatabaseInfo:
    id: int
    branch_id: BranchId
    name: str
    owner_name: str
    created_at: datetime
    updated_at: datetime

    @property
    def version(self) -> str:
        return versions.version("database", self.branch_id, self.id, self.name, self.owner_name)


@dataclass(frozen=True, slots=True)
class RoleChanged:
    role: Role
    password: Secret[str] | None
    """Shown once; None where there is none to show."""
    operations: list[Operation]


RESERVED_ROLE_PREFIXES = ("pg_", "cloister_")
RESERVED_ROLES = frozenset({"neon_superuser", "cloud_admin", "zenith_admin", "public", "none", "postgres"})
# Neon's reserved names and ours: a tenant that owned one could stand where the platform expects itself.
RESERVED_DATABASES = frozenset({"postgres", "template0", "template1"})

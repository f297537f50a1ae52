"""A registered key set."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from cloister.base.ids import BranchId, ProjectId
from cloister.protocol.tokens import VerifyingKey


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJwks:
    """What is asked for."""

    url: str
    provider_name: str
    branch_id: BranchId | None = None
    """None: every branch of the project."""
    audience: str | None = None
    issuer: str | None = None
    role_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Jwks:
    id: UUID
    project_id: ProjectId
    branch_id: BranchId | None
    url: str
    provider_name: str
    audience: str | None
    issuer: str | None
    role_names: tuple[str, ...]
    keys: tuple[VerifyingKey, ...]
    fetched_at: datetime
    """When these were what the issuer published."""
    tried_at: datetime
    """When it was asked last, whatever came of it."""
    created_at: datetime
    updated_at: datetime

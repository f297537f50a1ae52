"""What a rule of egress is."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from cloister.base.egress import Target
from cloister.base.ids import ProjectId


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressRule:
    """One way out of a project's computes."""

    id: UUID
    project_id: ProjectId
    target: Target
    ca_pem: str | None
    """Who signs the certificate at the other end; None: the authorities of the host."""
    created_by: str
    created_at: datetime

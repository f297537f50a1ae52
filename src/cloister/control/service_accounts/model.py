"""A service account, and what is asked for to make or change one."""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal, TypeAlias
from uuid import UUID

from cloister.base.ids import OrgId, ProjectId
from cloister.control.organizations.model import ProjectRole

ServiceRole: TypeAlias = Literal["editor", "viewer", "collaborator"]
"""In the organization: an admin governs, and machines do not."""

KEY_DAYS_DEFAULT: Final = 90
KEY_DAYS_MAX: Final = 366
# A key that was forgotten ends within a year, whoever has found it.

OVERLAP_DEFAULT: Final = timedelta(hours=1)
OVERLAP_MAX: Final = timedelta(days=7)
# To bring a new key to every machine. Until then a key that is being replaced because somebody stole it is good as well.

KEYS_MAX: Final = 4
# Good at one time: one, and those that it has just replaced.
ACCOUNTS_MAX: Final = 200
# Of one organization.
GRANTS_MAX: Final = 100
# Of one; each call reads them. What works in more projects has a role in the organization.

_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,31}")


def is_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Key:
    """One that is good now."""

    id: int
    prefix: str
    expires_at: datetime
    last_used_at: datetime | None
    last_used_from: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceAccount:
    id: UUID
    org_id: OrgId
    name: str
    role: ServiceRole
    grants: dict[ProjectId, ProjectRole]
    owner_id: UUID
    owner: str
    """Their address."""
    created_at: datetime
    orphaned_at: datetime | None
    disabled_at: datetime | None
    keys: tuple[Key, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyWish:
    days: int = KEY_DAYS_DEFAULT
    allowed_ips: tuple[str, ...] | None = None
    """None: of a first key everywhere, of a later one where the one before opens from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewServiceAccount:
    name: str
    role: ServiceRole
    grants: dict[ProjectId, ProjectRole]
    owner: str | None
    """An address; None: whoever asks."""
    key: KeyWish


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """None: as it was. `grants` are all of them from then on."""

    role: ServiceRole | None = None
    grants: dict[ProjectId, ProjectRole] | None = None
    owner: str | None = None
    is_disabled: bool | None = None

"""What groups give, and what of it has to change. Pure."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from cloister.base.ids import OrgId
from cloister.control.organizations.model import ORGANIZATION_ROLES

_RANK: Final = {role: rank for rank, role in enumerate(reversed(ORGANIZATION_ROLES))}


@dataclass(frozen=True, slots=True)
class Held:
    """A role in an organization, and who gave it: an issuer's groups, or, without one, somebody by hand."""

    role: str
    issuer_id: UUID | None


@dataclass(frozen=True, slots=True)
class Changes:
    add: Mapping[OrgId, str]
    update: Mapping[OrgId, tuple[str, str]]
    """Organization → what it was, what it is to be."""
    remove: Mapping[OrgId, str]
    """Organization → what it was."""


def given(mapped: Iterable[tuple[str, OrgId, str]], groups: Collection[str]) -> dict[OrgId, str]:
    """Organization → the largest role that one of the groups gives in it. `mapped`: (group, organization, role)."""
    found: dict[OrgId, str] = {}
    for group, org_id, role in mapped:
        if group in groups and (org_id not in found or _RANK[role] > _RANK[found[org_id]]):
            found[org_id] = role
    return found


def changes(held: Mapping[OrgId, Held], wanted: Mapping[OrgId, str], issuer_id: UUID) -> Changes:
    """What was given by hand, or by another issuer's groups, is not for this issuer's groups to change."""
    own = {org_id: it.role for org_id, it in held.items() if it.issuer_id == issuer_id}
    return Changes(
        add={org_id: role for org_id, role in wanted.items() if org_id not in held},
        update={org_id: (own[org_id], role) for org_id, role in wanted.items() if own.get(org_id, role) != role},
        remove={org_id: role for org_id, role in own.items() if org_id not in wanted},
    )

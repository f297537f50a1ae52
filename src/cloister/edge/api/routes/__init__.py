"""What can be asked: a file per noun. `ROUTES` is everything that is served, collected from the modules."""

from types import ModuleType
from typing import Final

from cloister.edge.api.endpoint import Route
from cloister.edge.api.routes import (
    access,
    accounts,
    advisors,
    backups,
    branches,
    consents,
    consumption,
    databases,
    egress,
    endpoints,
    findings,
    forgetting,
    jwks,
    keys,
    later,
    masking,
    offers,
    operations,
    organizations,
    passkeys,
    people,
    permissions,
    platform,
    projects,
    pruning,
    reviews,
    roles,
    schemas,
    scim,
    service_accounts,
    snapshots,
    statements,
    tags,
)

_NOUNS: Final[tuple[ModuleType, ...]] = (
    projects,
    branches,
    masking,
    consents,
    snapshots,
    backups,
    schemas,
    endpoints,
    roles,
    databases,
    operations,
    accounts,
    organizations,
    offers,
    people,
    scim,
    passkeys,
    service_accounts,
    permissions,
    jwks,
    egress,
    tags,
    access,
    reviews,
    platform,
    keys,
    statements,
    forgetting,
    pruning,
    advisors,
    findings,
    consumption,
    later,
)

ROUTES: Final[tuple[Route, ...]] = tuple(
    value for module in _NOUNS for value in vars(module).values() if isinstance(value, Route)
)

__all__ = ["ROUTES"]

"""The verbs on key sets.

To register one is to let whoever holds its private keys in, as the roles that it names, past every password: it is asked of
a project's admin, and what it may do is written down when it is made: it cannot be changed, only taken away.
"""

import dataclasses
from typing import Final, Protocol
from uuid import UUID, uuid4

from cloister.base.clock import Clock
from cloister.base.database import Database
from cloister.base.errors import BadRequestError, UnprocessableError
from cloister.base.ids import ProjectId, parse_identifier
from cloister.control.branches import store as branches
from cloister.control.calling import Caller
from cloister.control.claims import hold_project
from cloister.control.computes.gateways import Gateways
from cloister.control.jwks import store
from cloister.control.jwks.model import Jwks, NewJwks
from cloister.control.roles.names import is_platform_role
from cloister.protocol.tokens import KeySetError, VerifyingKey, read_key_set
from cloister.trust.audit import Action, Event, record
from cloister.trust.fetching import FetchError, place_of

JWKS_MAX: Final = 20
# Of one project. Every token may have to be held against each.
ROLES_MAX: Final = 10
# Neon's.
ROLES_DEFAULT: Final = ("authenticator", "authenticated", "anonymous")
# Neon's. None of them is made: a project that wants one makes it.


class Fetches(Protocol):
    async def get(self, url: str, *, tenant: str) -> bytes:
        """Raises FetchError."""
        ...


class JwksService:
    def __init__(self, database: Database, fetcher: Fetches, gateways: Gateways, clock: Clock) -> None:
        self._database = database
        self._fetcher = fetcher
        self._gateways = gateways
        self._clock = clock

    async def find(self, project_id: ProjectId) -> list[Jwks]:
        async with self._database.reading() as tx:
            return await store.find(tx, project_id)

    async def create(self, caller: Caller, project_id: ProjectId, new: NewJwks) -> Jwks:
        """Fetches the keys first: a URL that cannot be used is not kept."""
        new = dataclasses.replace(new, role_names=_roles(new.role_names))
        async with self._database.reading() as tx:
            if new.branch_id is not None:
                await branches.get(tx, project_id, new.branch_id)
            if await store.count(tx, project_id) >= JWKS_MAX:
                raise UnprocessableError(public=f"a project may have {JWKS_MAX} JWKS URLs")
        keys = await keys_at(self._fetcher, new.url, project_id)
        now = self._clock.now()
        async with self._database.transaction() as tx:
            await hold_project(tx, project_id)
            if new.branch_id is not None:
                await branches.get(tx, project_id, new.branch_id)
            if await store.count(tx, project_id) >= JWKS_MAX:
                raise UnprocessableError(public=f"a project may have {JWKS_MAX} JWKS URLs")
            jwks = await store.add(
                tx,
                Jwks(
                    id=uuid4(),
                    project_id=project_id,
                    branch_id=new.branch_id,
                    url=new.url,
                    provider_name=new.provider_name,
                    audience=new.audience,
                    issuer=new.issuer,
                    role_names=new.role_names,
                    keys=tuple(keys),
                    fetched_at=now,
                    tried_at=now,
                    created_at=now,
                    updated_at=now,
                ),
                created_by=caller.principal.account_id,
            )
            await record(tx, _event(Action.JWKS_CREATE, caller, jwks))
        self._gateways.invalidate(project_id=project_id)
        return jwks

    async def delete(self, caller: Caller, project_id: ProjectId, jwks_id: UUID) -> Jwks:
        """From the next request on, none of its tokens opens anything."""
        async with self._database.transaction() as tx:
            await hold_project(tx, project_id)
            jwks = await store.delete(tx, project_id, jwks_id)
            await record(tx, _event(Action.JWKS_DELETE, caller, jwks))
        self._gateways.invalidate(project_id=project_id)
        return jwks


async def keys_at(fetcher: Fetches, url: str, project_id: ProjectId) -> list[VerifyingKey]:
    """Raises BadRequestError with a sentence for whoever gave the URL."""
    try:
        place_of(url)
        return read_key_set(await fetcher.get(url, tenant=project_id))
    except (FetchError, KeySetError) as error:
        raise BadRequestError(f"{url[:200]!r}: {error}", public=f"jwks_url cannot be used: {error}") from None


def _roles(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        parse_identifier("role name", name)
        if is_platform_role(name):
            raise BadRequestError(public=f"no token opens the role {name!r}")
    return tuple(dict.fromkeys(names)) or ROLES_DEFAULT


def _event(action: Action, caller: Caller, jwks: Jwks) -> Event:
    return caller.event(
        action,
        project_id=jwks.project_id,
        branch_id=jwks.branch_id or "",
        resource=str(jwks.id),
        details={
            "jwks_url": jwks.url,
            "provider_name": jwks.provider_name,
            "jwt_audience": jwks.audience or "",
            "jwt_issuer": jwks.issuer or "",
            "role_names": ", ".join(jwks.role_names),
            "keys": ", ".join(key.kid for key in jwks.keys)[:1000],
        },
    )

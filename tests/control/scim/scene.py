"""An organization whose directory speaks: the real application over a real control database, and people who log in at an issuer.

Eve is an editor by her group `dba`; Ada is the admin of both organizations, by hand.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final
from uuid import UUID

import httpx

from cloister.app.guards import StoredAudit
from cloister.base.ids import OrgId
from cloister.base.secret import new_api_key
from cloister.control.calling import Caller
from cloister.control.scim.service import ScimService
from cloister.edge.api.application import create_app
from cloister.protocol.scim.paths import PATCH
from cloister.trust.access.decisions import Decider
from cloister.trust.access.keys import NewKey, insert_key
from tests.control.people.company import CALLER, HERE, THERE, Company
from tests.edge.api.world import FakeNotary, World

USER: Final = "urn:ietf:params:scim:schemas:core:2.0:User"
GROUP: Final = "urn:ietf:params:scim:schemas:core:2.0:Group"
DECIDER: Final = Decider()


class Scene:
    def __init__(self, company: Company) -> None:
        self.company = company
        self.scim = ScimService(company.database, company.clock)
        self.world = World(decider=DECIDER)
        services = replace(
            self.world.services,
            api_keys=company.api_keys,
            control=replace(self.world.services.control, scim=self.scim),
            audit=StoredAudit(company.database, FakeNotary()),
            clock=company.clock,
        )
        self.app = create_app(services)
        self.tokens: dict[OrgId, str] = {}

    async def begin(self) -> None:
        for org_id in (HERE, THERE):
            self.tokens[org_id] = (await self.scim.enable(CALLER, org_id))[1].reveal()

    def client(
        self, token: str | None = None, *, base: str = "/scim/v2", address: str = "192.0.2.9"
    ) -> httpx.AsyncClient:
        """The first organization's directory, unless a token is given."""
        headers = {"Authorization": f"Bearer {token or self.tokens[HERE]}"}
        transport = httpx.ASGITransport(self.app, client=(address, 40000))
        return httpx.AsyncClient(transport=transport, base_url=f"https://api.test{base}", headers=headers)

    async def ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, token: str | None = None
    ) -> httpx.Response:
        async with self.client(token) as client:
            return await client.request(method, path, json=body)

    async def create(self, user_name: str = "eve@example.com", *, token: str | None = None, **more: Any) -> str:
        answer = await self.ask("POST", "/Users", {"schemas": [USER], "userName": user_name, **more}, token=token)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    async def patch(self, path: str, *operations: Mapping[str, Any], token: str | None = None) -> httpx.Response:
        return await self.ask("PATCH", path, {"schemas": [PATCH], "Operations": list(operations)}, token=token)

    async def set_active(self, user_id: str, is_active: bool, *, token: str | None = None) -> httpx.Response:
        """As Okta says it."""
        return await self.patch(f"/Users/{user_id}", {"op": "replace", "value": {"active": is_active}}, token=token)

    async def personal_key(self, account_id: UUID) -> str:
        key = new_api_key()
        async with self.company.database.transaction() as tx:
            await insert_key(tx, account_id, NewKey(name="of theirs"), key, self.company.clock.now())
        return key.reveal()

    async def add_member(self, email: str, role: str = "editor", org_id: OrgId = HERE, *, number: int) -> UUID:
        """By hand."""
        account_id = UUID(int=number)
        async with self.company.database.transaction() as tx:
            await tx.execute(
                "INSERT INTO account (id, email, name) VALUES ($1, $2, $2) ON CONFLICT DO NOTHING", account_id, email
            )
            await tx.execute(
                "INSERT INTO membership (org_id, account_id, role) VALUES ($1, $2, $3)", org_id, account_id, role
            )
        return account_id

    async def memberships(self, key: str) -> Mapping[str, str]:
        """What a key opens. Raises UnauthenticatedError."""
        return (await self.company.api_keys.authenticate(key, "192.0.2.2")).memberships


def caller_of(account_id: UUID) -> Caller:
    return replace(CALLER, principal=replace(CALLER.principal, account_id=account_id))

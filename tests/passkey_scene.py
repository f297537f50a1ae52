"""The front door with real keys, the shipped policies and the real proofs, over a control database: what tests of passkeys share.

What is behind the door is `world.py`'s. Ada has a passkey and two keys, Eve a passkey, Bob none; all are admins and operators.
"""

import base64
import json
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Final
from uuid import UUID, uuid4

import httpx

from cloister.base.database import Database
from cloister.base.secret import Secret, new_api_key
from cloister.control.calling import Caller
from cloister.control.passkeys.proofs import Proofs
from cloister.control.passkeys.service import PasskeyService
from cloister.edge.api.acts import ACTS
from cloister.edge.api.application import create_app
from cloister.edge.api.endpoint import Route
from cloister.edge.api.routes import ROUTES
from cloister.protocol.webauthn import Assertion, Registration
from cloister.trust.access.decisions import Decider
from cloister.trust.access.keys import ApiKeys, NewKey, insert_key
from cloister.trust.access.principals import Principal
from tests.attacks.test_http_confused_deputy import BODIES, path_of
from tests.audited import fields_of
from tests.edge.api.world import ADA, ORG, OTHER_ORG, World
from tests.soft_authenticator import RP_ID, SoftAuthenticator

EVE, BOB = UUID(int=3), UUID(int=4)
ACT_ROUTES: Final = [route for route in ROUTES if route.name in ACTS]
ACT_BODIES: Final = BODIES | {
    "update_branch": {"branch": {"protected": False}},
    "disable_account": {"email": "ada@example.com", "disabled": False},
}
"""Where the body decides: one that makes it an act."""


def b64(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def header(said: Assertion) -> dict[str, str]:
    """As a client sends it."""
    response = {
        "clientDataJSON": said.client_data,
        "authenticatorData": said.authenticator_data,
        "signature": said.signature,
    }
    credential = {"id": b64(said.credential_id), "response": {name: b64(value) for name, value in response.items()}}
    return {"Cloister-Assertion": b64(json.dumps(credential).encode())}


def registration(said: Registration) -> dict[str, Any]:
    return {"response": {"clientDataJSON": b64(said.client_data), "attestationObject": b64(said.attestation_object)}}


def challenge_in(answer: httpx.Response) -> bytes:
    assert answer.status_code == 428, answer.text
    return base64.urlsafe_b64decode(answer.json()["passkey"]["get"]["challenge"] + "=")


@dataclass
class Scene:
    database: Database
    world: World = field(default_factory=World)
    ada: SoftAuthenticator = field(default_factory=SoftAuthenticator)
    eve: SoftAuthenticator = field(default_factory=SoftAuthenticator)

    async def begin(self) -> "Scene":
        clock = self.world.clock
        self.service = PasskeyService(self.database, RP_ID, clock)
        self.keys = ApiKeys(self.database, clock)
        self.world.app = create_app(
            replace(
                self.world.services,
                api_keys=self.keys,
                decider=Decider(),
                control=replace(self.world.services.control, proofs=Proofs(self.database, RP_ID, clock)),
            )
        )
        async with self.database.transaction() as tx:
            for org_id in (ORG, OTHER_ORG):
                await tx.execute("INSERT INTO organization (id, name) VALUES ($1, 'Example')", org_id)
            for account_id, name in ((ADA.account_id, "ada"), (EVE, "eve"), (BOB, "bob")):
                await tx.execute(
                    "INSERT INTO account (id, email, name, is_operator) VALUES ($1, $2, $3, true)",
                    account_id,
                    f"{name}@example.com",
                    name,
                )
                for org_id in (ORG, OTHER_ORG):
                    await tx.execute(
                        "INSERT INTO membership (org_id, account_id, role) VALUES ($1, $2, 'admin')", org_id, account_id
                    )
        self.adas_key, self.adas_other_key = await self.key(ADA.account_id), await self.key(ADA.account_id)
        self.eves_key, self.bobs_key = await self.key(EVE), await self.key(BOB)
        await self.register(self.adas_key, self.ada)
        await self.register(self.eves_key, self.eve)
        return self

    async def key(self, account_id: UUID, **limits: Any) -> str:
        key: Secret[str] = new_api_key()
        async with self.database.transaction() as tx:
            await insert_key(tx, account_id, NewKey(name="kept", **limits), key, self.world.clock.now())
        return key.reveal()

    async def who(self, key: str) -> Principal:
        return await self.keys.authenticate(key, "192.0.2.1")

    async def caller(self, key: str, **more: Any) -> Caller:
        return Caller(replace(await self.who(key), **more), str(uuid4()), "192.0.2.1")

    async def register(self, key: str, authenticator: SoftAuthenticator, name: str = "key ring", **more: Any) -> UUID:
        """`more`: of the caller."""
        caller = await self.caller(key, **more)
        challenge = (await self.service.begin(caller)).challenge
        return (await self.service.add(caller, name, authenticator.make(challenge))).id

    async def call(
        self,
        route: Route,
        key: str | None = None,
        *,
        headers: dict[str, str] | None = None,
        query: str = "",
        spaces: str = "",
    ) -> httpx.Response:
        """The privileged request of this route; with another query or another way to write the same body."""
        body = ACT_BODIES.get(route.name)
        content = None if body is None else json.dumps(body).encode() + spaces.encode()
        said = {"Content-Type": "application/json"} if content else {}
        async with self.world.client(key or self.adas_key) as client:
            return await client.request(
                route.method, path_of(route) + query, content=content, headers=said | (headers or {})
            )

    async def challenge(self, route: Route) -> bytes:
        """That Ada is given for it, in no hurry: nobody is to be told that they call too often."""
        self.world.clock.advance(timedelta(seconds=1))
        return challenge_in(await self.call(route))

    async def events(self, action: str) -> list[dict[str, Any]]:
        async with self.database.reading() as tx:
            rows = await tx.fetch("SELECT body, personal FROM audit_event ORDER BY seq")
        found = [fields_of(row) for row in rows]
        return [it for it in found if it["action"] == action]

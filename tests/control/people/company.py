"""A company with an issuer, and people who log in: what tests of logins and of attacks on them share."""

from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from cloister.base.clock import FakeClock
from cloister.base.database import Database
from cloister.base.ids import OrgId
from cloister.base.secret import Secret, new_api_key
from cloister.control.calling import Caller
from cloister.control.people.asking import Issuers
from cloister.control.people.issuers import IssuerService
from cloister.control.people.logins import LoginService
from cloister.control.people.model import SESSION_DEFAULT, Begin, Begun, Finish, LoggedIn, NewGroup, NewIssuer
from cloister.control.people.sealing import LoginKeys
from cloister.protocol.openid import challenge_of
from cloister.trust.access.keys import ApiKeys, NewKey, insert_key
from cloister.trust.access.principals import Principal
from tests.audited import fields_of
from tests.openid_issuer import CLIENT_ID, URL, OpenIdIssuer

ADA: Final = UUID(int=1)
HERE: Final = OrgId("org-calm-forest-12345678")
THERE: Final = OrgId("org-wild-river-12345678")
CALLER: Final = Caller(Principal(ADA, 1, "ada@example.com", "Ada", {HERE: "admin"}), "request-1", "192.0.2.1")
NOBODY: Final = Caller(Principal(UUID(int=0), 0, "", "", {}), "request-2", "192.0.2.2")
SECRET: Final = "only this client knows it"
CONTROL_KEY: Final = Secret(b"c" * 32)

COMPANY: Final = NewIssuer(
    name="company",
    url=URL,
    client_id=CLIENT_ID,
    client_secret=Secret("shared with the issuer"),
    domains=(),
    groups_claim="groups",
    operators="platform",
    session=SESSION_DEFAULT,
)


class Company:
    """Ada is the admin of both organizations, by hand; `dba` are editors of the first."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.clock = FakeClock(datetime.now(UTC))
        self.issuer = OpenIdIssuer(self.clock)
        asked, keys = Issuers(self.issuer, self.clock), LoginKeys(CONTROL_KEY)
        self.issuers = IssuerService(database, asked, keys, self.clock)
        self.logins = LoginService(database, asked, keys, self.clock)
        self.api_keys = ApiKeys(database, self.clock)

    async def begin(self) -> None:
        async with self.database.transaction() as tx:
            await tx.execute("INSERT INTO account (id, email, name) VALUES ($1, 'ada@example.com', 'Ada')", ADA)
            for org_id in (HERE, THERE):
                await tx.execute("INSERT INTO organization (id, name) VALUES ($1, 'Example')", org_id)
                await tx.execute(
                    "INSERT INTO membership (org_id, account_id, role) VALUES ($1, $2, 'admin')", org_id, ADA
                )
            self.adas_key = await insert_key(tx, ADA, NewKey(name="kept"), new_api_key(), self.clock.now())
        self.registered = await self.issuers.add(CALLER, COMPANY)
        await self.map("dba", "editor")

    async def map(self, group: str, role: Any, org_id: OrgId = HERE) -> UUID:
        return (await self.issuers.map_group(CALLER, org_id, NewGroup(issuer=None, name=group, role=role))).id

    async def start(self, *, links: int | None = None, secret: str = SECRET) -> Begun:
        return await self.logins.begin(Begin(issuer=None, port=40_000, challenge=challenge_of(secret)), links=links)

    async def finish(self, brought: dict[str, str], secret: str = SECRET) -> LoggedIn:
        finish = Finish(state=brought["state"], secret=secret, code=brought.get("code", ""), issuer=brought.get("iss"))
        return await self.logins.finish(NOBODY, finish)

    async def log_in(self, *, links: int | None = None, **claims: Any) -> LoggedIn:
        """As somebody of the issuer's: with `groups`, or whatever else is to be different."""
        self.issuer.claims |= claims
        begun = await self.start(links=links)
        return await self.finish(self.issuer.authorize(begun.url))

    async def who(self, logged_in: LoggedIn) -> Principal:
        return await self.api_keys.authenticate(logged_in.key.reveal(), "192.0.2.2")

    async def events(self, *actions: str) -> list[dict[str, Any]]:
        """Oldest first; `actions`: those alone."""
        async with self.database.reading() as tx:
            rows = await tx.fetch("SELECT body, personal FROM audit_event ORDER BY seq")
        found = [fields_of(row) for row in rows]
        return [it for it in found if not actions or it["action"] in actions]

    async def count(self, table: str) -> int:
        async with self.database.reading() as tx:
            return int(await tx.fetch_value(f"SELECT count(*) FROM {table}"))

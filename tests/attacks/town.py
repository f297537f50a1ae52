"""The real API on the real control plane and its database, of which only the node is made up; and two people who may do everything.

Ada and Bob are admins of two organizations and operators, each with a key of their own, so that what takes two people can be done.
What is asked of the town is one call at a time: `Does` names a route and says an example of what it is sent.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, cast

import httpx
import msgspec
import psycopg
from starlette.applications import Starlette

from cloister.app.guards import BrokersKeys, StoredAudit
from cloister.base.database import Database
from cloister.base.secret import Secret, new_api_key
from cloister.base.versions import Condition
from cloister.control.people.asking import Issuers
from cloister.control.people.issuers import IssuerService
from cloister.control.people.logins import LoginService
from cloister.control.people.sealing import LoginKeys
from cloister.edge.api.application import create_app
from cloister.edge.api.call import Services
from cloister.edge.api.endpoint import Route
from cloister.edge.api.idempotency import Answers
from cloister.edge.api.routes import ROUTES
from cloister.trust.access.decisions import Decider
from cloister.trust.access.keys import ApiKeys, NewKey, insert_key
from cloister.trust.audit import Action, Event
from cloister.trust.audit.events import parse
from cloister.trust.keys.asking import By
from cloister.trust.keys.client import KeyClient
from cloister.trust.keys.commands import KeyPolicy, OnBehalf, RingInfo
from cloister.trust.keys.keeper import Keeper
from cloister.trust.sentinel.desk import Desk
from tests.control.backups.office import Office
from tests.control.land import ACCOUNT, BOB, ORG, Land, a_land
from tests.edge.api.world import FakeNotary, World
from tests.fix_database import ControlDatabase, DatabaseAs
from tests.openid_issuer import OpenIdIssuer
from tests.soft_authenticator import RP_ID, SoftAuthenticator
from tests.trust.keys.rig import Rig

OTHER_ORG: Final = "org-calm-forest-87654321"
ADDRESSES: Final = {"ada": "192.0.2.1", "bob": "192.0.2.2", "nobody": "192.0.2.3"}
ACTORS: Final = {"ada": f"user:{ACCOUNT}", "bob": f"user:{BOB}"}

_BY_NAME: Final = {route.name: route for route in ROUTES}
_IDS: Final = ("org_id", "project_id", "branch_id", "endpoint_id")
"""Of a path's parameters, those that have a field of their own in an event."""

_SHUTTER: Final = """
    CREATE TABLE shutter (is_shut boolean NOT NULL);
    INSERT INTO shutter VALUES (false);
    CREATE FUNCTION refuse_events() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = cloister AS $$
    BEGIN
        IF (SELECT is_shut FROM shutter) THEN RAISE 'no space is left for the log' USING ERRCODE = 'disk_full'; END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER shutter BEFORE INSERT ON audit_event FOR EACH ROW EXECUTE FUNCTION refuse_events();"""

_EVENTS: Final = "SELECT body, personal FROM audit_event WHERE seq > $1 ORDER BY seq"


@dataclass(frozen=True, kw_only=True)
class _Says:
    body: Any = None
    """Or what makes it of the town. In its texts `{name}` stands for what was kept by that name; so it does in a path."""
    by: str = "ada"
    keeps: Mapping[str, Any] = field(default_factory=dict)
    """Names, and where in the answer stands what is kept by them: `branch.id`, or what finds it."""
    also: tuple[Action, ...] = ()
    """Other events of the same call."""


@dataclass(frozen=True, kw_only=True)
class Does(_Says):
    """A call of one of our routes."""

    route: str
    """Its handler's name."""
    query: str = ""
    at: Mapping[str, str] = field(default_factory=dict)
    """Parameters of the path that are not kept by their own name, and by which they are."""
    about: Mapping[str, str] = field(default_factory=dict)
    """What the event names beside the ids in the path: its field, and what was kept for it."""
    action: Action | None = None
    """Where the body says which; else the route's."""
    actor: str = ""
    """Where nobody knew before whose call it is."""
    address: str | None = None
    """Of the event, where it has not the caller's."""
    is_once: bool = False
    """Asked twice, it is refused whatever became of the first: what it brings is good once."""


@dataclass(frozen=True, kw_only=True)
class Provisions(_Says):
    """A call of an organization's directory, which has a boundary of its own."""

    method: str
    path: str
    action: Action
    by: str = "directory"


class Broker:
    """The key broker's own keeper, without the socket that is between it and the API."""

    def __init__(self, keeper: Keeper) -> None:
        self.keeper = keeper

    async def ring(self, project_id: str) -> RingInfo:
        return await self.keeper.rings.info(project_id)

    async def rotate(self, project_id: str, by: OnBehalf) -> RingInfo:
        return await self.keeper.rotations.rotate(project_id, _by(by))

    async def change(self, project_id: str, change: str, by: OnBehalf, *, days: int, reason: str) -> RingInfo:
        return await self.keeper.rings.change(project_id, change, days, reason, _by(by))

    async def policy(self, org_id: str) -> KeyPolicy:
        return await self.keeper.rings.policy(org_id)

    async def set_policy(
        self, org_id: str, policy: KeyPolicy, by: OnBehalf, condition: Condition | None = None
    ) -> KeyPolicy:
        return await self.keeper.rings.set_policy(org_id, policy, _by(by), condition)


def _by(them: OnBehalf) -> By:
    return By(them.actor, them.address, them.request_id)


class Town:
    """`names` is what was kept of the answers, for paths and bodies; `wrong` is what was found."""

    def __init__(self, land: Land, owner: psycopg.Connection[Any], broker: Broker) -> None:
        self.land = land
        self.owner = owner
        """The control database's: for what no role of ours may do."""
        self.broker = broker
        self.issuer = OpenIdIssuer(land.clock)
        self.authenticator = SoftAuthenticator()
        self.office: Office | None = None
        self.clients: dict[str, httpx.AsyncClient] = {}
        self.names: dict[str, str] = {
            "org_id": ORG,
            "other_org_id": OTHER_ORG,
            "ada_id": str(ACCOUNT),
            "bob_id": str(BOB),
            "role_name": "app",
            "database_name": "orders",
        }
        self.wrong: list[str] = []

    def services(self) -> Services:
        """As `app/api.py` has them. Who shows a passkey, and whether a login's issuer is far away, is not what is asked here."""
        world, clock, database = World(), self.land.clock, self.land.database
        asked, keys = Issuers(self.issuer, clock), LoginKeys(Secret(b"c" * 32))
        control = replace(
            self.land.control,
            proofs=world.proofs,
            issuers=IssuerService(database, asked, keys, clock),
            logins=LoginService(database, asked, keys, clock),
        )
        return replace(
            world.services,
            control=control,
            api_keys=ApiKeys(database, clock),
            decider=Decider(),
            audit=StoredAudit(database, FakeNotary()),
            volume_keys=BrokersKeys(cast("KeyClient", self.broker)),
            findings=Desk(database),
            answers=Answers(database, Secret(b"c" * 32)),
            settings=self.land.settings,
            clock=clock,
        )

    # ── one call ──

    async def does(self, step: Does, *, is_silent: bool = False) -> None:
        """1. With a log that takes no event, it is refused.
        2. With one that does, it is done: so the first attempt had left nothing.
        3. And its event says that, who did it, and what it was done to. `is_silent`: there is none.
        """
        route = _BY_NAME[step.route]
        path = self._path(route, step)
        client = self.clients[step.by]
        body = self._told(step.body)
        if not is_silent and not step.is_once:
            await self._refused_unrecorded(step.route, client, route.method, path, body)
        before = await self._last()
        answer = await client.request(route.method, path, json=body)
        assert answer.status_code == route.status, f"{step.route}: {answer.status_code} {answer.text} {self.wrong}"
        self._keep(step, answer)
        if is_silent:
            if told := await self._events(before, answer):
                self.wrong.append(f"{step.route}: {_named(told)}, and nothing was expected")
        else:
            said = {name: name for name in _IDS if f"{{{name}}}" in route.path}
            elsewhere = {name: kept for name, kept in step.at.items() if name in _IDS}
            about = {name: self.names[kept] for name, kept in (said | elsewhere | dict(step.about)).items()}
            assert route.audit is not None
            wanted = Event(
                action=step.action or route.audit,
                actor=step.actor or ACTORS[step.by],
                address=ADDRESSES[step.by] if step.address is None else step.address,
                **about,  # type: ignore[arg-type] # texts
            )
            await self._look(step, answer, before, wanted)
        await self.land.settle()

    async def provisions(self, step: Provisions) -> None:
        """As `does`, in the name of the directory whose token was kept last."""
        client = self.clients["nobody"]
        client.headers["Authorization"] = f"Bearer {self.names['token']}"
        path, body = "https://api.test/scim/v2" + step.path.format_map(self.names), self._told(step.body)
        what = f"{step.method} {step.path}"
        await self._refused_unrecorded(what, client, step.method, path, body)
        before = await self._last()
        answer = await client.request(step.method, path, json=body)
        assert answer.status_code in (200, 201, 204), f"{what}: {answer.text} {self.wrong}"
        self._keep(step, answer)
        wanted = Event(action=step.action, actor=f"scim:{ORG}", address=ADDRESSES["nobody"], org_id=ORG)
        await self._look(step, answer, before, wanted)

    async def _refused_unrecorded(
        self, what: str, client: httpx.AsyncClient, method: str, path: str, body: Any
    ) -> None:
        with self._shut():
            refused = await client.request(method, path, json=body)
        if refused.status_code != 503:
            self.wrong.append(f"{what}: with a log that takes no event it answers {refused.status_code}")

    async def _look(self, step: Does | Provisions, answer: httpx.Response, before: int, wanted: Event) -> None:
        """For an event of this call that says what `wanted` does."""
        told = await self._events(before, answer)
        for action in (wanted.action, *step.also):
            if not any(_is(event, msgspec.structs.replace(wanted, action=action)) for event in told):
                what = step.route if isinstance(step, Does) else f"{step.method} {step.path}"
                self.wrong.append(f"{what}: {action} is not told as in {_named([wanted])}, only {_named(told)}")

    def _path(self, route: Route, step: Does) -> str:
        names = self.names | {parameter: self.names[kept] for parameter, kept in step.at.items()}
        query = f"?{step.query.format_map(self.names)}" if step.query else ""
        return f"https://api.test/api/v2{route.path.format_map(names)}{query}"

    def _told(self, said: Any) -> Any:
        if callable(said):
            return said(self)
        if isinstance(said, str):
            return said.format_map(self.names)
        if isinstance(said, dict):
            return {name: self._told(value) for name, value in said.items()}
        return [self._told(each) for each in said] if isinstance(said, list) else said

    def _keep(self, step: Does | Provisions, answer: httpx.Response) -> None:
        for name, where in step.keeps.items():
            found = answer.json()
            if callable(where):
                found = where(found, self.names)
            else:
                for word in where.split("."):
                    found = found[int(word) if word.isdigit() else word]
            self.names[name] = str(found)

    # ── the log ──

    @contextlib.contextmanager
    def _shut(self) -> Iterator[None]:
        self.owner.execute("UPDATE shutter SET is_shut = true")
        try:
            yield
        finally:
            self.owner.execute("UPDATE shutter SET is_shut = false")

    async def _last(self) -> int:
        async with self.land.database.reading() as tx:
            return int(await tx.fetch_value("SELECT seq FROM audit_head"))

    async def _events(self, after: int, answer: httpx.Response) -> list[Event]:
        """Of this call."""
        async with self.land.database.reading() as tx:
            found = [parse(row["body"], row["personal"]) for row in await tx.fetch(_EVENTS, after)]
        return [event for event in found if event.request_id == answer.headers["X-Request-Id"]]


def _is(event: Event, wanted: Event) -> bool:
    """It says the same of who did what, from where and to what; what is not wanted of an id may be there."""
    said = ("action", "outcome", "actor", "address")
    ids = (name for name in _IDS if getattr(wanted, name))
    return all(getattr(event, name) == getattr(wanted, name) for name in (*said, *ids))


def _named(events: list[Event]) -> list[str]:
    return [
        f"{it.action} {it.outcome} by {it.actor} from {it.address} of {it.org_id}/{it.project_id}/{it.branch_id}/{it.endpoint_id}"
        for it in events
    ]


@contextlib.asynccontextmanager
async def a_town(control_database: ControlDatabase, database_as: DatabaseAs, directory: Path) -> AsyncIterator[Town]:
    """With one project, of Ada's, whose endpoint runs."""
    database = await database_as("cloister_api")
    keys = await _people(database)
    with psycopg.connect(control_database.url(), autocommit=True, options="-c search_path=cloister") as owner:
        owner.execute(_SHUTTER)
        async with a_land(database, runs_operations=False, domain=RP_ID) as land, contextlib.AsyncExitStack() as stack:
            rig = Rig(directory, await database_as("cloister_keys"), land.clock)
            town = Town(land, owner, Broker(rig.keeper()))
            created = await land.project(name="shop", store_passwords=True)
            town.names |= {
                "project_id": created.project.id,
                "branch_id": created.branch.id,
                "endpoint_id": created.endpoint.id,
            }
            app = create_app(town.services())
            for who, address in ADDRESSES.items():
                town.clients[who] = await stack.enter_async_context(_client(app, address, keys.get(who)))
            yield town


def _client(app: Starlette, address: str, key: str | None) -> httpx.AsyncClient:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return httpx.AsyncClient(transport=httpx.ASGITransport(app, client=(address, 40_000)), headers=headers)


async def _people(database: Database) -> dict[str, str]:
    """Their keys."""
    keys = {}
    async with database.transaction() as tx:
        for org_id in (ORG, OTHER_ORG):
            await tx.execute("INSERT INTO organization (id, name) VALUES ($1, 'Calm')", org_id)
        for name, account_id in (("ada", ACCOUNT), ("bob", BOB)):
            await tx.execute(
                "INSERT INTO account (id, email, name, is_operator) VALUES ($1, $2, $3, true)",
                account_id,
                f"{name}@example.org",
                name,
            )
            for org_id in (ORG, OTHER_ORG):
                await tx.execute(
                    "INSERT INTO membership (org_id, account_id, role) VALUES ($1, $2, 'admin')", org_id, account_id
                )
            key = new_api_key()
            await insert_key(tx, account_id, NewKey(name="kept"), key, datetime.now(UTC))
            keys[name] = key.reveal()
    return keys


Step = Does | Provisions | Callable[[Town], Any]
"""Of a story. A function does what no call does: it raises a finding, or loses a volume."""

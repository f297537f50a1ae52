"""What the API asks of `trust/`, over the control database and the key broker: the ports of `edge/api/ports.py`, filled."""

from collections.abc import Sequence

from cloister.base.database import Database
from cloister.base.ids import OrgId, ProjectId
from cloister.edge.api.ports import Member, Organization
from cloister.trust.audit import Event, record
from cloister.trust.audit.reader import Recorded, events
from cloister.trust.audit.verify import Broken, Head, Intact, verify
from cloister.trust.keys.client import KeyClient
from cloister.trust.keys.commands import KeyInfo


class StoredOrganizations:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, org_ids: Sequence[OrgId]) -> list[Organization]:
        async with self._database.reading() as tx:
            rows = await tx.fetch(
                "SELECT * FROM organization WHERE id = ANY ($1) ORDER BY created_at, id", list(org_ids)
            )
        return [Organization(OrgId(row["id"]), row["name"], row["created_at"]) for row in rows]

    async def members(self, org_id: OrgId) -> list[Member]:
        async with self._database.reading() as tx:
            rows = await tx.fetch(
                """SELECT account.id, account.email, membership.role
                     FROM membership JOIN account ON account.id = membership.account_id
                    WHERE membership.org_id = $1 ORDER BY account.created_at, account.id""",
                org_id,
            )
        return [Member(row["id"], row["email"], row["role"]) for row in rows]

    async def are_all(self, org_ids: Sequence[OrgId]) -> bool:
        async with self._database.reading() as tx:
            return not await tx.fetch_value(
                "SELECT EXISTS (SELECT FROM organization WHERE id <> ALL ($1))", list(org_ids)
            )

    async def project_ids(self, org_ids: Sequence[OrgId]) -> list[ProjectId]:
        async with self._database.reading() as tx:
            rows = await tx.fetch("SELECT id FROM project WHERE org_id = ANY ($1)", list(org_ids))
        return [ProjectId(row["id"]) for row in rows]


class StoredAudit:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def record(self, *events: Event) -> None:
        async with self._database.transaction() as tx:
            await record(tx, *events)

    async def find(
        self, *, project_ids: Sequence[str] | None, action: str | None, before_seq: int | None, limit: int
    ) -> list[Recorded]:
        async with self._database.reading() as tx:
            return await events(tx, project_ids=project_ids, action=action, before_seq=before_seq, limit=limit)

    async def verify(self, noted: Sequence[Head]) -> Intact | Broken:
        return await verify(self._database, noted)


class BrokersKeys:
    def __init__(self, keys: KeyClient) -> None:
        self._keys = keys

    async def find(self, project_id: str | None) -> list[KeyInfo]:
        return await self._keys.list(project_id)

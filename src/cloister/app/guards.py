"""What the API asks of `trust/`, over the control database and the key broker: the ports of `edge/api/ports.py`, filled."""

from collections.abc import Sequence

from cloister.base.database import Database
from cloister.trust.audit import Event, record
from cloister.trust.audit.reader import Recorded, events
from cloister.trust.audit.verify import Broken, Head, Intact, verify
from cloister.trust.keys.client import KeyClient
from cloister.trust.keys.commands import KeyInfo


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

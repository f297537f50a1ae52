"""What the API asks of `trust/`, over the control database and the key broker: the ports of `edge/api/ports.py`, filled."""

from collections.abc import Sequence

from cloister.base.database import Database
from cloister.control.calling import Caller
from cloister.protocol.merkle.notes import SignedTree, VerifierKey
from cloister.trust.audit import Event, people, record
from cloister.trust.audit.checkpoints import Signer
from cloister.trust.audit.minimum import Gone, gone
from cloister.trust.audit.reader import EVERYBODY, Recorded, Subject, events
from cloister.trust.audit.verify import Broken, Head, Intact, verify
from cloister.trust.keys.client import KeyClient
from cloister.trust.keys.commands import KeyInfo, KeyPolicy, KeystoreInfo, RingInfo


class StoredAudit:
    def __init__(self, database: Database, signer: Signer) -> None:
        self._database = database
        self._signer = signer

    async def record(self, *events: Event) -> None:
        async with self._database.transaction() as tx:
            await record(tx, *events)

    async def find(
        self,
        *,
        project_ids: Sequence[str] | None,
        action: str | None,
        before_seq: int | None,
        limit: int,
        subject: Subject = EVERYBODY,
    ) -> list[Recorded]:
        async with self._database.reading() as tx:
            actors = None if subject.role is None else [f"role:{subject.role}"]
            if subject.account is not None:
                theirs = await people.actors_of(tx, project_ids, subject.account)
                actors = theirs if actors is None else [each for each in actors if each in theirs]
            return await events(
                tx,
                project_ids=project_ids,
                action=action,
                actors=actors,
                address=subject.address,
                before_seq=before_seq,
                limit=limit,
            )

    async def who(self, project_ids: Sequence[str] | None, event: int | str) -> people.Chain | None:
        async with self._database.reading() as tx:
            if isinstance(event, int):
                return await people.of_event(tx, project_ids, event)
            return await people.of_session(tx, project_ids, event)

    async def gone(self) -> Gone | None:
        async with self._database.reading() as tx:
            return await gone(tx)

    async def verify(self, noted: Sequence[Head]) -> tuple[Intact | Broken, SignedTree]:
        # The signed tree first: the log read after it has everything that was signed, or was rolled back.
        last = await self._signer.last_checkpoint()
        checkpoint = VerifierKey.parse(last.key).opened(last.note)
        return await verify(self._database, noted, [checkpoint]), last


class BrokersKeys:
    def __init__(self, keys: KeyClient) -> None:
        self._keys = keys

    async def find(self, project_id: str | None) -> list[KeyInfo]:
        return await self._keys.list(project_id)

    async def ring(self, project_id: str) -> RingInfo:
        return await self._keys.ring(project_id)

    async def rotate(self, caller: Caller, project_id: str) -> RingInfo:
        return await self._keys.rotate(project_id, caller.on_behalf)

    async def change(self, caller: Caller, project_id: str, change: str, *, days: int, reason: str) -> RingInfo:
        return await self._keys.change(project_id, change, caller.on_behalf, days=days, reason=reason)

    async def policy(self, org_id: str) -> KeyPolicy:
        return await self._keys.policy(org_id)

    async def set_policy(self, caller: Caller, org_id: str, policy: KeyPolicy) -> KeyPolicy:
        return await self._keys.set_policy(org_id, policy, caller.on_behalf, caller.condition)

    async def keystore(self) -> KeystoreInfo:
        return await self._keys.keystore()

"""What a store has of dumps of the control database, as far as keys open it."""

from dataclasses import dataclass

from cloister.base.errors import UnprocessableError
from cloister.node.backups.keys import Opening
from cloister.node.backups.objects import Store
from cloister.protocol.backups import keys as names
from cloister.protocol.backups.bases import CHUNK_BYTES
from cloister.protocol.backups.dumps import Dump, parse_dump
from cloister.protocol.backups.errors import BackupError


@dataclass(frozen=True, slots=True)
class Dumps:
    """Raises UnprocessableError for what does not open, NotFoundError for what is not there."""

    store: Store
    keys: Opening

    async def head(self, name: str) -> Dump:
        plain = await self.store.opened(self.keys, names.dump(name))
        try:
            return parse_dump(plain, name)
        except BackupError as error:
            raise UnprocessableError(f"{name} {error}") from error

    async def list_of(self, chunk_id: str) -> bytes:
        return await self.store.opened(self.keys, names.chunk(names.PLATFORM, chunk_id))

    async def chunk(self, chunk_id: str) -> bytes:
        return await self.store.opened(self.keys, names.chunk(names.PLATFORM, chunk_id), CHUNK_BYTES)

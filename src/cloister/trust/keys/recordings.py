"""The keys of recordings of approved access: one each, in an envelope under its project's recording key.

    recording's key   AES-256-GCM(the project's key of the purpose `recording`, key), bound to project and recording

The envelope lies with the recording, the recording key below the project's own. So a rotation touches no recording, what
erases the project ends its recordings, and whoever may replay one gets the key of that one. Each use is recorded first, by
`Keeper.use`.
"""

import os
from dataclasses import replace
from typing import Final
from uuid import UUID

from cloister.base.errors import UnprocessableError
from cloister.trust.keys.asking import By
from cloister.trust.keys.commands import KeyInfo
from cloister.trust.keys.envelopes import Chain, Envelopes
from cloister.trust.keys.keeper import Keeper, into_memfd
from cloister.trust.keys.memory import SecretPage
from cloister.trust.keys.providers.provider import KEY_BYTES, Context, KeyDamagedError

PURPOSE: Final = "recording"


class RecordingKeys:
    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper

    async def make(self, project_id: str, recording_id: UUID, by: By) -> tuple[bytes, int]:
        """The envelope of a new key, and the key as `Keeper.unwrap` hands one out."""
        await self._keeper.create(project_id, PURPOSE, by)

        def mint(envelopes: Envelopes, chain: Chain) -> tuple[bytes, int]:
            with envelopes.opened(chain) as recording_key, SecretPage(KEY_BYTES) as page:
                page.fill_randomly()
                return recording_key.wrap(page.buffer, _context(chain.key.info, recording_id)), into_memfd(page)

        _, made = await self._keeper.use(
            project_id, PURPOSE, "record", _for(by, recording_id), work=mint, give_back=lambda it: os.close(it[1])
        )
        return made

    async def open(self, project_id: str, recording_id: UUID, wrapped: bytes, reason: str, by: By) -> int:
        """The key, as `Keeper.unwrap` hands one out. Raises UnprocessableError if it is not this recording's."""

        def open_into_memfd(envelopes: Envelopes, chain: Chain) -> int:
            with envelopes.opened(chain) as recording_key, SecretPage(KEY_BYTES) as page:
                try:
                    recording_key.unwrap_into(wrapped, _context(chain.key.info, recording_id), page.buffer)
                except KeyDamagedError as error:
                    raise UnprocessableError(str(error), public="the recording's key does not open") from error
                return into_memfd(page)

        _, descriptor = await self._keeper.use(
            project_id, PURPOSE, reason, _for(by, recording_id), work=open_into_memfd, give_back=os.close
        )
        return descriptor


def _context(info: KeyInfo, recording_id: UUID) -> Context:
    """By the material of what wraps it: its envelope's version changes with every rotation."""
    return Context(info.project_id, f"{PURPOSE}/{recording_id}", info.material)


def _for(by: By, recording_id: UUID) -> By:
    return replace(by, details={**by.details, "recording": str(recording_id)})

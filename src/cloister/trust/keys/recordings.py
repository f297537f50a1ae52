"""The keys of recordings of approved access: one each, in an envelope under its project's recording key.

    recording's key   AES-256-GCM(a seal of the month, AES-256-GCM(the project's key of the purpose `recording`, key)),
                      bound to project and recording

The envelope lies with the recording, the recording key below the project's own, the seal in the keystore. So a rotation touches no
recording, what erases the project ends its recordings, a month whose recordings have all ended stays ended in every backup, and
whoever may replay one gets the key of that one. Each use is recorded first, by `Keeper.use`.
"""

import os
from dataclasses import replace
from typing import Final
from uuid import UUID

from cloister.base.errors import BadRequestError, UnprocessableError
from cloister.trust.keys.asking import By
from cloister.trust.keys.commands import KeyInfo, RecordingEnvelope
from cloister.trust.keys.envelopes import Chain, Envelopes
from cloister.trust.keys.keeper import Keeper, into_memfd
from cloister.trust.keys.keystore import part_of
from cloister.trust.keys.memory import SecretPage
from cloister.trust.keys.providers.provider import KEY_BYTES, Context, KeyDamagedError
from cloister.trust.keys.store import RECORDING, month_of

PURPOSE: Final = RECORDING
SEAL_MAX: Final = 999_912


class RecordingKeys:
    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper

    async def make(self, project_id: str, recording_id: UUID, by: By) -> tuple[RecordingEnvelope, int]:
        """The envelope of a new key, and the key as `Keeper.unwrap` hands one out."""
        await self._keeper.create(project_id, PURPOSE, by)
        seal = month_of(self._keeper.clock.now())
        await self._keeper.ensure_seal(part_of(project_id, PURPOSE, seal))

        def mint(envelopes: Envelopes, chain: Chain) -> tuple[RecordingEnvelope, int]:
            with envelopes.opened(chain) as recording_key, SecretPage(KEY_BYTES) as page:
                page.fill_randomly()
                inner = recording_key.wrap(page.buffer, _context(chain.key.info, recording_id))
                return RecordingEnvelope(envelopes.keystore.seal(inner, _sealed(project_id, seal)), seal), into_memfd(
                    page
                )

        _, made = await self._keeper.use(
            project_id, PURPOSE, "record", _for(by, recording_id), work=mint, give_back=lambda it: os.close(it[1])
        )
        return made

    async def open(self, project_id: str, recording_id: UUID, envelope: RecordingEnvelope, reason: str, by: By) -> int:
        """The key, as `Keeper.unwrap` hands one out. Raises ErasedError; UnprocessableError if it is not this recording's."""
        if envelope.seal is not None and not 0 < envelope.seal <= SEAL_MAX:
            raise BadRequestError(public="a seal of recordings has a number like 202611")

        def open_into_memfd(envelopes: Envelopes, chain: Chain) -> int:
            with envelopes.opened(chain) as recording_key, SecretPage(KEY_BYTES) as page:
                try:
                    inner = envelope.wrapped
                    if envelope.seal is not None:
                        inner = envelopes.keystore.unseal(inner, _sealed(project_id, envelope.seal))
                    recording_key.unwrap_into(inner, _context(chain.key.info, recording_id), page.buffer)
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


def _sealed(project_id: str, seal: int) -> Context:
    return Context(part_of(project_id, PURPOSE, seal), PURPOSE, seal)


def _for(by: By, recording_id: UUID) -> By:
    return replace(by, details={**by.details, "recording": str(recording_id)})

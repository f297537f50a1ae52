"""Tells the gateways which keys verify a token, and asks issuers again when a gateway wants it.

An issuer is asked once in TRY_AGAIN_S, however many gateways and strangers wish it: what a stranger can cause is that
question and no more. It is asked outside of any transaction; the row says whose turn it was. An issuer that does not
answer, or answers with something that is no key set, keeps the keys it had, with their age: the gateway decides how
old is too old.
"""

import asyncio
import logging
from datetime import timedelta
from typing import Final

import msgspec

from cloister.base.clock import Clock
from cloister.base.database import Database
from cloister.base.directory import KeySet, KeySets, LookUpKeys
from cloister.base.errors import BadRequestError
from cloister.control.jwks import store
from cloister.control.jwks.model import Jwks
from cloister.control.jwks.service import Fetches, keys_at

_log = logging.getLogger(__name__)

TRY_AGAIN_S: Final = 30.0


class JwksKeys:
    def __init__(self, database: Database, fetcher: Fetches, clock: Clock) -> None:
        self._database = database
        self._fetcher = fetcher
        self._clock = clock

    async def look_up(self, command: LookUpKeys) -> KeySets:
        found = await self._find(command.endpoint)
        if command.is_refresh and found:
            await asyncio.gather(*(self._refresh(jwks) for jwks in found))
            found = await self._find(command.endpoint)
        return KeySets(project_id=found[0].project_id if found else "", sets=[_key_set(jwks) for jwks in found])

    async def _find(self, endpoint: str) -> list[Jwks]:
        async with self._database.reading() as tx:
            return await store.of_endpoint(tx, endpoint)

    async def _refresh(self, jwks: Jwks) -> None:
        now = self._clock.now()
        async with self._database.transaction() as tx:
            may_try = await store.try_now(tx, jwks.id, now, not_after=now - timedelta(seconds=TRY_AGAIN_S))
        if not may_try:
            return
        try:
            keys = await keys_at(self._fetcher, jwks.url, jwks.project_id)
        except BadRequestError as error:
            _log.warning("the keys of %s stay those of %s: %s", jwks.id, jwks.fetched_at, error)
            return
        async with self._database.transaction() as tx:
            await store.fetched(tx, jwks.id, keys, now)


def _key_set(jwks: Jwks) -> KeySet:
    return KeySet(
        id=str(jwks.id),
        roles=list(jwks.role_names),
        audience=jwks.audience,
        issuer=jwks.issuer,
        keys=msgspec.json.encode(list(jwks.keys)).decode(),
        fetched_at=jwks.fetched_at.timestamp(),
    )

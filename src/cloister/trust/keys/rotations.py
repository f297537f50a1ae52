"""Rotating and rewrapping: on demand, by policy, and when the root key is exchanged. What is planned and made is `rotation.py`."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from cloister.base.clock import Clock
from cloister.base.database import Database
from cloister.base.errors import CloisterError, ConflictError, PreconditionError
from cloister.trust.audit import Action, record
from cloister.trust.keys import rotation, store
from cloister.trust.keys.asking import OURSELVES, By, record_failure
from cloister.trust.keys.commands import KeyInfo, RingInfo
from cloister.trust.keys.envelopes import Envelopes
from cloister.trust.keys.patience import Patience
from cloister.trust.keys.providers.provider import ProviderUnavailableError
from cloister.trust.keys.rings import Rings
from cloister.trust.keys.rotation import Plan
from cloister.trust.keys.store import WrappedKey

OVERDUE: Final = timedelta(days=1)
# A pass comes every minute, and a key service may be away for a night.

_SUPERSEDED_BATCH: Final = 1000


@dataclass(frozen=True, slots=True)
class _Done:
    count: int = 0
    damaged: Mapping[str, CloisterError] = field(default_factory=dict)
    """Projects whose keys do not open, and why."""


class Rotations:
    def __init__(
        self, database: Database, envelopes: Envelopes, rings: Rings, clock: Clock, *, patience: Patience
    ) -> None:
        self._database = database
        self._envelopes = envelopes
        self._roots = envelopes.roots
        self._keystore = envelopes.keystore
        self._rings = rings
        self._clock = clock
        self._patience = patience
        self._damaged: set[str] = set()
        """Projects that could not be rotated, passed over until the next start: the others must not wait for them."""
        self._overdue: dict[str, datetime] = {}
        """Projects whose key is too old, and since when a pass has seen it or told of it."""

    async def rotate(self, project_id: str, by: By) -> RingInfo:
        """A new key of the project's own, now. Raises ConflictError, with what is wrong with the one that is there."""
        before = await self._rings.info(project_id)
        if before.state != "enabled":
            raise PreconditionError(public=f"the keys of this project are {before.state}")
        done = await self._rotate([project_id], by, renew=True)
        if (damage := done.damaged.get(project_id)) is not None:
            raise ConflictError(str(damage), public=f"nothing was rotated: {damage.public}")
        if not done.count:
            raise ConflictError(public="the keys of this project were changed meanwhile")
        return await self._rings.info(project_id)

    async def _rotate(self, project_ids: Sequence[str], by: By, *, renew: bool) -> _Done:
        """Rotate or rewrap some projects. A project whose keys changed meanwhile is left for another time.

        1. Plan, record that each key will be used, and commit. A new key is for those alone whose keys may be used; a rewrap
           takes disabled ones, too, so that an old root can go.
        2. Make the new envelopes, in memory. One that does not open is recorded, and does not hold up the others.
        3. In one transaction: those projects whose keys are still as planned get their new rows, and the event.
        """
        reason = "rotate" if renew else "rewrap"

        def planned(project_id: str, keys: Sequence[WrappedKey]) -> Plan | None:
            current = self._roots.current
            return rotation.plan(project_id, keys, current.name, current.root_version, renew=renew)

        # 1.
        async with self._database.transaction() as tx:
            keys = await store.keys_of(tx, await store.enabled_among(tx, project_ids) if renew else project_ids)
            plans = [it for project_id in keys if (it := planned(project_id, keys[project_id])) is not None]
            if not plans:
                return _Done()
            await record(tx, *(by.event(Action.KEY_UNWRAP, _used(it), reason=reason) for it in plans))
        # 2.
        # A seal only for who never had one: whose project key is there and seal is not was erased, and is to stay so.
        await asyncio.to_thread(self._keystore.ensure, *(it.project_id for it in plans if it.project_key is None))
        is_remote = any(provider.is_remote for provider in self._roots.all)
        made: list[tuple[Plan, list[WrappedKey]]] = []
        damaged: dict[str, CloisterError] = {}
        for it in plans:
            try:
                rows = await self._patience.asked(is_remote, lambda it=it: rotation.carry_out(it, self._envelopes))  # type: ignore[misc]
            except ProviderUnavailableError:
                raise
            except CloisterError as error:
                self._damaged.add(it.project_id)
                damaged[it.project_id] = error
                await record_failure(self._database, by.event(Action.KEY_ROTATE, it.top, reason=reason), error)
            else:
                made.append((it, rows))
        # 3.
        async with self._database.transaction() as tx:
            await store.lock_projects(tx, *(it.project_id for it, _ in made))
            known = [it.project_id for it, _ in made]
            keys = await store.keys_of(tx, await store.enabled_among(tx, known) if renew else known)
            made = [(it, rows) for it, rows in made if planned(it.project_id, keys.get(it.project_id, [])) == it]
            if not made:
                return _Done(0, damaged)
            await store.insert(tx, *(row for _, rows in made for row in rows))
            await store.mark_rotated(tx, [it.project_id for it, _ in made if it.has_new_material], self._clock.now())
            await record(tx, *(by.event(Action.KEY_ROTATE, it.top, reason=reason) for it, _ in made))
        return _Done(len(made), damaged)

    def try_all_again(self) -> None:
        """With another root key, also those that could not be rotated."""
        self._damaged.clear()

    async def move_to_current_root(self) -> None:
        """What stands under a former one."""
        current = self._roots.current
        while True:
            async with self._database.reading() as tx:
                strays = await store.under_other_roots(
                    tx, current.name, current.root_version, [*self._damaged], rotation.BATCH
                )
            if not strays or not (await self._rotate(strays, OURSELVES, renew=False)).count:
                break

    async def rotate_what_is_old(self) -> None:
        """By the policies of organizations."""
        while True:
            async with self._database.reading() as tx:
                old = await store.overdue(tx, self._clock.now(), [*self._damaged], rotation.BATCH)
            if not old or not (await self._rotate(old, OURSELVES, renew=True)).count:
                break

    async def tell_what_is_overdue(self) -> None:
        """What the passes of a day did not rotate: the key service is away, or its envelopes are damaged."""
        now = self._clock.now()
        async with self._database.transaction() as tx:
            old = await store.overdue(tx, now, (), rotation.BATCH)
            self._overdue = {project_id: self._overdue.get(project_id, now) for project_id in old}
            late = [it for it, since in self._overdue.items() if now - since >= OVERDUE]
            if late:
                await record(
                    tx,
                    *(
                        OURSELVES.event(Action.KEY_OVERDUE, project_id=it, outcome="failed", reason="overdue")
                        for it in late
                    ),
                )
        self._overdue |= dict.fromkeys(late, now)

    async def let_superseded_go(self) -> None:
        async with self._database.transaction() as tx:
            if gone := await store.destroy_superseded(tx, _SUPERSEDED_BATCH):
                await record(tx, *(OURSELVES.event(Action.KEY_DESTROY, info, reason="superseded") for info in gone))


def _used(it: Plan) -> KeyInfo:
    """What a rotation opens: the project's own key, or one from before there were any."""
    return it.project_key.info if it.project_key is not None else it.moving[0].chain.key.info

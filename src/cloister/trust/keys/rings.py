"""A project's keys as a whole: whether they may be used, when they will be destroyed, how often they are rotated.

Saying no changes no key: it is a row of its own. Destroying takes every envelope, and the seal without which no copy of one
opens. Computes that run are not touched by any of it: no key is taken back.
"""

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import msgspec

from cloister.base.clock import Clock
from cloister.base.database import Database, Transaction
from cloister.base.errors import (
    BadRequestError,
    CloisterError,
    ConflictError,
    NotFoundError,
    PreconditionError,
    UnprocessableError,
)
from cloister.base.versions import Condition
from cloister.trust.audit import Action, record
from cloister.trust.audit.events import timestamp
from cloister.trust.keys import store
from cloister.trust.keys.asking import OURSELVES, By
from cloister.trust.keys.commands import POLICY_DAYS_MAX, WAITING_DAYS_MAX, WAITING_DAYS_MIN, KeyPolicy, RingInfo
from cloister.trust.keys.keystore import Keystore, part_of

DISABLED: Final = "disabled"
PENDING: Final = "pending_destruction"

RECORDINGS_KEPT_MIN_DAYS: Final = 330
"""In which a seal of recordings stays, whatever the control database says. What ends by its age is a year old, so the month of its seal
was over before these days began, and nobody makes a recording under it any more."""


@dataclass(frozen=True, slots=True)
class _Change:
    """A change of a ring. One that is there already stays as it is."""

    source: frozenset[str]
    target: str
    action: Action


CHANGES: Final = {
    "disable": _Change(frozenset({"enabled"}), DISABLED, Action.KEY_DISABLE),
    "enable": _Change(frozenset({DISABLED}), "enabled", Action.KEY_ENABLE),
    "destroy": _Change(frozenset({"enabled", DISABLED}), PENDING, Action.KEY_SCHEDULE),
    "cancel": _Change(frozenset({PENDING}), DISABLED, Action.KEY_CANCEL),
}


async def closed(tx: Transaction, project_id: str) -> CloisterError | None:
    """Why the project's keys may not be used, though they are there."""
    ring = await store.ring(tx, project_id)
    if ring is not None and ring.state == PENDING:
        assert ring.destroy_at is not None
        return PreconditionError(
            public=f"the key of this project is disabled, and will be destroyed at {ring.destroy_at:%Y-%m-%d %H:%M} UTC"
        )
    if ring is not None and ring.state != "enabled":
        return PreconditionError(public=f"the key of this project is {ring.state}")
    if await store.is_deleted(tx, project_id):
        return PreconditionError(public="this project is deleted")
    return None


class Rings:
    def __init__(self, database: Database, keystore: Keystore, clock: Clock) -> None:
        self._database = database
        self._keystore = keystore
        self._clock = clock

    async def info(self, project_id: str) -> RingInfo:
        async with self._database.transaction() as tx:
            return await self._info(tx, project_id)

    async def change(self, project_id: str, change: str, days: int, reason: str, by: By) -> RingInfo:
        """Disable, enable, schedule the destruction, cancel it. Computes that run are not touched: no key is taken back."""
        what = CHANGES.get(change)
        if what is None:
            raise BadRequestError(public=f"a change is one of {', '.join(CHANGES)}")
        if what.target == PENDING and not WAITING_DAYS_MIN <= days <= WAITING_DAYS_MAX:
            raise BadRequestError(public=f"keys are destroyed after {WAITING_DAYS_MIN} to {WAITING_DAYS_MAX} days")
        async with self._database.transaction() as tx:
            await store.lock_projects(tx, project_id)
            before = await self._info(tx, project_id)
            if before.state == "destroyed":
                raise ConflictError(public="the keys of this project are destroyed")
            if before.state not in what.source:
                if before.state == what.target:
                    return before
                state = "to be destroyed, which can be cancelled" if before.state == PENDING else before.state
                raise ConflictError(public=f"the keys of this project are {state}: {change} is not possible")
            destroy_at = self._clock.now() + timedelta(days=days) if what.target == PENDING else None
            await store.change_ring(tx, project_id, what.target, destroy_at)
            details = {"destroy_at": timestamp(destroy_at)} if destroy_at is not None else {}
            after = await self._info(tx, project_id)
            await record(tx, by.event(what.action, project_id=project_id, reason=reason, details=details))
            return after

    async def destroy(self, project_id: str, by: By, *, if_due: bool = False) -> int:
        """The erasure: every version of every key, and the seal without which no copy of them opens. The seal goes after
        the commit; if we die in between, `reconcile` takes it. `if_due`: only where it is scheduled still, and its time has come."""
        async with self._database.transaction() as tx:
            await store.lock_projects(tx, project_id)
            if if_due and not await store.due_for_destruction(tx, self._clock.now(), project_id):
                return 0
            destroyed = await store.destroy(tx, project_id)
            if destroyed:
                await store.change_ring(tx, project_id, DISABLED, None)
                await record(tx, *(by.event(Action.KEY_DESTROY, info) for info in destroyed))
        await asyncio.to_thread(self._keystore.erase, {project_id})
        return len(destroyed)

    async def erase_statements(self, project_id: str, by: By) -> int:
        """The seals of those months of its statement log whose keys have ended in the control database, and of those whose
        recordings all have: it lets none end that two people did not agree on or that is not old enough. Recorded first; if we
        die then, `reconcile` takes them. How many there were."""
        return await self._take_seals_of_months(project_id, by)

    async def _take_seals_of_months(self, project_id: str | None, by: By) -> int:
        async with self._database.transaction() as tx:
            months = [
                (whose, store.STATEMENTS, generation, f"statement_key/{generation}")
                for whose, generation in await store.erased_months(tx, project_id)
            ]
            before = store.month_of(self._clock.now() - timedelta(days=RECORDINGS_KEPT_MIN_DAYS))
            months += [
                (whose, store.RECORDING, seal, f"recordings/{seal}")
                for whose, seal in await store.ended_months_of_recordings(tx, project_id, before)
            ]
            taken = [it for it in months if self._keystore.has(part_of(*it[:3]))]
            if not taken:
                return 0
            await record(
                tx, *(by.event(Action.KEY_DESTROY, project_id=whose, resource=what) for whose, _, _, what in taken)
            )
        await asyncio.to_thread(self._keystore.erase, {part_of(*it[:3]) for it in taken})
        return len(taken)

    async def _info(self, tx: Transaction, project_id: str) -> RingInfo:
        ring = await store.ring(tx, project_id)
        if ring is None:
            raise NotFoundError(public="this project has no key")
        keys = await store.list_keys(tx, project_id)
        is_destroyed = all(key.state == "destroyed" for key in keys)
        return RingInfo(
            project_id=project_id,
            state="destroyed" if is_destroyed else ring.state,
            destroy_at=timestamp(ring.destroy_at) if ring.destroy_at is not None else "",
            rotated_at=timestamp(ring.rotated_at),
            rotate_days=await store.rotate_days_of(tx, project_id),
            keys=keys,
        )

    async def policy(self, org_id: str) -> KeyPolicy:
        async with self._database.reading() as tx:
            return await store.policy(tx, org_id)

    async def set_policy(self, org_id: str, policy: KeyPolicy, by: By, condition: Condition | None = None) -> KeyPolicy:
        """Raises BadRequestError; MovedError where the one that holds is not of a version that is meant."""
        for days in (policy.rotate_days, policy.reencrypt_days):
            if days is not None and not 1 <= days <= POLICY_DAYS_MAX:
                raise BadRequestError(public=f"keys are renewed every 1 to {POLICY_DAYS_MAX} days")
        async with self._database.transaction() as tx:
            held = await store.hold_policy(tx, org_id)
            if condition is not None:
                condition.require(held.version(org_id))
            await store.set_policy(tx, org_id, policy)
            details = {"rotate_days": policy.rotate_days, "reencrypt_days": policy.reencrypt_days}
            await record(tx, by.event(Action.KEY_POLICY, org_id=org_id, details=details))
        return policy

    async def destroy_what_is_due(self) -> None:
        async with self._database.reading() as tx:
            due = await store.due_for_destruction(tx, self._clock.now())
        for project_id in due:
            await self._destroy_as_scheduled(project_id)

    async def complete_erasures(self) -> None:
        """Take the seals of destroyed projects and of erased months, where that was cut short."""
        async with self._database.reading() as tx:
            erased = await store.destroyed_among(tx, [*self._keystore.project_ids()])
        await asyncio.to_thread(self._keystore.erase, set(erased))
        await self._take_seals_of_months(None, OURSELVES)

    async def _destroy_as_scheduled(self, project_id: str) -> None:
        try:
            await self.destroy(project_id, OURSELVES, if_due=True)
        except UnprocessableError as error:
            # A branch was protected after all: the promise to keep it is the later one. The keys stay disabled.
            async with self._database.transaction() as tx:
                await store.lock_projects(tx, project_id)
                if not await store.due_for_destruction(tx, self._clock.now(), project_id):
                    return  # it was cancelled meanwhile
                await store.change_ring(tx, project_id, DISABLED, None)
                event = OURSELVES.event(Action.KEY_DESTROY, project_id=project_id, details={"error": error.public})
                await record(tx, msgspec.structs.replace(event, outcome="failed"))

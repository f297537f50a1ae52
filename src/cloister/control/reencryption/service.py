"""The verbs on re-encryptions. Each ends with a row, and its audit event in the same transaction; the keeper does the rest."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from cloister.base.clock import Clock
from cloister.base.database import Database, Transaction
from cloister.base.errors import BadRequestError, ConflictError, NotFoundError
from cloister.base.ids import ProjectId
from cloister.control.calling import Caller
from cloister.control.claims import hold_project
from cloister.control.computes.agent import Agent
from cloister.control.reencryption import store
from cloister.control.reencryption.model import UNDER_WAY, Reencryption, State, Wish
from cloister.node.commands import BYTES_PER_S_MIN, CopyVolume, GetVolume
from cloister.trust.audit import Action, Event, record
from cloister.trust.keys.commands import KeyInfo, OnBehalf

PLATFORM: Final = "platform:api"


class VolumeKeys(Protocol):
    """The key broker. `trust.keys.client.KeyClient` is one."""

    async def renew(self, project_id: str, beyond: int, by: OnBehalf) -> KeyInfo: ...
    async def retire(self, project_id: str, material: int, by: OnBehalf) -> int: ...


@dataclass(frozen=True, slots=True)
class Means:
    """All that is used here."""

    database: Database
    agent: Agent
    keys: VolumeKeys
    clock: Clock


class ReencryptionService:
    def __init__(self, means: Means, *, poke: Callable[[], None]) -> None:
        self._means = means
        self._database = means.database
        self._poke = poke

    async def get(self, project_id: ProjectId) -> Reencryption:
        """The one under way, or the last there was. Raises NotFoundError."""
        async with self._database.reading() as tx:
            if (it := await store.last(tx, project_id)) is None:
                raise NotFoundError(
                    f"no re-encryption of {project_id}", public="this project's data was never encrypted anew"
                )
        return it

    async def begin(self, caller: Caller, project_id: ProjectId, wish: Wish) -> Reencryption:
        """Begin; or, of one under way, change the wish and go on. Raises ExhaustedError where the disk has no room,
        PreconditionError where nothing is encrypted or the project's keys may not be used."""
        if wish.bytes_per_s is not None and wish.bytes_per_s < BYTES_PER_S_MIN:
            raise BadRequestError(public=f"the pace must be at least {BYTES_PER_S_MIN} bytes per second")
        async with self._database.transaction() as tx:
            await hold_project(tx, project_id)
            before = await store.last(tx, project_id)
            if before is not None and before.state in (State.COPYING, State.PAUSED):
                it = await store.change(tx, before, State.COPYING, wish)
                await record(tx, await event_of(tx, caller, it, "resume"))
            elif before is not None and before.state is State.CANCELLING:
                raise ConflictError(public="the last one is just being cancelled")
            else:
                before = None
        if before is None:
            it = await begin(self._means, project_id, wish, caller)
        self._poke()
        return it

    async def pause(self, caller: Caller, project_id: ProjectId) -> Reencryption:
        """What was copied stays. Its keys leave memory."""
        return await self._change(caller, project_id, State.PAUSED, "pause")

    async def cancel(self, caller: Caller, project_id: ProjectId) -> Reencryption:
        """The copy is removed, and its key destroyed."""
        return await self._change(caller, project_id, State.CANCELLING, "cancel")

    async def _change(self, caller: Caller, project_id: ProjectId, state: State, step: str) -> Reencryption:
        async with self._database.transaction() as tx:
            await hold_project(tx, project_id)
            it = await store.last(tx, project_id)
            if it is None or it.state not in UNDER_WAY:
                raise ConflictError(f"{project_id}: {it}", public="this project's data is not being encrypted anew")
            if it.state not in (state, State.CANCELLING):
                it = await store.change(tx, it, state, it.wish)
                await record(tx, await event_of(tx, caller, it, step))
        self._poke()
        return it


async def begin(means: Means, project_id: ProjectId, wish: Wish, caller: Caller | None) -> Reencryption:
    """For a person, or by policy.

    1. May it be done, and is there room? The agent says, and changes nothing.
    2. A further key; the broker records that it makes one. One that is left from an attempt that was cut off is taken.
    3. The row, and the event. From here on the keeper does it.
    """
    # 1.
    volume = await means.agent.call(GetVolume(project_id))
    await means.agent.call(CopyVolume(project_id=project_id, material=volume.material + 1, only_asks=True))
    # 2.
    key = await means.keys.renew(project_id, volume.material, caller.on_behalf if caller else OnBehalf(actor=PLATFORM))
    # 3.
    async with means.database.transaction() as tx:
        await hold_project(tx, project_id)
        before = await store.last(tx, project_id)
        if before is not None and before.state in UNDER_WAY:
            raise ConflictError(public="this project's data is being encrypted anew already")
        new = Reencryption(
            project_id=project_id,
            material=key.material,
            old_material=volume.material,
            wish=wish,
            asked_by=caller.principal.actor if caller else PLATFORM,
            begun_at=means.clock.now(),
        )
        it = await store.begin(tx, new)
        await record(tx, await event_of(tx, caller, it, "begin"))
    return it


async def event_of(
    tx: Transaction, caller: Caller | None, it: Reencryption, step: str, details: dict[str, object] | None = None
) -> Event:
    told = {"step": step, "material": it.material, **(details or {})}
    org_id = await store.organization(tx, it.project_id)
    if caller is None:
        return Event(action=Action.KEY_REENCRYPT, actor=PLATFORM, org_id=org_id, project_id=it.project_id, details=told)
    return caller.event(Action.KEY_REENCRYPT, org_id=org_id, project_id=it.project_id, details=told)

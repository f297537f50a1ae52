"""The keeper: everything that is done with keys, each use recorded before it happens.

`broker.py` decides who may ask; this is what then happens. Whoever opens an envelope takes the same steps: which rows, the
audit event, its commit, and only then the envelope. A key that comes out is in a page of its own, and leaves as a sealed
memfd.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, TypeVar

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
from cloister.trust.audit import Action, Event, record
from cloister.trust.audit.events import timestamp
from cloister.trust.keys import rotation, store
from cloister.trust.keys.commands import (
    POLICY_DAYS_MAX,
    WAITING_DAYS_MAX,
    WAITING_DAYS_MIN,
    KeyInfo,
    KeystoreInfo,
    RingInfo,
    RootCount,
)
from cloister.trust.keys.envelopes import Chain, Envelopes
from cloister.trust.keys.keystore import Keystore
from cloister.trust.keys.memory import SecretPage, sealed_memfd, write_hexadecimal
from cloister.trust.keys.providers.provider import KEY_BYTES, Context, KeyDamagedError, ProviderUnavailableError
from cloister.trust.keys.roots import Roots
from cloister.trust.keys.rotation import Plan
from cloister.trust.keys.store import PROJECT, WrappedKey

log = logging.getLogger(__name__)

T = TypeVar("T")

PROVIDER_PATIENCE_S: Final = 10.0
# How long a wake waits for a key service that does not answer; its client would wait for 30.

_RETRY_S: Final = 0.5

_SUPERSEDED_BATCH: Final = 1000


@dataclass(frozen=True, slots=True)
class By:
    """Who asks, as the audit log names them."""

    actor: str
    address: str = ""
    request_id: str = ""
    details: Mapping[str, object] = field(default_factory=dict)

    def event(self, action: Action, info: KeyInfo | None = None, *, project_id: str = "", **fields: object) -> Event:
        details = {**self.details, **fields.pop("details", {})}  # type: ignore[dict-item]
        event = Event(
            action=action,
            actor=self.actor,
            address=self.address,
            request_id=self.request_id,
            project_id=info.project_id if info is not None else project_id,
            resource=f"{info.purpose}/{info.version}" if info is not None else "",
            details=details,
        )
        return msgspec.structs.replace(event, **fields)


OURSELVES: Final = By("platform:keys")
"""The broker, when nobody asks: by a policy, or because its time has come."""

DISABLED: Final = "disabled"
PENDING: Final = "pending_destruction"


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


class Keeper:
    """`database` is open as the role `cloister_keys`."""

    def __init__(
        self,
        database: Database,
        roots: Roots,
        keystore: Keystore,
        clock: Clock,
        *,
        open_roots: Callable[[], Roots] | None = None,
        provider_patience_s: float = PROVIDER_PATIENCE_S,
    ) -> None:
        """`open_roots` reads the configuration of root keys again."""
        self._open_roots = open_roots
        self.due = asyncio.Event()
        """Set where `reconcile` has something to do before its time."""
        self._database = database
        self._roots = roots
        self._keystore = keystore
        self._clock = clock
        self._envelopes = Envelopes(roots, keystore)
        self._patience_s = provider_patience_s
        self._damaged: set[str] = set()
        """Projects that could not be rotated, passed over until the next start: the others must not wait for them."""

    # -- one key

    async def create(self, project_id: str, purpose: str, by: By) -> KeyInfo:
        """The project's key of that purpose, minted if there is none, with a key of the project's own above it.

        1. What is there? A key that is there is the answer; a key that was destroyed stays destroyed, so that a late retry
           does not give the project a second life. Where the project's keys may not be used, none is made.
        2. If the project's own key must be opened for it, record that, and commit.
        3. Mint, wrap, and give the project its seal.
        4. Write, if nobody was quicker.
        """
        if purpose == PROJECT:
            raise BadRequestError(public="a project's own key comes with its first key")
        # 1. and 2.
        async with self._database.transaction() as tx:
            await store.lock_projects(tx, project_id)
            keys = (await store.keys_of(tx, [project_id]))[project_id]
            if (known := _created(keys, purpose)) is not None:
                return known
            above = rotation.newest(keys, PROJECT)
            refusal = await _closed(tx, project_id)
            if above is not None:
                await record(tx, _attempt(by, above, project_id, "create", refusal))
        if refusal is not None:
            raise refusal
        # 3.
        await asyncio.to_thread(self._keystore.ensure, project_id)
        made = await self._with_provider(
            self._roots.current.is_remote, lambda: self._minted(project_id, purpose, above)
        )
        # 4.
        async with self._database.transaction() as tx:
            await store.lock_projects(tx, project_id)
            keys = (await store.keys_of(tx, [project_id]))[project_id]
            if (known := _created(keys, purpose)) is not None:
                return known
            if (refusal := await _closed(tx, project_id)) is not None:
                raise refusal
            if (newest := rotation.newest(keys, PROJECT)) != above and len(made) > 1:
                raise ConflictError(
                    f"{newest} was made meanwhile", public="another key of this project was made meanwhile"
                )
            await store.insert(tx, *made)
            await store.ensure_ring(tx, project_id, self._clock.now())
            keys = (await store.keys_of(tx, [project_id]))[project_id]
            info = _created(keys, purpose)
            assert info is not None
            await record(tx, *(by.event(Action.KEY_CREATE, key.info) for key in made))
            return info

    def _minted(self, project_id: str, purpose: str, above: WrappedKey | None) -> list[WrappedKey]:
        made = []
        if above is None:
            current = self._roots.current
            info = _first(project_id, PROJECT, current.name)
            above = self._envelopes.mint_project_key(info)
            made.append(above)
        made.append(self._envelopes.mint(above, _first(project_id, purpose, PROJECT)))
        return made

    async def unwrap(self, project_id: str, purpose: str, reason: str, by: By) -> tuple[KeyInfo, int]:
        """Hand out one key. The order is the guarantee: no key is in clear that was not recorded first.

        1. Who asks may do so (`broker.py`).
        2. to 4. `use`.
        5. Copy the key, as hexadecimal digits, into a sealed memfd whose name says nothing.
        6. Wipe all pages.
        7. Answer; the descriptor goes beside the answer, and ours is closed (`broker.py`).
        """
        if purpose == PROJECT:
            raise BadRequestError(public="a project's own key is not handed out")

        def open_into_memfd(envelopes: Envelopes, chain: Chain) -> int:
            with SecretPage(KEY_BYTES) as page:
                envelopes.open_into(chain, page.buffer)  # 4.
                return into_memfd(page)  # 5., and 6. as the block ends

        return await self.use(project_id, purpose, reason, by, work=open_into_memfd, give_back=os.close)

    async def use(
        self,
        project_id: str,
        purpose: str,
        reason: str,
        by: By,
        *,
        work: Callable[[Envelopes, Chain], T],
        give_back: Callable[[T], None],
    ) -> tuple[KeyInfo, T]:
        """Have `work` open one key, recorded before it does. `give_back` takes a result that nobody waits for any more.

        2. Find the newest enabled version of the key, and whether the project's keys may be used: not those of a deleted
           project, though it can be recovered, whoever asks.
        3. Record its use, and commit. If that fails for whatever reason, refuse.
        4. Open the envelopes, from the outermost in, each into a page of its own. A key service that does not answer is
           asked again for PROVIDER_PATIENCE_S.
        """
        # 2.
        async with self._database.transaction() as tx:
            keys = (await store.keys_of(tx, [project_id]))[project_id]
            key = rotation.newest(keys, purpose)
            refusal = _unusable(key) or await _closed(tx, project_id)
            # 3. Leaving the block commits. What is refused is recorded as well.
            event = _attempt(by, key, project_id, reason, refusal)
            await record(tx, event)
        if refusal is not None:
            raise refusal
        assert key is not None
        # 4.
        try:
            chain = rotation.chain_of(keys, key)
            is_remote = self._envelopes.provider_of(chain).is_remote
            return key.info, await self._with_provider(is_remote, lambda: work(self._envelopes, chain), give_back)
        except CloisterError as error:
            await self._record_failure(event, error)
            raise

    async def list(self, project_id: str | None) -> list[KeyInfo]:
        async with self._database.reading() as tx:
            return await store.list_keys(tx, project_id)

    # -- a project's keys as a whole

    async def ring(self, project_id: str) -> RingInfo:
        async with self._database.transaction() as tx:
            return await self._ring_info(tx, project_id)

    async def change(self, project_id: str, change: str, days: int, reason: str, by: By) -> RingInfo:
        """Disable, enable, schedule the destruction, cancel it. Computes that run are not touched: no key is taken back."""
        what = CHANGES.get(change)
        if what is None:
            raise BadRequestError(public=f"a change is one of {', '.join(CHANGES)}")
        if what.target == PENDING and not WAITING_DAYS_MIN <= days <= WAITING_DAYS_MAX:
            raise BadRequestError(public=f"keys are destroyed after {WAITING_DAYS_MIN} to {WAITING_DAYS_MAX} days")
        async with self._database.transaction() as tx:
            await store.lock_projects(tx, project_id)
            before = await self._ring_info(tx, project_id)
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
            after = await self._ring_info(tx, project_id)
            await record(tx, by.event(what.action, project_id=project_id, reason=reason, details=details))
            return after

    async def destroy(self, project_id: str, by: By) -> int:
        """The erasure: every version of every key, and the seal without which no copy of them opens. The seal goes after
        the commit; if we die in between, `reconcile` takes it."""
        async with self._database.transaction() as tx:
            await store.lock_projects(tx, project_id)
            destroyed = await store.destroy(tx, project_id)
            if destroyed:
                await store.change_ring(tx, project_id, DISABLED, None)
                await record(tx, *(by.event(Action.KEY_DESTROY, info) for info in destroyed))
        await asyncio.to_thread(self._keystore.erase, {project_id})
        return len(destroyed)

    async def _ring_info(self, tx: Transaction, project_id: str) -> RingInfo:
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

    # -- policies

    async def policy(self, org_id: str) -> int:
        async with self._database.reading() as tx:
            return await store.policy_days(tx, org_id)

    async def set_policy(self, org_id: str, days: int, by: By) -> int:
        if not 1 <= days <= POLICY_DAYS_MAX:
            raise BadRequestError(public=f"keys are rotated every 1 to {POLICY_DAYS_MAX} days")
        async with self._database.transaction() as tx:
            await store.set_policy(tx, org_id, days)
            await record(tx, by.event(Action.KEY_POLICY, org_id=org_id, details={"rotate_days": days}))
        return days

    # -- rotation

    async def rotate(self, project_id: str, by: By) -> RingInfo:
        """A new key of the project's own, now."""
        before = await self.ring(project_id)
        if before.state != "enabled":
            raise PreconditionError(public=f"the keys of this project are {before.state}")
        if not await self._rotate([project_id], by, renew=True):
            raise ConflictError(public="the keys of this project were changed meanwhile")
        return await self.ring(project_id)

    async def _rotate(self, project_ids: Sequence[str], by: By, *, renew: bool) -> int:
        """Rotate or rewrap some projects. The number done; a project whose keys changed meanwhile is left for another time.

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
                return 0
            await record(tx, *(by.event(Action.KEY_UNWRAP, _used(it), reason=reason) for it in plans))
        # 2.
        await asyncio.to_thread(self._keystore.ensure, *(it.project_id for it in plans))
        is_remote = any(provider.is_remote for provider in self._roots.all)
        made: list[tuple[Plan, list[WrappedKey]]] = []
        for it in plans:
            try:
                rows = await self._with_provider(is_remote, lambda it=it: rotation.carry_out(it, self._envelopes))  # type: ignore[misc]
            except ProviderUnavailableError:
                raise
            except CloisterError as error:
                self._damaged.add(it.project_id)
                await self._record_failure(by.event(Action.KEY_ROTATE, it.top, reason=reason), error)
            else:
                made.append((it, rows))
        # 3.
        async with self._database.transaction() as tx:
            await store.lock_projects(tx, *(it.project_id for it, _ in made))
            known = [it.project_id for it, _ in made]
            keys = await store.keys_of(tx, await store.enabled_among(tx, known) if renew else known)
            made = [(it, rows) for it, rows in made if planned(it.project_id, keys.get(it.project_id, [])) == it]
            if not made:
                return 0
            await store.insert(tx, *(row for _, rows in made for row in rows))
            await store.mark_rotated(tx, [it.project_id for it, _ in made if it.has_new_material], self._clock.now())
            await record(tx, *(by.event(Action.KEY_ROTATE, it.top, reason=reason) for it, _ in made))
        return len(made)

    async def reload_roots(self, by: By) -> int:
        """Take another root key. It is tried first, and recorded before it wraps anything."""
        if self._open_roots is None:
            raise PreconditionError(public="this broker has one root key")
        roots = await asyncio.to_thread(self._open_roots)
        await self._with_provider(roots.current.is_remote, lambda: _try(roots))
        details = {"provider": roots.current.name, "root_version": roots.current.root_version}
        async with self._database.transaction() as tx:
            await record(tx, by.event(Action.KEY_ROOT, details=details))
        self._roots.become(roots)
        self._damaged.clear()
        self.due.set()
        return len(roots.all)

    async def reconcile(self) -> None:
        """What is due by the clock; a pass may be cut anywhere, and the next goes on.

        1. Destroy what was scheduled.
        2. Bring what stands under a former root to the current one.
        3. Rotate what its organization's policy says is old.
        4. Let superseded versions go.
        5. Take the seals of destroyed projects, where a destruction was cut short.
        """
        current = self._roots.current
        # 1.
        async with self._database.reading() as tx:
            due = await store.due_for_destruction(tx, self._clock.now())
        for project_id in due:
            await self._destroy_as_scheduled(project_id)
        # 2.
        while True:
            async with self._database.reading() as tx:
                strays = await store.under_other_roots(
                    tx, current.name, current.root_version, [*self._damaged], rotation.BATCH
                )
            if not strays or not await self._rotate(strays, OURSELVES, renew=False):
                break
        # 3.
        while True:
            async with self._database.reading() as tx:
                old = await store.overdue(tx, self._clock.now(), [*self._damaged], rotation.BATCH)
            if not old or not await self._rotate(old, OURSELVES, renew=True):
                break
        # 4.
        async with self._database.transaction() as tx:
            if gone := await store.destroy_superseded(tx, _SUPERSEDED_BATCH):
                await record(tx, *(OURSELVES.event(Action.KEY_DESTROY, info, reason="superseded") for info in gone))
        # 5.
        async with self._database.reading() as tx:
            erased = await store.destroyed_among(tx, [*self._keystore.project_ids()])
        if erased:
            await asyncio.to_thread(self._keystore.erase, set(erased))

    async def _destroy_as_scheduled(self, project_id: str) -> None:
        try:
            await self.destroy(project_id, OURSELVES)
        except UnprocessableError as error:
            # A branch was protected after all: the promise to keep it is the later one. The keys stay disabled.
            async with self._database.transaction() as tx:
                await store.change_ring(tx, project_id, DISABLED, None)
                event = OURSELVES.event(Action.KEY_DESTROY, project_id=project_id, details={"error": error.public})
                await record(tx, msgspec.structs.replace(event, outcome="failed"))

    async def keystore(self) -> KeystoreInfo:
        """Which root keys there are, and how many projects stand under each."""
        async with self._database.reading() as tx:
            counts = {(name, version): number for name, version, number in await store.count_by_root(tx)}
        held = [(provider.name, provider.root_version) for provider in self._roots.all]
        return KeystoreInfo(
            epoch=self._keystore.epoch,
            seals=len(self._keystore.project_ids()),
            roots=[
                RootCount(
                    provider=root[0],
                    root_version=root[1],
                    is_current=root == held[0],
                    is_held=root in held,
                    projects=counts.get(root, 0),
                )
                for root in [*held, *sorted(counts.keys() - held)]
            ],
        )

    # -- the provider, and what is written down

    async def _with_provider(
        self, is_remote: bool, function: Callable[[], T], give_back: Callable[[T], None] | None = None
    ) -> T:
        """Open or make envelopes; in a thread where a provider may have to be waited for, and again while it does not
        answer. `give_back` takes a result that nobody waits for any more."""
        if not is_remote:
            return function()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._patience_s
        while True:
            # The thread owns the pages it writes to, and is not interrupted: it ends with its own patience.
            call = asyncio.ensure_future(asyncio.to_thread(function))
            try:
                return await asyncio.shield(call)
            except asyncio.CancelledError:
                if give_back is not None:
                    call.add_done_callback(lambda it: None if it.exception() else give_back(it.result()))
                raise
            except ProviderUnavailableError:
                if loop.time() >= deadline:
                    raise
            await asyncio.sleep(_RETRY_S)

    async def _record_failure(self, event: Event, error: CloisterError) -> None:
        """Beside the event of the attempt, which is in the log already: this one may be lost."""
        log.error("%s of %s: %s", event.action, event.project_id, error)
        with contextlib.suppress(CloisterError):
            async with self._database.transaction() as tx:
                await record(tx, msgspec.structs.replace(event, outcome="failed", details={"error": error.public}))


def _try(roots: Roots) -> None:
    """Raises KeyDamagedError if the current root does not give back what it wraps, or does for another project."""
    here, elsewhere = Context("", "trial", 1), Context("", "trial", 2)
    with SecretPage(KEY_BYTES) as page, SecretPage(KEY_BYTES) as again:
        page.fill_randomly()
        wrapped = roots.current.wrap(page.buffer, here)
        roots.current.unwrap_into(wrapped, here, again.buffer)
        if page.buffer != again.buffer:
            raise KeyDamagedError(f"{roots.current.name} does not give back what it wrapped")
        with contextlib.suppress(KeyDamagedError):
            roots.current.unwrap_into(wrapped, elsewhere, again.buffer)
            raise PreconditionError(public=f"{roots.current.name} does not authenticate what a key is for")


def _created(keys: Sequence[WrappedKey], purpose: str) -> KeyInfo | None:
    """The key that is there. Raises ConflictError if it, or the project's own, is no longer."""
    known = rotation.newest(keys, purpose)
    for key in (known, rotation.newest(keys, PROJECT)):
        if key is not None and not key.is_enabled:
            raise ConflictError(public=f"the key of this project is {key.info.state}")
    return known.info if known is not None else None


def _first(project_id: str, purpose: str, provider: str) -> KeyInfo:
    return KeyInfo(
        project_id=project_id,
        purpose=purpose,
        version=1,
        state="enabled",
        provider=provider,
        created_at="",  # the database's clock
    )


def into_memfd(page: SecretPage) -> int:
    """The key in the page, as it leaves the broker."""
    with SecretPage(2 * KEY_BYTES) as digits:
        write_hexadecimal(page.buffer, digits.buffer)
        return sealed_memfd(digits.buffer, "cloister")


def _unusable(key: WrappedKey | None) -> CloisterError | None:
    if key is None:
        return NotFoundError(public="this project has no key")
    if not key.is_enabled:
        return PreconditionError(public=f"the key of this project is {key.info.state}")
    return None


async def _closed(tx: Transaction, project_id: str) -> CloisterError | None:
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


def _attempt(by: By, key: WrappedKey | None, project_id: str, reason: str, refusal: CloisterError | None) -> Event:
    """The event of a use, or of its refusal."""
    event = by.event(Action.KEY_UNWRAP, key.info if key is not None else None, project_id=project_id, reason=reason)
    if refusal is not None:
        event = msgspec.structs.replace(event, outcome="denied", details={**event.details, "refused": refusal.public})
    return event


def _used(it: Plan) -> KeyInfo:
    """What a rotation opens: the project's own key, or one from before there were any."""
    return it.project_key.info if it.project_key is not None else it.moving[0].key.info

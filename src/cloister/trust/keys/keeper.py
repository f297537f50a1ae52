"""The keeper: keys are made and handed out, each use recorded before it happens.

`broker.py` decides who may ask; this is what then happens. Whoever opens an envelope takes the same steps: which rows, the
audit event, its commit, and only then the envelope. A key that comes out is in a page of its own, and leaves as a sealed
memfd. What is done with a project's keys as a whole is `rings.py`, with those of many `rotations.py`.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from cloister.base.clock import Clock
from cloister.base.database import Database
from cloister.base.errors import BadRequestError, CloisterError, ConflictError, NotFoundError, PreconditionError
from cloister.trust.audit import Action, record
from cloister.trust.audit.events import timestamp
from cloister.trust.keys import backup, rotation, store
from cloister.trust.keys.asking import By, attempt, record_failure
from cloister.trust.keys.commands import DumpKeyInfo, KeyInfo, KeystoreCopy, KeystoreInfo, RootCount
from cloister.trust.keys.envelopes import Chain, Envelopes
from cloister.trust.keys.keystore import Keystore
from cloister.trust.keys.memory import SecretPage, sealed_memfd, write_hexadecimal
from cloister.trust.keys.patience import PROVIDER_PATIENCE_S, Patience
from cloister.trust.keys.platform import DumpKey
from cloister.trust.keys.providers.provider import KEY_BYTES, Context, KeyDamagedError
from cloister.trust.keys.rings import Rings, closed
from cloister.trust.keys.roots import Roots
from cloister.trust.keys.rotations import Rotations
from cloister.trust.keys.store import PROJECT, VOLUME, WrappedKey

T = TypeVar("T")


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
        self.clock = clock
        self._envelopes = Envelopes(roots, keystore)
        self._patience = Patience(provider_patience_s)
        self.rings = Rings(database, keystore, clock)
        self._dump_key = DumpKey(database, roots, keystore.directory, clock, self._patience)
        self.rotations = Rotations(database, self._envelopes, self.rings, clock, patience=self._patience)

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
            refusal = await closed(tx, project_id)
            if above is not None:
                await record(tx, attempt(by, above, project_id, "create", refusal))
        if refusal is not None:
            raise refusal
        # 3.
        await asyncio.to_thread(self._keystore.ensure, project_id)
        made = await self._patience.asked(
            self._roots.current.is_remote, lambda: self._minted(project_id, purpose, above)
        )
        # 4.
        async with self._database.transaction() as tx:
            await store.lock_projects(tx, project_id)
            keys = (await store.keys_of(tx, [project_id]))[project_id]
            if (known := _created(keys, purpose)) is not None:
                return known
            if (refusal := await closed(tx, project_id)) is not None:
                raise refusal
            if (newest := rotation.newest(keys, PROJECT)) != above and len(made) > 1:
                raise ConflictError(
                    f"{newest} was made meanwhile", public="another key of this project was made meanwhile"
                )
            await store.insert(tx, *made)
            await store.ensure_ring(tx, project_id, self.clock.now())
            keys = (await store.keys_of(tx, [project_id]))[project_id]
            info = _created(keys, purpose)
            assert info is not None
            await record(tx, *(by.event(Action.KEY_CREATE, key.info) for key in made))
            return info

    async def renew(self, project_id: str, beyond: int, by: By) -> KeyInfo:
        """A further key for the project's volume. The one it has stays.

        1. Is there one beyond the one it has? That is the answer.
        2. Record that the project's own key will be opened, and commit.
        3. Mint, and write, if nobody was quicker.
        """
        # 1. and 2.
        async with self._database.transaction() as tx:
            await store.lock_projects(tx, project_id)
            keys = (await store.keys_of(tx, [project_id]))[project_id]
            newest, above = rotation.newest(keys, VOLUME), rotation.newest(keys, PROJECT)
            refusal = _unusable(newest) or _unusable(above) or await closed(tx, project_id)
            if refusal is None and newest is not None and newest.info.material > beyond:
                return newest.info
            await record(tx, attempt(by, above, project_id, "renew", refusal))
        if refusal is not None:
            raise refusal
        # 3.
        assert newest is not None
        assert above is not None
        info = msgspec.structs.replace(
            newest.info, version=rotation.following(keys, VOLUME), material=_further(keys), provider=PROJECT
        )
        made = await self._patience.asked(
            self._roots.find(above.info.provider, above.root_version).is_remote,
            lambda: self._envelopes.mint(above, info),
        )
        async with self._database.transaction() as tx:
            await store.lock_projects(tx, project_id)
            if (refusal := await closed(tx, project_id)) is not None:
                raise refusal
            if (await store.keys_of(tx, [project_id]))[project_id] != keys:
                raise ConflictError(public="the keys of this project were changed meanwhile")
            await store.insert(tx, made)
            await record(tx, by.event(Action.KEY_CREATE, info, reason="reencrypt", details={"material": info.material}))
            return info

    async def retire(self, project_id: str, material: int, by: By) -> int:
        """Destroy one of two keys of the project's volume. Raises ConflictError for the last one."""
        async with self._database.transaction() as tx:
            await store.lock_projects(tx, project_id)
            keys = (await store.keys_of(tx, [project_id]))[project_id]
            if not any(key.is_enabled and key.info.material != material for key in keys if key.info.purpose == VOLUME):
                raise ConflictError(public="this is the only key of the project's volume")
            destroyed = await store.destroy_material(tx, project_id, VOLUME, material)
            if destroyed:
                await record(tx, *(by.event(Action.KEY_DESTROY, info, reason="reencrypted") for info in destroyed))
            return len(destroyed)

    def _minted(self, project_id: str, purpose: str, above: WrappedKey | None) -> list[WrappedKey]:
        made = []
        if above is None:
            current = self._roots.current
            info = _first(project_id, PROJECT, current.name)
            above = self._envelopes.mint_project_key(info)
            made.append(above)
        made.append(self._envelopes.mint(above, _first(project_id, purpose, PROJECT)))
        return made

    async def unwrap(
        self, project_id: str, purpose: str, reason: str, by: By, *, material: int | None = None
    ) -> tuple[KeyInfo, int]:
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

        return await self.use(
            project_id, purpose, reason, by, material=material, work=open_into_memfd, give_back=os.close
        )

    async def use(
        self,
        project_id: str,
        purpose: str,
        reason: str,
        by: By,
        *,
        material: int | None = None,
        work: Callable[[Envelopes, Chain], T],
        give_back: Callable[[T], None],
    ) -> tuple[KeyInfo, T]:
        """Have `work` open one key, recorded before it does. `give_back` takes a result that nobody waits for any more.

        2. Find the newest enabled version of the key (of this material), and whether the project's keys may be used: not those of a deleted
           project, though it can be recovered, whoever asks.
        3. Record its use, and commit. If that fails for whatever reason, refuse.
        4. Open the envelopes, from the outermost in, each into a page of its own. A key service that does not answer is
           asked again for PROVIDER_PATIENCE_S.
        """
        # 2.
        async with self._database.transaction() as tx:
            keys = (await store.keys_of(tx, [project_id]))[project_id]
            key = rotation.newest(keys, purpose, material)
            refusal = _unusable(key) or await closed(tx, project_id)
            # 3. Leaving the block commits. What is refused is recorded as well.
            event = attempt(by, key, project_id, reason, refusal)
            await record(tx, event)
        if refusal is not None:
            raise refusal
        assert key is not None
        # 4.
        try:
            chain = rotation.chain_of(keys, key)
            is_remote = self._envelopes.provider_of(chain).is_remote
            return key.info, await self._patience.asked(is_remote, lambda: work(self._envelopes, chain), give_back)
        except CloisterError as error:
            await record_failure(self._database, event, error)
            raise

    async def ensure_seal(self, name: str) -> None:
        """In the keystore, of its own, for something smaller than a project: `PROJECT/…`. It goes when the project's does."""
        await asyncio.to_thread(self._keystore.ensure, name)

    async def list(self, project_id: str | None) -> list[KeyInfo]:
        async with self._database.reading() as tx:
            return await store.list_keys(tx, project_id)

    async def reload_roots(self, by: By) -> int:
        """Take another root key. It is tried first, and recorded before it wraps anything."""
        if self._open_roots is None:
            raise PreconditionError(public="this broker has one root key")
        roots = await asyncio.to_thread(self._open_roots)
        await self._patience.asked(roots.current.is_remote, lambda: _try(roots))
        details = {"provider": roots.current.name, "root_version": roots.current.root_version}
        async with self._database.transaction() as tx:
            await record(tx, by.event(Action.KEY_ROOT, details=details))
        self._roots.become(roots)
        self.rotations.try_all_again()
        self.due.set()
        return len(roots.all)

    async def reconcile(self) -> None:
        """What is due by the clock; a pass may be cut anywhere, and the next goes on.

        1. Destroy what was scheduled.
        2. Take the seals of destroyed projects, where a destruction was cut short. Neither needs a root key: what was promised
           to be gone does not wait for a key service that is away, as the rest does.
        3. Tell what the passes of the last day could not rotate.
        4. Bring what stands under a former root to the current one.
        5. Rotate what its organization's policy says is old.
        6. Let superseded versions go.
        """
        await self.rings.destroy_what_is_due()  # 1.
        await self.rings.complete_erasures()  # 2.
        await self.rotations.tell_what_is_overdue()  # 3.
        await self.rotations.move_to_current_root()  # 4.
        await self.rotations.rotate_what_is_old()  # 5.
        await self.rotations.let_superseded_go()  # 6.

    async def copy_keystore(self, by: By) -> KeystoreCopy:
        """The epoch's key, under the root key, for a backup.

        1. Record it, and commit.
        2. Wrap the key, bound to the seals that belong to it, while nobody is erased.
        """
        root, made_at = self._roots.current, timestamp(self.clock.now())
        async with self._database.transaction() as tx:  # 1.
            details = {"epoch": self._keystore.epoch, "provider": root.name, "root_version": root.root_version}
            await record(tx, by.event(Action.KEY_BACKUP, details=details))

        def bound(epoch: int, content: bytes) -> Context:
            return backup.context_of(epoch, made_at, backup.digest(content))

        epoch, content, wrapped = await self._patience.asked(  # 2.
            root.is_remote, lambda: self._keystore.copied(root, bound)
        )
        return KeystoreCopy(
            epoch=epoch,
            made_at=made_at,
            sha256=backup.digest(content),
            provider=root.name,
            root_version=root.root_version,
            epoch_key=wrapped,
        )

    async def dump_key(self, reason: str, by: By) -> tuple[DumpKeyInfo, int]:
        """The key of the control database's dumps, handed out as `unwrap` does it."""
        envelope, page = await self._dump_key.taken(by, reason)
        with page:
            descriptor = into_memfd(page)
        content = msgspec.json.encode(envelope)
        return DumpKeyInfo(material=envelope.material, envelope=content, epoch=self._keystore.epoch), descriptor

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


def _further(keys: Sequence[WrappedKey]) -> int:
    """A material that the volume never had, nor was to have."""
    return max(key.info.material for key in keys if key.info.purpose == VOLUME) + 1


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

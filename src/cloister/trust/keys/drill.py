"""The drill: a backup of the keystore is put back in a directory of its own, and opens some projects' keys. No volume is opened.

1. Put it back, as `backup.restore` does, which refuses what it would refuse: the root key opens it, every seal opens. What was put
   there goes as soon as it is read: who ends us leaves no epoch key behind, which the next erasure would not find.
2. Choose projects at random among those that have a seal in it and a key that may be used.
3. Record that their keys will be opened, and commit. (5. of ARCHITECTURE.md: a key's use is recorded before the key is used.)
4. Open each project's own key, and the keys of its volume and of its backups, in a page that is wiped. None leaves this function.
5. Record what came of it.
"""

import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloister.base.database import Database
from cloister.base.errors import CloisterError, PreconditionError
from cloister.trust.audit import Action, Event, record
from cloister.trust.keys import backup as backups
from cloister.trust.keys import store
from cloister.trust.keys.backup import Backup
from cloister.trust.keys.commands import BACKUP
from cloister.trust.keys.envelopes import Envelopes
from cloister.trust.keys.keystore import Keystore
from cloister.trust.keys.memory import SecretPage
from cloister.trust.keys.providers.provider import KEY_BYTES
from cloister.trust.keys.roots import Roots
from cloister.trust.keys.rotation import chain_of, newest
from cloister.trust.keys.store import PROJECT, VOLUME, WrappedKey

SAMPLE: Final = 16
"""Projects. What is wrong with a backup is wrong with all of it, or with what came after it, which is counted."""

REASON: Final = "drill"
_ACTOR: Final = "platform:root"


@dataclass(frozen=True, slots=True)
class Drilled:
    epoch: int
    seals: int
    projects: int
    """Whose keys were opened."""
    later: int
    """Projects that have no seal in this backup: they are from after it, and would be lost."""


async def drill(
    database: Database, backup: Backup, roots: Roots, scratch: Path, *, newest_known: int, has_shares: bool
) -> Drilled:
    """`database` as its owner, `scratch` an empty directory of nobody else's, which the caller removes. Raises what `backup.restore`
    does, PreconditionError where no project is in the backup, and KeyDamagedError for a key that does not open."""
    details: dict[str, object] = {"epoch": backup.epoch, "made_at": backup.made_at, "with_shares": has_shares}
    try:
        found = await _tried(database, backup, roots, scratch, newest_known)
    except CloisterError as error:
        await _note(database, "failed", details | {"error": error.public})
        raise
    await _note(database, "ok", details | {"projects": found.projects, "later": found.later})  # 5.
    return found


async def _tried(database: Database, backup: Backup, roots: Roots, scratch: Path, newest_known: int) -> Drilled:
    directory, epochs = scratch / "keystore", scratch / "epochs"
    for each in (directory, epochs):
        each.mkdir(mode=0o700)
    try:
        seals = backups.restore(backup, roots, directory, epochs, newest_known=newest_known)  # 1.
        keystore = Keystore(directory, epochs, may_begin=False)
    finally:
        for each in (directory, epochs):
            shutil.rmtree(each)
    try:
        async with database.transaction() as tx:  # 2. and 3.
            rows = await tx.fetch("SELECT project_id FROM key_ring WHERE state = 'enabled' ORDER BY project_id")
            living = [row["project_id"] for row in rows]
            sealed = [each for each in living if keystore.has(each)]
            if living and not sealed:
                raise PreconditionError(public=f"none of the {len(living)} projects has a seal in this backup")
            chosen = random.SystemRandom().sample(sealed, min(SAMPLE, len(sealed)))
            keys = await store.keys_of(tx, chosen)
            await record(tx, *(_use(key) for each in chosen for key in _used(keys[each])))
        envelopes = Envelopes(roots, keystore)
        for each in chosen:
            for key in _used(keys[each]):
                with SecretPage(KEY_BYTES) as page:
                    envelopes.open_into(chain_of(keys[each], key), page.buffer)  # 4.
        return Drilled(backup.epoch, seals, len(chosen), len(living) - len(sealed))
    finally:
        keystore.close()


def _used(keys: Sequence[WrappedKey]) -> list[WrappedKey]:
    found = [newest(keys, purpose) for purpose in (PROJECT, VOLUME, BACKUP)]
    return [key for key in found if key is not None and key.is_enabled]


def _use(key: WrappedKey) -> Event:
    resource = f"{key.info.purpose}/{key.info.version}"
    return Event(
        action=Action.KEY_UNWRAP, actor=_ACTOR, project_id=key.info.project_id, resource=resource, reason=REASON
    )


async def _note(database: Database, outcome: str, details: dict[str, object]) -> None:
    async with database.transaction() as tx:
        await record(tx, Event(action=Action.KEY_DRILL, actor=_ACTOR, outcome=outcome, details=details))

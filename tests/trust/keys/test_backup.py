"""A backup of the keystore: of one moment, for the root key alone, and never one that brings back what was erased."""

import shutil
from pathlib import Path
from typing import Final

import msgspec
import pytest

from cloister.base.database import Database
from cloister.base.durable import write_durably
from cloister.base.errors import CloisterError, ConflictError, PreconditionError
from cloister.trust.keys import backup as backups
from cloister.trust.keys import drill as drills
from cloister.trust.keys import keystore as keystores
from cloister.trust.keys import store
from cloister.trust.keys.backup import Backup
from cloister.trust.keys.keeper import Keeper
from cloister.trust.keys.keystore import ErasedError, Keystore, Seals
from cloister.trust.keys.providers.provider import Context, KeyDamagedError
from cloister.trust.keys.roots import Roots
from tests.fix_database import ControlDatabase, DatabaseAs
from tests.trust.keys.rig import ALICE, Rig, shows

ALIVE: Final = Context("calm-forest-12345678", "project", 1)
ERASED: Final = Context("calm-forest-87654321", "project", 1)


@pytest.fixture
async def rig(tmp_path: Path, database_as: DatabaseAs) -> Rig:
    return Rig(tmp_path, await database_as("cloister_keys"))


async def made(rig: Rig) -> Backup:
    """As `cloister keys backup` makes it."""
    return await made_by(rig, rig.keeper())


async def made_by(rig: Rig, keeper: Keeper) -> Backup:
    copy = await keeper.copy_keystore(ALICE)
    content = (rig.keystore_directory / "seals.json").read_bytes()
    assert backups.digest(content) == copy.sha256
    return Backup(
        format=backups.FORMAT,
        made_at=copy.made_at,
        epoch=copy.epoch,
        provider=copy.provider,
        root_version=copy.root_version,
        epoch_key=copy.epoch_key,
        seals=msgspec.json.decode(content, type=Seals).seals,
    )


def put_back(rig: Rig, backup: Backup, *, roots: Roots | None = None, newest_known: int = 0) -> int:
    return backups.restore(
        backup, roots or Roots(rig.root()), rig.keystore_directory, rig.epochs, newest_known=newest_known
    )


def lose(rig: Rig, *directories: str) -> None:
    for name in directories:
        shutil.rmtree(rig.directory / name)


async def test_a_keystore_that_is_gone_comes_back_and_opens_what_it_opened(rig: Rig) -> None:
    keystore = rig.keystore()
    keystore.ensure(ALIVE.project_id)
    sealed = keystore.seal(b"envelope", ALIVE)
    backup = backups.parse(msgspec.json.encode(await made(rig)))
    with pytest.raises(ConflictError, match="never replaced"):
        put_back(rig, backup)
    before = (rig.keystore_directory / "seals.json").read_bytes()
    lose(rig, "keystore", "epochs")
    assert put_back(rig, backup) == 1
    assert (rig.keystore_directory / "seals.json").read_bytes() == before
    assert {path.stat().st_mode & 0o777 for path in rig.epochs.iterdir()} == {0o600}
    assert rig.keystore().unseal(sealed, ALIVE) == b"envelope"


async def test_it_shows_no_seal_and_no_key_to_who_has_not_the_root_key(rig: Rig) -> None:
    rig.keystore().ensure(ALIVE.project_id)
    key = next(rig.epochs.iterdir()).read_bytes()
    backup = await made(rig)
    assert not shows(msgspec.json.encode(backup) + backup.epoch_key, key)
    lose(rig, "keystore", "epochs")
    with pytest.raises(PreconditionError, match="the broker holds"):
        put_back(rig, backup, roots=Roots(rig.root("another")))
    with pytest.raises(KeyDamagedError):
        put_back(
            rig,
            msgspec.structs.replace(backup, root_version=rig.root("another").root_version),
            roots=Roots(rig.root("another")),
        )
    assert [*rig.keystore_directory.iterdir()] == [*rig.epochs.iterdir()] == []


@pytest.mark.parametrize("change", ["epoch", "made_at", "a seal taken out", "a seal of another", "the key"])
async def test_whatever_is_changed_in_it_is_found_and_nothing_is_written(rig: Rig, change: str) -> None:
    rig.keystore().ensure(ALIVE.project_id, ERASED.project_id)
    backup = await made(rig)
    seals = dict(backup.seals)
    match change:
        case "epoch":
            backup = msgspec.structs.replace(backup, epoch=2)
        case "made_at":
            backup = msgspec.structs.replace(backup, made_at="2027-01-01T00:00:00.000000Z")
        case "a seal taken out":
            seals.pop(ALIVE.project_id)
        case "a seal of another":
            seals[ALIVE.project_id] = seals[ERASED.project_id]
        case _:
            backup = msgspec.structs.replace(backup, epoch_key=backup.epoch_key[:-1] + b"x")
    lose(rig, "keystore", "epochs")
    with pytest.raises(KeyDamagedError):
        put_back(rig, msgspec.structs.replace(backup, seals=seals))
    assert [*rig.keystore_directory.iterdir()] == [*rig.epochs.iterdir()] == []


async def test_one_from_before_an_erasure_is_refused_where_anything_knows_of_it(rig: Rig) -> None:
    """By an epoch key that is left, and by who remembers the epoch. Today's brings back all but what was erased."""
    keystore = rig.keystore()
    keystore.ensure(ALIVE.project_id, ERASED.project_id)
    sealed = keystore.seal(b"envelope", ERASED)
    old = await made(rig)
    keystore.close()
    keystore = rig.keystore()
    keystore.erase({ERASED.project_id})
    new = await made(rig)
    assert (old.epoch, new.epoch) == (1, 2)
    lose(rig, "keystore")
    with pytest.raises(PreconditionError, match="what was erased since would be back"):
        put_back(rig, old)
    lose(rig, "epochs")
    with pytest.raises(PreconditionError, match="what was erased since would be back"):
        put_back(rig, old, newest_known=2)
    assert [*rig.keystore_directory.iterdir()] == [*rig.epochs.iterdir()] == []
    put_back(rig, new, newest_known=2)
    with pytest.raises(ErasedError):
        rig.keystore().unseal(sealed, ERASED)


async def test_a_restore_that_was_cut_goes_on(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the epoch key and the seals nothing starts."""
    rig.keystore().ensure(ALIVE.project_id)
    backup = await made(rig)
    lose(rig, "keystore", "epochs")

    def die(*_: object, **__: object) -> None:
        raise OSError("the power went")

    with monkeypatch.context() as patched:
        patched.setattr(backups, "write_durably", die)
        with pytest.raises(OSError, match="the power went"):
            put_back(rig, backup)
    with pytest.raises(PreconditionError, match="is missing"):
        Keystore(rig.keystore_directory, rig.epochs, may_begin=False)
    assert put_back(rig, backup) == 1


async def test_one_made_after_an_erasure_failed_in_its_last_step_comes_back(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker still holds the epoch before, and the seals on disk are of the next."""
    keystore = rig.keystore()
    keystore.ensure(ALIVE.project_id, ERASED.project_id)
    sealed = keystore.seal(b"envelope", ALIVE)
    keeper = rig.keeper()

    def write_and_fail(path: Path, content: bytes, *, mode: int) -> None:
        write_durably(path, content, mode=mode)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(keystores, "write_durably", write_and_fail)
        with pytest.raises(OSError, match="No space"):
            keeper._keystore.erase({ERASED.project_id})
    backup = await made_by(rig, keeper)
    assert backup.epoch == 2
    lose(rig, "keystore", "epochs")
    assert put_back(rig, backup) == 1
    assert rig.keystore().unseal(sealed, ALIVE) == b"envelope"


async def test_the_making_of_one_is_recorded_before_it_is_made(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, database_as: DatabaseAs
) -> None:
    keeper = rig.keeper()
    await keeper.copy_keystore(ALICE)
    assert await actions(await database_as("cloister_api")) == ["key.backup"]

    async def full(*_: object) -> int:
        raise PreconditionError("the disk is full")

    monkeypatch.setattr("cloister.trust.keys.keeper.record", full)
    monkeypatch.setattr(Keystore, "copied", None)
    with pytest.raises(PreconditionError):
        await keeper.copy_keystore(ALICE)


async def actions(database: Database) -> list[str]:
    async with database.reading() as tx:
        return [row["action"] for row in await tx.fetch("SELECT action FROM audit_event ORDER BY seq")]


# ── the drill ──


async def test_a_drill_fails_where_restore_would_refuse_and_where_nothing_would_come_back(
    rig: Rig, control_database: ControlDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It tells the log, and the epoch's key does not lie in its directory any more while the database is waited for."""
    empty = await made(rig)
    await rig.keeper().create(ALIVE.project_id, "volume", ALICE)
    old = await made(rig)
    scratch = rig.directory / "scratch"
    scratch.mkdir()
    owner = Database(url=control_database.url())
    await owner.open()
    try:
        for backup, newest_known, why in ((old, 2, "what was erased since"), (empty, 1, "none of the 1 projects")):
            with pytest.raises(PreconditionError, match=why):
                await drills.drill(
                    owner, backup, Roots(rig.root()), scratch, newest_known=newest_known, has_shares=False
                )
            assert (await actions(owner))[-1] == "key.drill"
            assert [*scratch.iterdir()] == []

        async def look(*_: object) -> None:
            assert [*scratch.iterdir()] == []
            raise PreconditionError(public="looked")

        monkeypatch.setattr(store, "keys_of", look)
        with pytest.raises(PreconditionError, match="looked"):
            await drills.drill(owner, old, Roots(rig.root()), scratch, newest_known=1, has_shares=False)
    finally:
        await owner.close()


async def test_a_drill_opens_the_keys_of_projects_and_tells_before(rig: Rig, control_database: ControlDatabase) -> None:
    keeper = rig.keeper()
    for purpose in ("volume", "backup"):
        await keeper.create(ALIVE.project_id, purpose, ALICE)
    backup = await made(rig)
    later = rig.keeper()
    await later.create(ERASED.project_id, "volume", ALICE)
    scratch = rig.directory / "scratch"
    scratch.mkdir()
    owner = Database(url=control_database.url())
    await owner.open()
    try:
        found = await drills.drill(owner, backup, Roots(rig.root()), scratch, newest_known=1, has_shares=True)
        assert (found.seals, found.projects, found.later) == (1, 1, 1)
        assert [*scratch.iterdir()] == []
        assert (await actions(owner))[-4:] == [*["key.unwrap"] * 3, "key.drill"]
        shutil.rmtree(scratch)
        scratch.mkdir()
        async with owner.transaction() as tx:
            await tx.execute(
                "UPDATE wrapped_key SET wrapped = set_byte(wrapped, 40, 1 + get_byte(wrapped, 40) % 200) WHERE project_id = $1",
                ALIVE.project_id,
            )
        with pytest.raises(CloisterError):
            await drills.drill(owner, backup, Roots(rig.root()), scratch, newest_known=1, has_shares=False)
        async with owner.reading() as tx:
            [last] = await tx.fetch("SELECT body FROM audit_event ORDER BY seq DESC LIMIT 1")
        assert '"action":"key.drill"' in last["body"]
        assert '"outcome":"failed"' in last["body"]
    finally:
        await owner.close()

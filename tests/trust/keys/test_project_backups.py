"""The key of a project's backups stands below its project's: rotated with it, and erased with it, which ends what was sealed."""

import os
from pathlib import Path
from typing import Final

import pytest

from cloister.base.database import Database
from cloister.base.errors import ConflictError, PreconditionError
from cloister.protocol.backups.errors import BackupError
from cloister.protocol.backups.sealing import BackupKey
from cloister.trust.keys.commands import BACKUP
from cloister.trust.keys.keystore import ErasedError
from tests.fix_database import DatabaseAs
from tests.trust.keys.rig import ALICE, Rig, read_key
from tests.trust.keys.test_keeper import dump, put_back

PROJECT: Final = "calm-forest-12345678"
NEIGHBOUR: Final = "calm-forest-87654321"
NAME: Final = f"projects/{PROJECT}/chunks/ab/abcd"


@pytest.fixture
async def database(database_as: DatabaseAs) -> Database:
    return await database_as("cloister_keys")


@pytest.fixture
def rig(tmp_path: Path, database: Database) -> Rig:
    return Rig(tmp_path, database)


def sealed(secret: bytes) -> bytes:
    return BackupKey(secret, PROJECT, 1).seal(NAME, b"rows", os.urandom(12))


def opened(secret: bytes, content: bytes) -> bytes:
    return BackupKey(secret, PROJECT, 1).open(NAME, content)


async def test_what_was_sealed_opens_after_a_rotation_and_under_another_root(rig: Rig) -> None:
    keeper = rig.keeper()
    await keeper.create(PROJECT, BACKUP, ALICE)
    content = sealed(await read_key(keeper, PROJECT, BACKUP))
    await keeper.rotations.rotate(PROJECT, ALICE)
    assert {(it.purpose, it.version, it.material) for it in await keeper.list(PROJECT)} == {
        ("project", 1, 1), ("project", 2, 2), (BACKUP, 1, 1), (BACKUP, 2, 1),
    }  # fmt: skip
    await rig.keeper(rig.root("second"), rig.root("root")).reconcile()
    assert opened(await read_key(rig.keeper(rig.root("second")), PROJECT, BACKUP), content) == b"rows"


async def test_the_backup_of_an_erased_project_does_not_open_also_with_the_control_database_put_back(
    rig: Rig,
) -> None:
    keeper = rig.keeper()
    for project_id in (PROJECT, NEIGHBOUR):
        await keeper.create(project_id, BACKUP, ALICE)
    content = sealed(await read_key(keeper, PROJECT, BACKUP))
    rows = await dump(rig.database)
    await keeper.rings.destroy(PROJECT, ALICE)
    with pytest.raises(PreconditionError, match="destroyed"):
        await read_key(keeper, PROJECT, BACKUP)
    with pytest.raises(ConflictError, match="destroyed"):
        await keeper.create(PROJECT, BACKUP, ALICE)
    await put_back(rig.database, rows)
    async with rig.database.transaction() as tx:
        await tx.execute("UPDATE key_ring SET state = 'enabled'")
    with pytest.raises(ErasedError):
        await read_key(rig.keeper(), PROJECT, BACKUP)
    with pytest.raises(BackupError):
        opened(await read_key(rig.keeper(), NEIGHBOUR, BACKUP), content)

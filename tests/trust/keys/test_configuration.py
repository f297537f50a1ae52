"""Which root keys a platform has: what cannot be read is refused, and a new root is tried before it is believed."""

from pathlib import Path
from typing import Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.base.database import Database
from cloister.base.errors import CloisterError, PreconditionError
from cloister.trust.audit.reader import events
from cloister.trust.keys.keeper import Keeper
from cloister.trust.keys.providers import FileProvider
from cloister.trust.keys.providers import configuration as configurations
from cloister.trust.keys.providers.configuration import Configuration, FileRoot, FirstRoot, parse_root
from cloister.trust.keys.providers.provider import Context, KeyDamagedError
from cloister.trust.keys.roots import Roots
from tests.fix_database import DatabaseAs
from tests.trust.keys.rig import ALICE, Rig, read_key

PROJECT: Final = "calm-forest-12345678"


@given(st.binary(max_size=200))
def test_what_an_operator_writes_is_a_root_or_is_refused(text: bytes) -> None:
    try:
        root = parse_root(text)
    except PreconditionError:
        return
    assert parse_root(msgspec.json.encode(root)) == root


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"kind": "melted"}',
        '{"kind": "file"}',
        '{"kind": "file", "path": "a", "pin": "1234"}',
        '{"kind": "aws-kms", "key_id": 7, "region": "here"}',
    ],
)
def test_half_a_root_is_none(text: str) -> None:
    with pytest.raises(PreconditionError, match="not the description of a root key"):
        parse_root(text.encode())


def test_what_was_current_becomes_a_former_one(tmp_path: Path) -> None:
    path = tmp_path / "key-providers.json"
    one, two = FileRoot(path="/one"), FileRoot(path="/two")
    assert configurations.load(path) == Configuration(current=FirstRoot())
    moved = configurations.load(path).moved_to(one).moved_to(two)
    assert moved == Configuration(current=two, former=[one, FirstRoot()])
    assert moved.moved_to(two) == moved, "twice is once"
    assert moved.moved_to(one) == Configuration(current=one, former=[two, FirstRoot()]), "and back"
    configurations.save(path, moved)
    assert configurations.load(path) == moved
    path.write_bytes(b'{"current": {}}')
    with pytest.raises(PreconditionError, match=r"key-providers\.json"):
        configurations.load(path)


class Careless(FileProvider):
    """Opens an envelope whatever it is for."""

    def wrap(self, plaintext: memoryview, context: Context) -> bytes:
        return super().wrap(plaintext, Context("", "any", 1))

    def unwrap_into(self, wrapped: bytes, context: Context, buffer: memoryview) -> None:
        super().unwrap_into(wrapped, Context("", "any", 1), buffer)


class Forgetful(FileProvider):
    """Does not give back what it wrapped."""

    def unwrap_into(self, wrapped: bytes, context: Context, buffer: memoryview) -> None:
        super().unwrap_into(wrapped, context, buffer)
        buffer[0] ^= 1


@pytest.fixture
async def database(database_as: DatabaseAs) -> Database:
    return await database_as("cloister_keys")


def reloading(rig: Rig, roots: Roots) -> Keeper:
    return Keeper(rig.database, Roots(rig.root()), rig.keystore(), rig.clock, open_roots=lambda: roots)


@pytest.mark.parametrize("kind", [Careless, Forgetful])
async def test_a_root_that_cannot_be_trusted_changes_nothing(
    kind: type[FileProvider], tmp_path: Path, database: Database, database_as: DatabaseAs
) -> None:
    rig = Rig(tmp_path, database)
    rig.root("second").close()
    keeper = reloading(rig, Roots(kind(tmp_path / "second.key"), [rig.root()]))
    await keeper.create(PROJECT, "volume", ALICE)
    with pytest.raises((KeyDamagedError, PreconditionError)):
        await keeper.reload_roots(ALICE)
    assert [root.root_version for root in (await keeper.keystore()).roots] == [rig.root().root_version]
    async with (await database_as("cloister_api")).reading() as tx:
        assert "key.root" not in [it.event.action for it in await events(tx)]


async def test_a_root_is_taken_after_it_was_recorded_and_what_stands_elsewhere_is_due(
    tmp_path: Path, database: Database, database_as: DatabaseAs
) -> None:
    rig = Rig(tmp_path, database)
    keeper = reloading(rig, Roots(rig.root("second"), [rig.root()]))
    await keeper.create(PROJECT, "volume", ALICE)
    key = await read_key(keeper, PROJECT)
    superuser = await database_as("postgres")
    async with superuser.transaction() as tx:
        await tx.execute("REVOKE EXECUTE ON FUNCTION audit_append(text[], text[]) FROM cloister_keys")
    with pytest.raises(Exception, match="audit_append"):
        await keeper.reload_roots(ALICE)
    assert len((await keeper.keystore()).roots) == 1, "what cannot be recorded is not done"
    async with superuser.transaction() as tx:
        await tx.execute("GRANT EXECUTE ON FUNCTION audit_append(text[], text[]) TO cloister_keys")
    assert await keeper.reload_roots(ALICE) == 2
    assert keeper.due.is_set()
    await keeper.reconcile()
    assert [root.projects for root in (await keeper.keystore()).roots] == [1, 0]
    assert await read_key(rig.keeper(rig.root("second")), PROJECT) == key
    with pytest.raises(CloisterError, match="one root key"):
        await rig.keeper().reload_roots(ALICE)

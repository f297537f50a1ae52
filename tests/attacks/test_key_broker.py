"""Somebody wants a key that is not theirs: by asking, by changing the wrapped form, or by reading the broker's memory."""

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import LiteralString

import asyncpg
import msgspec
import pytest

from cloister.base.clock import SystemClock
from cloister.base.database import Database
from cloister.base.errors import CloisterError
from cloister.trust.audit.reader import events
from cloister.trust.keys import store
from cloister.trust.keys.broker import KeyBroker
from cloister.trust.keys.client import KeyClient
from cloister.trust.keys.commands import KeyInfo
from cloister.trust.keys.envelopes import Envelopes, _below
from cloister.trust.keys.keeper import Keeper
from cloister.trust.keys.keystore import Keystore
from cloister.trust.keys.notary import Notary
from cloister.trust.keys.providers import FileProvider, create_root_key
from cloister.trust.keys.roots import Roots
from tests.fix_database import UNPRIVILEGED_UID, ControlDatabase, DatabaseAs

PROJECT = "calm-forest-12345678"
OTHER = "calm-forest-87654321"

pytestmark = pytest.mark.root  # the node agent is root, by the kernel's word


@dataclass(frozen=True)
class Place:
    directory: Path
    provider: FileProvider
    keystore: Keystore

    @property
    def socket(self) -> Path:
        return self.directory / "keys.sock"


@pytest.fixture
def place() -> Iterator[Place]:
    """A directory that everybody may enter, as the platform's run directory is."""
    directory = Path(tempfile.mkdtemp(prefix="cloister-test-keys-"))
    directory.chmod(0o711)
    create_root_key(directory / "root.key", uid=0, gid=0)
    provider = FileProvider(directory / "root.key")
    for name in ("keystore", "epochs"):
        (directory / name).mkdir()
    keystore = Keystore(directory / "keystore", directory / "epochs")
    yield Place(directory, provider, keystore)
    keystore.close()
    provider.close()
    shutil.rmtree(directory)


@pytest.fixture
async def database(database_as: DatabaseAs) -> Database:
    return await database_as("cloister_keys")


@pytest.fixture
async def broker(place: Place, database: Database) -> AsyncIterator[KeyBroker]:
    notary = Notary(Roots(place.provider), place.directory)
    keeper = Keeper(database, Roots(place.provider), place.keystore, SystemClock())
    broker = KeyBroker(database, keeper, place.socket, notary)
    await broker.start()
    yield broker
    await broker.stop()


async def plant_key(place: Place, database: Database, project_id: str, key: bytes) -> None:
    """As CreateKey does, but with a key that the test knows."""
    place.keystore.ensure(project_id)
    envelopes = Envelopes(Roots(place.provider), place.keystore)
    info = KeyInfo(project_id=project_id, purpose="project", version=1, state="enabled", provider="file", created_at="")
    above = envelopes.mint_project_key(info)
    info = msgspec.structs.replace(info, purpose="volume", provider="project")
    with envelopes._opened(above) as project_key:
        planted = _below(project_key, above, info, memoryview(key))
    async with database.transaction() as tx:
        await store.insert(tx, above, planted)


async def unwrap(place: Place, project_id: str = PROJECT) -> bytes:
    descriptor = await KeyClient(place.socket).unwrap(project_id, "open")
    try:
        return bytes.fromhex(os.read(descriptor, 100).decode("ascii"))
    finally:
        os.close(descriptor)


STRANGER = f"""
import asyncio, os, sys
from pathlib import Path
from cloister.base.errors import CloisterError
from cloister.trust.keys.client import KeyClient

os.setgroups([]), os.setgid({UNPRIVILEGED_UID}), os.setuid({UNPRIVILEGED_UID})

async def attempt(directory):
    client = KeyClient(directory / "keys.sock", connect_patience_s=0)
    for call in (client.unwrap("{PROJECT}", "open"), client.create("{PROJECT}"), client.list(), client.destroy("{PROJECT}")):
        try:
            print("GOT", await call)
        except CloisterError as error:
            print(type(error).__name__)
    try:
        print("GOT", (directory / "root.key").read_bytes())
    except PermissionError as error:
        print(type(error).__name__)

asyncio.run(attempt(Path(sys.argv[1])))
"""


async def run(script: str, *arguments: str | Path) -> str:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, *arguments, stdout=subprocess.PIPE)
    output, _ = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0
    return output.decode()


async def test_another_user_of_the_host_gets_nothing_and_is_recorded(
    place: Place, database: Database, broker: KeyBroker, database_as: DatabaseAs
) -> None:
    await plant_key(place, database, PROJECT, os.urandom(32))
    assert (await run(STRANGER, place.directory)).split() == [*["UnavailableError"] * 4, "PermissionError"]
    api = await database_as("cloister_api")
    async with api.reading() as tx:
        denied = [recorded.event for recorded in await events(tx)]
    assert [event.action for event in denied] == ["key.denied"], "the first is recorded, a flood is not"
    assert denied[0].actor == f"uid:{UNPRIVILEGED_UID}"
    assert len(await unwrap(place)) == 32, "the agent is served as before"


async def test_a_tenants_key_is_in_no_program_that_is_started_for_another(
    place: Place, database: Database, broker: KeyBroker
) -> None:
    """From the moment at which it comes: threads of the agent start sandboxes while it waits for the next key."""
    await plant_key(place, database, PROJECT, os.urandom(32))
    descriptor = await KeyClient(place.socket).unwrap(PROJECT, "open")
    try:
        listed = await asyncio.create_subprocess_exec("ls", "/proc/self/fd", stdout=subprocess.PIPE, close_fds=False)
        output, _ = await listed.communicate()
        assert str(descriptor) not in output.decode().split()
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("statement", ["SELECT * FROM wrapped_key", "UPDATE wrapped_key SET state = 'enabled'"])
async def test_the_api_cannot_reach_even_the_wrapped_form(database_as: DatabaseAs, statement: LiteralString) -> None:
    api = await database_as("cloister_api")
    async with api.reading() as tx:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await tx.execute(statement)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE wrapped_key SET wrapped = set_byte(wrapped, 20, get_byte(wrapped, 20) # 1) WHERE project_id = $1",
        "UPDATE wrapped_key SET wrapped = set_byte(wrapped, 60, get_byte(wrapped, 60) # 128) WHERE project_id = $1",
        """UPDATE wrapped_key AS it SET wrapped = other.wrapped FROM wrapped_key AS other
            WHERE it.project_id = $1 AND other.project_id <> $1 AND it.purpose = other.purpose AND it.purpose = 'volume'""",
        """UPDATE wrapped_key AS it SET wrapped = other.wrapped FROM wrapped_key AS other
            WHERE it.project_id = $1 AND other.project_id <> $1 AND it.purpose = other.purpose AND it.purpose = 'project'""",
        "UPDATE wrapped_key SET version = 2 WHERE project_id = $1",
        "UPDATE wrapped_key SET wrapped = '\\x01' WHERE project_id = $1",
    ],
    ids=[
        "a bit of the ciphertext",
        "a bit of the tag",
        "another project's volume key",
        "another project's own key",
        "another version",
        "cut off",
    ],
)
async def test_a_changed_row_does_not_open(
    place: Place, database: Database, broker: KeyBroker, change: LiteralString
) -> None:
    await plant_key(place, database, PROJECT, os.urandom(32))
    await plant_key(place, database, OTHER, os.urandom(32))
    assert len(await unwrap(place)) == 32
    async with database.transaction() as tx:
        await tx.execute(change, PROJECT)
    with pytest.raises(CloisterError, match=r"does not open|not an envelope"):
        await unwrap(place)
    assert len(await unwrap(place, OTHER)) == 32


BROKER = """
import asyncio, os, sys
from pathlib import Path
from cloister.base.clock import SystemClock
from cloister.base.database import Database
from cloister.base.identities import Service
from cloister.base.rpc import Peer
from cloister.trust.keys.broker import KeyBroker
from cloister.trust.keys.keeper import Keeper
from cloister.trust.keys.keystore import Keystore
from cloister.trust.keys.roots import Roots
from cloister.trust.keys.memory import harden_process
from cloister.trust.keys.notary import Notary
from cloister.trust.keys.providers import FileProvider

async def serve(url, directory):
    harden_process()
    provider = FileProvider(directory / "root.key")
    roots = Roots(provider)
    database = Database(url=url)
    await database.open()
    keeper = Keeper(database, roots, Keystore(directory / "keystore", directory / "epochs"), SystemClock())
    await KeyBroker(database, keeper, directory / "keys.sock", Notary(roots, directory)).start()
    as_api = lambda sock: Peer(os.getpid(), 1, Service.API)
    await KeyBroker(database, keeper, directory / "api.sock", Notary(roots, directory), peer_of=as_api).start()
    print("ready", flush=True)
    await asyncio.Event().wait()

asyncio.run(serve(sys.argv[1], Path(sys.argv[2])))
"""


def memory_of(pid: int) -> Iterator[bytes]:
    """Everything a process can write to, which is everywhere a key could lie."""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory, open(f"/proc/{pid}/maps") as maps:
        for line in maps:
            span, permissions, *_ = line.split()
            if permissions.startswith("rw"):
                first, last = (int(part, 16) for part in span.split("-"))
                memory.seek(first)
                yield memory.read(last - first)


def times_in_memory(pid: int, needle: bytes) -> int:
    return sum(region.count(needle) for region in memory_of(pid))


def open_files(pid: int) -> list[str]:
    return [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()]


async def test_after_an_unwrap_the_key_is_nowhere_in_the_brokers_memory(
    place: Place, database: Database, control_database: ControlDatabase
) -> None:
    """Half of what must always be true of a sleeping project: its key is nowhere. (The other half is the volume's.)"""
    known = os.urandom(32)
    await plant_key(place, database, PROJECT, known)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", BROKER, control_database.url("cloister_keys"), place.directory, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        assert await asyncio.wait_for(process.stdout.readline(), 30) == b"ready\n"
        await KeyClient(place.directory / "api.sock").create(OTHER)
        minted = await unwrap(place, OTHER)
        for _ in range(3):
            assert await unwrap(place) == known
        root = (place.directory / "root.key").read_bytes()
        assert times_in_memory(process.pid, root) > 0, "the search finds what is there"
        # Half a key is searched for: a freed allocation's first bytes may be overwritten.
        for key in (known, minted):
            for form in (key, key.hex().encode()):
                half = len(form) // 2
                assert times_in_memory(process.pid, form[:half]) == 0
                assert times_in_memory(process.pid, form[half:]) == 0
        assert not [target for target in open_files(process.pid) if "memfd" in target], "no descriptor of it is left"
    finally:
        process.kill()
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined]

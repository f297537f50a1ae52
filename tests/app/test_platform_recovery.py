"""A control database goes to a store in memory, its server is lost, and another one comes back from there."""

import asyncio
import contextlib
import dataclasses
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import asyncpg
import msgspec
import pytest

from cloister.app import layout, operator, swap
from cloister.app import platform_recovery as recovery
from cloister.app.platform_recovery import Host, recover, recover_platform
from cloister.base.clock import SystemClock
from cloister.base.database import Database, embedded
from cloister.base.durable import unfinished
from cloister.base.errors import ConflictError, NotFoundError, PreconditionError, UnprocessableError
from cloister.base.settings import Paths, Settings
from cloister.cli import run
from cloister.node.backups import senders
from cloister.node.backups import store as stores
from cloister.node.backups.memory import Memory
from cloister.node.backups.objects import Store
from cloister.node.backups.platform import Dumping, PlatformSending
from cloister.node.backups.senders import Mine
from cloister.node.commands import PlatformBacked
from cloister.node.timelines.work import Work
from cloister.protocol.backups import keys as names
from cloister.trust.audit import Action, Event, record
from cloister.trust.audit.checkpoints import Checkpoints
from cloister.trust.audit.verify import Intact, verify
from cloister.trust.keys import backup as backups
from cloister.trust.keys import notary as notaries
from cloister.trust.keys.backup import Backup
from cloister.trust.keys.keystore import Keystore, Seals
from cloister.trust.keys.memory import SecretPage
from cloister.trust.keys.notary import Notary, checked, read_last
from cloister.trust.keys.providers.provider import Context
from cloister.trust.keys.roots import Roots
from tests.node.backups.bucket import Bucket
from tests.trust.keys.rig import AGENT, Rig
from tests.trust.sending.store import READER, WRITER, a_store
from tests.trust.sentinel.receiver import make_certificate

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the database is another user's")

NOBODY: Final = 65534
KEPT: Final = "of-a-lost-platform"
# moto's buckets are the process's: another test's are there.
MAPPING: Final = {pwd.getpwuid(os.geteuid()).pw_name: [embedded.OWNER, embedded.API_ROLE]}
SEALED: Final = Context("calm-forest-12345678", "project", 1)


@pytest.fixture(scope="module")
def base() -> Iterator[Path]:
    base = Path(tempfile.mkdtemp(prefix="cloister-lost-"))
    base.chmod(0o755)
    yield base
    shutil.rmtree(base)


@pytest.fixture(scope="module")
def lost(base: Path) -> "Lost":
    return asyncio.run(a_lost_platform(base))


def a_host(base: Path, name: str) -> Host:
    """What `layout.prepare` makes, as far as it matters here."""
    paths = Paths(base / name)
    paths.control_socket_dir = base / f"{name}-run"
    for directory in (paths.control_data, paths.control_socket_dir):
        directory.mkdir(parents=True)
        os.chown(directory, NOBODY, NOBODY)
    for directory in (paths.keystore, paths.epochs, paths.notary, paths.secrets, paths.volumes):
        directory.mkdir()
    return Host(paths, None, MAPPING, NOBODY, NOBODY)


@contextlib.contextmanager
def serving(host: Host) -> Iterator[None]:
    embedded.initialise(host.paths, uid=NOBODY, gid=NOBODY, who_may_be_whom=MAPPING)
    with (host.paths.state_dir / "log").open("ab") as log:
        server = subprocess.Popen(
            embedded.argv(host.paths), stdout=log, stderr=log, cwd="/", user=NOBODY, group=NOBODY, extra_groups=[]
        )
    try:
        yield
    finally:
        server.send_signal(embedded.STOP_SIGNAL)
        server.wait(20)


@contextlib.asynccontextmanager
async def opened(host: Host) -> AsyncIterator[Database]:
    database = Database(socket_dir=host.paths.control_socket_dir, role=embedded.OWNER)
    await database.open()
    try:
        yield database
    finally:
        await database.close()


class Signer:
    def __init__(self, notary: Notary) -> None:
        self._notary = notary

    async def last_checkpoint(self) -> Any:
        return self._notary.last()

    async def sign_checkpoint(self, tree: Any, proof: Any) -> Any:
        return self._notary.sign(tree.size, [*tree.peaks], [*proof])


class Source:
    """The broker's client."""

    def __init__(self, rig: Rig) -> None:
        self._keeper = rig.keeper()

    async def backup_key(self, project_id: str, reason: str, *, material: int | None = None) -> Any:
        raise AssertionError

    async def dump_key(self, reason: str) -> Any:
        info, descriptor = await self._keeper.dump_key(reason, AGENT)
        page = SecretPage(32)
        page.buffer[:] = bytes.fromhex(os.pread(descriptor, 64, 0).decode())
        os.close(descriptor)
        return info, page


@dataclass
class Lost:
    """What is left of a platform: the bucket, the root key, the keystore's backup."""

    bucket: Bucket
    rig: Rig
    keystore: Backup
    backed: PlatformBacked
    log: str
    seq: int
    """Of its last event that is in the dump."""

    async def recover(self, host: Host, **options: Any) -> recovery.Recovered:
        given = {"epoch": 0, "at": None, "place": "s3://here/"} | options
        roots, keystore = given.pop("roots", Roots(self.rig.root())), given.pop("keystore", self.keystore)
        return await recover(host, Store(self.bucket), roots, keystore, **given)


async def a_lost_platform(base: Path) -> Lost:
    host = a_host(base, "lost")
    host.paths.control_key.write_bytes(b"c" * 32)
    bucket = Bucket()
    with serving(host):
        await embedded.migrate_embedded(host.paths)
        async with opened(host) as database:
            rig = Rig(host.paths.state_dir, database, SystemClock())
            keystore = Keystore(rig.keystore_directory, rig.epochs)
            keystore.ensure(SEALED.project_id)
            (base / "sealed").write_bytes(keystore.seal(b"envelope", SEALED))
            async with database.transaction() as tx:
                await tx.execute("INSERT INTO organization (id, name) VALUES ('org-calm-forest-12345678', 'Acme')")
                await tx.execute(
                    """INSERT INTO volume (project_id, branch_id, timeline_id, uid, pg_version, size_bytes, state)
                        VALUES ('calm-lake-12345678', 'br-calm-lake-12345678', repeat('0', 32), 1900000000, 18, 1, 'ready')"""
                )
                for _ in range(20):
                    await record(tx, Event(action=Action.PLATFORM_START, actor="platform:supervisor"))
            notary = Notary(Roots(rig.root()), host.paths.notary)
            await Checkpoints(database, Signer(notary)).sign_new()
            copy = await rig.keeper().copy_keystore(AGENT)
            seals = Keystore(rig.keystore_directory, rig.epochs)
            content = (rig.keystore_directory / "seals.json").read_bytes()
            backup = Backup(
                format=backups.FORMAT,
                made_at=copy.made_at,
                epoch=copy.epoch,
                provider=copy.provider,
                root_version=copy.root_version,
                epoch_key=copy.epoch_key,
                seals=msgspec.json.decode(content, type=Seals).seals,
            )
            seals.close()
            memory = base / "memory"
            memory.mkdir()
            work = Work()
            sending = PlatformSending(
                Dumping(host.paths, user=None), Store(bucket), Source(rig), Memory(memory), SystemClock()
            )
            first = await sending.send(30, work.in_thread)
            async with database.transaction() as tx:
                await tx.execute("UPDATE organization SET name = 'Acme & Sons'")
            async with database.reading() as tx:
                seq = await tx.fetch_value("SELECT seq FROM audit_head")
            backed = await sending.send(30, work.in_thread)
            await work.stop()
            assert backed.new_chunks < first.chunks
            seen = await sending.read_back(backed.name, 1000)
            assert (seen.base, seen.damaged) == (backed.name, [])
    last = read_last(host.paths.notary)
    assert last is not None
    return Lost(bucket, rig, backup, backed, last.key, seq)


async def test_a_platform_comes_back_from_bucket_root_key_and_keystore(
    base: Path, lost: Lost, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = a_host(base, "new")

    # What is not of this platform, or not whole, makes no state.
    last = names.dump(lost.backed.name)
    another = lost.rig.root("another")
    with pytest.raises(PreconditionError, match="backup of the keystore is for the root key"):
        await lost.recover(host, roots=Roots(another))
    theirs = msgspec.structs.replace(lost.keystore, root_version=another.root_version)
    with pytest.raises(PreconditionError, match="none of the newest 2 opens"):
        await lost.recover(host, roots=Roots(lost.rig.root("another")), keystore=theirs)
    with pytest.raises(PreconditionError, match="what was erased since would be back"):
        await lost.recover(host, epoch=lost.keystore.epoch + 1)
    with pytest.raises(PreconditionError, match="what was erased since would be back"):
        await lost.recover(host, keystore=msgspec.structs.replace(lost.keystore, epoch=lost.keystore.epoch - 1))
    gone = {key: lost.bucket.objects.pop(key) for key in lost.bucket.keys("platform/chunks")}
    with pytest.raises(NotFoundError):
        await lost.recover(host)
    lost.bucket.objects.update(gone)
    with monkeypatch.context() as patch:  # as when the database was rolled back before it was dumped
        real = notaries.checked
        patch.setattr(notaries, "checked", lambda *given: dataclasses.replace(real(*given), root=bytes(32)))
        with pytest.raises(UnprocessableError, match="not what was appended"):
            await lost.recover(host)
    recovery.refuse_state(host.paths)
    assert not list(host.paths.control_data.iterdir())

    # The newest that opens.
    lost.bucket.put(names.dump(f"{int(lost.backed.name, 16) + 1:016X}"), b"of somebody's")
    recovered = await lost.recover(host)
    assert recovered.dump.name == lost.backed.name
    assert recovered.damaged == [f"{int(lost.backed.name, 16) + 1:016X}"]
    assert last in lost.bucket.objects
    assert host.paths.control_key.read_bytes() == b"c" * 32
    assert senders.known(host.paths, lost.bucket.name) == Mine(line=[""], number=1), "it is another sender"
    assert host.paths.backup_take_over.exists()
    keystore = Keystore(host.paths.keystore, host.paths.epochs, may_begin=False)
    assert keystore.unseal((base / "sealed").read_bytes(), SEALED) == b"envelope"
    keystore.close()
    with pytest.raises(ConflictError, match="never replaced"):
        recovery.refuse_state(host.paths)

    # It starts as any, its log is whole and goes on, and says what happened.
    with serving(host):
        assert await embedded.migrate_embedded(host.paths) == 0
        async with opened(host) as database:
            async with database.reading() as tx:
                assert await tx.fetch_value("SELECT name FROM organization") == "Acme & Sons"
                assert await tx.fetch_value("SELECT state FROM volume") == "formatting", "its image is gone"
                (event,) = await tx.fetch("SELECT seq, body FROM audit_event ORDER BY seq DESC LIMIT 1")
            assert event["seq"] == recovered.seq + 1
            assert '"platform.recover"' in event["body"]
            assert lost.log.split("+")[0] in event["body"]
            assert recovered.dump.checkpoint is not None
            assert isinstance(await verify(database, (), [checked(recovered.dump.checkpoint, "")]), Intact)
            notary = Notary(Roots(lost.rig.root()), host.paths.notary)
            await Checkpoints(database, Signer(notary)).sign_new()
            assert notary.last().size == event["seq"]
            assert notary.last().key != lost.log
        api = await asyncpg.connect(
            host=str(host.paths.control_socket_dir), user=embedded.API_ROLE, database="cloister"
        )
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await api.execute("DELETE FROM cloister.audit_event")
        await api.close()


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    settings = Settings(state_dir=str(tmp_path / "beside"))
    settings.paths.run.mkdir(parents=True)
    yield settings
    shutil.rmtree(settings.paths.run)


@pytest.fixture
def keystore() -> Backup:
    return Backup(format=1, made_at="", epoch=1, provider="file", root_version="1", epoch_key=b"", seals={})


def test_where_a_platform_runs_nothing_is_touched(
    settings: Settings, keystore: Backup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "prepare", None)
    with operator.take_lock(settings.paths), pytest.raises(ConflictError, match="a platform runs in"):
        recover_platform(settings, b"", bytes(32), keystore, epoch=1, at=None, place="")


def test_what_another_made_meanwhile_is_not_replaced(
    settings: Settings, keystore: Backup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`cloister up`, which came and went."""
    paths = settings.paths

    def prepared(*_given: object) -> None:
        embedded.data_dir(paths).mkdir(parents=True)
        paths.root_key.parent.mkdir()
        paths.root_key.write_bytes(bytes(32))

    monkeypatch.setattr(layout, "prepare", prepared)
    with pytest.raises(ConflictError, match="control/data is there"):
        recover_platform(settings, b"", bytes(32), keystore, epoch=1, at=None, place="")
    assert paths.root_key.exists()


class StartedError(Exception):
    """A start went on to where it makes something."""


@pytest.fixture
def start(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """`cloister up`, as far as its sockets."""
    locks: list[IO[str]] = []

    def take_lock(paths: Paths) -> IO[str]:
        locks.append(real(paths))
        return locks[-1]

    def listen(*_given: object) -> None:
        raise StartedError

    real = operator.take_lock
    monkeypatch.setattr(operator, "take_lock", take_lock)
    monkeypatch.setattr(swap, "refuse", lambda _settings: "")
    monkeypatch.setattr(embedded, "check", lambda _paths: None)
    monkeypatch.setattr(operator, "listen", listen)
    yield lambda: operator.up(settings, detach=False)
    for lock in locks:  # the process's end does that
        lock.close()


def test_where_a_recovery_did_not_end_a_start_makes_no_empty_platform(
    settings: Settings, keystore: Backup, start: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off in its first step, when nothing else is there yet; and begun again as often as one likes."""

    def cut_off(*_given: object) -> None:
        raise OSError("cut off")

    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(layout, "prepare", cut_off)
            with pytest.raises(OSError, match="cut off"):
                recover_platform(settings, b"", bytes(32), keystore, epoch=1, at=None, place="")
        with pytest.raises(ConflictError, match="would make an empty platform"):
            start()
        layout.check_place(settings.paths)
    assert list(settings.paths.state_dir.iterdir()) == [settings.paths.recovering]
    unfinished(settings.paths.layout_version).touch()
    layout.check_place(settings.paths)


def test_a_recovery_that_began_and_failed_while_a_start_was_under_way_is_seen(
    settings: Settings, start: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = settings.paths
    monkeypatch.setattr(layout, "prepare", lambda _settings: recovery.mark(paths))
    with pytest.raises(ConflictError, match="was begun and did not end"):
        start()
    operator.take_lock(paths).close()


def test_a_recovery_that_was_interrupted_in_its_last_step_has_ended(
    settings: Settings, keystore: Backup, start: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database is in its place: it keeps the root key that opens it, and is started."""
    paths = settings.paths

    def interrupted(running: Coroutine[Any, Any, Any]) -> None:
        running.close()
        embedded.data_dir(paths).mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(asyncio, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        recover_platform(settings, b"", bytes(range(32)), keystore, epoch=1, at=None, place="")
    assert paths.recovering.exists()
    with pytest.raises(StartedError):
        start()
    assert not paths.recovering.exists()
    assert paths.root_key.read_bytes() == bytes(range(32))


def test_a_directory_of_somebody_else_gets_no_mark(settings: Settings, keystore: Backup) -> None:
    settings.paths.state_dir.mkdir()
    (settings.paths.state_dir / "thesis.tex").touch()
    with pytest.raises(PreconditionError, match="not a Cloister state directory"):
        recover_platform(settings, b"", bytes(32), keystore, epoch=1, at=None, place="")
    assert not settings.paths.recovering.exists()


def test_what_a_stray_program_still_writes_to_is_removed(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An `initdb` whose parent was killed makes a file between the listing of a directory and its removal."""
    host, real, times = a_host(base, "killed"), shutil.rmtree, iter([OSError("not empty"), None])

    def rmtree(path: Path) -> None:
        if (trouble := next(times)) is not None:
            raise trouble
        real(path)

    place = host.scratch.control_data
    place.mkdir()
    (place / "new").mkdir()
    monkeypatch.setattr(shutil, "rmtree", rmtree)
    recovery.make_place(host)
    assert list(place.iterdir()) == []


def test_the_command_brings_it_back_out_of_a_real_store(
    base: Path, lost: Lost, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the courier's process, and files of the owners that `cloister up` wants. The server's own state is `prepare`'s."""
    make_certificate(base / "both.pem")
    (base / "both.pem").chmod(0o644)
    (base / "keystore.backup").write_bytes(msgspec.json.encode(lost.keystore))
    (base / "credentials").write_text(
        f"[writer]\naws_access_key_id = {WRITER}\naws_secret_access_key = w\n"
        f"[reader]\naws_access_key_id = {READER}\naws_secret_access_key = r\n"
    )
    state = base / "state"
    paths = Paths(state)
    words = [
        "backups", "recover-platform", f"s3://{KEPT}/db", "--region", "eu-central-1", "--private",
        "--ca-file", str(base / "both.pem"), "--credentials", str(base / "credentials"), "--state-dir", str(state),
        "--keystore", str(base / "keystore.backup"), "--root-key", str(lost.rig.directory / "root.key"),
    ]  # fmt: skip
    with a_store(base / "both.pem") as store:
        store.make(KEPT)
        for key, versions in lost.bucket.objects.items():
            store.client.put_object(Bucket=KEPT, Key=f"db/{key}", Body=versions[-1].content)
        words += ["--endpoint", store.endpoint]
        try:
            (base / "another.key").write_bytes(bytes(range(32)))
            with monkeypatch.context() as patch:

                async def beside_others(*given: Any, **options: Any) -> recovery.Recovered:
                    assert [run([verb, "--state-dir", str(state)]) for verb in ("up", "down")] == [1, 1]
                    return await recover(*given, **options)

                patch.setattr(recovery, "recover", beside_others)
                assert run([*words[:-3], str(base / "another.key"), *words[-2:]]) == 1
            refused = capsys.readouterr().err
            assert "backup of the keystore is for the root key" in refused
            assert refused.count("is being brought back") == 2
            assert not paths.root_key.exists()
            assert paths.recovering.exists()
            assert run(words) == 0
            assert not paths.recovering.exists()
            said = capsys.readouterr()
            assert "cloister up" in said.out, said
            assert f"up to event {lost.seq} of its log" in said.out
            assert run(words) == 1
            assert "is there: what is left of a platform is never replaced" in capsys.readouterr().err
            owners = {path: pwd.getpwuid(path.stat().st_uid).pw_name for path in (
                paths.root_key, paths.control_key, paths.keystore / "seals.json", embedded.data_dir(paths), paths.store_file
            )}  # fmt: skip
            assert list(owners.values()) == [
                "cloister-keys", "cloister-api", "cloister-keys", "cloister-db", "cloister-courier"
            ]  # fmt: skip
            assert [path.name for path in paths.control_data.iterdir()] == ["data"]
            assert senders.known(paths, stores.read(paths.store_file).digest).number == 1
            assert paths.backup_take_over.exists(), "the store has the name that it is taken over under"
        finally:
            shutil.rmtree(paths.run, ignore_errors=True)

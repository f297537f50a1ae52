"""A server that lost everything comes back: the control database out of the store of backups, by root, before the platform was ever started.

    the root key, from its shares or its file
      the key of dumps, from the store          opens the newest dump there
        the control database                    its log held to the last checkpoint that was signed before the dump
    the keystore, from its backup               of an epoch that the dump knows of, or a later one

It is made in a place of its own, `control/recovering`, and has its name when all of it was seen to be whole: until then there is no state,
and whatever is cut off is begun again. A mark in the state directory, older than all else there, says so to `cloister up`, which would
otherwise take what was made so far for the beginning of a new platform.
"""

import asyncio
import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cloister.app import children, layout, operator
from cloister.base.database import Database, embedded
from cloister.base.durable import sync_directory
from cloister.base.errors import ConflictError, InternalError, PreconditionError, UnavailableError, UnprocessableError
from cloister.base.identities import Service, acting_as, am_root, gid_of, uid_of
from cloister.base.rpc import Client
from cloister.base.settings import Paths, Settings
from cloister.node.backups import senders
from cloister.node.backups.laying import Laying
from cloister.node.backups.objects import Store
from cloister.node.backups.recovering import Found, Recovering, RootKeys
from cloister.node.timelines.work import Work
from cloister.protocol.backups.dumps import Dump
from cloister.protocol.merkle.notes import Checkpoint
from cloister.trust.audit import Action, Event, record
from cloister.trust.audit.verify import Broken, verify
from cloister.trust.keys import backup as keystores
from cloister.trust.keys import notary
from cloister.trust.keys.backup import Backup
from cloister.trust.keys.keystore import SEALS_FILE
from cloister.trust.keys.providers import configuration
from cloister.trust.keys.providers.file import write_private
from cloister.trust.keys.roots import Roots

RESTORE_TIMEOUT_S: Final = 3600.0
# A log of gigabytes, whose indexes are made anew.

_COURIER_PATIENCE_S: Final = 20.0

_STRAY_PATIENCE_S: Final = 15.0
# A program of a few seconds, on a slow disk.

_SAID_BYTES_MAX: Final = 1000


@dataclass(frozen=True, slots=True)
class Host:
    """Where, and as whom the database runs: None is this process's own user."""

    paths: Paths
    database: Service | None = Service.DATABASE
    who_may_be_whom: Mapping[str, Sequence[str]] = field(default_factory=lambda: embedded.WHO_MAY_BE_WHOM)
    uid: int | None = None
    gid: int | None = None

    @classmethod
    def of(cls, paths: Paths) -> "Host":
        return cls(paths, uid=uid_of(Service.DATABASE), gid=gid_of(Service.DATABASE))

    @property
    def scratch(self) -> Paths:
        """The same platform, with its control database in the place where it is made."""
        paths = Paths(self.paths.state_dir)
        paths.control_data = self.paths.control_data / "recovering"
        paths.control_socket_dir = self.paths.control_socket_dir
        return paths


@dataclass(frozen=True, slots=True)
class Recovered:
    dump: Dump
    damaged: list[str]
    """Later dumps that do not open."""
    seq: int
    """The last event of the log that came back."""
    projects: list[tuple[str, str]]
    """Id and name: their volumes are gone."""


def recover_platform(
    settings: Settings,
    store: bytes,
    root_key: bytes | None,
    keystore: Backup,
    *,
    epoch: int,
    at: float | None,
    place: str,
) -> Recovered:
    """`store` is what the courier's file will be, `root_key` what shares gave (None: it is in place here). Raises CloisterError, and then
    there is no state, as before.

    1. There is no state, and nothing runs.
    2. The mark: from here on nobody makes another state in this place.
    3. What a platform has before its first start, with this root key.
    4. The platform's lock: no `cloister up` makes a state beside this one, nor made one meanwhile.
    5. The courier, as its own user, with the reader's credentials: what a store says is for no eyes of root's.
    6. `recover`.
    7. There is a state, and the mark goes. Where it does not, `cloister up` takes it away.
    """
    if not am_root():
        raise PreconditionError(public="only root on the server brings a platform back")
    paths = settings.paths
    refuse_state(paths)  # 1.
    if root_key is None and not (paths.root_key.exists() or paths.key_providers.exists()):
        raise PreconditionError(public="there is no root key: give shares of it, or a file")
    had_root = paths.root_key.exists()
    layout.check_place(paths)
    mark(paths)  # 2.
    layout.prepare(settings, {} if root_key is None else {paths.root_key: root_key})  # 3.
    if root_key is not None and paths.root_key.read_bytes() != root_key:
        raise ConflictError(
            public=f"{paths.root_key} is there, and is not the root key that was given: move it away, or give none"
        )

    async def run() -> Recovered:
        async with _courier(settings) as client:  # 5.
            with acting_as(Service.KEYS):
                roots = configuration.open_roots(paths.key_providers, paths.root_key)
            try:
                return await recover(Host.of(paths), Store(client), roots, keystore, epoch=epoch, at=at, place=place)
            finally:
                roots.close()

    with operator.recovering(paths):  # 4.
        _refuse_remains(paths)
        paths.store_file.unlink(missing_ok=True)
        write_private(paths.store_file, store, uid=uid_of(Service.COURIER), gid=gid_of(Service.COURIER))
        try:
            recovered = asyncio.run(run())  # 6.
        except BaseException:
            # It may be the wrong one, and the right one replaces none.
            if not had_root and not operator.remains(paths):
                paths.root_key.unlink(missing_ok=True)
            raise
        paths.recovering.unlink(missing_ok=True)  # 7.
        sync_directory(paths.state_dir)
        return recovered


def mark(paths: Paths) -> None:
    """On disk when it returns. It is of one piece: an empty file."""
    paths.state_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
    os.close(os.open(paths.recovering, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    sync_directory(paths.state_dir)


def refuse_state(paths: Paths) -> None:
    """Raises ConflictError where a platform is, or what is left of one: it is never replaced."""
    if operator.is_running(paths):
        raise ConflictError(public=f"a platform runs in {paths.state_dir}")
    _refuse_remains(paths)


def _refuse_remains(paths: Paths) -> None:
    if there := operator.remains(paths):
        raise ConflictError(
            public=f"{there[0]} is there: what is left of a platform is never replaced. Move {paths.state_dir} away, or take another --state-dir"
        )


async def recover(
    host: Host, store: Store, roots: Roots, keystore: Backup, *, epoch: int, at: float | None, place: str
) -> Recovered:
    """1. The root key is the one that the keystore's backup is for: told before anything is fetched. Then find the dump: the newest that
       opens, or the newest from before a moment.
    2. The keystore's backup is no older than the last erasure that anybody knows of: the dump, or `epoch`.
    3. Its files, every chunk opened; and a cluster of them.
    4. What newer code adds to the tables. The log is whole, and goes on from the last checkpoint that was signed before the dump.
    5. What was here and is not any more. That the platform was recovered is the log's next event.
    6. The keystore, the secrets, and last, the database in its place: from then on there is a state.
    """
    keys, work = RootKeys(store, roots), Work()
    scratch = host.scratch
    try:
        _require_one_root(roots, keystore)  # 1.
        recovering = Recovering(store, keys)
        found = await recovering.find(at, time.time())
        newest_known = max(found.dump.epoch, epoch)
        if keystore.epoch < newest_known:  # 2.
            raise PreconditionError(
                public=f"this backup of the keystore is of epoch {keystore.epoch}, and epoch {newest_known} is known: "
                "what was erased since would be back. Take the newest"
            )
        make_place(host)
        laying = Laying(scratch.control_data / "dump", os.geteuid() if host.uid is None else host.uid)
        await work.in_thread(lambda _abort: laying.begin())
        await recovering.lay(found.dump, laying, work.in_thread)  # 3.
        await asyncio.to_thread(
            lambda: embedded.initialise(scratch, uid=host.uid, gid=host.gid, who_may_be_whom=host.who_may_be_whom)
        )
        with _serving(host):
            await embedded.create(scratch)
            await asyncio.to_thread(_run, host, embedded.restore_argv(scratch, scratch.control_data / "dump"))
            await embedded.migrate_embedded(scratch)  # 4.
            recovered = await _looked_through(host, found, place)
        shutil.rmtree(scratch.control_data / "dump")
        with acting_as(Service.KEYS) if host.database is not None else contextlib.nullcontext():  # 6.
            _put_keystore(host.paths, keystore, roots, newest_known)
        _put_secrets(host.paths, found.dump, is_ours=host.database is not None)
        # This is another sender than the one that the dump is of, and takes the store from it.
        senders.remember(host.paths, await store.name(), senders.of_dump(found.dump))
        senders.take_over(host.paths)
        (scratch.control_data / "data").rename(embedded.data_dir(host.paths))
        sync_directory(host.paths.control_data)
        return recovered
    finally:
        keys.close()
        await work.stop()
        shutil.rmtree(scratch.control_data, ignore_errors=True)


def _require_one_root(roots: Roots, keystore: Backup) -> None:
    held = [(provider.name, provider.root_version) for provider in roots.all]
    if (keystore.provider, keystore.root_version) not in held:
        raise PreconditionError(
            public=f"this backup of the keystore is for the root key {keystore.provider}/{keystore.root_version}, and here is "
            f"{', '.join('/'.join(each) for each in held)}: one of the two is another platform's, or of another time"
        )


def make_place(host: Host) -> None:
    place = host.scratch.control_data
    if place.exists():  # Of an attempt that was cut off, whose server may still run.
        embedded.clear_the_way(host.scratch)
        _remove(place)
    place.mkdir(mode=0o700)
    if host.uid is not None and host.gid is not None:
        os.chown(place, host.uid, host.gid)


def _remove(place: Path) -> None:
    """An `initdb` that outlived who began it may still make files there."""
    deadline = time.monotonic() + _STRAY_PATIENCE_S
    while True:
        try:
            shutil.rmtree(place)
        except OSError as error:
            if time.monotonic() >= deadline:
                raise UnavailableError(
                    f"{place}: {error}", public=f"{place} is of an attempt that was cut off, and still changes"
                ) from error
            time.sleep(0.2)
        else:
            return


async def _looked_through(host: Host, found: Found, place: str) -> Recovered:
    database = Database(socket_dir=host.paths.control_socket_dir, role=embedded.OWNER)
    await database.open()
    try:
        checkpoints: list[Checkpoint] = []
        if found.dump.checkpoint is not None:
            checkpoints.append(notary.checked(found.dump.checkpoint, "the checkpoint in the dump"))
        outcome = await verify(database, (), checkpoints)
        if isinstance(outcome, Broken):
            raise UnprocessableError(public=f"the audit log in the dump is not what was appended: {outcome}")
        async with database.transaction() as tx:  # 5.
            # Those that were ready to be taken lie on no disk here: they are made again, under their keys.
            await tx.execute("UPDATE volume SET state = 'formatting' WHERE state = 'ready'")
            await record(tx, _event(found, checkpoints, outcome.head.seq, place))
            rows = await tx.fetch("SELECT id, name FROM project WHERE deleted_at IS NULL ORDER BY name, id")
    finally:
        await database.close()
    return Recovered(found.dump, found.damaged, outcome.head.seq, [(row["id"], row["name"]) for row in rows])


def _event(found: Found, checkpoints: list[Checkpoint], seq: int, place: str) -> Event:
    dump = found.dump
    details: dict[str, object] = {
        "dump": dump.name,
        "moment": datetime.fromtimestamp(dump.moment, UTC).isoformat(),
        "version": dump.version,
        "epoch": dump.epoch,
        "until": seq,
    }
    if found.damaged:
        details["damaged"] = " ".join(found.damaged)
    for checkpoint in checkpoints:
        details |= {"log": checkpoint.origin, "signed": checkpoint.size, "root": checkpoint.root.hex()}
    return Event(action=Action.PLATFORM_RECOVER, actor="platform:root", resource=place, details=details)


def _put_keystore(paths: Paths, keystore: Backup, roots: Roots, newest_known: int) -> None:
    """One that is there is this one, of an attempt that was cut off here; or it is refused."""
    seals = paths.keystore / SEALS_FILE
    if not seals.exists() or seals.read_bytes() != keystore.content:
        keystores.restore(keystore, roots, paths.keystore, paths.epochs, newest_known=newest_known)


def _put_secrets(paths: Paths, dump: Dump, *, is_ours: bool) -> None:
    """In place of what was made here by chance. Nothing has used that."""
    for path in (paths.control_key, paths.mock_key):
        if (secret := dump.secrets.get(path.name)) is not None:
            path.unlink(missing_ok=True)
            uid, gid = (uid_of(Service.API), gid_of(Service.API)) if is_ours else (os.geteuid(), os.getegid())
            write_private(path, secret, uid=uid, gid=gid)


@contextlib.contextmanager
def _serving(host: Host) -> Iterator[None]:
    """The database's server, on its data in the place where they are made. Nobody else knows of it."""
    server = subprocess.Popen(
        embedded.argv(host.scratch),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        umask=0o077,
        user=host.uid,
        group=host.gid,
        extra_groups=None if host.uid is None else [],
    )
    try:
        yield
    finally:
        server.send_signal(embedded.STOP_SIGNAL)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _run(host: Host, argv: list[str]) -> None:
    """As the database's user."""
    is_other = host.database is not None
    try:
        subprocess.run(
            argv,
            check=True,
            capture_output=True,
            timeout=RESTORE_TIMEOUT_S,
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
            cwd="/",
            umask=0o077,
            user=host.uid if is_other else None,
            group=host.gid if is_other else None,
            extra_groups=[] if is_other else None,
        )
    except subprocess.CalledProcessError as error:
        said = error.stderr[-_SAID_BYTES_MAX:].decode(errors="replace").strip()
        raise InternalError(
            f"pg_restore: {said}", public=f"the dump does not make a control database: {said}"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(public="the control database could not be made of the dump in time") from error


@contextlib.asynccontextmanager
async def _courier(settings: Settings) -> AsyncIterator[Client]:
    reading, writing = os.pipe()
    try:
        child = children.spawn(children.Child("courier", Service.COURIER), settings, listen_fds=[], ready_fd=writing)
    finally:
        os.close(writing)
        os.close(reading)
    client = Client(settings.paths.courier_socket, connect_patience_s=_COURIER_PATIENCE_S)
    try:
        yield client
    finally:
        await client.close()
        child.terminate()
        await asyncio.to_thread(child.wait)

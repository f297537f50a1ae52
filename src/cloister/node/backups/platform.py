"""The control database goes to the store: a dump of it, in chunks, under a key of the platform's (docs/adr/0057-control-database-backup.md).

What must stay true:

- Root runs no SQL, and reads the dump as what somebody else wrote: `pg_dump` is the database's user, and so is the directory's owner.
- The dump is on disk while it is sent, where the database itself lies, readable by the same user, and no longer: the next one removes
  what a crash left.
- Its own object is put last, after the key that opens it: if it is there, all that it needs was.
"""

import asyncio
import logging
import secrets
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cloister
from cloister.base.clock import Clock
from cloister.base.database import embedded
from cloister.base.errors import ExhaustedError, InternalError, PreconditionError, UnavailableError
from cloister.base.identities import Service, gid_of, uid_of
from cloister.base.settings import Paths
from cloister.node.backups.dumps import Dumps
from cloister.node.backups.keys import KeySource
from cloister.node.backups.memory import Memory
from cloister.node.backups.objects import Store
from cloister.node.backups.reading import Reading
from cloister.node.backups.seeing import see_dump
from cloister.node.backups.senders import Senders, known
from cloister.node.backups.sending import BaseRun, InThread, Sealing
from cloister.node.commands import PlatformBacked, Seen
from cloister.node.space import HostSpace
from cloister.protocol.backups import keys as names
from cloister.protocol.backups.dumps import Dump, encoded_dump
from cloister.protocol.backups.sealing import BackupKey
from cloister.trust.keys.notary import read_last

log = logging.getLogger(__name__)

DUMP_TIMEOUT_S: Final = 600.0
# A few hundred megabytes of rows: some ten seconds. What takes longer is a table that somebody holds.

ROOM_BYTES_MIN: Final = 1024**3
# Left on the disk, beside as much as the database takes: it is the database's own, which must not run out of room for this.

_DIRECTORY: Final = "dump-"

_SAID_BYTES_MAX: Final = 1000


@dataclass(frozen=True, slots=True)
class Dumping:
    """Where the control database is."""

    paths: Paths
    is_ours: bool = True
    """Not an operator's own, whose backups are theirs."""
    user: Service | None = Service.DATABASE
    """None: this process's own."""

    async def dump(self) -> Path:
        """Into a directory of its own: a `pg_dump` that outlived an agent writes into another. Raises PreconditionError, ExhaustedError,
        UnavailableError with what pg_dump says."""
        if not self.is_ours:
            raise PreconditionError(
                public="the control database is not ours (--database-url): its own backups are its operator's"
            )
        await asyncio.to_thread(self._make_room)
        directory = self.paths.control_data / f"{_DIRECTORY}{secrets.token_hex(8)}"
        program = await asyncio.create_subprocess_exec(
            *embedded.dump_argv(self.paths, directory),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PGCONNECT_TIMEOUT": "5"},
            cwd="/",
            umask=0o077,
            user=None if self.user is None else uid_of(self.user),
            group=None if self.user is None else gid_of(self.user),
            extra_groups=None if self.user is None else [],
        )
        try:
            async with asyncio.timeout(DUMP_TIMEOUT_S):
                _, said = await program.communicate()
        except TimeoutError:
            raise UnavailableError(public="the control database could not be dumped in time") from None
        finally:
            if program.returncode is None:
                program.kill()
                await program.wait()
        if program.returncode != 0:
            text = said[-_SAID_BYTES_MAX:].decode(errors="replace").strip()
            raise UnavailableError(text, public="the control database could not be dumped: see the log of the agent")
        return directory

    def remove(self) -> None:
        """What there is of dumps."""
        for path in self.paths.control_data.glob(f"{_DIRECTORY}*"):
            shutil.rmtree(path, ignore_errors=True)

    def held_beside(self) -> dict[str, bytes]:
        """What encrypts what the rows have only encrypted: without it they are there, and of no use."""
        return {path.name: path.read_bytes() for path in (self.paths.control_key, self.paths.mock_key) if path.exists()}

    def _make_room(self) -> None:
        self.remove()
        taken = sum(map(_size, embedded.data_dir(self.paths).glob("base/*/*")))
        if HostSpace(self.paths.control_data).free_bytes() < taken + ROOM_BYTES_MIN:
            raise ExhaustedError(public="the disk of the control database has no room for a dump of it")


class PlatformSending:
    """One at a time: whoever asks while one is under way is the keeper's matter."""

    def __init__(
        self,
        dumping: Dumping,
        store: Store,
        keys: KeySource,
        memory: Memory,
        clock: Clock,
        *,
        senders: Senders | None = None,
    ) -> None:
        self._dumping = dumping
        self._store = store
        self._keys = keys
        self._memory = memory
        self._clock = clock
        self._senders = senders if senders is not None else Senders(dumping, store, clock)

    async def send(self, retain_days: int, in_thread: InThread) -> PlatformBacked:
        """1. What is beside the rows, from before the dump: the log in it must go on from the checkpoint, and not the other way round.
        2. Dump.
        3. Take the key, which the log is told of. It is in the log that is here, and need not be in the one that is sent.
        4. Send each chunk that is not in the store, or not for long enough, and the lists; the envelope of the key.
        5. The dump's own object, if no other platform has taken the store over.
        """
        store = await self._store.name()
        checkpoint = await asyncio.to_thread(read_last, self._dumping.paths.notary)  # 1.
        held = await asyncio.to_thread(self._dumping.held_beside)
        moment = self._clock.now().timestamp()
        try:
            data = await self._dumping.dump()  # 2.
            label = await self._senders.label()
            info, page = await self._keys.dump_key("back_up")  # 3.
            with page:
                key = BackupKey(page.buffer, names.PLATFORM, info.material)
            try:
                sealing = Sealing(self._store, key, names.PLATFORM, moment, retain_days)
                chunks = await asyncio.to_thread(self._memory.chunks, names.PLATFORM, store)
                reading = Reading(data, key.chunk_id)
                run = BaseRun(sealing, reading, chunks)
                try:
                    await run.go(in_thread)  # 4.
                finally:
                    await asyncio.to_thread(chunks.save, sealing.needed_until)
                if reading.left_out:
                    raise InternalError(f"{reading.left_out} files of the dump cannot be sent")
                await sealing.put_as_it_is(names.platform_key(info.material), info.envelope)
                await self._senders.require(label)
                mine = known(self._dumping.paths, store)
                dump = Dump(
                    moment=moment,
                    version=cloister.__version__,
                    epoch=info.epoch,
                    secrets=held,
                    checkpoint=checkpoint,
                    lists=reading.lists,
                    files=reading.files,
                    bytes=reading.bytes,
                    label=label,
                    line=mine.line,
                    number=mine.number,
                )
                await sealing.put(names.dump(dump.name), encoded_dump(dump))  # 5.
            finally:
                key.close()
        finally:
            await in_thread(lambda _abort: self._dumping.remove())
        return PlatformBacked(
            name=dump.name,
            moment=moment,
            chunks=run.count,
            new_chunks=run.new,
            bytes=reading.bytes,
            new_bytes=sealing.bytes,
            locked_until=run.locked_until,
        )

    async def read_back(self, name: str, sample: int) -> Seen:
        """What is damaged is sent again with the next dump."""
        store = await self._store.name()
        info, page = await self._keys.dump_key("read_back")
        with page:
            key = BackupKey(page.buffer, names.PLATFORM, info.material)
        try:
            look = await see_dump(Dumps(self._store, _One(key)), name, info, sample)
        finally:
            key.close()
        if look.seen.damaged:
            log.error(
                "%d objects of the control database's backup do not open: %s",
                len(look.seen.damaged),
                look.seen.damaged[0],
            )
        if look.chunks:
            await asyncio.to_thread(self._memory.forget_chunks, names.PLATFORM, store, look.chunks)
        return look.seen


class _One:
    """The key of dumps. What was sealed with another does not open with it."""

    def __init__(self, key: BackupKey) -> None:
        self._key = key

    async def of(self, _material: int) -> BackupKey:
        return self._key


def _size(path: Path) -> int:
    """The server drops files meanwhile."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0

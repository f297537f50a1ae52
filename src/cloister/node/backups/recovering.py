"""What the store has of the control database, for a server that has nothing: which dump, and its files.

Nobody here knows what was sent. So what must stay true is less than of a project: a dump that comes back was made by a platform with this
root key, as it was made. Whether there was a later one only a witness can say, or who noted it.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from cloister.base.errors import NotFoundError, PreconditionError, UnprocessableError
from cloister.node.backups.dumps import Dumps
from cloister.node.backups.fetching import lay_files
from cloister.node.backups.laying import Laying
from cloister.node.backups.objects import Store
from cloister.node.backups.sending import InThread
from cloister.protocol.backups import keys as names
from cloister.protocol.backups.dumps import Dump, name_of
from cloister.protocol.backups.errors import BackupError
from cloister.protocol.backups.sealing import BackupKey
from cloister.trust.keys import platform
from cloister.trust.keys.memory import SecretPage
from cloister.trust.keys.providers.provider import KEY_BYTES, KeyDamagedError
from cloister.trust.keys.roots import Roots

TRIED_MAX: Final = 32
# Heads that do not open, behind which another is looked for. Who stole the writer's credentials can put more: a moment before them says which.

KEYS_TRIED_MAX: Final = 2 * TRIED_MAX
# A platform has one, and another after each loss of its keystore; each head that is somebody else's may name another.

SKEW_S: Final = 3600.0
# What is from later than this clock and so much is not the newest, but not ours.


@dataclass(frozen=True, slots=True)
class Found:
    dump: Dump
    damaged: list[str]
    """Names of later ones that do not open: somebody else's, or something was lost."""


class RootKeys:
    """Keys of dumps, from beside them, by the root keys that are here."""

    def __init__(self, store: Store, roots: Roots) -> None:
        self._store = store
        self._roots = roots
        self._held: dict[int, BackupKey] = {}
        self._asked: set[int] = set()

    async def of(self, material: int) -> BackupKey:
        """Raises BackupError where this platform has none of that name."""
        if material in self._held:
            return self._held[material]
        if material not in self._asked and len(self._asked) < KEYS_TRIED_MAX:
            self._asked.add(material)
            try:
                self._held[material] = await self._store.read(names.platform_key(material), self._opened_as(material))
            except (NotFoundError, UnprocessableError) as error:
                raise BackupError("is sealed with a key that this root key does not open") from error
            return self._held[material]
        raise BackupError("is sealed with a key that this root key does not open")

    def close(self) -> None:
        for key in self._held.values():
            key.close()
        self._held.clear()

    def _opened_as(self, material: int) -> Callable[[bytes], Awaitable[BackupKey]]:
        async def opened(content: bytes) -> BackupKey:
            try:
                # Whichever it is, what it opens was sealed with it, and for this name of a key (`sealing.py`).
                envelope = platform.parse(content)
                with SecretPage(KEY_BYTES) as page:
                    platform.open_into(envelope, self._roots, page.buffer)
                    return BackupKey(page.buffer, names.PLATFORM, material)
            except (PreconditionError, KeyDamagedError) as error:
                raise BackupError("is not for this root key") from error

        return opened


class Recovering:
    def __init__(self, store: Store, keys: RootKeys) -> None:
        self._dumps = Dumps(store, keys)

    async def find(self, at: float | None, now: float) -> Found:
        """The newest that opens, or the newest that was made before `at`. Raises PreconditionError where there is none."""
        last = name_of(at if at is not None else now + SKEW_S)
        newest: deque[str] = deque(maxlen=TRIED_MAX)  # all others are forgotten, however many somebody put there
        before, is_any = 0, False
        async for it in self._dumps.store.versions(names.DUMPS):  # in the order of moments
            name = names.dump_name(it.key)
            if name is None or it.is_marker:
                continue
            is_any = True
            if name[: len(last)] > last:
                break
            if not newest or newest[-1] != name:
                newest.append(name)
                before += 1
        damaged: list[str] = []
        # Of those that sent under one name after the other, the last: what an earlier one put after that is another history.
        for name in sorted(newest, key=lambda it: (names.label_of(it), it), reverse=True):
            try:
                return Found(await self._dumps.head(name), damaged)
            except (NotFoundError, UnprocessableError):
                damaged.append(name)
        if damaged:
            raise PreconditionError(
                public=f"of {before} dumps of a control database in the store, none of the newest {len(damaged)} opens with this root key: another "
                "one does, or somebody put these there; with --at, those from before are looked at"
            )
        if is_any:
            raise PreconditionError(
                public="the store has dumps of the control database, but none from before that moment"
            )
        raise PreconditionError(public="the store has no dump of a control database")

    async def lay(self, dump: Dump, laying: Laying, in_thread: InThread) -> None:
        """All of it, or UnprocessableError, NotFoundError with what is missing: an older one would be a loss that nobody asked for."""
        await lay_files(f"dump {dump.name}", dump, self._dumps, laying, in_thread)

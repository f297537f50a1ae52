"""Who sends into a store: one platform at a time (docs/adr/0060-one-sender.md).

A platform claims the store with an object, and looks every minute whether another did so after it: one that was made of this one's backup,
or that its operator told to. Then it sends no more. What each of them puts has its label in the names, which their seals hold: so a
restoration takes one's alone, and only of those whose history this platform's goes on from.

A claim is a number. Its name has a keyed digest, of a secret that is in dumps of the control database and in no store as it is: who has only
the store's credentials cannot make one, and what they put over one or beside it is no claim.
"""

import asyncio
import hashlib
import hmac
import logging
import os
import secrets
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, Protocol

import msgspec

from cloister.base.clock import Clock
from cloister.base.durable import sync_directory, write_durably
from cloister.base.errors import ConflictError, NotFoundError, PreconditionError, UnprocessableError
from cloister.base.settings import Paths
from cloister.node.backups.objects import Store
from cloister.node.commands import LOCK_SPARE_DAYS
from cloister.protocol.backups import keys as names
from cloister.protocol.backups.dumps import Dump
from cloister.protocol.backups.errors import BackupError
from cloister.protocol.backups.sealing import NONCE_BYTES, BackupKey

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 60.0
# Two small requests. What two send until then is told apart.

DAYS: Final = 30 + LOCK_SPARE_DAYS
RENEW_EVERY_S: Final = LOCK_SPARE_DAYS * 24 * 3600.0
# As what a base needs: a claim is there for longer than anything that was sent under it.

VERSIONS_MAX: Final = 16
# Of one claim that are opened.

_OPENED_MAX: Final = 1000

_FIRST: Final = 1
_MATERIAL: Final = 1


class Claim(msgspec.Struct, frozen=True, order=True):
    at: float
    sender: str
    """The number, and eight digits by chance: two that take the same number at once are two."""
    host: str

    @property
    def number(self) -> int:
        return int(self.sender[:8], 16)

    @property
    def label(self) -> str:
        """In names. What the first sends has none, as what was sent before there were claims."""
        return "" if self.number == _FIRST else self.sender


class Mine(msgspec.Struct, frozen=True, kw_only=True):
    """What is known here of one store."""

    claim: Claim | None = None
    put_at: float = 0
    line: list[str] | None = None
    """Labels of those whose history this platform's is, the last one's last; None: not known, so anybody's."""
    number: int = 0
    """Of the last claim that is known of."""


class Beside(Protocol):
    """As `platform.Dumping`."""

    @property
    def paths(self) -> Paths: ...
    def held_beside(self) -> Mapping[str, bytes]: ...


class Senders:
    def __init__(self, beside: Beside, store: Store, clock: Clock) -> None:
        self._paths = beside.paths
        self._beside = beside
        self._store = store
        self._clock = clock
        self._turn = asyncio.Lock()
        self._seen: tuple[str, Claim, float] | None = None
        """That this claim was good, and when."""
        self._opened: dict[tuple[str, str], Claim | None] = {}
        """By key and version."""
        self._key: BackupKey | None = None

    async def label(self) -> str:
        """Ours, for what is put now. A store that nobody has claimed is ours from then on. Raises ConflictError where another platform
        sends."""
        async with self._turn:
            place, now = await self._store.name(), self._clock.now().timestamp()
            mine = known(self._paths, place)
            if mine.claim is None or self._paths.backup_take_over.exists():
                mine = await self._claim(place, mine, now)
            assert mine.claim is not None
            is_new = self._seen is None or self._seen[:2] != (place, mine.claim)
            if is_new or self._seen is None or not 0 <= now - self._seen[2] < LOOK_EVERY_S:
                await self._look(place, mine, now)
                self._seen = place, mine.claim, now
            return mine.claim.label

    async def require(self, label: str) -> None:
        """It is ours still. Raises ConflictError."""
        if await self.label() != label:
            raise ConflictError(public="backups are sent anew: the store was taken over meanwhile")

    async def last_label(self) -> str:
        """Of what was put last; who sends now is not asked."""
        mine = known(self._paths, await self._store.name())
        return "" if mine.claim is None else mine.claim.label

    async def line(self) -> list[str] | None:
        return known(self._paths, await self._store.name()).line

    async def _claim(self, place: str, mine: Mine, now: float) -> Mine:
        """The next number is written down before it is put: who is cut off between the two puts it later, if nobody else has by then. Nor
        is one left out for that: whoever has the number before it looks at this one alone."""
        takes = self._paths.backup_take_over.exists()
        known = mine.claim.number if mine.claim else mine.number
        if mine.claim is not None and not await self._is_claimed(known):
            known -= 1
        last = await self._last(known)
        if last and not takes:
            mine = await self._elsewhere(last)
            remember(self._paths, place, mine)
            return mine
        number = max(last, _FIRST) + 1 if takes else _FIRST
        if mine.claim is None or mine.claim.number != number:
            claim = Claim(now, f"{number:08X}{secrets.token_hex(4).upper()}", socket.gethostname())
            line = [claim.label] if number == _FIRST else None if mine.line is None else [*mine.line, claim.label]
            mine = Mine(claim=claim, line=line, number=number)
            remember(self._paths, place, mine)
        self._paths.backup_take_over.unlink(missing_ok=True)
        sync_directory(self._paths.state_dir)
        return mine

    async def _elsewhere(self, number: int) -> Mine:
        """What we are where this claim is ours: the same place under another name, or a copy of it. Raises ConflictError."""
        first = min(await self._claims(number), default=None)
        for it in _read(self._paths).values():
            if it.claim is not None and it.claim == first:
                return it
        raise _refusal(first)

    async def _look(self, place: str, mine: Mine, now: float) -> None:
        """1. Nobody has the next number.
        2. Nor ours: of two that took it at once, the first. One that comes late to what it wrote down has lost it.
        3. Where nothing is there, it was never put, or was for longer than it is kept: then others may have come and gone. Where it is
           only hidden by what a thief put over it, the list is not asked for, which may be as long as they like.
        4. It is put, and put again before it is gone; and who was quicker is seen now.
        """
        assert mine.claim is not None
        number = mine.claim.number
        if await self._is_claimed(number + 1):  # 1.
            raise await self._taken(await self._last(number + 1))
        claims = await self._claims(number)
        self._require_first(claims, mine.claim)  # 2.
        if not claims and not await self._is_claimed(number) and (last := await self._last(0)) > number:  # 3.
            raise await self._taken(last)
        if mine.claim not in claims or now - mine.put_at >= RENEW_EVERY_S:  # 4.
            key = self._name(number)
            await self._store.put(
                key, self._sealing.seal(key, msgspec.json.encode(mine.claim), os.urandom(NONCE_BYTES)), DAYS
            )
            remember(self._paths, place, msgspec.structs.replace(mine, put_at=now))
            self._require_first([*await self._claims(number), mine.claim], mine.claim)

    def _require_first(self, claims: list[Claim], ours: Claim) -> None:
        if claims and (ours not in claims or min(claims) != ours):
            raise _refusal(min(claims))

    async def _last(self, number: int) -> int:
        """The newest claim's number, from one that is known on; 0 for none."""
        if number and await self._is_claimed(number):
            while await self._is_claimed(number + 1):
                number += 1
            return number
        async for it in self._store.versions(names.SENDERS):
            found = names.sender_number(it.key)
            if found is not None and found > number and not it.is_marker and it.key == self._name(found):
                number = found
        return number

    async def _is_claimed(self, number: int) -> bool:
        """Whatever lies there now: nobody else has the name."""
        key = self._name(number)
        async for it in self._store.versions(key):
            if it.key == key and not it.is_marker:
                return True
        return False

    async def _claims(self, number: int) -> list[Claim]:
        key, found, tried = self._name(number), list[Claim](), 0
        async for it in self._store.versions(key):
            if it.key != key or it.is_marker:
                continue
            if (tried := tried + 1) > VERSIONS_MAX:
                break
            if (key, it.version) not in self._opened:
                if len(self._opened) >= _OPENED_MAX:
                    self._opened.clear()
                try:
                    sealed = await self._store.version(key, it.version)
                except (NotFoundError, UnprocessableError):
                    continue  # It may be given the next time.
                self._opened[key, it.version] = self._open(key, sealed)
            if (claim := self._opened[key, it.version]) is not None:
                found.append(claim)
        return found

    def _open(self, key: str, sealed: bytes) -> Claim | None:
        try:
            return msgspec.json.decode(self._sealing.open(key, sealed), type=Claim)
        except (BackupError, msgspec.DecodeError):
            return None

    async def _taken(self, number: int) -> ConflictError:
        return _refusal(min(await self._claims(number), default=None))

    def _name(self, number: int) -> str:
        return names.sender(number, self._sealing.chunk_id(f"sender {number}".encode()))

    @property
    def _sealing(self) -> BackupKey:
        if self._key is None:
            secret = self._beside.held_beside().get(self._paths.control_key.name)
            if secret is None:
                raise PreconditionError(public=f"{self._paths.control_key} is missing")
            self._key = sealing_of(secret)
        return self._key


def sealing_of(secret: bytes) -> BackupKey:
    return BackupKey(hmac.digest(secret, b"cloister backup senders 1", hashlib.sha256), names.PLATFORM, _MATERIAL)


def known(paths: Paths, place: str) -> Mine:
    return _read(paths).get(place, Mine())


def remember(paths: Paths, place: str, mine: Mine) -> None:
    write_durably(paths.backup_sender, msgspec.json.encode({**_read(paths), place: mine}), mode=0o600)


def of_dump(dump: Dump) -> Mine:
    """Who comes of it. One of a Cloister that knew no claims goes on from what has no label: there was nothing else."""
    return Mine(line=dump.line if dump.number else [""], number=dump.number)


def take_over(paths: Paths) -> None:
    """The next that is sent from here claims the store. On disk when it returns."""
    write_durably(paths.backup_take_over, b"", mode=0o600)


def _read(paths: Paths) -> dict[str, Mine]:
    """One that is damaged is as good as lost: nothing is sent then, and what there is can be restored."""
    try:
        return msgspec.json.decode(paths.backup_sender.read_bytes(), type=dict[str, Mine])
    except FileNotFoundError:
        return {}
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        log.error("%s is damaged: %s", paths.backup_sender, error)  # noqa: TRY400 - the error says it all
        return {}


def _refusal(claim: Claim | None) -> ConflictError:
    who = "another platform" if claim is None else f"another platform, on {claim.host},"
    since = "" if claim is None else f" since {datetime.fromtimestamp(claim.at, UTC):%Y-%m-%d %H:%M:%S} UTC"
    return ConflictError(
        public=f"{who} sends into this bucket{since}, so nothing is sent from here. If this is the one that shall: "
        "`cloister backups store set` with --take-over"
    )

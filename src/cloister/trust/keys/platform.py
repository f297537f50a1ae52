"""The key of the control database's dumps: one for the platform, which the root key alone wraps.

    keystore/dumps.json     {"format": 1, "material": 305419896, "made_at": "…", "provider": "file", "root_version": "…", "wrapped": "…"}

The same, byte for byte, lies in the store of backups, with every dump: whoever has the bucket and the root key opens what is in
there, and nobody else does. No project's data: their keys need their seals, of which a dump has none. What must stay true:

- a key that seals is one whose envelope is on disk, and opens;
- its use is recorded before it is open.
"""

import asyncio
import hmac
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from cloister.base.clock import Clock
from cloister.base.database import Database
from cloister.base.durable import write_durably
from cloister.base.errors import CloisterError, PreconditionError
from cloister.trust.audit import Action, Event, record
from cloister.trust.audit.events import timestamp
from cloister.trust.keys.asking import By, record_failure
from cloister.trust.keys.memory import SecretPage
from cloister.trust.keys.patience import Patience
from cloister.trust.keys.providers.provider import KEY_BYTES, Context, KeyDamagedError, Provider
from cloister.trust.keys.roots import Roots

T = TypeVar("T")

FILE: Final = "dumps.json"
FORMAT: Final = 1
PURPOSE: Final = "dumps"
MATERIAL_MAX: Final = 2**31 - 1
ENVELOPE_BYTES_MAX: Final = 16 * 1024
"""A provider's envelope has some hundred bytes; a key service's, some more."""


class Envelope(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    format: int = FORMAT
    material: int
    """Its name: another platform's is another."""
    made_at: str
    provider: str
    root_version: str
    wrapped: bytes

    @property
    def context(self) -> Context:
        return Context("", f"{PURPOSE} {self.made_at}", self.material)


def parse(content: bytes) -> Envelope:
    """Raises PreconditionError."""
    try:
        if len(content) > ENVELOPE_BYTES_MAX:
            raise PreconditionError(public="the key of the control database's dumps is larger than one can be")
        found = msgspec.json.decode(content, type=Envelope)
    except msgspec.DecodeError as error:
        raise PreconditionError(public=f"this is no key of the control database's dumps: {error}") from error
    if found.format != FORMAT or not 0 < found.material <= MATERIAL_MAX:
        raise PreconditionError(public="the key of the control database's dumps is of another Cloister")
    return found


def open_into(envelope: Envelope, roots: Roots, buffer: memoryview) -> Provider:
    """Which root key opened it. Raises PreconditionError where that is not held, KeyDamagedError."""
    provider = roots.find(envelope.provider, envelope.root_version)
    provider.unwrap_into(envelope.wrapped, envelope.context, buffer)
    return provider


class DumpKey:
    """The broker's. `directory` is the keystore's."""

    def __init__(self, database: Database, roots: Roots, directory: Path, clock: Clock, patience: Patience) -> None:
        self._database = database
        self._roots = roots
        self._path = directory / FILE
        self._clock = clock
        self._patience = patience
        self._one_at_a_time = asyncio.Lock()

    async def taken(self, by: By, reason: str) -> tuple[Envelope, SecretPage]:
        """The envelope as it is to lie in the store, and the key in a page that the caller closes.

        1. There is one under a root key that is held, or it is made: in the log first, and on disk before anybody has it.
        2. Record its use, and commit. If that fails for whatever reason, refuse.
        3. Open it.
        4. Where a former root key wraps it, the current one does from now on: the former may go.
        """
        async with self._one_at_a_time:
            envelope = await self._known() or await self._made(by)  # 1.
            event = self._event(by, Action.KEY_UNWRAP, envelope, reason)
            async with self._database.transaction() as tx:  # 2.
                await record(tx, event)
            page = SecretPage(KEY_BYTES)
            try:
                root = await self._ask(lambda: open_into(envelope, self._roots, page.buffer))  # 3.
                if root is not self._roots.current:  # 4.
                    envelope = await self._ask(lambda: self._wrapped(envelope.material, envelope.made_at, page))
                    await asyncio.to_thread(self._keep, envelope)
            except BaseException as error:
                page.close()
                if isinstance(error, CloisterError):
                    await record_failure(self._database, event, error)
                raise
            return envelope, page

    async def _known(self) -> Envelope | None:
        try:
            found = parse(await asyncio.to_thread(self._path.read_bytes))
        except FileNotFoundError:
            return None
        held = [(root.name, root.root_version) for root in self._roots.all]
        return found if (found.provider, found.root_version) in held else None

    async def _made(self, by: By) -> Envelope:
        material, made_at = secrets.randbelow(MATERIAL_MAX) + 1, timestamp(self._clock.now())
        with SecretPage(KEY_BYTES) as page:
            page.fill_randomly()
            made = await self._ask(lambda: self._wrapped(material, made_at, page))
        async with self._database.transaction() as tx:
            await record(tx, self._event(by, Action.KEY_CREATE, made))
        await asyncio.to_thread(self._keep, made)
        return made

    def _wrapped(self, material: int, made_at: str, page: SecretPage) -> Envelope:
        """By the current root key, and opened again to see that it can be: years later somebody needs it."""
        root = self._roots.current
        empty = Envelope(
            material=material, made_at=made_at, provider=root.name, root_version=root.root_version, wrapped=b""
        )
        made = msgspec.structs.replace(empty, wrapped=root.wrap(page.buffer, empty.context))
        with SecretPage(KEY_BYTES) as again:
            root.unwrap_into(made.wrapped, made.context, again.buffer)
            if not hmac.compare_digest(again.buffer, page.buffer):
                raise KeyDamagedError(f"{made.context}: {root.name} does not give back what it wrapped")
        return made

    async def _ask(self, function: Callable[[], T]) -> T:
        return await self._patience.asked(any(root.is_remote for root in self._roots.all), function)

    def _keep(self, envelope: Envelope) -> None:
        write_durably(self._path, msgspec.json.encode(envelope), mode=0o600)

    @staticmethod
    def _event(by: By, action: Action, envelope: Envelope, reason: str = "") -> Event:
        details = {"provider": envelope.provider, "root_version": envelope.root_version}
        return by.event(action, resource=f"{PURPOSE}/{envelope.material}", reason=reason, details=details)

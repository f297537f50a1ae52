"""Asking the key broker: a connection per question, so that no call waits for another's key.

The API creates, destroys and lists, has checkpoints signed, and keeps recordings; the node agent unwraps. A volume's key
arrives as a descriptor and is never read here: pass it on as `/proc/self/fd/N`. Those of recordings and of statements are read.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final, TypeVar
from uuid import UUID

import msgspec

from cloister.base import descriptors
from cloister.base.errors import InternalError, UnavailableError
from cloister.base.limits import RPC_CALL_TIMEOUT_S
from cloister.base.rpc.wire import LENGTH, Command, FrameTooLongError, Reply, Request, frame, frame_length
from cloister.base.versions import Condition
from cloister.protocol.merkle.notes import SignedTree
from cloister.protocol.merkle.tree import Tree
from cloister.trust.keys.commands import (
    BACKUP,
    WAITING_DAYS_MAX,
    ChangeRing,
    CopyKeystore,
    CreateKey,
    DestroyKeys,
    DumpKeyInfo,
    EraseStatements,
    GetCheckpoint,
    GetKeyPolicy,
    GetKeystore,
    GetRing,
    KeyInfo,
    KeyPolicy,
    KeystoreCopy,
    KeystoreInfo,
    ListKeys,
    MakeRecordingKey,
    MakeStatementKey,
    OnBehalf,
    OpenRecordingKey,
    OpenStatementKeys,
    RecordingEnvelope,
    ReloadRoots,
    RenewKey,
    RetireKey,
    RingInfo,
    RotateKeys,
    SetKeyPolicy,
    SignCheckpoint,
    UnwrapDumpKey,
    UnwrapKey,
)
from cloister.trust.keys.memory import SecretPage, is_sealed, read_hexadecimal
from cloister.trust.keys.providers.provider import KEY_BYTES

R = TypeVar("R")

CONNECT_PATIENCE_S: Final = 5.0
# A broker that was killed is back in well under a second.

_DESCRIPTORS_MAX: Final = 4
# More than one is a fault, but all of them must be closed.


class KeyClient:
    """Raises what the broker refuses with, or UnavailableError if it does not answer."""

    def __init__(self, path: Path, *, connect_patience_s: float = CONNECT_PATIENCE_S) -> None:
        self._path = path
        self._patience_s = connect_patience_s

    async def create(self, project_id: str, purpose: str = "volume") -> KeyInfo:
        """The project's key of that purpose, minted if there is none. Twice is once."""
        info, _ = await self._ask(CreateKey(project_id=project_id, purpose=purpose))
        return info

    async def renew(self, project_id: str, beyond: int, by: OnBehalf) -> KeyInfo:
        """A further key for the project's volume, beyond this material. Twice is once."""
        info, _ = await self._ask(RenewKey(project_id=project_id, beyond=beyond, by=by))
        return info

    async def retire(self, project_id: str, material: int, by: OnBehalf) -> int:
        """Destroy a key that the project's volume does not have. Raises UnprocessableError where a branch is protected."""
        count, _ = await self._ask(RetireKey(project_id=project_id, material=material, by=by))
        return count

    async def destroy(self, project_id: str) -> int:
        """Destroy every key of the project, for good. The number destroyed."""
        count, _ = await self._ask(DestroyKeys(project_id=project_id))
        return count

    async def ring(self, project_id: str) -> RingInfo:
        ring, _ = await self._ask(GetRing(project_id=project_id))
        return ring

    async def rotate(self, project_id: str, by: OnBehalf) -> RingInfo:
        ring, _ = await self._ask(RotateKeys(project_id=project_id, by=by))
        return ring

    async def change(
        self, project_id: str, change: str, by: OnBehalf, *, days: int = WAITING_DAYS_MAX, reason: str = ""
    ) -> RingInfo:
        """`disable`, `enable`, `destroy`, `cancel`."""
        ring, _ = await self._ask(ChangeRing(project_id=project_id, change=change, days=days, reason=reason, by=by))
        return ring

    async def policy(self, org_id: str) -> KeyPolicy:
        policy, _ = await self._ask(GetKeyPolicy(org_id=org_id))
        return policy

    async def set_policy(
        self, org_id: str, policy: KeyPolicy, by: OnBehalf, condition: Condition | None = None
    ) -> KeyPolicy:
        policy, _ = await self._ask(SetKeyPolicy(org_id=org_id, policy=policy, by=by, condition=condition))
        return policy

    async def keystore(self) -> KeystoreInfo:
        info, _ = await self._ask(GetKeystore())
        return info

    async def reload_roots(self) -> int:
        """As root. Raises PreconditionError, UnavailableError if the new root cannot be used; then nothing changed."""
        count, _ = await self._ask(ReloadRoots())
        return count

    async def copy_keystore(self) -> KeystoreCopy:
        """As root."""
        copy, _ = await self._ask(CopyKeystore())
        return copy

    async def last_checkpoint(self) -> SignedTree:
        signed, _ = await self._ask(GetCheckpoint())
        return signed

    async def sign_checkpoint(self, tree: Tree, proof: Sequence[bytes]) -> SignedTree:
        """Raises ConflictError if the tree is no extension of the last that was signed."""
        signed, _ = await self._ask(SignCheckpoint(size=tree.size, peaks=list(tree.peaks), proof=[*proof]))
        return signed

    async def unwrap(
        self, project_id: str, reason: str, purpose: str = "volume", *, material: int | None = None
    ) -> int:
        """A descriptor of a sealed memfd with the 32 bytes as 64 hexadecimal digits, close-on-exec. The caller closes it."""
        command = UnwrapKey(project_id=project_id, purpose=purpose, reason=reason, material=material)
        _, descriptor = await self._ask(command)
        return _checked(descriptor)

    async def backup_key(self, project_id: str, reason: str, *, material: int | None = None) -> tuple[int, SecretPage]:
        """One of the keys of a project's backups, the newest if no material is named: which it is, and the key in a page that the
        caller closes."""
        info, descriptor = await self._ask(
            UnwrapKey(project_id=project_id, purpose=BACKUP, reason=reason, material=material)
        )
        return info.material, _into_page(_checked(descriptor))

    async def dump_key(self, reason: str) -> tuple[DumpKeyInfo, SecretPage]:
        """The key of the control database's dumps, in a page that the caller closes, and what lies in the store beside them."""
        info, descriptor = await self._ask(UnwrapDumpKey(reason=reason))
        return info, _into_page(_checked(descriptor))

    async def make_recording_key(
        self, project_id: str, recording_id: UUID, by: OnBehalf
    ) -> tuple[RecordingEnvelope, bytes]:
        """The envelope of a new key, and the key."""
        command = MakeRecordingKey(project_id=project_id, recording_id=str(recording_id), by=by)
        envelope, descriptor = await self._ask(command)
        return envelope, _read(_checked(descriptor))

    async def open_recording_key(
        self, project_id: str, recording_id: UUID, envelope: RecordingEnvelope, reason: str, by: OnBehalf
    ) -> bytes:
        """Raises UnprocessableError if it is not this recording's, and PreconditionError where it was erased."""
        command = OpenRecordingKey(
            project_id=project_id, recording_id=str(recording_id), envelope=envelope, reason=reason, by=by
        )
        _, descriptor = await self._ask(command)
        return _read(_checked(descriptor))

    async def make_statement_key(self, project_id: str, generation: int) -> tuple[bytes, bytes]:
        """The public half of a new pair, and the envelope of the private one."""
        made, _ = await self._ask(MakeStatementKey(project_id=project_id, generation=generation))
        return made

    async def open_statement_keys(
        self, project_id: str, generation: int, wrapped: bytes, shares: Sequence[bytes], by: OnBehalf
    ) -> list[bytes]:
        """Of each segment that begins with such a share. Raises UnprocessableError if the envelope is another's, and
        PreconditionError where it was erased."""
        command = OpenStatementKeys(
            project_id=project_id, generation=generation, wrapped=wrapped, shares=[*shares], reason="read", by=by
        )
        _, descriptor = await self._ask(command)
        keys = _read(_checked(descriptor, len(shares)))
        return [keys[at : at + KEY_BYTES] for at in range(0, len(keys), KEY_BYTES)]

    async def erase_statements(self, project_id: str, by: OnBehalf) -> int:
        """Take the seals of erased months. How many were taken."""
        count, _ = await self._ask(EraseStatements(project_id=project_id, by=by))
        return count

    async def list(self, project_id: str | None = None) -> list[KeyInfo]:
        keys, _ = await self._ask(ListKeys(project_id=project_id))
        return keys

    async def _ask(self, command: Command[R]) -> tuple[R, int | None]:
        try:
            async with asyncio.timeout(RPC_CALL_TIMEOUT_S), self._connected() as connection:
                request = Request(1, msgspec.Raw(msgspec.msgpack.encode(command)))
                await asyncio.get_running_loop().sock_sendall(connection, frame(msgspec.msgpack.encode(request)))
                data, descriptor = await _receive(connection)
        except (OSError, EOFError, FrameTooLongError) as error:  # OSError: TimeoutError too
            raise UnavailableError(f"{self._path.name}: {error!r}") from error
        try:
            reply = msgspec.msgpack.decode(data, type=Reply)
            if reply.failure is not None:
                raise reply.failure.error()  # noqa: TRY301 - whatever is raised, a descriptor is closed
            answer: R = msgspec.msgpack.decode(reply.body, type=command.reply)
        except BaseException:
            if descriptor is not None:
                os.close(descriptor)
            raise
        return answer, descriptor

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[socket.socket]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._patience_s
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            try:
                await loop.sock_connect(connection, str(self._path))
            except (ConnectionError, FileNotFoundError, BlockingIOError):  # not there, or its queue is full
                connection.close()
                if loop.time() >= deadline:
                    raise
                await asyncio.sleep(0.02)
            except BaseException:
                connection.close()
                raise
            else:
                break
        with connection:
            yield connection


def _checked(descriptor: int | None, keys: int = 1) -> int:
    if descriptor is None:
        raise InternalError("the broker answered without a key")
    if not is_sealed(descriptor) or os.fstat(descriptor).st_size != 2 * KEY_BYTES * keys:
        os.close(descriptor)
        raise InternalError("the broker's descriptor is not a sealed key")
    return descriptor


def _read(descriptor: int) -> bytes:
    """For keys that are used in this process; closes the descriptor."""
    try:
        return bytes.fromhex(os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode())
    finally:
        os.close(descriptor)


def _into_page(descriptor: int) -> SecretPage:
    """As `_read`, without a copy that nobody can wipe."""
    page = SecretPage(KEY_BYTES)
    try:
        with SecretPage(2 * KEY_BYTES) as digits:
            if os.preadv(descriptor, [digits.buffer], 0) != 2 * KEY_BYTES:
                raise InternalError("the broker's key is cut off")  # noqa: TRY301 - whatever is raised, the page is wiped
            read_hexadecimal(digits.buffer, page.buffer)
    except BaseException:
        page.close()
        raise
    finally:
        os.close(descriptor)
    return page


async def _receive(connection: socket.socket) -> tuple[bytes, int | None]:
    """One frame, and the descriptor that came with it."""
    data = b""
    received: list[int] = []
    try:
        while len(data) < LENGTH.size or len(data) < LENGTH.size + frame_length(data[: LENGTH.size]):
            await _readable(connection)
            more, ours, flags = descriptors.receive(connection, 65536, _DESCRIPTORS_MAX)
            received += ours
            if not more or flags & socket.MSG_CTRUNC:
                raise EOFError("the broker closed the connection")  # noqa: TRY301 - as above
            data += more
        if len(received) > 1:
            raise EOFError("the broker sent more than one descriptor")  # noqa: TRY301 - as above
    except BaseException:
        for descriptor in received:
            os.close(descriptor)
        raise
    return data[LENGTH.size :], received[0] if received else None


async def _readable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def resolve() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(connection, resolve)
    try:
        await ready
    finally:
        loop.remove_reader(connection)

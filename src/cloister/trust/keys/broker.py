"""The key broker: the one process that has the root key, and the one place where a project's key is ever in clear.

It answers the commands of `commands.py` on a Unix socket. Not `base.rpc.Server`, because an answer may carry a file
descriptor, but the same frames. Who asks is the kernel's word (SO_PEERCRED), what each may ask is the table `MAY`, and
everybody else is refused and recorded. A key in clear exists from step 4 to step 6 of `_unwrap`, in a page of its own;
what leaves is a descriptor.
"""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, assert_never

import msgspec

from cloister.base.database import Database
from cloister.base.errors import (
    BadRequestError,
    CloisterError,
    ConflictError,
    ForbiddenError,
    InternalError,
    NotFoundError,
    PreconditionError,
)
from cloister.base.identities import Service
from cloister.base.ids import parse_project_id
from cloister.base.limits import RPC_CALL_TIMEOUT_S
from cloister.base.rpc import Peer
from cloister.base.rpc.wire import LENGTH, Command, Failure, FrameTooLongError, Reply, Request, frame, frame_length
from cloister.trust.audit import Action, Event, record
from cloister.trust.keys import store
from cloister.trust.keys.commands import (
    AnyCommand,
    CreateKey,
    DestroyKeys,
    GetCheckpoint,
    KeyInfo,
    ListKeys,
    SignCheckpoint,
    UnwrapKey,
)
from cloister.trust.keys.memory import SecretPage, sealed_memfd, write_hexadecimal
from cloister.trust.keys.notary import ForkError, Notary
from cloister.trust.keys.providers.provider import KEY_BYTES, Context, Provider
from cloister.trust.keys.refusals import Refusals
from cloister.trust.keys.store import WrappedKey

log = logging.getLogger(__name__)

MAY: Final[dict[type[Command[Any]], Service]] = {
    CreateKey: Service.API,
    DestroyKeys: Service.API,
    GetCheckpoint: Service.API,
    ListKeys: Service.API,
    SignCheckpoint: Service.API,
    UnwrapKey: Service.AGENT,
}
"""Who may send what. A command that is not here is refused."""

CALLERS: Final = frozenset(MAY.values())

CONNECTIONS_MAX: Final = 64
# The agent opens one for each volume that wakes; more wait in the kernel's queue.

REQUEST_BYTES_MAX: Final = 8192
# The largest command is a tree of 2^63 leaves and a proof: 190 hashes.

IDLE_TIMEOUT_S: Final = 30.0
# Our client asks once and leaves. A connection that says nothing for this long is somebody holding sockets.

WORD_CHARS_MAX: Final = 64
# For purposes and reasons, which are words of ours.


@dataclass(frozen=True, slots=True)
class Answer:
    body: Any
    descriptor: int | None = None
    """To be sent beside the body, and closed here whether that worked or not."""


class KeyBroker:
    """Serves `path` until stopped. `provider` holds the root key, `database` is open as the role `cloister_keys`."""

    def __init__(
        self,
        database: Database,
        provider: Provider,
        path: Path,
        notary: Notary,
        *,
        mode: int = 0o666,
        peer_of: Callable[[socket.socket], Peer] = Peer.of,
    ) -> None:
        """`mode` are the socket's permission bits: they decide who may knock, not who is answered."""
        self._database = database
        self._provider = provider
        self._path = path
        self._notary = notary
        self._mode = mode
        self._peer_of = peer_of
        self._commands = msgspec.msgpack.Decoder(AnyCommand)
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._refusals = Refusals()

    async def start(self) -> None:
        self._path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._listener.bind(str(self._path))
        os.chmod(self._path, self._mode)  # before it listens: no moment with another mode
        self._listener.listen(CONNECTIONS_MAX)
        self._accepting = asyncio.create_task(self._accept(self._listener))

    async def stop(self) -> None:
        if self._accepting is not None:
            self._accepting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._accepting
        if self._listener is not None:
            self._listener.close()
        self._path.unlink(missing_ok=True)

    async def _accept(self, listener: socket.socket) -> None:
        free = asyncio.Semaphore(CONNECTIONS_MAX)
        async with asyncio.TaskGroup() as serving:
            while True:
                await free.acquire()
                try:
                    connection, _ = await asyncio.get_running_loop().sock_accept(listener)
                except OSError as error:  # out of descriptors: those in use come back
                    log.warning("accepting on %s: %s", self._path.name, error)
                    free.release()
                    await asyncio.sleep(0.1)
                    continue
                serving.create_task(self._serve(connection)).add_done_callback(lambda _: free.release())

    async def _serve(self, connection: socket.socket) -> None:
        """One caller, one request after the other. Never raises: one caller's fault is no other's."""
        with connection:
            try:
                peer = self._peer_of(connection)
                if peer.service not in CALLERS:
                    await self._record_refusal(peer, "connect")
                    return
                while True:
                    async with asyncio.timeout(IDLE_TIMEOUT_S):
                        request = await _receive(connection)
                    reply, descriptor = await self._answer(peer, request)
                    try:
                        async with asyncio.timeout(IDLE_TIMEOUT_S):
                            await _send(connection, frame(msgspec.msgpack.encode(reply)), descriptor)
                    finally:
                        if descriptor is not None:
                            os.close(descriptor)
            except (ConnectionError, TimeoutError, EOFError, FrameTooLongError, msgspec.DecodeError):
                pass  # they left, or do not speak our protocol
            except Exception:
                log.exception("a caller of %s could not be served", self._path.name)

    async def _answer(self, peer: Peer, request: Request) -> tuple[Reply, int | None]:
        try:
            command = self._commands.decode(request.body)
            if MAY.get(type(command)) is not peer.service:
                await self._record_refusal(peer, type(command).__name__, getattr(command, "project_id", None) or "")
                raise ForbiddenError(f"{peer.service} may not send {type(command).__name__}")  # noqa: TRY301
            async with asyncio.timeout(RPC_CALL_TIMEOUT_S):
                answer = await self._carry_out(peer, command)
        except msgspec.DecodeError as error:
            failure = Failure.of(BadRequestError(f"unreadable command: {error}"))
        except CloisterError as error:
            failure = Failure.of(error)
        except Exception:
            log.exception("a command on %s failed", self._path.name)
            failure = Failure.of(InternalError())
        else:
            return Reply(request.id, msgspec.Raw(msgspec.msgpack.encode(answer.body))), answer.descriptor
        return Reply(request.id, failure=failure), None

    async def _carry_out(self, peer: Peer, command: AnyCommand) -> Answer:
        match command:
            case CreateKey():
                return Answer(await self._create(peer, command))
            case DestroyKeys():
                return Answer(await self._destroy(peer, command))
            case ListKeys():
                async with self._database.reading() as tx:
                    return Answer(await store.list_keys(tx, command.project_id))
            case UnwrapKey():
                return await self._unwrap(peer, command)
            case GetCheckpoint():
                return Answer(await asyncio.to_thread(self._notary.last))
            case SignCheckpoint():
                return await self._sign(peer, command)
            case unreachable:
                assert_never(unreachable)

    async def _create(self, peer: Peer, command: CreateKey) -> KeyInfo:
        project_id, purpose = parse_project_id(command.project_id), _word("purpose", command.purpose)
        async with self._database.transaction() as tx:
            await store.lock_project(tx, project_id)
            known = await store.newest(tx, project_id, purpose)
            if known is not None:
                if known.info.state != "enabled":
                    # A key that was destroyed stays destroyed: a late retry must not give the project a second life.
                    raise ConflictError(public=f"the key of this project is {known.info.state}")
                return known.info
            context = Context(project_id, purpose, 1)
            with SecretPage(KEY_BYTES) as page:
                page.fill_randomly()
                wrapped = self._provider.wrap(page.buffer, context)
            info = KeyInfo(
                project_id=project_id,
                purpose=purpose,
                version=context.version,
                state="enabled",
                provider=self._provider.name,
                created_at="",  # the database's clock
            )
            info = await store.insert(tx, WrappedKey(info, self._provider.root_version, wrapped))
            await record(tx, _event(Action.KEY_CREATE, peer, info))
            return info

    async def _destroy(self, peer: Peer, command: DestroyKeys) -> int:
        project_id = parse_project_id(command.project_id)
        async with self._database.transaction() as tx:
            await store.lock_project(tx, project_id)
            destroyed = await store.destroy(tx, project_id)
            if destroyed:
                await record(tx, *(_event(Action.KEY_DESTROY, peer, info) for info in destroyed))
            return len(destroyed)

    async def _unwrap(self, peer: Peer, command: UnwrapKey) -> Answer:
        """Hand out one key. The order is the guarantee: no key is in clear that was not recorded first.

        1. The node agent asks, by the kernel's word (`MAY`, checked before this is called).
        2. Find the newest enabled version of the key.
        3. Record its use, and commit. If that fails for whatever reason, refuse.
        4. Unwrap it into a page of its own.
        5. Copy it, as hexadecimal digits, into a sealed memfd whose name says nothing.
        6. Wipe both pages.
        7. Answer; the descriptor goes beside the answer, and ours is closed (`_serve`).
        """
        # 1. was in _answer.
        project_id, purpose = parse_project_id(command.project_id), _word("purpose", command.purpose)
        reason = _word("reason", command.reason)
        # 2. Which key.
        async with self._database.transaction() as tx:
            key = await store.newest(tx, project_id, purpose)
            refusal = _refusal(key)
            # 3. Leaving the block commits. What is refused is recorded as well.
            info = key.info if key is not None else None
            event = _event(Action.KEY_UNWRAP, peer, info, project_id=project_id, reason=reason)
            if refusal is not None:
                event = msgspec.structs.replace(event, outcome="denied", details={"refused": refusal.public})
            await record(tx, event)
        if refusal is not None:
            raise refusal
        assert key is not None
        # 4. to 6. Out of its envelope, into a memfd.
        try:
            descriptor = self._open_into_memfd(key)
        except CloisterError as error:
            await self._record_failure(event, error)
            raise
        # 7. The rest is _serve's.
        return Answer(key.info, descriptor)

    async def _sign(self, peer: Peer, command: SignCheckpoint) -> Answer:
        try:
            # In a thread: it waits for the disk, and wakes do not wait for it.
            signed = await asyncio.to_thread(self._notary.sign, command.size, command.peaks, command.proof)
        except ForkError as error:
            await self._record_refusal(peer, f"{type(command).__name__}: {error.public}")
            raise
        return Answer(signed)

    def _open_into_memfd(self, key: WrappedKey) -> int:
        if (key.info.provider, key.root_version) != (self._provider.name, self._provider.root_version):
            raise PreconditionError(
                public=f"the key is wrapped by root key {key.info.provider}/{key.root_version}, "
                f"the broker holds {self._provider.name}/{self._provider.root_version}"
            )
        assert key.wrapped is not None
        with SecretPage(KEY_BYTES) as page, SecretPage(2 * KEY_BYTES) as digits:
            context = Context(key.info.project_id, key.info.purpose, key.info.version)
            self._provider.unwrap_into(key.wrapped, context, page.buffer)  # 4.
            write_hexadecimal(page.buffer, digits.buffer)
            return sealed_memfd(digits.buffer, "cloister")  # 5., and 6. as the block ends

    async def _record_failure(self, event: Event, error: CloisterError) -> None:
        """Beside the event of the attempt, which is in the log already: this one may be lost."""
        log.error("unwrapping a key of %s: %s", event.project_id, error)
        with contextlib.suppress(CloisterError):
            async with self._database.transaction() as tx:
                await record(tx, msgspec.structs.replace(event, outcome="failed", details={"error": error.public}))

    async def _record_refusal(self, peer: Peer, what: str, project_id: str = "") -> None:
        log.warning("refused %s to uid %d (pid %d) on %s", what, peer.uid, peer.pid, self._path.name)
        # What a process of ours is refused is a fault or an attack: each one is recorded. Strangers may knock for ever.
        is_stranger = peer.service not in CALLERS
        suppressed = self._refusals.count(peer.uid, asyncio.get_running_loop().time()) if is_stranger else 0
        if suppressed is None:
            return
        details: dict[str, Any] = {"uid": peer.uid, "pid": peer.pid, "command": what}
        if suppressed:
            details["suppressed"] = suppressed
        actor = _actor(peer)
        event = Event(action=Action.KEY_DENIED, actor=actor, outcome="denied", project_id=project_id, details=details)
        try:
            async with self._database.transaction() as tx:
                await record(tx, event)
        except Exception:
            # Refused all the same, and the log above has it.
            log.exception("a refusal could not be recorded")


def _refusal(key: WrappedKey | None) -> CloisterError | None:
    if key is None:
        return NotFoundError(public="this project has no key")
    if key.info.state == "enabled":
        return None
    return PreconditionError(public=f"the key of this project is {key.info.state}")


def _actor(peer: Peer) -> str:
    """As the audit log names a process of ours, or somebody's."""
    return f"platform:{peer.service.name.lower()}" if peer.service is not None else f"uid:{peer.uid}"


def _event(action: Action, peer: Peer, info: KeyInfo | None, *, project_id: str = "", reason: str = "") -> Event:
    return Event(
        action=action,
        actor=_actor(peer),
        project_id=info.project_id if info is not None else project_id,
        resource=f"{info.purpose}/{info.version}" if info is not None else "",
        reason=reason,
        details={"pid": peer.pid},
    )


def _word(what: str, text: str) -> str:
    if not text or len(text) > WORD_CHARS_MAX or not text.isascii() or not text.replace("_", "").isalnum():
        raise BadRequestError(public=f"{what} must be one word")
    return text


async def _receive(connection: socket.socket) -> Request:
    length = frame_length(await _receive_exactly(connection, LENGTH.size))
    if length > REQUEST_BYTES_MAX:
        raise FrameTooLongError(str(length))
    return msgspec.msgpack.decode(await _receive_exactly(connection, length), type=Request)


async def _receive_exactly(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        more = await asyncio.get_running_loop().sock_recv(connection, size - len(received))
        if not more:
            raise EOFError
        received += more
    return received


async def _send(connection: socket.socket, data: bytes, descriptor: int | None) -> None:
    if descriptor is not None:
        # One request at a time: the socket's buffer is empty and takes an answer of some hundred bytes whole. If it does
        # not, the peer sends without reading, and BlockingIOError (a ConnectionError to the caller) ends it.
        try:
            sent = socket.send_fds(connection, [data], [descriptor])
        except BlockingIOError:
            raise ConnectionAbortedError("the peer does not read its answers") from None
        data = data[sent:]
    await asyncio.get_running_loop().sock_sendall(connection, data)

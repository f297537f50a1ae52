"""The key broker's server: who asks, and what they may. What is then done is the keeper's (`keeper.py`).

It answers the commands of `commands.py` on a Unix socket. Not `base.rpc.Server`, because an answer may carry a file
descriptor, but the same frames. Who asks is the kernel's word (SO_PEERCRED), what each may ask is the table `MAY`, and
everybody else is refused and recorded.
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
from uuid import UUID

import msgspec

from cloister.base import reviewed, trials
from cloister.base.database import Database
from cloister.base.errors import (
    BadRequestError,
    CloisterError,
    ForbiddenError,
    InternalError,
)
from cloister.base.identities import Service
from cloister.base.ids import parse_org_id, parse_project_id
from cloister.base.limits import RPC_CALL_TIMEOUT_S
from cloister.base.rpc import Peer
from cloister.base.rpc.wire import LENGTH, Command, Failure, FrameTooLongError, Reply, Request, frame, frame_length
from cloister.base.sockets import listen_at
from cloister.trust.audit import Action, Event, record
from cloister.trust.keys.asking import By
from cloister.trust.keys.commands import (
    AnyCommand,
    ChangeRing,
    CopyKeystore,
    CreateKey,
    DestroyKeys,
    EraseStatements,
    GetCheckpoint,
    GetKeyPolicy,
    GetKeystore,
    GetRing,
    ListKeys,
    MakeRecordingKey,
    MakeStatementKey,
    OnBehalf,
    OpenRecordingKey,
    OpenStatementKeys,
    ReloadRoots,
    RenewKey,
    RetireKey,
    RotateKeys,
    SetKeyPolicy,
    SignCheckpoint,
    UnwrapDumpKey,
    UnwrapKey,
)
from cloister.trust.keys.keeper import Keeper
from cloister.trust.keys.notary import ForkError, Notary
from cloister.trust.keys.recordings import RecordingKeys
from cloister.trust.keys.refusals import Refusals
from cloister.trust.keys.statements import Pair, StatementKeys

log = logging.getLogger(__name__)

MAY: Final[dict[type[Command[Any]], Service]] = {
    ChangeRing: Service.API,
    CopyKeystore: Service.AGENT,
    CreateKey: Service.API,
    DestroyKeys: Service.API,
    EraseStatements: Service.API,
    GetCheckpoint: Service.API,
    GetKeyPolicy: Service.API,
    GetKeystore: Service.API,
    GetRing: Service.API,
    ListKeys: Service.API,
    MakeRecordingKey: Service.API,
    MakeStatementKey: Service.API,
    OpenRecordingKey: Service.API,
    OpenStatementKeys: Service.API,
    ReloadRoots: Service.AGENT,
    RenewKey: Service.API,
    RetireKey: Service.API,
    RotateKeys: Service.API,
    SetKeyPolicy: Service.API,
    SignCheckpoint: Service.API,
    UnwrapDumpKey: Service.AGENT,
    UnwrapKey: Service.AGENT,
}
"""Who may send what. A command that is not here is refused."""

CALLERS: Final = frozenset(MAY.values())

CONNECT: Final = "connect"
"""What those are refused who may send no command at all."""

CONNECTIONS_MAX: Final = 64
# The agent opens one for each volume that wakes; more wait in the kernel's queue.

REQUEST_BYTES_MAX: Final = 8192
# The largest command is a tree of 2^63 leaves and a proof: 190 hashes. A page of the statement log has 64 shares.

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
    """Serves `path` until stopped. `database` is open as the role `cloister_keys`."""

    def __init__(
        self,
        database: Database,
        keeper: Keeper,
        path: Path,
        notary: Notary,
        *,
        mode: int = 0o666,
        peer_of: Callable[[socket.socket], Peer] = Peer.of,
    ) -> None:
        """`mode` are the socket's permission bits: they decide who may knock, not who is answered."""
        self._database = database
        self._keeper = keeper
        self._recordings = RecordingKeys(keeper)
        self._statements = StatementKeys(keeper)
        self._path = path
        self._notary = notary
        self._mode = mode
        self._peer_of = peer_of
        self._commands = msgspec.msgpack.Decoder(AnyCommand)
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._refusals = Refusals()

    async def start(self) -> None:
        self._listener = listen_at(self._path, socket.SOCK_STREAM, mode=self._mode, backlog=CONNECTIONS_MAX)
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
                    await self._record_refusal(peer, CONNECT)
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
        keeper = self._keeper
        match command:
            case CreateKey():
                project_id, purpose = parse_project_id(command.project_id), _word("purpose", command.purpose)
                return Answer(await keeper.create(project_id, purpose, _by(peer)))
            case UnwrapKey():
                project_id, purpose = parse_project_id(command.project_id), _word("purpose", command.purpose)
                reason = _word("reason", command.reason)
                return Answer(*await keeper.unwrap(project_id, purpose, reason, _by(peer), material=command.material))
            case RenewKey():
                project_id, by = parse_project_id(command.project_id), _on_behalf(command.by)
                return Answer(await keeper.renew(project_id, command.beyond, by))
            case RetireKey():
                project_id, by = parse_project_id(command.project_id), _on_behalf(command.by)
                return Answer(await keeper.retire(project_id, command.material, by))
            case MakeRecordingKey():
                project_id, recording_id = parse_project_id(command.project_id), _uuid(command.recording_id)
                return Answer(*await self._recordings.make(project_id, recording_id, _on_behalf(command.by)))
            case OpenRecordingKey():
                project_id, recording_id = parse_project_id(command.project_id), _uuid(command.recording_id)
                reason, by = _word("reason", command.reason), _on_behalf(command.by)
                return Answer(None, await self._recordings.open(project_id, recording_id, command.envelope, reason, by))
            case MakeStatementKey():
                project_id = parse_project_id(command.project_id)
                return Answer(await self._statements.make(project_id, command.generation, _by(peer)))
            case OpenStatementKeys():
                project_id, reason = parse_project_id(command.project_id), _word("reason", command.reason)
                pair, by = Pair(project_id, command.generation, command.wrapped), _on_behalf(command.by)
                return Answer(None, await self._statements.open(pair, command.shares, reason, by))
            case EraseStatements():
                project_id, by = parse_project_id(command.project_id), _on_behalf(command.by)
                return Answer(await keeper.rings.erase_statements(project_id, by))
            case DestroyKeys():
                return Answer(await keeper.rings.destroy(parse_project_id(command.project_id), _by(peer)))
            case RotateKeys():
                return Answer(
                    await keeper.rotations.rotate(parse_project_id(command.project_id), _on_behalf(command.by))
                )
            case ChangeRing():
                project_id, by = parse_project_id(command.project_id), _on_behalf(command.by)
                return Answer(await keeper.rings.change(project_id, command.change, command.days, command.reason, by))
            case GetRing():
                return Answer(await keeper.rings.info(parse_project_id(command.project_id)))
            case ListKeys():
                return Answer(await keeper.list(command.project_id))
            case SetKeyPolicy():
                org_id, by = parse_org_id(command.org_id), _on_behalf(command.by)
                return Answer(await keeper.rings.set_policy(org_id, command.policy, by, command.condition))
            case GetKeyPolicy():
                return Answer(await keeper.rings.policy(parse_org_id(command.org_id)))
            case GetKeystore():
                return Answer(await keeper.keystore())
            case ReloadRoots():
                count = await keeper.reload_roots(_by(peer))
                await asyncio.to_thread(self._notary.reopen)
                return Answer(count)
            case CopyKeystore():
                return Answer(await keeper.copy_keystore(_by(peer)))
            case UnwrapDumpKey():
                return Answer(*await keeper.dump_key(_word("reason", command.reason), _by(peer)))
            case GetCheckpoint():
                return Answer(await asyncio.to_thread(self._notary.last))
            case SignCheckpoint():
                return await self._sign(peer, command)
            case unreachable:
                assert_never(unreachable)

    async def _sign(self, peer: Peer, command: SignCheckpoint) -> Answer:
        try:
            # In a thread: it waits for the disk, and wakes do not wait for it.
            signed = await asyncio.to_thread(self._notary.sign, command.size, command.peaks, command.proof)
        except ForkError as error:
            await self._record_refusal(peer, f"{type(command).__name__}: {error.public}")
            raise
        return Answer(signed)

    async def _record_refusal(self, peer: Peer, what: str, project_id: str = "") -> None:
        log.warning("refused %s to uid %d (pid %d) on %s", what, peer.uid, peer.pid, self._path.name)
        # What a process of ours is refused is a fault or an attack: each one is recorded. Strangers may knock for ever.
        is_stranger = peer.service not in CALLERS
        if is_stranger and trials.is_by(peer.pid, self._path):
            return
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


def _actor(peer: Peer) -> str:
    """As the audit log names a process of ours, or somebody's."""
    return f"platform:{peer.service.name.lower()}" if peer.service is not None else f"uid:{peer.uid}"


def _by(peer: Peer) -> By:
    return By(_actor(peer), details={"pid": peer.pid})


def _on_behalf(them: OnBehalf) -> By:
    client = {"client": them.client} if them.client else {}
    return By(them.actor, them.address, them.request_id, client | reviewed.details(them.change))


def _word(what: str, text: str) -> str:
    if not text or len(text) > WORD_CHARS_MAX or not text.isascii() or not text.replace("_", "").isalnum():
        raise BadRequestError(public=f"{what} must be one word")
    return text


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise BadRequestError(public="a recording's id is a UUID") from None


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

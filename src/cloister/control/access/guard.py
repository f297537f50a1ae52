"""What gateways ask about access that was approved: may this role log in, and keep this session's record.

To begin a session:

1. The access is active, and the endpoint is the one that writes its branch. Checked again in (4). The key broker makes the
   recording's key, or refuses where the project's keys may not be used.
2. The row says that a role is about to be there, so that whatever dies now, the keeper finds it.
3. The role is made in the running compute, without a password: it is the gateway that proves who somebody is, and the
   kernel that vouches for the gateway. Data can be read with it, or written if that was agreed to; nothing else.
4. The recording and its audit event, in one transaction that holds the request's row. Only then the gateway hears its id.

The lock keeps (1) to (4) and the keeper's dropping of the role apart.
"""

import asyncio
import secrets
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID, uuid4
from weakref import WeakValueDictionary

from cloister.base.clock import Clock
from cloister.base.database import Database, Transaction
from cloister.base.directory import ASKED, AppendRecording, BeginRecording, EndRecording
from cloister.base.errors import BadRequestError, ConflictError, ForbiddenError, NotFoundError
from cloister.base.ids import BranchId, EndpointId, parse_endpoint_id
from cloister.base.sealing import NONCE_BYTES
from cloister.control.access import store
from cloister.control.access.model import Recording, Request
from cloister.control.access.replaying import is_statement
from cloister.control.access.sealing import KeyRing, first_head, head_after, seal
from cloister.control.roles import store as roles
from cloister.control.roles.server import Servers
from cloister.trust.audit import Action, Event, record
from cloister.trust.keys.commands import OnBehalf

STATEMENTS_MAX: Final = 2_000
# In one message.
WORDS_CHARS_MAX: Final = 200
# Of what a client says of itself.
LAST_WORDS: Final = timedelta(seconds=10)
# After the end of an access: sessions are ended within a second, and a gateway stores or gives up within five.


class AccessGuard:
    def __init__(self, database: Database, servers: Servers, keys: KeyRing, clock: Clock) -> None:
        self._database = database
        self._servers = servers
        self._keys = keys
        self._clock = clock
        self._open_keys: dict[UUID, bytes] = {}
        """Of the recordings that go on."""
        self._locks: WeakValueDictionary[UUID, asyncio.Lock] = WeakValueDictionary()

    def alone(self, request_id: UUID) -> asyncio.Lock:
        return self._locks.setdefault(request_id, asyncio.Lock())

    async def verifier_of(self, role: str, branch_id: BranchId, endpoint_id: EndpointId) -> str | None:
        """None: it cannot log in there, now."""
        async with self._database.reading() as tx:
            request = await self._open(tx, role, endpoint_id)
            if request is None or request.branch_id != branch_id:
                return None
            return await store.verifier_of(tx, request.id)

    async def begin(self, command: BeginRecording) -> str:
        endpoint_id = parse_endpoint_id(command.endpoint_id)
        async with self._database.reading() as tx:
            request = await self._open(tx, command.role, endpoint_id)  # 1.
        if request is None:
            raise ForbiddenError(f"{command.role} is over", public="the access is over")
        recording_id = uuid4()
        whose = OnBehalf(actor=f"user:{request.account_id}", address=command.address[:WORDS_CHARS_MAX])
        envelope, key = await self._keys.make(request.project_id, recording_id, whose)
        async with self.alone(request.id):
            async with self._database.transaction() as tx:
                await self._require_open(tx, request, endpoint_id)
                await store.role_will_be_made(tx, request.id, self._clock.now())  # 2.
            assert request.ends_at is not None
            async with self._servers.awake(endpoint_id) as server:
                await server.open_access(request.role, request.ends_at, may_write=request.may_write)  # 3.
            now = self._clock.now()
            recording = Recording(
                id=recording_id,
                request_id=request.id,
                project_id=request.project_id,
                account_id=request.account_id,
                email=request.email,
                address=command.address[:WORDS_CHARS_MAX],
                database=command.database[:WORDS_CHARS_MAX],
                application=command.application_name[:WORDS_CHARS_MAX],
                began_at=now,
                ended_at=None,
                reason="",
                chunks=0,
                statements=0,
                head=first_head(recording_id),
                wrapped_key=envelope.wrapped,
                seal=envelope.seal,
            )
            async with self._database.transaction() as tx:
                await self._require_open(tx, request, endpoint_id)  # 4.
                await store.add_recording(tx, recording, command.session_id[:WORDS_CHARS_MAX])
                event = Event(
                    action=Action.RECORDING_START,
                    actor=f"user:{request.account_id}",
                    org_id=request.org_id,
                    project_id=request.project_id,
                    branch_id=request.branch_id,
                    endpoint_id=endpoint_id,
                    resource=str(recording.id),
                    address=recording.address,
                    reason=request.reason,
                    details={"email": request.email, "request_id": str(request.id), "session_id": command.session_id},
                )
                await record(tx, event)
            self._open_keys[recording_id] = key
        return str(recording_id)

    async def append(self, command: AppendRecording) -> int:
        """Store what was said. So that a gateway that missed the end of an access cannot go on, these are refused.

        1. What is asked, from the end on: it has not been sent yet. The request's row is held, so that this end is the one.
        2. What came of it, LAST_WORDS after the end. Until then the gateway may still say how it went.
        3. Anything for a recording that has ended, and a chunk that is out of turn.

        Raises ForbiddenError for (1) and (2), ConflictError for (3)."""
        if not 0 < len(command.statements) <= STATEMENTS_MAX:
            raise BadRequestError(f"{len(command.statements)} statements in one message")
        key = await self._key_of(_uuid(command.recording_id))
        async with self._database.transaction() as tx:
            recording = await store.held_recording(tx, _uuid(command.recording_id))
            until = await store.over_at(tx, recording.request_id)
            if all(it.outcome != ASKED for it in command.statements):
                until += LAST_WORDS
            if self._clock.now() >= until:
                raise ForbiddenError(f"{recording.id}: the access is over", public="the access is over")
            if recording.ended_at is not None:
                self.forget(recording.id)  # where it ended while the broker was asked
            if recording.ended_at is not None or command.chunk != recording.chunks:
                raise ConflictError(f"{recording.id}: chunk {command.chunk} after {recording.chunks}")
            nonce = secrets.token_bytes(NONCE_BYTES)
            sealed = seal(
                key, recording.id, recording.chunks, recording.head, statements=command.statements, nonce=nonce
            )
            head = head_after(recording.head, recording.chunks, sealed)
            count = sum(is_statement(it) for it in command.statements)
            await store.append(tx, recording, sealed, head, count)
        return recording.chunks + 1

    async def end(self, command: EndRecording) -> int:
        async with self._database.transaction() as tx:
            recording = await store.held_recording(tx, _uuid(command.recording_id))
            if recording.ended_at is None:
                await finish(tx, recording, command.reason[:WORDS_CHARS_MAX], self._clock.now())
        self.forget(recording.id)
        return recording.chunks

    def forget(self, recording_id: UUID) -> None:
        """The recording has ended: its key goes."""
        self._open_keys.pop(recording_id, None)

    async def _key_of(self, recording_id: UUID) -> bytes:
        """Of a recording that goes on. The broker is asked again where this process did not begin it, which it records."""
        if (key := self._open_keys.get(recording_id)) is None:
            async with self._database.transaction() as tx:
                recording = await store.held_recording(tx, recording_id)
            if recording.ended_at is not None:
                raise ConflictError(f"{recording_id} has ended")
            whose = OnBehalf(actor=f"user:{recording.account_id}", address=recording.address)
            key = self._open_keys[recording_id] = await self._keys.open(recording, "record", whose)
        return key

    async def _open(self, tx: Transaction, role: str, endpoint_id: EndpointId) -> Request | None:
        request = await store.by_role(tx, role)
        if request is None or not request.is_open_to_log_in(self._clock.now()):
            return None
        if await roles.writer_of(tx, request.project_id, request.branch_id) != endpoint_id:
            return None
        return request

    async def _require_open(self, tx: Transaction, request: Request, endpoint_id: EndpointId) -> None:
        await store.held(tx, request.project_id, request.id)
        if await self._open(tx, request.role, endpoint_id) is None:
            raise ForbiddenError(f"{request.id} is over", public="the access is over")


async def finish(tx: Transaction, recording: Recording, reason: str, now: datetime) -> None:
    """The audit log gets the last head: from here on, nothing of the recording can change unnoticed."""
    await store.end_recording(tx, recording.id, reason, now)
    details = {"request_id": str(recording.request_id), **recording.extent}
    event = Event(
        action=Action.RECORDING_END,
        actor=f"user:{recording.account_id}",
        project_id=recording.project_id,
        resource=str(recording.id),
        address=recording.address,
        reason=reason,
        details=details,
    )
    await record(tx, event)


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise NotFoundError(public="recording not found") from None

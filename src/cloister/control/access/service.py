"""The verbs of people on access to data. Each is one transaction: rows and audit event.

Who may was decided before (trust/access), but for what only the request says: whose it is, and whether it is a breaking of
the glass. That nobody agrees to their own is held by the database too (migration 0009).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID, uuid4

from cloister.base.clock import Clock
from cloister.base.database import Database, Transaction
from cloister.base.directory import Spoken
from cloister.base.errors import BadRequestError, ConflictError, ExhaustedError, ForbiddenError, UnprocessableError
from cloister.base.ids import EndpointId, OrgId, ProjectId
from cloister.base.secret import Secret, new_password
from cloister.control.access import store
from cloister.control.access.model import (
    ANSWER_WITHIN,
    OPEN_REQUESTS_MAX,
    ROLE_PREFIX,
    SHIFT_MAX,
    NewRequest,
    Recording,
    Request,
    Shift,
    State,
    Step,
)
from cloister.control.access.replaying import told
from cloister.control.access.sealing import BrokenRecordingError, KeyRing, opened
from cloister.control.branches import store as branches
from cloister.control.calling import Caller
from cloister.control.organizations import store as organizations
from cloister.control.projects.model import Project
from cloister.control.roles import store as roles
from cloister.control.roles.passwords import new_verifier
from cloister.trust.access.permissions import Permission
from cloister.trust.audit import Action, Event, record
from cloister.trust.audit import reader as audited

LISTED_MAX: Final = 500
# The newest. Older ones are in the audit log.

CRITICAL: Final = {"severity": "critical"}


@dataclass(frozen=True, slots=True)
class Credentials:
    request: Request
    endpoint_id: EndpointId
    password: Secret[str]


@dataclass(frozen=True, slots=True)
class Replayed:
    recording: Recording
    statements: list[Spoken]
    sealed_by: int | None
    """The number of the audit event that has its last head; None while it goes on."""


class AccessService:
    def __init__(self, database: Database, keys: KeyRing, clock: Clock) -> None:
        self._database = database
        self._keys = keys
        self._clock = clock

    # ── requests ──

    async def request(self, caller: Caller, project: Project, new: NewRequest) -> Request:
        """Raises BadRequestError, NotFoundError for the branch, ExhaustedError."""
        new.check()
        account_id, request_id, now = caller.principal.account_id, uuid4(), self._clock.now()
        async with self._database.transaction() as tx:
            if new.branch_id is None:
                branch = await branches.default(tx, project.id)
            else:
                branch = await branches.get(tx, project.id, new.branch_id)
            if await store.count_open(tx, project.id, account_id) >= OPEN_REQUESTS_MAX:
                raise ExhaustedError(public=f"you have {OPEN_REQUESTS_MAX} open requests for this project")
            made = Request(
                id=request_id,
                org_id=project.org_id,
                project_id=project.id,
                branch_id=branch.id,
                account_id=account_id,
                email=caller.principal.email,
                reason=new.reason,
                duration=new.duration,
                may_write=new.may_write,
                is_break_glass=new.is_break_glass,
                state=State.PENDING,
                requested_at=now,
                answer_by=now + ANSWER_WITHIN,
                ends_at=None,
                closed_at=None,
                role=f"{ROLE_PREFIX}{request_id.hex}",
                approved_by=(),
            )
            await store.add(tx, made)
            details = {"for_s": int(made.duration.total_seconds()), "write": made.may_write}
            await record(tx, _event(caller, Action.ACCESS_REQUEST, made, reason=made.reason, **details))
        return made

    async def find(self, project_id: ProjectId) -> list[Request]:
        async with self._database.reading() as tx:
            return await store.find(tx, project_id, LISTED_MAX)

    async def get(self, project_id: ProjectId, request_id: UUID) -> Request:
        async with self._database.reading() as tx:
            return await store.get(tx, project_id, request_id)

    async def approve(self, caller: Caller, project_id: ProjectId, request_id: UUID) -> Request:
        """(1) It is there, and waits. (2) It is not the caller's own, whichever key they ask with. (3) The caller may
        decide: managers and who is on call; of a breaking of the glass, anybody who could have asked, but two of them.
        (4) With the last approval that is needed it begins, and its end is known.
        Raises NotFoundError, ConflictError, ForbiddenError."""
        now = self._clock.now()
        async with self._database.transaction() as tx:
            asked = await store.held(tx, project_id, request_id)
            asked.after(Step.ACTIVATE)  # (1)
            if now >= asked.answer_by:
                raise ConflictError(public="the request has expired: ask again")
            _require_decider(caller, asked)  # (2), (3)
            await store.approve(tx, asked, caller.principal.account_id, now)
            agreed = await store.get(tx, project_id, request_id)
            is_enough = len(agreed.approved_by) >= agreed.approvals_needed
            if is_enough:
                await store.activate(tx, request_id, now + agreed.duration)  # (4)
                agreed = await store.get(tx, project_id, request_id)
            event = _event(caller, Action.ACCESS_APPROVE, agreed, approvals=len(agreed.approved_by))
            broken = [_event(caller, Action.ACCESS_BREAK_GLASS, agreed, reason=agreed.reason, **CRITICAL)]
            await record(tx, event, *(broken if is_enough and agreed.is_break_glass else []))
        return agreed

    async def deny(self, caller: Caller, project_id: ProjectId, request_id: UUID, reason: str) -> Request:
        async with self._database.transaction() as tx:
            asked = await store.held(tx, project_id, request_id)
            state = asked.after(Step.DENY)
            _require_decider(caller, asked)
            await store.close(tx, request_id, state, self._clock.now())
            denied = await store.get(tx, project_id, request_id)
            await record(tx, _event(caller, Action.ACCESS_DENY, denied, reason=reason))
        return denied

    async def terminate(self, caller: Caller, project_id: ProjectId, request_id: UUID) -> Request:
        """End it now, and its sessions within a second: whose it is gives it back, a manager or who is on call takes it."""
        async with self._database.transaction() as tx:
            asked = await store.held(tx, project_id, request_id)
            is_own = _is_own(caller, asked)
            if not is_own:
                caller.require(Permission.ACCESS_APPROVE)
            await store.close(tx, request_id, asked.after(Step.END if is_own else Step.REVOKE), self._clock.now())
            over = await store.get(tx, project_id, request_id)
            await record(tx, _event(caller, Action.ACCESS_END, over, state=over.state))
        return over

    async def credentials(self, caller: Caller, project_id: ProjectId, request_id: UUID) -> Credentials:
        """A new password for the role, shown once; the one before opens nothing more. Raises ForbiddenError for
        another's, ConflictError where the access is not active."""
        password = new_password()
        async with self._database.transaction() as tx:
            asked = await store.held(tx, project_id, request_id)
            if not _is_own(caller, asked):
                raise ForbiddenError(f"{request_id} is not theirs", public="permission denied: it is another's access")
            if not asked.is_open_to_log_in(self._clock.now()):
                words = "is waiting for approval" if asked.state is State.PENDING else "is over: ask again"
                raise ConflictError(public=f"the access {words}")
            endpoint_id = await roles.writer_of(tx, project_id, asked.branch_id)
            await store.set_verifier(tx, request_id, new_verifier(password))
            await record(tx, _event(caller, Action.ACCESS_CREDENTIALS, asked))
        return Credentials(asked, endpoint_id, password)

    # ── recordings ──

    async def recordings(self, project_id: ProjectId, request_id: UUID | None) -> list[Recording]:
        async with self._database.reading() as tx:
            return await store.recordings(tx, project_id, request_id, LISTED_MAX)

    async def replay(self, caller: Caller, project_id: ProjectId, recording_id: UUID) -> Replayed:
        """Every statement so far: the chain checked from its beginning, and its end against the audit log's event. The
        reading is recorded first. Raises ForbiddenError for the recorded person, UnprocessableError if it is not what was
        recorded."""
        async with self._database.transaction() as tx:
            found = await store.recording(tx, project_id, recording_id)
            if found.account_id == caller.principal.account_id:
                raise ForbiddenError(public="permission denied: nobody reads the recording of themselves")
            event = caller.event(
                Action.RECORDING_READ,
                project_id=project_id,
                resource=str(found.id),
                details={"email": found.email, "request_id": str(found.request_id)},
            )
            await record(tx, event)
        async with self._database.transaction() as tx:
            found = await store.held_recording(tx, recording_id)  # so that its head is that of its chunks
            chunks = await store.chunks(tx, recording_id)
            ends = await audited.of_resource(tx, Action.RECORDING_END, found.project_id, str(found.id))
        sealed_by = _sealed_by(found, ends)
        key = await self._keys.open(found, "replay", caller.on_behalf)
        said = opened(key, found.id, found.head, chunks)
        return Replayed(found, told(said, is_over=found.ended_at is not None), sealed_by)

    # ── who is on call ──

    async def shifts(self, org_id: OrgId) -> list[Shift]:
        async with self._database.reading() as tx:
            return await store.shifts(tx, org_id, self._clock.now())

    async def add_shift(
        self, caller: Caller, org_id: OrgId, email: str, starts_at: datetime, ends_at: datetime
    ) -> Shift:
        if not starts_at < ends_at <= starts_at + SHIFT_MAX:
            raise BadRequestError(public=f"a shift ends after it starts, and within {SHIFT_MAX.days} days")
        async with self._database.transaction() as tx:
            account = await organizations.account_by_email(tx, email)
            member = None if account is None else await organizations.member(tx, org_id, account.id)
            if account is None or member is None:
                raise UnprocessableError(public=f"nobody in the organization has the address {email}")
            shift = Shift(
                id=uuid4(),
                org_id=org_id,
                account_id=account.id,
                email=account.email,
                starts_at=starts_at,
                ends_at=ends_at,
            )
            await store.add_shift(tx, shift)
            await record(tx, _of_shift(caller, Action.ON_CALL_ADD, shift))
        return shift

    async def remove_shift(self, caller: Caller, org_id: OrgId, shift_id: UUID) -> Shift:
        async with self._database.transaction() as tx:
            shift = await store.remove_shift(tx, org_id, shift_id)
            await record(tx, _of_shift(caller, Action.ON_CALL_REMOVE, shift))
        return shift


async def close_overdue(tx: Transaction, now: datetime, due: Sequence[tuple[Request, Step]]) -> None:
    """What time or a departure ended, as the platform's own doing."""
    events = []
    for request, step in due:
        await store.close(tx, request.id, request.after(step), now)
        action = Action.ACCESS_EXPIRE if step is Step.EXPIRE else Action.ACCESS_END
        events.append(
            Event(
                action=action,
                actor="platform:access",
                org_id=request.org_id,
                project_id=request.project_id,
                branch_id=request.branch_id,
                resource=str(request.id),
                reason="whose it is has left" if step is Step.REVOKE else "its time is over",
                details={"email": request.email},
            )
        )
    if events:
        await record(tx, *events)


def _sealed_by(recording: Recording, ends: Sequence[audited.Recorded]) -> int | None:
    """Which event of the audit log vouches for its end; None while it goes on. Also for one that was made to look as if it
    went on. Raises BrokenRecordingError."""
    if not ends and recording.ended_at is None:
        return None
    if len(ends) != 1:
        raise BrokenRecordingError(public=f"the audit log has {len(ends)} ends of the recording")
    details = ends[0].event.details
    if {name: details.get(name) for name in recording.extent} != recording.extent:
        raise BrokenRecordingError(public=f"the recording is not as event {ends[0].seq} of the audit log says it ended")
    return ends[0].seq


def _is_own(caller: Caller, request: Request) -> bool:
    return request.account_id == caller.principal.account_id


def _require_decider(caller: Caller, request: Request) -> None:
    if _is_own(caller, request):
        raise ForbiddenError(f"{request.id} is their own", public="permission denied: nobody decides about their own")
    caller.require(Permission.ACCESS_REQUEST if request.is_break_glass else Permission.ACCESS_APPROVE)


def _event(caller: Caller, action: Action, request: Request, *, reason: str = "", **details: object) -> Event:
    return caller.event(
        action,
        org_id=request.org_id,
        project_id=request.project_id,
        branch_id=request.branch_id,
        resource=str(request.id),
        reason=reason,
        details={"email": request.email, **({"break_glass": True} if request.is_break_glass else {}), **details},
    )


def _of_shift(caller: Caller, action: Action, shift: Shift) -> Event:
    details = {"email": shift.email, "starts_at": shift.starts_at.isoformat(), "ends_at": shift.ends_at.isoformat()}
    return caller.event(action, org_id=shift.org_id, resource=str(shift.account_id), details=details)

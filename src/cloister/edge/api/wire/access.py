"""Requests for access to data, the recordings of what was done with it, and who is on call."""

from datetime import datetime, timedelta
from typing import Annotated

import msgspec

from cloister.base.directory import Spoken
from cloister.base.settings import Settings
from cloister.control.access.model import DURATION_MAX, REASON_CHARS_MAX, NewRequest, Recording, Shift
from cloister.control.access.model import Request as AccessRequest
from cloister.control.access.service import Credentials, Replayed
from cloister.edge.api import paths
from cloister.edge.api.wire import connections
from cloister.edge.api.wire.common import Moment, Request, Wire, moment, optional_moment


class NewAccessBody(Request, frozen=True, kw_only=True):
    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=REASON_CHARS_MAX)]
    duration_seconds: Annotated[int, msgspec.Meta(ge=60, le=int(DURATION_MAX.total_seconds()))]
    """From the approval on."""
    branch_id: str | None = None
    """Default: the project's default branch."""
    write: bool = False
    break_glass: bool = False
    """Two people who may ask themselves let you in, without a manager; an alert of critical severity tells everybody."""


class CreateAccessRequest(Request, frozen=True, kw_only=True):
    access_request: NewAccessBody


class DenyAccess(Request, frozen=True, kw_only=True):
    reason: Annotated[str, msgspec.Meta(max_length=REASON_CHARS_MAX)] = ""


class AccessRequestView(Wire, frozen=True, kw_only=True):
    id: str
    project_id: str
    branch_id: str
    requested_by: str
    reason: str
    duration_seconds: int
    write: bool
    break_glass: bool
    state: str
    requested_at: Moment
    answer_by: Moment
    approved_by: list[str]
    approvals_needed: int
    ends_at: Moment | None = None
    closed_at: Moment | None = None


class AccessRequestAnswer(Wire, frozen=True, kw_only=True):
    access_request: AccessRequestView


class AccessRequestList(Wire, frozen=True, kw_only=True):
    access_requests: list[AccessRequestView]


class AccessCredentials(Wire, frozen=True, kw_only=True):
    role: str
    password: str
    """Shown once. Asking again makes another."""
    ends_at: Moment
    connection_uris: list[connections.ConnectionDetails]
    """Of each database."""


class RecordingView(Wire, frozen=True, kw_only=True):
    id: str
    access_request_id: str
    recorded: str
    """Whose session it was."""
    address: str
    database: str
    application_name: str
    began_at: Moment
    ended_at: Moment | None = None
    reason: str
    statements: int
    chunks: int
    head: str
    """The hash that everything before is in. The audit log has the last one."""
    erased_at: Moment | None = None
    """Since then nobody reads it."""


class RecordingList(Wire, frozen=True, kw_only=True):
    recordings: list[RecordingView]


class StatementView(Wire, frozen=True, kw_only=True):
    number: int
    """Counts what was asked in the session, preparations too; 0 for what nobody asked, the commit that a Sync makes."""
    at_ms: int
    """Since the session began."""
    took_ms: int
    kind: str
    text: str
    name: str
    outcome: str
    """`asked`: stored and then sent, and it has not ended. `unknown`: its session ended first."""
    tags: list[str]
    rows: int
    rows_sent: int
    bytes_sent: int
    bytes_taken: int
    sqlstate: str
    error: str
    text_bytes: int
    digest: str


class RecordingAnswer(Wire, frozen=True, kw_only=True):
    """Its chunks were opened and its hashes followed, from the first to `recording.head`; of one that has ended, the audit
    log says the same of head, chunks and statements."""

    recording: RecordingView
    audit_seq: int | None = None
    """The number of the audit event of its end; none while it goes on."""
    statements: list[StatementView]


class NewShiftBody(Request, frozen=True, kw_only=True):
    email: Annotated[str, msgspec.Meta(min_length=3, max_length=254)]
    starts_at: Annotated[datetime, msgspec.Meta(tz=True)]
    ends_at: Annotated[datetime, msgspec.Meta(tz=True)]


class ShiftView(Wire, frozen=True, kw_only=True):
    id: str
    email: str
    starts_at: Moment
    ends_at: Moment


class ShiftList(Wire, frozen=True, kw_only=True):
    shifts: list[ShiftView]


def new_request(body: NewAccessBody) -> NewRequest:
    return NewRequest(
        branch_id=None if body.branch_id is None else paths.branch_id(body.branch_id),
        reason=body.reason,
        duration=timedelta(seconds=body.duration_seconds),
        may_write=body.write,
        is_break_glass=body.break_glass,
    )


def request(it: AccessRequest) -> AccessRequestView:
    return AccessRequestView(
        id=str(it.id),
        project_id=it.project_id,
        branch_id=it.branch_id,
        requested_by=it.email,
        reason=it.reason,
        duration_seconds=int(it.duration.total_seconds()),
        write=it.may_write,
        break_glass=it.is_break_glass,
        state=it.state,
        requested_at=moment(it.requested_at),
        answer_by=moment(it.answer_by),
        approved_by=list(it.approved_by),
        approvals_needed=it.approvals_needed,
        ends_at=optional_moment(it.ends_at),
        closed_at=optional_moment(it.closed_at),
    )


def answer(it: AccessRequest) -> AccessRequestAnswer:
    return AccessRequestAnswer(access_request=request(it))


def credentials(it: Credentials, databases: list[str], settings: Settings) -> AccessCredentials:
    assert it.request.ends_at is not None
    password = it.password.reveal()
    return AccessCredentials(
        role=it.request.role,
        password=password,
        ends_at=moment(it.request.ends_at),
        connection_uris=[
            connections.details(settings, it.endpoint_id, it.request.role, database, password) for database in databases
        ],
    )


def recording(it: Recording) -> RecordingView:
    return RecordingView(
        id=str(it.id),
        access_request_id=str(it.request_id),
        recorded=it.email,
        address=it.address,
        database=it.database,
        application_name=it.application,
        began_at=moment(it.began_at),
        ended_at=optional_moment(it.ended_at),
        reason=it.reason,
        statements=it.statements,
        chunks=it.chunks,
        head=it.head.hex(),
        erased_at=optional_moment(it.erased_at),
    )


def replayed(it: Replayed) -> RecordingAnswer:
    return RecordingAnswer(
        recording=recording(it.recording),
        audit_seq=it.sealed_by,
        statements=[statement(each) for each in it.statements],
    )


def statement(it: Spoken) -> StatementView:
    return StatementView(
        number=it.number,
        at_ms=it.began_ms,
        took_ms=it.ended_ms - it.began_ms,
        kind=it.kind,
        text=it.text,
        name=it.name,
        outcome=it.outcome,
        tags=it.tags,
        rows=it.rows,
        rows_sent=it.rows_sent,
        bytes_sent=it.bytes_sent,
        bytes_taken=it.bytes_taken,
        sqlstate=it.sqlstate,
        error=it.error,
        text_bytes=it.text_bytes,
        digest=it.digest.hex(),
    )


def shift(it: Shift) -> ShiftView:
    return ShiftView(id=str(it.id), email=it.email, starts_at=moment(it.starts_at), ends_at=moment(it.ends_at))

"""What a gateway may ask the control plane, and what it is told unasked.

The messages stand here because the gateway does not know `control/` and `control/` does not know the gateway. The API's
process answers on `Paths.directory_socket`; only the gateway's Unix user may connect.
"""

from typing import ClassVar, Final

import msgspec

from cloister.base.audit_levels import AuditLevel
from cloister.base.rpc.wire import Command


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """All a gateway needs to decide about one role at one endpoint. For an endpoint that does not exist, or a role that
    cannot log in, `verifier` is a mock: the exchange runs to its end and fails like a wrong password."""

    endpoint_id: str
    """The canonical name of what was asked for; by it `Wake` asks, and `Freeze`, `Thaw` and `Close` tell. For a branch at a
    point in its past `br-…@…` (see `base/past.py`), whichever way a client named it."""
    project_id: str = ""
    branch_id: str = ""
    is_known: bool
    """The endpoint exists. Never shown to a client before it has authenticated."""
    is_doomed: bool
    """The verifier is a mock: no proof can match it."""
    may_log_in: bool = False
    """The role exists and may log in, be it that it has no password: a token may still open it."""
    verifier: str
    """`SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`, as in pg_authid."""
    allowed_ips: list[str] | None = None
    """None: everybody may knock. Otherwise entries in the grammar of `base/ipallow.py`; an empty list denies all."""
    is_binding_required: bool = False
    """Nobody is let in whose proof is not bound to the TLS session (SCRAM-SHA-256-PLUS)."""
    is_disabled: bool = False
    is_read_only: bool = False
    """It is a read-only endpoint's, or of the past."""
    is_held: bool = False
    """By the platform's operator (docs/alerts.md): nobody is let in, and who is in is put out."""
    socket_dir: str | None = None
    """Where the compute's socket is, if it runs; None: ask to wake it."""
    generation: int = 0
    connection_limit: int = 0
    """Clients at once on this endpoint; more get 53300. 0: no limit of ours."""
    audit_level: AuditLevel = AuditLevel.OFF
    """What of its statements is recorded."""
    is_recorded: bool = False
    """The role is a person's, for an access that was approved: whoever serves its session must record it (`Record…`)."""
    is_volatile: bool = False
    """Names no socket, and yet may change at any moment: roles are those of a branch whose own compute may run."""


class LookUp(Command[Route], frozen=True, kw_only=True):
    reply: ClassVar[type] = Route
    endpoint: str
    """As it came in SNI or options, lower-cased, `-pooler` removed. Not trusted to be an id. An endpoint's or a branch's;
    for a client that has proved who it is, and asked for a point in the past, with that point."""
    role: str
    database: str = ""


class Compute(msgspec.Struct, frozen=True, kw_only=True):
    """A compute that was started. It may need some milliseconds more before it accepts: try again until it does."""

    endpoint_id: str
    socket_dir: str
    generation: int
    was_cold: bool


class Wake(Command[Compute], frozen=True, kw_only=True):
    """Start the endpoint's compute, or join the start under way. Only sent for a client that has authenticated.
    Raises UnavailableError (try later), PreconditionError (disabled), ExhaustedError, NotFoundError."""

    reply: ClassVar[type] = Compute
    endpoint_id: str
    """Or `Route.endpoint_id` of a branch at a point in its past. A point outside its history raises UnprocessableError."""
    stale_generation: int = 0
    """The generation whose socket refused the gateway, if one did: not to be given again."""


class Pooler(msgspec.Struct, frozen=True):
    """It may need some milliseconds more before it accepts, and before it knows the role."""

    socket_dir: str


class Pool(Command[Pooler], frozen=True, kw_only=True):
    """A pooler beside this compute, for clients of this role. Only sent for a client that has authenticated as it. Raises
    NotFoundError (that compute does not run any more), PreconditionError (there is none on that node), ExhaustedError."""

    reply: ClassVar[type] = Pooler
    endpoint_id: str
    generation: int
    role: str


class KeySet(msgspec.Struct, frozen=True, kw_only=True):
    """Public keys of an issuer, and for whom it may vouch at one endpoint."""

    id: str
    roles: list[str]
    audience: str | None
    issuer: str | None
    keys: str
    """A list of `protocol/tokens.VerifyingKey`, in JSON."""
    fetched_at: float
    """Seconds since the epoch: when this was what the issuer published."""


class KeySets(msgspec.Struct, frozen=True, kw_only=True):
    project_id: str = ""
    sets: list[KeySet] = []


class LookUpKeys(Command[KeySets], frozen=True, kw_only=True):
    """Whose tokens are good here. None for an endpoint that does not exist, or has no issuers. `is_refresh`: ask the issuers
    first, each as rarely as the control plane allows; one that cannot be asked keeps its keys, with their age."""

    reply: ClassVar[type] = KeySets
    endpoint: str
    """As in `LookUp`, without a point."""
    is_refresh: bool = False


class ConnectionEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the connection audit."""

    action: str
    """`connection.opened`, `connection.denied`, `connection.reading`, `connection.closed`, `connection.cancel`"""
    at: str
    """RFC 3339 UTC with microseconds."""
    session_id: str
    endpoint_id: str = ""
    project_id: str = ""
    branch_id: str = ""
    role: str = ""
    database: str = ""
    address: str = ""
    """The client's IP address (as PROXY protocol gives it, where a configured proxy spoke)."""
    application_name: str = ""
    point: str = ""
    """In the branch's past, where one was asked for."""
    jwks_id: str = ""
    """Whose token it was, where it was one and not a password; and of whom it spoke."""
    subject: str = ""
    tls_version: str = ""
    tls_cipher: str = ""
    reason: str = ""
    """For denied and closed: a stable word, e.g. `bad_password`, `ip_not_allowed`, `client_left`, `suspended`."""
    duration_ms: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    rows_out: int = 0
    """To the client; 0 also where nobody counted them, at the audit level `off`."""
    was_cold: bool = False


class Record(Command[int], frozen=True):
    """Append these to the audit log. Answered with their number when they are committed."""

    reply: ClassVar[type] = int
    events: list[ConnectionEvent]


class StatementRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One statement of a client, as a gateway saw it go by; or what a compute's guard noted inside (`control/computes/touched.py`),
    which knows of no session of ours and no address."""

    at: str
    """When it ended: RFC 3339 UTC with microseconds."""
    session_id: str
    """As in the session's `ConnectionEvent`s."""
    project_id: str
    branch_id: str
    endpoint_id: str
    role: str
    database: str
    address: str
    kind: str
    outcome: str
    text: str = ""
    """Without its secrets, and cut."""
    text_bytes: int = 0
    """As sent."""
    name: str = ""
    """Of the prepared statement or portal."""
    tags: list[str] = []
    """Of its results, as the server told: `SELECT 3`, `CREATE ROLE`."""
    rows: int = 0
    rows_sent: int = 0
    bytes_sent: int = 0
    bytes_taken: int = 0
    sqlstate: str = ""
    duration_ms: float = 0.0
    touched: str = ""
    """What was done to which table, as a guard says it: `read, update public.people`."""
    acting_as: str = ""
    """Whose rights it had, where these are not those of who logged in."""
    times: int = 1
    backend: int = 0
    """The process id of the server's session."""


class RecordStatements(Command[int], frozen=True, kw_only=True):
    """Keep these. Answered with their number when they are committed."""

    reply: ClassVar[type] = int
    statements: list[StatementRecord]
    lost: dict[str, int]
    """By project: how many could not be kept until they were sent."""


class Frozen(Command[int], frozen=True, kw_only=True):
    """A gateway's answer to `Freeze`: from now on it forwards nothing to that compute until `Thaw` or `Close`.
    Answered with 0."""

    reply: ClassVar[type] = int
    endpoint_id: str
    token: int
    has_unanswered: bool
    """A client of it sent something that the compute has not answered yet: it is not idle."""


class BeginRecording(Command[str], frozen=True, kw_only=True):
    """Before the first byte of a session whose route `is_recorded`. Makes the role ready in the running compute, and answers
    with the recording's id. Raises ForbiddenError for an access that is over."""

    reply: ClassVar[type] = str
    endpoint_id: str
    role: str
    session_id: str
    address: str
    database: str = ""
    application_name: str = ""


ASKED: Final = "asked"
"""The outcome of what is about to be sent to the compute. What came of it has the same number, if anything did."""
PREPARE: Final = "prepare"
BIND: Final = "bind"
"""Kinds of what is asked and executes nothing."""


class Spoken(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was asked in a recorded session, or what came of it, secrets masked: `protocol/pgwire/statements.py` says what
    each means."""

    number: int = 0
    kind: str
    text: str
    name: str = ""
    source: str = ""
    """Of a portal: the prepared statement."""
    text_bytes: int = 0
    digest: bytes = b""
    outcome: str
    tags: list[str] = []
    """Of the first results."""
    rows: int = 0
    rows_sent: int = 0
    bytes_sent: int = 0
    bytes_taken: int = 0
    sqlstate: str = ""
    error: str = ""
    began_ms: int
    """Since the recording began; so `ended_ms`."""
    ended_ms: int


class AppendRecording(Command[int], frozen=True, kw_only=True):
    """Answered with the number of chunks when they are stored. `chunk`: the first is 0; one that is out of turn is refused."""

    reply: ClassVar[type] = int
    recording_id: str
    chunk: int
    statements: list[Spoken]


class EndRecording(Command[int], frozen=True, kw_only=True):
    """The session is over. Answered with the number of chunks. Twice is once."""

    reply: ClassVar[type] = int
    recording_id: str
    reason: str


AnyCommand = (
    LookUp
    | LookUpKeys
    | Wake
    | Pool
    | Record
    | RecordStatements
    | Frozen
    | BeginRecording
    | AppendRecording
    | EndRecording
)


class Invalidate(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Forget what you know of this endpoint (all endpoints of the project, or everything, where both are empty), look
    up again, and end running sessions whose address is no longer allowed."""

    endpoint_id: str = ""
    project_id: str = ""


class Freeze(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Stop forwarding client bytes to this compute, hold new clients, answer with `Frozen`."""

    endpoint_id: str
    token: int


class Thaw(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Go on as before `Freeze`: it was not idle after all."""

    endpoint_id: str
    token: int


class Close(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """The compute was stopped: end its sessions with 57P01, forget its socket, let held clients ask for a wake."""

    endpoint_id: str
    reason: str


AnyEvent = Invalidate | Freeze | Thaw | Close

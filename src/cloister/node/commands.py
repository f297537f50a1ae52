"""What the node agent can be asked to do: the whole surface of the only root process.

Every command is a typed struct; every name in it is an id of ours (see `base/ids.py`), parsed again by the agent before
it becomes a path. Nothing a tenant chose is ever part of a command, but for the database of DumpSchema and DumpSchemaAt, and the rules of
MaskTimeline, which the agent parses itself. It
knows nothing of rights: it checks by peer credentials that the API process asks, and does what it is told, idempotently.
"""

from enum import StrEnum
from typing import ClassVar, Final, Literal, TypeAlias

import msgspec

from cloister.base.audit_levels import AuditLevel
from cloister.base.rpc.wire import Command


class Done(msgspec.Struct, frozen=True):
    """Nothing to tell but that it is so."""


class VolumeInfo(msgspec.Struct, frozen=True, kw_only=True):
    project_id: str
    is_open: bool
    driver: str
    """`luks` or `plain`"""
    opener: str
    """`dm-crypt`, `qemu-storage-daemon`, or `none` for plain."""
    cipher: str
    """As read from the volume's own header, e.g. `aes-xts-plain64 512`; `none` for plain."""
    material: int = 1
    """Which of the project's volume keys opens it, as its own header says."""
    image_bytes: int
    """What the image takes on the host's disk."""
    free_bytes: int | None = None
    """Free inside the volume, where it is open."""


class CreateVolume(Command[VolumeInfo], frozen=True, kw_only=True):
    """Format a volume and put its first timeline into it, a cluster owned by `uid`, copied from the template of
    `pg_version`. Ends closed. The project's key must exist in the key broker. Twice is once."""

    reply: ClassVar[type] = VolumeInfo
    project_id: str
    timeline_id: str | None
    """None: it stays empty, for what comes back from a backup (RestoreTimeline)."""
    pg_version: int
    uid: int
    size_bytes: int
    material: int = 1
    """Which of the project's volume keys it gets. One that was encrypted anew before it was lost has not its first any more."""


class DeleteVolume(Command[Done], frozen=True):
    """Stop what runs on it, close it, unlink the image. Already gone is success."""

    reply: ClassVar[type] = Done
    project_id: str


class CloseVolume(Command[Done], frozen=True):
    """Close a volume with no compute running on it. Already closed is success; in use raises ConflictError."""

    reply: ClassVar[type] = Done
    project_id: str
    ends_sending: bool = False
    """What is being sent to the store of backups does not keep it open: its next run goes on."""


class CopyState(StrEnum):
    """Of a volume that is being encrypted anew."""

    NONE = "none"
    COPYING = "copying"
    READY = "ready"
    """All of it was taken over and read back; what is written since is taken over now and then, and at the end."""
    SWITCHING = "switching"
    """Its computes are stopped; a wake waits for the end of it."""
    DONE = "done"
    """The volume is open by the new key alone."""
    FAILED = "failed"
    """Nothing is lost. The next attempt goes on from there."""


class CopyInfo(msgspec.Struct, frozen=True, kw_only=True):
    state: CopyState
    material: int
    """Which key opens the volume now."""
    passed_bytes: int = 0
    """Of the pass that is under way."""
    used_bytes: int = 0
    """Of the whole volume."""
    is_in_use: bool = False
    """A compute runs on it."""
    paused_s: float | None = None
    """For how long, in the end, nobody could use it."""
    problem: str = ""


BYTES_PER_S_MIN: Final = 1_000_000
# Slower than this, a chunk would take longer than a daemon may be silent, and a volume would never be done.

LOCK_SPARE_DAYS: Final = 7
# What is put is locked for this much longer than was asked, so that what stays as it is is put again once a week and not each day.


class CopyVolume(Command[CopyInfo], frozen=True, kw_only=True):
    """Encrypt the volume anew, under the key of this material, which must exist: begin, go on, or change the pace. Answers at
    once, with how far it is. Wakes and computes do not notice. Raises ExhaustedError where the disk has no room for a second
    image, PreconditionError where volumes are not encrypted."""

    reply: ClassVar[type] = CopyInfo
    project_id: str
    material: int
    bytes_per_s: int | None = None
    """None: as fast as it goes."""
    only_asks: bool = False
    """Whether it could be begun; nothing is."""


class SwitchVolume(Command[CopyInfo], frozen=True, kw_only=True):
    """Of a copy that is ready: stop what runs on the volume, close it, take over what is new, and let the copy take its place;
    the old image is destroyed. Answers at once; ask with CopyVolume how it went. Raises ConflictError if work on the volume is
    under way, or if it is in use and not `stops_computes`."""

    reply: ClassVar[type] = CopyInfo
    project_id: str
    stops_computes: bool


class StopCopy(Command[Done], frozen=True, kw_only=True):
    """Not copying is success. What was copied stays, for later, unless it is to be `dropped`."""

    reply: ClassVar[type] = Done
    project_id: str
    is_dropped: bool


class ComputeSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about a compute that the agent needs. Memory in bytes, CPU in cores."""

    endpoint_id: str
    project_id: str
    branch_id: str
    timeline_id: str
    """Where the branch's data is now."""
    pg_version: int
    uid: int
    history_retention_s: int = 0
    """How far back the timeline must stay recoverable; what is older may be pruned by the agent."""
    cpu_cores: float
    """The hard limit (autoscaling_limit_max_cu)."""
    memory_bytes: int
    """The hard limit; PostgreSQL's own settings are derived from it."""
    settings: dict[str, str] = {}
    """`pg_settings` of the endpoint; only names on the agent's allow-list are honoured, others raise."""
    audit_level: AuditLevel = AuditLevel.OFF
    """What its guard notes from the start. Later it is told (control/computes/touched.py)."""
    is_read_only: bool = False
    """A hot standby: it shows the timeline as it is. Only on one that was made frozen."""
    follows_id: str | None = None
    """With `is_read_only`: the timeline that it was made of and goes on with, as its server writes it."""


class ComputeInfo(msgspec.Struct, frozen=True, kw_only=True):
    endpoint_id: str
    project_id: str
    branch_id: str
    timeline_id: str
    generation: int
    """Grows with every start of this compute; tells an old socket from a new one."""
    socket_dir: str
    """Holds `.s.PGSQL.5432`."""
    pid: int
    follows_id: str | None = None


class StartCompute(Command[ComputeInfo], frozen=True, kw_only=True):
    """Open the volume if it is closed, start PostgreSQL in its sandbox. Returns when the process is spawned, not when
    it accepts connections: who connects tries until it does. Already running is success, with its ComputeInfo."""

    reply: ClassVar[type] = ComputeInfo
    spec: ComputeSpec


class StopCompute(Command[Done], frozen=True, kw_only=True):
    """Fast shutdown (immediate after COMPUTE_STOP_TIMEOUT_S), then close the volume if nothing else runs on it and
    `close_volume`. Not running is success."""

    reply: ClassVar[type] = Done
    endpoint_id: str
    close_volume: bool = True


class KeepHistory(Command[Done], frozen=True, kw_only=True):
    """For how long the history of what a compute works on is kept, from now on: said at its start too, but an agent that adopts
    it does not know, and a project may have changed its mind. Not running is success."""

    reply: ClassVar[type] = Done
    endpoint_id: str
    history_retention_s: int


class TimelineInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes and places of one timeline. Moments are seconds since 1970."""

    timeline_id: str
    is_running: bool
    end_lsn: str
    """Where its WAL ends: of a running one, as far as it was archived."""
    since_lsn: str | None = None
    """The first place that it can be recovered to; None without history."""
    since: float | None = None
    wal_since_snapshot_bytes: int = 0
    has_gap: bool = False
    """Of a running one: behind its last snapshot WAL was not kept, and there is room again. What comes after that cannot be gone back to
    before there is another snapshot."""
    logical_bytes: int = 0
    unique_bytes: int = 0
    history_bytes: int = 0


class Recovered(msgspec.Struct, frozen=True, kw_only=True):
    """Where a new timeline leaves its source."""

    lsn: str
    at: float | None = None
    """Of the last commit in it, where known."""


class CreateTimeline(Command[Done], frozen=True, kw_only=True):
    """A fresh cluster from the template, as in a new project. Twice is once."""

    reply: ClassVar[type] = Done
    project_id: str
    timeline_id: str
    pg_version: int
    uid: int


class CloneTimeline(Command[Recovered], frozen=True, kw_only=True):
    """The head of a timeline on which no compute runs becomes another timeline, by reflink. Raises ConflictError when one
    runs. Twice is once."""

    reply: ClassVar[type] = Recovered
    project_id: str
    source_id: str
    target_id: str
    uid: int
    is_frozen: bool = False
    """A snapshot's or a standby's: nobody writes to it, so it gets no history of its own."""
    is_followed: bool = False
    """The target is to go on with what the source's server writes. Raises UnavailableError for a source that its server did not
    shut down in order: what its next start makes of it would be another end than ours."""


class CopyTimeline(Command[Done], frozen=True, kw_only=True):
    """The files of a *running* timeline, while the caller holds its server in backup mode (`pg_backup_start`). Goes on
    with FinishCopy; what was copied without is swept. Calling it again copies anew."""

    reply: ClassVar[type] = Done
    project_id: str
    source_id: str
    target_id: str | None
    """None: into the source's own history."""
    uid: int


class FinishCopy(Command[Recovered], frozen=True, kw_only=True):
    """After `pg_backup_stop`: the WAL up to there and the backup label. The target starts by recovering to its end; for
    the source's own history it becomes a place to recover from. Raises UnavailableError where a segment is missing, which the guard
    leaves out when a volume is full, and NotFoundError where nothing was copied: in both cases a new copy may succeed."""

    reply: ClassVar[type] = Recovered
    project_id: str
    source_id: str
    target_id: str | None
    uid: int
    label: str
    """`labelfile` of pg_backup_stop; at most 64 kB."""
    stop_lsn: str
    is_frozen: bool = False


class RecoverTimeline(Command[Recovered], frozen=True, kw_only=True):
    """What a timeline was at a point becomes another timeline: the nearest snapshot before it, and WAL from the archive
    replayed exactly to there. Also while the source runs. Takes as long as the replay. Twice is once. Raises
    PreconditionError, with the window in words, for a point outside the history."""

    reply: ClassVar[type] = Recovered
    project_id: str
    source_id: str
    target_id: str
    pg_version: int
    uid: int
    lsn: str | None = None
    """Up to and with the record that ends here or before."""
    at: float | None = None
    """All that was committed at or before, nothing after."""
    is_frozen: bool = False


class ScrubTimeline(Command[Done], frozen=True, kw_only=True):
    """Take the secrets out of a timeline at rest: the verifiers of all roles, the options of user mappings, the connection
    strings of subscriptions, in every database. Twice is once."""

    reply: ClassVar[type] = Done
    project_id: str
    timeline_id: str
    pg_version: int
    uid: int


class CopySchema(Command[Done], frozen=True, kw_only=True):
    """A fresh cluster with the roles and databases of a timeline, and what is in its databases beside their rows. The source
    is one that was made for this alone: servers run on it, and it is of no other use afterwards. Twice is once. Raises
    UnprocessableError with pg_restore's words for a schema that cannot be made anew."""

    reply: ClassVar[type] = Done
    project_id: str
    source_id: str
    target_id: str
    pg_version: int
    uid: int
    keeps_passwords: bool
    """False: no verifier of the source comes to lie in the target."""


class MaskRule(msgspec.Struct, frozen=True, kw_only=True):
    """What a column is to hold instead: the words of a function, or a value (`protocol/masking`)."""

    database: str
    schema: str
    table: str
    column: str
    function: str | None = None
    value: str | None = None


class MaskTimeline(Command[Done], frozen=True, kw_only=True):
    """A clone of a timeline at rest, in which columns hold something else and nothing of what they held is left. Twice is once.
    Raises UnprocessableError with what is wrong with a rule."""

    reply: ClassVar[type] = Done
    project_id: str
    source_id: str
    target_id: str
    pg_version: int
    uid: int
    rules: list[MaskRule]


class Backed(msgspec.Struct, frozen=True, kw_only=True):
    """A base that is in the store: with WAL from `start_lsn` on, a timeline can be restored to `stop_lsn` or later."""

    base: str
    """Its name in the store: `stop_lsn` in 16 hexadecimal digits."""
    start_lsn: str
    stop_lsn: str
    moment: float
    """Nothing in it was committed later."""
    chunks: int
    new_chunks: int
    """Of these, those that had to be sent."""
    bytes: int
    """What its files hold."""
    new_bytes: int
    """What was sent, as it lies in the store."""
    left_out: int = 0
    """Files that are no PostgreSQL's, by their names or their size."""
    locked_until: float
    """Until then nothing of it can be removed from the store, if the store keeps its word."""


class BackUpTimeline(Command[Backed], frozen=True, kw_only=True):
    """A snapshot of the timeline's history into the store: the newest there is; of one at rest, its head. What is in the store
    already and locked for `retain_days` or more is not sent again, and what is sent is locked for some days more, so to ask for the
    same again renews its locks. The project's backup key must exist in the key broker. Takes as long as the sending; after an
    interruption the next call goes on from what was sent. Raises PreconditionError where there is nothing to take (no history: have
    one begun with CopyTimeline), UnavailableError where the store does not answer, and ConflictError where the snapshot was given up
    meanwhile: the next run takes another."""

    reply: ClassVar[type] = Backed
    project_id: str
    timeline_id: str
    pg_version: int
    retain_days: int


class SentWal(msgspec.Struct, frozen=True, kw_only=True):
    end_lsn: str
    """As far as WAL is in the store."""
    moment: float
    """What was committed before that is in there, unless `is_broken`."""
    segments: int
    """Sent by this call; one that is still written counts as well."""
    bytes: int
    """As they lie in the store."""
    is_broken: bool
    """It does not join on to a base that is in the store: none is known, or a segment in between is nowhere. A new base is
    needed."""
    is_behind: bool = False
    """There is more to be sent than one call sends: ask again at once."""


class SendWal(Command[SentWal], frozen=True, kw_only=True):
    """What the timeline's WAL has beyond what was sent: whole segments, then the beginning of the one that is being written.
    Locked as BackUpTimeline says, and raises what it raises."""

    reply: ClassVar[type] = SentWal
    project_id: str
    timeline_id: str
    retain_days: int


class RestoreTimeline(Command[Recovered], frozen=True, kw_only=True):
    """What a timeline was, from the store, becomes a timeline in the project's volume, which may be another volume than it was
    in. Up to an LSN or a moment as in RecoverTimeline; with neither, as far as there is WAL. Takes as long as fetching and replay.
    Twice is once. Raises PreconditionError for a point that the store has nothing for, UnprocessableError, with what is wrong, where
    what the store gives is not what was put there, UnavailableError where it does not answer."""

    reply: ClassVar[type] = Recovered
    project_id: str
    source_id: str
    timeline_id: str
    """What it becomes; may be `source_id`, where the volume has none of that name."""
    uid: int
    pg_version: int
    lsn: str | None = None
    at: float | None = None
    known_lsn: str | None = None
    """Up to here the caller knows that WAL was sent. Where all of it may be needed, a store that shows less is refused
    (UnprocessableError): it keeps the newest back. None: whatever it shows."""


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    base: str
    """The newest; empty where none opens."""
    chunks: int
    """Fetched and opened, beside the list of them."""
    bytes: int
    damaged: list[str]
    """Keys of objects that are not there or do not open; at most a hundred of them."""


class ReadBack(Command[Seen], frozen=True, kw_only=True):
    """Open the timeline's newest base in the store: its list of files, `sample` of its chunks by chance, and its newest WAL. Needs
    the project's backup key, but not its volume. Raises NotFoundError where there is no base."""

    reply: ClassVar[type] = Seen
    project_id: str
    timeline_id: str
    sample: int


class Drilled(msgspec.Struct, frozen=True, kw_only=True):
    lsn: str
    """Up to here it came back."""
    databases: int
    relations: int
    """Tables and B-tree indexes that amcheck looked at, block by block."""
    damaged: list[str]
    """Of what it found something in: `database DATABASE, relation RELATION: STATE`, oids and an SQLSTATE. At most a hundred of them."""


class DrillRestore(Command[Drilled], frozen=True, kw_only=True):
    """Bring the timeline back from the store as far as there is WAL, beside everything else in the project's volume, look at all of it,
    and throw it away. Raises ExhaustedError where there is no room for that, and as RestoreTimeline."""

    reply: ClassVar[type] = Drilled
    project_id: str
    timeline_id: str
    uid: int
    pg_version: int
    known_lsn: str | None
    """As in RestoreTimeline."""
    bytes: int
    """About as much comes out of the store."""


class StoreState(msgspec.Struct, frozen=True, kw_only=True):
    """Of the store for backups, as the courier found it a moment ago."""

    name: str
    """Of the bucket."""
    place: str
    has_versions: bool
    has_lock: bool
    problem: str = ""
    taken: str = ""
    """That another platform sends into it, in a sentence; so this one does not."""


class GetStore(Command[StoreState], frozen=True):
    """Whether there is a store to send to. Raises PreconditionError where none is configured, UnavailableError where it, or the
    courier, does not answer."""

    reply: ClassVar[type] = StoreState


class DeleteTimeline(Command[Done], frozen=True, kw_only=True):
    """With its history. Raises ConflictError when a compute runs on it. Already gone is success."""

    reply: ClassVar[type] = Done
    project_id: str
    timeline_id: str


class PruneTimeline(Command[TimelineInfo], frozen=True, kw_only=True):
    """Give up what is not needed to recover to `keep_since` or later."""

    reply: ClassVar[type] = TimelineInfo
    project_id: str
    timeline_id: str
    keep_since: float


class GetTimeline(Command[TimelineInfo], frozen=True, kw_only=True):
    """Opens the volume if it must. Raises NotFoundError."""

    reply: ClassVar[type] = TimelineInfo
    project_id: str
    timeline_id: str


SchemaForm: TypeAlias = Literal["sql", "tables"]
"""What tells a schema: pg_dump, or a query of psql's with a JSON object a line for each table (`node/postgres/telling.py`)."""


class SchemaDump(msgspec.Struct, frozen=True):
    text: bytes


class DumpSchema(Command[SchemaDump], frozen=True, kw_only=True):
    """What `pg_dump --schema-only` says of a database of a compute that runs, or psql of its tables. `database` is the one name
    here that a tenant chose: it goes into the environment of a program in a sandbox, and nowhere else. Raises NotFoundError (the
    compute does not run), UnprocessableError (the program's own words), ExhaustedError (more than SCHEMA_BYTES_MAX), UnavailableError (it
    took too long)."""

    reply: ClassVar[type] = SchemaDump
    endpoint_id: str
    pg_version: int
    database: str
    form: SchemaForm = "sql"


class DumpSchemaAt(Command[SchemaDump], frozen=True, kw_only=True):
    """The same of a timeline as it was at a point, whether or not a compute runs. It is recovered under the name `target_id`, and
    removed again. Raises PreconditionError as RecoverTimeline does, and else as DumpSchema."""

    reply: ClassVar[type] = SchemaDump
    project_id: str
    source_id: str
    target_id: str
    pg_version: int
    uid: int
    database: str
    form: SchemaForm = "sql"
    lsn: str | None = None
    at: float | None = None


class NodeStatus(msgspec.Struct, frozen=True, kw_only=True):
    computes: list[ComputeInfo]
    history_retentions_s: dict[str, int] = {}
    """By endpoint, of the computes for which it is known."""
    volumes: list[VolumeInfo]
    """The open ones."""
    driver: str
    opener: str
    cipher: str
    engines: dict[int, str]
    """Major version → full version, of the engines found on this host."""
    free_bytes: int
    """On the file system that holds the images."""
    cgroup: str
    """`v1`, `v2`, or why there are no limits."""


class PoolerInfo(msgspec.Struct, frozen=True):
    socket_dir: str
    """The gateway's user reaches it. The socket is there a few milliseconds later."""


class StartPooler(Command[PoolerInfo], frozen=True, kw_only=True):
    """PgBouncer beside a compute that runs, for clients of this role. Running already is success. Raises NotFoundError when
    this compute does not run, PreconditionError where PgBouncer is not installed."""

    reply: ClassVar[type] = PoolerInfo
    endpoint_id: str
    generation: int
    role: str


class GetStatus(Command[NodeStatus], frozen=True):
    reply: ClassVar[type] = NodeStatus


class GetVolume(Command[VolumeInfo], frozen=True):
    """Raises NotFoundError."""

    reply: ClassVar[type] = VolumeInfo
    project_id: str


AnyTimelineCommand = (
    CreateTimeline
    | CloneTimeline
    | CopyTimeline
    | FinishCopy
    | RecoverTimeline
    | ScrubTimeline
    | CopySchema
    | MaskTimeline
    | DeleteTimeline
    | PruneTimeline
    | GetTimeline
    | DumpSchemaAt
)


class PlatformBacked(msgspec.Struct, frozen=True, kw_only=True):
    """A dump of the control database that is in the store."""

    name: str
    moment: float
    chunks: int
    new_chunks: int
    bytes: int
    new_bytes: int
    """As they lie in the store."""
    locked_until: float


class BackUpPlatform(Command[PlatformBacked], frozen=True, kw_only=True):
    """A dump of the control database goes to the store, as a base does. Raises PreconditionError where there is no store, or where the
    control database is not ours."""

    reply: ClassVar[type] = PlatformBacked
    retain_days: int


class ReadBackPlatform(Command[Seen], frozen=True, kw_only=True):
    """Open a dump of the control database in the store: the key that lies beside it, its lists of files, and `sample` of its chunks by
    chance. One that is not there is damaged: it was sent."""

    reply: ClassVar[type] = Seen
    name: str
    sample: int


AnyBackupCommand = (
    BackUpTimeline | SendWal | RestoreTimeline | ReadBack | DrillRestore | GetStore | BackUpPlatform | ReadBackPlatform
)

AnyCommand = (
    CreateVolume
    | DeleteVolume
    | CloseVolume
    | CopyVolume
    | SwitchVolume
    | StopCopy
    | StartCompute
    | StopCompute
    | KeepHistory
    | AnyTimelineCommand
    | AnyBackupCommand
    | DumpSchema
    | StartPooler
    | GetStatus
    | GetVolume
)


class ComputeExited(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Sent to every connected caller when a compute ended, asked for or not."""

    endpoint_id: str
    generation: int
    was_asked: bool
    exit_status: int
    """As in os.waitstatus_to_exitcode; -9 also when the kernel's OOM killer ended it."""


class VolumeFailed(msgspec.Struct, frozen=True, tag=True):
    """An open volume's daemon died or its file system shut down. Its computes were stopped and it was closed."""

    project_id: str
    reason: str


AnyEvent = ComputeExited | VolumeFailed

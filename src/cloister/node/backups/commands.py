"""What the courier can be asked: to put a sealed object into the operator's bucket, and to get some back.

Root alone asks: the agent, and the operator's commands on the host. A key here is ours and has no prefix: which one the operator
gave this platform in the bucket, the courier alone knows, and adds and takes away. It sees no plaintext and holds no key but the
bucket's credentials, so nothing it says is believed: whoever asks opens what it gives (`protocol/backups`).
"""

from typing import ClassVar, Final

import msgspec

from cloister.base.rpc.wire import Command
from cloister.node.commands import Done

CALL_TIMEOUT_S: Final = 300.0
# The courier asks a store that does not answer four times, a minute each, with pauses between.


class ObjectInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One version of an object, or a marker that says it is deleted."""

    key: str
    version: str
    size: int
    put_at: float
    """By the store's clock, in seconds since 1970."""
    is_latest: bool
    is_marker: bool = False


class Content(msgspec.Struct, frozen=True, kw_only=True):
    content: bytes
    version: str
    locked_until: float | None = None
    """Where the store says it."""


class PutObject(Command[Done], frozen=True, kw_only=True):
    """A new version of the object, which nobody can delete for this many days (object lock in the mode COMPLIANCE), with a
    checksum that the store verifies. Answers when the store has it. At most OBJECT_BYTES_MAX (`protocol/backups/sealing.py`). Raises
    PreconditionError where no store is configured or it takes no lock, UnavailableError with what it says."""

    reply: ClassVar[type] = Done
    key: str
    content: bytes
    retain_days: int


class GetObject(Command[Content], frozen=True, kw_only=True):
    """What the store gives for this key. Raises NotFoundError where there is none, or a marker says so; UnprocessableError for more
    than OBJECT_BYTES_MAX."""

    reply: ClassVar[type] = Content
    key: str


class GetVersion(Command[Content], frozen=True, kw_only=True):
    """One version of those that ListObjects shows, whatever was put over it. Raises as GetObject."""

    reply: ClassVar[type] = Content
    key: str
    version: str


class Place(msgspec.Struct, frozen=True):
    """Where a listing goes on: behind this version of this key, and with `version` None behind the key."""

    key: str
    version: str | None = None


class Page(msgspec.Struct, frozen=True, kw_only=True):
    objects: list[ObjectInfo]
    after: Place | None = None
    """What to ask for next; None: that was the last page."""


class ListObjects(Command[Page], frozen=True, kw_only=True):
    """All versions of all objects whose keys begin with `prefix`, in the order of keys and of one key the newest first, a page at a
    time: at most a thousand."""

    reply: ClassVar[type] = Page
    prefix: str
    after: Place | None = None


class StoreFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the store says of itself, looked at now."""

    name: str
    """Of the bucket."""
    place: str
    """Host and port."""
    has_versions: bool
    has_lock: bool
    can_put: bool
    """With the writer's credentials; by its permissions as far as the store tells without anything being put."""
    can_get: bool
    """With the reader's."""
    is_encrypted: bool
    """The store encrypts what it keeps, beside us."""
    problem: str = ""
    """For the operator, in a sentence; what of the above could not be found out is False."""
    too_much: list[str] = []
    """What the writer's credentials can do beside putting, a sentence each."""
    kept_days: int | None = None
    """After so many days the bucket's lifecycle removes what was put, for good. None: never, or it could not be found out."""


class LookAtStore(Command[StoreFacts], frozen=True):
    """Nothing is put. Raises PreconditionError where no store is configured."""

    reply: ClassVar[type] = StoreFacts


class NameStore(Command[str], frozen=True):
    """Which place objects go to now: a digest of the bucket's URL and the prefix, which is another one where the objects are
    elsewhere. Asks no network. Raises PreconditionError where no store is configured."""

    reply: ClassVar[type] = str


class Probed(msgspec.Struct, frozen=True, kw_only=True):
    """What came of an object of a few bytes that was put, got, and tried to be removed."""

    facts: StoreFacts
    key: str
    """The operator's prefix included."""
    locked_until: float | None
    is_encrypted: bool
    problems: list[str]
    """With any of these the store is not one for backups."""
    warnings: list[str]


class ProbeStore(Command[Probed], frozen=True):
    """Leaves an object that is locked for a day. Raises PreconditionError where no store is configured."""

    reply: ClassVar[type] = Probed


AnyCourierCommand = NameStore | PutObject | GetObject | GetVersion | ListObjects | LookAtStore | ProbeStore

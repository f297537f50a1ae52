"""What the objects of backups are called in the store, below the operator's prefix.

Of a project:

    projects/PROJECT/chunks/HH/ID                      a piece of files; ID is 64 hexadecimal digits, HH the first two
    projects/PROJECT/TIMELINE/bases/NAME               a base, complete as soon as this is there; NAME is where it is consistent
    projects/PROJECT/TIMELINE/wal/FIRST-LAST           whole segments of WAL, by PostgreSQL's names for them
    projects/PROJECT/TIMELINE/wal/SEGMENT+LENGTH       the beginning of one that was still being written, this many bytes in hexadecimal

And of the platform itself, whose control database it is:

    platform/chunks/HH/ID                              a piece of its tables
    platform/dumps/NAME                                a dump, complete as soon as this is there; NAME is its moment, in microseconds
    platform/keys/MATERIAL                             the key of dumps, wrapped by the root key
    platform/senders/NUMBER-DIGEST                     who sends from then on; DIGEST nobody makes without a secret of the platform's

Names of bases, WAL and dumps end with -LABEL where who sent them is not the first that did (`node/backups/senders.py`).
Keys are in the order of WAL, and of dumps. What a store lists is parsed again; a key that is none of these is nobody's.
"""

import re
from dataclasses import dataclass
from typing import Final

SEGMENTS_MAX: Final = 3
# In one object, a megabyte each: it must fit one message to the courier, and a request costs as much as a gigabyte kept for a week.

_CHUNK_ID: Final = re.compile(r"[0-9a-f]{64}")
PLATFORM: Final = "platform"
"""In a project's place, for what is no project's. No project can be called that."""

_LABEL: Final = r"(?:-(?P<label>[0-9A-F]{16}))?"

_DUMP: Final = re.compile(rf"platform/dumps/(?P<name>[0-9A-F]{{16}}{_LABEL})")
_SENDER: Final = re.compile(r"platform/senders/(?P<number>[0-9A-F]{8})-[0-9a-f]{64}")
_BASE: Final = re.compile(
    rf"projects/(?P<project>[a-z0-9-]{{1,60}})/(?P<timeline>[a-z0-9-]{{1,60}})/bases/(?P<name>[0-9A-F]{{16}}{_LABEL})"
)
_WAL: Final = re.compile(
    r"projects/(?P<project>[a-z0-9-]{1,60})/(?P<timeline>[a-z0-9-]{1,60})/wal/"
    rf"(?P<first>[0-9A-F]{{24}})(?:-(?P<last>[0-9A-F]{{24}})|\+(?P<length>[0-9A-F]{{8}})){_LABEL}"
)
KEY: Final = re.compile(r"(?:projects|platform)/[A-Za-z0-9+/-]{1,200}")
"""What the courier takes for a key at all. `platform/` is for what is no project's."""
PREFIX: Final = re.compile(r"(?:projects|platform)/[A-Za-z0-9+/-]{0,200}")
"""And for the beginning of keys, to list."""


@dataclass(frozen=True, slots=True)
class WalName:
    """Of an object with WAL: whole segments from `first` to `last`, or `length` bytes of `first`."""

    first: str
    last: str
    length: int | None = None
    label: str = ""

    @property
    def text(self) -> str:
        return labelled(self.first + (f"-{self.last}" if self.length is None else f"+{self.length:08X}"), self.label)


def labelled(name: str, label: str) -> str:
    return f"{name}-{label}" if label else name


def label_of(name: str) -> str:
    """Of a base's or a dump's name."""
    return name[17:]


def chunk(project: str, chunk_id: str) -> str:
    owner = PLATFORM if project == PLATFORM else f"projects/{project}"
    return f"{owner}/chunks/{chunk_id[:2]}/{chunk_id}"


def is_chunk_id(text: str) -> bool:
    return _CHUNK_ID.fullmatch(text) is not None


def bases(project: str, timeline: str) -> str:
    """What the keys of all its bases begin with."""
    return f"projects/{project}/{timeline}/bases/"


def base(project: str, timeline: str, name: str) -> str:
    return bases(project, timeline) + name


def base_name(key: str, project: str, timeline: str) -> str | None:
    """None for a key that is no base's of this timeline."""
    match = _BASE.fullmatch(key)
    return match["name"] if match and (match["project"], match["timeline"]) == (project, timeline) else None


def wal(project: str, timeline: str) -> str:
    """What the keys of all its WAL begin with."""
    return f"projects/{project}/{timeline}/wal/"


def wal_object(project: str, timeline: str, name: WalName) -> str:
    return wal(project, timeline) + name.text


def wal_name(key: str, project: str, timeline: str) -> WalName | None:
    """None for a key that is no WAL's of this timeline."""
    match = _WAL.fullmatch(key)
    if match is None or (match["project"], match["timeline"]) != (project, timeline):
        return None
    if match["length"] is not None:
        return WalName(match["first"], match["first"], int(match["length"], 16), match["label"] or "")
    return WalName(match["first"], match["last"], None, match["label"] or "")


DUMPS: Final = f"{PLATFORM}/dumps/"
"""What the keys of all dumps begin with."""


def dump(name: str) -> str:
    return DUMPS + name


def dump_name(key: str) -> str | None:
    """None for a key that is no dump's."""
    match = _DUMP.fullmatch(key)
    return match["name"] if match else None


def platform_key(material: int) -> str:
    return f"{PLATFORM}/keys/{material:08X}"


SENDERS: Final = f"{PLATFORM}/senders/"
"""What the keys of all claims begin with."""


def sender(number: int, digest: str) -> str:
    return f"{SENDERS}{number:08X}-{digest}"


def sender_number(key: str) -> int | None:
    """None for a key that is no claim's, whatever its digest."""
    match = _SENDER.fullmatch(key)
    return int(match["number"], 16) if match else None

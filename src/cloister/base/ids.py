"""The names of things, parsed once at the door.

Ids are minted by us, from letters, digits and hyphens, so that they are safe as a host name, a directory and a cgroup.
What a tenant names (roles, databases, branches) is *not* an id and never becomes a path, a host or a word of a command.
"""

import re
import secrets
import uuid
from typing import Final, NewType

from cloister.base.errors import InvalidIdError

ProjectId = NewType("ProjectId", str)
"""`calm-forest-12345678`; also the name of the project's volume."""
BranchId = NewType("BranchId", str)
"""`br-calm-forest-ab12cd34`"""
EndpointId = NewType("EndpointId", str)
"""`ep-calm-forest-ab12cd34`; the first label of the host that clients connect to."""
TimelineId = NewType("TimelineId", str)
"""32 hex digits: the storage of a branch, and a directory in its project's volume. A branch that is reset or restored gets
another one; its own id and its endpoints' stay."""
SnapshotId = NewType("SnapshotId", str)
"""`snap-calm-forest-ab12cd34`"""
OperationId = NewType("OperationId", str)
"""A UUID."""
OrgId = NewType("OrgId", str)
"""`org-calm-forest-12345678`"""

_PROJECT: Final = re.compile(r"[a-z]{2,16}-[a-z]{2,16}-[0-9]{8}")
_BRANCH: Final = re.compile(r"br-[a-z]{2,16}-[a-z]{2,16}-[a-z0-9]{8}")
_ENDPOINT: Final = re.compile(r"ep-[a-z]{2,16}-[a-z]{2,16}-[a-z0-9]{8}")
_TIMELINE: Final = re.compile(r"[0-9a-f]{32}")
_SNAPSHOT: Final = re.compile(r"snap-[a-z]{2,16}-[a-z]{2,16}-[a-z0-9]{8}")
_ORG: Final = re.compile(r"org-[a-z]{2,16}-[a-z]{2,16}-[0-9]{8}")
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

IDENTIFIER_BYTES_MAX: Final = 63
# PostgreSQL's NAMEDATALEN - 1: longer names would be cut silently, and two could become one.

_BASE36: Final = "0123456789abcdefghijklmnopqrstuvwxyz"

_ADJECTIVES: Final = (
    "amber ancient autumn bitter black blue bold brave bright broad calm cold cool crimson curly damp dark dawn "
    "delicate divine dry early empty falling fancy flat floral fragrant frosty gentle green hidden holy icy jolly "
    "late lingering little lively long lucky misty morning muddy mute nameless noisy odd old orange patient plain "
    "polished proud purple quiet rapid raspy red restless rough round royal shiny shrill shy silent small snowy "
    "soft solitary sparkling spring square steep still summer sweet throbbing tight tiny twilight wandering "
    "weathered white wild winter wispy withered yellow young"
).split()
_NOUNS: Final = (
    "art band bar base bird block boat bonus bread breeze brook bush butterfly cake cell cherry cloud credit "
    "darkness dawn dew disk dream dust feather field fire firefly flower fog forest frog frost glade glitter grass "
    "hall hat haze heart hill king lab lake leaf limit math meadow mode moon morning mountain mouse mud night "
    "paper pine poetry pond queen rain recipe resonance rice river salad scene sea shadow shape silence sky smoke "
    "snow snowflake sound star sun sunset surf term thunder tooth tree truth union unit violet voice water "
    "waterfall wave wildflower wind wood"
).split()


def _words() -> str:
    return f"{secrets.choice(_ADJECTIVES)}-{secrets.choice(_NOUNS)}"


def _tail(alphabet: str) -> str:
    return "".join(secrets.choice(alphabet) for _ in range(8))


def new_project_id() -> ProjectId:
    return ProjectId(f"{_words()}-{_tail('0123456789')}")


def new_branch_id() -> BranchId:
    return BranchId(f"br-{_words()}-{_tail(_BASE36)}")


def new_endpoint_id() -> EndpointId:
    return EndpointId(f"ep-{_words()}-{_tail(_BASE36)}")


def new_timeline_id() -> TimelineId:
    return TimelineId(secrets.token_hex(16))


def new_snapshot_id() -> SnapshotId:
    return SnapshotId(f"snap-{_words()}-{_tail(_BASE36)}")


def new_org_id() -> OrgId:
    return OrgId(f"org-{_words()}-{_tail('0123456789')}")


def new_operation_id() -> OperationId:
    return OperationId(str(uuid.uuid4()))


def parse_project_id(text: str) -> ProjectId:
    return ProjectId(_matching("project id", _PROJECT, text))


def parse_branch_id(text: str) -> BranchId:
    return BranchId(_matching("branch id", _BRANCH, text))


def parse_endpoint_id(text: str) -> EndpointId:
    return EndpointId(_matching("endpoint id", _ENDPOINT, text))


def parse_timeline_id(text: str) -> TimelineId:
    return TimelineId(_matching("timeline id", _TIMELINE, text))


def parse_snapshot_id(text: str) -> SnapshotId:
    return SnapshotId(_matching("snapshot id", _SNAPSHOT, text))


def parse_org_id(text: str) -> OrgId:
    return OrgId(_matching("organization id", _ORG, text))


def is_uuid(text: str) -> bool:
    """In the one form in which ours are written; `uuid.UUID` takes others."""
    return _UUID.fullmatch(text) is not None


def parse_operation_id(text: str) -> OperationId:
    return OperationId(_matching("operation id", _UUID, text))


def parse_identifier(what: str, text: str) -> str:
    """A name a tenant chose for a role or a database: 1 to 63 bytes of UTF-8, no NUL.

    Anything else PostgreSQL can quote is allowed: whoever puts it into SQL must quote it.
    """
    if not text or "\0" in text or len(text.encode(errors="surrogatepass")) > IDENTIFIER_BYTES_MAX:
        raise InvalidIdError(what, text)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidIdError(what, text) from None
    return text


def _matching(what: str, pattern: re.Pattern[str], text: str) -> str:
    if not pattern.fullmatch(text):
        raise InvalidIdError(what, text)
    return text

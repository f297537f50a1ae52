"""The backup label that PostgreSQL gives at the end of a backup. Pure.

A copy of a running server starts from what it says. It comes from the tenant's server, by way of the API, so it is read
strictly for what we use, and kept for PostgreSQL as it is.
"""

import re
from dataclasses import dataclass
from typing import Final

from cloister.base.errors import BadRequestError
from cloister.node.timelines.wal import parse_lsn, parse_segment_name

LABEL_BYTES_MAX: Final = 64 * 1024
# It has ten lines; one of them is a name of up to 1 kB.

_START: Final = re.compile(r"START WAL LOCATION: ([0-9A-F]{1,8}/[0-9A-F]{1,8}) \(file ([0-9A-F]{24})\)")


@dataclass(frozen=True, slots=True)
class Start:
    lsn: int
    wal_timeline: int


def parse(text: str) -> Start:
    """Raises BadRequestError."""
    if len(text.encode(errors="surrogatepass")) > LABEL_BYTES_MAX:
        raise BadRequestError("the backup label is too long")
    match = _START.match(text)
    segment = parse_segment_name(match[2]) if match else None
    if match is None or segment is None:
        raise BadRequestError("not a backup label")
    return Start(parse_lsn(match[1]), segment[0])

"""Which reviewed change a call belongs to: the header `Cloister-Change`, and what the audit log keeps of it. Pure.

It is what a caller says, as the name of its program is: where an event leads to is a plan's digest and a commit's, and
whoever has the repository sees whether they are there. So that it can be nothing else, it is digits alone.
"""

import re
from collections.abc import Sequence
from typing import Final

from cloister.base.errors import BadRequestError

HEADER: Final = "Cloister-Change"

_CHANGE: Final = re.compile(
    r"plan=(?P<plan>[0-9a-f]{64})(?:;commit=(?P<commit>[0-9a-f]{40}|[0-9a-f]{64})(?:;signer=(?P<signer>[0-9a-f]{64}))?)?"
)
# At most 213 characters. A commit has 40 or 64 digits, as its repository counts in SHA-1 or SHA-256; a signer is the SHA-256 of a key.


def parse(headers: Sequence[str]) -> str:
    """All that were sent; empty where there was none. Raises BadRequestError for two of them, and for any other text."""
    if not headers:
        return ""
    if len(headers) > 1:
        raise BadRequestError(public=f"{HEADER} was sent twice")
    if not _CHANGE.fullmatch(headers[0]):
        raise BadRequestError(
            public=f"{HEADER} must be plan=SHA256, and may go on ;commit=HASH and ;signer=SHA256, in lower-case hexadecimal"
        )
    return headers[0]


def details(change: str) -> dict[str, object]:
    """Of an event: `plan`, and `commit` and `signer` where they were said."""
    match = _CHANGE.fullmatch(change)
    if match is None:
        return {}
    return {name: match[name] for name in ("plan", "commit", "signer") if match[name]}

"""Secrets that stand where everybody who reads a log would read them. Pure: bytes in, what they hold out.

Only what cannot be anything else: who is woken for a secret in a log shall find one. What was found is never repeated.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Final

KINDS: Final[Mapping[str, re.Pattern[bytes]]] = {
    "an API key": re.compile(rb"\bnapi_[0-9A-Za-z]{64}\b"),
    "a connection string with its password": re.compile(rb"\bpostgres(?:ql)?://[^\s:@/]{1,64}:[^\s:@/*]{8,256}@"),
    "a password in a statement": re.compile(rb"(?i)\bpassword\s{1,8}'[^'\s*]{8,256}'"),
    "a password's verifier": re.compile(rb"\bSCRAM-SHA-256\$\d{1,9}:[0-9A-Za-z+/=]{16,64}\$"),
    "a private key": re.compile(rb"-----BEGIN (?:[A-Z]{1,16} ){0,3}PRIVATE KEY-----"),
}
# Every repetition has an end, so a line that somebody made for it costs no more than another.


def found(text: bytes) -> Iterator[tuple[str, int, int]]:
    """The kind, where the first begins, and how many there are."""
    for kind, pattern in KINDS.items():
        places = [match.start() for match in pattern.finditer(text)]
        if places:
            yield kind, places[0], len(places)

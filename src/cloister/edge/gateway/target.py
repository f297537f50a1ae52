"""Which endpoint a client means, whether it wants it pooled, and what of its startup packet goes on to the compute. Pure.

The endpoint is the first label of the server name under our domain, or `endpoint=`/`project=` in `options`. Whatever
says it must say the same: a client that names two is refused, so that no part of the gateway can take one and another
part the other. Without either, the client is asked for `endpoint=ID;PASSWORD`.

A point in the past (`neon_timestamp:`, `neon_lsn:`) and a kind of endpoint (`neon_endpoint_type:`) are kept as they were written.
What to say of them is nobody's business who has not proved who they are.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cloister.edge.gateway.errors import endpoint_inconsistent, endpoint_malformed, unsupported_parameter
from cloister.protocol.pgwire.messages import Startup

_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_OPTION: Final = re.compile(r"(?:\\.|[^\s\\])+", re.ASCII | re.DOTALL)
# As PostgreSQL splits `options`: words between white space, a backslash takes the next character as it is.
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)
_NAMES_ENDPOINT: Final = re.compile(r"(?:endpoint|project)=(.*)", re.DOTALL)
_OF_NEON: Final = re.compile(r"neon_\w+:")
# Settings of Neon's proxy that PostgreSQL would not know.
_ASKS_FOR_THE_PAST: Final = re.compile(r"neon_((?:timestamp|lsn):.*)", re.DOTALL | re.IGNORECASE)
_ASKS_FOR_A_TYPE: Final = re.compile(r"neon_endpoint_type:(.*)", re.DOTALL | re.IGNORECASE)
_IN_PASSWORD: Final = re.compile(r"(?:endpoint|project)=([^;$]*)[;$](.*)", re.DOTALL)

_OF_LIBPQ: Final = frozenset({"channel_binding", "sslrootcert"})
# What our connection strings say to libpq, which keeps it to itself. Drivers that do not know these words (npm `postgres`) send
# them on as settings, which PostgreSQL would refuse. Neither could do anything here: whether a proof is bound to the channel
# is settled by the proof (`protocol/scram`), and a client that wanted it checks that itself or not at all.

POOLER_SUFFIX: Final = "-pooler"
BRANCH_PREFIX: Final = "br-"

_POOLED: Final = frozenset(
    (
        "user database client_encoding datestyle timezone standard_conforming_strings application_name extra_float_digits"
    ).split()
)
# What PgBouncer tracks, and the one that it is told to ignore, because drivers for Java send it always.
_SETTING: Final = re.compile(r"(?:-c\s*|--)([A-Za-z_][\w.-]{0,62})=")


@dataclass(frozen=True, slots=True)
class Target:
    endpoint: str | None
    """Canonical: lower case, without `-pooler`. None: nobody said."""
    parameters: Mapping[str, str]
    """For the compute."""
    names_pooler: bool = False
    """Whatever named the endpoint did so with `-pooler`, once at least."""
    points: tuple[str, ...] = ()
    """In the past, unread: `timestamp:…`, `lsn:…`."""
    types: tuple[str, ...] = ()
    """Kinds of endpoint that this has to be, unread."""

    @property
    def is_branch(self) -> bool:
        """A branch is named, whose past alone can be connected to."""
        return self.endpoint is not None and self.endpoint.startswith(BRANCH_PREFIX)

    @property
    def is_pooled(self) -> bool:
        """The past has no pooler: a standby is for a few who look, and its pool would be one more thing to take away."""
        return self.names_pooler and not self.points


def target_of(server_name: str | None, domain: str, startup: Startup) -> Target:
    """Raises RefusedError."""
    named = [] if (label := _first_label(server_name, domain)) is None else [label]
    kept: list[str] = []
    points: list[str] = []
    types: list[str] = []
    for word in _OPTION.findall(startup.parameters.get("options", "")):
        plain = _ESCAPED.sub(r"\1", word)
        if match := _NAMES_ENDPOINT.fullmatch(plain):
            named.append(match[1])
        elif match := _ASKS_FOR_THE_PAST.fullmatch(plain):
            points.append(match[1])
        elif match := _ASKS_FOR_A_TYPE.fullmatch(plain):
            types.append(match[1])
        elif not _OF_NEON.match(plain):
            kept.append(word)
    endpoints = [canonical(name) for name in named]
    for endpoint in endpoints:
        if endpoint != endpoints[0]:
            raise endpoint_inconsistent(endpoints[0], endpoint)
    parameters = {
        name: value for name, value in startup.parameters.items() if name != "options" and name not in _OF_LIBPQ
    }
    if kept:
        parameters["options"] = " ".join(kept)
    names_pooler = any(is_pooler(name) for name in named)
    return Target(endpoints[0] if endpoints else None, parameters, names_pooler, tuple(points), tuple(types))


def in_password(text: str) -> tuple[str, str] | None:
    """`endpoint=ID;PASSWORD` or `endpoint=ID$PASSWORD` → (ID as it stands there, password)."""
    match = _IN_PASSWORD.fullmatch(text)
    return None if match is None else (match[1], match[2])


def is_pooler(name: str) -> bool:
    return name.lower().endswith(POOLER_SUFFIX)


def check_pooled(parameters: Mapping[str, str]) -> None:
    """Raises RefusedError for what PgBouncer cannot keep with a client whose transactions go to one server after another.
    Left out without a word, it would be missed later, in somebody's data."""
    for name, value in parameters.items():
        if name == "options":
            match = _SETTING.search(value)
            raise unsupported_parameter(f" in options: {value[:40] if match is None else match[1]}")
        if name.lower() not in _POOLED:
            raise unsupported_parameter(f": {name[:63]}")


def canonical(name: str) -> str:
    """Raises RefusedError for what cannot be a host label."""
    label = name.lower()
    if not _LABEL.fullmatch(label):
        raise endpoint_malformed(name)
    return label.removesuffix(POOLER_SUFFIX)


def _first_label(server_name: str | None, domain: str) -> str | None:
    """None for no name, our bare domain, and names that are not ours: then something else must name the endpoint."""
    if server_name is None:
        return None
    label, _, rest = server_name.lower().removesuffix(".").partition(".")
    return label if rest == domain else None

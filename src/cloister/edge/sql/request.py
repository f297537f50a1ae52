"""What an HTTP request asks: who, where, and which queries. Pure.

The head says who and where (`Neon-Connection-String`), so that it is judged before a byte of the body is read. What says
the same thing twice is refused, never chosen between: two headers of a name, a host name and a connection string that
name different endpoints.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import parse_qsl, unquote_to_bytes, urlsplit

import msgspec

from cloister.base.secret import Secret
from cloister.edge.gateway.errors import endpoint_inconsistent, endpoint_missing
from cloister.edge.gateway.target import Target, canonical, target_of
from cloister.edge.sql.limits import CONNECTION_STRING_BYTES_MAX, QUERIES_MAX
from cloister.edge.sql.values import InvalidValueError, parameter
from cloister.protocol.pgwire.extended import PARAMETERS_MAX
from cloister.protocol.pgwire.messages import Startup

TOKEN_LABEL: Final = "apiauth"  # noqa: S105 - a name
"""The name for tokens, where nothing else is taken. A driver that has one comes here by itself."""
COMMON_LABELS: Final = frozenset({"api", TOKEN_LABEL})
"""Names that are no endpoint's: the connection string says which."""

_BEARER: Final = re.compile(r"[Bb]earer +([!-~]+)")

_ISOLATION: Final = {
    "ReadUncommitted": "READ UNCOMMITTED",
    "ReadCommitted": "READ COMMITTED",
    "RepeatableRead": "REPEATABLE READ",
    "Serializable": "SERIALIZABLE",
}
_FORWARDED: Final = ("application_name", "options")
# Of a connection string's parameters. The others are for libpq, which is not here.


class RequestError(Exception):
    """The request cannot be served as it is. The text is for the client."""

    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.text = text
        self.status = status


@dataclass(frozen=True, slots=True)
class Transaction:
    """How a batch is to run."""

    isolation: str | None = None
    is_read_only: bool | None = None
    is_deferrable: bool | None = None

    @property
    def begin(self) -> str:
        words = ["BEGIN"]
        if self.isolation is not None:
            words.append(f"ISOLATION LEVEL {_ISOLATION[self.isolation]}")
        if self.is_read_only is not None:
            words.append("READ ONLY" if self.is_read_only else "READ WRITE")
        if self.is_deferrable is not None:
            words.append("DEFERRABLE" if self.is_deferrable else "NOT DEFERRABLE")
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class Statement:
    query: str
    parameters: list[bytes | None]
    as_array: bool


@dataclass(frozen=True, slots=True)
class Work:
    """The body: one statement, or a batch in one transaction."""

    statements: list[Statement]
    is_batch: bool


@dataclass(frozen=True, slots=True)
class Head:
    startup: Startup
    target: Target
    password: Secret[str]
    token: Secret[str] | None
    """In place of the password, which is not looked at then."""
    is_raw: bool
    as_array: bool
    transaction: Transaction

    @classmethod
    def read(cls, headers: Iterable[tuple[bytes, bytes]], server_name: str, domain: str) -> "Head":
        return cls.of(our_headers(headers), server_name, domain)

    @classmethod
    def of(cls, ours: Mapping[str, str], server_name: str, domain: str) -> "Head":
        """`server_name` is what TLS was asked for. Raises RequestError, or RefusedError where no endpoint, or more than
        one, is named."""
        token = _token(ours, server_name)
        text = ours.get("neon-connection-string")
        if text is None:
            raise RequestError("missing header: neon-connection-string")
        startup, host, password = _parse_connection_string(text)
        target = _target(host, server_name, domain, startup)
        if token is not None and "options" in target.parameters:
            # The session's settings are what a token is about: none of them comes from beside it.
            raise RequestError("with a token, options can name the endpoint and a point in the past, and nothing else")
        return cls(
            startup,
            target,
            password,
            token,
            is_raw=_flag(ours, "neon-raw-text-output") or False,
            as_array=_flag(ours, "neon-array-mode") or False,
            transaction=Transaction(
                _isolation(ours), _flag(ours, "neon-batch-read-only"), _flag(ours, "neon-batch-deferrable")
            ),
        )

    def parse(self, body: bytes) -> Work:
        """Raises RequestError."""
        try:
            asked = msgspec.json.decode(body, type=_Body)
        except msgspec.ValidationError as error:
            raise RequestError(f"invalid request body: {error}") from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise RequestError("the request body is not valid JSON") from None
        if (asked.query is None) == (asked.queries is None):
            raise RequestError("the request body must have either `query` or `queries`")
        if asked.queries is None:
            assert asked.query is not None
            single = _Query(asked.query, asked.params, asked.arrayMode)
            return Work([self._statement(single)], is_batch=False)
        if len(asked.queries) > QUERIES_MAX:
            raise RequestError(f"more than {QUERIES_MAX} queries in a batch")
        return Work([self._statement(each) for each in asked.queries], is_batch=True)

    def _statement(self, asked: "_Query") -> Statement:
        if "\0" in asked.query:
            raise RequestError('invalid byte sequence for encoding "UTF8": 0x00')
        if len(asked.params) > PARAMETERS_MAX:
            raise RequestError(f"more than {PARAMETERS_MAX} parameters")
        try:
            parameters = [parameter(bytes(raw)) for raw in asked.params]
        except InvalidValueError as error:
            raise RequestError(str(error)) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise RequestError("the request body is not valid JSON") from None
        return Statement(asked.query, parameters, self.as_array if asked.arrayMode is None else asked.arrayMode)


class _Query(msgspec.Struct):
    query: str
    params: list[msgspec.Raw] = []
    arrayMode: bool | None = None  # noqa: N815 - the driver's name


class _Body(msgspec.Struct):
    query: str | None = None
    params: list[msgspec.Raw] = []
    arrayMode: bool | None = None  # noqa: N815
    queries: list[_Query] | None = None


def our_headers(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Those that a head is read from. Raises RequestError."""
    found: dict[str, str] = {}
    for name_bytes, value in headers:
        name = name_bytes.decode("latin-1").lower()
        if not name.startswith("neon-") and name != "authorization":
            continue
        if name in found:
            raise RequestError(f"more than one header {name}")
        if not value.isascii():
            raise RequestError(f"header {name} is not ASCII: percent-encode it")
        found[name] = value.decode("ascii")
    return found


def _token(headers: Mapping[str, str], server_name: str) -> Secret[str] | None:
    """A name takes tokens or passwords, never either: what is asked for is known before anything is looked at."""
    takes_tokens = server_name.partition(".")[0] == TOKEN_LABEL
    text = headers.get("authorization")
    if text is None:
        if takes_tokens:
            raise RequestError(f"missing header: authorization ({TOKEN_LABEL} takes tokens, api takes passwords)")
        return None
    if not takes_tokens:
        raise RequestError(f"tokens are taken at {TOKEN_LABEL} only: use a connection string with a password here")
    match = _BEARER.fullmatch(text)
    if match is None:
        raise RequestError("header authorization is not: Bearer TOKEN")
    return Secret(match[1])


def _flag(headers: Mapping[str, str], name: str) -> bool | None:
    match headers.get(name, "").lower():
        case "":
            return None
        case "true":
            return True
        case "false":
            return False
        case _:
            raise RequestError(f"header {name} is neither true nor false")


def _isolation(headers: Mapping[str, str]) -> str | None:
    level = headers.get("neon-batch-isolation-level")
    if level is not None and level not in _ISOLATION:
        raise RequestError(f"neon-batch-isolation-level is none of {', '.join(_ISOLATION)}")
    return level


def _parse_connection_string(text: str) -> tuple[Startup, str, Secret[str]]:
    """(who and where, the host name, the password). Nothing of the text is quoted in an error: it holds a password."""
    if len(text) > CONNECTION_STRING_BYTES_MAX:
        raise RequestError("the connection string is too long")
    try:
        parts = urlsplit(text)
        host, _port = parts.hostname, parts.port  # a port that is none is a ValueError
        query = dict(parse_qsl(parts.query, keep_blank_values=True, errors="strict", max_num_fields=64))
        user = _decoded(parts.username)
        password = _decoded(parts.password)
        database = _decoded(parts.path.removeprefix("/"))
    except ValueError:
        raise RequestError("invalid connection string") from None
    if parts.scheme not in ("postgres", "postgresql"):
        raise RequestError("invalid connection string: it does not begin with postgresql://")
    if not host or not user:
        raise RequestError(f"invalid connection string: missing {'user name' if host else 'host name'}")
    parameters = {"user": user, "database": database or user, "client_encoding": "UTF8"}
    parameters |= {name: query[name] for name in _FORWARDED if name in query}
    if any("\0" in value for value in parameters.values()):  # it would begin another parameter
        raise RequestError("invalid connection string")
    return Startup(0, parameters), host, Secret(password)


def _decoded(text: str | None) -> str:
    return unquote_to_bytes(text or "").decode()


def _target(host: str, server_name: str, domain: str, startup: Startup) -> Target:
    target = target_of(host, domain, startup)
    if target.endpoint is None or target.endpoint in COMMON_LABELS:
        raise endpoint_missing()
    label = server_name.partition(".")[0]
    if label not in COMMON_LABELS and canonical(label) != target.endpoint:
        raise endpoint_inconsistent(label, target.endpoint)
    # A statement over HTTPS has no session to keep: the gateway's own sessions serve it, whichever name it comes by.
    return replace(target, names_pooler=False)

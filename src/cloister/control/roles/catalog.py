"""Roles and databases of a running server, in SQL.

Runs as the superuser `cloister_admin`, connected to the database `postgres`, which no tenant owns: nothing of a tenant's
can be found through `search_path` there, and every name below is qualified all the same: functions, operators, types. So there
is no `IN`, `BETWEEN`, `USING` or `IS DISTINCT FROM`, which look for their operators in the `search_path`; `::int` and `::bigint`
are words of the grammar. What must be quoted is quoted by the server itself (`format('%I')`); passwords come as verifiers, never
in clear.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final, LiteralString, TypeVar

import asyncpg
import msgspec
from msgspec import Meta

from cloister.base.errors import (
    CloisterError,
    ConflictError,
    ExhaustedError,
    InvalidIdError,
    NotFoundError,
    UnavailableError,
    UnprocessableError,
)
from cloister.base.ids import parse_identifier
from cloister.control.roles.ledger import is_vouched_for
from cloister.control.roles.names import GROUP_ROLE
from cloister.control.roles.server import DatabaseState, RoleState
from cloister.protocol.scram import InvalidVerifierError, Verifier

R = TypeVar("R")

ROLES_READ_MAX: Final = 10_000
DATABASES_READ_MAX: Final = 10_000
# A tenant can make as many as it likes; the platform remembers the oldest of them. About 3 MB of verifiers.

QUERY_TIMEOUT_S: Final = 5.0
# Every reading takes milliseconds. A server that needs longer is overloaded or means harm.
CHANGE_TIMEOUT_S: Final = 60.0
# CREATE DATABASE and DROP DATABASE wait for a checkpoint, which on a busy server takes seconds.

_ROLES: Final = """
SELECT pg_catalog.namesend(a.rolname) AS name, a.rolpassword AS verifier, a.rolcanlogin AS can_login,
       CASE WHEN a.rolvaliduntil IS NULL OR a.rolvaliduntil OPERATOR(pg_catalog.=) 'infinity' THEN NULL
            ELSE least(greatest(a.rolvaliduntil, '1970-01-01 00:00:00+00'), '9000-01-01 00:00:00+00')
       END AS valid_until,
       (SELECT l.label FROM pg_catalog.pg_shseclabel l
         WHERE l.objoid OPERATOR(pg_catalog.=) a.oid AND l.classoid OPERATOR(pg_catalog.=) 1260
           AND l.provider OPERATOR(pg_catalog.=) 'cloister') AS label
  FROM pg_catalog.pg_authid a
 WHERE a.oid OPERATOR(pg_catalog.<>) 10
   AND pg_catalog.substr(pg_catalog.namesend(a.rolname), 1, 3) OPERATOR(pg_catalog.<>) 'pg_'::pg_catalog.bytea
   AND pg_catalog.substr(pg_catalog.namesend(a.rolname), 1, 9) OPERATOR(pg_catalog.<>) 'cloister_'::pg_catalog.bytea
   AND a.rolname OPERATOR(pg_catalog.<>) 'neon_superuser'
 ORDER BY a.oid
 LIMIT $1
"""
# 10 is the bootstrap superuser. Not told by oids alone: those of the template were given in single-user mode, from
# initdb's range. Only initdb can make a role whose name starts with pg_. 1260 is pg_authid itself; the label is that of
# ledger.py.
#
# Names come as bytes, and are compared as bytes: a session in a database of another encoding may have made one that is no
# UTF-8, and a function that looks at characters would fail for all roles because of it.

_DATABASES: Final = """
SELECT pg_catalog.namesend(d.datname) AS name, pg_catalog.namesend(a.rolname) AS owner_name
  FROM pg_catalog.pg_database d JOIN pg_catalog.pg_authid a ON a.oid OPERATOR(pg_catalog.=) d.datdba
 WHERE NOT d.datistemplate AND d.datname OPERATOR(pg_catalog.<>) 'postgres'
 ORDER BY d.oid
 LIMIT $1
"""

_OID: Final = "SELECT a.oid::bigint AS oid FROM pg_catalog.pg_authid a WHERE a.rolname OPERATOR(pg_catalog.=) $1"

_END_SESSIONS: Final = """
SELECT pg_catalog.count(*)::int
  FROM pg_catalog.pg_stat_activity a, LATERAL pg_catalog.pg_terminate_backend(a.pid, 100) ended
 WHERE a.usesysid OPERATOR(pg_catalog.=) ($1::bigint)::pg_catalog.oid
"""

_MAY_PASS: Final = frozenset({"08", "40", "53", "55", "57", "58"})
# Classes of SQLSTATE that say nothing about the request: lost connections, rollbacks, resources, locks, the operator.

_ATTRIBUTES: Final = "CREATEDB CREATEROLE BYPASSRLS REPLICATION"


def is_verifier(text: str | None) -> bool:
    """A well-formed SCRAM verifier: what else a server may hold (md5, nothing) lets nobody in."""
    try:
        Verifier.parse(text or "")
    except InvalidVerifierError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class _RoleRow:
    name: str
    verifier: str | None
    can_login: bool
    valid_until: Annotated[datetime, Meta(tz=True)] | None
    label: str | None

    def state(self) -> RoleState:
        verifier = self.verifier if is_verifier(self.verifier) else None
        is_checked = verifier is not None and is_vouched_for(verifier, self.label)
        return RoleState(
            self.name,
            verifier if is_checked else None,
            self.can_login,
            self.valid_until,
            has_unchecked_password=verifier is not None and not is_checked,
        )


@dataclass(frozen=True, slots=True)
class _Oid:
    oid: int


Elsewhere = Callable[[str], AbstractAsyncContextManager[Any]]
"""Opens another superuser session, in the database of that name."""


class Catalog:
    """One admin session's view of roles and databases. `connection` is an asyncpg connection."""

    def __init__(self, connection: Any, elsewhere: Elsewhere) -> None:
        self._connection = connection
        self._elsewhere = elsewhere

    async def roles(self) -> list[RoleState]:
        rows = understood_rows(_named(await self._fetch(_ROLES, ROLES_READ_MAX), "name"), _RoleRow)
        _require_names([row.name for row in rows])
        return [row.state() for row in rows]

    async def databases(self) -> list[DatabaseState]:
        rows = await self._fetch(_DATABASES, DATABASES_READ_MAX)
        databases = understood_rows(_named(rows, "name", "owner_name"), DatabaseState)
        _require_names([database.name for database in databases])
        return databases

    async def create_role(self, name: str, verifier: str, *, can_login: bool) -> None:
        assert is_verifier(verifier)
        login: LiteralString = "LOGIN" if can_login else "NOLOGIN"
        await self._do(
            f"CREATE ROLE %I {login} {_ATTRIBUTES} IN ROLE {GROUP_ROLE} PASSWORD %L",
            name,
            verifier,
        )

    async def set_verifier(self, name: str, verifier: str) -> None:
        assert is_verifier(verifier)
        await self._do("ALTER ROLE %I PASSWORD %L", name, verifier)

    async def rename_role(self, name: str, new_name: str) -> None:
        await self._do("ALTER ROLE %I RENAME TO %I", name, new_name)

    async def drop_role(self, name: str) -> None:
        if not await self._fetch(_OID, name):
            return
        databases = await self.databases()
        if owned := [database.name for database in databases if database.owner_name == name]:
            raise UnprocessableError(
                f"{name!r} owns {owned[:3]}", public="role owns a database: delete or reassign the database first"
            )
        for database in [*databases, DatabaseState("postgres", GROUP_ROLE)]:
            async with self._elsewhere(database.name) as connection:
                other = Catalog(connection, self._elsewhere)
                await other._do("REASSIGN OWNED BY %I TO %I", name, database.owner_name)
                await other._do("DROP OWNED BY %I", name)
        await self._do("DROP ROLE IF EXISTS %I", name)

    async def open_access(self, name: str, until: datetime, *, may_write: bool) -> None:
        if not await self._fetch(_OID, name):
            await self._do(
                "CREATE ROLE %I LOGIN INHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS "
                "IN ROLE pg_read_all_data",
                name,
            )
        await self._do("ALTER ROLE %I VALID UNTIL %L", name, until.isoformat())
        if may_write:
            await self._do("GRANT pg_write_all_data TO %I", name)
        else:
            # A courtesy that the session can take back: what holds is that the role was given no right to write.
            await self._do("ALTER ROLE %I SET default_transaction_read_only = on", name)

    async def close_access(self, name: str) -> None:
        """(1) No new sessions. (2) None that run. (3) The role goes. (4) Nor one that was just logging in at (1)."""
        found = await self._fetch(_OID, name)
        if not found:
            return
        (row,) = understood_rows(found, _Oid)
        await self._do("ALTER ROLE %I NOLOGIN", name)
        await self._end_sessions(row.oid)
        await self.drop_role(name)
        await self._end_sessions(row.oid)

    async def _end_sessions(self, oid: int) -> None:
        with understood():
            async with asyncio.timeout(QUERY_TIMEOUT_S):
                while await self._connection.fetchval(_END_SESSIONS, oid, timeout=QUERY_TIMEOUT_S):
                    pass  # each was asked to end, and given up to a tenth of a second

    async def create_database(self, name: str, owner_name: str) -> None:
        # template0 holds nothing that a tenant could have put there. With PostgreSQL 18 its files are cloned by the file
        # system (the session sets file_copy_method): 40 ms and 180 kB on XFS, where a
        # WAL-logged copy writes all 7 MB of it, twice.
        clone: LiteralString = "file_copy" if self._connection.get_server_version().major >= 18 else "wal_log"
        await self._do(f"CREATE DATABASE %I OWNER %I TEMPLATE template0 STRATEGY {clone}", name, owner_name)

    async def rename_database(self, name: str, new_name: str) -> None:
        await self._do("ALTER DATABASE %I RENAME TO %I", name, new_name)

    async def give_database(self, name: str, owner_name: str) -> None:
        await self._do("ALTER DATABASE %I OWNER TO %I", name, owner_name)

    async def drop_database(self, name: str) -> None:
        await self._do("DROP DATABASE IF EXISTS %I WITH (FORCE)", name)

    async def _fetch(self, query: LiteralString, *arguments: Any) -> list[Any]:
        with understood():
            rows: list[Any] = await self._connection.fetch(query, *arguments, timeout=QUERY_TIMEOUT_S)
            return rows

    async def _do(self, template: LiteralString, *words: str) -> None:
        """Run a statement that takes no parameters, with the words quoted by the server as the template says."""
        with understood():
            places = ", ".join(f"${number}::pg_catalog.text" for number in range(1, len(words) + 1))
            statement = await self._connection.fetchval(
                f"SELECT pg_catalog.format('{template}', {places})", *words, timeout=QUERY_TIMEOUT_S
            )
            await self._connection.execute(statement, timeout=CHANGE_TIMEOUT_S)


@contextlib.contextmanager
def understood() -> Iterator[None]:
    """Turns what a server refuses with into errors of ours. The server's text stays in our log: it is the tenant's."""
    try:
        yield
    except asyncpg.PostgresError as error:
        raise _meaning(error) from error
    except (OSError, TimeoutError, asyncpg.InterfaceError) as error:
        raise UnavailableError(f"the branch's server does not answer: {error!r}") from error


def understood_rows(rows: Iterable[Any], type_: type[R]) -> list[R]:
    """Rows as what we asked for. Raises UnavailableError: which columns there are, and of which types, is the server's
    word as well, and an answer to another question must not go any further."""
    try:
        return msgspec.convert([dict(row) for row in rows], list[type_])  # type: ignore[valid-type]
    except (msgspec.ValidationError, TypeError, ValueError) as error:
        raise UnavailableError(f"the branch's server answers something else: {error}") from error


def _named(rows: Iterable[Any], *names: str) -> list[dict[str, Any]]:
    """The rows with these columns as text. One whose name is no UTF-8 is left out: nobody can ask for it, neither through
    the API nor through the gateway."""
    named = []
    for row in map(dict, rows):
        try:
            named.append(row | {name: bytes(row[name]).decode() for name in names})
        except UnicodeDecodeError:
            continue
        except (KeyError, TypeError) as error:
            raise UnavailableError(f"the branch's server answers something else: {error!r}") from error
    return named


def _require_names(names: list[str]) -> None:
    """Names that PostgreSQL can have, each once."""
    try:
        for name in names:
            parse_identifier("name in the catalog", name)
    except InvalidIdError as error:
        raise UnavailableError(f"the branch's server made up a name: {error}") from error
    if len(set(names)) != len(names):
        raise UnavailableError("the branch's server made up a name: it is there twice")


def _meaning(error: asyncpg.PostgresError) -> CloisterError:
    detail = f"{error.sqlstate}: {error}"
    match error.sqlstate:
        case "42710":
            return ConflictError(detail, public="role already exists")
        case "42P04":
            return ConflictError(detail, public="database already exists")
        case "42704":
            return NotFoundError(detail, public="role not found")
        case "3D000":
            return NotFoundError(detail, public="database not found")
        case "55006":
            return ConflictError(detail, public="database is in use")
        case "2BP01":
            return UnprocessableError(detail, public="other objects depend on it")
        case "53100":
            return ExhaustedError(detail)
        case state if state[:2] in _MAY_PASS:
            return UnavailableError(detail)
        case _:
            return UnprocessableError(detail, public="the branch's server refused it")

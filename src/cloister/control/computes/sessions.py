"""The platform's own sessions to running computes, as their superuser, over the compute's Unix socket.

At the other end may be a server that its tenant has taken over, and this process serves everybody else too. So nothing
here waits without an end, nothing is read without a bound, and nothing of a tenant runs with our rights:

1. The session is in the database `postgres`, which belongs to the platform: no tenant's `ALTER DATABASE … SET`, schema or
   event trigger is met there.
2. What the startup packet sets wins over whatever a tenant could set for a database: an empty search path but pg_catalog,
   no event triggers (PostgreSQL 17 and newer), timeouts for statements and locks, nothing of ours in the tenant's log.
   Every name is qualified besides, as in `roles/catalog.py`. asyncpg's own question, what an array or a type of somebody's is
   made of, is not: no statement here answers with one.
3. Opening, each query and each change have a time limit (`roles/catalog.py`).
4. A server may send ANSWER_BYTES_MAX for one question, from the first byte of the login on; beyond that the socket is
   aborted.
5. Whatever it answers, however malformed, is trouble of this one compute: UnavailableError, which every loop that looks
   at many computes expects.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final, Protocol

import asyncpg
from msgspec import Meta

from cloister.base.audit_levels import AuditLevel
from cloister.base.errors import UnavailableError
from cloister.base.ids import EndpointId
from cloister.base.limits import WAKE_TIMEOUT_S
from cloister.control.computes import touched as inside
from cloister.control.computes.ages import Ages
from cloister.control.computes.idle import Activity
from cloister.control.computes.tallies import Tally, parse
from cloister.control.roles.catalog import CHANGE_TIMEOUT_S, QUERY_TIMEOUT_S, Catalog, understood, understood_rows
from cloister.control.roles.names import SUPERUSER
from cloister.control.roles.server import Server

_log = logging.getLogger(__name__)

ANSWER_BYTES_MAX: Final = 4 * 1024 * 1024
# The largest honest answer, ROLES_READ_MAX roles, has about 2.5 MB. Of what is small and many, a million messages, it lets
# through no more than stalls this process for some hundredths of a second at a time.

LOCK_TIMEOUT_MS: Final = 10_000
# A tenant's open transaction may hold what a DROP OWNED needs; we do not queue before the tenant's own work for long.

CATALOG_HOLD_S: Final = 1.0
# To wait for somebody's uncommitted CREATE ROLE. It is not idle then; held clients should not wait for it.

LABEL_CHARS_MAX: Final = 16_000
# PostgreSQL's backup label has some 200; the agent takes 64 kB of UTF-8.

CLOSE_TIMEOUT_S: Final = 1.0

_READY_POLL_S: Final = 0.01
# A compute accepts some 20 ms after its start.

_PORT: Final = 5432


@dataclass(frozen=True, slots=True)
class Running:
    """A running compute, as far as a session must know."""

    endpoint_id: EndpointId
    generation: int
    socket_dir: str
    pg_version: int


@dataclass(frozen=True, slots=True)
class BackupEnd:
    """What belongs to the files that were copied in backup mode. The server's word, which the agent does not believe."""

    lsn: Annotated[str, Meta(pattern=r"^[0-9A-F]{1,8}/[0-9A-F]{1,8}\Z")]
    label: Annotated[str, Meta(min_length=1, max_length=LABEL_CHARS_MAX)]


class ComputeServer(Server, Protocol):
    """A running server, with what suspending takes beside roles and databases."""

    async def activity(self) -> Activity: ...
    async def refusals(self) -> Tally: ...
    async def forget_refusals(self, total: int) -> None: ...
    async def powers(self) -> Tally: ...
    async def forget_powers(self, total: int) -> None: ...
    async def ages(self) -> Ages: ...
    async def touched(self) -> inside.Touched | None: ...
    async def take_touched(self, found: inside.Touched, level: AuditLevel) -> None: ...
    async def is_replay_paused(self) -> bool:
        """Of a standby."""
        ...

    async def checkpoint(self) -> None: ...
    async def end_clients(self, role: str | None = None) -> None:
        """End every session of a client (or of one role), and return when they are gone: nothing can change after that
        but by us."""
        ...

    async def hold_catalog(self) -> None:
        """From now until `release_catalog` or the end of the session, nobody changes a role or a database. Raises
        UnavailableError while somebody is in the middle of it."""
        ...

    async def release_catalog(self) -> None: ...
    async def begin_backup(self, label: str) -> None:
        """Backup mode, from now until `end_backup` or the end of the session: files copied meanwhile can be recovered
        from. Waits for a checkpoint, which is made at once."""
        ...

    async def end_backup(self) -> "BackupEnd": ...
    async def close(self) -> None: ...


Opener = Callable[[Running], Awaitable[ComputeServer]]


class Sessions:
    """One lasting session per running compute, opened when first used, for what is asked often; and fresh ones for
    changes, so that a slow CREATE DATABASE does not keep a client from logging in."""

    def __init__(self, opener: Opener | None = None) -> None:
        self._open = opener or open_server
        self._lasting: dict[EndpointId, tuple[Running, ComputeServer]] = {}
        self._locks: dict[Running, asyncio.Lock] = {}
        """Of one compute each, not of an endpoint: who waits for a server that died must not hold up its successor."""

    @contextlib.asynccontextmanager
    async def lasting(self, running: Running) -> AsyncIterator[ComputeServer]:
        """Raises UnavailableError if the server does not answer. A session in which anything went wrong is dropped."""
        async with self._locks.setdefault(running, asyncio.Lock()):
            known = self._lasting.get(running.endpoint_id)
            if known is None or known[0] != running:
                await self._drop(running.endpoint_id)
                known = running, await self._open(running)
                self._lasting[running.endpoint_id] = known
            try:
                yield known[1]
            except BaseException:
                await self._drop(running.endpoint_id)
                raise

    @contextlib.asynccontextmanager
    async def fresh(self, running: Running) -> AsyncIterator[ComputeServer]:
        server = await self._open(running)
        try:
            yield server
        finally:
            await server.close()

    async def close(self, endpoint_id: EndpointId) -> None:
        """Before its compute is stopped, or after it died."""
        await self._drop(endpoint_id)
        for gone in [running for running in self._locks if running.endpoint_id == endpoint_id]:
            del self._locks[gone]

    async def close_all(self) -> None:
        for endpoint_id in list(self._lasting):
            await self.close(endpoint_id)

    async def _drop(self, endpoint_id: EndpointId) -> None:
        if (known := self._lasting.pop(endpoint_id, None)) is not None:
            await known[1].close()


class TenantServer(Catalog):
    """The real server, over one asyncpg connection."""

    def __init__(self, connection: Any, running: Running) -> None:
        super().__init__(connection, self._in_database)
        self._running = running

    async def activity(self) -> Activity:
        with understood():
            row = await self._connection.fetchrow(_ACTIVITY, timeout=QUERY_TIMEOUT_S)
        return understood_rows([row], Activity)[0]

    async def refusals(self) -> Tally:
        return await self._tally("guard.refused")

    async def forget_refusals(self, total: int) -> None:
        await self._forget("guard.refused", total)

    async def powers(self) -> Tally:
        return await self._tally("guard.powers")

    async def forget_powers(self, total: int) -> None:
        await self._forget("guard.powers", total)

    async def ages(self) -> Ages:
        with understood():
            row = await self._connection.fetchrow(_AGES, timeout=QUERY_TIMEOUT_S)
        return understood_rows([row], Ages)[0]

    async def _tally(self, setting: str) -> Tally:
        with understood():
            said = await self._connection.fetchval(
                "SELECT pg_catalog.current_setting($1, true)", setting, timeout=QUERY_TIMEOUT_S
            )
        return parse(said if isinstance(said, str) else "")

    async def _forget(self, setting: str, total: int) -> None:
        with understood():
            await self._connection.fetchval(
                "SELECT pg_catalog.set_config($1, $2, true)", setting, str(total), timeout=QUERY_TIMEOUT_S
            )

    async def touched(self) -> inside.Touched | None:
        with understood():
            said = await self._connection.fetchval(
                "SELECT pg_catalog.current_setting('guard.touched', true)", timeout=QUERY_TIMEOUT_S
            )
        return inside.parse(said) if isinstance(said, str) and said else None

    async def take_touched(self, found: inside.Touched, level: AuditLevel) -> None:
        with understood():
            await self._connection.fetchval(
                "SELECT pg_catalog.set_config('guard.touched', $1, true)",
                inside.order(found, level),
                timeout=QUERY_TIMEOUT_S,
            )

    async def is_replay_paused(self) -> bool:
        with understood():
            return bool(
                await self._connection.fetchval("SELECT pg_catalog.pg_is_wal_replay_paused()", timeout=QUERY_TIMEOUT_S)
            )

    async def checkpoint(self) -> None:
        with understood():
            await self._connection.execute("CHECKPOINT", timeout=CHANGE_TIMEOUT_S)

    async def end_clients(self, role: str | None = None) -> None:
        with understood():
            remaining = 1
            async with asyncio.timeout(QUERY_TIMEOUT_S):
                while remaining:
                    # Each is asked to end, and given up to a tenth of a second before it is asked again.
                    remaining = await self._connection.fetchval(_END_CLIENTS, role, timeout=QUERY_TIMEOUT_S)

    async def hold_catalog(self) -> None:
        with understood():
            # SHARE conflicts with the ROW EXCLUSIVE that CREATE, ALTER and DROP ROLE or DATABASE take.
            await self._connection.execute(
                "BEGIN; LOCK TABLE pg_catalog.pg_authid, pg_catalog.pg_database IN SHARE MODE", timeout=CATALOG_HOLD_S
            )

    async def release_catalog(self) -> None:
        with understood():
            await self._connection.execute("ROLLBACK", timeout=QUERY_TIMEOUT_S)

    async def begin_backup(self, label: str) -> None:
        with understood():
            await self._connection.execute(
                "SELECT pg_catalog.pg_backup_start($1, fast => true)", label, timeout=CHANGE_TIMEOUT_S
            )

    async def end_backup(self) -> BackupEnd:
        with understood():
            # What is archived is the agent's business: it takes the WAL from where it lies.
            row = await self._connection.fetchrow(
                "SELECT lsn::pg_catalog.text AS lsn, labelfile AS label "
                "FROM pg_catalog.pg_backup_stop(wait_for_archive => false)",
                timeout=CHANGE_TIMEOUT_S,
            )
        return understood_rows([row], BackupEnd)[0]

    async def close(self) -> None:
        await _close(self._connection)

    @contextlib.asynccontextmanager
    async def _in_database(self, name: str) -> AsyncIterator[Any]:
        connection = await _connect(self._running, name)
        try:
            yield connection
        finally:
            await _close(connection)


async def open_server(running: Running) -> ComputeServer:
    """Connect, waiting for a server that is still starting. Raises UnavailableError."""
    try:
        async with asyncio.timeout(WAKE_TIMEOUT_S):
            while True:
                try:
                    return TenantServer(await _connect(running, "postgres"), running)
                except _NotYetError:
                    await asyncio.sleep(_READY_POLL_S)
    except TimeoutError:
        raise UnavailableError(f"{running.endpoint_id} does not accept connections") from None


_NOT_LISTENING: Final = (FileNotFoundError, PermissionError, ConnectionRefusedError, ConnectionResetError)
# PermissionError: PostgreSQL binds its socket under a umask of 077 and gives it its mode a moment later.


class _NotYetError(Exception):
    """Nobody listens, or the server says that it is still starting."""


async def _connect(running: Running, database: str) -> "_Conversation":
    loop = asyncio.get_running_loop()
    metered = _MeteredLoop(loop)
    try:
        connection = await asyncpg.connect(
            host=running.socket_dir,
            port=_PORT,
            user=SUPERUSER,
            database=database,
            ssl=False,
            timeout=QUERY_TIMEOUT_S,
            command_timeout=CHANGE_TIMEOUT_S,
            statement_cache_size=0,
            server_settings=_settings(running.pg_version),
            loop=metered,
        )
    except (*_NOT_LISTENING, asyncpg.CannotConnectNowError) as error:
        raise _NotYetError from error
    except Exception as error:
        raise UnavailableError(f"{running.endpoint_id}: no session: {error!r}") from error
    connection._loop = loop  # noqa: SLF001 - from here on it asks asyncio about tasks, which knows the loop itself only
    assert metered.meter is not None
    return _Conversation(connection, metered.meter)


def _settings(pg_version: int) -> dict[str, str]:
    settings = {
        "application_name": "cloister",
        "search_path": "pg_catalog",
        "statement_timeout": f"{CHANGE_TIMEOUT_S:g}s",
        "lock_timeout": f"{LOCK_TIMEOUT_MS}ms",
        "idle_in_transaction_session_timeout": "60s",
        "idle_session_timeout": "0",
        "local_preload_libraries": "",  # one that does not exist ends the session
        "default_transaction_read_only": "off",
        "role": "none",
        "log_statement": "none",
        "log_min_error_statement": "panic",
        "log_min_duration_statement": "-1",
        "pg_stat_statements.track": "none",
    }
    if pg_version >= 17:
        settings["event_triggers"] = "off"
        settings["transaction_timeout"] = "0"
    if pg_version >= 18:
        settings["file_copy_method"] = "clone"
    return settings


async def _close(connection: Any) -> None:
    """Politely if the server plays along, at once if not."""
    try:
        await connection.close(timeout=CLOSE_TIMEOUT_S)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError, UnavailableError):
        connection.terminate()


class _Conversation:
    """(4) and (5): one asyncpg connection, which may answer each question with so much, and only in PostgreSQL's terms."""

    def __init__(self, connection: Any, meter: "_Meter") -> None:
        self._connection = connection
        self._meter = meter

    async def fetch(self, *question: Any, timeout: float) -> Any:
        return await self._ask(self._connection.fetch, *question, timeout=timeout)

    async def fetchrow(self, *question: Any, timeout: float) -> Any:
        return await self._ask(self._connection.fetchrow, *question, timeout=timeout)

    async def fetchval(self, *question: Any, timeout: float) -> Any:
        return await self._ask(self._connection.fetchval, *question, timeout=timeout)

    async def execute(self, *question: Any, timeout: float) -> Any:
        return await self._ask(self._connection.execute, *question, timeout=timeout)

    async def close(self, *, timeout: float) -> None:
        await self._ask(self._connection.close, timeout=timeout)

    def terminate(self) -> None:
        self._connection.terminate()

    def get_server_version(self) -> Any:
        return self._connection.get_server_version()

    async def _ask(self, ask: Callable[..., Awaitable[Any]], *question: Any, timeout: float) -> Any:
        self._meter.refill()
        try:
            return await ask(*question, timeout=timeout)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
            raise
        except Exception as error:
            # asyncpg believes what it reads: a bad length or a date out of range surfaces as whatever Python says of it.
            raise UnavailableError(f"the branch's server does not speak PostgreSQL: {error!r}") from error


class _MeteredLoop:
    """The event loop as asyncpg gets it while it connects: the sockets it opens are metered from their first byte."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.meter: _Meter | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    async def create_unix_connection(
        self, factory: Callable[[], Any], path: str
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        transport, self.meter = await self._loop.create_unix_connection(lambda: _Meter(factory()), path)
        return transport, self.meter.inner


class _Meter(asyncio.Protocol):
    """Stands between a socket and asyncpg, and counts. asyncpg itself collects whatever it is sent."""

    def __init__(self, inner: asyncio.Protocol) -> None:
        self.inner = inner
        self._transport: asyncio.Transport | None = None
        self._received = 0

    def refill(self) -> None:
        """A new question is asked."""
        self._received = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        if self._received > ANSWER_BYTES_MAX:
            _log.warning("a compute sent more than %d bytes to a platform session: closed", ANSWER_BYTES_MAX)
            assert self._transport is not None
            self._transport.abort()
            return
        self.inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self.inner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self.inner.connection_lost(exc)

    def pause_writing(self) -> None:
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        self.inner.resume_writing()


_ACTIVITY: Final = """
SELECT (pg_catalog.count(*) FILTER (WHERE a.backend_type OPERATOR(pg_catalog.=) 'client backend'
                                      AND coalesce(a.state, '') OPERATOR(pg_catalog.<>) 'idle'))::int AS busy_backends,
       (pg_catalog.count(*) FILTER (WHERE a.backend_type OPERATOR(pg_catalog.=) 'walsender'))::int AS walsenders,
       (pg_catalog.count(*) FILTER (WHERE a.backend_type OPERATOR(pg_catalog.=) 'autovacuum worker'))::int
           AS autovacuum_workers,
       (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_subscription s WHERE s.pid IS NOT NULL)::int AS subscriptions,
       pg_catalog.max(a.state_change) FILTER (
           WHERE a.backend_type OPERATOR(pg_catalog.=) 'client backend'
             AND a.state_change OPERATOR(pg_catalog.<) '9000-01-01 00:00:00+00') AS last_change_at,
       (SELECT coalesce(pg_catalog.sum(d.sessions), 0) FROM pg_catalog.pg_stat_database d
         WHERE d.datname OPERATOR(pg_catalog.<>) 'postgres')::bigint AS sessions,
       (SELECT coalesce(pg_catalog.sum(d.active_time), 0) FROM pg_catalog.pg_stat_database d
         WHERE d.datname OPERATOR(pg_catalog.<>) 'postgres')::bigint AS active_ms
  FROM pg_catalog.pg_stat_activity a
 WHERE a.usesysid IS NULL OR a.usesysid OPERATOR(pg_catalog.<>) 10
    OR a.backend_type OPERATOR(pg_catalog.<>) 'client backend'
"""
# 10 is the bootstrap superuser: us. `sessions` and `active_time` count client backends only, so autovacuum, which visits
# an idle database every minute, does not move them.

_AGES: Final = """
SELECT pg_catalog.max(pg_catalog.age(d.datfrozenxid)) AS xids,
       pg_catalog.max(pg_catalog.mxid_age(d.datminmxid)) AS multixacts
  FROM pg_catalog.pg_database d
"""

_END_CLIENTS: Final = """
SELECT pg_catalog.count(*)::int
  FROM pg_catalog.pg_stat_activity a, LATERAL pg_catalog.pg_terminate_backend(a.pid, 100) ended
 WHERE a.backend_type OPERATOR(pg_catalog.=) ANY (ARRAY['client backend', 'walsender', 'logical replication worker'])
   AND (a.usesysid IS NULL OR a.usesysid OPERATOR(pg_catalog.<>) 10)
   AND ($1::pg_catalog.text IS NULL OR a.usename::pg_catalog.text OPERATOR(pg_catalog.=) $1::pg_catalog.text)
"""

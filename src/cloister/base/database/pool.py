"""Connections to the control database.

Every failure of the database itself (it restarts, a deadlock, no connection left) comes out as UnavailableError, which
may be retried. A rule that the database holds against everybody comes out as what it is (refusals.py). A broken
constraint stays asyncpg's error: only the store that ran the statement knows what it means.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Final, LiteralString, cast

import asyncpg

from cloister.base.database.refusals import refusal
from cloister.base.errors import UnavailableError

_CONNECTIONS_MIN: Final = 2
_CONNECTIONS_MAX: Final = 10
# Two cores serve ten statements at once well; more only queue inside PostgreSQL.

_COMMAND_TIMEOUT_S: Final = 30.0
# No statement of ours takes longer unless the database is stuck.

_RESTART_PATIENCE_S: Final = 5.0
# The supervisor restarts a killed database in under a second, recovery included: worth waiting for, inside a request.

_CONNECT_PAUSE_S: Final = 0.05

_OUT_OF_REACH: Final = (
    OSError,  # nobody listens on the socket
    asyncpg.PostgresConnectionError,
    asyncpg.ConnectionDoesNotExistError,
    asyncpg.CannotConnectNowError,  # starting up or in recovery
    asyncpg.AdminShutdownError,  # going down
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
)
_PASSING: Final = (
    *_OUT_OF_REACH,
    asyncpg.OperatorInterventionError,  # shut down under us, statement cancelled
    asyncpg.InsufficientResourcesError,  # its disk or memory is full
    asyncpg.TransactionRollbackError,  # deadlock, serialization
    asyncpg.InternalClientError,
    TimeoutError,
)


class _Connection(asyncpg.Connection):  # type: ignore[misc] # asyncpg has no types
    """A pooled connection that skips the reset when it is given back.

    Nothing of ours changes a session: settings are `SET LOCAL`, listeners have connections of their own. asyncpg still
    rolls back a transaction that was left open. One round trip less for every use.
    """

    def get_reset_query(self) -> str:
        return ""


class Transaction:
    """A connection inside a transaction. Rows are asyncpg Records: `row["name"]`; jsonb is text in and out."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def fetch(self, query: LiteralString, *args: Any) -> list[Any]:
        with _our_errors(self._connection):
            return cast("list[Any]", await self._connection.fetch(query, *args))

    async def fetch_row(self, query: LiteralString, *args: Any) -> Any | None:
        with _our_errors(self._connection):
            return await self._connection.fetchrow(query, *args)

    async def fetch_value(self, query: LiteralString, *args: Any) -> Any:
        with _our_errors(self._connection):
            return await self._connection.fetchval(query, *args)

    async def execute(self, query: LiteralString, *args: Any) -> int:
        """The number of rows touched."""
        with _our_errors(self._connection):
            tag: str = await self._connection.execute(query, *args)
        last = tag.rsplit(" ", 1)[-1]
        return int(last) if last.isdigit() else 0


class Database:
    """A pool of connections as one database role.

    For the embedded database give `socket_dir` and `role` (peer authentication); for an external one `url`.
    """

    def __init__(self, *, socket_dir: Path | None = None, role: str | None = None, url: str | None = None) -> None:
        self._options: dict[str, Any] = (
            {"dsn": url} if url else {"host": str(socket_dir), "user": role, "database": "cloister"}
        ) | {
            "command_timeout": _COMMAND_TIMEOUT_S,
            "server_settings": {"application_name": "cloister", "search_path": "cloister,pg_catalog"},
        }
        self._pool: Any = None

    async def open(self, *, patience_s: float = 30.0) -> None:
        """Connect, waiting for a database that is still starting. Raises UnavailableError."""

        async def create_pool() -> Any:
            return await asyncpg.create_pool(
                **self._options,
                min_size=_CONNECTIONS_MIN,
                max_size=_CONNECTIONS_MAX,
                connection_class=_Connection,
            )

        self._pool = await patiently(create_pool, patience_s)

    async def close(self) -> None:
        """Waits until nobody uses a connection any more."""
        if self._pool is not None:
            await self._pool.close()

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Commits when the block ends, rolls back when it raises.

        If the connection breaks during the commit, UnavailableError leaves open whether it happened.
        """
        # A pooled connection may have died with the database since its last use: beginning is what finds out, and as
        # nothing has happened yet, another can be tried.
        connection, transaction = await patiently(self._begin, _RESTART_PATIENCE_S)
        try:
            try:
                yield Transaction(connection)
            except BaseException:
                # The block's own error tells more than a rollback that fails because the connection is gone.
                with contextlib.suppress(*_PASSING, asyncpg.InterfaceError):
                    await transaction.rollback()
                raise
            with _our_errors(connection):
                await transaction.commit()
        finally:
            await self._release(connection)

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[Transaction]:
        """A connection without an explicit transaction, for a single statement."""
        async with self._connection() as connection:
            yield Transaction(connection)

    @contextlib.asynccontextmanager
    async def listening(self, channel: LiteralString, on_notify: Callable[[str], None]) -> AsyncIterator[asyncio.Event]:
        """Call `on_notify(payload)` for every NOTIFY on `channel` while the block runs, on a connection of its own.

        The block gets an event that is set when that connection is lost.
        """
        lost = asyncio.Event()

        def receive(_connection: Any, _pid: int, _channel: str, payload: str) -> None:
            on_notify(payload)

        def set_lost(_connection: Any) -> None:
            lost.set()

        connection = await patiently(lambda: asyncpg.connect(**self._options), _RESTART_PATIENCE_S)
        try:
            connection.add_termination_listener(set_lost)
            with _our_errors(connection):
                await connection.add_listener(channel, receive)
            yield lost
        finally:
            # Closing ends LISTEN too. Nothing is under way on it, so there is nothing to wait for.
            connection.terminate()

    async def _acquire(self) -> Any:
        return await self._pool.acquire(timeout=_COMMAND_TIMEOUT_S)

    async def _begin(self) -> tuple[Any, Any]:
        connection = await self._acquire()
        transaction = connection.transaction()
        try:
            await transaction.start()
        except Exception as error:
            with contextlib.suppress(asyncpg.InterfaceError):
                connection.terminate()  # asyncpg may not know yet that it is dead
            await self._release(connection)
            raise ConnectionResetError(f"a pooled connection was dead: {error!r}") from error
        except BaseException:
            await self._release(connection)
            raise
        return connection, transaction

    async def _release(self, connection: Any) -> None:
        with contextlib.suppress(*_PASSING, asyncpg.InterfaceError):
            await self._pool.release(connection)

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        connection = await patiently(self._acquire, _RESTART_PATIENCE_S)
        try:
            yield connection
        finally:
            await self._release(connection)


async def patiently(connect: Callable[[], Any], patience_s: float) -> Any:
    """What `connect` gives, tried again while the database is out of reach. Raises UnavailableError."""
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + patience_s
    while True:
        try:
            return await connect()
        except _OUT_OF_REACH as error:
            if isinstance(error, TimeoutError) or loop.time() >= give_up_at:
                raise UnavailableError(f"control database: {error!r}") from error
            await asyncio.sleep(_CONNECT_PAUSE_S)
        except _PASSING as error:  # out of memory, say: it is there, and asking it at once again would not help
            raise UnavailableError(f"control database: {error!r}") from error
        except asyncpg.InterfaceError as error:
            if isinstance(error, ValueError):  # the URL cannot be read
                raise
            # The pool is closing.
            raise UnavailableError(f"control database: {error!r}") from error


@contextlib.contextmanager
def _our_errors(connection: Any) -> Iterator[None]:
    try:
        yield
    except _PASSING as error:
        raise UnavailableError(f"control database: {error!r}") from error
    except asyncpg.PostgresError as error:
        if (refused := refusal(error)) is None:
            raise
        raise refused from error
    except asyncpg.InterfaceError as error:
        # Also what asyncpg raises for a wrong argument: that is a mistake of ours, and no retry helps.
        if not _is_closed(connection):
            raise
        raise UnavailableError(f"control database: {error!r}") from error


def _is_closed(connection: Any) -> bool:
    try:
        return bool(connection.is_closed())
    except asyncpg.InterfaceError:  # the pool has taken a broken one back already
        return True

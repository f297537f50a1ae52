"""Connections to the control database."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final, LiteralString, cast

import asyncpg

from cloister.base.errors import UnavailableError

_CONNECTIONS_MAX: Final = 10
# Two cores serve ten statements at once well; more only queue inside PostgreSQL.

_COMMAND_TIMEOUT_S: Final = 30.0
# No statement of ours takes longer unless the database is stuck.


class Transaction:
    """A connection inside a transaction. Rows are asyncpg Records: `row["name"]`."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def fetch(self, query: LiteralString, *args: Any) -> list[Any]:
        return cast("list[Any]", await self._connection.fetch(query, *args))

    async def fetch_row(self, query: LiteralString, *args: Any) -> Any | None:
        return await self._connection.fetchrow(query, *args)

    async def fetch_value(self, query: LiteralString, *args: Any) -> Any:
        return await self._connection.fetchval(query, *args)

    async def execute(self, query: LiteralString, *args: Any) -> int:
        """The number of rows touched."""
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
        )
        self._pool: Any = None

    async def open(self, *, patience_s: float = 30.0) -> None:
        """Connect, waiting for a database that is still starting. Raises UnavailableError."""
        deadline = asyncio.get_running_loop().time() + patience_s
        while True:
            try:
                self._pool = await asyncpg.create_pool(
                    **self._options,
                    min_size=1,
                    max_size=_CONNECTIONS_MAX,
                    command_timeout=_COMMAND_TIMEOUT_S,
                    server_settings={"application_name": "cloister", "search_path": "cloister,pg_catalog"},
                )
            except (OSError, asyncpg.PostgresConnectionError, asyncpg.CannotConnectNowError) as error:
                if asyncio.get_running_loop().time() >= deadline:
                    raise UnavailableError(f"control database: {error}") from error
                await asyncio.sleep(0.05)
            else:
                return

    async def close(self) -> None:
        if self._pool is not None:
            await self._pool.close()

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Commits when the block ends, rolls back when it raises."""
        async with self._connection() as connection, connection.transaction():
            yield Transaction(connection)

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[Transaction]:
        """A connection without an explicit transaction, for single SELECTs."""
        async with self._connection() as connection:
            yield Transaction(connection)

    @contextlib.asynccontextmanager
    async def listening(self, channel: LiteralString, on_notify: Callable[[str], None]) -> AsyncIterator[None]:
        """Call `on_notify(payload)` for every NOTIFY on `channel` while the block runs."""

        def receive(_connection: Any, _pid: int, _channel: str, payload: str) -> None:
            on_notify(payload)

        async with self._connection() as connection:
            await connection.add_listener(channel, receive)
            try:
                yield
            finally:
                await connection.remove_listener(channel, receive)

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        try:
            async with self._pool.acquire(timeout=_COMMAND_TIMEOUT_S) as connection:
                yield connection
        except (OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError, TimeoutError) as error:
            raise UnavailableError(f"control database: {error!r}") from error

"""Connection strings: percent-encoded, verified, bound to the channel, and with a port only where it is not 5432."""

from typing import Final
from urllib.parse import quote

from cloister.base.settings import Settings
from cloister.edge.api.wire.common import Wire
from cloister.edge.api.wire.endpoints import host

_POSTGRES_PORT: Final = 5432
_QUERY: Final = "sslmode=verify-full&channel_binding=require"
# The client checks our certificate, and that the one it checked is the one the password exchange was bound to.


class ConnectionParameters(Wire, frozen=True, kw_only=True):
    database: str
    password: str
    role: str
    host: str
    pooler_host: str


class ConnectionDetails(Wire, frozen=True, kw_only=True):
    connection_uri: str
    connection_parameters: ConnectionParameters


class ConnectionUri(Wire, frozen=True, kw_only=True):
    uri: str


def uri(
    settings: Settings, endpoint_id: str, role: str, database: str, password: str | None, *, is_pooled: bool = False
) -> str:
    """Without a password where there is none to show: libpq then asks, or takes PGPASSWORD or ~/.pgpass."""
    user = quote(role, safe="") + (f":{quote(password, safe='')}" if password is not None else "")
    port = settings.listen_postgres.port
    at = host(endpoint_id, settings, is_pooled=is_pooled) + (f":{port}" if port != _POSTGRES_PORT else "")
    return f"postgresql://{user}@{at}/{quote(database, safe='')}?{_QUERY}"


def details(settings: Settings, endpoint_id: str, role: str, database: str, password: str | None) -> ConnectionDetails:
    """Without a password to show, the field that Neon's clients insist on is empty."""
    return ConnectionDetails(
        connection_uri=uri(settings, endpoint_id, role, database, password),
        connection_parameters=ConnectionParameters(
            database=database,
            password=password or "",
            role=role,
            host=host(endpoint_id, settings),
            pooler_host=host(endpoint_id, settings, is_pooled=True),
        ),
    )

"""How a compute's PgBouncer is set up. Pure: facts in, text out.

Its clients come from the gateway, which has checked who they are, through a socket that only the gateway's user reaches:
so there is no password in its files, and none would be of use. It logs in to its compute by `peer`, like the gateway, as
whom the client is; as `cloister_admin` it cannot (`access.py`).

PgBouncer knows no user that is not in its list, and the list is all it has of its tenant: names of roles, each with an empty
password. What it would need to look up roles by itself, a role of its own with the right to connect to every database, it
does not get.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final

from cloister.node.postgres.tuning import SOCKET_DIR

POOL_DIR: Final = "/pool"
"""Inside: where its socket is."""
CONFIG_DIR: Final = "/etc/pgbouncer"
CONFIG_NAME: Final = "pgbouncer.ini"
USERS_NAME: Final = "users.txt"

CLIENTS_MAX: Final = 10_000
QUERY_WAIT_TIMEOUT_S: Final = 120
PREPARED_STATEMENTS_MAX: Final = 1_000
# Neon's three numbers.

POOL_SHARE: Final = 0.9
# Of max_connections, for one role in one database. What is left is for direct connections.

LOGIN_RETRY_S: Final = 1
# A server that refuses once is asked again so soon: PgBouncer's own 15 s are long for who waits for a new database.

_BACKLOG: Final = 1024
# Clients that come at once, while it is busy; the gateway tries again when it is full.

_PREPARED_STATEMENTS_SINCE: Final = (1, 21)
_VERSION: Final = re.compile(r"PgBouncer (\d+)\.(\d+)")


def version_of(said: str) -> tuple[int, int] | None:
    """From what `pgbouncer --version` says; None if it does not say."""
    match = _VERSION.search(said)
    return None if match is None else (int(match[1]), int(match[2]))


def pgbouncer_ini(max_connections: int, version: tuple[int, int]) -> str:
    settings: dict[str, str | int] = {
        # One door, and no password: the directory above decides who reaches it.
        "listen_port": 5432,
        "unix_socket_dir": POOL_DIR,
        "unix_socket_mode": "0777",
        "auth_type": "trust",
        "auth_file": f"{CONFIG_DIR}/{USERS_NAME}",
        # Nobody may use its console.
        "admin_users": "",
        "stats_users": "",
        "pool_mode": "transaction",
        "max_client_conn": CLIENTS_MAX,
        "default_pool_size": max(1, int(max_connections * POOL_SHARE)),
        "query_wait_timeout": QUERY_WAIT_TIMEOUT_S,
        "server_login_retry": LOGIN_RETRY_S,
        "ignore_startup_parameters": "extra_float_digits",
        "listen_backlog": _BACKLOG,
        # Errors only, and those into the tenant's own log.
        "log_connections": 0,
        "log_disconnections": 0,
        "log_stats": 0,
    }
    if version >= _PREPARED_STATEMENTS_SINCE:
        settings["max_prepared_statements"] = PREPARED_STATEMENTS_MAX
    lines = (f"{name} = {value}".rstrip() for name, value in settings.items())
    return "\n".join(
        (
            "; Written by Cloister for one run of this pooler.",
            "[databases]",
            f"* = host={SOCKET_DIR} port=5432",
            "",
            "[pgbouncer]",
            *lines,
            "",
        )
    )


def users_txt(roles: Iterable[str]) -> str:
    """The list of those who may be asked for. A quote in a name is doubled; everything else stands for itself."""
    return "".join('"{}" ""\n'.format(role.replace('"', '""')) for role in roles)


def command_line(binary: str) -> Sequence[str]:
    return (binary, f"{CONFIG_DIR}/{CONFIG_NAME}")

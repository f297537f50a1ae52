"""Hands for tests of protected branches: what an API's client does with them, and what the platform's own processes could
do, by the doors that are theirs (`peer` on a Unix socket)."""

import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import psycopg

from tests.branches import ask, ask_for_child, connected, finish
from tests.instance import Instance, Tenant

ROWS: Final = 1000


def path_of(branch: Tenant) -> str:
    return f"/projects/{branch.project_id}/branches/{branch.branch_id}"


def protect(platform: Instance, branch: Tenant, *, is_protected: bool = True) -> None:
    ask(platform, "PATCH", path_of(branch), {"branch": {"protected": is_protected}})


def fill(tenant: Tenant) -> None:
    with connected(tenant) as connection:
        connection.execute("CREATE TABLE ledger (id int PRIMARY KEY, text text)")
        connection.execute("INSERT INTO ledger SELECT g, md5(g::text) FROM generate_series(1, %s) g", [ROWS])


def child_with_passwords(
    platform: Instance, parent: Tenant, name: str, point: dict[str, str] | None = None
) -> tuple[Tenant, dict[str, str]]:
    """The child, with the password of its own where the answer gives one; and all of those."""
    child, answer = ask_for_child(platform, parent, name, point)
    passwords = {role["name"]: role["password"] for role in answer["roles"] if role.get("password")}
    finish(platform, answer)
    return replace(child, password=passwords.get(parent.role, parent.password)), passwords


def as_user(
    platform: Instance, user: str, host: Path, sql: str, *, role: str, database: str
) -> subprocess.CompletedProcess[str]:
    """psql by a process of the platform's user, through the door that is that user's: `peer` on a Unix socket, where the
    platform's own mount namespace shows it."""
    return subprocess.run(
        ["nsenter", "--mount", f"--target={platform.paths.supervisor_lock.read_text().strip()}", "setpriv", f"--reuid={user}", "--regid=cloister", "--clear-groups", "psql", "-XAtq", "-v", "ON_ERROR_STOP=1",
         "-v", "VERBOSITY=verbose", "-h", str(host), "-U", role, "-d", database, "-c", sql],
        capture_output=True, text=True, timeout=60, check=False, cwd="/", env={"PATH": "/usr/bin:/bin"},
    )  # fmt: skip


USER_OF_ROLE: Final = {"cloister_api": "cloister-api", "cloister_keys": "cloister-keys"}


def try_control(platform: Instance, sql: str, role: str = "cloister_api") -> subprocess.CompletedProcess[str]:
    within = f"SET search_path = cloister; {sql}"
    return as_user(
        platform, USER_OF_ROLE[role], platform.paths.control_socket_dir, within, role=role, database="cloister"
    )


def control(platform: Instance, sql: str) -> str:
    done = try_control(platform, sql)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def superuser(platform: Instance, branch: Tenant, sql: str) -> str:
    """In the branch's own database, by the API's door. The compute is awake."""
    host = platform.paths.computes / branch.endpoint_id / "sock"
    done = as_user(platform, "cloister-api", host, sql, role="cloister_admin", database=branch.database)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def can_log_in(branch: Tenant, role: str, password: str) -> bool:
    try:
        replace(branch, role=role, password=password).connect(connect_timeout=30).close()
    except psycopg.OperationalError as error:
        if "password authentication failed" not in str(error):
            raise
        return False
    return True


def wait_until(is_so: Callable[[], bool], what: str, patience_s: float = 30) -> None:
    deadline = time.monotonic() + patience_s
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)

"""Branches in a test's hands: asked for through the API, waited for, connected to, and looked into by their superuser.

A branch is a `Tenant` with a branch and an endpoint of its own. Whatever waits here has an end, and says what it waited for.
"""

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import psycopg

from tests.instance import Instance, Tenant

PATIENCE_S: Final = 120
# Long enough for any recovery on a busy machine: a test that reaches it has found something.

_ENDED: Final = ("finished", "failed", "error", "cancelled", "skipped")

PSQL_LOST: Final = 2
"""psql's exit code for a connection that could not be made or has gone."""

READ_WRITE: Final = {"type": "read_write"}


def ask(instance: Instance, method: str, path: str, body: Any = None, *, patience_s: float = PATIENCE_S) -> Any:
    """A request that is repeated while other operations are in its way (423) or a part of the platform is on its way back
    (503): in both cases nothing has happened yet."""
    deadline = time.monotonic() + patience_s
    while True:
        answer = instance.request(method, path, json=body)
        if answer.status_code not in (423, 503):
            assert answer.status_code < 400, f"{method} {path} {body} → {answer.status_code} {answer.text}"
            return answer.json() if answer.content else {}
        assert time.monotonic() < deadline, f"{method} {path} is still refused: {answer.status_code} {answer.text}"
        time.sleep(0.05)


def finish(instance: Instance, answer: Any, *, patience_s: float = PATIENCE_S) -> None:
    """Until the operations of an answer have ended, and well."""
    deadline = time.monotonic() + patience_s
    for operation in answer["operations"]:
        path = f"/projects/{operation['project_id']}/operations/{operation['id']}"
        while (found := ask(instance, "GET", path)["operation"])["status"] not in _ENDED:
            assert time.monotonic() < deadline, f"{found['action']} does not end: {found}"
            time.sleep(0.02)
        assert found["status"] == "finished", f"{found['action']} {found['status']}: {found.get('error')}"


def point_of(mark: dict[str, str], prefix: str) -> dict[str, str]:
    """`{"timestamp": …}` or `{"lsn": …}` as the fields of a request; nothing for the head."""
    return {f"{prefix}_{kind}": value for kind, value in mark.items()}


def ask_for_child(
    instance: Instance, parent: Tenant, name: str, point: dict[str, str] | None = None, *, has_endpoint: bool = True
) -> tuple[Tenant, Any]:
    """The request alone: the child is being made when it returns. Without an endpoint its `host` is empty."""
    body = {
        "branch": {"name": name, "parent_id": parent.branch_id, **point_of(point or {}, "parent")},
        "endpoints": [READ_WRITE] if has_endpoint else [],
    }
    answer = ask(instance, "POST", f"/projects/{parent.project_id}/branches", body)
    child = with_branch(parent, answer["branch"]["id"])
    return (with_endpoint(child, answer["endpoints"][0]) if has_endpoint else child), answer


def create_schema(
    instance: Instance, parent: Tenant, name: str, point: dict[str, str] | None = None
) -> tuple[Tenant, Any]:
    """What is in the parent beside its rows; and the answer."""
    body = {
        "branch": {
            "name": name,
            "parent_id": parent.branch_id,
            "init_source": "schema-only",
            **point_of(point or {}, "parent"),
        },
        "endpoints": [READ_WRITE],
    }
    answer = ask(instance, "POST", f"/projects/{parent.project_id}/branches", body)
    finish(instance, answer)
    return with_endpoint(with_branch(parent, answer["branch"]["id"]), answer["endpoints"][0]), answer


def create_child(
    instance: Instance, parent: Tenant, name: str, point: dict[str, str] | None = None, *, has_endpoint: bool = True
) -> Tenant:
    child, answer = ask_for_child(instance, parent, name, point, has_endpoint=has_endpoint)
    finish(instance, answer)
    return child


def give_endpoint(instance: Instance, branch: Tenant) -> Tenant:
    """To one that was made without, or that keeps what another one was."""
    body = {"endpoint": {"branch_id": branch.branch_id, **READ_WRITE}}
    answer = ask(instance, "POST", f"/projects/{branch.project_id}/endpoints", body)
    finish(instance, answer)
    return with_endpoint(branch, answer["endpoint"])


def with_branch(tenant: Tenant, branch_id: str) -> Tenant:
    """Another branch of the same project, of which no endpoint is known."""
    return replace(tenant, branch_id=branch_id, endpoint_id="", host="")


def with_endpoint(branch: Tenant, endpoint: Any) -> Tenant:
    return replace(branch, endpoint_id=endpoint["id"], host=endpoint["host"])


def ask_to_restore(
    instance: Instance,
    branch: Tenant,
    source_id: str,
    point: dict[str, str] | None = None,
    *,
    preserve_as: str | None = None,
) -> Any:
    body = {"source_branch_id": source_id, **point_of(point or {}, "source")}
    if preserve_as is not None:
        body["preserve_under_name"] = preserve_as
    return ask(instance, "POST", f"/projects/{branch.project_id}/branches/{branch.branch_id}/restore", body)


def named(instance: Instance, project_id: str, name: str) -> Any:
    """The living branch of that name, as the API shows it."""
    found = ask(instance, "GET", f"/projects/{project_id}/branches?limit=1000&search={name}")["branches"]
    return next(branch for branch in found if branch["name"] == name)


@contextlib.contextmanager
def connected(branch: Tenant, *, patience_s: float = PATIENCE_S) -> Iterator[psycopg.Connection[Any]]:
    """Connects as often as it takes: somebody may just have killed what is in between."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            connection = branch.connect(connect_timeout=30)
        except psycopg.OperationalError as error:
            if time.monotonic() > deadline:
                raise AssertionError(f"{branch.endpoint_id} of {branch.branch_id} is not served") from error
            time.sleep(0.05)
            continue
        with connection:
            yield connection
        return


# Every heap with its TOAST and its pages' flags, and every B-tree with each of its entries; nothing found is no output.
_AMCHECK: Final = """
CREATE EXTENSION IF NOT EXISTS amcheck SCHEMA public;
SELECT c.oid::regclass, v.* FROM pg_class c CROSS JOIN LATERAL public.verify_heapam(c.oid::regclass, check_toast => true) v
 WHERE c.relkind IN ('r', 't', 'm') AND c.relpersistence <> 't';
SELECT 'indexes checked: ' || count(public.bt_index_check(i.indexrelid::regclass, heapallindexed => true)::text)
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam
 WHERE m.amname = 'btree' AND c.relkind = 'i' AND c.relpersistence <> 't' AND i.indisready AND i.indisvalid;
"""


def check_storage(instance: Instance, branch: Tenant) -> None:
    """amcheck over everything in the branch's database, catalogs included. Its functions are a superuser's, so this goes in
    by the API's own door, which only the platform's processes see. Call it with the compute awake and a session open.
    Raises OperationalError when the server goes away meanwhile."""
    done = subprocess.run(
        ["nsenter", "--mount", f"--target={instance.paths.supervisor_lock.read_text().strip()}",
         "setpriv", "--reuid=cloister-api", "--regid=cloister", "--clear-groups",
         "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", str(instance.paths.computes / branch.endpoint_id / "sock"),
         "-U", "cloister_admin", "-d", branch.database, "-c", _AMCHECK],
        env={"PATH": os.environ["PATH"]},
        capture_output=True, text=True, timeout=PATIENCE_S, check=False, cwd="/",
    )  # fmt: skip
    if done.returncode == PSQL_LOST or "Input/output error" in done.stderr:
        raise psycopg.OperationalError(done.stderr)
    assert done.returncode == 0, f"amcheck of {branch.branch_id}: {done.stderr}"
    assert done.stdout.startswith("indexes checked: "), f"amcheck of {branch.branch_id}: {done.stdout}"

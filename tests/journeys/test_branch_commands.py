"""A day with branches on the command line, on a whole platform: create, look, change, compare, reset, delete, recover."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import psycopg
import pytest

from tests.instance import Instance, Tenant

pytestmark = pytest.mark.root


class Shell:
    """`cloister …` for one project, as its developer types it."""

    def __init__(self, instance: Instance, main: Tenant) -> None:
        self._instance = instance
        self.main = main

    def __call__(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self._instance.cloister(*words, "--project-id", self.main.project_id, check=check)

    def json(self, *words: str) -> Any:
        return json.loads(self(*words, "--output", "json").stdout)

    def branch(self, name: str, *words: str) -> Tenant:
        """A new branch, as its developer may connect to it: with the password that was shown, or the parent's."""
        return self.tenant(self.json("branches", "create", "--name", name, *words))

    def tenant(self, made: Any) -> Tenant:
        uri = urlsplit(made["connection_uris"][0]["connection_uri"])
        assert uri.hostname is not None
        return replace(
            self.main,
            branch_id=made["branch"]["id"],
            endpoint_id=made["endpoints"][0]["id"],
            host=uri.hostname,
            password=unquote(uri.password) if uri.password else self.main.password,
        )


@pytest.fixture
def shell(instance: Instance) -> Shell:
    main = instance.create_project("shop")
    with main.connect() as session:
        session.execute("CREATE TABLE orders (id bigint PRIMARY KEY)")
        session.execute("INSERT INTO orders SELECT generate_series(1, 1000)")
    return Shell(instance, main)


def orders(branch: Tenant) -> int:
    with branch.connect() as session:
        row = session.execute("SELECT count(*) FROM orders").fetchone()
    assert row is not None
    return int(row[0])


def test_a_migration_is_tried_compared_taken_back_and_recovered(shell: Shell, tmp_path: Path) -> None:
    preview = shell.branch("preview", "--expires-at", "7d")
    assert orders(preview) == 1000

    with preview.connect() as session:
        session.execute("ALTER TABLE orders ADD COLUMN note text")
        session.execute("DELETE FROM orders")
    shown = shell("branches", "tree").stdout.splitlines()
    assert [line.split()[:2] for line in shown[1:]] == [["main", "just"], ["└─", "preview"]]
    assert "default" in shown[1]
    assert "expires in 7 days" in shown[2]
    (root,) = shell.json("branches", "tree")
    assert (root["name"], root["children"][0]["id"], root["children"][0]["compute_state"]) == (
        "main", preview.branch_id, "active",
    )  # fmt: skip

    diff = shell("branches", "schema-diff", "preview").stdout
    assert diff.startswith("--- a/neondb\n+++ b/neondb\n@@ ")
    assert "\n-    id bigint NOT NULL\n+    id bigint NOT NULL,\n+    note text\n" in diff
    _applies(shell, diff, tmp_path)

    shell("branches", "reset", "preview", "--parent")
    assert orders(preview) == 1000
    same = shell("branches", "schema-diff", "preview")
    assert (same.stdout, same.stderr) == ("", "The schemas are the same.\n")

    shell("branches", "delete", "preview")
    with pytest.raises(psycopg.OperationalError):
        preview.connect()
    assert [it["id"] for it in shell.json("branches", "list", "--deleted")] == [preview.branch_id]
    shell("branches", "recover", "preview")
    assert orders(preview) == 1000
    assert shell.json("branches", "list", "--deleted") == []


def _applies(shell: Shell, diff: str, directory: Path) -> None:
    """The difference leads from the one schema, as the API tells it, to the other; a sleeping branch is woken for it."""
    instance, main = shell._instance, shell.main
    instance.suspend(main)
    before = instance.api("GET", f"/projects/{main.project_id}/branches/{main.branch_id}/schema?db_name=neondb")["sql"]
    assert "CREATE TABLE public.orders" in before
    (directory / "neondb").write_text(before)
    done = subprocess.run(
        ["git", "apply", "-p1", "-"], input=diff, cwd=directory, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "note text" in (directory / "neondb").read_text()


def test_what_is_protected_says_how_to_get_past_it(shell: Shell) -> None:
    shell("branches", "protect", "main")
    child = shell.branch("child")
    assert child.password != shell.main.password
    assert orders(child) == 1000
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        replace(child, password=shell.main.password).connect()

    for words in (("delete", "main"), ("restore", "main", "child", "--preserve-under-name", "x")):
        refused = shell("branches", *words, check=False)
        assert refused.returncode == 1
        assert "protected branch" in refused.stderr
        assert "cloister branches unprotect main" in refused.stderr
    expiring = shell("branches", "set-expiration", "main", "--expires-at", "1d", check=False)
    assert "Protected branch cannot have an expiration date" in expiring.stderr

    shell("branches", "unprotect", "main")
    refused = shell("branches", "delete", "main", check=False)
    assert "default branch" in refused.stderr


def test_a_point_outside_the_history_is_answered_with_the_window(shell: Shell) -> None:
    refused = shell("branches", "create", "--parent", "main@2020-01-01T00:00:00Z", check=False)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "must lie between" in refused.stderr


def test_a_snapshot_outlives_what_was_done_to_its_branch(shell: Shell) -> None:
    snapshot = shell.json("snapshots", "create", "--name", "before the release")
    assert snapshot["lsn"]
    with shell.main.connect() as session:
        session.execute("DROP TABLE orders")
    made = shell.json("snapshots", "restore", snapshot["id"], "--name", "again")
    again = replace(shell.main, branch_id=made["branch"]["id"], host=made["endpoints"][0]["host"])
    assert orders(again) == 1000
    shell("snapshots", "finalize", "again", "--name", "was")
    assert orders(shell.main) == 1000, "the host is the one of the branch that was replaced"
    names = {it["name"] for it in shell.json("branches", "list")}
    assert {"main", "was"} <= names
    shell("snapshots", "delete", snapshot["id"])
    assert shell.json("snapshots", "list") == []

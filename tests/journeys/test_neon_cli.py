"""Neon's own command line, unmodified: exit codes, messages, and answers in the shapes that Neon describes.

Every command is a process of its own that knows the API's address and a key. docs/compatibility.md lists the commands
that are seen here to work; tests/house/test_compatibility.py holds the two together.

Each takes Node two seconds of a core to start, so the stories that most people begin with are the gate's, and the others
scripts/soak's; the shapes of all answers are held to Neon's description in tests/edge/api as well.
"""

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.front import Front
from tests.instance import Instance
from tests.neon_description import faults, noun
from tests.npm import NEON

pytestmark = pytest.mark.root


@dataclass(frozen=True)
class Neon:
    """The command line, with a context and a configuration of its own."""

    instance: Instance
    directory: Path
    project_id: str = ""
    prefix: Callable[[list[str | Path]], list[str | Path]] = list

    def run(self, command: str, *words: str, key: str | None = None) -> subprocess.CompletedProcess[str]:
        end = words.index("--") if "--" in words else len(words)
        own = ["--no-analytics", "--config-dir", str(self.directory), "--context-file", str(self.directory / ".neon")]
        if self.project_id:
            # At a person's pace. What is under way would be answered 423, and tried again after three seconds.
            self.instance.settle(self.project_id)
            own += ["--project-id", self.project_id]
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.directory),
            "CI": "true",
            "NEON_API_HOST": f"https://localhost:{self.instance.https_port}/api/v2",
            "NEON_API_KEY": self.instance.paths.admin_key.read_text().strip() if key is None else key,
            "NODE_EXTRA_CA_CERTS": str(self.instance.paths.ca_file),
        }
        return subprocess.run(
            self.prefix(["node", NEON, *command.split(), *words[:end], *own, "--output", "json", *words[end:]]),
            env=environment, cwd=self.directory, capture_output=True, text=True, timeout=90, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def __call__(self, command: str, *words: str) -> Any:
        """What a command that succeeds prints."""
        done = self.run(command, *words)
        assert done.returncode == 0, f"neon {command}: {done.stdout}{done.stderr}"
        return json.loads(done.stdout)

    def refused(self, command: str, *words: str, key: str | None = None) -> str:
        """What a command that fails says."""
        done = self.run(command, *words, key=key)
        assert (done.returncode, done.stdout) == (1, ""), f"neon {command}: {done.stdout}{done.stderr}"
        assert done.stderr.startswith("ERROR: ")
        return done.stderr.removeprefix("ERROR: ").strip()


def is_a(name: str, value: Any) -> bool:
    """Neon's word for it, and nothing in it that Neon does not describe so."""
    found = list(faults(value, noun(name)))
    assert found == [], f"no {name}"
    return True


def in_days(days: int) -> str:
    return (datetime.now(UTC) + timedelta(days=days)).strftime("%Y-%m-%dT00:00:00Z")


@pytest.fixture
def nowhere(instance: Instance, tmp_path: Path) -> Neon:
    """Without a project."""
    return Neon(instance, tmp_path)


@pytest.fixture(scope="module")
def project(shared_instance: Instance) -> Any:
    """One for all, that keeps passwords: what shows a connection string again needs them."""
    made = shared_instance.api("POST", "/projects", {"project": {"name": "cli", "store_passwords": True}})
    shared_instance.settle(made["project"]["id"])
    yield made
    shared_instance.settle(made["project"]["id"])
    branches = shared_instance.api("GET", f"/projects/{made['project']['id']}/branches")["branches"]
    for branch in branches:
        if branch["protected"]:
            path = f"/projects/{made['project']['id']}/branches/{branch['id']}"
            shared_instance.api("PATCH", path, {"branch": {"protected": False}})
    shared_instance.settle(made["project"]["id"])
    shared_instance.api("DELETE", f"/projects/{made['project']['id']}")


@pytest.fixture
def neon(instance: Instance, tmp_path: Path, project: Any) -> Neon:
    return Neon(instance, tmp_path, project["project"]["id"])


def test_who_and_where(nowhere: Neon) -> None:
    assert is_a("CurrentUserInfoResponse", nowhere("me"))
    (organization,) = nowhere("orgs list")
    assert is_a("Organization", organization)
    assert "regions" in nowhere("api", "/regions")


def test_a_project_from_beginning_to_end(nowhere: Neon) -> None:
    made = nowhere("projects create", "--name", "shop", "--database", "till", "--role", "ada", "--cu", "0.25-1")
    project, (connection,) = made["project"], made["connection_uris"]
    assert is_a("Project", project)
    assert (project["name"], project["default_endpoint_settings"]["autoscaling_limit_max_cu"]) == ("shop", 1)
    assert connection["connection_uri"].startswith("postgresql://ada:npg_")
    listed = nowhere("projects list")
    # The platform is shared with other tests, whose projects have names of their own choice.
    named = {it["id"]: it["name"] for it in listed["projects"] if is_a("ProjectListItem", it)}
    assert named[project["id"]] == "shop"
    assert listed["shared_with_you"] == []
    assert nowhere("projects get", project["id"])["id"] == project["id"]
    assert nowhere("projects update", project["id"], "--name", "store")["name"] == "store"
    assert nowhere("projects delete", project["id"])["id"] == project["id"]
    assert nowhere.refused("projects get", project["id"]) == "project not found"
    assert project["id"] not in {it["id"] for it in nowhere("projects list")["projects"]}
    deleted = {it["id"]: it for it in nowhere("projects list", "--recoverable-only")}
    assert is_a("ProjectListItem", deleted[project["id"]])
    assert deleted[project["id"]]["recoverable_until"] > deleted[project["id"]]["deleted_at"]
    assert nowhere("projects recover", project["id"])["id"] == project["id"]
    assert nowhere("projects get", project["id"])["name"] == "store"


@pytest.mark.soak
def test_what_is_not_there_and_who_is_not_known(nowhere: Neon) -> None:
    unknown = "calm-forest-00000000"
    assert nowhere.refused("projects get", unknown) == "project not found"
    assert nowhere.refused("branches list", "--project-id", unknown) == "project not found"
    assert nowhere.refused("projects get", "NO PROJECT") == "invalid project id"
    assert "rejected the API key" in nowhere.refused("projects list", key="napi_" + "x" * 64)
    assert nowhere.run("me", key="").returncode == 1


def test_branches(neon: Neon) -> None:
    made = neon("branches create", "--name", "dev")
    assert is_a("Branch", made["branch"])
    assert all(is_a("Endpoint", it) for it in made["endpoints"])
    assert neon.refused("branches create", "--name", "dev") == 'branch already exists; branch_name:"dev"'
    bare = neon("branches create", "--name", "bare", "--no-compute", "--expires-at", in_days(3))
    assert is_a("Branch", bare)  # without a compute, it prints no more than the branch
    assert bare["expires_at"] == in_days(3)
    assert {it["name"] for it in neon("branches list") if is_a("Branch", it)} >= {"main", "dev", "bare"}
    assert neon("branches rename", "bare", "later")["name"] == "later"
    assert neon("branches get", "later")["id"] == bare["id"]
    assert neon("branches set-expiration", "later", "--expires-at", in_days(5))["expires_at"] == in_days(5)
    assert "expires_at" not in neon("branches set-expiration", "later")
    compute = neon("branches add-compute", "later", "--type", "read_write", "--cu", "0.25")
    assert is_a("Endpoint", compute)
    assert compute["branch_id"] == bare["id"]
    assert neon("branches set-default", "dev")["default"] is True
    assert neon.refused("branches delete", "dev") == "cannot delete default branch"
    assert neon("branches set-default", "main")["default"] is True
    assert neon("branches delete", "later")["name"] == "later"
    assert neon.refused("branches get", "later").startswith("Branch later not found.")
    assert neon("branches delete", "dev")["name"] == "dev"


@pytest.mark.soak
def test_resetting_and_restoring(neon: Neon, instance: Instance) -> None:
    made = neon("branches create", "--name", "work")
    uri = made["connection_uris"][0]["connection_uri"] + f"&sslrootcert={instance.paths.ca_file}"
    with psycopg.connect(uri, autocommit=True) as session:
        session.execute("CREATE TABLE kept (a int)")
        # The command line knows milliseconds, so there is one between what came before and what came after.
        session.execute("SELECT pg_sleep(0.002)")
        ((moment,),) = session.execute("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')")
        session.execute("SELECT pg_sleep(0.002)")
        session.execute("DROP TABLE kept")
    restored = neon("branches restore", "work", f"^self@{moment}", "--preserve-under-name", "before")
    assert is_a("Branch", restored["restored_branch"])
    instance.settle(neon.project_id)
    with psycopg.connect(uri) as session:
        assert session.execute("SELECT count(*) FROM kept").fetchone() == (0,)
    (difference,) = neon("diff", "main", "--branch", "work")
    assert difference["has_changes"]
    assert "+CREATE TABLE public.kept (" in difference["diff"]
    done = neon.run("branches schema-diff", "main", "work")
    assert done.returncode == 0
    assert "+CREATE TABLE public.kept (" in done.stdout
    assert neon("branches reset", "work", "--parent")["name"] == "work"
    assert neon("diff", "main", "--branch", "work")[0]["has_changes"] is False
    neon("branches create", "--name", "empty", "--schema-only", "--parent", "work")


def test_a_protected_branch(neon: Neon) -> None:
    assert neon("branches create", "--name", "live", "--protected", "--no-compute")["protected"] is True
    assert neon.refused("branches delete", "live") == "cannot delete protected branch"
    assert neon.refused("branches reset", "live", "--parent") == "cannot reset protected branch"
    assert "protected branch" in neon.refused("projects delete", neon.project_id)
    assert neon.refused("branches set-expiration", "live", "--expires-at", in_days(3)) != ""


@pytest.mark.soak
def test_roles_and_databases(neon: Neon) -> None:
    role = neon("roles create", "--branch", "main", "--name", "app")
    assert is_a("Role", role)
    assert role["password"].startswith("npg_")
    assert {it["name"] for it in neon("roles list", "--branch", "main")} == {"app", "neondb_owner"}
    database = neon("databases create", "--branch", "main", "--name", "till", "--owner-name", "app")
    assert is_a("Database", database)
    assert {it["name"] for it in neon("databases list", "--branch", "main")} == {"neondb", "till"}
    assert neon("databases delete", "till", "--branch", "main")["name"] == "till"
    assert neon("roles delete", "app", "--branch", "main")["name"] == "app"
    assert neon.refused("roles create", "--branch", "main", "--name", "neondb_owner") == "role already exists"


def test_connection_strings_lead_to_the_database(neon: Neon, front: Front, project: Any) -> None:
    endpoint = project["endpoints"][0]
    done = neon.run("connection-string", "main")
    assert done.returncode == 0
    assert done.stdout.strip().endswith(f"@{endpoint['host']}/neondb?sslmode=require&channel_binding=require")
    pooled = neon.run("connection-string", "main", "--pooled").stdout
    assert f"@{endpoint['host'].replace(endpoint['id'], endpoint['id'] + '-pooler')}/" in pooled
    assert neon("connection-string", "main", "--extended")["host"] == endpoint["host"]
    moment = in_days(-1)
    assert f"@{project['branch']['id']}." in neon.run("connection-string", f"main@{moment}").stdout
    inside = Neon(neon.instance, neon.directory, neon.project_id, lambda words: front.seen_by(words, endpoint["host"]))
    selected = inside.run("psql", "main", "--", "-X", "-A", "-t", "-c", "SELECT 6 * 7")
    assert (selected.returncode, selected.stdout) == (0, "42\n")
    sizes = inside.run("inspect db table-sizes", "--branch", "main")
    assert sizes.returncode == 0, sizes.stderr


@pytest.mark.soak
def test_snapshots(neon: Neon) -> None:
    snapshot = neon("snapshots create", "--branch", "main", "--name", "first")
    assert is_a("Snapshot", snapshot)
    assert [it["name"] for it in neon("snapshots list")] == ["first"]
    assert neon("snapshots update", "first", "--name", "second", "--expires-at", in_days(9))["expires_at"] == in_days(9)
    assert "expires_at" not in neon("snapshots update", "second", "--clear-expiration")
    assert neon("snapshots get", "second")["id"] == snapshot["id"]
    restored = neon("snapshots restore", "second", "--name", "from-snapshot")["restored_branch"]
    assert is_a("Branch", restored)
    previewed = neon("snapshots restore", "second", "--target-branch", "from-snapshot", "--name", "preview")
    assert neon("snapshots finalize", previewed["restored_branch"]["id"], "--name", "replaced") is not None
    schedule = ("--branch", "main", "--frequency", "daily", "--hour", "3", "--retention", "604800")
    wanted = [{"frequency": "daily", "hour": 3, "retention_seconds": 604_800}]
    assert neon("snapshots schedule set", *schedule) == wanted
    assert neon("snapshots schedule get", "--branch", "main") == wanted
    assert neon("snapshots delete", "second")["id"] == snapshot["id"]
    assert neon.refused("snapshots get", "second").startswith('Snapshot "second" not found.')


@pytest.mark.soak
def test_the_allow_list(neon: Neon) -> None:
    assert neon("ip-allow list")["IP_addresses"] == []
    assert neon("ip-allow add", "192.0.2.1", "203.0.113.0/24")["IP_addresses"] == ["192.0.2.1", "203.0.113.0/24"]
    assert "'no-address'" in neon.refused("ip-allow add", "no-address")
    assert neon("ip-allow remove", "192.0.2.1")["IP_addresses"] == ["203.0.113.0/24"]
    assert neon("ip-allow reset", "127.0.0.0/8")["IP_addresses"] == ["127.0.0.0/8"]
    assert neon("ip-allow reset")["IP_addresses"] == []


@pytest.mark.soak
def test_keys(nowhere: Neon) -> None:
    key = nowhere("api-keys create", "--name", "ci")
    assert is_a("ApiKeyCreateResponse", key)
    assert nowhere.run("me", key=key["key"]).returncode == 0
    assert "ci" in {it["name"] for it in nowhere("api-keys list") if is_a("ApiKeysListResponseItem", it)}
    assert nowhere("api-keys revoke", str(key["id"]))["revoked"] is True
    assert "rejected the API key" in nowhere.refused("me", key=key["key"])
    assert nowhere.refused("api-keys revoke", "999999").startswith("No account API key with id 999999.")


def test_operations(neon: Neon) -> None:
    operations = neon("operations list")
    assert all(is_a("Operation", it) for it in operations)
    assert {it["action"] for it in operations} >= {"create_timeline", "start_compute"}


@pytest.mark.soak
def test_the_context_of_a_directory(neon: Neon, nowhere: Neon) -> None:
    project_id = ("--project-id", neon.project_id)
    assert nowhere.run("link", *project_id, "--branch", "main", "-y").returncode == 0
    assert json.loads((nowhere.directory / ".neon").read_text())["projectId"] == neon.project_id
    assert "DATABASE_URL=" in (nowhere.directory / ".env.local").read_text()
    assert nowhere("branches get", "main")["project_id"] == neon.project_id
    assert nowhere("status")["branch"]["name"] == "main"
    assert nowhere("config status")["project"]["id"] == neon.project_id
    (nowhere.directory / ".env.local").unlink()
    assert nowhere.run("env pull", "--service", "postgres").returncode == 0
    assert "DATABASE_URL=" in (nowhere.directory / ".env.local").read_text()
    assert nowhere.run("checkout", "main", "--no-env-pull").returncode == 0
    assert nowhere.run("set-context", *project_id).returncode == 0
    assert nowhere("branches get", "main")["project_id"] == neon.project_id


@pytest.mark.soak
def test_what_cloister_does_not_have_stops_no_command(neon: Neon) -> None:
    for command in ("buckets list", "functions list", "credentials list"):
        assert neon(command) == []
    nothing = neon.run("neon-auth status")
    assert (nothing.returncode, "not configured" in nothing.stdout + nothing.stderr) == (0, True)
    assert neon.refused("data-api get") != ""

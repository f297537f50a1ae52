"""Threat: somebody changes on the platform what was reviewed in a repository: by hand, by another apply at the same time, or by
a change to the file that takes a protection away. On a whole platform, with its own commands.
"""

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.instance import Instance

pytestmark = pytest.mark.root

SHOP = """\
format = 1

[project.drift]
whole = ["branch", "egress", "permission"]
history_retention_seconds = 604800
audit_level = "base"
ip_allow.addresses = ["127.0.0.0/8", "203.0.113.0/24"]

[project.drift.branch.main]
protected = true
whole = ["reader", "role", "database"]

[project.drift.branch.main.compute]
max_cu = 0.5

[project.drift.branch.main.role.app]
[project.drift.branch.main.role.etl]

[project.drift.branch.main.database.shop]
owner = "app"

[project.drift.branch.dev]
parent = "main"
"""
COMMIT = "1b" * 20


class Repository:
    """A file, and the commands on it."""

    def __init__(self, platform: Instance, directory: Path) -> None:
        self._platform = platform
        self._directory = directory
        self.file = directory / "shop.toml"
        self.file.write_text(SHOP)

    def __call__(self, command: str, *more: str, file: Path | None = None) -> subprocess.CompletedProcess[str]:
        return self._platform.cloister("config", command, str(file or self.file), *more, check=False)

    def plan(self) -> Any:
        done = self("plan", "-o", "json")
        return json.loads(done.stdout)

    def drift(self) -> int:
        return self("plan", "--detailed-exitcode").returncode


def test_what_was_changed_by_hand_is_found_and_undone(platform: Instance, tmp_path: Path) -> None:
    shop = Repository(platform, tmp_path)
    agreed = shop.plan()["plan"]
    applied = shop("apply", "--plan", agreed, "--commit", COMMIT)
    assert applied.returncode == 0, applied.stderr
    assert "npg_" not in applied.stdout + applied.stderr
    assert shop.drift() == 0
    (project,) = (each for each in platform.api("GET", "/projects?limit=400")["projects"] if each["name"] == "drift")
    path = f"/projects/{project['id']}"

    # 1. What is exported is what is there, to the last setting.
    exported = tmp_path / "exported.toml"
    exported.write_text(platform.cloister("config", "export", "--project-id", project["id"]).stdout)
    clean = shop("plan", "--detailed-exitcode", file=exported)
    assert (clean.returncode, "npg_" in exported.read_text()) == (0, False), clean.stdout

    # 2. Somebody opens the allow list by hand: the nightly plan says so, and so that it is closed again.
    everybody = {"project": {"settings": {"allowed_ips": {"ips": ["0.0.0.0/0"]}}}}
    platform.api("PATCH", path, everybody)
    assert shop.drift() == 2
    assert "-0.0.0.0/0" in shop("plan").stdout

    # 3. A plan that was agreed on before something moved is refused, and nothing of it is done.
    before = shop.plan()["plan"]
    platform.api("PATCH", path, {"project": {"settings": {"allowed_ips": {"ips": ["::/0"]}}}})
    late = shop("apply", "--plan", before)
    assert (late.returncode, "not the one that was agreed on" in late.stderr) == (1, True)
    assert platform.api("GET", path)["project"]["settings"]["allowed_ips"]["ips"] == ["::/0"]
    assert shop("apply", "--yes", "--commit", COMMIT).returncode == 0
    assert shop.drift() == 0
    assert sorted(platform.api("GET", path)["project"]["settings"]["allowed_ips"]["ips"]) == [
        "127.0.0.0/8",
        "203.0.113.0/24",
    ]

    # 4. The events lead to the plan and to the commit; who did it stays who it was.
    events = platform.api("GET", f"/cloister/audit/events?project_id={project['id']}&limit=200")["events"]
    changes = [each["event"] for each in events if each["event"].get("details", {}).get("commit") == COMMIT]
    assert {
        "project.create",
        "project.update",
        "branch.protect",
        "branch.create",
        "role.create",
        "audit.level_set",
    } <= {each["action"] for each in changes}
    assert agreed in {each["details"]["plan"] for each in changes}
    assert all(each["actor"].startswith("user:") for each in changes)

    # 5. A protected branch goes neither by a line that is missing, nor by what is allowed here: the server keeps it.
    shop.file.write_text(SHOP.replace("protected = true", "protected = false"))
    assert "--allow unprotect" in shop("apply", "--yes").stderr
    assert "--allow destroy" in shop("plan", file=_without_projects(tmp_path)).stderr
    alone = tmp_path / "dev.toml"
    platform.api("PATCH", f"{path}/branches/{_branch(platform, path, 'dev')}", {"branch": {"protected": True}})
    alone.write_text("format = 1\n[project.drift]\nwhole = ['branch']\n[project.drift.branch.main]\n")
    kept = shop("apply", "--yes", "--allow", "destroy", file=alone)
    assert (kept.returncode, "Done: 0 of 1 steps" in kept.stderr) == (1, True)
    assert _branch(platform, path, "dev")


def test_two_applies_at_once_make_one_project(platform: Instance, tmp_path: Path) -> None:
    """Names of projects are nobody's alone, so nothing but the applies themselves can see to it."""
    file = tmp_path / "twin.toml"
    file.write_text("format = 1\n[project.twin]\naudit_level = 'off'\n")

    def apply(_: int) -> subprocess.CompletedProcess[str]:
        return platform.cloister("config", "apply", str(file), "--yes", check=False)

    with ThreadPoolExecutor() as threads:
        done = list(threads.map(apply, range(3)))
    assert any(each.returncode == 0 for each in done), [each.stderr for each in done]
    assert all("internal error" not in each.stderr for each in done), [each.stderr for each in done]
    assert [each["name"] for each in platform.api("GET", "/projects?limit=400")["projects"]].count("twin") == 1
    assert apply(0).stdout.startswith("Nothing to do")


def _without_projects(directory: Path) -> Path:
    """Projects of other tests are on the platform too: this would be the end of all."""
    file = directory / "none.toml"
    file.write_text('format = 1\nwhole = ["project"]\n')
    return file


def _branch(platform: Instance, path: str, name: str) -> str:
    branches = platform.api("GET", f"{path}/branches")["branches"]
    return next(str(each["id"]) for each in branches if each["name"] == name)

"""`cloister config`: what it prints, what it refuses, and how it ends."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cloister.cli.config.commits import commit_of
from tests.cli.config.cloud import PASSWORD, Cloud

SHOP = """\
format = 1
whole = ["project"]
[project.shop]
whole = ["branch"]
audit_level = "full"
ip_allow.addresses = ["192.0.2.0/24"]
[project.shop.branch.main]
[project.shop.branch.main.role.app]
[project.shop.branch.main.role.etl]
"""


class Asked(Cloud):
    """As `Api` is used by a command."""

    change = ""
    waits_its_turn = False

    def __init__(self) -> None:
        super().__init__()
        self.changes: list[str] = []
        self.before = lambda method, path: self.changes.append(self.change)

    def close(self) -> None:
        pass


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Asked:
    found = Asked()
    monkeypatch.setenv("CLOISTER_API_HOST", "https://db.example.com")
    monkeypatch.setenv("CLOISTER_API_KEY", "napi_test")
    monkeypatch.setattr("cloister.cli.session.Api", lambda *_, **__: found)
    return found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "shop.toml"
    path.write_text(SHOP)
    return path


def plan_of(cloister: Any, file: Path, *more: str) -> Any:
    return cloister("config", "plan", str(file), "-o", "json", *more).json


def test_a_plan_says_what_would_become_of_what(cloister: Any, cloud: Asked, file: Path) -> None:
    done = cloister("config", "plan", str(file))
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[:4] == [
        "+ project.shop",
        "    ip_allow.addresses  192.0.2.0/24",
        "~ project.shop",
        "    audit_level  ? → full",
    ]
    assert lines[-2] == "2 to create, 1 to change, 0 to destroy."
    assert lines[-1] == f"Plan {plan_of(cloister, file)['plan']}"
    assert cloud.asked == []


def test_a_table_is_shown_with_what_is_in_it(cloister: Any, cloud: Asked, file: Path) -> None:
    """Of settings and of grants: whoever agrees to a plan has seen them."""
    said = 'defaults.pg_settings = { work_mem = "16MB" }\n[project.shop.branch.main]'
    machine = '[service_account.ci]\ngrants = { shop = "viewer" }\n'
    file.write_text(SHOP.replace("[project.shop.branch.main]", said, 1) + machine)
    shown = cloister("config", "plan", str(file), "--allow", "machine").out
    assert "    defaults.pg_settings  work_mem=16MB\n" in shown
    assert "+ service_account.ci\n    grants  shop=viewer\n" in shown
    assert cloister("config", "apply", str(file), "--yes", "--allow", "machine").code == 0
    file.write_text(file.read_text().replace('"16MB"', '"32MB"').replace('"viewer" }', '"editor" }'))
    shown = cloister("config", "plan", str(file), "--allow", "machine").out
    assert "work_mem=16MB → work_mem=32MB\n" in shown
    assert "shop=viewer → shop=editor\n" in shown


def test_the_ending_says_whether_something_would_change(cloister: Any, cloud: Asked, file: Path) -> None:
    """0, 2, 3 and 1: what a nightly job tells apart."""
    detailed = ("config", "plan", str(file), "--detailed-exitcode")
    assert cloister(*detailed).code == 2
    assert cloister("config", "apply", str(file), "--yes").code == 0
    assert cloister(*detailed).code == 0
    file.write_text(
        SHOP.replace("role.etl", "role.web").replace(
            "[project.shop.branch.main]", "[project.shop.branch.main]\nwhole = ['role']"
        )
    )
    refused = cloister(*detailed)
    assert (refused.code, "say --allow destroy" in refused.err) == (3, True)
    assert "    ! destroy: it destroys something that holds data" in refused.out
    assert cloister("config", "plan", str(file)).code == 1
    assert cloister(*detailed, "--allow", "destroy").code == 2
    file.write_text("format = 1\n[project.shop]\npg_version = 16")
    assert cloister(*detailed).code == 1


def test_only_the_plan_that_was_agreed_on_is_applied(cloister: Any, cloud: Asked, file: Path) -> None:
    agreed = plan_of(cloister, file)["plan"]
    file.write_text(SHOP.replace("full", "base"))
    other = cloister("config", "apply", str(file), "--plan", agreed)
    assert (other.code, "not the one that was agreed on" in other.err) == (1, True)
    assert cloud.asked == []
    file.write_text(SHOP)
    done = cloister("config", "apply", str(file), "--plan", agreed)
    assert (done.code, done.out.splitlines()[-1]) == (0, "[3/3] + project.shop.branch.main.role.etl")
    assert "project.shop.branch.main.role.etl: nobody has seen its password" in done.err
    assert set(cloud.changes) == {f"plan={agreed}"}


def test_the_same_apply_again_has_nothing_to_do(cloister: Any, cloud: Asked, file: Path) -> None:
    agreed = plan_of(cloister, file)["plan"]
    for _ in range(2):
        assert cloister("config", "apply", str(file), "--plan", agreed).code == 0
    assert len(cloud.projects) == 1


def test_a_file_that_is_not_there_is_an_error_and_no_drift(cloister: Any, cloud: Asked, tmp_path: Path) -> None:
    """2 would say that something would change."""
    gone = str(tmp_path / "gone.toml")
    assert cloister("config", "plan", gone, "--detailed-exitcode").code == 1
    assert cloister("config", "plan", str(tmp_path), "--detailed-exitcode").code == 1
    assert cloister("config", "plan", str(tmp_path), "--rules", gone, "--detailed-exitcode").code == 1


def test_nobody_who_was_not_asked_has_agreed(cloister: Any, cloud: Asked, file: Path) -> None:
    done = cloister("config", "apply", str(file))
    assert (done.code, "nobody is at a terminal" in done.err, cloud.asked) == (1, True, [])


def test_a_rule_refuses_before_anything_is_done(cloister: Any, cloud: Asked, file: Path, tmp_path: Path) -> None:
    own = tmp_path / "ours.rules"
    own.write_text('[[forbid]]\nid = "no-etl"\nreason = "we have one"\naddress = "*.role.etl"\n')
    words = ("config", "apply", str(file), "--yes", "--rules", str(own))
    assert (cloister(*words).code, cloud.asked) == (1, [])
    assert cloister(*words, "--allow", "no-etl").code == 0
    assert cloister(*words, "--allow", "nonsense").code == 1


def test_a_failure_says_how_far_it_got_and_the_rest_is_done_later(cloister: Any, cloud: Asked, file: Path) -> None:
    from cloister.cli.api import ApiError

    def refuses(method: str, path: str) -> None:
        if path.endswith("/roles"):
            raise ApiError(422, "too many roles on this branch")

    cloud.before = refuses
    failed = cloister("config", "apply", str(file), "--yes")
    assert failed.code == 1
    assert "role.etl: too many roles on this branch. Done: 2 of 3 steps; this one failed. The same" in failed.err
    cloud.before = lambda method, path: None
    assert cloister("config", "apply", str(file), "--yes").out.splitlines()[-1].startswith("[1/1]")


def test_who_asks_too_often_waits(cloister: Any, api: Any, tmp_path: Path) -> None:
    """An organization has more projects than a key may ask for at once."""
    (tmp_path / "all.toml").write_text("format = 1\n")
    busy = (429, {"message": "too many requests"})
    api.on("GET", "/auth", busy, (200, {"auth_method": "api_key_org", "account_id": "org-a"}))
    api.on("GET", "/projects", (429, {"message": "too many requests"}), (200, {"projects": []}))
    assert cloister("config", "plan", str(tmp_path)).code == 0
    assert cloister("projects", "list").code == 0
    api.on("GET", "/projects", (429, {"message": "too many requests"}), (200, {"projects": []}))
    assert cloister("projects", "list").code == 1


def test_an_account_for_machines_is_of_one_organization(cloister: Any, cloud: Asked, file: Path) -> None:
    cloud.auth_method = "api_key_org"
    assert cloister("config", "apply", str(file), "--yes").code == 0
    assert cloister("config", "export").out.splitlines()[1].startswith('organization = "org-')


def test_no_password_is_ever_printed(cloister: Any, cloud: Asked, file: Path) -> None:
    said = [cloister("config", "apply", str(file), "--yes", *more) for more in (("-o", "json"), ())]
    said += [cloister("config", "export", *more) for more in (("-o", "json"), ())]
    assert all(each.code == 0 for each in said)
    assert not any(PASSWORD in each.out + each.err for each in said)


def test_no_key_of_a_machine_is_ever_printed(cloister: Any, cloud: Asked, file: Path) -> None:
    file.write_text(SHOP + "[service_account.ci]\n")
    said = cloister("config", "apply", str(file), "--yes", "--allow", "machine")
    assert "service_account.ci: nobody has seen its key (cloister service-accounts rotate ci)" in said.err
    exported = cloister("config", "export")
    assert "[service_account.ci]" in exported.out
    assert not any(PASSWORD in each.out + each.err for each in (said, exported))


def test_an_export_is_a_file(cloister: Any, cloud: Asked, file: Path, tmp_path: Path) -> None:
    assert cloister("config", "apply", str(file), "--yes").code == 0
    exported = tmp_path / "all"
    exported.mkdir()
    (exported / "all.toml").write_text(cloister("config", "export").out)
    assert plan_of(cloister, exported)["items"] == []
    (project_id,) = cloud.projects
    alone = cloister("config", "export", "--project-id", project_id).out
    assert 'whole = ["project"]' not in alone
    assert "[keys]" not in alone
    assert json.loads(cloister("config", "export", "-o", "json").out)["project"]["shop"]["audit_level"] == "full"
    assert cloister("config", "export", "--project-id", "calm-lake-99999999").code == 1


def test_what_may_not_be_seen_is_left_out_of_an_export_and_said(
    cloister: Any, cloud: Asked, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cloister.cli.api import ApiError

    def refuses(*_: Any) -> Any:
        raise ApiError(403, "permission denied")

    cloister("config", "apply", str(file), "--yes")
    monkeypatch.setattr(cloud, "_organizations_key_policy", refuses)
    monkeypatch.setattr(cloud, "_projects_audit_level", refuses)
    done = cloister("config", "export")
    assert (done.code, "audit_level = " in done.out, "\nkeys." in done.out) == (0, False, False)
    assert "keys is left out: permission denied" in done.err
    assert "shop: audit_level is left out" in done.err
    # Who may not be seen is not said to be nobody: applied, that would remove them all.
    assert done.out.splitlines()[2] == 'whole = ["group", "member", "service_account", "project"]'
    monkeypatch.setattr(cloud, "_organizations_members", refuses)
    done = cloister("config", "export")
    assert done.out.splitlines()[2] == 'whole = ["group", "service_account", "project"]'
    assert "member is left out: permission denied" in done.err
    file.write_text(SHOP.replace("[project.shop]", "keys.rotate_days = 9\n[project.shop]", 1))
    done = cloister("config", "plan", str(file))
    assert (done.code, "keys may not be seen with this key: permission denied" in done.err) == (1, True)


# ── which commit ──


def git(where: Path, *words: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *identity, "-C", str(where), *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_the_commit_is_that_of_a_file_which_is_as_committed(tmp_path: Path, file: Path) -> None:
    assert commit_of(file) == ""
    git(tmp_path, "init", "-q")
    assert commit_of(file) == ""
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "shop")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert (commit_of(file), commit_of(tmp_path)) == (head, head)
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "more.toml").write_text("format = 1\n")
    assert (commit_of(file), commit_of(tmp_path), commit_of(tmp_path / "below")) == (head, head, "")
    (tmp_path / "more.toml").write_text("format = 1\n")
    assert (commit_of(file), commit_of(tmp_path)) == (head, "")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "more")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert {commit_of(each) for each in (file, tmp_path, tmp_path / "below", tmp_path / "below/more.toml")} == {head}
    file.write_text(SHOP + "# more\n")
    assert commit_of(file) == ""


def test_an_apply_names_the_commit_of_what_it_applies(cloister: Any, cloud: Asked, file: Path) -> None:
    """And none for a file that was changed since: what was reviewed is another one."""
    assert "names no commit" in cloister("config", "apply", str(file), "--yes").err
    git(file.parent, "init", "-q")
    file.write_text(SHOP.replace("full", "base"))
    git(file.parent, "add", ".")
    git(file.parent, "commit", "-qm", "less")
    cloud.changes.clear()
    assert cloister("config", "apply", str(file), "--yes", "--allow", "lower-audit").code == 0
    assert {each.partition(";")[2] for each in cloud.changes} == {f"commit={git(file.parent, 'rev-parse', 'HEAD')}"}
    file.write_text(SHOP)
    cloud.changes.clear()
    assert "names no commit" in cloister("config", "apply", str(file), "--yes").err
    assert {each.partition(";")[2] for each in cloud.changes} == {""}


@pytest.mark.parametrize("setting", ["core.fsmonitor", "filter.any.clean", "filter.any.smudge", "filter.any.process"])
def test_git_runs_no_program_that_the_working_tree_names(tmp_path: Path, file: Path, setting: str) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / ".gitattributes").write_text("*.toml filter=any\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "shop")
    ran = tmp_path / "ran"
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {ran}\n")
    program.chmod(0o755)
    git(tmp_path, "config", setting, str(program))
    os.utime(file, (1, 1))  # git looks at what is in a file again whose time is another
    assert commit_of(file) == git(tmp_path, "rev-parse", "HEAD")
    assert not ran.exists()


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
@pytest.mark.parametrize("said", ["--assume-unchanged", "--skip-worktree"])
def test_a_changed_file_is_no_commits_whatever_the_index_says(
    tmp_path: Path, file: Path, said: str, algorithm: str
) -> None:
    git(tmp_path, "init", "-q", f"--object-format={algorithm}")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "shop")
    git(tmp_path, "update-index", said, file.name)
    assert commit_of(tmp_path) == git(tmp_path, "rev-parse", "HEAD")
    file.write_text(SHOP + "# more\n")
    assert (commit_of(file), commit_of(tmp_path)) == ("", "")
    file.unlink()
    assert (commit_of(file), commit_of(tmp_path)) == ("", "")


def test_a_commit_that_is_named_is_one(cloister: Any, cloud: Asked, file: Path) -> None:
    assert cloister("config", "apply", str(file), "--yes", "--commit", "main").code == 2
    assert cloister("config", "apply", str(file), "--yes", "--commit", "a" * 40).code == 0
    assert all(each.endswith(f";commit={'a' * 40}") for each in cloud.changes)

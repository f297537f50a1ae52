"""A protected branch on a whole platform: every door that leads to its loss, tried, and what it holds read afterwards.

What somebody could write into the control database is in `tests/protected.py`; here it is written in the roles of the
real processes. Then who may take the protection away, and allow lists for protected branches only.
"""

import hashlib
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import httpx
import psycopg
import pytest

from cloister.control.branches import protection as words
from cloister.control.computes import protection as endpoint_words
from tests.back_doors import ROWS, child_with_passwords, control, fill, path_of, protect, try_control, wait_until
from tests.branches import ask, connected, create_child, finish
from tests.instance import Instance, Tenant
from tests.protected import ATTEMPTS, FORBIDDEN, Attempt, Target

pytestmark = pytest.mark.root


@dataclass(frozen=True, slots=True)
class Prod:
    """A protected root branch, a child of it that is protected too, and one that is not."""

    tenant: Tenant
    staging: Tenant
    dev: Tenant
    snapshot_id: str
    timeline_id: str
    dev_timeline_id: str
    org_id: str

    @property
    def ids(self) -> dict[str, str]:
        return {
            "project": self.tenant.project_id,
            "branch": self.tenant.branch_id,
            "endpoint": self.tenant.endpoint_id,
            "staging": self.staging.branch_id,
            "staging_endpoint": self.staging.endpoint_id,
            "dev": self.dev.branch_id,
            "snapshot": self.snapshot_id,
        }

    @property
    def target(self) -> Target:
        return Target(
            org=self.org_id,
            project=self.tenant.project_id,
            branch=self.tenant.branch_id,
            timeline=self.timeline_id,
            endpoint=self.tenant.endpoint_id,
            other_branch=self.dev.branch_id,
            other_timeline=self.dev_timeline_id,
            other_endpoint=self.dev.endpoint_id,
            other_org="org-of-another-12345678",
        )


@pytest.fixture(scope="module")
def shared_prod(shared_platform: Instance) -> Prod:
    tenant = shared_platform.create_project("production")
    fill(tenant)
    dev, staging = (child_with_passwords(shared_platform, tenant, name)[0] for name in ("dev", "staging"))
    taken = ask(shared_platform, "POST", f"{path_of(tenant)}/snapshot?name=before")
    finish(shared_platform, taken)
    for branch in (tenant, staging):
        protect(shared_platform, branch)
    return Prod(
        tenant,
        staging,
        dev,
        taken["snapshot"]["id"],
        control(shared_platform, f"SELECT timeline_id FROM branch WHERE id = '{tenant.branch_id}'"),
        control(shared_platform, f"SELECT timeline_id FROM branch WHERE id = '{dev.branch_id}'"),
        control(shared_platform, f"SELECT org_id FROM project WHERE id = '{tenant.project_id}'"),
    )


@pytest.fixture
def prod(platform: Instance, shared_prod: Prod) -> Iterator[Prod]:
    """Whatever the test does, afterwards the branch is as it was and serves."""
    yield shared_prod
    assert still_serves(platform, shared_prod.tenant)
    assert still_serves(platform, shared_prod.staging)


def still_serves(platform: Instance, branch: Tenant) -> bool:
    """By the API it is there, protected and ready; by PostgreSQL all of its rows are."""
    shown = ask(platform, "GET", path_of(branch))["branch"]
    with connected(branch) as connection:
        found = connection.execute(
            "SELECT count(*), count(*) FILTER (WHERE text = md5(id::text)) FROM ledger"
        ).fetchone()
    return (shown["protected"], shown["current_state"], found) == (True, "ready", (ROWS, ROWS))


# ── the doors ──


@dataclass(frozen=True, slots=True)
class Door:
    name: str
    method: str
    path: str
    told: str
    body: Any = None
    status: int = 422
    code: str = ""
    words: list[str] = field(default_factory=list)
    """The command line's way to the same."""


_IN_A_DAY: Final = (datetime.now(UTC) + timedelta(days=1)).isoformat()
_BRANCH: Final = "/projects/{project}/branches/{branch}"
_STAGING: Final = "/projects/{project}/branches/{staging}"

DOORS: Final = [
    Door(
        "delete", "DELETE", _BRANCH, words.CANNOT_DELETE, words=["branches", "delete", "{branch}"]
    ),
    Door(
        "delete for good", "DELETE", _BRANCH + "?hard_delete=true", words.CANNOT_DELETE,
        words=["branches", "delete", "{branch}", "--hard"],
    ),
    Door(
        "restore from another", "POST", _BRANCH + "/restore", words.CANNOT_RESET,
        {"source_branch_id": "{dev}"}, words=["branches", "restore", "{branch}", "{dev}"],
    ),
    Door(
        "restore from another, keeping what it was", "POST", _BRANCH + "/restore", words.CANNOT_RESET,
        {"source_branch_id": "{dev}", "preserve_under_name": "old"},
    ),
    Door(
        "go back in its own time", "POST", _BRANCH + "/restore", words.CANNOT_RESET,
        {"source_branch_id": "{branch}", "source_timestamp": datetime.now(UTC).isoformat(), "preserve_under_name": "old"},
    ),
    Door(
        "reset to its parent", "POST", _STAGING + "/reset_to_parent", words.CANNOT_RESET, {},
        words=["branches", "reset", "{staging}", "--parent"],
    ),
    Door(
        "restore its parent over it", "POST", _STAGING + "/restore", words.CANNOT_RESET, {"source_branch_id": "{branch}"}
    ),
    Door(
        "restore a snapshot over it", "POST", "/projects/{project}/snapshots/{snapshot}/restore", words.CANNOT_RESET,
        {"target_branch_id": "{branch}", "finalize_restore": True},
        words=["snapshots", "restore", "{snapshot}", "--target-branch", "{branch}", "--finalize"],
    ),
    Door(
        "restore a snapshot that is to replace it", "POST", "/projects/{project}/snapshots/{snapshot}/restore",
        words.CANNOT_RESET, {"target_branch_id": "{branch}"},
        words=["snapshots", "restore", "{snapshot}", "--target-branch", "{branch}"],
    ),
    Door(
        "let it expire", "PATCH", _STAGING, words.CANNOT_EXPIRE, {"branch": {"expires_at": _IN_A_DAY}}, 400,
        words.EXPIRE_CODE, words=["branches", "set-expiration", "{staging}", "--expires-at", _IN_A_DAY],
    ),
    Door(
        "make one that expires", "POST", "/projects/{project}/branches", words.CANNOT_EXPIRE,
        {"branch": {"name": "x", "protected": True, "expires_at": _IN_A_DAY}}, 400, words.EXPIRE_CODE,
    ),
    Door(
        "delete its endpoint", "DELETE", "/projects/{project}/endpoints/{endpoint}", endpoint_words.CANNOT_DELETE_ENDPOINT,
        words=["endpoints", "delete", "{endpoint}"],
    ),
    Door(
        "disable its endpoint", "PATCH", "/projects/{project}/endpoints/{endpoint}", endpoint_words.CANNOT_DISABLE_ENDPOINT,
        {"endpoint": {"disabled": True}},
    ),
    Door(
        "delete its project", "DELETE", "/projects/{project}", words.CANNOT_DELETE_PROJECT + ": main, staging",
        words=["projects", "delete", "{project}"],
    ),
    Door(
        "destroy its project", "DELETE", "/projects/{project}?hard_delete=true", words.CANNOT_DELETE_PROJECT + ": main, staging",
        words=["projects", "delete", "{project}", "--now"],
    ),
]  # fmt: skip


def filled(value: Any, ids: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {name: filled(inner, ids) for name, inner in value.items()}
    return value.format(**ids) if isinstance(value, str) else value


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.name)
def test_every_route_of_the_api_refuses_in_its_words(platform: Instance, prod: Prod, door: Door) -> None:
    answer = platform.http.request(door.method, filled(door.path, prod.ids), json=filled(door.body, prod.ids))
    assert answer.status_code == door.status, answer.text
    assert (answer.json()["message"], answer.json()["code"]) == (door.told, door.code)


def test_an_endpoint_cannot_be_pointed_to_another_branch(platform: Instance, prod: Prod) -> None:
    """The API has no such change; a client that sends it anyway moves nothing."""
    path = f"/projects/{prod.tenant.project_id}/endpoints/{prod.tenant.endpoint_id}"
    platform.http.patch(path, json={"endpoint": {"branch_id": prod.dev.branch_id}})
    assert ask(platform, "GET", path)["endpoint"]["branch_id"] == prod.tenant.branch_id


@pytest.mark.parametrize("door", [door for door in DOORS if door.words], ids=lambda door: door.name)
def test_the_command_line_refuses_in_the_same_words(platform: Instance, prod: Prod, door: Door) -> None:
    asked = [filled(word, prod.ids) for word in door.words]
    about = [] if door.words[0] == "projects" else ["--project-id", prod.tenant.project_id]
    done = platform.cloister(*asked, *about, check=False)
    assert done.returncode != 0, done.stdout
    assert door.told in done.stderr


@pytest.mark.parametrize("attempt", ATTEMPTS, ids=lambda attempt: attempt.name)
def test_every_statement_of_our_own_roles_is_refused(platform: Instance, prod: Prod, attempt: Attempt) -> None:
    done = try_control(platform, f"BEGIN; {attempt.sql(prod.target)}; COMMIT", attempt.role)
    assert done.returncode != 0
    assert f"{attempt.state}: {attempt.told}" in done.stderr


@pytest.mark.parametrize("name", sorted(set(FORBIDDEN) - {"become the owner"}))
def test_there_is_no_right_around_the_triggers(platform: Instance, prod: Prod, name: str) -> None:
    role, statement = FORBIDDEN[name]
    sql = statement.format(project=prod.tenant.project_id, branch=prod.tenant.branch_id)
    done = try_control(platform, sql, role)
    assert "42501" in done.stderr or "must be owner" in done.stderr, done.stderr


def test_the_key_broker_does_not_destroy_its_keys(platform: Instance, prod: Prod) -> None:
    """Asked by the API's own user, as its process would. The broker's event says that it refused."""
    script = (
        "import asyncio, sys; from pathlib import Path; from cloister.trust.keys.client import KeyClient\n"
        "print(asyncio.run(KeyClient(Path(sys.argv[1])).destroy(sys.argv[2])))"
    )
    done = subprocess.run(
        ["setpriv", "--reuid=cloister-api", "--regid=cloister", "--clear-groups", sys.executable, "-c", script,
         str(platform.paths.broker_socket), prod.tenant.project_id],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert words.CANNOT_DESTROY_KEYS in done.stderr
    states = control_keys(platform, prod.tenant.project_id)
    assert states == "enabled"


def control_keys(platform: Instance, project_id: str) -> str:
    done = try_control(
        platform, f"SELECT DISTINCT state FROM wrapped_key WHERE project_id = '{project_id}'", "cloister_keys"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# ── rights ──


@pytest.fixture(scope="module")
def member(shared_platform: Instance) -> Iterator[httpx.Client]:
    """Somebody of the organization who is not its admin."""
    key = "napi_" + "m" * 64
    digest = hashlib.sha256(key.encode()).hexdigest()
    control(
        shared_platform,
        f"""INSERT INTO account (id, email, name)
                VALUES ('00000000-0000-4000-8000-00000000aaaa', 'member@example.org', 'Member');
            INSERT INTO membership (org_id, account_id, role)
                SELECT id, '00000000-0000-4000-8000-00000000aaaa', 'editor' FROM organization;
            INSERT INTO api_key (name, digest, account_id)
                VALUES ('test', decode('{digest}', 'hex'), '00000000-0000-4000-8000-00000000aaaa')""",
    )
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=shared_platform.http.base_url, headers=headers, verify=False, timeout=60) as client:  # noqa: S501 - this server's, on loopback
        yield client


def test_a_member_neither_unprotects_nor_copies_a_protected_branch(
    platform: Instance, prod: Prod, member: httpx.Client
) -> None:
    path, project = path_of(prod.tenant), f"/projects/{prod.tenant.project_id}"
    copies = [
        (f"{project}/branches", {"branch": {"parent_id": prod.tenant.branch_id}}),
        (f"{project}/branches", {}),  # of the default branch, which is the protected one
        (f"{path_of(prod.dev)}/restore", {"source_branch_id": prod.tenant.branch_id}),
        (f"{path_of(prod.dev)}/reset_to_parent", {}),
        (f"{project}/snapshots/{prod.snapshot_id}/restore", {"name": "copy"}),
    ]
    for where, body in copies:
        answer = member.post(where, json=body)
        assert (answer.status_code, answer.json()["message"]) == (
            403, "permission denied: branch:create_from_protected is needed",
        ), where  # fmt: skip
    answer = member.patch(path, json={"branch": {"protected": False}})
    assert (answer.status_code, answer.json()["message"]) == (
        403, "permission denied: branch:unprotect is needed",
    )  # fmt: skip
    assert member.patch(path, json={"branch": {"protected": True}}).status_code == 200, "it is so already"
    denied = events(platform, prod.tenant, "branch.update")
    assert any(event["outcome"] == "failed" and event["reason"] == "forbidden" for event in denied)


def test_a_member_works_with_branches_that_are_not_protected(
    platform: Instance, prod: Prod, member: httpx.Client
) -> None:
    project = f"/projects/{prod.tenant.project_id}"
    made = member.post(f"{project}/branches", json={"branch": {"parent_id": prod.dev.branch_id, "name": "feature"}})
    assert made.status_code == 201, made.text
    feature = f"{project}/branches/{made.json()['branch']['id']}"
    platform.settle(prod.tenant.project_id)
    assert member.patch(feature, json={"branch": {"protected": True}}).status_code == 200
    assert member.delete(feature).status_code == 422
    assert member.patch(feature, json={"branch": {"protected": False}}).status_code == 403
    ask(platform, "PATCH", feature, {"branch": {"protected": False}})
    assert member.delete(feature).status_code == 200
    platform.settle(prod.tenant.project_id)


def events(platform: Instance, branch: Tenant, action: str) -> list[dict[str, Any]]:
    found = ask(platform, "GET", f"/cloister/audit/events?project_id={branch.project_id}&action={action}&limit=100")
    return [each["event"] for each in found["events"] if each["event"].get("branch_id") == branch.branch_id]


def test_unprotecting_is_recorded_and_opens_every_door(platform: Instance) -> None:
    tenant = platform.create_project("retired")
    protect(platform, tenant)
    assert platform.http.delete(f"/projects/{tenant.project_id}").status_code == 422
    (protected,) = events(platform, tenant, "branch.protect")

    protect(platform, tenant, is_protected=False)
    (unprotected,) = events(platform, tenant, "branch.unprotect")
    assert unprotected["actor"] == protected["actor"]
    assert unprotected["actor"].startswith("user:")
    assert unprotected["reason"] == words.UNPROTECT_REASON
    assert unprotected["request_id"]
    platform.cloister("audit", "verify")  # fails if it is broken

    ask(
        platform,
        "PATCH",
        f"/projects/{tenant.project_id}/endpoints/{tenant.endpoint_id}",
        {"endpoint": {"disabled": True}},
    )
    ask(platform, "DELETE", f"/projects/{tenant.project_id}?hard_delete=true")
    wait_until(lambda: control_keys(platform, tenant.project_id) == "destroyed", "the key is destroyed")


def test_an_operation_that_is_there_all_the_same_is_not_run(platform: Instance, prod: Prod) -> None:
    """Submitted while nothing was protected, and protected before anybody took it: protecting has to wait instead."""
    child = create_child(platform, prod.dev, "doomed", has_endpoint=False)
    control(
        platform,
        f"""INSERT INTO operation (id, project_id, branch_id, action, machine, status, step, input, resource,
                                   holds_resource, run_at, deadline_at, created_at, updated_at)
            VALUES ('op-doomed', '{child.project_id}', '{child.branch_id}', 'delete_timeline', 'purge_branch', 'scheduling',
                    'halt', '{{}}', 'branch:{child.branch_id}', true, 'infinity', now() + interval '1 h', now(), now())""",
    )
    answer = platform.http.patch(path_of(child), json={"branch": {"protected": True}})
    assert answer.status_code == 423, answer.text
    control(platform, "UPDATE operation SET status = 'cancelled', holds_resource = false WHERE id = 'op-doomed'")
    protect(platform, child)
    protect(platform, child, is_protected=False)
    finish(platform, ask(platform, "DELETE", path_of(child)))


# ── allow lists for protected branches only ──


@pytest.fixture(scope="module")
def shared_fenced(shared_platform: Instance) -> Tenant:
    return shared_platform.create_project("fenced")


@pytest.mark.parametrize("protected", [True, False], ids=["protected", "not protected"])
@pytest.mark.parametrize("only_protected", [True, False], ids=["protected only", "all branches"])
@pytest.mark.parametrize("allowed", [True, False], ids=["allowed", "not allowed"])
def test_the_allow_list(
    platform: Instance, shared_fenced: Tenant, *, protected: bool, only_protected: bool, allowed: bool
) -> None:
    tenant = shared_fenced
    protect(platform, tenant, is_protected=protected)
    set_allowed(platform, tenant, ["127.0.0.0/8", "::1"] if allowed else ["192.0.2.1"], only_protected=only_protected)
    may_enter = allowed or (only_protected and not protected)
    wait_until(lambda: enters(tenant) == may_enter, f"{may_enter=}", patience_s=5)
    assert enters(tenant) == may_enter


def test_protecting_ends_sessions_from_elsewhere_at_once(platform: Instance, shared_fenced: Tenant) -> None:
    tenant = shared_fenced
    protect(platform, tenant, is_protected=False)
    set_allowed(platform, tenant, ["192.0.2.1"], only_protected=True)
    wait_until(lambda: enters(tenant), "not protected: everybody may", patience_s=5)
    with tenant.connect() as session:
        protect(platform, tenant)
        began = time.monotonic()
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT pg_sleep(30)")
        assert time.monotonic() - began < 5
        assert not enters(tenant)
    protect(platform, tenant, is_protected=False)
    wait_until(lambda: enters(tenant), "and unprotecting lets them in again", patience_s=5)


def set_allowed(platform: Instance, tenant: Tenant, ips: list[str], *, only_protected: bool) -> None:
    settings = {"allowed_ips": {"ips": ips, "protected_branches_only": only_protected}}
    ask(platform, "PATCH", f"/projects/{tenant.project_id}", {"project": {"settings": settings}})


def enters(tenant: Tenant) -> bool:
    try:
        tenant.connect(connect_timeout=30).close()
    except psycopg.OperationalError as error:
        if "is not allowed to connect to this endpoint" not in str(error):
            raise
        return False
    return True

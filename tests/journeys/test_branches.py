"""Branches on a whole platform: of a parent that writes, of one that sleeps, at a point; reset, restored, deleted, recovered;
what is refused, and in which words; and what becomes of it when a process dies in the middle.
"""

import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Self
from urllib.parse import urlencode

import psycopg
import pytest

from tests import branches
from tests.instance import Instance, Tenant

pytestmark = pytest.mark.root


class Counter:
    """Inserts 1, 2, 3, … one commit at a time, and remembers how far it came."""

    def __init__(self, tenant: Tenant) -> None:
        self._tenant = tenant
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.acknowledged = 0

    def __enter__(self) -> Self:
        self._thread.start()
        deadline = time.monotonic() + 30
        while self.acknowledged < 10:
            assert time.monotonic() < deadline, "it does not write"
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with branches.connected(self._tenant) as connection:
            while not self._stop.is_set():
                connection.execute("INSERT INTO log VALUES (%s)", (self.acknowledged + 1,))
                self.acknowledged += 1


def numbers(branch: Tenant) -> list[int]:
    with branches.connected(branch) as connection:
        return [row[0] for row in connection.execute("SELECT n FROM log ORDER BY n")]


def write(branch: Tenant, *new: int) -> None:
    with branches.connected(branch) as connection:
        for number in new:
            connection.execute("INSERT INTO log VALUES (%s)", (number,))


def lsn_of(branch: Tenant) -> str:
    with branches.connected(branch) as connection:
        row = connection.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
    assert row is not None
    return str(row[0])


def suspend(instance: Instance, branch: Tenant) -> None:
    path = f"/projects/{branch.project_id}/endpoints/{branch.endpoint_id}/suspend"
    branches.finish(instance, branches.ask(instance, "POST", path))


def state_of(instance: Instance, branch: Tenant) -> str:
    path = f"/projects/{branch.project_id}/endpoints/{branch.endpoint_id}"
    return str(branches.ask(instance, "GET", path)["endpoint"]["current_state"])


def refusal(instance: Instance, method: str, path: str, body: Any = None) -> tuple[int, str]:
    answer = instance.http.request(method, path, json=body)
    return answer.status_code, answer.json()["message"]


@pytest.fixture
def parent(instance: Instance) -> Tenant:
    tenant = instance.create_project("branched")
    with branches.connected(tenant) as connection:
        connection.execute("CREATE TABLE log (n bigint PRIMARY KEY)")
    return tenant


def test_a_branch_of_a_parent_that_writes_holds_all_that_was_acknowledged(instance: Instance, parent: Tenant) -> None:
    with Counter(parent) as counter:
        before = counter.acknowledged
        child, answer = branches.ask_for_child(instance, parent, "dev")
        there = numbers(child)  # the first connection comes while the branch is being made, and is held
        branches.finish(instance, answer)
        after = counter.acknowledged
        assert counter.acknowledged >= before
    assert there == list(range(1, len(there) + 1)), "a prefix, without a gap"
    assert before <= len(there) <= after + 1
    write(child, 1_000_000)
    assert 1_000_000 not in numbers(parent)
    branches.check_storage(instance, child)


def test_a_branch_of_a_sleeping_parent_does_not_wake_it(instance: Instance, parent: Tenant) -> None:
    write(parent, 1, 2)
    suspend(instance, parent)
    child = branches.create_child(instance, parent, "dev")
    assert numbers(child) == [1, 2]
    assert state_of(instance, parent) == "idle"


def test_a_branch_at_a_moment_and_at_an_lsn(instance: Instance, parent: Tenant) -> None:
    write(parent, 1)
    at, lsn = datetime.now(UTC).isoformat(), lsn_of(parent)
    write(parent, 2)
    assert numbers(branches.create_child(instance, parent, "by time", {"timestamp": at})) == [1]
    assert numbers(branches.create_child(instance, parent, "by lsn", {"lsn": lsn})) == [1]
    assert numbers(parent) == [1, 2]


def test_a_schema_alone_is_a_root_with_the_same_passwords_and_no_rows(instance: Instance, parent: Tenant) -> None:
    write(parent, 1, 2)
    at = datetime.now(UTC).isoformat()
    with branches.connected(parent) as connection:
        connection.execute("CREATE TABLE later (n integer)")
    child, answer = branches.create_schema(instance, parent, "empty")
    assert answer["branch"].get("parent_id") is None
    assert numbers(child) == []
    write(child, 7)
    assert numbers(parent) == [1, 2]
    suspend(instance, parent)
    before, _ = branches.create_schema(instance, parent, "empty before", {"timestamp": at})
    with branches.connected(before) as connection:
        assert connection.execute("SELECT to_regclass('log'), to_regclass('later')").fetchone() == ("log", None)
    # The parent sleeps, and is not woken to tell what it was.
    path = f"/projects/{parent.project_id}/branches/{parent.branch_id}"
    then = {"db_name": "neondb", "timestamp": at}
    told = branches.ask(instance, "GET", f"{path}/schema?{urlencode(then)}")["sql"]
    assert "CREATE TABLE public.log" in told
    assert "later" not in told
    assert state_of(instance, parent) == "idle"
    between = {"db_name": "neondb", "base_branch_id": parent.branch_id, "base_timestamp": at}
    diff = branches.ask(instance, "GET", f"{path}/compare_schema?{urlencode(between)}")["diff"]
    assert "+CREATE TABLE public.later (" in diff
    assert "public.log" not in diff
    branches.check_storage(instance, child)


def test_a_reset_keeps_the_host_and_a_restore_keeps_what_was(instance: Instance, parent: Tenant) -> None:
    write(parent, 1)
    child = branches.create_child(instance, parent, "dev")
    write(child, 100)
    write(parent, 2)
    branches.finish(instance, branches.ask_to_restore(instance, child, parent.branch_id))
    assert numbers(child) == [1, 2], "under the same host, with the same password"

    at = datetime.now(UTC).isoformat()
    write(parent, 3)
    with branches.connected(parent) as held:
        answer = branches.ask_to_restore(instance, parent, parent.branch_id, {"timestamp": at}, preserve_as="bad day")
        branches.finish(instance, answer)
        assert numbers(parent) == [1, 2]
        with pytest.raises(psycopg.Error):
            held.execute("INSERT INTO log VALUES (4)")
    old = branches.named(instance, parent.project_id, "bad day")
    kept = branches.give_endpoint(instance, branches.with_branch(parent, old["id"]))
    assert numbers(kept) == [1, 2, 3]
    shown = branches.ask(instance, "GET", f"/projects/{parent.project_id}/branches/{child.branch_id}")["branch"]
    assert shown["parent_id"] == old["id"], "children move to what was"
    for branch in (parent, kept):
        branches.check_storage(instance, branch)


def test_a_deleted_branch_is_gone_and_comes_back(instance: Instance, parent: Tenant) -> None:
    write(parent, 1)
    child = branches.create_child(instance, parent, "dev")
    write(child, 2)
    path = f"/projects/{parent.project_id}/branches/{child.branch_id}"
    branches.finish(instance, branches.ask(instance, "DELETE", path))
    with pytest.raises(psycopg.OperationalError):
        child.connect(connect_timeout=10)
    branches.ask(instance, "POST", f"{path}/recover")
    assert numbers(child) == [1, 2]


def test_what_is_refused_and_in_which_words(instance: Instance, parent: Tenant) -> None:
    project = f"/projects/{parent.project_id}"
    main = f"{project}/branches/{parent.branch_id}"
    child = branches.create_child(instance, parent, "dev", has_endpoint=False)
    assert refusal(instance, "POST", f"{project}/branches", {"branch": {"name": "dev"}}) == (
        409, 'branch already exists; branch_name:"dev"',
    )  # fmt: skip
    assert refusal(instance, "DELETE", main) == (422, "cannot delete default branch")
    itself = {"source_branch_id": parent.branch_id}
    assert refusal(instance, "POST", f"{main}/restore", itself)[0] == 422
    status, words = refusal(
        instance, "POST", f"{project}/branches", {"branch": {"parent_timestamp": "2020-01-01T00:00:00Z"}}
    )
    assert (status, "must lie between 20" in words) == (422, True)
    branches.ask(instance, "PATCH", main, {"branch": {"protected": True}})
    assert refusal(instance, "DELETE", main) == (422, "cannot delete protected branch")
    assert refusal(instance, "POST", f"{main}/restore", {"source_branch_id": child.branch_id}) == (
        422, "cannot reset protected branch",
    )  # fmt: skip
    branches.ask(instance, "PATCH", main, {"branch": {"protected": False}})

    # Two at once on one branch: the second is told to come back.
    answers = [
        instance.http.post(f"{project}/branches/{child.branch_id}/restore", json={"source_branch_id": parent.branch_id})
        for _ in range(2)
    ]
    assert [answer.status_code for answer in answers] == [200, 423]
    assert "running conflicting operations" in answers[1].json()["message"]
    branches.finish(instance, answers[0].json())


def test_the_child_of_a_protected_branch_has_its_own_password(instance: Instance, parent: Tenant) -> None:
    write(parent, 1)
    main = f"/projects/{parent.project_id}/branches/{parent.branch_id}"
    branches.ask(instance, "PATCH", main, {"branch": {"protected": True}})
    child, answer = branches.ask_for_child(instance, parent, "dev")
    branches.finish(instance, answer)
    with pytest.raises(psycopg.OperationalError, match=r"password authentication failed"):
        child.connect(connect_timeout=10)
    (role,) = [role for role in answer["roles"] if role["name"] == parent.role]
    mine = replace(child, password=role["password"])
    assert numbers(mine) == [1]
    branches.finish(instance, branches.ask_to_restore(instance, child, parent.branch_id))
    assert numbers(mine) == [1], "a reset keeps it"
    branches.ask(instance, "PATCH", main, {"branch": {"protected": False}})


def test_a_snapshot_outlives_its_branch_and_takes_its_place(instance: Instance, parent: Tenant) -> None:
    write(parent, 1)
    project = f"/projects/{parent.project_id}"
    path = f"{project}/branches/{parent.branch_id}/snapshot?name=before"
    taken = branches.ask(instance, "POST", path)
    branches.finish(instance, {"operations": taken["operations"]})
    write(parent, 2)
    restored = branches.ask(
        instance,
        "POST",
        f"{project}/snapshots/{taken['snapshot']['id']}/restore",
        {"name": "look", "target_branch_id": parent.branch_id, "finalize_restore": False},
    )
    branches.finish(instance, restored)
    look = branches.with_branch(parent, restored["branch"]["id"])
    (endpoint,) = branches.ask(instance, "GET", f"{project}/branches/{look.branch_id}/endpoints")["endpoints"]
    assert numbers(branches.with_endpoint(look, endpoint)) == [1]
    assert numbers(parent) == [1, 2]

    path = f"{project}/branches/{look.branch_id}/finalize_restore"
    branches.finish(instance, branches.ask(instance, "POST", path, {"name": "main before"}))
    assert numbers(parent) == [1], "the host serves what took its place"
    assert branches.named(instance, parent.project_id, "main")["id"] == look.branch_id
    old = branches.with_branch(parent, parent.branch_id)
    assert numbers(branches.give_endpoint(instance, old)) == [1, 2]
    gone = branches.ask(instance, "DELETE", f"{project}/snapshots/{taken['snapshot']['id']}")
    branches.finish(instance, gone)


@pytest.mark.parametrize("victim", ["agent", "api"])
def test_a_death_in_the_middle_changes_nothing(instance: Instance, parent: Tenant, victim: str) -> None:
    """Each verb is answered, and then the process is killed that does the work."""
    write(parent, 1)
    child, answer = branches.ask_for_child(instance, parent, "dev")
    instance.kill_and_await(victim)
    branches.finish(instance, answer)
    assert numbers(child) == [1]

    write(child, 100)
    write(parent, 2)
    answer = branches.ask_to_restore(instance, child, parent.branch_id, preserve_as="old dev")
    instance.kill_and_await(victim)
    branches.finish(instance, answer)
    assert numbers(child) == [1, 2]
    old = branches.named(instance, parent.project_id, "old dev")
    kept = branches.give_endpoint(instance, branches.with_branch(parent, old["id"]))
    assert numbers(kept) == [1, 100]

    answer = branches.ask(instance, "DELETE", f"/projects/{parent.project_id}/branches/{child.branch_id}")
    instance.kill_and_await(victim)
    branches.finish(instance, answer)
    branches.ask(instance, "POST", f"/projects/{parent.project_id}/branches/{child.branch_id}/recover")
    assert numbers(child) == [1, 2]
    for branch in (child, kept):
        branches.check_storage(instance, branch)

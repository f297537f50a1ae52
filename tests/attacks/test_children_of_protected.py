"""Copies of a protected branch: the passwords that open it never open them, from the first moment on, and the credentials
that it stores for other servers are not in them."""

import threading
from dataclasses import replace
from datetime import UTC
from typing import Final

import psycopg
import pytest

from tests.back_doors import ROWS, can_log_in, child_with_passwords, fill, path_of, protect, superuser
from tests.branches import ask, ask_for_child, ask_to_restore, connected, create_schema, finish
from tests.instance import Instance, Tenant

pytestmark = pytest.mark.root

SQL_MADE_PASSWORD: Final = "npg_aB3dE5gH7jK9mN1p"
STORED_SECRET: Final = "q7WzR4kT9vX2mC5b"
KNOCK_PAUSE_S: Final = 0.2
# Such that the limits on guessing do not answer in the password's place.


@pytest.fixture(scope="module")
def shared_vault(shared_platform: Instance) -> Tenant:
    """A protected branch with roles made in SQL and credentials of other servers in it."""
    tenant = shared_platform.create_project("vault")
    fill(tenant)
    with connected(tenant) as connection:
        connection.execute(f"CREATE ROLE app LOGIN PASSWORD '{SQL_MADE_PASSWORD}'")
        connection.execute("GRANT SELECT ON ledger TO app")
        connection.execute("CREATE ROLE readers NOLOGIN")
        superuser(
            shared_platform,
            tenant,
            f"""CREATE EXTENSION IF NOT EXISTS postgres_fdw;
                CREATE SERVER elsewhere FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host 'elsewhere.example');
                CREATE USER MAPPING FOR {tenant.role} SERVER elsewhere OPTIONS (user 'u', password '{STORED_SECRET}');
                CREATE SUBSCRIPTION feed CONNECTION 'host=elsewhere.example user=u password={STORED_SECRET}'
                    PUBLICATION p WITH (connect = false)""",
        )
    protect(shared_platform, tenant)
    return tenant


@pytest.fixture
def vault(shared_vault: Tenant) -> Tenant:
    return shared_vault


def verifiers(platform: Instance, branch: Tenant) -> dict[str, str]:
    with connected(branch):
        lines = superuser(
            platform, branch, "SELECT rolname || ' ' || rolpassword FROM pg_authid WHERE rolpassword IS NOT NULL"
        )
    return dict(line.split(" ", 1) for line in lines.splitlines())


def secrets_in(platform: Instance, branch: Tenant) -> str:
    with connected(branch):
        return superuser(
            platform,
            branch,
            "SELECT coalesce(umoptions::text, '') FROM pg_user_mapping UNION ALL SELECT subconninfo FROM pg_subscription",
        )


def test_old_passwords_never_open_a_child_and_new_ones_open_only_it(platform: Instance, vault: Tenant) -> None:
    old = {vault.role: vault.password, "app": SQL_MADE_PASSWORD}
    child, answer = ask_for_child(platform, vault, "copy")
    came_in: list[str] = []
    told: set[str] = set()
    is_over = threading.Event()

    def knock(role: str) -> None:
        """From the first moment the host is known until well after it is awake."""
        while not is_over.is_set():
            try:
                replace(child, role=role, password=old[role]).connect(connect_timeout=30).close()
            except psycopg.OperationalError as error:
                told.add(str(error).rsplit("FATAL: ", 1)[-1].strip())
                is_over.wait(KNOCK_PAUSE_S)
            else:
                came_in.append(role)

    knocking = [threading.Thread(target=knock, args=[role]) for role in old]
    for thread in knocking:
        thread.start()
    try:
        finish(platform, answer)
        new = {role["name"]: role["password"] for role in answer["roles"] if role.get("password")}
        assert set(new) == set(old), "the SQL-made one too; one that cannot log in gets none"
        child = replace(child, password=new[child.role])
        with connected(child) as connection:
            assert connection.execute("SELECT count(*) FROM ledger").fetchone() == (ROWS,)
    finally:
        is_over.set()
        for thread in knocking:
            thread.join()
    assert came_in == []
    assert told == {f'password authentication failed for user "{role}"' for role in old}, "each was listened to"

    for role, parents_password in old.items():
        assert can_log_in(child, role, new[role])
        assert can_log_in(vault, role, parents_password), "the parent's stay"
        assert not can_log_in(child, role, parents_password)
        assert not can_log_in(vault, role, new[role])
    parents, childs = verifiers(platform, vault), verifiers(platform, child)
    assert set(parents) == set(childs) == set(old)
    assert not set(parents.values()) & set(childs.values())


def test_stored_credentials_are_taken_out_of_the_child(platform: Instance, vault: Tenant) -> None:
    child, _ = child_with_passwords(platform, vault, "scrubbed")
    assert STORED_SECRET in secrets_in(platform, vault), "or the test looks in the wrong place"
    found = secrets_in(platform, child)
    assert STORED_SECRET not in found
    assert "password" not in found


def test_the_schema_of_one_alone_brings_neither_rows_nor_passwords(platform: Instance) -> None:
    parent = platform.create_project("schemas")
    fill(parent)
    with connected(parent) as connection:
        connection.execute(f"CREATE ROLE app LOGIN PASSWORD '{SQL_MADE_PASSWORD}'")
    protect(platform, parent)
    child, answer = create_schema(platform, parent, "schema")
    new = {role["name"]: role["password"] for role in answer["roles"] if role.get("password")}
    assert set(new) == {parent.role, "app"}
    assert not can_log_in(child, parent.role, parent.password)
    assert not can_log_in(child, "app", SQL_MADE_PASSWORD)
    child = replace(child, password=new[child.role])
    with connected(child) as connection:
        assert connection.execute("SELECT count(*) FROM ledger").fetchone() == (0,)
    parents, childs = verifiers(platform, parent), verifiers(platform, child)
    assert set(parents) == set(childs)
    assert not set(parents.values()) & set(childs.values())


def test_a_child_at_a_past_moment_has_new_passwords_too(platform: Instance, vault: Tenant) -> None:
    with connected(vault) as connection:
        moment = connection.execute("SELECT clock_timestamp()").fetchone()
        assert moment is not None
        connection.execute("CREATE TABLE later (id int)")
    child, new = child_with_passwords(
        platform, vault, "yesterday", {"timestamp": moment[0].astimezone(UTC).isoformat()}
    )
    assert vault.role in new
    with connected(child) as connection:
        assert connection.execute("SELECT to_regclass('later')").fetchone() == (None,)
    assert not can_log_in(child, vault.role, vault.password)
    assert not can_log_in(child, "app", SQL_MADE_PASSWORD)
    assert STORED_SECRET not in secrets_in(platform, child)


def test_a_child_that_is_reset_keeps_its_own_passwords(platform: Instance, vault: Tenant) -> None:
    child, new = child_with_passwords(platform, vault, "kept")
    with connected(vault) as connection:
        connection.execute("CREATE TABLE after_the_child (id int)")
    answer = ask_to_restore(platform, child, vault.branch_id)
    assert not answer.get("roles"), "nothing new to show"
    finish(platform, answer)
    with connected(child) as connection:
        assert connection.execute("SELECT count(*) FROM after_the_child").fetchone() == (0,)
    for role, password in new.items():
        assert can_log_in(child, role, password)
    assert not can_log_in(child, vault.role, vault.password)
    assert not can_log_in(child, "app", SQL_MADE_PASSWORD)
    assert STORED_SECRET not in secrets_in(platform, child)


def test_a_grandchild_has_its_parents_passwords(platform: Instance, vault: Tenant) -> None:
    child, new = child_with_passwords(platform, vault, "child")
    grandchild, newer = child_with_passwords(platform, child, "grandchild")
    assert can_log_in(grandchild, vault.role, new[vault.role])
    assert newer.get(vault.role, new[vault.role]) == new[vault.role]
    assert not can_log_in(grandchild, vault.role, vault.password)


def test_a_branch_of_a_snapshot_of_it_has_new_passwords(platform: Instance, vault: Tenant) -> None:
    taken = ask(platform, "POST", f"{path_of(vault)}/snapshot?name=kept")
    finish(platform, taken)
    restored = ask(
        platform,
        "POST",
        f"/projects/{vault.project_id}/snapshots/{taken['snapshot']['id']}/restore",
        {"name": "of-snapshot"},
    )
    finish(platform, restored)
    (endpoint,) = restored["endpoints"]
    branch = replace(vault, branch_id=restored["branch"]["id"], endpoint_id=endpoint["id"], host=endpoint["host"])
    new = {role["name"]: role["password"] for role in restored["roles"]}
    assert can_log_in(branch, vault.role, new[vault.role])
    assert not can_log_in(branch, vault.role, vault.password)
    assert not can_log_in(branch, "app", SQL_MADE_PASSWORD)

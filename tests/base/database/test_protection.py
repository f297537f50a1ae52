"""Migration 0002 against everything in tests/protected.py, on a real database and in the roles of our processes.

Each guard is also taken out in turn, and something must then get through: a trigger that nothing needs is not tested.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import asyncpg
import pytest
import pytest_asyncio

from cloister.base.database import Database
from cloister.base.errors import BadRequestError, BusyError, CloisterError, UnprocessableError
from cloister.control.branches import protection as words
from tests.fix_database import ControlDatabase, ControlServer, DatabaseAs, a_database
from tests.protected import ATTEMPTS, BRANCH_MACHINES, FORBIDDEN, PROJECT_MACHINES, Attempt, Target, operation

TARGET: Final = Target(
    org="org-1",
    project="prod",
    branch="br-prod",
    timeline="tl-prod",
    endpoint="ep-prod",
    other_branch="br-dev",
    other_timeline="tl-dev",
    other_endpoint="ep-dev",
    other_org="org-2",
)
GUARDED: Final = {"branch", "timeline", "endpoint", "project", "organization", "volume", "wrapped_key"}
ROW_TRIGGERS: Final = sorted(
    {f"{table}_protection" for table in GUARDED} | {"operation_protection", "key_ring_protection"}
)
OTHER_TRIGGERS: Final = [
    "access_request_holds", "access_review_holds", "access_review_item_holds", "admin_remains", "api_key_holds",
    "audit_forgetting_holds", "audit_hold_holds", "audit_personal_ends", "audit_retention_holds", "backup_base_holds", "backup_scrubs", "branch_keeps_tags", "branch_tagging", "consent_holds", "consent_policy_holds", "key_ring_hold", "masked_branch", "masked_timeline", "masking_holds", "offers_end", "operation_consent", "operation_keeps_consent", "passkey_holds", "project_hold", "project_recovery",
    "project_retention", "project_tagging", "recording_begins", "recording_chunk_follows", "recording_dated", "recording_ends",
    "recording_grows", "recording_written", "reencryption_holds", "snapshot_keeps_tags", "snapshot_tagging", "statement_erasure_hold", "statement_erasure_holds",
    "statement_key_ends", "statement_key_hold", "timeline_keeps_tags", "timeline_tagging", "unprotection_consent", "wrapped_key_birth", "wrapped_key_deletion_hold", "wrapped_key_hold"]  # fmt: skip
"""Not about protected branches: tests/control/access, tests/control/service_accounts, tests/control/reencryption, tests/control/reviews, tests/control/organizations, tests/control/passkeys, tests/control/tags, tests/control/branches/test_masking.py, tests/attacks/test_copies_of_protected.py, tests/attacks/test_backups_of_protected.py, tests/control/projects/test_recover.py,
tests/trust/keys/test_superseded.py."""
TRUNCATE_TRIGGERS: Final = sorted(f"{table}_truncate_protection" for table in GUARDED)

_WORLD: Final = """
    INSERT INTO organization (id, name) VALUES ('org-1', 'One'), ('org-2', 'Two'), ('org-3', 'Empty');
    INSERT INTO account (id, email, name) VALUES ('00000000-0000-4000-8000-000000000001', 'ada@example.org', 'Ada');
    INSERT INTO volume (project_id, branch_id, timeline_id, uid, pg_version, size_bytes, state)
        VALUES ('prod', 'br-prod', 'tl-prod', 1900000001, 18, 1, 'taken'), ('toy', 'br-toy', 'tl-toy', 1900000002, 18, 1, 'taken');
    INSERT INTO project (id, org_id, owner_id, name, region_id, pg_version, store_passwords)
        SELECT id, org_id, '00000000-0000-4000-8000-000000000001', id, 'local', 18, false
          FROM (VALUES ('prod', 'org-1'), ('toy', 'org-2')) AS it (id, org_id);
    INSERT INTO branch (id, project_id, parent_id, timeline_id, name, is_default, is_protected, state)
        VALUES ('br-prod', 'prod', NULL, 'tl-prod', 'main', true, true, 'ready'),
               ('br-dev', 'prod', 'br-prod', 'tl-dev', 'dev', false, false, 'ready'),
               ('br-toy', 'toy', NULL, 'tl-toy', 'main', true, false, 'ready');
    INSERT INTO timeline (id, project_id, branch_id, state, began_at, ended_at)
        VALUES ('tl-prod', 'prod', 'br-prod', 'ready', now() - interval '1 hour', NULL),
               ('tl-prod-recent', 'prod', 'br-prod', 'ready', now() - interval '9 days', now() - interval '1 hour'),
               ('tl-prod-past', 'prod', 'br-prod', 'ready', now() - interval '10 days', now() - interval '9 days'),
               ('tl-dev', 'prod', 'br-dev', 'ready', now(), NULL), ('tl-toy', 'toy', 'br-toy', 'ready', now(), NULL);
    INSERT INTO endpoint (id, project_id, branch_id, type, min_cu, max_cu)
        VALUES ('ep-prod', 'prod', 'br-prod', 'read_write', 1, 1), ('ep-dev', 'prod', 'br-dev', 'read_write', 1, 1);
    INSERT INTO wrapped_key (project_id, purpose, version, provider, root_version, state, wrapped)
        VALUES ('prod', 'volume', 1, 'file', '1', 'enabled', '\\x01'), ('toy', 'volume', 1, 'file', '1', 'enabled', '\\x01');
    INSERT INTO key_ring (project_id, rotated_at) VALUES ('prod', now()), ('toy', now());
"""

Connect = Callable[[str], Awaitable[Any]]


@pytest.fixture
async def connect(control_database: ControlDatabase) -> AsyncIterator[Connect]:
    """In a world of the test's own."""
    async with _world(control_database) as as_role:
        yield as_role


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def still_world(control_server: ControlServer) -> AsyncIterator[Connect]:
    """For hundreds of attempts of which nothing is left: the same connection for all of a role."""
    async with _still_world(control_server, is_protected=True) as as_role:
        yield as_role


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def unprotected_world(control_server: ControlServer) -> AsyncIterator[Connect]:
    """The same, in which the branch is not protected any more."""
    async with _still_world(control_server, is_protected=False) as as_role:
        yield as_role


@contextlib.asynccontextmanager
async def _still_world(control_server: ControlServer, *, is_protected: bool) -> AsyncIterator[Connect]:
    connections: dict[str, Any] = {}
    with a_database(control_server) as database:
        async with _world(database) as connect:

            async def as_role(role: str) -> Any:
                if role not in connections:
                    connections[role] = await connect(role)
                return connections[role]

            if not is_protected:
                await unprotect(await as_role("cloister_api"))
            owner = await as_role("postgres")
            before = await _rows(owner)
            yield as_role
            assert await _rows(owner) == before, "an attempt left something"


@contextlib.asynccontextmanager
async def _world(database: ControlDatabase) -> AsyncIterator[Connect]:
    connections: list[Any] = []

    async def as_role(role: str) -> Any:
        connection = await asyncpg.connect(database.url(role), server_settings={"search_path": "cloister,pg_catalog"})
        connections.append(connection)
        return connection

    await (await as_role("postgres")).execute(_WORLD)
    yield as_role
    for connection in connections:
        await connection.close()


async def _rows(owner: Any) -> dict[str, list[str]]:
    tables = await owner.fetch("SELECT format('%I', tablename) FROM pg_tables WHERE schemaname = 'cloister'")
    return {
        table: sorted(row[0] for row in await owner.fetch(f"SELECT whole::text FROM {table} AS whole"))
        for (table,) in tables
    }


async def told(connection: Any, attempt: Attempt) -> str:
    """What the database says to it, with nothing left of it either way: `SQLSTATE words`, or `done`."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        # Foreign keys and the like are not what is tested: they say something else, or are checked at the end.
        await connection.execute(attempt.sql(TARGET))
        await connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
    except asyncpg.PostgresError as error:
        return f"{error.sqlstate} {error.message}"
    else:
        return "done"
    finally:
        await transaction.rollback()


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("attempt", ATTEMPTS, ids=lambda attempt: attempt.name)
async def test_each_attempt_is_refused_in_its_words(still_world: Connect, attempt: Attempt) -> None:
    assert await told(await still_world(attempt.role), attempt) == f"{attempt.state} {attempt.told}"


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("attempt", ATTEMPTS, ids=lambda attempt: attempt.name)
async def test_the_owner_is_refused_as_well(still_world: Connect, attempt: Attempt) -> None:
    """With a database of the operator's own, our processes have its owner's role: a mistake there is stopped too."""
    assert await told(await still_world("postgres"), attempt) == f"{attempt.state} {attempt.told}"


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("attempt", ATTEMPTS, ids=lambda attempt: attempt.name)
async def test_after_unprotecting_nothing_of_ours_refuses_it(unprotected_world: Connect, attempt: Attempt) -> None:
    if "unprotect by function" in attempt.name or attempt.state == "PR400":
        return
    answer = await told(await unprotected_world(attempt.role), attempt)
    assert not answer.startswith("PR"), answer


@pytest.mark.parametrize("trigger", ROW_TRIGGERS)
async def test_without_its_trigger_every_attempt_changes_its_answer(connect: Connect, trigger: str) -> None:
    owner = await connect("postgres")
    await owner.execute(f"DROP TRIGGER {trigger} ON {trigger.removesuffix('_protection')}")
    guarded = [attempt for attempt in ATTEMPTS if attempt.guard == trigger]
    assert guarded, "a trigger that nothing tests"
    roles = {attempt.role: await connect(attempt.role) for attempt in guarded}
    answers = {attempt.name: await told(roles[attempt.role], attempt) for attempt in guarded}
    assert [name for name, answer in answers.items() if answer.startswith("PR")] == []
    # What stands behind it (foreign keys, unique indexes) is there for something else, and is not enough.
    assert "done" in answers.values() or trigger == "organization_protection"


@pytest.mark.parametrize("table", sorted(GUARDED))
async def test_truncating(connect: Connect, table: str) -> None:
    """Nobody of ours may; if somebody did, the trigger stands there. Without it the table would be empty."""
    api, owner = await connect("cloister_api"), await connect("postgres")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await api.execute(f"TRUNCATE {table} CASCADE")
    with pytest.raises(asyncpg.PostgresError, match=words.CANNOT_DELETE):
        await owner.execute(f"TRUNCATE {table} CASCADE")
    for trigger in TRUNCATE_TRIGGERS:
        await owner.execute(f"DROP TRIGGER {trigger} ON {trigger.removesuffix('_truncate_protection')}")
    await owner.execute(f"TRUNCATE {table} CASCADE")


async def test_no_trigger_is_untested_and_none_can_be_switched_off(connect: Connect) -> None:
    rows = await (await connect("postgres")).fetch(
        "SELECT tgname, tgenabled FROM pg_trigger WHERE tgrelid::regclass::text <> '' AND NOT tgisinternal"
    )
    assert sorted(row["tgname"] for row in rows) == sorted(ROW_TRIGGERS + TRUNCATE_TRIGGERS + OTHER_TRIGGERS)
    assert {row["tgenabled"] for row in rows} == {b"A"}, "ENABLE ALWAYS"


async def test_every_function_that_runs_as_the_owner_pins_its_search_path(connect: Connect) -> None:
    rows = await (await connect("postgres")).fetch(
        """SELECT proname, proconfig FROM pg_proc
            WHERE pronamespace = 'cloister'::regnamespace AND (prosecdef OR prorettype = 'trigger'::regtype)"""
    )
    assert len(rows) > len(ROW_TRIGGERS)
    assert {
        row["proname"] for row in rows if row["proconfig"] != ["search_path=cloister, pg_catalog, pg_temp"]
    } == set()


@pytest.mark.parametrize("name", FORBIDDEN)
async def test_around_the_triggers_there_is_no_right(connect: Connect, name: str) -> None:
    role, statement = FORBIDDEN[name]
    connection = await connect(role)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.execute(statement.format(project="prod", branch="br-prod"))


async def test_temporary_tables_do_not_stand_in_for_ours(connect: Connect) -> None:
    api = await connect("cloister_api")
    await api.execute("CREATE TEMPORARY TABLE branch AS SELECT * FROM cloister.branch WHERE false")
    await api.execute("CREATE TEMPORARY TABLE unprotection (branch_id text, xid xid8)")
    await api.execute("SET search_path = pg_temp, cloister, pg_catalog")
    async with api.transaction():
        await api.execute("INSERT INTO unprotection VALUES ('br-prod', pg_current_xact_id())")
        with pytest.raises(asyncpg.PostgresError, match=words.CANNOT_UNPROTECT):
            await api.execute("UPDATE cloister.branch SET is_protected = false")
    with pytest.raises(asyncpg.PostgresError, match=words.CANNOT_DELETE_PROJECT):
        await api.execute("UPDATE cloister.project SET deleted_at = now()")


async def unprotect(api: Any, branch: str = "br-prod", project: str = "prod") -> None:
    event = {"action": "branch.unprotect", "actor": "user:1", "reason": "end of life"}
    await api.execute(
        "SELECT unprotect($1, $2)", branch, json.dumps({**event, "branch_id": branch, "project_id": project})
    )


async def test_unprotecting_is_recorded_in_the_same_act(connect: Connect) -> None:
    api = await connect("cloister_api")
    transaction = api.transaction()
    await transaction.start()
    await unprotect(api)
    assert not await api.fetchval("SELECT is_protected FROM branch WHERE id = 'br-prod'")
    await transaction.rollback()
    assert await api.fetchval("SELECT is_protected FROM branch WHERE id = 'br-prod'")
    assert not await api.fetchval("SELECT count(*) FROM audit_event")

    await unprotect(api)
    (event,) = await api.fetch("SELECT action, actor, body::jsonb ->> 'reason' AS reason FROM audit_event")
    assert tuple(event) == ("branch.unprotect", "user:1", "end of life")
    await unprotect(api)  # twice is once
    assert await api.fetchval("SELECT count(*) FROM audit_event") == 1


async def test_an_unprotection_of_another_transaction_does_not_count(connect: Connect) -> None:
    api = await connect("cloister_api")
    await unprotect(api)
    await api.execute("UPDATE branch SET is_protected = true WHERE id = 'br-prod'")
    with pytest.raises(asyncpg.PostgresError, match=words.CANNOT_UNPROTECT):
        await api.execute("UPDATE branch SET is_protected = false WHERE id = 'br-prod'")


async def test_the_rest_of_the_project_can_be_worked_on(connect: Connect) -> None:
    """Renaming, suspending, children and other branches: protection is about losing data, not about standing still."""
    api = await connect("cloister_api")
    for statement in (
        "UPDATE branch SET name = 'production', updated_at = now() WHERE id = 'br-prod'",
        "UPDATE endpoint SET state = 'idle', socket_dir = NULL, max_cu = 4 WHERE id = 'ep-prod'",
        "UPDATE timeline SET unique_bytes = 1 WHERE id = 'tl-prod'",
        "UPDATE timeline SET state = 'deleting' WHERE id = 'tl-prod-past'",
        "UPDATE project SET name = 'p', history_retention_seconds = 3600 WHERE id = 'prod'",
        "UPDATE endpoint SET deleted_at = now() WHERE id = 'ep-dev'",
        "UPDATE branch SET deleted_at = now() WHERE id = 'br-dev'",
        "DELETE FROM organization WHERE id = 'org-3'",
        "UPDATE project SET deleted_at = now() WHERE id = 'toy'",
        operation("suspend_compute").format(project="prod", branch="br-prod", endpoint="ep-prod"),
        # A snapshot of it is taken, and another given up: both are timelines of no branch.
        """INSERT INTO timeline (id, project_id, source_id, state) VALUES ('tl-snap', 'prod', 'tl-prod', 'making');
           UPDATE timeline SET state = 'ready' WHERE id = 'tl-snap';
           UPDATE timeline SET state = 'deleting' WHERE id = 'tl-snap'""",
        operation("take_snapshot", work='{{"recipe": {{"target_id": "tl-snap"}}}}', number=2).format(
            project="prod", branch="br-prod", endpoint="ep-prod"
        ),
        operation("delete_timeline", work='{{"timeline_id": "tl-snap"}}', number=3).format(
            project="prod", branch="br-prod", endpoint="ep-prod"
        ),
    ):
        await api.execute(statement)
    keys = await connect("cloister_keys")
    await keys.execute("UPDATE key_ring SET state = 'pending_destruction', destroy_at = now() WHERE project_id = 'toy'")
    await keys.execute("UPDATE wrapped_key SET state = 'destroyed', wrapped = NULL WHERE project_id = 'toy'")


async def test_one_that_was_archived_before_is_shielded_too_and_can_be_brought_back(connect: Connect) -> None:
    api = await connect("cloister_api")
    await api.execute("UPDATE branch SET state = 'archived' WHERE id = 'br-dev'")
    await api.execute("UPDATE branch SET is_protected = true WHERE id = 'br-dev'")
    for statement in (
        "DELETE FROM branch WHERE id = 'br-dev'",
        "UPDATE timeline SET state = 'deleting' WHERE id = 'tl-dev'",
        "UPDATE branch SET state = 'init' WHERE id = 'br-dev'",
    ):
        with pytest.raises(asyncpg.PostgresError, match="protected branch"):
            await api.execute(statement)
    await api.execute("UPDATE branch SET state = 'ready' WHERE id = 'br-dev'")


async def test_what_is_to_expire_cannot_be_protected(connect: Connect) -> None:
    api = await connect("cloister_api")
    await api.execute("UPDATE branch SET expires_at = now() + interval '1 day' WHERE id = 'br-dev'")
    with pytest.raises(asyncpg.PostgresError, match=words.CANNOT_EXPIRE):
        await api.execute("UPDATE branch SET is_protected = true WHERE id = 'br-dev'")
    await api.execute("UPDATE branch SET is_protected = true, expires_at = NULL WHERE id = 'br-dev'")


async def test_what_it_was_before_is_kept_while_it_can_be_asked_for(connect: Connect) -> None:
    api = await connect("cloister_api")
    for change in ("state = 'deleting'", "ended_at = '2000-01-01'", "branch_id = NULL"):
        with pytest.raises(asyncpg.PostgresError, match="protected branch"):
            await api.execute(f"UPDATE timeline SET {change} WHERE id = 'tl-prod-recent'")
    with pytest.raises(asyncpg.PostgresError, match=words.CANNOT_DELETE):
        await api.execute("DELETE FROM timeline WHERE id = 'tl-prod-recent'")


async def test_a_branch_that_is_still_being_made_can_be_taken_back(connect: Connect) -> None:
    api = await connect("cloister_api")
    await api.execute(
        """INSERT INTO timeline (id, project_id, state) VALUES ('tl-new', 'toy', 'making');
           INSERT INTO branch (id, project_id, timeline_id, name, is_default, is_protected, state)
           VALUES ('br-new', 'toy', 'tl-new', 'new', false, true, 'init')"""
    )
    await api.execute("DELETE FROM branch WHERE id = 'br-new'")


@pytest.mark.parametrize("state", ["scheduling", "running"])
@pytest.mark.parametrize("machine", [*PROJECT_MACHINES, *BRANCH_MACHINES])
async def test_what_is_on_its_way_out_cannot_be_protected(connect: Connect, machine: str, state: str) -> None:
    api = await connect("cloister_api")
    await unprotect(api)
    await api.execute(operation(machine).format(project="prod", branch="br-prod", endpoint="ep-prod"))
    await api.execute(f"UPDATE operation SET status = '{state}'")
    with pytest.raises(asyncpg.PostgresError, match="running conflicting operations"):
        await api.execute("UPDATE branch SET is_protected = true WHERE id = 'br-prod'")
    await api.execute("UPDATE operation SET status = 'failed', holds_resource = false")
    await api.execute("UPDATE branch SET is_protected = true WHERE id = 'br-prod'")


@pytest.mark.parametrize(
    "gone",
    [
        "UPDATE project SET deleted_at = now() WHERE id = 'prod'",
        "UPDATE branch SET deleted_at = now() WHERE id = 'br-prod'",
        "UPDATE timeline SET state = 'deleting' WHERE id = 'tl-prod'",
    ],
)
async def test_what_is_gone_cannot_be_protected(connect: Connect, gone: str) -> None:
    api = await connect("cloister_api")
    await unprotect(api)
    await api.execute(gone)
    with pytest.raises(asyncpg.PostgresError, match="cannot protect deleted branch"):
        await api.execute("UPDATE branch SET is_protected = true WHERE id = 'br-prod'")


@pytest.mark.parametrize(
    "deletion",
    [
        "UPDATE project SET deleted_at = now() WHERE id = 'prod'",
        operation("delete_project").format(project="prod", branch="br-prod", endpoint="ep-prod"),
        operation("purge_branch").format(project="prod", branch="br-prod", endpoint="ep-prod"),
    ],
    ids=["row", "operation on the project", "operation on the branch"],
)
@pytest.mark.parametrize("protects_first", [True, False])
async def test_of_a_deletion_and_a_protection_at_once_the_second_sees_the_first(
    connect: Connect, deletion: str, *, protects_first: bool
) -> None:
    first, second = await connect("cloister_api"), await connect("cloister_api")
    await unprotect(first)
    protection = "UPDATE branch SET is_protected = true WHERE id = 'br-prod'"
    transaction = first.transaction()
    await transaction.start()
    await first.execute(protection if protects_first else deletion)
    waiting = asyncio.create_task(second.execute(deletion if protects_first else protection))
    watcher = await connect("postgres")
    async with asyncio.timeout(10):
        while not await watcher.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):
            assert not waiting.done(), "it must wait for the first"
            await asyncio.sleep(0.01)
    await transaction.commit()
    with pytest.raises(asyncpg.PostgresError) as refusal:
        await waiting
    assert refusal.value.sqlstate in ("PR422", "PR423")


async def test_no_worker_gets_an_operation_against_a_protected_branch(connect: Connect) -> None:
    """However the row came about: it is passed over, and others are not held up."""
    api, owner = await connect("cloister_api"), await connect("postgres")
    await owner.execute("ALTER TABLE operation DISABLE TRIGGER operation_protection")
    await api.execute(operation("delete_project").format(project="prod", branch="br-prod", endpoint="ep-prod"))
    await owner.execute("ALTER TABLE operation ENABLE ALWAYS TRIGGER operation_protection")
    harmless = operation("suspend_compute", number=2)
    await api.execute(harmless.format(project="prod", branch="br-prod", endpoint="ep-prod"))
    claim = "UPDATE operation SET status = 'running', leased_until = now() + interval '1 minute' RETURNING id"
    assert [row["id"] for row in await api.fetch(claim)] == ["op-2"]
    await unprotect(api)
    assert len(await api.fetch(claim)) == 2


async def test_refusals_of_the_database_come_out_as_ours(connect: Connect, database_as: DatabaseAs) -> None:
    await connect("cloister_api")  # the world
    database: Database = await database_as("cloister_api")
    for statement, expected, code in (
        ("UPDATE branch SET deleted_at = now() WHERE id = 'br-prod'", UnprocessableError, ""),
        ("UPDATE branch SET expires_at = now() WHERE id = 'br-prod'", BadRequestError, words.EXPIRE_CODE),
    ):
        with pytest.raises(CloisterError) as refusal:
            async with database.transaction() as tx:
                await tx.execute(statement)
        assert type(refusal.value) is expected
        assert refusal.value.code == code
        assert "br-prod" in str(refusal.value)
        assert "br-prod" not in refusal.value.public
    async with database.transaction() as tx:
        await tx.execute("UPDATE timeline SET state = 'deleting' WHERE id = 'tl-toy'")
        await tx.execute("UPDATE branch SET deleted_at = NULL WHERE id = 'br-toy'")
    api = await connect("cloister_api")
    await api.execute(operation("delete_project").format(project="toy", branch="br-toy", endpoint="ep-none"))
    await api.execute("UPDATE timeline SET state = 'ready' WHERE id = 'tl-toy'")
    with pytest.raises(BusyError):
        async with database.transaction() as tx:
            await tx.execute("UPDATE branch SET is_protected = true WHERE id = 'br-toy'")

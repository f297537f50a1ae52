"""What clients ask of branches, snapshots and schemas reaches the services as they meant it, and what they may see once."""

from datetime import UTC, datetime
from typing import Any

import pytest

from cloister.base.errors import BadRequestError, ConflictError, UnprocessableError
from cloister.base.secret import Secret
from cloister.control.branches.model import HEAD, NewPassword, Point, ScheduleItem
from cloister.trust.access.permissions import Permission
from tests.edge.api.world import (
    BRANCH,
    CHILD,
    ENDPOINT,
    GONE,
    PASSWORD,
    PROJECT,
    SNAPSHOT,
    World,
    a_role,
    branch,
    project,
)
from tests.neon_description import faults, noun

P = f"/projects/{PROJECT}"
B = f"{P}/branches/{BRANCH}"
C = f"{P}/branches/{CHILD}"
WRITER = {"endpoints": [{"type": "read_write"}]}
AT = datetime(2026, 3, 4, 3, 6, 7, 890_000, tzinfo=UTC)


async def post(world: World, path: str, body: Any = None, *, status: int = 200) -> Any:
    async with world.client() as client:
        answer = await client.post(path, json=body) if body is not None else await client.post(path)
    assert answer.status_code == status, answer.text
    return answer.json()


async def test_without_a_body_it_is_a_child_of_the_default_branch_without_an_endpoint() -> None:
    world = World()
    made = await post(world, f"{P}/branches", status=201)
    (new,) = world.branches.created
    assert (new.name, new.parent_id, new.point, new.init_source, new.endpoints) == (None, None, HEAD, "parent-data", [])
    assert made["endpoints"] == []
    assert "connection_uris" not in made


async def test_everything_a_branch_can_be_created_with_arrives() -> None:
    world = World()
    body = {
        "branch": {
            "name": "preview/äpfel",
            "parent_id": BRANCH,
            "parent_timestamp": "2026-03-04T05:06:07.890+02:00",
            "protected": True,
            "init_source": "schema-only",
            "expires_at": "2026-03-05T00:00:00Z",
        },
        "endpoints": [
            {"type": "read_write", "autoscaling_limit_max_cu": 2, "provisioner": "k8s-neonvm"},
            {"type": "read_only", "suspend_timeout_seconds": 60, "settings": {"pg_settings": {"work_mem": "8MB"}}},
        ],
        "annotation_value": {"pull request": "7"},
    }
    await post(world, f"{P}/branches", body, status=201)
    (new,) = world.branches.created
    assert (new.name, new.parent_id, new.init_source, new.is_protected) == (
        "preview/äpfel", BRANCH, "schema-only", True,
    )  # fmt: skip
    assert new.point == Point(at=AT)
    assert new.expires_at == datetime(2026, 3, 5, tzinfo=UTC)
    writer, reader = new.endpoints
    assert (writer.type, writer.max_cu) == ("read_write", 2)
    assert (reader.type, reader.suspend_timeout_seconds, reader.pg_settings) == ("read_only", 60, {"work_mem": "8MB"})


async def test_a_position_is_told_as_postgresql_writes_it() -> None:
    world = World()
    await post(world, f"{P}/branches", {"branch": {"parent_lsn": "00/015e9a30", "parent_id": ""}}, status=201)
    assert world.branches.created[0].point == Point(lsn="0/15E9A30")
    assert world.branches.created[0].parent_id is None


async def test_the_service_hears_only_of_permissions_that_the_route_may_need() -> None:
    world = World()
    await post(world, f"{P}/branches", {}, status=201)
    async with world.client() as client:
        await client.patch(B, json={"branch": {"protected": False}})
    await post(world, f"{B}/restore", {"source_branch_id": CHILD})
    assert world.branches.grants == [
        {Permission.BRANCH_CREATE_FROM_PROTECTED, Permission.BRANCH_PROTECT},
        {Permission.BRANCH_PROTECT, Permission.BRANCH_UNPROTECT},
        {Permission.BRANCH_CREATE_FROM_PROTECTED},
    ]


async def test_new_passwords_of_a_protected_parents_child_are_shown_once() -> None:
    world = World()
    world.branches.passwords = [NewPassword(a_role(), Secret(PASSWORD))]
    made = await post(world, f"{P}/branches", WRITER, status=201)
    assert made["roles"][0]["password"] == PASSWORD
    (details,) = made["connection_uris"]
    assert details["connection_parameters"]["password"] == PASSWORD
    assert f":npg_p%25%2F%40%3Ashown1234567890@{ENDPOINT}." in details["connection_uri"]
    restored = await post(world, f"{C}/restore", {"source_branch_id": BRANCH})
    assert restored["roles"][0]["password"] == PASSWORD
    async with world.client() as client:
        assert PASSWORD not in (await client.get(f"{C}/roles")).text


async def test_a_child_of_any_other_branch_shows_no_password_but_a_stored_one() -> None:
    world = World()
    made = await post(world, f"{P}/branches", WRITER, status=201)
    assert "password" not in made["roles"][0]
    assert made["connection_uris"][0]["connection_uri"].startswith(f"postgresql://neondb_owner@{ENDPOINT}.")
    assert made["connection_uris"][0]["connection_parameters"]["password"] == ""
    world.projects.rows[PROJECT] = project(store_passwords=True)
    world.roles.stored_password = PASSWORD
    stored = await post(world, f"{P}/branches", WRITER, status=201)
    assert stored["connection_uris"][0]["connection_parameters"]["password"] == PASSWORD


async def test_there_is_no_connection_uri_where_somebody_must_choose() -> None:
    world = World()
    world.branches.roles = [a_role(), a_role("app")]
    assert "connection_uris" not in await post(world, f"{P}/branches", WRITER, status=201)


async def test_a_branch_is_shown_with_its_sizes_its_parent_and_its_expiry() -> None:
    world = World()
    world.branches.rows[1] = branch(
        CHILD, is_default=False, parent_id=BRANCH, parent_lsn="0/15E9A30", parent_timestamp=AT,
        expires_at=datetime(2026, 3, 5, tzinfo=UTC), ttl_interval_seconds=86_400,
    )  # fmt: skip
    async with world.client() as client:
        shown = (await client.get(C)).json()["branch"]
        listed = (await client.get(f"{P}/branches")).json()["branches"]
    assert (shown["parent_id"], shown["parent_lsn"], shown["parent_timestamp"]) == (
        BRANCH, "0/15E9A30", "2026-03-04T03:06:07Z",
    )  # fmt: skip
    assert (shown["expires_at"], shown["ttl_interval_seconds"]) == ("2026-03-05T00:00:00Z", 86_400)
    assert (shown["logical_size"], shown["unique_size"], shown["history_size"]) == (8_000_000, 12_288, 1_048_576)
    assert shown["init_source"] == "parent-data"
    assert "recovery" not in shown
    assert listed[1] == shown
    assert "parent_id" not in listed[0]


async def test_the_deleted_are_listed_only_when_asked_for_page_by_page() -> None:
    world = World()
    async with world.client() as client:
        assert len((await client.get(f"{P}/branches")).json()["branches"]) == 2
        pages = [(await client.get(f"{P}/branches?include_deleted=True&limit=1")).json()]
        while cursor := pages[-1]["pagination"].get("next"):
            pages.append((await client.get(f"{P}/branches?include_deleted=true&limit=1&cursor={cursor}")).json())
    assert [[it["id"] for it in page["branches"]] for page in pages] == [[BRANCH], [CHILD], [GONE]]
    assert pages[-1]["branches"][0]["recovery"] == {
        "deleted_at": "2026-03-04T05:06:07Z",
        "recoverable_until": "2026-03-11T05:06:07Z",
        "deletion_method": "user",
    }


async def test_an_expiry_is_set_kept_and_taken_away() -> None:
    world = World()
    async with world.client() as client:
        for change in ({"expires_at": "2026-03-05T00:00:00Z"}, {"name": "x"}, {"expires_at": None}):
            assert (await client.patch(B, json={"branch": change})).status_code == 200
    set_, kept, taken = world.branches.changes
    assert (set_.expires_at, set_.never_expires) == (datetime(2026, 3, 5, tzinfo=UTC), False)
    assert (kept.expires_at, kept.never_expires, kept.name) == (None, False, "x")
    assert (taken.expires_at, taken.never_expires) == (None, True)


async def test_deleting_is_soft_unless_it_is_said_to_be_for_good_and_twice_is_once() -> None:
    world = World()
    async with world.client() as client:
        await client.delete(C)
        await client.delete(f"{C}?hard_delete=true")
        gone = await client.delete(f"{P}/branches/br-calm-forest-zzzzzzzz")
    assert world.branches.hard == [False, True, False]
    assert (gone.status_code, gone.content) == (204, b"")


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (UnprocessableError(public="cannot delete protected branch"), 422, ""),
        (ConflictError(public='branch already exists; branch_name:"x"'), 409, ""),
    ],
)
async def test_a_refusal_has_neons_words(error: Any, status: int, code: str) -> None:
    world = World()
    world.branches.error = error
    async with world.client() as client:
        answer = await client.delete(B)
    assert (answer.status_code, answer.json()["message"], answer.json()["code"]) == (status, error.public, code)


async def test_neons_code_reaches_the_client() -> None:
    world = World()
    world.branches.error = BadRequestError(public="Protected branch cannot have an expiration date")
    world.branches.error.code = "PROTECTED_BRANCH_EXPIRATION_NOT_ALLOWED"
    async with world.client() as client:
        answer = await client.patch(B, json={"branch": {"expires_at": "2026-03-05T00:00:00Z"}})
    assert (answer.status_code, answer.json()["code"]) == (400, "PROTECTED_BRANCH_EXPIRATION_NOT_ALLOWED")


async def test_what_to_restore_to_arrives() -> None:
    world = World()
    await post(world, f"{B}/restore", {"source_branch_id": BRANCH, "source_timestamp": "2026-03-04T03:06:07.89Z",
                                       "preserve_under_name": "before"})  # fmt: skip
    await post(world, f"{C}/restore", {"source_branch_id": BRANCH, "preserve_under_name": ""})
    await post(world, f"{C}/reset_to_parent", {"preserve_under_name": "before"})
    (_, itself), (_, head), (reset_id, reset) = world.branches.restored
    assert (itself.source_id, itself.point, itself.preserve_under_name) == (BRANCH, Point(at=AT), "before")
    assert (head.source_id, head.point, head.preserve_under_name) == (BRANCH, HEAD, None)
    assert (reset_id, reset.source_id, reset.point, reset.preserve_under_name) == (CHILD, BRANCH, HEAD, "before")
    refused = await post(world, f"{B}/reset_to_parent", status=422)
    assert "no parent" in refused["message"]


async def test_archived_branches_are_refused_and_not_forgotten() -> None:
    world = World()
    refused = await post(world, f"{P}/branches", {"branch": {"archived": True}}, status=422)
    assert "archive" in refused["message"]
    assert world.branches.created == []


async def test_the_same_creation_with_the_same_key_is_one() -> None:
    world = World()
    async with world.client() as client:
        first = await client.post(f"{P}/branches", json=WRITER, headers={"Idempotency-Key": "k"})
        second = await client.post(f"{P}/branches", json=WRITER, headers={"Idempotency-Key": "k"})
        other = await client.post(f"{P}/branches", json={}, headers={"Idempotency-Key": "k"})
    assert (first.status_code, second.status_code, other.status_code) == (201, 201, 422)
    assert first.json() == second.json()
    assert len(world.branches.created) == 1


async def test_a_snapshot_is_asked_for_in_the_query() -> None:
    world = World()
    query = "name=before%20it&timestamp=2026-03-04T05:06:07.89%2B02:00&expires_at=2026-03-05T00:00:00Z&slug=x"
    await post(world, f"{B}/snapshot?{query}")
    await post(world, f"{B}/snapshot", {})
    named, plain = world.snapshots.created
    assert (named["name"], named["point"]) == ("before it", Point(at=AT))
    assert named["expires_at"] == datetime(2026, 3, 5, tzinfo=UTC)
    assert plain == {"branch_id": BRANCH, "name": None, "point": HEAD, "expires_at": None}


async def test_restoring_a_snapshot_over_a_branch_takes_a_further_permission() -> None:
    world = World()
    await post(world, f"{P}/snapshots/{SNAPSHOT}/restore?name=old")
    await post(world, f"{P}/snapshots/{SNAPSHOT}/restore", {"finalize_restore": True, "target_branch_id": BRANCH})
    assert world.snapshots.restored == [
        {"name": "old", "target_id": BRANCH, "is_final": False},
        {"name": None, "target_id": BRANCH, "is_final": True},
    ]
    world.decider.refused = {Permission.BRANCH_RESTORE}
    await post(world, f"{P}/snapshots/{SNAPSHOT}/restore", {"finalize_restore": True}, status=403)
    await post(world, f"{P}/snapshots/{SNAPSHOT}/restore", {})
    assert len(world.snapshots.restored) == 3


async def test_a_snapshot_replaces_what_it_was_taken_of_unless_that_is_gone_or_protected() -> None:
    world = World()
    path = f"{P}/snapshots/{SNAPSHOT}/restore"
    world.branches.rows[0] = branch(is_protected=True)
    await post(world, path)
    await post(world, path, {"finalize_restore": True})
    await post(world, path, {"target_branch_id": CHILD})
    world.branches.rows = []
    await post(world, path)
    assert [it["target_id"] for it in world.snapshots.restored] == [None, BRANCH, CHILD, None]


async def test_a_schedule_is_shown_as_it_was_set() -> None:
    world = World()
    schedule = {"schedule": [{"frequency": "weekly", "day": 7, "hour": 3, "retention_seconds": 604_800}]}
    async with world.client() as client:
        assert (await client.put(f"{B}/backup_schedule", json=schedule)).json() == {}
        assert (await client.get(f"{B}/backup_schedule")).json() == schedule
        assert world.snapshots.items == [ScheduleItem(frequency="weekly", day=7, hour=3, retention_seconds=604_800)]
        await client.put(f"{B}/backup_schedule", json={"schedule": []})
        assert (await client.get(f"{B}/backup_schedule")).json() == {"schedule": []}


async def test_schemas_are_compared_with_the_parent_unless_another_is_named() -> None:
    world = World()
    async with world.client() as client:
        assert (await client.get(f"{B}/schema?db_name=neondb&lsn=0/1")).json() == {"sql": "a\nb\n"}
        compared = await client.get(f"{C}/compare_schema?db_name=neondb&base_timestamp=2026-03-04T03:06:07.89Z")
        same = await client.get(f"{C}/compare_schema?db_name=neondb&base_branch_id={CHILD}")
        root = await client.get(f"{B}/compare_schema?db_name=neondb")
    assert compared.json() == {"diff": "--- a/neondb\n+++ b/neondb\n@@ -1,2 +1,3 @@\n a\n b\n+c\n"}
    assert same.json() == {"diff": ""}
    assert root.status_code == 422
    assert world.schemas.asked[:3] == [
        (BRANCH, "neondb", Point(lsn="0/1")),
        (BRANCH, "neondb", Point(at=AT)),
        (CHILD, "neondb", HEAD),
    ]


async def test_a_schema_is_told_as_its_tables_in_neons_words() -> None:
    world = World()
    async with world.client() as client:
        told = (await client.get(f"{B}/schema?db_name=neondb&format=json&lsn=0/1")).json()
        empty = (await client.get(f"{C}/schema?db_name=neondb&format=json")).json()
    assert list(faults(told, noun("BranchSchemaResponse"))) == []
    (table,) = told["json"]["tables"]
    assert (table["schema"], table["name"]) == ("public", "orders")
    assert table["columns"] == [
        {"name": "id", "type": "bigint", "nullable": False, "generated": False},
        {"name": "customer", "type": "integer", "nullable": True, "generated": False},
    ]
    assert table["constraints"] == [
        {"type": "primary_key", "columns": ["id"], "name": "orders_pkey"},
        {
            "type": "foreign_key",
            "columns": ["customer"],
            "name": "orders_customer_fkey",
            "referenced_table": {"schema": "public", "table": "customers", "columns": ["id"]},
        },
    ]
    assert empty == {"json": {"tables": []}}
    assert world.schemas.asked == [(BRANCH, "neondb", Point(lsn="0/1")), (CHILD, "neondb", HEAD)]

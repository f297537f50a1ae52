"""`cloister branches` and `cloister snapshots`: what they send, what they print, and what they advise."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cloister.cli import output
from cloister.cli.api import Json
from cloister.cli.branch_tree import grown
from cloister.cli.failure import CommandError
from cloister.cli.points import Place, parse_parent, parse_place

PROJECT: Json = {"id": "calm-forest-12345678", "name": "shop"}
P = f"/projects/{PROJECT['id']}"
NOW = datetime.now(UTC)


def moment(**ago: float) -> str:
    return (datetime.now(UTC) - timedelta(**ago)).strftime("%Y-%m-%dT%H:%M:%SZ")


MAIN: Json = {
    "id": "br-calm-lake-aaaaaaaa", "name": "main", "default": True, "protected": True, "current_state": "ready",
    "created_at": moment(days=3), "logical_size": 8_000_000, "unique_size": 9_000_000, "history_size": 1_500_000,
}  # fmt: skip
PREVIEW: Json = {
    "id": "br-calm-lake-bbbbbbbb", "name": "preview", "parent_id": MAIN["id"], "current_state": "ready",
    "created_at": moment(hours=3), "logical_size": 8_000_000, "unique_size": 12_288, "history_size": 0,
    "expires_at": moment(hours=-71.9),
}  # fmt: skip
GONE: Json = {
    "id": "br-calm-lake-dddddddd", "name": "old", "current_state": "ready", "created_at": moment(days=9),
    "recovery": {"deleted_at": moment(hours=2), "recoverable_until": moment(days=-6.9), "deletion_method": "user"},
}  # fmt: skip
M, B = f"{P}/branches/{MAIN['id']}", f"{P}/branches/{PREVIEW['id']}"
SNAPSHOT: Json = {"id": "snap-calm-lake-ab12cd34", "name": "before", "source_branch_id": MAIN["id"],
                  "timestamp": moment(hours=1), "manual": True}  # fmt: skip
FINISHED: Json = {"id": "11111111-2222-3333-4444-555555555555", "project_id": PROJECT["id"], "action": "create_branch",
                  "status": "finished"}  # fmt: skip
URI = "postgresql://neondb_owner:npg_x@ep-calm-lake-ab12cd34.db.localhost/neondb?sslmode=verify-full"


@pytest.fixture(autouse=True)
def _world(api: Any) -> None:
    def listed(asked: Any) -> tuple[int, Json]:
        deleted = [GONE] if asked.query.get("include_deleted") == "true" else []
        return 200, {"branches": [PREVIEW, MAIN, *deleted], "pagination": {}}

    api.on("GET", "/projects", (200, {"projects": [PROJECT]}))
    api.on("GET", f"{P}/branches", listed)
    for path, branch in ((M, MAIN), (B, PREVIEW)):
        api.on("GET", path, (200, {"branch": branch}))
        api.on("GET", f"{path}/databases", (200, {"databases": [{"name": "neondb"}]}))
        api.on("PATCH", path, (200, {"branch": branch, "operations": []}))
        api.on("POST", f"{path}/restore", (200, {"branch": branch, "operations": [FINISHED]}))
    api.on("GET", f"{P}/endpoints", (200, {"endpoints": [{"branch_id": MAIN["id"], "current_state": "active"}]}))
    api.on("POST", f"{P}/branches", (201, {"branch": PREVIEW, "endpoints": [], "operations": [FINISHED], "roles": []}))
    api.on("GET", f"{P}/snapshots", (200, {"snapshots": [SNAPSHOT]}))


def sent(api: Any, method: str) -> Any:
    return api.bodies(method)[-1]


def test_the_tree_shows_who_grew_out_of_whom_and_what_becomes_of_them(cloister: Any) -> None:
    done = cloister("branches", "tree")
    assert done.out.splitlines() == [
        "Branch      Created     Size    Own      History  State       Notes",
        "main        3 days ago  8.0 MB  9.0 MB   1.5 MB   active      default, protected",
        "└─ preview  3 h ago     8.0 MB  12.3 kB  0 B      no compute  expires in 3 days",
    ]
    (root,) = cloister("branches", "tree", "-o", "json").json
    assert (root["name"], root["children"][0]["name"], root["children"][0]["children"]) == ("main", "preview", [])


def test_read_only_endpoints_stand_in_the_notes_of_the_tree(api: Any, cloister: Any) -> None:
    readers = [{"branch_id": MAIN["id"], "type": "read_only", "current_state": state} for state in ("active", "idle")]
    writer = {"branch_id": MAIN["id"], "type": "read_write", "current_state": "idle"}
    api.on("GET", f"{P}/endpoints", (200, {"endpoints": [*readers, writer]}))
    line = cloister("branches", "tree").out.splitlines()[1]
    assert " ".join(line.split()).endswith("idle default, protected, 2 read-only (1 active)")


def test_a_tree_of_many_is_drawn_in_order(api: Any, cloister: Any) -> None:
    rows = [
        {"id": name, "name": name, "parent_id": parent, "current_state": "ready", "created_at": moment(hours=10 - age)}
        for age, (name, parent) in enumerate(
            [("a", None), ("b", "a"), ("c", "b"), ("d", "a"), ("e", "d"), ("f", "gone"), ("g", "c")]
        )
    ]
    api.on("GET", f"{P}/branches", (200, {"branches": rows[::-1]}))
    api.on("GET", f"{P}/endpoints", (200, {"endpoints": []}))
    drawn = [line[:12].rstrip() for line in cloister("branches", "tree").out.splitlines()[1:]]
    assert drawn == ["a", "├─ b", "│  └─ c", "│     └─ g", "└─ d", "   └─ e", "f"]


def test_a_tree_as_deep_as_it_can_be_is_no_recursion() -> None:
    rows: list[Json] = [
        {"id": str(n), "name": "n", "parent_id": str(n - 1), "current_state": "ready"} for n in range(5000)
    ]
    node = grown(rows, [])[0]
    for _ in range(4999):
        (node,) = node["children"]
    assert node["id"] == "4999"


@pytest.mark.parametrize(
    ("words", "branch"),
    [
        ((), {}),
        (("--name", "x", "--parent", "preview"), {"name": "x", "parent_id": PREVIEW["id"]}),
        (("--parent", PREVIEW["id"]), {"parent_id": PREVIEW["id"]}),
        (("--parent", "0/15E9A30"), {"parent_lsn": "0/15E9A30"}),
        (("--parent", "2026-03-04T05:06:07+02:00"), {"parent_timestamp": "2026-03-04T03:06:07Z"}),
        (("--parent", "preview@0/1"), {"parent_id": PREVIEW["id"], "parent_lsn": "0/1"}),
        (("--schema-only", "--protected"), {"init_source": "schema-only", "protected": True}),
        (("--expires-at", "2026-12-04T05:06:07Z"), {"expires_at": "2026-12-04T05:06:07Z"}),
    ],
)
def test_create_sends_what_was_said(api: Any, cloister: Any, words: tuple[str, ...], branch: Json) -> None:
    done = cloister("branches", "create", *words)
    assert done.code == 0, done.err
    assert sent(api, "POST") == {"branch": branch, "endpoints": [{"type": "read_write"}]}


def test_create_without_a_compute_or_with_a_particular_one(api: Any, cloister: Any) -> None:
    assert cloister("branches", "create", "--no-compute").code == 0
    assert sent(api, "POST")["endpoints"] == []
    assert cloister("branches", "create", "--type", "read_only", "--cu", "0.5-1", "--suspend-timeout", "60").code == 0
    assert sent(api, "POST")["endpoints"] == [
        {
            "type": "read_only",
            "autoscaling_limit_min_cu": 0.5,
            "autoscaling_limit_max_cu": 1.0,
            "suspend_timeout_seconds": 60,
        }
    ]


def test_an_expiry_may_be_said_as_a_time_from_now(api: Any, cloister: Any) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    assert cloister("branches", "create", "--expires-at", "7d").code == 0
    expiry = datetime.fromisoformat(sent(api, "POST")["branch"]["expires_at"])
    assert before <= expiry - timedelta(days=7) <= datetime.now(UTC)
    assert cloister("branches", "create", "--expires-at", "soon").code == 2


def test_new_passwords_are_shown_with_the_way_to_connect(api: Any, cloister: Any) -> None:
    answer = {"branch": PREVIEW, "operations": [FINISHED], "connection_uris": [{"connection_uri": URI}],
              "roles": [{"name": "neondb_owner", "password": "npg_x"}]}  # fmt: skip
    api.on("POST", f"{P}/branches", (201, answer))
    done = cloister("branches", "create")
    assert "neondb_owner:npg_x@" in done.out
    assert "neondb_owner  npg_x" in done.out
    assert "protected" in done.err
    assert "shown this once" in done.err
    assert cloister("branches", "create", "-o", "json").json["roles"] == answer["roles"]


@pytest.mark.parametrize(
    ("words", "method", "path", "body"),
    [
        (("rename", "preview", "new"), "PATCH", B, {"branch": {"name": "new"}}),
        (("protect", "preview"), "PATCH", B, {"branch": {"protected": True}}),
        (("unprotect", "main"), "PATCH", M, {"branch": {"protected": False}}),
        (("set-expiration", "preview"), "PATCH", B, {"branch": {"expires_at": None}}),
        (
            ("set-expiration", "preview", "--expires-at", "2026-12-04T05:06:07Z"),
            "PATCH", B, {"branch": {"expires_at": "2026-12-04T05:06:07Z"}},
        ),
        (
            ("restore", "main", "^self@2026-03-04T05:06:07Z", "--preserve-under-name", "before"),
            "POST", f"{M}/restore",
            {"source_branch_id": MAIN["id"], "source_timestamp": "2026-03-04T05:06:07Z", "preserve_under_name": "before"},
        ),
        (("restore", "preview", "^parent@0/AB"), "POST", f"{B}/restore", {"source_branch_id": MAIN["id"], "source_lsn": "0/AB"}),
        (("restore", "preview", "main"), "POST", f"{B}/restore", {"source_branch_id": MAIN["id"]}),
        (("reset", "preview", "--parent"), "POST", f"{B}/restore", {"source_branch_id": MAIN["id"]}),
    ],
)  # fmt: skip
def test_a_change_is_sent_as_it_was_said(  # noqa: PLR0917 - one case is one line
    api: Any, cloister: Any, words: tuple[str, ...], method: str, path: str, body: Json
) -> None:
    done = cloister("branches", *words)
    assert done.code == 0, done.err
    (change,) = [asked for asked in api.asked if asked.method == method]
    assert (change.path, change.body) == (f"/api/v2{path}", body)


def test_reset_wants_to_hear_what_to(cloister: Any) -> None:
    done = cloister("branches", "reset", "preview")
    assert done.code == 2
    assert "--parent" in done.err


def test_a_root_has_no_parent_to_go_back_to(cloister: Any) -> None:
    done = cloister("branches", "reset", "main", "--parent")
    assert (done.code, done.err) == (1, "cloister: main is a root branch: it has no parent\n")


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("cannot delete protected branch", "cloister branches unprotect preview"),
        ("cannot delete default branch", "set-default"),
        ("cannot delete branch that has children (a, b)", "cloister branches tree"),
    ],
)
def test_a_refusal_comes_with_the_next_step(api: Any, cloister: Any, said: str, advice: str) -> None:
    api.on("DELETE", B, (422, {"request_id": "r", "code": "", "message": said}))
    done = cloister("branches", "delete", "preview")
    assert done.code == 1
    assert done.err.startswith(f"cloister: {said}; ")
    assert advice in done.err


def test_a_point_outside_the_history_is_answered_with_the_window(api: Any, cloister: Any) -> None:
    window = "the timestamp must lie between 2026-03-03T05:06:07Z and 2026-03-04T05:06:07Z"
    api.on("POST", f"{M}/restore", (422, {"request_id": "r", "code": "", "message": window}))
    done = cloister("branches", "restore", "main", "^self@2020-01-01T00:00:00Z", "--preserve-under-name", "x")
    assert (done.code, done.err) == (1, f"cloister: {window}\n")


def test_delete_and_recover(api: Any, cloister: Any) -> None:
    api.on("DELETE", B, (200, {"branch": PREVIEW, "operations": [FINISHED]}))
    api.on("POST", f"{P}/branches/{GONE['id']}/recover", (200, {"branch": GONE, "endpoints": [], "operations": []}))
    deleted = cloister("branches", "delete", "preview")
    assert f"cloister branches recover {PREVIEW['id']}" in deleted.err
    assert api.asked[-1].query == {}
    assert "recover" not in cloister("branches", "delete", "preview", "--hard").err
    assert api.asked[-1].query == {"hard_delete": "true"}
    assert cloister("branches", "recover", "old", "-o", "json").json["id"] == GONE["id"]
    assert "list --deleted" in cloister("branches", "recover", "never").err
    listed = cloister("branches", "list", "--deleted")
    assert listed.out.splitlines()[1].split()[:2] == [GONE["id"], "old"]
    assert "in 7 days" in listed.out


def test_what_was_deleted_already_is_no_error(api: Any, cloister: Any) -> None:
    api.on("DELETE", B, (204, None))
    done = cloister("branches", "delete", PREVIEW["id"])
    assert (done.code, done.err) == (0, "There was no such branch.\n")


def test_a_schema_diff_is_the_apis_own_text_when_it_goes_to_a_program(api: Any, cloister: Any) -> None:
    diff = "--- a/neondb\n+++ b/neondb\n@@ -1 +1 @@\n-a\x1b[31m\n+b\n"
    api.on("GET", f"{B}/compare_schema", (200, {"diff": diff}))
    api.on("GET", f"{M}/compare_schema", (200, {"diff": ""}))
    assert cloister("branches", "schema-diff", "preview").out == diff
    assert api.asked[-1].query == {"base_branch_id": MAIN["id"], "db_name": "neondb"}
    assert cloister("branches", "schema-diff", "main", "preview@0/1", "--db", "shop").out == diff
    assert api.asked[-1].query == {"base_branch_id": MAIN["id"], "db_name": "shop", "lsn": "0/1"}
    same = cloister("branches", "schema-diff", "main", "^self@2026-03-04T05:06:07Z")
    assert (same.out, same.err) == ("", "The schemas are the same.\n")
    assert cloister("branches", "schema-diff", "preview", "-o", "json").json[0]["diff"] == diff


def test_snapshots(api: Any, cloister: Any) -> None:
    api.on("POST", f"{M}/snapshot", (200, {"snapshot": SNAPSHOT, "operations": [FINISHED]}))
    api.on("PATCH", f"{P}/snapshots/{SNAPSHOT['id']}", (200, {"snapshot": SNAPSHOT}))
    api.on("DELETE", f"{P}/snapshots/{SNAPSHOT['id']}", (202, {"operations": [FINISHED]}))
    api.on(
        "POST", f"{P}/snapshots/{SNAPSHOT['id']}/restore", (200, {"branch": PREVIEW, "operations": [], "endpoints": []})
    )
    api.on("POST", f"{B}/finalize_restore", (200, {"operations": []}))
    assert cloister("snapshots", "list").out.splitlines()[1].split()[:3] == [SNAPSHOT["id"], "before", MAIN["id"]]
    assert cloister("snapshots", "create", "--name", "before it", "--at", "0/1", "-o", "json").json == SNAPSHOT
    asked = next(asked for asked in api.asked if asked.path.endswith("/snapshot"))
    assert (asked.query, asked.body) == ({"name": "before it", "lsn": "0/1"}, None)
    assert cloister("snapshots", "update", SNAPSHOT["id"], "--never-expires").code == 0
    assert sent(api, "PATCH") == {"snapshot": {"expires_at": None}}
    assert cloister("snapshots", "update", SNAPSHOT["id"]).code == 2
    assert cloister("snapshots", "delete", SNAPSHOT["id"], "-o", "json").json == {"operations": [FINISHED]}
    assert cloister("snapshots", "restore", SNAPSHOT["id"], "--target-branch", "main", "--finalize").code == 0
    assert sent(api, "POST") == {"target_branch_id": MAIN["id"], "finalize_restore": True}
    assert cloister("snapshots", "finalize", "preview", "--name", "was").code == 0
    assert sent(api, "POST") == {"name": "was"}
    assert "has no snapshot" in cloister("snapshots", "get", "snap-x").err


def test_a_schedule_is_replaced_as_a_whole(api: Any, cloister: Any) -> None:
    api.on("PUT", f"{M}/backup_schedule", (200, {}))
    api.on("GET", f"{M}/backup_schedule", (200, {"schedule": []}))
    done = cloister(
        "snapshots", "schedule", "set", "hourly", "weekly", "--day", "7", "--hour", "3", "--retention", "14d"
    )
    assert done.code == 0, done.err
    assert sent(api, "PUT") == {
        "schedule": [
            {"frequency": "hourly", "retention_seconds": 1_209_600},
            {"frequency": "weekly", "hour": 3, "day": 7, "retention_seconds": 1_209_600},
        ]
    }
    assert "2 weeks" in done.out
    assert cloister("snapshots", "schedule", "set", "--none").code == 0
    assert sent(api, "PUT") == {"schedule": []}
    assert cloister("snapshots", "schedule", "set").code == 2
    assert cloister("snapshots", "schedule", "get").err == "No snapshot is scheduled.\n"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("main", Place("main")),
        ("^self@0/15E9A30", Place("^self", lsn="0/15E9A30")),
        ("me@example.com", Place("me@example.com")),
        ("me@example.com@0/1", Place("me@example.com", lsn="0/1")),
        ("main@2026-03-04T05:06:07.25Z", Place("main", at="2026-03-04T05:06:07.250000Z")),
    ],
)
def test_a_place_is_a_branch_and_maybe_a_point(text: str, place: Place) -> None:
    assert parse_place(text) == place


def test_a_parent_may_be_a_point_alone() -> None:
    assert parse_parent("0/1") == Place("", lsn="0/1")
    assert parse_parent("dev") == Place("dev")


@pytest.mark.parametrize(
    "text", ["main@2026-02-31T00:00:00Z", "main@0/", "@0/1", "main@2026-03-04", "main@9999-12-31T23:59:59-23:59"]
)
def test_what_looks_like_a_point_and_is_none_is_said(text: str) -> None:
    with pytest.raises(CommandError):
        parse_place(text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(-5, "now"), (30, "in 1 min"), (7000, "in 2 h"), (3 * 86400, "in 3 days")]
)
def test_a_time_to_come_in_words(seconds: int, text: str) -> None:
    assert output.ahead((NOW + timedelta(seconds=seconds)).isoformat(), NOW) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(1_209_600, "2 weeks"), (86_400, "24 h"), (3600, "60 min"), (61, "61 s")]
)
def test_a_duration_in_words(seconds: int, text: str) -> None:
    assert output.duration(seconds) == text


def test_the_help_of_the_tree_costs_no_more_than_another() -> None:
    """Only what a command needs is imported: the client does not load the server."""
    program = (
        "import cloister.cli.branches, cloister.cli.snapshots, sys;"
        "print([m for m in sys.modules if m.startswith(('cloister.control', 'cloister.edge', 'asyncpg', 'starlette'))])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

"""The client commands against an API: what they send, what they print, and how they end."""

import asyncio
import os
from typing import Any

import pytest

from cloister.cli import target
from cloister.cli.api import Api, ApiError, Json
from cloister.protocol.merkle.notes import VerifierKey
from cloister.protocol.merkle.tree import Tree
from tests.edge.api.world import FakeNotary

PROJECT: Json = {
    "id": "calm-forest-12345678",
    "name": "shop",
    "pg_version": 18,
    "created_at": "2026-01-02T03:04:05Z",
    "updated_at": "2026-01-02T03:04:05Z",
    "settings": {"allowed_ips": {"ips": ["10.0.0.1"], "protected_branches_only": True}},
}
BRANCH: Json = {"id": "br-calm-lake-ab12cd34", "name": "main", "default": True, "current_state": "ready"}
ENDPOINT: Json = {"id": "ep-calm-lake-ab12cd34", "host": "ep-calm-lake-ab12cd34.db.localhost", "current_state": "idle"}
P = f"/projects/{PROJECT['id']}"
B = f"{P}/branches/{BRANCH['id']}"
E = f"{P}/endpoints/{ENDPOINT['id']}"


def operation(status: str, **more: Any) -> Json:
    return {"id": "11111111-2222-3333-4444-555555555555", "project_id": PROJECT["id"], "action": "start_compute",
            "status": status, **more}  # fmt: skip


@pytest.fixture(autouse=True)
def _world(api: Any) -> None:
    api.on("GET", "/projects", (200, {"projects": [PROJECT], "pagination": {"cursor": PROJECT["id"]}}))
    api.on("GET", P, (200, {"project": PROJECT}))
    api.on("GET", f"{P}/branches", (200, {"branches": [BRANCH]}))
    api.on("GET", B, (200, {"branch": BRANCH}))
    api.on("GET", E, (200, {"endpoint": {**ENDPOINT, "current_state": "active"}}))
    api.on("GET", f"{B}/roles", (200, {"roles": [{"name": "neondb_owner"}]}))
    api.on("GET", f"{B}/databases", (200, {"databases": [{"name": "neondb"}]}))


def test_a_list_is_a_table_for_people_and_the_apis_objects_for_programs(api: Any, cloister: Any) -> None:
    table = cloister("projects", "list")
    assert table.code == 0
    assert table.out.splitlines()[0].split() == ["Id", "Name", "PostgreSQL", "Tags", "Created"]
    assert table.out.splitlines()[1].split() == [PROJECT["id"], "shop", "18", "-", "2026-01-02"]
    assert cloister("projects", "list", "-o", "json").json == [PROJECT]


def test_a_list_is_read_to_its_last_page(api: Any, cloister: Any) -> None:
    """The cursor of a full page is followed; a short page ends it although it has a cursor, as Neon's pages do."""
    first = [{**PROJECT, "id": f"calm-forest-{n:08}"} for n in range(100)]
    api.on("GET", "/projects", (200, {"projects": first, "pagination": {"cursor": "next"}}),
           (200, {"projects": [PROJECT], "pagination": {"cursor": PROJECT["id"]}}))  # fmt: skip
    assert len(cloister("projects", "list", "-o", "json").json) == 101
    assert [asked.query.get("cursor") for asked in api.asked] == [None, "next"]


def test_a_name_from_a_tenant_cannot_act_on_the_terminal(api: Any, cloister: Any) -> None:
    name = "\x1b]0;owned\x07\u202eevil\nrow"
    api.on("GET", "/projects", (200, {"projects": [{**PROJECT, "name": name}]}))
    table = cloister("projects", "list")
    assert "\\x1b]0;owned\\x07\\u202eevil\\nrow" in table.out
    assert len(table.out.splitlines()) == 2
    assert cloister("projects", "list", "-o", "json").json[0]["name"] == name


def test_create_sends_what_was_given_and_waits_for_the_operations(api: Any, cloister: Any) -> None:
    uri = "postgresql://neondb_owner:npg_x@ep-calm-lake-ab12cd34.db.localhost/neondb?sslmode=verify-full"
    api.on("POST", "/projects", (201, {"project": PROJECT, "connection_uris": [{"connection_uri": uri}],
                                       "operations": [operation("running")]}))  # fmt: skip
    api.on("GET", f"{P}/operations/{operation('')['id']}", (200, {"operation": operation("running")}),
           (200, {"operation": operation("finished")}))  # fmt: skip
    done = cloister(
        "projects", "create", "--name", "shop", "--cu", "0.5-2", "--suspend-timeout", "60", "--database", "d"
    )
    assert done.code == 0, done.err
    assert api.bodies("POST") == [
        {
            "project": {
                "name": "shop",
                "branch": {"database_name": "d"},
                "default_endpoint_settings": {
                    "autoscaling_limit_min_cu": 0.5,
                    "autoscaling_limit_max_cu": 2.0,
                    "suspend_timeout_seconds": 60,
                },
            }
        }
    ]
    assert sum(asked.path.endswith(operation("")["id"]) for asked in api.asked) == 2
    assert f"sslmode=verify-full&channel_binding=require&sslrootcert={api.ca_file}" in done.out
    assert "shown this once" in done.err


def test_no_wait_returns_at_once(api: Any, cloister: Any) -> None:
    api.on("POST", f"{E}/start", (200, {"endpoint": ENDPOINT, "operations": [operation("scheduling")]}))
    assert cloister("endpoints", "start", ENDPOINT["id"], "--no-wait", "-o", "json").json == ENDPOINT
    assert not any("/operations/" in asked.path for asked in api.asked)


def test_start_shows_what_came_of_it(api: Any, cloister: Any) -> None:
    api.on("POST", f"{E}/start", (200, {"endpoint": ENDPOINT, "operations": [operation("finished")]}))
    assert cloister("endpoints", "start", ENDPOINT["id"], "-o", "json").json["current_state"] == "active"


def test_an_operation_that_failed_is_said_to_have_failed(api: Any, cloister: Any) -> None:
    failed = operation("failed", error="no space left")
    api.on("POST", f"{E}/suspend", (200, {"endpoint": ENDPOINT, "operations": [failed]}))
    done = cloister("endpoints", "suspend", ENDPOINT["id"])
    assert (done.code, done.out) == (1, "")
    assert done.err == f"cloister: start_compute {failed['id']} did not succeed: no space left\n"


def test_delete_is_done_when_the_project_is_gone(api: Any, cloister: Any) -> None:
    """The operation of a deletion goes with its project: its 404 is the end, not an error."""
    api.on("DELETE", P, (200, {"project": PROJECT, "operations": [operation("running")]}))
    assert cloister("projects", "delete", PROJECT["id"], "-o", "json").json == PROJECT


def test_what_was_gone_already_is_no_error(api: Any, cloister: Any) -> None:
    api.on("DELETE", f"{B}/roles/gone", (204, None))
    done = cloister("roles", "delete", "gone")
    assert (done.code, done.err) == (0, "There was no such role.\n")


def test_names_are_segments_of_a_path_whatever_they_hold(api: Any, cloister: Any) -> None:
    api.on("POST", f"{B}/roles/a%2F..%2Fb%3Fc%20%22%F0%9F%90%98/reset_password",
           (200, {"role": {"name": "x", "password": "npg_new"}, "operations": []}))  # fmt: skip
    done = cloister("roles", "reset-password", 'a/../b?c "🐘', "-o", "json")
    assert done.json == {"name": "x", "password": "npg_new"}


def test_a_name_that_is_a_step_in_a_path_is_refused(api: Any, cloister: Any) -> None:
    """Whatever stands between would make `/roles/..` of it the branch itself."""
    for name in (".", "..", ""):
        done = cloister("roles", "delete", name)
        assert (done.code, "cannot be named to the API" in done.err) == (1, True), name
    assert [asked.method for asked in api.asked if asked.method == "DELETE"] == []


def test_what_was_seen_is_what_is_changed(api: Any) -> None:
    """A client that keeps versions sends the last one that it saw, of that path alone; one that keeps none sends none."""
    seen = iter(["1", "2"])
    api.on("GET", P, lambda _: (200, {"project": PROJECT}, {"ETag": f'"{next(seen)}"'}))
    api.on("PATCH", P, (412, {"message": "it moved", "code": "VERSION_MOVED"}), (200, {}, {"ETag": '"3"'}), (200, {}))
    client = Api(target.find(os.environ, None))
    client.versions = {}
    client.get(P)
    with pytest.raises(ApiError, match="it moved") as refused:
        client.patch(P, {})
    assert refused.value.code == "VERSION_MOVED"
    client.get(P)
    client.patch(P, {})
    client.patch(P, {})
    client.versions = None
    client.patch(P, {})
    asked = [each.headers.get("If-Match") for each in api.asked if each.method == "PATCH"]
    assert asked == ['"1"', '"2"', '"3"', None]
    client.close()


def test_a_busy_project_is_asked_again(api: Any, cloister: Any) -> None:
    busy = (423, {"request_id": "r", "code": "", "message": "project already has running conflicting operations"})
    api.on("PATCH", P, busy, (200, {"project": PROJECT, "operations": []}))
    assert cloister("projects", "update", PROJECT["id"], "--name", "new").code == 0
    assert api.bodies("PATCH") == [{"project": {"name": "new"}}] * 2


def test_creations_carry_one_idempotency_key_through_all_tries(api: Any, cloister: Any) -> None:
    busy = (503, {"request_id": "r", "code": "", "message": "restarting"})
    api.on("POST", f"{B}/databases", busy, (201, {"database": {"name": "d"}, "operations": []}))
    assert cloister("databases", "create", "--name", "d").code == 0
    keys = [asked.headers.get("Idempotency-Key") for asked in api.asked if asked.method == "POST"]
    assert len(keys) == 2
    assert len(set(keys)) == 1
    assert api.bodies("POST")[-1] == {"database": {"name": "d", "owner_name": "neondb_owner"}}


def test_several_projects_ask_for_a_choice(api: Any, cloister: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    api.on("GET", "/projects", (200, {"projects": [PROJECT, {**PROJECT, "id": "cold-lake-87654321"}]}))
    done = cloister("endpoints", "list")
    assert (done.code, done.err) == (
        1,
        "cloister: there are several projects: name one with --project-id or CLOISTER_PROJECT\n",
    )
    monkeypatch.setenv("CLOISTER_PROJECT", PROJECT["id"])
    api.on("GET", f"{P}/endpoints", (200, {"endpoints": [ENDPOINT]}))
    assert cloister("endpoints", "list", "-o", "json").json == [ENDPOINT]


def test_ip_allow_adds_removes_and_resets(api: Any, cloister: Any) -> None:
    """The list is read, changed and written whole; whether it is for protected branches only stays as it was."""
    api.on("PATCH", P, lambda asked: (200, {"project": {**PROJECT, **asked.body["project"]}}))
    assert cloister("ip-allow", "list", "-o", "json").json == PROJECT["settings"]["allowed_ips"]
    added = cloister("ip-allow", "add", "10.0.0.1,", "10.0.0.8-10.0.0.9", "2001:db8::/32", "-o", "json").json
    assert added == {"ips": ["10.0.0.1", "10.0.0.8-10.0.0.9", "2001:db8::/32"], "protected_branches_only": True}
    assert (
        cloister("ip-allow", "add", "10.0.0.2", "--all-branches", "-o", "json").json["protected_branches_only"] is False
    )
    removed = cloister("ip-allow", "remove", "10.0.0.1")
    assert "every address may connect" in removed.err
    assert cloister("ip-allow", "remove", "10.9.9.9").code == 2
    assert cloister("ip-allow", "reset", "-o", "json").json == {"ips": [], "protected_branches_only": False}


def test_connection_string(api: Any, cloister: Any) -> None:
    """Verified TLS is the default, the CA file is named, and no password is invented."""
    uri = "postgresql://neondb_owner@ep-calm-lake-ab12cd34.db.localhost:6543/neondb?sslmode=require"
    api.on("GET", f"{P}/connection_uri", (200, {"uri": uri}))
    done = cloister("connection-string", "main", "--pooled")
    base = uri.partition("?")[0]
    assert done.out == f"{base}?sslmode=verify-full&channel_binding=require&sslrootcert={api.ca_file}\n"
    assert "PGPASSWORD" in done.err
    assert api.asked[-1].query == {
        "branch_id": BRANCH["id"],
        "role_name": "neondb_owner",
        "database_name": "neondb",
        "pooled": "true",
    }
    described = cloister("cs", BRANCH["id"], "-o", "json", "--ssl", "omit").json
    assert described["connection_string"] == base
    assert (described["host"], described["port"]) == ("ep-calm-lake-ab12cd34.db.localhost", 6543)
    assert described["password"] is None


def test_connection_string_of_a_read_only_endpoint(api: Any, cloister: Any) -> None:
    uri = "postgresql://neondb_owner@ep-calm-lake-ef56gh78.db.localhost:6543/neondb?sslmode=require"
    api.on("GET", f"{P}/connection_uri", (200, {"uri": uri}))
    endpoints: list[Json] = [{"id": "ep-calm-lake-ab12cd34", "type": "read_write"}]
    api.on("GET", f"{P}/branches/{BRANCH['id']}/endpoints", lambda _asked: (200, {"endpoints": endpoints}))
    refused = cloister("connection-string", "main", "--endpoint-type", "read_only")
    assert refused.code == 1
    assert "branches add-compute" in refused.err
    endpoints.append({"id": "ep-calm-lake-ef56gh78", "type": "read_only"})
    assert "ep-calm-lake-ef56gh78" in cloister("connection-string", "main", "--endpoint-type", "read_only").out
    assert api.asked[-1].query["endpoint_id"] == "ep-calm-lake-ef56gh78"


def test_psql_gets_the_password_in_its_environment_and_not_in_its_arguments(
    api: Any, cloister: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.on("GET", f"{P}/connection_uri", (200, {"uri": "postgresql://o%20o:npg_s%21@ep-x.db.localhost/n%2Fx"}))
    seen: list[Any] = []
    monkeypatch.setattr(os, "execvpe", lambda *given: seen.extend(given))
    monkeypatch.setattr("shutil.which", lambda _name: "/usr/bin/psql")
    monkeypatch.setenv("PGHOSTADDR", "192.0.2.1")
    assert cloister("psql", "--", "-c", "select 1").code == 0
    program, arguments, environment = seen
    assert (program, arguments) == ("psql", ["psql", "-c", "select 1"])
    assert environment["PGPASSWORD"] == "npg_s!"
    assert (environment["PGHOST"], environment["PGUSER"], environment["PGDATABASE"]) == (
        "ep-x.db.localhost",
        "o o",
        "n/x",
    )
    assert (environment["PGSSLMODE"], environment["PGCHANNELBINDING"]) == ("verify-full", "require")
    assert environment["PGSSLROOTCERT"] == str(api.ca_file)
    assert "PGHOSTADDR" not in environment


def test_api_keys(api: Any, cloister: Any) -> None:
    """The list is a bare array, as at Neon; a new key is shown once."""
    api.on("GET", "/api_keys", (200, [{"id": 7, "name": "ci"}]))
    api.on("POST", "/api_keys", (200, {"id": 8, "name": "new", "key": "napi_secret"}))
    api.on("DELETE", "/api_keys/8", (200, {"id": 8, "name": "new", "revoked": True}))
    assert cloister("api-keys", "list", "-o", "json").json == [{"id": 7, "name": "ci"}]
    created = cloister("api-keys", "create", "--name", "new")
    assert "napi_secret" in created.out
    assert api.bodies("POST") == [{"key_name": "new"}]
    assert cloister("api-keys", "revoke", "8", "-o", "json").json["revoked"] is True


def test_audit_list_goes_back_page_by_page(api: Any, cloister: Any) -> None:
    """An event is told with its place in the log; --since ends the search at the first page that is all older."""

    def page(asked: Any) -> tuple[int, Json]:
        before, limit = int(asked.query.get("cursor", 1001)), int(asked.query["limit"])
        rows = [
            {
                "seq": seq,
                "hash": "00",
                "event": {"action": "x", "at": f"2026-01-01T00:{seq // 60:02}:{seq % 60:02}.000000Z"},
            }
            for seq in range(before - 1, max(before - 1 - limit, 0), -1)
        ]
        return 200, {"events": rows}

    api.on("GET", "/cloister/audit/events", page)
    rows = cloister("audit", "list", "--limit", "700", "--action", "connection.", "-o", "json").json
    assert [rows[0]["seq"], rows[-1]["seq"], len(rows), rows[0]["action"]] == [1000, 301, 700, "x"]
    assert api.asked[0].query["action"] == "connection."
    recent = cloister("audit", "list", "--limit", "900", "--since", "2026-01-01T00:16:00Z", "-o", "json").json
    assert [recent[0]["seq"], recent[-1]["seq"]] == [1000, 960]
    assert cloister("audit", "list", "--limit", "1").out.splitlines()[1].split()[:2] == [
        "1000",
        "2026-01-01T00:16:40.000000Z",
    ]


def test_audit_verify_from_elsewhere(api: Any, cloister: Any) -> None:
    """The verdict is the API's, the signature is verified here; a broken chain is exit code 1 and names the first broken
    link."""
    head = "17:" + "ab" * 32
    last = asyncio.run(FakeNotary(Tree().extended([bytes(32)] * 15)).last_checkpoint())
    signed = {"checkpoint": 15, "note": last.note, "key": last.key}
    api.on("GET", "/cloister/audit/verify", (200, {"is_intact": True, "head": head, **signed}))
    intact = cloister("audit", "verify", "--noted", head, "--key", last.key)
    assert (intact.code, intact.out) == (
        0,
        f"intact: 17 events, head {head}\nsigned: the first 15, not yet the 2 after them\n",
    )
    assert api.asked[-1].query == {"noted": head}
    api.on("GET", "/cloister/audit/verify", (200, {"is_intact": False, "broken_at": 5, "fault": "edited", **signed}))
    broken = cloister("audit", "verify")
    assert broken.code == 1
    assert "BROKEN at event 5 (edited)" in broken.err
    assert cloister("audit", "verify", "-o", "json").json["broken_at"] == 5


def test_audit_verify_from_elsewhere_believes_no_checkpoint_that_the_key_has_not_signed(
    api: Any, cloister: Any
) -> None:
    last = asyncio.run(FakeNotary(Tree().extended([bytes(32)] * 15)).last_checkpoint())
    verdict = {"is_intact": True, "head": "17:" + "ab" * 32, "checkpoint": 15, "note": last.note, "key": last.key}
    noted = str(VerifierKey("test/audit", bytes(32)))
    for changed, words, said in (
        ({}, ["--key", noted], "not signed by"),
        ({"note": last.note.replace("\n15\n", "\n16\n")}, [], "does not fit"),
        ({"checkpoint": 17}, [], "the API says that 17 events were signed; its note, 15"),
    ):
        api.on("GET", "/cloister/audit/verify", (200, {**verdict, **changed}))
        refused = cloister("audit", "verify", *words)
        assert refused.code == 1
        assert said in refused.err


def test_audit_who_says_it_in_words(api: Any, cloister: Any) -> None:
    event = {"seq": 7, "hash": "00", "event": {"action": "connection.opened", "actor": "role:app", "at": "x"}}
    given = {"seq": 3, "hash": "00", "event": {"action": "role.create", "actor": "user:ada"}}
    answer: Json = {"at": "x", "actor": "role:app", "role": "app", "event": event, "password_given_by": [given]}
    api.on("GET", "/cloister/audit/who", lambda _: (200, answer))
    said = cloister("audit", "who", "7").out
    assert api.asked[-1].query == {"event": "7"}
    assert "no account can be told" in said
    assert "user:ada (role.create, event 3)" in said
    answer |= {
        "account": {"id": "1", "email": "ada@example.com", "name": "Ada"},
        "access_request": {"id": "r1", "reason": "INC-7", "state": "active", "approved_by": ["boss@example.com"]},
        "password_given_by": [],
    }
    said = cloister("audit", "who", "11111111-2222-4333-8444-555555555555").out
    assert api.asked[-1].query == {"session_id": "11111111-2222-4333-8444-555555555555"}
    assert "Ada <ada@example.com>" in said
    assert "r1, agreed to by boss@example.com: INC-7" in said


def test_audit_subject_asks_for_somebody(api: Any, cloister: Any) -> None:
    api.on("GET", "/cloister/audit/events", (200, {"events": []}))
    assert cloister("audit", "subject").code == 1
    assert cloister("audit", "subject", "--role", "app", "--ip", "192.0.2.7", "--account", "a@b.test").code == 0
    wanted = {"role": "app", "address": "192.0.2.7", "account": "a@b.test", "limit": "50"}
    assert api.asked[-1].query.items() >= wanted.items()


def test_audit_table_chooses_by_the_name(api: Any, cloister: Any) -> None:
    texts = ["TABLE customers_old", 'TABLE "customers"', "x" * 4096, "BEGIN"]
    rows = [{"at": f"2026-01-01T00:00:0{at}.000000Z", "session_id": "s", "text": each} for at, each in enumerate(texts)]

    def page(asked: Any) -> Any:
        """Of one segment each, though more were asked for; the last is empty."""
        before = int(asked.query.get("cursor", 3))
        some = {2: rows[2:], 1: rows[:2], 0: []}[before - 1]
        return 200, {"segments": [{"id": str(before - 1), "statements": some}] if some else []}

    api.on("GET", f"/cloister{P}/statements", page)
    ask = (
        "audit",
        "table",
        "customers",
        "--project-id",
        PROJECT["id"],
        "--since",
        "2026-01-01T00:00:00Z",
        "-o",
        "json",
    )
    assert [each["text"] for each in cloister(*ask).json] == [texts[2], texts[1]]
    assert cloister(*ask[:6], "2026-01-01T00:00:02Z", "-o", "json").json[0]["text"] == texts[2]
    assert cloister("audit", "table", "customers", "--project-id", PROJECT["id"]).out == "", "since yesterday"


def test_what_was_erased_in_an_event_says_so(api: Any, cloister: Any) -> None:
    event: Json = {"action": "connection.opened", "actor": "role:", "at": "x", "erasure": "e-1"}
    recorded = {"seq": 7, "hash": "00", "event": event}
    api.on("GET", "/cloister/audit/events", (200, {"events": [recorded]}))
    said = cloister("audit", "list").out
    assert "role:(erased)" in said
    assert said.count("(erased)") == 2
    answer: Json = {"at": "x", "actor": "role:", "address": "", "role": "", "event": recorded, "password_given_by": []}
    api.on("GET", "/cloister/audit/who", (200, answer))
    said = cloister("audit", "who", "7").out
    assert "erased by e-1" in said
    assert "role:(erased)" in said


def test_somebody_is_forgotten_in_a_project_or_everywhere_and_in_no_other_words(api: Any, cloister: Any) -> None:
    asked: Json = {
        "id": "f-1",
        "kind": "address",
        "subject": "192.0.2.1",
        "reason": "Art. 17",
        "events": 3,
        "remaining": 1,
    }
    answer = {"forgetting": {**asked, "asked_by": "ada@example.com", "asked_at": "x", "up_to": 41}}
    for words, path, again in (
        (["--project-id", "calm-1"], "/cloister/projects/calm-1/audit_forgettings", "--project calm-1"),
        (["--platform"], "/cloister/audit/forgettings", "--platform"),
    ):
        api.on("POST", path, (201, answer))
        api.on("POST", f"{path}/f-1/agree", (200, answer))
        done = cloister("audit", "forget", *words, "--ip", "192.0.2.1", "--reason", "Art. 17")
        assert api.asked[-1].body == {"kind": "address", "subject": "192.0.2.1", "reason": "Art. 17"}
        assert f"cloister audit forget {again} --agree f-1" in done.out + done.err
        done = cloister("audit", "forget", *words, "--agree", "f-1")
        assert (api.asked[-1].path, api.asked[-1].body) == (f"/api/v2{path}/f-1/agree", None)
        assert "from before this could be erased, which stay: 1" in done.out + done.err
    before = len(api.asked)
    for wrong in (
        ["--ip", "192.0.2.1"],
        ["--reason", "x"],
        ["--ip", "192.0.2.1", "--role", "anna", "--reason", "x"],
        ["--agree", "f-1", "--reason", "x"],
        ["--agree", "f-1", "--ip", "192.0.2.1"],
    ):
        assert cloister("audit", "forget", "--platform", *wrong).code == 1
    assert len(api.asked) == before


@pytest.mark.parametrize("words", [("list",), ("subject", "--role", "app"), ("table", "t"), ("statements",)])
def test_a_list_that_ends_where_events_were_pruned_says_so(api: Any, cloister: Any, words: tuple[str, ...]) -> None:
    """Rather than to answer with nothing."""
    pruned = "the events up to 512 were pruned on 2026-05-01"
    api.on("GET", "/cloister/audit/events", (200, {"events": [], "pruned": pruned}))
    api.on("GET", "/cloister/projects/calm-forest-12345678/statements", (200, {"segments": [], "pruned": pruned}))
    where = () if words[0] in ("list", "subject") else ("--project", "calm-forest-12345678")
    said = cloister("audit", *words, *where)
    assert pruned in said.out + said.err
    assert pruned not in cloister("audit", *words, *where, "-o", "json").out


def test_the_retention_of_the_logs_own_events_is_two_operators(api: Any, cloister: Any) -> None:
    asked = {"id": "41d2", "record": "events", "days": 800, "reason": "policy", "asked_by": "ada@x", "state": "asked"}
    api.on("POST", "/cloister/audit/retention", (201, {"retention": asked}))
    said = cloister("audit", "retention", "set", "--platform", "--days", "800", "--reason", "policy")
    assert "cloister audit retention set --platform --agree 41d2" in said.out + said.err
    assert api.asked[-1].body == {"days": 800, "reason": "policy"}
    seen = {"pruned": 512, "up_to": 1024, "kept_by": "hold"}
    api.on("GET", "/cloister/audit/retention/preview", (200, seen))
    said = cloister("audit", "retention", "show", "--platform", "--due")
    assert "it is of a project under a legal hold" in said.out
    cloister("audit", "retention", "set", "--platform", "--days", "400", "--dry-run")
    assert api.asked[-1].query == {"days": "400"}
    for wrong in (("--days", "399"), ("--days", "800", "--record", "statements"), ("--days", "800", "--org-id", "o")):
        assert cloister("audit", "retention", "set", "--platform", *wrong, "--reason", "r").code != 0

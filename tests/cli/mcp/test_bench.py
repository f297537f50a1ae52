"""What bounds an agent, against an API that would allow everything."""

import builtins
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cloister.base.secret import Secret
from cloister.cli.failure import CommandError
from cloister.cli.mcp import sql
from cloister.cli.mcp.bench import BRANCHES_MAX, Bench
from cloister.cli.session import Session

PROJECT = "calm-forest-12345678"
P = f"/projects/{PROJECT}"
MAIN = {"id": "br-calm-lake-ab12cd34", "name": "main", "default": True, "protected": False}
MADE = {"id": "br-warm-wind-ef56ab78", "name": "try", "default": False, "protected": False}
NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


@pytest.fixture
def bench(api: Any) -> Iterator[Bench]:
    api.on("GET", f"{P}/branches", (200, {"branches": [MAIN, MADE]}))
    for branch in (MAIN, MADE):
        path = f"{P}/branches/{branch['id']}"
        api.on("GET", path, (200, {"branch": branch}))
        api.on("DELETE", path, (200, {"branch": branch, "operations": []}))
        api.on("GET", f"{path}/databases", (200, {"databases": [{"name": "neondb", "owner_name": "neondb_owner"}]}))
    api.on("POST", f"{P}/branches", (201, {"branch": MADE, "operations": []}))
    session = Session(None, "json", product="cloister-mcp")
    yield Bench(
        session, project_id=PROJECT, role_name=None, password=None, lifetime=timedelta(hours=2), now=lambda: NOW
    )
    session.close()


def write(bench: Bench, branch: str | None) -> Any:
    return bench.run_sql(None, branch, None, "DELETE FROM notes", [], is_write=True)


@pytest.mark.parametrize("branch", [None, "main", "try", MAIN["id"], MADE["id"]])
def test_what_it_did_not_make_it_does_not_write(api: Any, bench: Bench, branch: str | None) -> None:
    with pytest.raises(CommandError, match="create_branch"):
        write(bench, branch)
    assert {asked.method for asked in api.asked} == {"GET"}


def test_a_branch_expires_and_says_who_made_it(api: Any, bench: Bench) -> None:
    assert bench.create_branch(None, "try", "main")["may_write"]
    (body,) = api.bodies("POST")
    assert body["branch"] == {"expires_at": "2026-03-04T07:06:07Z", "name": "try", "parent_id": MAIN["id"]}
    assert {asked.headers["User-Agent"].partition("/")[0] for asked in api.asked} == {"cloister-mcp"}


@pytest.mark.parametrize("change", ["default", "protected"])
def test_what_became_somebodys_is_only_read(api: Any, bench: Bench, change: str) -> None:
    bench.create_branch(None, None, None)
    api.on("GET", f"{P}/branches", (200, {"branches": [MAIN, MADE | {change: True}]}))
    with pytest.raises(CommandError, match="by now"):
        write(bench, "try")
    with pytest.raises(CommandError, match="by now"):
        bench.delete_branch(None, "try")


def test_it_forgets_a_branch_with_its_deletion(api: Any, bench: Bench) -> None:
    bench.create_branch(None, None, None)
    bench.delete_branch(None, "try")
    with pytest.raises(CommandError, match="was not made by this server"):
        write(bench, "try")


def test_a_branch_whose_making_failed_may_be_deleted(api: Any, bench: Bench) -> None:
    failed = {"id": "11111111-2222-3333-4444-555555555555", "project_id": PROJECT, "status": "failed", "error": "full"}
    api.on("POST", f"{P}/branches", (201, {"branch": MADE, "operations": [failed]}))
    with pytest.raises(CommandError, match="full"):
        bench.create_branch(None, None, None)
    assert bench.delete_branch(None, "try")["deleted"] == MADE["id"]


def test_only_so_many_branches_at_once(api: Any, bench: Bench) -> None:
    for number in range(BRANCHES_MAX):
        made = MADE | {"id": f"br-warm-wind-{number:08}"}
        api.on("POST", f"{P}/branches", (201, {"branch": made, "operations": []}))
        api.on("GET", f"{P}/branches/{made['id']}", (200, {"branch": made}))
        bench.create_branch(None, None, None)
    with pytest.raises(CommandError, match="delete one"):
        bench.create_branch(None, None, None)


def test_no_other_project_is_even_asked_for(api: Any, bench: Bench) -> None:
    other = "calm-forest-87654321"
    for call in (
        lambda: bench.list_branches(other),
        lambda: bench.describe_schema(other, None, None),
        lambda: bench.create_branch(other, None, None),
        lambda: bench.run_sql(other, None, None, "SELECT 1", [], is_write=False),
    ):
        with pytest.raises(CommandError, match="alone"):
            call()
    assert api.asked == []


def test_no_password_of_a_branch_that_is_not_its_own_is_changed(api: Any, bench: Bench) -> None:
    api.on("GET", f"{P}/connection_uri", (200, {"uri": "postgresql://neondb_owner@ep-x.db.localhost/neondb"}))
    with pytest.raises(CommandError, match="no password"):
        bench.run_sql(None, "main", None, "SELECT 1", [], is_write=False)
    assert api.bodies("POST") == []


def test_a_login_is_quoted_and_names_the_program() -> None:
    login = sql.Login("ep-x.db.localhost", "a/b@c", Secret("p:w/d?"), "d b")
    assert login.connection_string() == (
        "postgresql://a%2Fb%40c:p%3Aw%2Fd%3F@ep-x.db.localhost/d%20b"
        "?application_name=cloister-mcp&options=-c%20statement_timeout%3D30s"
    )
    assert "p:w" not in repr(login)


def test_long_answers_are_cut_and_say_so() -> None:
    short = sql.within_limits("SELECT", 2, ["a"], [[1], [2]])
    assert (short["rows"], short.get("cut")) == ([[1], [2]], None)
    assert len(sql.within_limits("SELECT", 999, ["a"], [[1]] * 999)["rows"]) == sql.ROWS_MAX
    wide = sql.within_limits("SELECT", 3, ["a"], [["x" * 40_000]] * 3)
    assert (len(wide["rows"]), wide["cut"].split(":")[0]) == (1, "1 of 3 rows are shown")


def test_a_refusal_has_what_helps_to_correct_the_statement() -> None:
    document = {"message": 'column "a" does not exist', "code": "42703", "hint": "Perhaps b", "position": "8"}
    assert sql.refusal(document, 400) == ('column "a" does not exist (SQLSTATE 42703) hint: Perhaps b. position: 8.')
    assert "502" in sql.refusal(None, 502)


def test_without_the_extra_it_says_what_to_install(cloister: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    there = builtins.__import__

    def missing(name: str, *rest: Any, **more: Any) -> Any:
        if name == "cloister.cli.mcp.server":
            raise ModuleNotFoundError("No module named 'mcp'", name="mcp")
        return there(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    done = cloister("mcp")
    assert (done.code, done.out) == (1, "")
    assert "pip install 'cloister[mcp]'" in done.err

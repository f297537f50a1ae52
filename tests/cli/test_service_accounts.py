"""`cloister service-accounts`: what the commands send, and what a person reads."""

from datetime import UTC, datetime, timedelta
from typing import Any

from tests.cli.conftest import FakeApi, Run

PATH = "/cloister/organizations/org-1/service_accounts"
PROJECT = "calm-forest-12345678"


def account(**more: Any) -> dict[str, Any]:
    ends = (datetime.now(UTC) + timedelta(days=90)).strftime("%Y-%m-%dT%H:%M:%SZ")
    key = {"id": 8, "prefix": "napi_abcd", "expires_at": ends, "last_used_at": None, "last_used_from_addr": ""}
    return {
        "id": "00000000-0000-4000-8000-000000000001",
        "org_id": "org-1",
        "name": "ci",
        "role": "collaborator",
        "grants": [{"project_id": PROJECT, "role": "editor"}],
        "owner": "eve@example.com",
        "created_at": "2026-03-04T05:06:07Z",
        "orphaned_at": None,
        "disabled_at": None,
        "keys": [key],
    } | more


def test_a_key_is_shown_once_with_what_it_may(api: FakeApi, cloister: Run) -> None:
    api.on("POST", PATH, (201, {"service_account": account(), "key": "napi_shown"}))
    made = cloister("service-accounts", "create", "ci", "--grant", f"{PROJECT}=editor", "--org-id", "org-1")
    assert made.code == 0
    assert "napi_shown" in made.out
    assert f"{PROJECT}=editor" in made.out
    assert "this once" in made.err
    (body,) = api.bodies("POST")
    grants = [{"project_id": PROJECT, "role": "editor"}]
    assert body == {"name": "ci", "role": "collaborator", "grants": grants, "key_days": 90}


def test_a_machine_reads_the_key_as_json(api: FakeApi, cloister: Run) -> None:
    answer = {"service_account": account(), "key": "napi_shown"}
    api.on("GET", PATH, (200, {"service_accounts": [account()]}))
    api.on("POST", f"{PATH}/{account()['id']}/rotate", (201, answer))
    rotated = cloister("service-accounts", "rotate", "ci", "--overlap", "0s", "--org-id", "org-1", "-o", "json")
    assert rotated.json["key"] == "napi_shown"
    assert rotated.err == ""
    assert api.bodies("POST") == [{"overlap_seconds": 0, "key_days": 90}]


def test_it_is_found_by_its_name(api: FakeApi, cloister: Run) -> None:
    api.on("GET", PATH, (200, {"service_accounts": [account()]}))
    api.on("PATCH", f"{PATH}/{account()['id']}", (200, account(disabled_at="2026-03-04T05:06:07Z")))
    api.on("DELETE", f"{PATH}/{account()['id']}", (200, account(keys=[])))
    for verb in ("disable", "enable"):
        assert cloister("service-accounts", verb, "ci", "--org-id", "org-1").code == 0
    assert cloister("service-accounts", "update", "ci", "--no-grants", "--org-id", "org-1").code == 0
    assert api.bodies("PATCH") == [{"disabled": True}, {"disabled": False}, {"grants": []}]
    assert cloister("service-accounts", "remove", "ci", "--org-id", "org-1").code == 0
    missing = cloister("service-accounts", "disable", "cd", "--org-id", "org-1")
    assert (missing.code, "no service account cd" in missing.err) == (1, True)


def test_what_is_not_understood_is_not_sent(api: FakeApi, cloister: Run) -> None:
    for words in (
        ("create", "ci", "--grant", PROJECT),
        ("create", "ci", "--grant", f"{PROJECT}=owner"),
        ("create", "ci", "--role", "admin"),
        ("update", "ci"),
        ("update", "ci", "--no-grants", "--grant", f"{PROJECT}=viewer"),
        ("rotate", "ci", "--overlap", "soon"),
    ):
        assert cloister("service-accounts", *words, "--org-id", "org-1").code == 2, words
    assert api.asked == []

"""`cloister tags`: what it sends and shows."""

from typing import Any

import pytest

from cloister.cli.api import Json

PROJECT: Json = {"id": "calm-forest-12345678", "name": "shop", "tags": ["team-a"]}
MAIN: Json = {"id": "br-calm-lake-aaaaaaaa", "name": "main", "protected": True, "tags": ["pii"]}
P = f"/projects/{PROJECT['id']}"


@pytest.fixture(autouse=True)
def _world(api: Any) -> None:
    api.on("GET", "/projects", (200, {"projects": [PROJECT]}))
    api.on("GET", P, (200, {"project": PROJECT}))
    api.on("GET", f"{P}/branches", (200, {"branches": [MAIN], "pagination": {}}))
    api.on("PATCH", f"/cloister{P}/tags", (200, {"tags": ["team-a", "x"]}))
    api.on("PATCH", f"/cloister{P}/branches/{MAIN['id']}/tags", (200, {"tags": []}))


def test_a_project_and_its_branches_are_listed_with_what_is_derived(cloister: Any) -> None:
    done = cloister("tags", "list", "--output", "json")
    assert [(it["name"], it["tags"]) for it in done.json] == [("shop", ["team-a"]), ("main", ["pii", "protected"])]


@pytest.mark.parametrize(
    ("changed", "is_said"),
    [
        ({"protected": False, "default": True}, True),
        ({"protected": False, "default": False}, True),
        ({"protected": False, "default": False, "parent_id": "br-old-hill-bbbbbbbb"}, False),
        ({"protected": False, "default": False, "expires_at": "2026-01-01T00:00:00Z"}, False),
        ({"protected": False, "default": True, "tags": []}, False),
        ({}, False),
    ],
)
def test_what_is_tagged_and_not_protected_is_said(cloister: Any, api: Any, changed: Json, is_said: bool) -> None:
    api.on("GET", f"{P}/branches", (200, {"branches": [MAIN | changed], "pagination": {}}))
    said = cloister("tags", "list").err
    assert said == ("\nmain is not protected: cloister branches protect main\n" if is_said else "")


def test_what_is_changed_is_said_and_of_what(cloister: Any, api: Any) -> None:
    assert cloister("tags", "add", "x", "team-a").out == "Tags: team-a, x\n"
    assert api.asked[-1].body == {"add": ["x", "team-a"]}
    assert cloister("tags", "remove", "pii", "--branch", "main", "--reason", "masked").out == "Tags: none\n"
    assert api.asked[-1].path.endswith(f"{MAIN['id']}/tags")
    assert api.asked[-1].body == {"remove": ["pii"], "reason": "masked"}

"""`cloister branches create --mask`, `masking`, `anonymize`: what they send and show."""

import json
from pathlib import Path
from typing import Any

import pytest

from cloister.cli.api import Json
from cloister.cli.failure import CommandError
from cloister.cli.masking import rules_of

PROJECT: Json = {"id": "calm-forest-12345678", "name": "shop"}
TRY: Json = {"id": "br-calm-lake-aaaaaaaa", "name": "try", "current_state": "ready"}
P = f"/projects/{PROJECT['id']}"
B = f"{P}/branches/{TRY['id']}"
NAMES = {"database_name": "shop", "schema_name": "public", "table_name": "people", "column_name": "email"}
STATUS: Json = {
    "branch_id": TRY["id"],
    "state": "anonymized",
    "status_message": "masked",
    "updated_at": "2026-01-02T03:04:05Z",
}


@pytest.fixture(autouse=True)
def _world(api: Any) -> None:
    api.on("GET", "/projects", (200, {"projects": [PROJECT]}))
    api.on("GET", f"{P}/branches", (200, {"branches": [TRY], "pagination": {}}))
    api.on("GET", B, (200, {"branch": TRY}))
    api.on("GET", f"{P}/operations", (200, {"operations": []}))
    api.on("GET", f"{B}/anonymized_status", (200, STATUS))
    api.on("GET", f"{B}/masking_rules", (200, {"masking_rules": [NAMES | {"masking_function": "anon.hash(email)"}]}))
    api.on("PATCH", f"{B}/masking_rules", (200, {"masking_rules": []}))
    api.on("POST", f"{B}/anonymize", (200, STATUS))
    api.on("POST", f"{P}/branch_anonymized", (201, {"branch": TRY, "operations": []}))


def test_a_function_and_a_value_are_told_apart() -> None:
    assert rules_of(("shop.public.people.email=anon.partial_email(email)", "shop.public.people.email=a=b"), None) == [
        NAMES | {"masking_function": "anon.partial_email(email)"},
        NAMES | {"masking_value": "a=b"},
    ]


@pytest.mark.parametrize("text", ["", "people.email=x", "shop.public.people.email", "a.b.c.d.e=x"])
def test_what_is_no_rule_is_said(text: str) -> None:
    with pytest.raises(CommandError, match="no masking rule"):
        rules_of((text,), None)


def test_rules_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "rules.json"
    file.write_text(json.dumps([NAMES | {"masking_value": "x"}]))
    assert rules_of((), file) == [NAMES | {"masking_value": "x"}]
    for wrong in ("{}", "["):
        file.write_text(wrong)
        with pytest.raises(CommandError):
            rules_of((), file)


def test_a_branch_is_created_masked(cloister: Any, api: Any) -> None:
    cloister("branches", "create", "--name", "try", "--mask", "shop.public.people.email=anon.hash(email)")
    (asked,) = [it for it in api.asked if it.method == "POST"]
    assert asked.path.endswith("/branch_anonymized")
    assert asked.body["masking_rules"] == [NAMES | {"masking_function": "anon.hash(email)"}]
    assert asked.body["start_anonymization"] is True
    assert asked.body["branch_create"]["branch"] == {"name": "try"}


def test_how_far_it_is_and_by_which_rules(cloister: Any) -> None:
    out = cloister("branches", "masking", "try").out
    assert "anonymized" in out
    assert "shop.public.people.email" in out
    assert "anon.hash(email)" in out


def test_rules_are_replaced_and_tried_again(cloister: Any, api: Any) -> None:
    cloister("branches", "anonymize", "try", "--mask", "shop.public.people.email=x")
    changes = [(it.method, it.body) for it in api.asked if it.method in ("PATCH", "POST")]
    assert changes[0] == ("PATCH", {"masking_rules": [NAMES | {"masking_value": "x"}]})
    assert changes[1][0] == "POST"

"""`cloister branches consent` and `consent-policy`: what they send, and what they say is left to do."""

import json
from typing import Any

import pytest

from cloister.cli.api import Json

PROJECT = "calm-forest-12345678"
MAIN: Json = {"id": "br-calm-lake-aaaaaaaa", "name": "main", "current_state": "ready"}
B = f"/projects/{PROJECT}/branches/{MAIN['id']}"
C = f"/cloister{B}/consents"
POLICY = "/cloister/organizations/org-1/consent_policy"
ASKED: Json = {
    "id": "11111111-1111-4111-8111-111111111111",
    "act": "copy",
    "state": "asked",
    "asked_by": "ada@example.com",
}


@pytest.fixture(autouse=True)
def _world(api: Any) -> None:
    api.on("GET", "/projects", (200, {"projects": [{"id": PROJECT, "name": "shop"}]}))
    api.on("GET", f"/projects/{PROJECT}/branches", (200, {"branches": [MAIN], "pagination": {}}))
    api.on("GET", B, (200, {"branch": MAIN}))
    api.on("GET", C, (200, {"consents": [ASKED]}))
    api.on("POST", C, (201, {"consent": ASKED}))
    api.on("POST", f"{C}/{ASKED['id']}/agree", (200, {"consent": ASKED | {"state": "agreed"}}))
    api.on("PUT", POLICY, (200, {"required": True, "lift_asked_by": "ada@example.com"}))
    api.on("GET", POLICY, (200, {"required": False}))


def test_one_asks_and_another_agrees(api: Any, cloister: Any) -> None:
    asked = cloister("branches", "consent", "main", "--to", "copy", "--reason", "INC-7")
    assert api.bodies("POST") == [{"act": "copy", "reason": "INC-7"}]
    assert f"cloister branches consent {MAIN['id']} --project-id {PROJECT} --agree {ASKED['id']}" in asked.err
    agreed = cloister("branches", "consent", "main", "--agree", ASKED["id"], "-o", "json")
    assert json.loads(agreed.out)["state"] == "agreed"
    assert "ada@example.com" in cloister("branches", "consent", "main").out


@pytest.mark.parametrize(
    "words",
    [
        ["--to", "copy"],
        ["--reason", "x"],
        ["--agree", "1", "--reason", "x"],
        ["--agree", "1", "--end", "1"],
        ["--mask", "a.b.c.d=x"],
    ],
)
def test_half_of_a_request_is_none(api: Any, cloister: Any, words: list[str]) -> None:
    assert cloister("branches", "consent", "main", *words).code != 0
    assert api.asked == []


def test_rules_are_asked_for_as_a_branch_is_masked_and_shown_in_full(api: Any, cloister: Any) -> None:
    names = {"database_name": "shop", "schema_name": "public", "table_name": "people", "column_name": "email"}
    rules = [names | {"masking_function": "anon.hash(email)"}]
    api.on("POST", C, (201, {"consent": ASKED | {"act": "mask", "masking_rules": rules}}))
    mask = "shop.public.people.email=anon.hash(email)"
    asked = cloister("branches", "consent", "main", "--to", "mask", "--mask", mask, "--reason", "previews")
    assert api.bodies("POST") == [{"act": "mask", "reason": "previews", "masking_rules": rules}]
    assert mask in asked.out
    api.on("POST", f"{C}/{ASKED['id']}/end", (200, {"consent": ASKED | {"state": "ended"}}))
    assert "ended" in cloister("branches", "consent", "main", "--end", ASKED["id"]).out


def test_who_lifts_alone_is_told_that_it_still_holds(api: Any, cloister: Any) -> None:
    said = cloister("branches", "consent-policy", "--no-require", "--org-id", "org-1")
    assert api.bodies("PUT") == [{"required": False}]
    assert "It still holds" in said.err
    assert "no" in cloister("branches", "consent-policy", "--org-id", "org-1").out


def test_who_is_refused_reads_what_to_do(api: Any, cloister: Any) -> None:
    words = "cannot copy protected branch without the consent of another person"
    api.on("POST", f"/projects/{PROJECT}/branches", (422, {"message": words, "code": "CONSENT_NEEDED"}))
    assert (
        "cloister branches consent PROTECTED-BRANCH --to copy" in cloister("branches", "create", "--parent", "main").err
    )
    words = "cannot unprotect branch without the consent of another person"
    api.on("PATCH", B, (422, {"message": words, "code": "CONSENT_NEEDED"}))
    assert "cloister branches consent main --to unprotect" in cloister("branches", "unprotect", "main").err

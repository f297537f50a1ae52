"""Filters, paths and patches: whatever comes in, the outcome is a value or a ScimError; and what is said is what is taken."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.protocol.scim import (
    Email,
    GroupAttributes,
    ScimError,
    UserAttributes,
    read_document,
    read_filter,
    read_operations,
)
from cloister.protocol.scim.paths import PATCH, Path, read_path
from cloister.protocol.scim.users import EMAILS_MAX, SCHEMA

KNOWN = {"username": "userName", "externalid": "externalId"}
WAS = UserAttributes(
    "eve", "x", "Eve", "E", "E", (Email("a@example.com", "work", is_primary=True), Email("b@example.com"))
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.sampled_from(["active", "eve", "False"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["value", "type", "primary", "active", "userName", "name", "emails", "givenName", "members", "id"]
            )
            | st.text(max_size=8),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
PATHS = st.text(max_size=40) | st.sampled_from(
    [
        "active",
        "userName",
        "emails",
        'emails[type eq "work"].value',
        "emails[primary eq true]",
        "name.givenName",
        "members",
        "id",
        'members[value eq "11111111-1111-1111-1111-111111111111"]',
        f"{SCHEMA}:active",
        "urn:x:y:User:department",
        "",
    ]
)
OPERATION = st.fixed_dictionaries(
    {"op": st.sampled_from(["add", "Replace", "REMOVE", "move"])},
    optional={"path": PATHS | st.none(), "value": JSON},
)


@given(st.text(max_size=200))
def test_any_text_is_a_filter_or_is_refused(text: str) -> None:
    try:
        found = read_filter(text, KNOWN, SCHEMA)
    except ScimError:
        return
    assert found.keys() <= set(KNOWN.values())


@given(
    st.text(max_size=60).filter(lambda it: "\0" not in it),
    st.sampled_from(["userName", "USERNAME", f"{SCHEMA}:userName"]),
)
def test_a_filter_says_what_was_meant(value: str, name: str) -> None:
    literal = json.dumps(value)
    assert read_filter(f"{name} eq {literal}", KNOWN, SCHEMA) == {"userName": value}
    both = read_filter(f'{name} EQ {literal} AND externalId eq "1"', KNOWN, SCHEMA)
    assert both == {"userName": value, "externalId": "1"}


@given(PATHS)
def test_any_text_is_a_path_or_is_refused(text: str) -> None:
    try:
        path = read_path(text, SCHEMA)
    except ScimError:
        return
    assert path.name == path.name.lower()


def test_paths_say_what_was_meant() -> None:
    assert read_path('emails[type eq "Work"].value', SCHEMA) == Path("emails", ("type", "Work"), "value")
    assert read_path(f"{SCHEMA.upper()}:NAME.givenName", SCHEMA) == Path("name", None, "givenname")
    assert read_path("urn:ietf:params:scim:schemas:extension:enterprise:2.0:User:manager", SCHEMA) == Path("")
    for wrong in ("a.b.c", "emails[", "emails[type]", 'emails[type eq "a" and value eq "b"]', "a b", "urn:é", None, 7):
        with pytest.raises(ScimError):
            read_path(wrong, SCHEMA)


@given(st.binary(max_size=200) | JSON.map(lambda it: json.dumps(it).encode()))
def test_any_bytes_are_a_document_or_are_refused(raw: bytes) -> None:
    try:
        found = read_document(raw)
    except ScimError:
        return
    assert all(not name.isascii() or name == name.lower() for name in found)


@given(st.lists(OPERATION, max_size=5), st.booleans())
def test_any_patch_gives_a_user_within_the_limits_or_is_refused(said: list[dict[str, Any]], is_group: bool) -> None:
    raw = json.dumps({"schemas": [PATCH], "Operations": said}).encode()
    try:
        operations = read_operations(read_document(raw), SCHEMA)
        made = WAS.patched(operations)
        GroupAttributes("dba").patched(operations)
    except ScimError:
        return
    texts = (made.user_name, made.external_id, made.display_name, made.given_name, made.family_name)
    assert all(text is None or (1 <= len(text) <= 256 and text.isprintable()) for text in texts)
    assert len(made.emails) <= EMAILS_MAX
    assert sum(it.is_primary for it in made.emails) <= 1
    if not any("active" in json.dumps(it).lower() for it in said):
        assert made.is_active, "what nobody said did not change it"


@given(st.dictionaries(st.sampled_from(["emails", "name", "externalId", "title"]), JSON))
def test_a_document_that_does_not_say_active_brings_nobody_back(document: dict[str, Any]) -> None:
    try:
        said = json.dumps({"userName": "eve", **document}).encode()
        made = UserAttributes.read(read_document(said), UserAttributes("eve", is_active=False))
    except ScimError:
        return
    assert not made.is_active


def test_an_email_is_changed_where_it_stands() -> None:
    def patched(*said: dict[str, Any]) -> tuple[Email, ...]:
        raw = json.dumps({"schemas": [PATCH], "Operations": list(said)}).encode()
        return WAS.patched(read_operations(read_document(raw), SCHEMA)).emails

    work, other = WAS.emails
    assert patched({"op": "replace", "path": 'emails[type eq "work"].value', "value": "c@example.com"}) == (
        Email("c@example.com", "work", is_primary=True),
        other,
    )
    assert patched({"op": "remove", "path": "emails[primary eq true]"}) == (other,)
    assert patched({"op": "remove", "path": "emails", "value": [{"value": "b@example.com"}]}) == (work,)
    assert patched({"op": "remove", "path": "emails"}) == ()
    assert patched({"op": "add", "path": "emails", "value": [{"value": "d@example.com"}]}) == (
        work,
        other,
        Email("d@example.com"),
    )
    with pytest.raises(ScimError):
        patched({"op": "add", "path": "emails", "value": [{"value": "d@example.com", "primary": True}]})


def test_what_needs_a_target_or_a_value_has_one() -> None:
    for wrong in (
        {"op": "remove"},
        {"op": "replace", "path": "active"},
        {"op": "replace", "value": True},
        {"op": "remove", "path": "userName"},
        {"op": "remove", "path": "active"},
        {"op": 7, "path": "active", "value": True},
        "active",
    ):
        raw = json.dumps({"schemas": [PATCH], "Operations": [wrong]}).encode()
        with pytest.raises(ScimError):
            WAS.patched(read_operations(read_document(raw), SCHEMA))
    documents: tuple[dict[str, Any], ...] = (
        {"Operations": []},
        {"schemas": [PATCH]},
        {"schemas": [PATCH], "Operations": []},
    )
    for document in documents:
        with pytest.raises(ScimError):
            read_operations(read_document(json.dumps(document).encode()), SCHEMA)

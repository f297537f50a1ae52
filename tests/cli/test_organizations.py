"""`cloister orgs` and an organization's `cloister api-keys`: what they send, and whom they find."""

from datetime import UTC, datetime
from typing import Any

import pytest

from cloister.cli.api import Json

ORG: Json = {"id": "org-calm-forest-12345678", "name": "Acme", "created_at": "2026-01-02T03:04:05Z"}
PROJECT: Json = {"id": "calm-forest-12345678", "name": "shop"}
BOB = "00000000-0000-0000-0000-000000000002"
MEMBER: Json = {"member": {"id": BOB, "role": "editor"}, "user": {"email": "bob@example.com"}}
GRANT: Json = {"id": "00000000-0000-0000-0000-000000000009", "granted_to_email": "bob@example.com", "role": "viewer"}
O = f"/organizations/{ORG['id']}"  # noqa: E741
P = f"/projects/{PROJECT['id']}"


@pytest.fixture(autouse=True)
def _world(api: Any) -> None:
    api.on("GET", "/users/me/organizations", (200, {"organizations": [ORG]}))
    api.on("GET", "/projects", (200, {"projects": [PROJECT]}))
    api.on("GET", f"{O}/members", (200, {"members": [MEMBER], "pagination": {}}))
    api.on("GET", f"{P}/permissions", (200, {"project_permissions": [GRANT]}))


def test_the_only_organization_need_not_be_named(api: Any, cloister: Any) -> None:
    assert cloister("orgs", "members", "-o", "json").json == [MEMBER]
    assert "bob@example.com" in cloister("org", "members").out
    api.on("GET", "/users/me/organizations", (200, {"organizations": [ORG, {**ORG, "id": "org-b"}]}))
    several = cloister("orgs", "members")
    assert (several.code, "--org-id" in several.err) == (1, True)
    assert cloister("orgs", "members", "--org-id", ORG["id"]).code == 0


@pytest.mark.parametrize("who", ["Bob@example.com", BOB])
def test_people_are_found_by_address_and_by_id(api: Any, cloister: Any, who: str) -> None:
    api.on("PATCH", f"{O}/members/{BOB}", (200, {"id": BOB, "role": "viewer"}))
    api.on("DELETE", f"{O}/members/{BOB}", (200, {}))
    assert cloister("orgs", "set-role", who, "viewer").code == 0
    assert api.bodies("PATCH") == [{"role": "viewer"}]
    assert cloister("orgs", "remove", who).code == 0
    missing = cloister("orgs", "remove", "eve@example.com")
    assert (missing.code, "eve@example.com does not belong" in missing.err) == (1, True)
    assert cloister("orgs", "set-role", who, "owner").code == 2


def test_adding_granting_and_taking_back(api: Any, cloister: Any) -> None:
    api.on("POST", f"{O}/invitations", (200, {"invitations": [{"email": "bob@example.com", "role": "viewer"}]}))
    api.on("POST", f"{P}/permissions", (200, GRANT))
    api.on("DELETE", f"{P}/permissions/{GRANT['id']}", (200, GRANT))
    assert cloister("orgs", "add", "bob@example.com", "--role", "viewer").code == 0
    assert cloister("orgs", "grant", "bob@example.com", "--role", "admin").code == 0
    assert api.bodies("POST") == [
        {"invitations": [{"email": "bob@example.com", "role": "viewer"}]},
        {"email": "bob@example.com", "role": "admin"},
    ]
    assert cloister("orgs", "grants", "-o", "json").json == [GRANT]
    assert cloister("orgs", "ungrant", "BOB@example.com").code == 0
    assert cloister("orgs", "ungrant", "eve@example.com").code == 1


def test_access_shows_what_a_role_and_a_grant_come_to(api: Any, cloister: Any) -> None:
    bob = {"email": "bob@example.com", "org_role": "viewer", "project_role": "editor"}
    eve = {"email": "eve@example.com", "org_role": "collaborator"}
    members = [{**bob, "effective_project_permission": "EDITOR"}, eve]
    api.on("GET", f"{P}/members", (200, {"project_members": members, "pagination": {}}))
    assert [line.split() for line in cloister("orgs", "access").out.splitlines()[-2:]] == [
        ["bob@example.com", "editor", "viewer", "editor"],
        ["eve@example.com", "-", "collaborator", "-"],
    ]


def test_operators_make_accounts_and_organizations(api: Any, cloister: Any) -> None:
    api.on("POST", "/cloister/accounts", (201, {"id": BOB, "email": "bob@example.com", "key": "napi_first"}))
    api.on("POST", "/cloister/organizations", (201, ORG))
    made = cloister("orgs", "create-account", "bob@example.com", "--name", "Bob")
    assert "napi_first" in made.out
    assert "revoke it" in made.err
    assert cloister("orgs", "create", "--name", "Acme", "-o", "json").json == ORG


def test_a_transfer_names_both_organizations(api: Any, cloister: Any) -> None:
    api.on("POST", f"{O}/projects/transfer", (200, {}))
    assert cloister("orgs", "transfer", "a-b-1", "a-b-2", "--to", "org-b").code == 0
    assert api.bodies("POST") == [{"destination_org_id": "org-b", "project_ids": ["a-b-1", "a-b-2"]}]


def test_an_offer_says_how_it_is_taken(api: Any, cloister: Any) -> None:
    offer = "11111111-2222-4333-8444-555555555555"
    api.on("POST", f"{P}/transfer_requests", (201, {"id": offer, "project_id": PROJECT["id"]}))
    api.on("PUT", f"{P}/transfer_requests/{offer}", (204, None))
    made = cloister("orgs", "offer", PROJECT["id"], "--for", "2h")
    assert offer in made.out
    assert f"cloister orgs accept {PROJECT['id']} {offer}" in made.err
    assert api.bodies("POST") == [{"ttl_seconds": 7200}]
    assert cloister("orgs", "accept", PROJECT["id"], offer).code == 0
    assert cloister("orgs", "accept", PROJECT["id"], offer, "--to", "org-b").code == 0
    assert api.bodies("PUT") == [{}, {"org_id": "org-b"}]


def test_an_organizations_key_with_its_limits(api: Any, cloister: Any) -> None:
    api.on("GET", f"{O}/api_keys", (200, [{"id": 9, "name": "ci", "prefix": "napi_abcd"}]))
    api.on("POST", f"{O}/api_keys", (200, {"id": 9, "name": "ci", "key": "napi_new"}))
    api.on("DELETE", f"{O}/api_keys/9", (200, {"id": 9, "name": "ci", "revoked": True}))
    limits = ("--expires-at", "1h", "--from", "192.0.2.1", "--from", "2001:db8::/32")
    scope = ("--org-id", ORG["id"], "--for-project", PROJECT["id"])
    assert "napi_new" in cloister("api-keys", "create", "--name", "ci", *limits, *scope).out
    (sent,) = api.bodies("POST")
    assert datetime.fromisoformat(sent.pop("expires_at")) > datetime.now(UTC)
    assert sent == {"key_name": "ci", "allowed_ips": ["192.0.2.1", "2001:db8::/32"], "project_id": PROJECT["id"]}
    assert "napi_abcd" in cloister("api-keys", "list", "--org-id", ORG["id"]).out
    assert cloister("api-keys", "revoke", "9", "--org-id", ORG["id"]).code == 0
    assert cloister("api-keys", "create", "--name", "ci", "--for-project", PROJECT["id"]).code == 2

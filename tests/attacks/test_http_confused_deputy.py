"""Threat: a caller without a key, with a wrong one, or with one of another organization reaches a tenant's things.

Every route of the table is tried, so a new route is tried as well.
"""

from typing import Any

import pytest

from cloister.edge.api.endpoint import Public, Route
from cloister.edge.api.routes import ROUTES
from tests.edge.api.world import (
    ACCESS,
    ADA,
    ADA_KEY,
    BOB_KEY,
    BRANCH,
    CHALLENGE,
    CONSENT,
    EGRESS_RULE,
    ENDPOINT,
    ERASURE,
    FINDING,
    FORGETTING,
    GRANT,
    GROUP,
    HOLD,
    ISSUER,
    JWKS,
    OFFER,
    OPERATION,
    ORG,
    OTHER_ORG,
    OTHER_PROJECT,
    PASSKEY,
    PROJECT,
    REGISTRATION,
    RETENTION,
    REVIEW,
    SERVICE_ACCOUNT,
    SNAPSHOT,
    World,
)

GUARDED = [route for route in ROUTES if not isinstance(route.permission, Public)]
OF_A_TENANT = [
    route for route in GUARDED if ("{project_id}" in route.path or "{org_id}" in route.path) and not route.from_outside
]

BODIES: dict[str, Any] = {
    "create_anonymized_branch": {"masking_rules": [], "start_anonymization": False},
    "update_masking_rules": {"masking_rules": []},
    "acknowledge_finding": {"note": "mine"},
    "note_finding": {"text": "asked them"},
    "assign_finding": {"email": "dev@example.org"},
    "resolve_finding": {"note": "over"},
    "respond_to_finding": {"action": "quarantine"},
    "add_jwks": {"jwks_url": "https://issuer.test/jwks", "provider_name": "Issuer", "role_names": ["authenticated"]},
    "disable_project_keys": {"reason": "stolen"},
    "schedule_key_destruction": {"days": 7},
    "reencrypt_project": {"now": True},
    "set_key_policy": {"rotate_days": 90},
    "allow_egress": {"to": "db.example.com:5432"},
    "change_project_tags": {"remove": ["pii"]},
    "change_branch_tags": {"remove": ["pii"]},
    "set_audit_level": {"level": "base"},
    "ask_statement_erasure": {"reason": "asked for by whom it is about"},
    "ask_to_forget_in_project": {"kind": "role", "subject": "app", "reason": "asked for by whom it is about"},
    "ask_to_forget": {"kind": "address", "subject": "192.0.2.1", "reason": "asked for by whom it is about"},
    "place_audit_hold": {"reason": "matter 17"},
    "take_backup": {"branch_id": BRANCH},
    "check_backups": {"branch_id": BRANCH, "restore": True},
    "restore_backup": {"branch_id": BRANCH, "name": "again"},
    "exclude_from_backups": {"reason": "a toy"},
    "ask_for_consent": {"act": "copy", "reason": "INC-7"},
    "set_consent_policy": {"required": False},
    "set_events_retention": {"days": 400, "reason": "less to be found"},
    "set_audit_retention": {"record": "statements", "days": 365, "reason": "less to be found"},
    "ask_to_lift_audit_hold": {"reason": "settled"},
    "deny_access_request": {"reason": "not now"},
    "create_access_request": {"access_request": {"reason": "INC-7", "duration_seconds": 60}},
    "create_shift": {
        "email": "dev@example.com",
        "starts_at": "2026-03-04T00:00:00Z",
        "ends_at": "2026-03-05T00:00:00Z",
    },
    "create_project": {"project": {}},
    "update_project": {"project": {}},
    "create_endpoint": {"endpoint": {"branch_id": BRANCH, "type": "read_write"}},
    "update_endpoint": {"endpoint": {}},
    "create_role": {"role": {"name": "app"}},
    "create_database": {"database": {"name": "shop", "owner_name": "neondb_owner"}},
    "update_database": {"database": {"name": "shop"}},
    "create_api_key": {"key_name": "ci"},
    "create_org_api_key": {"key_name": "ci"},
    "update_member": {"role": "viewer"},
    "create_invitations": {"invitations": [{"email": "eve@example.com", "role": "viewer"}]},
    "transfer_projects": {"destination_org_id": OTHER_ORG, "project_ids": [PROJECT]},
    "start_access_review": {"answer_days": 7},
    "answer_access_review_item": {"decision": "keep"},
    "set_access_review_policy": {"every_days": 90},
    "create_transfer_request": {"ttl_seconds": 60},
    "accept_transfer_request": {"org_id": ORG},
    "create_organization": {"name": "Example"},
    "create_account": {"email": "eve@example.com", "name": "Eve"},
    "create_service_account": {"name": "ci", "role": "viewer"},
    "update_service_account": {"disabled": True},
    "rotate_service_account": {"overlap_seconds": 60},
    "begin_login": {"port": 40_000, "challenge": "A" * 43},
    "finish_login": {"state": "good", "secret": "kept", "code": "brought"},
    "add_issuer": {"name": "mine", "issuer": "https://login.example.net", "client_id": "cloister"},
    "map_group": {"group": "everybody", "role": "admin"},
    "disable_account": {"email": "ada@example.com", "disabled": True},
    "begin_link": {"port": 40000, "challenge": "A" * 43},
    "add_passkey": REGISTRATION,
    "show_ceremony": {"challenge": CHALLENGE},
    "set_passkey_policy": {"required": True},
    "set_project_member_role": {"role": "admin"},
    "grant_permission": {"email": "eve@example.com"},
    "create_branch": {"branch": {"name": "preview"}, "endpoints": [{"type": "read_write"}]},
    "update_branch": {"branch": {"name": "renamed"}},
    "restore_branch": {"source_branch_id": BRANCH},
    "reset_to_parent": {"preserve_under_name": "before"},
    "update_snapshot": {"snapshot": {"name": "kept"}},
    "restore_snapshot": {"name": "again", "finalize_restore": False},
    "finalize_restore": {"name": "before"},
    "set_backup_schedule": {"schedule": [{"frequency": "daily", "hour": 3, "retention_seconds": 86400}]},
}


def path_of(route: Route) -> str:
    return route.path.format(
        project_id=PROJECT,
        branch_id=BRANCH,
        endpoint_id=ENDPOINT,
        operation_id=OPERATION,
        org_id=ORG,
        role_name="neondb_owner",
        database_name="neondb",
        key_id=7,
        issuer_id=ISSUER.id,
        group_id=GROUP.id,
        finding_id=FINDING,
        jwks_id=JWKS,
        passkey_id=PASSKEY,
        snapshot_id=SNAPSHOT,
        member_id=ADA.account_id,
        permission_id=GRANT,
        rule_id=EGRESS_RULE,
        erasure_id=ERASURE,
        forgetting_id=FORGETTING,
        hold_id=HOLD,
        consent_id=CONSENT,
        retention_id=RETENTION,
        access_id=ACCESS,
        recording_id=ACCESS,
        shift_id=ACCESS,
        review_id=REVIEW,
        service_account_id=SERVICE_ACCOUNT,
        item_number=1,
        request_id=OFFER,
        region_id="self-hosted",
    )


def changes(world: World) -> tuple[Any, ...]:
    return tuple(
        it
        for made in (
            world.access.changes,
            world.reviews.changes,
            world.service_accounts.changes,
            world.projects.created,
            world.projects.changes,
            world.branches.created,
            world.branches.changes,
            world.branches.restored,
            world.branches.hard,
            world.snapshots.created,
            world.snapshots.changes,
            world.snapshots.restored,
            world.snapshots.finalized,
            world.snapshots.items,
            world.schemas.asked,
            world.endpoints.created,
            world.endpoints.changes,
            world.organizations.changes,
            world.offers.changes,
            world.issuers.changes,
            world.logins.begun,
            world.keys.created,
        )
        for it in made
    )


@pytest.mark.parametrize("route", GUARDED, ids=lambda route: route.name)
@pytest.mark.parametrize(
    "key", [None, "napi_" + "z" * 64, ADA_KEY[:-1], ADA_KEY.upper()], ids=["no", "wrong", "cut", "case"]
)
async def test_who_is_not_known_gets_nothing(route: Route, key: str | None) -> None:
    world = World()
    async with world.client(key) as client:
        answer = await client.request(route.method, path_of(route), json=BODIES.get(route.name))
    assert answer.status_code == 401
    assert set(answer.json()) == {"request_id", "code", "message"}
    assert world.decider.asked == []
    assert changes(world) == ()
    (refusal,) = await world.refused()
    assert (refusal.actor, refusal.details["attempted"]) == ("stranger", route.audit)


@pytest.mark.parametrize("route", OF_A_TENANT, ids=lambda route: route.name)
async def test_who_belongs_elsewhere_finds_nothing(route: Route) -> None:
    """404, not 403: that it exists is not theirs to know."""
    world = World()
    async with world.client(BOB_KEY) as client:
        answer = await client.request(route.method, path_of(route), json=BODIES.get(route.name))
    assert answer.status_code == 404
    assert changes(world) == ()
    assert world.decider.asked[0][1] == route.permission
    (refusal,) = await world.refused()
    assert (refusal.reason, refusal.outcome) == ("not_found", "denied")


@pytest.mark.parametrize("route", GUARDED, ids=lambda route: route.name)
async def test_each_route_asks_for_the_permission_it_states(route: Route) -> None:
    world = World()
    async with world.client() as client:
        await client.request(route.method, path_of(route), json=BODIES.get(route.name))
    assert world.decider.asked[0][1] == route.permission


async def test_an_organization_of_somebody_else_cannot_be_named_in_a_body_or_query() -> None:
    world = World()
    async with world.client(BOB_KEY) as client:
        created = await client.post("/projects", json={"project": {"org_id": ORG}})
        listed = await client.get(f"/projects?org_id={ORG}")
        mine = await client.get("/projects")
    assert (created.status_code, listed.status_code) == (404, 404)
    assert world.projects.created == []
    assert [it["id"] for it in mine.json()["projects"]] == [OTHER_PROJECT]


async def test_a_permission_that_a_member_lacks_is_forbidden() -> None:
    async with World().client(BOB_KEY) as client:
        answer = await client.delete(f"/projects/{OTHER_PROJECT}")
        assert (answer.status_code, answer.json()["message"]) == (403, "permission denied")
        assert (await client.get("/cloister/audit/events")).status_code == 403


async def test_an_answer_kept_for_one_account_is_not_given_to_another() -> None:
    world = World()
    headers = {"Idempotency-Key": "same"}
    async with world.client() as ada, world.client(BOB_KEY) as bob:
        first = await ada.post("/projects", json={"project": {}}, headers=headers)
        second = await bob.post("/projects", json={"project": {}}, headers=headers)
    assert "idempotent-replayed" not in second.headers
    assert first.json()["project"]["org_id"] != second.json()["project"]["org_id"]


async def test_another_accounts_api_key_is_not_revoked() -> None:
    async with World().client(BOB_KEY) as client:
        assert (await client.delete("/api_keys/7")).status_code == 404
        assert (await client.get("/api_keys")).json() == []


def test_only_who_accepts_an_offer_comes_from_outside() -> None:
    assert [route.name for route in ROUTES if route.from_outside] == ["accept_transfer_request"]

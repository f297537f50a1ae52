"""An example of every call that changes something, in stories: what a step makes, the steps after it use.

A new route that changes something belongs into one of them (`test_unrecorded_change.py` asks for it). Each story begins in a town of
its own, with one project.
"""

import base64
from typing import Any, Final

from cloister.base.directory import AppendRecording, BeginRecording, Spoken
from cloister.protocol.openid import challenge_of
from cloister.protocol.scim.paths import PATCH
from cloister.trust.audit import Action
from tests.attacks.town import ACTORS, Does, Provisions, Step, Town
from tests.control.backups.office import Office
from tests.control.land import ORG
from tests.control.projects.test_statements import statement, tell
from tests.control.scim.scene import GROUP, USER
from tests.openid_issuer import CLIENT_ID, URL
from tests.passkey_scene import registration
from tests.trust.keys.rig import AGENT

WITHOUT_EVENT: Final = {
    "begin_login": "nobody is known yet; the session is recorded when it is made",
    "begin_link": "an identity that is linked is recorded when its issuer has vouched for it",
    "begin_passkey": "a passkey is recorded when it is registered",
    "show_ceremony": "it shows what was asked before, and changes nothing",
}
"""Calls that begin what another ends, and why they leave no trace of their own."""

WHY: Final = "asked for by whom it is about"
SECRET: Final = "only this client knows it"
SPOKEN: Final = Spoken(number=1, kind="simple", text="SELECT 1", outcome="asked", began_ms=1, ended_ms=1)
RULE: Final = {
    "database_name": "neondb",
    "schema_name": "public",
    "table_name": "people",
    "column_name": "name",
    "masking_value": "somebody",
}


# ── what no call does ──


async def somebody_logs_in(town: Town) -> None:
    brought = town.issuer.authorize(town.names["url"])
    town.names |= {"code": brought["code"], "iss": brought["iss"]}


async def a_session_is_recorded(town: Town) -> None:
    guard = town.land.plane.directory._access
    recording = await guard.begin(
        BeginRecording(
            endpoint_id=town.names["endpoint_id"], role=town.names["access_role"], session_id="s", address="::1"
        )
    )
    await guard.append(AppendRecording(recording_id=recording, chunk=0, statements=[SPOKEN]))
    town.names["recording_id"] = recording


async def the_other_rights_are_answered_for(town: Town) -> None:
    """Nobody answers for their own."""
    review = f"https://api.test/api/v2/cloister/organizations/{ORG}/access_reviews/{town.names['review_id']}"
    for item in (await town.clients["ada"].get(review)).json()["items"]:
        if item.get("decision") is None:
            client = town.clients["bob" if item["id"] == town.names["ada_id"] else "ada"]
            answer = await client.post(f"{review}/items/{item['number']}", json={"decision": "keep"})
            assert answer.status_code == 200, answer.text


async def a_backup_is_taken(town: Town) -> None:
    if town.office is None:
        town.office = Office(town.land)
        town.land.node.write(town.names["endpoint_id"], "one")
    await town.office.look()


async def the_volume_is_lost(town: Town) -> None:
    town.land.node.cut_power()
    del town.land.node.images[town.names["project_id"]]


async def the_broker_has_keys(town: Town) -> None:
    await town.broker.keeper.create(town.names["project_id"], "volume", AGENT)


async def statements_are_recorded(town: Town) -> None:
    project = town.names["project_id"]
    await tell(town.land, statement(project, "SELECT 'Erika'"))


async def something_is_found(town: Town) -> None:
    town.names["finding_id"] = "fd-000000000001"
    town.owner.execute(
        """INSERT INTO finding (id, rule, level, title, summary, response, fingerprint, subject,
                                first_seq, last_seq, first_at, last_at)
           VALUES (%s, 'r', 'high', 't', 's', 'r', 'f',
                   json_build_object('project_id', %s::text, 'role', 'neondb_owner'), 1, 1, '', '')""",
        (town.names["finding_id"], town.names["project_id"]),
    )


def item_of(account: str) -> Any:
    """Of a review: the number under which somebody's membership stands."""
    return lambda said, names: next(it["number"] for it in said["items"] if it["id"] == names[account])


def made_passkey(town: Town) -> dict[str, Any]:
    challenge = base64.urlsafe_b64decode(town.names["challenge"] + "=")
    return {"name": "key ring", "credential": registration(town.authenticator.make(challenge))}


EVE_JOINS: Final[tuple[Step, ...]] = (
    Does(route="create_account", body={"email": "eve@example.com", "name": "Eve"}, keeps={"eve": "id"}),
    Does(route="create_invitations", body={"invitations": [{"email": "eve@example.com", "role": "viewer"}]}),
)


def _on(name: str) -> dict[str, str]:
    return {"branch_id": name}


STORIES: Final[dict[str, tuple[Step, ...]]] = {
    "projects": (
        Does(
            route="create_project",
            body={"project": {"name": "new", "org_id": "{org_id}"}},
            keeps={"new": "project.id"},
            about={"project_id": "new"},
        ),
        Does(route="update_project", body={"project": {"name": "store"}}),
        Does(route="set_audit_level", body={"level": "full"}),
        Does(route="change_project_tags", body={"add": ["pii"], "remove": []}),
        Does(route="change_project_tags", body={"add": [], "remove": ["pii"]}, action=Action.TAG_LIFT),
        Does(route="delete_project", at={"project_id": "new"}),
        Does(route="recover_project", at={"project_id": "new"}),
        Does(route="delete_project", at={"project_id": "new"}, query="hard_delete=true"),
        Does(route="create_transfer_request", body={"ttl_seconds": 3600}, keeps={"request_id": "id"}),
        Does(route="accept_transfer_request", body={"org_id": "{other_org_id}"}, by="bob"),
        Does(
            route="transfer_projects",
            body={"destination_org_id": "{org_id}", "project_ids": ["{project_id}"]},
            at={"org_id": "other_org_id"},
            about={"project_id": "project_id"},
        ),
    ),
    "branches": (
        Does(
            route="create_branch",
            body={"branch": {"name": "dev"}, "endpoints": [{"type": "read_write"}]},
            keeps={"dev": "branch.id"},
            about=_on("dev"),
        ),
        Does(route="update_branch", body={"branch": {"name": "test"}}, at=_on("dev")),
        Does(
            route="update_branch",
            body={"branch": {"protected": True}},
            at=_on("dev"),
            action=Action.BRANCH_PROTECT,
        ),
        Does(
            route="update_branch",
            body={"branch": {"protected": False}},
            at=_on("dev"),
            action=Action.BRANCH_UNPROTECT,
        ),
        Does(route="change_branch_tags", body={"add": ["prod"], "remove": []}, at=_on("dev")),
        Does(route="change_branch_tags", body={"add": [], "remove": ["prod"]}, at=_on("dev"), action=Action.TAG_LIFT),
        Does(route="set_as_default", at=_on("dev")),
        Does(route="set_as_primary"),
        Does(route="restore_branch", body={"source_branch_id": "{branch_id}"}, at=_on("dev")),
        Does(route="reset_to_parent", body={"preserve_under_name": "before"}, at=_on("dev")),
        Does(
            route="create_anonymized_branch",
            body={
                "branch_create": {"branch": {"name": "masked"}, "endpoints": [{"type": "read_write"}]},
                "masking_rules": [],
                "start_anonymization": False,
            },
            keeps={"masked": "branch.id"},
            about=_on("masked"),
        ),
        Does(route="update_masking_rules", body={"masking_rules": [RULE]}, at=_on("masked")),
        Does(route="start_anonymization", at=_on("masked")),
        Does(route="delete_branch", at=_on("masked")),
        Does(route="recover_branch", at=_on("masked")),
    ),
    "consents": (
        Does(route="update_branch", body={"branch": {"protected": True}}, action=Action.BRANCH_PROTECT),
        Does(route="set_consent_policy", body={"required": True}),
        Does(route="ask_for_consent", body={"act": "copy", "reason": "INC-7"}, keeps={"consent_id": "consent.id"}),
        Does(route="agree_to_consent", by="bob"),
        Does(route="end_consent"),
        Does(route="set_consent_policy", body={"required": False}),
        Does(route="set_consent_policy", body={"required": False}, by="bob"),
    ),
    "snapshots": (
        Does(route="set_backup_schedule", body={"schedule": [{"frequency": "daily", "hour": 3}]}),
        Does(route="create_snapshot", query="name=kept", keeps={"snapshot_id": "snapshot.id"}),
        Does(route="update_snapshot", body={"snapshot": {"name": "kept for long"}}),
        Does(
            route="restore_snapshot",
            body={"name": "again", "target_branch_id": "{branch_id}", "finalize_restore": False},
            keeps={"again": "branch.id"},
        ),
        Does(route="finalize_restore", body={"name": "before"}, at=_on("again")),
        Does(route="delete_snapshot"),
    ),
    "computes": (
        Does(
            route="create_endpoint",
            body={"endpoint": {"branch_id": "{branch_id}", "type": "read_only"}},
            keeps={"reader": "endpoint.id"},
            about={"endpoint_id": "reader"} | _on("branch_id"),
        ),
        Does(route="update_endpoint", body={"endpoint": {"suspend_timeout_seconds": 60}}),
        Does(route="suspend_endpoint"),
        Does(route="start_endpoint"),
        Does(route="restart_endpoint"),
        Does(route="delete_endpoint", at={"endpoint_id": "reader"}),
    ),
    "roles and databases": (
        Does(route="create_role", body={"role": {"name": "app"}}),
        Does(route="reset_password"),
        Does(route="reveal_password"),
        Does(route="create_database", body={"database": {"name": "orders", "owner_name": "app"}}),
        Does(route="update_database", body={"database": {"owner_name": "neondb_owner"}}),
        Does(route="delete_database"),
        Does(route="delete_role"),
    ),
    "backups": (
        a_backup_is_taken,
        Does(route="take_backup", body={"branch_id": "{branch_id}"}),
        a_backup_is_taken,
        Does(route="check_backups", body={"branch_id": "{branch_id}", "restore": True}),
        Does(route="restore_backup", body={"branch_id": "{branch_id}", "name": "again"}),
        Does(route="exclude_from_backups", body={"reason": "a toy"}),
        Does(route="include_in_backups"),
    ),
    "a lost volume": (
        a_backup_is_taken,
        the_volume_is_lost,
        Does(route="restore_project_from_backups"),
    ),
    "keys": (
        the_broker_has_keys,
        Does(route="rotate_project_keys"),
        Does(route="disable_project_keys", body={"reason": "stolen"}),
        Does(route="enable_project_keys"),
        Does(route="schedule_key_destruction", body={"days": 7}),
        Does(route="cancel_key_destruction"),
        Does(route="set_key_policy", body={"rotate_days": 90}),
        Does(route="reencrypt_project", body={"now": True}),
        Does(route="pause_reencryption"),
        Does(route="cancel_reencryption"),
    ),
    "what is recorded": (
        statements_are_recorded,
        Does(route="ask_statement_erasure", body={"reason": WHY}, keeps={"erasure_id": "erasure.id"}),
        Does(route="agree_to_statement_erasure", by="bob"),
        Does(route="place_audit_hold", body={"reason": "matter 17"}, keeps={"hold_id": "hold.id"}),
        Does(route="ask_to_lift_audit_hold", body={"reason": "settled"}),
        Does(route="agree_to_lift_audit_hold", by="bob"),
        Does(
            route="set_audit_retention",
            body={"record": "statements", "days": 365, "reason": WHY},
            keeps={"retention_id": "retention.id"},
        ),
        Does(route="agree_to_audit_retention", by="bob"),
        Does(route="set_events_retention", body={"days": 400, "reason": WHY}, keeps={"retention_id": "retention.id"}),
        Does(route="agree_to_events_retention", by="bob"),
        Does(
            route="ask_to_forget_in_project",
            body={"kind": "address", "subject": "192.0.2.1", "reason": WHY},
            keeps={"forgetting_id": "forgetting.id"},
        ),
        Does(route="agree_to_forget_in_project", by="bob"),
        Does(
            route="ask_to_forget",
            body={"kind": "address", "subject": "192.0.2.1", "reason": WHY},
            keeps={"forgetting_id": "forgetting.id"},
        ),
        Does(route="agree_to_forget", by="bob"),
    ),
    "access": (
        Does(
            route="create_access_request",
            body={"access_request": {"reason": "INC-7", "duration_seconds": 3600}},
            by="bob",
            keeps={"access_id": "access_request.id"},
        ),
        Does(route="deny_access_request", body={"reason": "not now"}),
        Does(
            route="create_access_request",
            body={"access_request": {"reason": "INC-8", "duration_seconds": 3600, "branch_id": "{branch_id}"}},
            by="bob",
            keeps={"access_id": "access_request.id"},
        ),
        Does(route="approve_access_request"),
        Does(route="create_access_credentials", by="bob", keeps={"access_role": "role"}),
        a_session_is_recorded,
        Does(route="get_recording"),
        Does(route="terminate_access"),
        Does(
            route="create_shift",
            body={
                "email": "bob@example.org",
                "starts_at": "2026-03-04T00:00:00Z",
                "ends_at": "2026-03-05T00:00:00Z",
            },
            keeps={"shift_id": "id"},
        ),
        Does(route="remove_shift"),
    ),
    "people": (
        Does(route="create_organization", body={"name": "Example"}, keeps={"made": "id"}, about={"org_id": "made"}),
        *EVE_JOINS,
        Does(route="update_member", body={"role": "editor"}, at={"member_id": "eve"}),
        Does(
            route="grant_permission",
            body={"email": "eve@example.com", "role": "viewer"},
            keeps={"permission_id": "id"},
        ),
        Does(route="revoke_permission"),
        Does(route="set_project_member_role", body={"role": "admin"}, at={"member_id": "eve"}),
        Does(route="remove_project_member_role", at={"member_id": "eve"}),
        Does(route="remove_member", at={"member_id": "eve"}),
        Does(route="disable_account", body={"email": "eve@example.com", "disabled": True}),
        Does(
            route="disable_account",
            body={"email": "eve@example.com", "disabled": False},
            action=Action.ACCOUNT_ENABLE,
        ),
    ),
    "reviews": (
        *EVE_JOINS,
        Does(route="set_access_review_policy", body={"every_days": 90}),
        Does(route="remove_access_review_policy"),
        Does(
            route="start_access_review",
            body={"answer_days": 7},
            keeps={"review_id": "access_review.id", "item_number": item_of("eve")},
        ),
        Does(route="answer_access_review_item", body={"decision": "remove"}, also=(Action.MEMBER_REMOVE,)),
        the_other_rights_are_answered_for,
        Does(route="close_access_review"),
    ),
    "keys of people and machines": (
        Does(route="create_api_key", body={"key_name": "ci"}, keeps={"key_id": "id"}),
        Does(route="revoke_api_key"),
        Does(route="create_org_api_key", body={"key_name": "ci"}, keeps={"key_id": "id"}),
        Does(route="revoke_org_api_key"),
        Does(
            route="create_service_account",
            body={"name": "ci", "role": "viewer"},
            keeps={"service_account_id": "service_account.id"},
        ),
        Does(route="update_service_account", body={"role": "editor"}),
        Does(route="update_service_account", body={"disabled": True}, action=Action.SERVICE_ACCOUNT_DISABLE),
        Does(route="update_service_account", body={"disabled": False}, action=Action.SERVICE_ACCOUNT_ENABLE),
        Does(route="rotate_service_account", body={"overlap_seconds": 60}),
        Does(route="remove_service_account"),
    ),
    "logins": (
        Does(
            route="add_issuer",
            body={"name": "company", "issuer": URL, "client_id": CLIENT_ID},
            keeps={"issuer_id": "id"},
        ),
        Does(route="map_group", body={"group": "dba", "role": "editor"}, keeps={"group_id": "id"}),
        Does(
            route="begin_link",
            body={"port": 40_000, "challenge": challenge_of(SECRET)},
            keeps={"state": "state", "url": "authorization_url"},
        ),
        somebody_logs_in,
        Does(
            route="finish_login",
            body={"state": "{state}", "secret": SECRET, "code": "{code}", "iss": "{iss}"},
            by="nobody",
            actor=ACTORS["ada"],
            also=(Action.IDENTITY_LINK,),
            is_once=True,
        ),
        Does(route="begin_login", body={"port": 40_000, "challenge": challenge_of(SECRET)}, by="nobody"),
        Does(route="unmap_group"),
        Does(route="remove_issuer"),
    ),
    "passkeys": (
        Does(route="set_passkey_policy", body={"required": True}),
        Does(route="begin_passkey", keeps={"challenge": "create.challenge"}),
        Does(route="show_ceremony", body={"challenge": "{challenge}"}, by="nobody"),
        Does(route="add_passkey", body=made_passkey, keeps={"passkey_id": "id"}, is_once=True),
        Does(route="remove_passkey"),
    ),
    "ways in and out": (
        Does(
            route="add_jwks",
            body={
                "jwks_url": "https://issuer.test/jwks",
                "provider_name": "Issuer",
                "role_names": ["authenticated"],
            },
            keeps={"jwks_id": "jwks.id"},
        ),
        Does(route="delete_jwks"),
        Does(route="allow_egress", body={"to": "db.example.com:5432"}, keeps={"rule_id": "egress_rule.id"}),
        Does(route="remove_egress_rule"),
    ),
    "findings": (
        something_is_found,
        Does(route="note_finding", body={"text": "asked them"}),
        Does(route="assign_finding", body={"email": "bob@example.org"}),
        Does(route="acknowledge_finding", body={"note": "mine"}),
        Does(route="respond_to_finding", body={"action": "lock-role"}, about={"project_id": "project_id"}),
        Does(route="release_finding", about={"project_id": "project_id"}),
        Does(route="respond_to_finding", body={"action": "end-sessions"}, about={"project_id": "project_id"}),
        Does(route="resolve_finding", body={"note": "over"}),
        Does(route="test_sentinel", address=""),
    ),
    "a directory": (
        Does(route="enable_scim", keeps={"token": "token"}),
        Does(route="rotate_scim", keeps={"token": "token"}),
        Provisions(
            method="POST",
            path="/Users",
            body={"schemas": [USER], "userName": "dev@example.com", "active": True},
            action=Action.SCIM_USER_CREATE,
            keeps={"user_id": "id"},
        ),
        Provisions(
            method="PUT",
            path="/Users/{user_id}",
            body={"schemas": [USER], "userName": "ops@example.com", "active": True},
            action=Action.SCIM_USER_UPDATE,
        ),
        Provisions(
            method="PATCH",
            path="/Users/{user_id}",
            body={"schemas": [PATCH], "Operations": [{"op": "replace", "value": {"active": False}}]},
            action=Action.SCIM_USER_UPDATE,
            also=(Action.SCIM_USER_DEACTIVATE,),
        ),
        Provisions(
            method="POST",
            path="/Groups",
            body={"schemas": [GROUP], "displayName": "dba", "members": [{"value": "{user_id}"}]},
            action=Action.SCIM_GROUP_CREATE,
            keeps={"in_directory": "id"},
        ),
        Provisions(
            method="PUT",
            path="/Groups/{in_directory}",
            body={"schemas": [GROUP], "displayName": "operators"},
            action=Action.SCIM_GROUP_UPDATE,
        ),
        Provisions(
            method="PATCH",
            path="/Groups/{in_directory}",
            body={
                "schemas": [PATCH],
                "Operations": [{"op": "add", "path": "members", "value": [{"value": "{user_id}"}]}],
            },
            action=Action.SCIM_GROUP_UPDATE,
        ),
        Provisions(method="DELETE", path="/Groups/{in_directory}", action=Action.SCIM_GROUP_DELETE),
        Provisions(method="DELETE", path="/Users/{user_id}", action=Action.SCIM_USER_DELETE),
        Does(route="disable_scim"),
    ),
}

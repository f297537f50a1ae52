"""Every route answers in Neon's shape."""

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from cloister.base.ids import BranchId
from cloister.edge.api.routes import ROUTES
from cloister.trust.access.permissions import Permission
from cloister.trust.audit import Event
from cloister.trust.audit.minimum import Gone
from tests.edge.api.neon_fields import missing
from tests.edge.api.world import (
    ACCESS,
    ADA,
    ADA_KEY,
    BOB_KEY,
    BRANCH,
    CHALLENGE,
    CHILD,
    CONSENT,
    EGRESS_RULE,
    ENDPOINT,
    ERASURE,
    FINDING,
    FORGETTING,
    GONE,
    GONE_PROJECT,
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
    PASSWORD,
    PROJECT,
    REGISTRATION,
    RETENTION,
    REVIEW,
    SERVICE_ACCOUNT,
    SNAPSHOT,
    World,
    branch,
    operation,
    principal,
    project,
)

P = f"/projects/{PROJECT}"
B = f"{P}/branches/{BRANCH}"
WHEN = "from=2026-03-04T00:00:00Z&to=2026-03-04T05:00:00Z&granularity=hourly"


@dataclass(frozen=True)
class Case:
    """A call that succeeds. `holds` says where in the answer a noun stands: `projects[]` is every one of a list."""

    route: str
    path: str
    status: int
    holds: dict[str, str]
    body: dict[str, Any] | None = None


MASKING_RULE = {
    "database_name": "neondb",
    "schema_name": "public",
    "table_name": "people",
    "column_name": "email",
    "masking_function": "anon.hash(email)",
}

CASES = [
    Case(
        "list_projects",
        "/projects?limit=5",
        200,
        {"projects[]": "ProjectListItem", "projects[].settings.allowed_ips": "AllowedIps"},
    ),
    Case("list_shared_projects", "/projects/shared", 200, {}),
    Case(
        "create_project",
        "/projects",
        201,
        {
            "project": "Project",
            "project.settings.allowed_ips": "AllowedIps",
            "connection_uris[]": "ConnectionDetails",
            "connection_uris[].connection_parameters": "ConnectionParameters",
            "roles[]": "Role",
            "databases[]": "Database",
            "operations[]": "Operation",
            "branch": "Branch",
            "endpoints[]": "Endpoint",
        },
        {"project": {}},
    ),
    Case("get_project", P, 200, {"project": "Project", "project.settings.allowed_ips": "AllowedIps"}),
    Case("update_project", P, 200, {"project": "Project"}, {"project": {"name": "new"}}),
    Case("delete_project", P, 200, {"project": "Project", "operations[]": "Operation"}),
    Case(
        "recover_project",
        f"/projects/{GONE_PROJECT}/recover",
        200,
        {"project": "Project", "branches[]": "Branch"},
    ),
    Case("list_permissions", f"{P}/permissions", 200, {"project_permissions[]": "ProjectPermission"}),
    Case("get_connection_uri", f"{P}/connection_uri?database_name=neondb&role_name=neondb_owner", 200, {}),
    Case("list_branches", f"{P}/branches", 200, {"branches[]": "Branch"}),
    Case("count_branches", f"{P}/branches/count", 200, {}),
    Case("get_branch", B, 200, {"branch": "Branch", "annotation": "Annotation"}),
    Case(
        "create_branch",
        f"{P}/branches",
        201,
        {
            "branch": "Branch",
            "endpoints[]": "Endpoint",
            "operations[]": "Operation",
            "roles[]": "Role",
            "databases[]": "Database",
            "connection_uris[]": "ConnectionDetails",
            "connection_uris[].connection_parameters": "ConnectionParameters",
        },
        {"branch": {"name": "preview"}, "endpoints": [{"type": "read_write"}]},
    ),
    Case(
        "create_anonymized_branch",
        f"{P}/branch_anonymized",
        201,
        {"branch": "Branch", "endpoints[]": "Endpoint", "operations[]": "Operation"},
        {
            "branch_create": {"endpoints": [{"type": "read_write"}]},
            "masking_rules": [MASKING_RULE],
            "start_anonymization": True,
        },
    ),
    Case("get_masking_rules", f"{P}/branches/{CHILD}/masking_rules", 200, {}),
    Case("update_masking_rules", f"{P}/branches/{CHILD}/masking_rules", 200, {}, {"masking_rules": [MASKING_RULE]}),
    Case("get_anonymized_status", f"{P}/branches/{CHILD}/anonymized_status", 200, {}),
    Case("start_anonymization", f"{P}/branches/{CHILD}/anonymize", 200, {}),
    Case("update_branch", B, 200, {"branch": "Branch", "operations[]": "Operation"}, {"branch": {"name": "new"}}),
    Case("delete_branch", B, 200, {"branch": "Branch", "operations[]": "Operation"}),
    Case(
        "recover_branch",
        f"{P}/branches/{GONE}/recover",
        200,
        {"branch": "Branch", "endpoints[]": "Endpoint", "operations[]": "Operation"},
    ),
    Case("set_as_default", f"{B}/set_as_default", 200, {"branch": "Branch", "operations[]": "Operation"}),
    Case("set_as_primary", f"{B}/set_as_primary", 200, {"branch": "Branch", "operations[]": "Operation"}),
    Case(
        "restore_branch",
        f"{B}/restore",
        200,
        {"branch": "Branch", "operations[]": "Operation"},
        {"source_branch_id": BRANCH, "source_lsn": "0/15E9A30", "preserve_under_name": "before"},
    ),
    Case(
        "reset_to_parent",
        f"{P}/branches/{CHILD}/reset_to_parent",
        200,
        {"branch": "Branch", "operations[]": "Operation"},
    ),
    Case("finalize_restore", f"{B}/finalize_restore", 200, {"operations[]": "Operation"}),
    Case("get_schema", f"{B}/schema?db_name=neondb", 200, {}),
    Case("compare_schema", f"{P}/branches/{CHILD}/compare_schema?db_name=neondb", 200, {}),
    Case("list_snapshots", f"{P}/snapshots", 200, {"snapshots[]": "Snapshot"}),
    Case("create_snapshot", f"{B}/snapshot?name=now", 200, {"snapshot": "Snapshot", "operations[]": "Operation"}),
    Case("update_snapshot", f"{P}/snapshots/{SNAPSHOT}", 200, {"snapshot": "Snapshot"}, {"snapshot": {"name": "x"}}),
    Case("delete_snapshot", f"{P}/snapshots/{SNAPSHOT}", 202, {"operations[]": "Operation"}),
    Case(
        "restore_snapshot",
        f"{P}/snapshots/{SNAPSHOT}/restore",
        200,
        {"branch": "Branch", "endpoints[]": "Endpoint", "operations[]": "Operation"},
    ),
    Case("get_backup_schedule", f"{B}/backup_schedule", 200, {}),
    Case("set_backup_schedule", f"{B}/backup_schedule", 200, {}, {"schedule": [{"frequency": "daily", "hour": 3}]}),
    Case("list_jwks", f"{P}/jwks", 200, {"jwks[]": "Jwks"}),
    Case(
        "add_jwks",
        f"{P}/jwks",
        201,
        {"jwks": "Jwks"},
        {"jwks_url": "https://issuer.test/jwks", "provider_name": "Issuer", "role_names": ["authenticated"]},
    ),
    Case("delete_jwks", f"{P}/jwks/{JWKS}", 200, {"": "Jwks"}),
    Case("list_endpoints", f"{P}/endpoints", 200, {"endpoints[]": "Endpoint"}),
    Case("list_branch_endpoints", f"{B}/endpoints", 200, {"endpoints[]": "Endpoint"}),
    Case("get_endpoint", f"{P}/endpoints/{ENDPOINT}", 200, {"endpoint": "Endpoint"}),
    Case(
        "create_endpoint",
        f"{P}/endpoints",
        201,
        {"endpoint": "Endpoint", "operations[]": "Operation"},
        {"endpoint": {"branch_id": BRANCH, "type": "read_only"}},
    ),
    Case(
        "update_endpoint",
        f"{P}/endpoints/{ENDPOINT}",
        200,
        {"endpoint": "Endpoint", "operations[]": "Operation"},
        {"endpoint": {"suspend_timeout_seconds": 60}},
    ),
    Case("delete_endpoint", f"{P}/endpoints/{ENDPOINT}", 200, {"endpoint": "Endpoint", "operations[]": "Operation"}),
    Case(
        "start_endpoint", f"{P}/endpoints/{ENDPOINT}/start", 200, {"endpoint": "Endpoint", "operations[]": "Operation"}
    ),
    Case("suspend_endpoint", f"{P}/endpoints/{ENDPOINT}/suspend", 200, {"endpoint": "Endpoint"}),
    Case("restart_endpoint", f"{P}/endpoints/{ENDPOINT}/restart", 200, {"endpoint": "Endpoint"}),
    Case("list_roles", f"{B}/roles", 200, {"roles[]": "Role"}),
    Case("get_role", f"{B}/roles/neondb_owner", 200, {"role": "Role"}),
    Case("create_role", f"{B}/roles", 201, {"role": "Role", "operations[]": "Operation"}, {"role": {"name": "app"}}),
    Case("delete_role", f"{B}/roles/neondb_owner", 200, {"role": "Role", "operations[]": "Operation"}),
    Case(
        "reset_password", f"{B}/roles/neondb_owner/reset_password", 200, {"role": "Role", "operations[]": "Operation"}
    ),
    Case("reveal_password", f"{B}/roles/neondb_owner/reveal_password", 200, {}),
    Case("list_databases", f"{B}/databases", 200, {"databases[]": "Database"}),
    Case("get_database", f"{B}/databases/neondb", 200, {"database": "Database"}),
    Case(
        "create_database",
        f"{B}/databases",
        201,
        {"database": "Database", "operations[]": "Operation"},
        {"database": {"name": "shop", "owner_name": "neondb_owner"}},
    ),
    Case("update_database", f"{B}/databases/neondb", 200, {"database": "Database"}, {"database": {"name": "shop"}}),
    Case("delete_database", f"{B}/databases/neondb", 200, {"database": "Database"}),
    Case("list_operations", f"{P}/operations", 200, {"operations[]": "Operation"}),
    Case("get_operation", f"{P}/operations/{OPERATION}", 200, {"operation": "Operation"}),
    Case("get_user", "/users/me", 200, {"": "User", "billing_account": "BillingAccount"}),
    Case("list_organizations", "/users/me/organizations", 200, {"organizations[]": "Organization"}),
    Case("get_auth", "/auth", 200, {"": "AuthDetails"}),
    Case("get_organization", f"/organizations/{ORG}", 200, {"": "Organization"}),
    Case("list_members", f"/organizations/{ORG}/members", 200, {"members[].member": "Member"}),
    Case("get_member", f"/organizations/{ORG}/members/{ADA.account_id}", 200, {"": "Member"}),
    Case("update_member", f"/organizations/{ORG}/members/{ADA.account_id}", 200, {"": "Member"}, {"role": "editor"}),
    Case("remove_member", f"/organizations/{ORG}/members/{ADA.account_id}", 200, {}),
    Case("list_invitations", f"/organizations/{ORG}/invitations", 200, {}),
    Case(
        "create_invitations",
        f"/organizations/{ORG}/invitations",
        200,
        {"invitations[]": "Invitation"},
        {"invitations": [{"email": "eve@example.com", "role": "member"}]},
    ),
    Case("list_org_api_keys", f"/organizations/{ORG}/api_keys", 200, {"[]": "ApiKey"}),
    Case(
        "create_org_api_key",
        f"/organizations/{ORG}/api_keys",
        200,
        {"": "ApiKeyCreated"},
        {"key_name": "ci", "project_id": PROJECT},
    ),
    Case("revoke_org_api_key", f"/organizations/{ORG}/api_keys/9", 200, {"": "ApiKeyRevoked"}),
    Case(
        "transfer_projects",
        f"/organizations/{ORG}/projects/transfer",
        200,
        {},
        {"destination_org_id": ORG, "project_ids": [PROJECT]},
    ),
    Case("create_transfer_request", f"{P}/transfer_requests", 201, {"": "TransferRequest"}, {"ttl_seconds": 600}),
    Case("accept_transfer_request", f"{P}/transfer_requests/{OFFER}", 204, {}, {"org_id": ORG}),
    Case(
        "get_consumption",
        f"/consumption_history/projects?{WHEN}",
        200,
        {"projects[]": "ProjectConsumption", "projects[].periods[]": "Period"},
    ),
    Case(
        "get_consumption_v2",
        f"/consumption_history/v2/projects?{WHEN}&org_id={ORG}&metrics=compute_unit_seconds",
        200,
        {"projects[]": "ProjectConsumption", "projects[].periods[]": "Period"},
    ),
    Case(
        "get_branch_consumption_v2",
        f"/consumption_history/v2/branches?{WHEN}&org_id={ORG}&project_ids={PROJECT}&metrics=compute_unit_seconds",
        200,
        {"branches[]": "BranchConsumption", "branches[].periods[]": "Period"},
    ),
    Case("list_access_requests", f"/cloister{P}/access_requests", 200, {}),
    Case("get_access_request", f"/cloister{P}/access_requests/{ACCESS}", 200, {}),
    Case(
        "create_access_request",
        f"/cloister{P}/access_requests",
        201,
        {},
        {"access_request": {"reason": "INC-7", "duration_seconds": 600}},
    ),
    Case("approve_access_request", f"/cloister{P}/access_requests/{ACCESS}/approve", 200, {}),
    Case("deny_access_request", f"/cloister{P}/access_requests/{ACCESS}/deny", 200, {}, {}),
    Case("terminate_access", f"/cloister{P}/access_requests/{ACCESS}/terminate", 200, {}),
    Case("create_access_credentials", f"/cloister{P}/access_requests/{ACCESS}/credentials", 200, {}),
    Case("list_access_recordings", f"/cloister{P}/access_requests/{ACCESS}/recordings", 200, {}),
    Case("list_recordings", f"/cloister{P}/recordings", 200, {}),
    Case("get_recording", f"/cloister{P}/recordings/{ACCESS}", 200, {}),
    Case("list_shifts", f"/cloister/organizations/{ORG}/on_call", 200, {}),
    Case(
        "create_shift",
        f"/cloister/organizations/{ORG}/on_call",
        201,
        {},
        {"email": "dev@example.com", "starts_at": "2026-03-04T00:00:00Z", "ends_at": "2026-03-05T00:00:00Z"},
    ),
    Case("remove_shift", f"/cloister/organizations/{ORG}/on_call/{ACCESS}", 200, {}),
    Case("list_access_reviews", f"/cloister/organizations/{ORG}/access_reviews", 200, {}),
    Case("start_access_review", f"/cloister/organizations/{ORG}/access_reviews", 201, {}, {}),
    Case("get_access_review", f"/cloister/organizations/{ORG}/access_reviews/{REVIEW}", 200, {}),
    Case(
        "answer_access_review_item",
        f"/cloister/organizations/{ORG}/access_reviews/{REVIEW}/items/1",
        200,
        {},
        {"decision": "remove", "note": "left"},
    ),
    Case("close_access_review", f"/cloister/organizations/{ORG}/access_reviews/{REVIEW}/close", 200, {}),
    Case("get_access_review_policy", f"/cloister/organizations/{ORG}/access_review_policy", 200, {}),
    Case(
        "set_access_review_policy",
        f"/cloister/organizations/{ORG}/access_review_policy",
        200,
        {},
        {"every_days": 90, "answer_days": 14},
    ),
    Case("remove_access_review_policy", f"/cloister/organizations/{ORG}/access_review_policy", 200, {}),
    Case("create_organization", "/cloister/organizations", 201, {"": "Organization"}, {"name": "Example"}),
    Case("create_account", "/cloister/accounts", 201, {}, {"email": "eve@example.com", "name": "Eve"}),
    Case("disable_account", "/cloister/accounts", 200, {}, {"email": "eve@example.com", "disabled": True}),
    Case("list_issuers", "/cloister/issuers", 200, {}),
    Case(
        "add_issuer",
        "/cloister/issuers",
        201,
        {},
        {"name": "company", "issuer": "https://login.example.com", "client_id": "cloister"},
    ),
    Case("remove_issuer", f"/cloister/issuers/{ISSUER.id}", 200, {}),
    Case("list_service_accounts", f"/cloister/organizations/{ORG}/service_accounts", 200, {}),
    Case(
        "create_service_account",
        f"/cloister/organizations/{ORG}/service_accounts",
        201,
        {},
        {"name": "ci", "grants": [{"project_id": PROJECT, "role": "editor"}]},
    ),
    Case(
        "update_service_account",
        f"/cloister/organizations/{ORG}/service_accounts/{SERVICE_ACCOUNT}",
        200,
        {},
        {"disabled": True},
    ),
    Case(
        "rotate_service_account",
        f"/cloister/organizations/{ORG}/service_accounts/{SERVICE_ACCOUNT}/rotate",
        201,
        {},
        {"overlap_seconds": 0},
    ),
    Case("remove_service_account", f"/cloister/organizations/{ORG}/service_accounts/{SERVICE_ACCOUNT}", 200, {}),
    Case("list_groups", f"/cloister/organizations/{ORG}/groups", 200, {}),
    Case("map_group", f"/cloister/organizations/{ORG}/groups", 201, {}, {"group": "dba", "role": "editor"}),
    Case("unmap_group", f"/cloister/organizations/{ORG}/groups/{GROUP.id}", 200, {}),
    Case("get_scim", f"/cloister/organizations/{ORG}/scim", 200, {}),
    Case("enable_scim", f"/cloister/organizations/{ORG}/scim", 201, {}),
    Case("rotate_scim", f"/cloister/organizations/{ORG}/scim/rotate", 201, {}),
    Case("disable_scim", f"/cloister/organizations/{ORG}/scim", 200, {}),
    Case("begin_login", "/cloister/logins", 201, {}, {"port": 40000, "challenge": "A" * 43}),
    Case("finish_login", "/cloister/logins/finish", 201, {}, {"state": "good", "secret": "s", "code": "c"}),
    Case("list_passkeys", "/cloister/users/me/passkeys", 200, {}),
    Case("begin_passkey", "/cloister/users/me/passkeys/begin", 201, {}),
    Case("add_passkey", "/cloister/users/me/passkeys", 201, {}, REGISTRATION),
    Case("remove_passkey", f"/cloister/users/me/passkeys/{PASSKEY}", 200, {}),
    Case("show_ceremony", "/cloister/passkeys/ceremonies", 200, {}, {"challenge": CHALLENGE}),
    Case("get_passkey_policy", f"/cloister/organizations/{ORG}/passkey_policy", 200, {}),
    Case("set_passkey_policy", f"/cloister/organizations/{ORG}/passkey_policy", 200, {}, {"required": True}),
    Case("begin_link", "/cloister/users/me/logins", 201, {}, {"port": 40000, "challenge": "A" * 43}),
    Case("grant_permission", f"{P}/permissions", 200, {"": "ProjectPermission"}, {"email": "eve@example.com"}),
    Case("revoke_permission", f"{P}/permissions/{GRANT}", 200, {"": "ProjectPermission"}),
    Case("list_project_members", f"{P}/members", 200, {"project_members[]": "ProjectMember"}),
    Case(
        "set_project_member_role",
        f"{P}/members/{ADA.account_id}/role",
        200,
        {"": "ProjectMemberRole"},
        {"role": "viewer"},
    ),
    Case("remove_project_member_role", f"{P}/members/{ADA.account_id}/role", 200, {"": "ProjectMemberRole"}),
    Case("list_api_keys", "/api_keys", 200, {"[]": "ApiKey"}),
    Case("create_api_key", "/api_keys", 200, {"": "ApiKeyCreated"}, {"key_name": "ci"}),
    Case("revoke_api_key", "/api_keys/7", 200, {"": "ApiKeyRevoked"}),
    Case("list_regions", "/regions", 200, {"regions[]": "Region"}),
    Case("get_health", "/cloister/health", 200, {}),
    Case("list_audit_events", "/cloister/audit/events", 200, {}),
    Case("get_audit_who", "/cloister/audit/who?event=1", 404, {}),
    Case("verify_audit", "/cloister/audit/verify", 403, {}),
    Case("get_audit_level", f"/cloister{P}/audit_level", 200, {}),
    Case("set_audit_level", f"/cloister{P}/audit_level", 200, {}, {"level": "full"}),
    Case("list_statements", f"/cloister{P}/statements", 200, {}),
    Case("list_statement_erasures", f"/cloister{P}/statement_erasures", 200, {}),
    Case("ask_statement_erasure", f"/cloister{P}/statement_erasures", 201, {}, {"reason": "asked for"}),
    Case("agree_to_statement_erasure", f"/cloister{P}/statement_erasures/{ERASURE}/agree", 200, {}),
    Case("list_forgettings_in_project", f"/cloister{P}/audit_forgettings", 200, {}),
    Case(
        "ask_to_forget_in_project",
        f"/cloister{P}/audit_forgettings",
        201,
        {},
        {"kind": "role", "subject": "app", "reason": "asked for"},
    ),
    Case("agree_to_forget_in_project", f"/cloister{P}/audit_forgettings/{FORGETTING}/agree", 200, {}),
    Case("list_forgettings", "/cloister/audit/forgettings", 403, {}),
    Case(
        "ask_to_forget",
        "/cloister/audit/forgettings",
        201,
        {},
        {"kind": "address", "subject": "192.0.2.1", "reason": "asked for"},
    ),
    Case("agree_to_forget", f"/cloister/audit/forgettings/{FORGETTING}/agree", 200, {}),
    Case("list_backups", f"/cloister{P}/backups", 200, {}),
    Case("take_backup", f"/cloister{P}/backups", 202, {}, {"branch_id": BRANCH}),
    Case("check_backups", f"/cloister{P}/backups/check", 202, {}, {}),
    Case("restore_backup", f"/cloister{P}/backups/restore", 201, {}, {"branch_id": BRANCH, "lsn": "0/2"}),
    Case("restore_project_from_backups", f"/cloister{P}/backups/restore_project", 202, {}),
    Case("exclude_from_backups", f"/cloister{P}/backups/exclude", 200, {}, {"reason": "a toy"}),
    Case("include_in_backups", f"/cloister{P}/backups/include", 200, {}),
    Case("list_consents", f"/cloister{B}/consents", 200, {}),
    Case("ask_for_consent", f"/cloister{B}/consents", 201, {}, {"act": "copy", "reason": "INC-7"}),
    Case("agree_to_consent", f"/cloister{B}/consents/{CONSENT}/agree", 200, {}),
    Case("end_consent", f"/cloister{B}/consents/{CONSENT}/end", 200, {}),
    Case("get_consent_policy", f"/cloister/organizations/{ORG}/consent_policy", 200, {}),
    Case("set_consent_policy", f"/cloister/organizations/{ORG}/consent_policy", 200, {}, {"required": True}),
    Case("list_audit_holds", f"/cloister{P}/audit_holds", 200, {}),
    Case("place_audit_hold", f"/cloister{P}/audit_holds", 201, {}, {"reason": "matter 17"}),
    Case("ask_to_lift_audit_hold", f"/cloister{P}/audit_holds/{HOLD}/lift", 200, {}, {"reason": "settled"}),
    Case("list_audit_retention", f"/cloister/organizations/{ORG}/audit_retention", 200, {}),
    Case(
        "preview_audit_retention", f"/cloister/organizations/{ORG}/audit_retention/preview?record=statements", 200, {}
    ),
    Case(
        "set_audit_retention",
        f"/cloister/organizations/{ORG}/audit_retention",
        201,
        {},
        {"record": "statements", "days": 400, "reason": "records policy 3"},
    ),
    Case("agree_to_audit_retention", f"/cloister/organizations/{ORG}/audit_retention/{RETENTION}/agree", 200, {}),
    Case("list_events_retention", "/cloister/audit/retention", 403, {}),
    Case("preview_events_retention", "/cloister/audit/retention/preview?days=400", 403, {}),
    Case("set_events_retention", "/cloister/audit/retention", 201, {}, {"days": 800, "reason": "records policy 3"}),
    Case("agree_to_events_retention", f"/cloister/audit/retention/{RETENTION}/agree", 200, {}),
    Case("agree_to_lift_audit_hold", f"/cloister{P}/audit_holds/{HOLD}/agree", 200, {}),
    Case("list_egress_rules", f"/cloister{P}/egress", 200, {}),
    Case("allow_egress", f"/cloister{P}/egress", 201, {}, {"to": "db.example.com:5432"}),
    Case("remove_egress_rule", f"/cloister{P}/egress/{EGRESS_RULE}", 200, {}),
    Case("change_project_tags", f"/cloister{P}/tags", 200, {}, {"add": ["pii"]}),
    Case("change_branch_tags", f"/cloister{P}/branches/{BRANCH}/tags", 200, {}, {"add": ["pii"]}),
    Case("list_volume_keys", "/cloister/keys", 200, {}),
    Case("get_project_keys", f"/cloister{P}/keys", 200, {}),
    Case("rotate_project_keys", f"/cloister{P}/keys/rotate", 200, {}),
    Case("disable_project_keys", f"/cloister{P}/keys/disable", 200, {}, {"reason": "stolen"}),
    Case("enable_project_keys", f"/cloister{P}/keys/enable", 200, {}),
    Case("schedule_key_destruction", f"/cloister{P}/keys/destroy", 200, {}, {"days": 7}),
    Case("cancel_key_destruction", f"/cloister{P}/keys/cancel", 200, {}),
    Case("get_reencryption", f"/cloister{P}/keys/reencryption", 200, {}),
    Case("reencrypt_project", f"/cloister{P}/keys/reencryption", 200, {}, {"bytes_per_s": 10_000_000, "now": True}),
    Case("pause_reencryption", f"/cloister{P}/keys/reencryption/pause", 200, {}),
    Case("cancel_reencryption", f"/cloister{P}/keys/reencryption", 200, {}),
    Case("get_key_policy", f"/cloister/organizations/{ORG}/key_policy", 200, {}),
    Case("set_key_policy", f"/cloister/organizations/{ORG}/key_policy", 200, {}, {"rotate_days": 90}),
    Case("get_root_keys", "/cloister/keys/roots", 403, {}),
    Case("list_findings", "/cloister/findings", 200, {}),
    Case("get_sentinel", "/cloister/sentinel", 200, {}),
    Case("test_sentinel", "/cloister/sentinel/test", 202, {}),
    Case("get_finding", f"/cloister/findings/{FINDING}", 200, {}),
    Case("measure_findings", "/cloister/findings/metrics?days=7", 200, {}),
    Case("get_finding_timeline", f"/cloister/findings/{FINDING}/timeline", 200, {}),
    Case("note_finding", f"/cloister/findings/{FINDING}/notes", 200, {}, {"text": "asked them"}),
    Case("assign_finding", f"/cloister/findings/{FINDING}/assign", 200, {}, {"email": "dev@example.org"}),
    Case("acknowledge_finding", f"/cloister/findings/{FINDING}/acknowledge", 200, {}, {"note": "mine"}),
    Case("resolve_finding", f"/cloister/findings/{FINDING}/resolve", 200, {}, {}),
    Case("respond_to_finding", f"/cloister/findings/{FINDING}/respond", 200, {}, {"action": "quarantine"}),
    Case("release_finding", f"/cloister/findings/{FINDING}/release", 200, {}),
    Case("list_buckets", f"{B}/buckets", 200, {}),
    Case("list_advisor_issues", f"{P}/advisors", 200, {"issues[]": "AdvisorIssue"}),
    Case("list_project_vpc_endpoints", f"{P}/vpc_endpoints", 200, {}),
    Case("list_vpc_endpoints", f"/organizations/{ORG}/vpc/vpc_endpoints", 200, {}),
    Case("list_vpc_endpoints_of_region", f"/organizations/{ORG}/vpc/region/self-hosted/vpc_endpoints", 200, {}),
    Case("list_preload_libraries", f"{P}/available_preload_libraries", 200, {}),
    Case("list_functions", f"{B}/functions", 200, {}),
    Case("list_credentials", f"{B}/credentials", 200, {}),
]

BY_NAME = {route.name: route for route in ROUTES}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.route)
async def test_a_route_answers_in_neons_shape(case: Case) -> None:
    world = World()
    world.roles.stored_password = PASSWORD
    route = BY_NAME[case.route]
    async with world.client() as client:
        answer = await client.request(route.method, case.path, json=case.body)
    assert answer.status_code == case.status, answer.text
    for where, noun in case.holds.items():
        found = list(_at(answer.json(), where))
        assert found, f"nothing at {where}"
        for value in found:
            assert missing(noun, value) == set(), where


def test_every_route_has_its_case() -> None:
    assert {case.route for case in CASES} == set(BY_NAME)
    assert len(CASES) == len(ROUTES)


async def test_an_answer_is_json_that_nobody_keeps_or_frames() -> None:
    async with World().client() as client:
        answer = await client.get(P)
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["strict-transport-security"].startswith("max-age=")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-request-id"] == answer.headers["x-neon-ret-request-id"] != ""
    assert "server" not in answer.headers
    assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_a_created_project_shows_its_password_percent_encoded_and_bound_to_tls() -> None:
    async with World(postgres_port=15432).client() as client:
        created = (await client.post("/projects", json={"project": {"name": "shop"}})).json()
    details = created["connection_uris"][0]
    assert details["connection_uri"] == (
        f"postgresql://neondb_owner:npg_p%25%2F%40%3Ashown1234567890@{ENDPOINT}.db.test:15432/neondb"
        "?sslmode=verify-full&channel_binding=require"
    )
    assert details["connection_parameters"] == {
        "database": "neondb",
        "password": PASSWORD,
        "role": "neondb_owner",
        "host": f"{ENDPOINT}.db.test",
        "pooler_host": f"{ENDPOINT}-pooler.db.test",
    }
    assert created["roles"][0]["password"] == PASSWORD
    assert created["endpoints"][0]["host"].startswith(ENDPOINT)
    assert created["project"]["proxy_host"] == "db.test"


async def test_a_deleted_project_is_there_for_nobody_but_who_recovers_or_destroys_it() -> None:
    world = World()
    served = [route for route in ROUTES if "{project_id}" in route.path]
    assert {route.name for route in served if route.and_deleted} == {"recover_project", "delete_project"}
    async with world.client() as client:
        for case in CASES:
            route = BY_NAME[case.route]
            if f"/projects/{PROJECT}" in case.path and not route.and_deleted and not route.from_outside:
                path = case.path.replace(PROJECT, GONE_PROJECT)
                answer = await client.request(route.method, path, json=case.body)
                assert (answer.status_code, answer.json()["message"]) == (404, "project not found"), path
        listed = (await client.get("/projects?recoverable=true")).json()["projects"]
        assert [(it["id"], it["deleted_at"], it["recoverable_until"]) for it in listed] == [
            (GONE_PROJECT, "2026-03-04T05:06:07Z", "2026-03-11T05:06:07Z")
        ]
        assert GONE_PROJECT not in {it["id"] for it in (await client.get("/projects")).json()["projects"]}
        assert (await client.delete(f"/projects/{GONE_PROJECT}")).status_code == 404, "deleted once"
        assert (await client.delete(f"/projects/{GONE_PROJECT}?hard_delete=true")).status_code == 200
        assert (await client.post(f"/projects/{PROJECT}/recover")).status_code == 409
    async with world.client(BOB_KEY) as client:
        assert (await client.post(f"/projects/{GONE_PROJECT}/recover")).status_code == 404
        assert (await client.get("/projects?recoverable=true")).json()["projects"] == []
    assert world.projects.hard == [False, True]


async def test_defaults_are_those_that_neons_tools_expect() -> None:
    world = World()
    async with world.client() as client:
        await client.post("/projects", json={"project": {}})
    new = world.projects.created[0]
    assert (new.branch_name, new.role_name, new.database_name) == ("main", "neondb_owner", "neondb")
    assert new.org_id == ORG
    assert new.name is None


async def test_everything_a_project_can_be_created_with_arrives() -> None:
    world = World()
    body = {
        "project": {
            "name": "shop",
            "org_id": ORG,
            "pg_version": 17,
            "store_passwords": True,
            "history_retention_seconds": 3600,
            "branch": {"name": "live", "role_name": "o'wner", "database_name": 'sh"op'},
            "settings": {
                "allowed_ips": {"ips": ["192.0.2.0/24"], "protected_branches_only": True},
                "quota": {"logical_size_bytes": 5},
                "maintenance_window": {"weekdays": [1]},
                "require_channel_binding": True,
            },
            "autoscaling_limit_min_cu": 0.5,
            "default_endpoint_settings": {"autoscaling_limit_max_cu": 4, "suspend_timeout_seconds": -1},
            "provisioner": "k8s-neonvm",
        }
    }
    async with world.client() as client:
        assert (await client.post("/projects", json=body)).status_code == 201
    new = world.projects.created[0]
    assert (new.name, new.pg_version, new.store_passwords, new.history_retention_seconds) == ("shop", 17, True, 3600)
    assert (new.branch_name, new.role_name, new.database_name) == ("live", "o'wner", 'sh"op')
    assert new.settings is not None
    assert new.settings.allowed_ips.ips == ["192.0.2.0/24"]
    assert new.settings.allowed_ips.protected_branches_only
    assert new.settings.quota.logical_size_bytes == 5
    assert new.settings.require_channel_binding
    assert new.default_endpoint_settings is not None
    assert new.default_endpoint_settings.autoscaling_limit_min_cu == 0.5
    assert new.default_endpoint_settings.autoscaling_limit_max_cu == 4
    assert new.default_endpoint_settings.suspend_timeout_seconds == -1


async def test_a_patch_changes_only_what_it_gives() -> None:
    """Terraform sends `protected_branches_only: null` and no `ips`: the list must stay."""
    world = World()
    settings = {"allowed_ips": {"protected_branches_only": None}, "enable_logical_replication": True}
    async with world.client() as client:
        await client.patch(P, json={"project": {"settings": settings}})
        await client.patch(P, json={"project": {"settings": {"allowed_ips": {"ips": []}}}})
        await client.patch(P, json={"project": {"settings": {"require_channel_binding": False}}})
    first, second, third = world.projects.changes
    assert first.settings == {"allowed_ips": {}, "enable_logical_replication": True}
    assert first.default_endpoint_settings is None
    assert second.settings == {"allowed_ips": {"ips": []}}
    assert third.settings == {"require_channel_binding": False}


async def test_deleted_twice_is_deleted() -> None:
    async with World().client() as client:
        for path in (f"{B}/roles/nobody", f"{B}/databases/nothing", f"{P}/endpoints/ep-calm-forest-zzzzzzzz"):
            answer = await client.delete(path)
            assert (answer.status_code, answer.content) == (204, b"")
            assert "content-type" not in answer.headers


async def test_projects_are_listed_page_by_page_until_a_page_is_empty() -> None:
    async with World().client() as client:
        first = (await client.get("/projects?limit=1")).json()
        assert first["pagination"]["cursor"] == PROJECT
        assert (first["applications"], first["integrations"]) == ({}, {})
        last = (await client.get("/projects", params={"limit": 1, "cursor": PROJECT})).json()
        assert last["projects"] == []
        assert "pagination" not in last


async def test_branches_end_without_a_next_page() -> None:
    """Neon's command line asks for ever if `next` is there at the end."""

    world = World()
    world.branches.rows += [branch(BranchId(f"br-calm-forest-0000000{n}"), is_default=False) for n in range(2)]
    seen = []
    async with world.client() as client:
        cursor = None
        while True:
            page = (
                await client.get(f"{P}/branches", params={"limit": 2, **({"cursor": cursor} if cursor else {})})
            ).json()
            seen += [it["id"] for it in page["branches"]]
            cursor = page["pagination"].get("next")
            if cursor is None:
                break
        assert (await client.get(f"{P}/branches/count")).json() == {"count": 4}
    assert seen == [it.id for it in world.branches.rows]


async def test_operations_are_listed_page_by_page() -> None:

    world = World()
    world.operations.rows = [operation(n) for n in (3, 2, 1)]
    async with world.client() as client:
        page = (await client.get(f"{P}/operations?limit=2")).json()
        rest = (await client.get(f"{P}/operations", params={"limit": 2, "cursor": page["pagination"]["cursor"]})).json()
    assert [len(page["operations"]), len(rest["operations"])] == [2, 1]


async def test_a_connection_uri_has_the_password_only_where_it_is_stored_and_may_be_seen() -> None:

    world = World()
    path = f"{P}/connection_uri?database_name=neondb&role_name=a%2Fb&pooled=True"
    async with world.client() as client:
        bare = (await client.get(path)).json()["uri"]
        assert bare.startswith(f"postgresql://a%2Fb@{ENDPOINT}-pooler.db.test/neondb?")
        world.projects.rows[PROJECT] = project(store_passwords=True)
        world.roles.stored_password = "p@ss"
        assert (await client.get(path)).json()["uri"].startswith("postgresql://a%2Fb:p%40ss@")
        world.roles.stored_password = None
        assert (await client.get(path)).json()["uri"] == bare
        assert (await client.get(path.replace("neondb&", "other&"))).status_code == 404
        assert (await client.get(f"{P}/connection_uri?role_name=x")).status_code == 400


async def test_a_password_that_is_not_stored_is_a_failed_precondition() -> None:
    async with World().client() as client:
        answer = await client.get(f"{B}/roles/neondb_owner/reveal_password")
    assert (answer.status_code, answer.json()["message"]) == (412, "Storing passwords is disabled")


async def test_a_name_with_a_slash_has_an_address() -> None:
    async with World().client() as client:
        answer = await client.get(f"{B}/roles/a%2Fb")
    assert answer.json()["role"]["name"] == "a/b"


async def test_an_endpoint_that_wakes_says_so() -> None:
    async with World().client() as client:
        endpoint = (await client.get(f"{P}/endpoints/{ENDPOINT}")).json()["endpoint"]
    assert (endpoint["current_state"], endpoint["pending_state"]) == ("idle", "active")
    assert endpoint["last_active"] == "2026-03-04T05:06:07Z"


async def test_the_audit_log_shows_a_tenant_only_its_own_projects() -> None:

    world = World()
    world.audit.events = [Event(action="role.create", actor="x", project_id=it) for it in (PROJECT, OTHER_PROJECT, "")]
    async with world.client() as client:
        events = (await client.get("/cloister/audit/events")).json()["events"]
        assert {it["event"]["project_id"] for it in events} == {PROJECT}
        assert (await client.get(f"/cloister/audit/events?project_id={OTHER_PROJECT}")).status_code == 404
        assert {it["project_id"] for it in (await client.get("/cloister/keys")).json()["keys"]} == {PROJECT}
        assert (await client.get(f"/cloister/keys?project_id={OTHER_PROJECT}")).status_code == 404


async def test_an_operator_sees_and_verifies_the_whole_log() -> None:

    world = World()
    world.keys.principals[ADA_KEY] = replace(principal(1, {ORG: "admin"}), is_operator=True)
    world.audit.events = [Event(action="platform.start", actor="platform:api")]
    async with world.client() as client:
        assert (await client.get("/cloister/audit/events")).json()["events"][0]["event"]["action"] == "platform.start"
        verdict = (await client.get("/cloister/audit/verify")).json()
        assert verdict["is_intact"] is True
        assert verdict["head"].endswith(":" + "0" * 64)
        assert (await client.get("/cloister/audit/verify?noted=nonsense")).status_code == 400


async def test_an_organization_must_be_named_only_by_who_has_several() -> None:

    world = World()
    world.keys.principals[ADA_KEY] = principal(1, {ORG: "admin", OTHER_ORG: "admin"})
    async with world.client() as client:
        answer = await client.post("/projects", json={"project": {}})
        assert answer.status_code == 400
        assert answer.json()["message"].startswith("org_id is required")
        await client.post("/projects", json={"project": {"org_id": OTHER_ORG}})
    assert world.projects.created[0].org_id == OTHER_ORG


async def test_the_public_answers_need_no_key() -> None:
    world = World()
    async with world.client(None) as client:
        health = await client.get("/cloister/health")
        assert health.json() == {"version": "0.1.0", "ready": True}
        assert json.loads((await client.get("/openapi.json")).content)["info"]["version"] == "0.1.0"
        assert (await client.get("https://api.test/")).json()["api"] == "/api/v2"
    assert world.keys.asked == 0


def _at(value: Any, where: str) -> Any:
    """Every value at `a[].b.c`."""
    head, _, rest = where.partition(".")
    name, is_list = head.removesuffix("[]"), head.endswith("[]")
    inner = value[name] if name else value
    for it in inner if is_list else [inner]:
        if rest:
            yield from _at(it, rest)
        else:
            yield it


async def test_who_may_not_grant_a_project_does_not_see_who_may_nothing_in_it() -> None:
    world = World()
    async with world.client() as client:
        assert len((await client.get(f"{P}/members")).json()["project_members"]) == 3
        world.decider.refused = {Permission.ACCESS_MANAGE}
        shown = (await client.get(f"{P}/members")).json()["project_members"]
    assert [(it["org_role"], it["effective_project_permission"], it["grant_source"]) for it in shown] == [
        ("admin", "ADMIN", "org_admin_override"),
        ("viewer", "EDITOR", "explicit"),
    ]


async def test_what_is_confirmed_in_the_query_reaches_the_service() -> None:
    world = World()
    path = f"{P}/members/{ADA.account_id}/role"
    async with world.client() as client:
        await client.put(path, json={"role": "viewer"})
        changed = await client.put(f"{path}?confirm_self_demotion=true", json={"role": "viewer"})
        await client.delete(f"{path}?confirm_self_lockout=true")
        assert (await client.put(path, json={"role": "owner"})).status_code == 400
    assert world.organizations.changes == [
        (ADA.account_id, "viewer", False),
        (ADA.account_id, "viewer", True),
        (ADA.account_id, None, True),
    ]
    assert changed.json()["credential_rotation_recommended"] is True


async def test_a_transfer_request_is_accepted_from_outside_for_an_organization_of_ones_own() -> None:
    """Bob is of another organization than the project's, and of that one the project is not there."""
    world = World()
    path = f"{P}/transfer_requests/{OFFER}"
    async with world.client(BOB_KEY) as client:
        assert (await client.get(P)).status_code == 404
        assert (await client.post(f"{P}/transfer_requests", json={})).status_code == 404
        accepted = await client.put(path)
        assert (accepted.status_code, accepted.content) == (204, b"")
        assert (await client.put(path, json={"org_id": OTHER_ORG})).status_code == 204
        assert (await client.put(path, json={"org_id": ORG})).status_code == 404, "no organization of Bob's"
        world.decider.refused = {Permission.PROJECT_CREATE}
        assert (await client.put(path)).status_code == 403
    assert world.offers.changes == [(PROJECT, OFFER, OTHER_ORG)] * 2
    recorded = [it for it in world.audit.events if it.action == "project.transfer" and it.outcome == "ok"]
    assert recorded == [], "that is the service's to do, with the change"


async def test_consumption_is_what_the_counts_say_and_what_is_not_measured_is_left_out() -> None:
    world = World()
    metrics = "compute_unit_seconds,root_branch_bytes_month,public_network_transfer_bytes,extra_branches_month"
    path = f"/consumption_history/v2/projects?{WHEN}&org_id={ORG}&metrics={metrics}"
    async with world.client() as client:
        (shown,) = (await client.get(path)).json()["projects"]
        (older,) = (await client.get(f"/consumption_history/projects?{WHEN}&include_v1_metrics=true")).json()[
            "projects"
        ]
    (period,) = shown["periods"]
    assert (period["period_start"], "period_end" in period) == ("2026-03-01T00:00:00Z", False)
    values = {it["metric_name"]: it["value"] for it in period["consumption"][0]["metrics"]}
    assert values == {"compute_unit_seconds": 900, "root_branch_bytes_month": round(8e6 / (31 * 24))}
    (frame,) = older["periods"][0]["consumption"]
    assert frame == {
        "timeframe_start": "2026-03-04T05:00:00Z",
        "timeframe_end": "2026-03-04T06:00:00Z",
        "active_time_seconds": 3600,
        "compute_time_seconds": 900,
        "written_data_bytes": 1_000_000,
        "synthetic_storage_size_bytes": 9_000_000,
        "data_storage_bytes_hour": 9_000_000,
    }


async def test_consumption_is_asked_for_by_lists_within_what_is_ones_own() -> None:
    world = World()
    path = f"/consumption_history/v2/branches?{WHEN}&metrics=compute_unit_seconds"
    mine = f"{path}&org_id={ORG}"
    async with world.client() as client:
        several = f"{mine}&project_ids={PROJECT},{OTHER_PROJECT}&project_ids={GONE_PROJECT}&branch_ids={BRANCH}"
        assert (await client.get(several)).status_code == 200
        for wrong, status in (
            (f"{path}&org_id={OTHER_ORG}&project_ids={PROJECT}", 404),
            (mine, 400),
            (f"{mine}&project_ids={PROJECT}&metrics=snapshot_storage_bytes_month", 400),
            (f"{mine}&project_ids={PROJECT}&cursor={PROJECT}", 400),
            (f"{mine}&project_ids=" + ",".join([PROJECT] * 101), 400),
            (f"{mine}&project_ids={PROJECT}".replace("from=2026-03-04", "from=2026-01-04"), 406),
            (f"{mine}&project_ids={PROJECT}".replace("to=2026-03-04", "to=2026-03-03"), 406),
        ):
            assert (await client.get(wrong)).status_code == status, wrong
    ((asked, after, limit),) = world.consumption.asked
    assert (asked.org_ids, asked.granted, after, limit) == ((ORG,), (), None, 100)
    assert asked.project_ids == [PROJECT, OTHER_PROJECT, GONE_PROJECT]
    assert asked.branch_ids == [BRANCH]


async def test_who_asks_for_events_is_told_what_was_pruned(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()

    async def gone() -> Gone:
        return Gone(512, datetime(2026, 5, 1, tzinfo=UTC))

    monkeypatch.setattr(world.audit, "gone", gone)
    async with world.client() as client:
        assert (await client.get("/cloister/audit/events")).json()[
            "pruned"
        ] == "the events up to 512 were pruned on 2026-05-01"
        statements = (await client.get(f"/cloister{P}/statements")).json()
        assert statements["pruned"] == "the events up to 512 were pruned on 2026-05-01"
        answer = await client.get("/cloister/audit/who?event=7")
    assert (answer.status_code, answer.json()["message"]) == (
        404,
        "event not found; the events up to 512 were pruned on 2026-05-01",
    )

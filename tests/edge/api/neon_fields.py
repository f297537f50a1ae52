"""What Neon's clients may rely on: the fields that its API always sends, by noun, and what each answer holds.

Written by hand from Neon's public API description, so that our shapes are held to theirs and not to ourselves.
"""

REQUIRED = {
    "Project": """data_storage_bytes_hour data_transfer_bytes written_data_bytes compute_time_seconds active_time_seconds
        cpu_used_sec id platform_id region_id name provisioner pg_version proxy_host branch_logical_size_limit
        branch_logical_size_limit_bytes store_passwords creation_source history_retention_seconds created_at updated_at
        consumption_period_start consumption_period_end owner_id settings""",
    "ProjectListItem": """id platform_id region_id name provisioner pg_version proxy_host branch_logical_size_limit
        branch_logical_size_limit_bytes store_passwords active_time cpu_used_sec creation_source created_at updated_at
        owner_id settings""",
    "Branch": """id project_id name current_state state_changed_at creation_source default protected cpu_used_sec
        compute_time_seconds active_time_seconds written_data_bytes data_transfer_bytes created_at updated_at""",
    "Recovery": "deleted_at recoverable_until deletion_method",
    "Snapshot": "id name created_at",
    "ScheduleItem": "frequency",
    "Jwks": "id project_id jwks_url provider_name created_at updated_at",
    "Endpoint": """host id project_id branch_id autoscaling_limit_min_cu autoscaling_limit_max_cu region_id type
        current_state settings pooler_enabled pooler_mode disabled passwordless_access creation_source created_at
        updated_at proxy_host suspend_timeout_seconds provisioner""",
    "AdvisorIssue": "name title level facing categories description detail remediation metadata cache_key",
    "Role": "branch_id name created_at updated_at",
    "Database": "id branch_id name owner_name created_at updated_at",
    "Operation": "id project_id action status failures_count created_at updated_at total_duration_ms",
    "ConnectionDetails": "connection_uri connection_parameters",
    "ConnectionParameters": "database password role host pooler_host",
    "User": """active_seconds_limit billing_account auth_accounts email id image login name last_name projects_limit
        branches_limit max_autoscaling_limit plan""",
    "BillingAccount": """state payment_source subscription_type payment_method quota_reset_at_last name email
        address_city address_country address_line1 address_line2 address_postal_code address_state""",
    "Organization": "id name handle plan created_at managed_by updated_at",
    "Member": "id user_id org_id role",
    "Invitation": "id email org_id invited_by invited_at role",
    "ProjectPermission": "id granted_to_email granted_at",
    "ProjectMember": "member_id user_id org_role",
    "ProjectMemberRole": "project_id member_id user_id org_role",
    "TransferRequest": "id project_id created_at expires_at",
    "ProjectConsumption": "project_id periods",
    "BranchConsumption": "project_id branch_id periods",
    "Period": "period_id period_plan period_start consumption",
    "ApiKey": "id name created_at created_by last_used_at last_used_from_addr",
    "ApiKeyCreated": "id key name created_at created_by",
    "ApiKeyRevoked": "id name created_at created_by last_used_at last_used_from_addr revoked",
    "Region": "region_id name default geo_lat geo_long",
    "AuthDetails": "account_id auth_method",
    "Annotation": "object value",
    "AllowedIps": "ips protected_branches_only",
}
"""Noun → fields that are always there."""


def missing(noun: str, value: dict[str, object]) -> set[str]:
    return set(REQUIRED[noun].split()) - set(value)

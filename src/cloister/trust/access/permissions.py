"""What may be done, as `resource:verb`. Sorted; a test finds a permission that no route checks."""

from enum import StrEnum


class Permission(StrEnum):
    API_KEY_MANAGE = "api_key:manage"
    AUDIT_READ = "audit:read"
    BRANCH_READ = "branch:read"
    CONNECTION_URI_READ = "connection_uri:read"
    DATABASE_MANAGE = "database:manage"
    DATABASE_READ = "database:read"
    ENDPOINT_MANAGE = "endpoint:manage"
    ENDPOINT_OPERATE = "endpoint:operate"
    """Start, suspend, restart."""
    ENDPOINT_READ = "endpoint:read"
    KEY_READ = "key:read"
    OPERATION_READ = "operation:read"
    PROJECT_CREATE = "project:create"
    PROJECT_DELETE = "project:delete"
    PROJECT_READ = "project:read"
    PROJECT_UPDATE = "project:update"
    REGION_READ = "region:read"
    ROLE_MANAGE = "role:manage"
    ROLE_READ = "role:read"
    ROLE_REVEAL_PASSWORD = "role:reveal_password"  # noqa: S105 - the name of a permission
    USER_READ = "user:read"

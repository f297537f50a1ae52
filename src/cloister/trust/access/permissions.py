"""What may be done, as `resource:verb`. Sorted; a test finds a permission that no route checks.

A permission is asked of one project, or of an organization (which then means all of its projects). The sets below name
those that are asked of something else. docs/access.md has the table of who holds which.
"""

from enum import StrEnum
from typing import Final


class Permission(StrEnum):
    ACCESS_APPROVE = "access:approve"
    """Decide about somebody else's request for access to data, or end what was approved."""
    ACCESS_MANAGE = "access:manage"
    """Grant a project to somebody, and take it back."""
    ACCESS_READ = "access:read"
    ACCESS_REQUEST = "access:request"
    """Ask for access to data; also to be one of two who break the glass for somebody."""
    ACCOUNT_CREATE = "account:create"
    ACCOUNT_DISABLE = "account:disable"
    """Also to enable."""
    API_KEY_CREATE = "api_key:create"
    API_KEY_MANAGE = "api_key:manage"
    """List and revoke: one's own."""
    AUDIT_ERASE = "audit:erase"
    """Ask for the erasing of what clients executed, or of one person in a project's events, or agree to what another asked for."""
    AUDIT_FORGET = "audit:forget"
    """Ask for the erasing of one person in the audit log as a whole, or for an end of its events, or agree to what another asked for."""
    AUDIT_HOLD = "audit:hold"
    """Place a legal hold on what is recorded; ask for its end, or agree to what another asked for."""
    AUDIT_LEVEL_LOWER = "audit:level_lower"
    """In addition to `audit:level_set`, where less would be recorded of what is done."""
    AUDIT_LEVEL_SET = "audit:level_set"
    AUDIT_READ = "audit:read"
    AUDIT_STATEMENTS_READ = "audit:statements_read"
    """What clients executed: their statements have data in them."""
    AUTH_READ = "auth:read"
    BACKUP_EXCLUDE = "backup:exclude"
    """Leave a project out of backups, and take it in again."""
    BACKUP_READ = "backup:read"
    BACKUP_RESTORE = "backup:restore"
    """A branch, also one that was deleted for good, or a project whose volume is gone."""
    BACKUP_TAKE = "backup:take"
    """Ask for one now, or to have one read back."""
    BRANCH_CREATE = "branch:create"
    BRANCH_CREATE_FROM_PROTECTED = "branch:create_from_protected"
    """In addition, wherever data of a protected branch comes to lie in another one: create, restore, restore a snapshot."""
    BRANCH_DELETE = "branch:delete"
    """Also to recover."""
    BRANCH_PROTECT = "branch:protect"
    BRANCH_READ = "branch:read"
    BRANCH_RESTORE = "branch:restore"
    """Reset, restore, restore a snapshot over it, finalize: whatever replaces its data."""
    BRANCH_UNPROTECT = "branch:unprotect"
    BRANCH_UPDATE = "branch:update"
    """Name, expiry, schedule, which one is the default."""
    CONNECTION_URI_READ = "connection_uri:read"
    DATABASE_MANAGE = "database:manage"
    DATABASE_READ = "database:read"
    EGRESS_MANAGE = "egress:manage"
    """Say where a project's computes may connect to: whoever may, can have its data carried there."""
    EGRESS_READ = "egress:read"
    ENDPOINT_MANAGE = "endpoint:manage"
    ENDPOINT_OPERATE = "endpoint:operate"
    """Start, suspend, restart."""
    ENDPOINT_READ = "endpoint:read"
    FINDING_MANAGE = "finding:manage"
    """Acknowledge, resolve, test, and act: end sessions, lock, rotate, quarantine, freeze, release."""
    FINDING_READ = "finding:read"
    ISSUER_MANAGE = "issuer:manage"
    """Let people of an issuer's log in, list issuers, and end that."""
    JWKS_MANAGE = "jwks:manage"
    """Let another issuer's tokens open databases, past every password; and end that."""
    JWKS_READ = "jwks:read"
    KEY_MANAGE = "key:manage"
    """Rotate, disable, schedule the destruction, cancel it; of an organization, how often."""
    KEY_READ = "key:read"
    MEMBER_MANAGE = "member:manage"
    """Add, change the role of, remove."""
    MEMBER_READ = "member:read"
    OPERATION_READ = "operation:read"
    ORGANIZATION_CREATE = "organization:create"
    ORGANIZATION_KEY_CREATE = "organization_key:create"
    ORGANIZATION_KEY_MANAGE = "organization_key:manage"
    """List and revoke."""
    ORGANIZATION_READ = "organization:read"
    """Its name. Its people are `member:read`."""
    PASSKEY_MANAGE = "passkey:manage"
    """Register, list, remove: one's own."""
    PLATFORM_READ = "platform:read"
    """The audit log as a whole, and what in it belongs to nobody's project."""
    PROJECT_CREATE = "project:create"
    """Also to receive one from another organization."""
    PROJECT_DELETE = "project:delete"
    """Also to recover."""
    PROJECT_OFFER = "project:offer"
    """To let whoever holds the offer's id take one to an organization of theirs."""
    PROJECT_READ = "project:read"
    PROJECT_TRANSFER = "project:transfer"
    """To give one to another organization."""
    PROJECT_UPDATE = "project:update"
    RECORDING_READ = "recording:read"
    """What somebody did with their access, but for oneself."""
    REGION_READ = "region:read"
    ROLE_MANAGE = "role:manage"
    ROLE_READ = "role:read"
    ROLE_REVEAL_PASSWORD = "role:reveal_password"  # noqa: S105 - the name of a permission
    SNAPSHOT_MANAGE = "snapshot:manage"
    """Take, rename, expire, delete, schedule. Restoring one is `branch:create` or `branch:restore`."""
    SNAPSHOT_READ = "snapshot:read"
    TAG_LIFT = "tag:lift"
    """In addition, where `pii` or `prod` is taken off."""
    TAG_SET = "tag:set"
    """Of a project, of a branch; also to take off what is not `tag:lift`."""
    USER_READ = "user:read"


OF_ONESELF: Final = frozenset(
    {
        Permission.API_KEY_CREATE,
        Permission.API_KEY_MANAGE,
        Permission.AUTH_READ,
        Permission.PASSKEY_MANAGE,
        Permission.REGION_READ,
        Permission.USER_READ,
    }
)
OF_THE_PLATFORM: Final = frozenset(
    {
        Permission.ACCOUNT_CREATE,
        Permission.ACCOUNT_DISABLE,
        Permission.AUDIT_FORGET,
        Permission.FINDING_MANAGE,
        Permission.FINDING_READ,
        Permission.ISSUER_MANAGE,
        Permission.ORGANIZATION_CREATE,
        Permission.PLATFORM_READ,
    }
)
OF_AN_ORGANIZATION: Final = frozenset(
    {
        Permission.MEMBER_MANAGE,
        Permission.MEMBER_READ,
        Permission.ORGANIZATION_KEY_CREATE,
        Permission.ORGANIZATION_KEY_MANAGE,
        Permission.ORGANIZATION_READ,
        Permission.PROJECT_CREATE,
        Permission.PROJECT_OFFER,
        Permission.PROJECT_TRANSFER,
    }
)
"""Even where the question comes up about one of its projects."""

"""What is privileged: for these routes, whoever has a passkey shows it, for the one request, and so does everybody in an
organization that demands it.

One table, by the route's name. In it is what destroys, what opens to others what is closed, what gives somebody a role or a key
with which they could do so, and what would undo this protection. What protects at once and can be taken back (ending an access,
denying one, disabling an account, placing a hold) is not: nobody looks for a security key while something burns.

`boundary.py` asks (step 8), `control/passkeys` decides. A test goes over the table.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from cloister.base.tags import KEPT


@dataclass(frozen=True, slots=True)
class Act:
    what: str
    """In words that whoever signs is shown."""
    when: Callable[[Any], bool] | None = None
    """Of the body: not every request to this route is one."""
    always: bool = False
    """Also of somebody who has no passkey, whatever the organization demands."""

    def is_it(self, body: Any) -> bool:
        return self.when is None or self.when(body)


_LIFTING: Final = Act("take the tag pii or prod off", when=lambda body: not KEPT.isdisjoint(body.remove))

ACTS: Final[dict[str, Act]] = {
    # Access to data.
    "approve_access_request": Act("let somebody at the data"),
    "agree_to_consent": Act("let somebody copy a protected branch, or take its protection off"),
    "add_jwks": Act("let the tokens of another issuer open databases"),
    "allow_egress": Act("open a way out of a project"),
    "create_transfer_request": Act("offer a project to others"),
    "transfer_projects": Act("give projects to another organization"),
    # What protects.
    "update_branch": Act("take the protection off a branch", when=lambda body: body.branch.protected is False),
    "set_consent_policy": Act(
        "let protected branches be copied without another person's consent", when=lambda body: not body.required
    ),
    "set_audit_level": Act("change what is recorded of statements"),
    "agree_to_statement_erasure": Act("erase what was recorded of statements"),
    "agree_to_forget_in_project": Act("erase somebody in a project's events"),
    "agree_to_forget": Act("erase somebody in the audit log"),
    "agree_to_lift_audit_hold": Act("lift a legal hold"),
    "agree_to_audit_retention": Act("keep what was recorded for less long"),
    "agree_to_events_retention": Act("let old events of the audit log end"),
    "change_project_tags": _LIFTING,
    "change_branch_tags": _LIFTING,
    "exclude_from_backups": Act("leave a project without backups"),
    # What brings back.
    "restore_backup": Act("make a branch of a backup, also of one that was deleted for good"),
    "restore_project_from_backups": Act("bring a project back whose volume is gone"),
    # What destroys.
    "delete_project": Act("delete a project"),
    "disable_project_keys": Act("disable the keys of a project"),
    "schedule_key_destruction": Act("destroy the keys of a project"),
    # Keys of machines, and of one's own.
    "create_api_key": Act("make an API key"),
    "create_org_api_key": Act("make an API key of the organization"),
    "create_service_account": Act("make a service account and its key"),
    "update_service_account": Act("change a service account"),
    "rotate_service_account": Act("make a new key of a service account"),
    # Who is who, and may what.
    "create_invitations": Act("take somebody into the organization"),
    "update_member": Act("change somebody's role"),
    "map_group": Act("let a group of an issuer have a role"),
    "enable_scim": Act("let an identity provider say who is of the organization"),
    "rotate_scim": Act("make a new token of the identity provider's"),
    "disable_scim": Act("hear no more from an identity provider who left"),
    "create_shift": Act("put somebody on call"),
    "grant_permission": Act("grant a project to somebody"),
    "set_project_member_role": Act("change somebody's role in a project"),
    "create_account": Act("make an account"),
    "disable_account": Act("enable an account again", when=lambda body: not body.disabled),
    "add_issuer": Act("let the people of an issuer log in"),
    "begin_link": Act("link your account to an identity at an issuer"),
    # Passkeys themselves.
    "add_passkey": Act("register another passkey"),
    "remove_passkey": Act("remove a passkey"),
    "set_passkey_policy": Act("change whether the organization demands passkeys", always=True),
}

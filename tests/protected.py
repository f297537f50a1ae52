"""Everything that somebody with a database role of ours could write to get at a protected branch, and what they are told.

Used twice: on a bare control database, where triggers can be taken out one by one, and on a whole platform.
`{…}` are the fields of `Target`, all of them ids of ours, so they need no quoting.
"""

from dataclasses import asdict, dataclass
from typing import Final

from cloister.control.branches import protection as words
from cloister.control.computes import protection as endpoint_words


@dataclass(frozen=True, slots=True)
class Target:
    """A protected branch and what is around it."""

    org: str
    project: str
    branch: str
    timeline: str
    endpoint: str
    other_branch: str
    """Unprotected, of the same project, without an endpoint."""
    other_timeline: str
    other_endpoint: str
    other_org: str


@dataclass(frozen=True, slots=True)
class Attempt:
    name: str
    statement: str
    told: str
    guard: str
    """The trigger that stands in the way, `TABLE_protection`."""
    role: str = "cloister_api"
    state: str = "PR422"

    def sql(self, target: Target) -> str:
        return self.statement.format(**asdict(target))


def operation(
    machine: str, *, aim: str = "branch", is_undoing: bool = False, work: str = "{{}}", number: int = 1
) -> str:
    """An operation row that would be run at once, as its own engine writes it. `aim`: which branch it says it is of."""
    endpoint = "'{endpoint}'" if aim == "branch" else "NULL"
    return f"""
        INSERT INTO operation (id, project_id, branch_id, endpoint_id, action, machine, status, step, input, resource,
                               is_undoing, holds_resource, run_at, deadline_at, created_at, updated_at)
        VALUES ('op-{number}', '{{project}}', '{{{aim}}}', {endpoint}, 'delete_timeline', '{machine}', 'scheduling', 'x', '{work}',
                'attack {number}', {is_undoing}, true, now(), now() + interval '1 hour', now(), now())"""


def _branch(name: str, change: str, told: str, *, state: str = "PR422") -> Attempt:
    statement = f"UPDATE branch SET {change} WHERE id = '{{branch}}'"
    return Attempt(name, statement, told, "branch_protection", state=state)


def _endpoint(name: str, change: str, told: str) -> Attempt:
    statement = f"UPDATE endpoint SET {change} WHERE id = '{{endpoint}}'"
    return Attempt(name, statement, told, "endpoint_protection")


def _timeline(name: str, change: str, told: str) -> Attempt:
    statement = f"UPDATE timeline SET {change} WHERE id = '{{timeline}}'"
    return Attempt(name, statement, told, "timeline_protection")


def _key(name: str, change: str) -> Attempt:
    statement = f"UPDATE wrapped_key SET {change} WHERE project_id = '{{project}}'"
    return Attempt(name, statement, words.CANNOT_DESTROY_KEYS, "wrapped_key_protection", role="cloister_keys")


PROJECT_MACHINES: Final = ("create_project", "delete_project")
BRANCH_MACHINES: Final = {
    "create_branch": words.CANNOT_DELETE,  # undone, it deletes
    "anonymize_branch": words.CANNOT_DELETE,  # the same
    "restore_branch": words.CANNOT_RESET,
    "delete_branch": words.CANNOT_DELETE,
    "purge_branch": words.CANNOT_DELETE,
    "finalize_restore": words.CANNOT_RESET,
    "delete_endpoint": endpoint_words.CANNOT_DELETE_ENDPOINT,
}
TIMELINE_MACHINES: Final = ("take_snapshot", "delete_timeline")
HARMLESS_MACHINES: Final = {
    "first_start", "start_compute", "suspend_compute", "doze_compute", "close_project",
    "create_role", "drop_role", "set_password", "create_database", "change_database", "drop_database",
}  # fmt: skip
"""They stop a compute, which starts again, or what is lost by them is a role or a database, which are the tenant's own, or nothing."""

_OWN_TIMELINE: Final = '{{"timeline_id": "{timeline}"}}'
_MAKES_ANEW: Final = '{{"recipe": {{"target_id": "{timeline}"}}}}'
_GOES_BY_IT: Final = '{{"recipe": {{"way_id": "{timeline}"}}}}'
_REPLACES: Final = '{{"replaced_id": "{branch}"}}'

ATTEMPTS: Final = [
    # The row.
    Attempt("delete the row", "DELETE FROM branch WHERE id = '{branch}'", words.CANNOT_DELETE, "branch_protection"),
    _branch("delete it", "deleted_at = now()", words.CANNOT_DELETE),
    _branch("purge it", "purged_at = now()", words.CANNOT_DELETE),
    _branch("archive it", "state = 'archived'", words.CANNOT_ARCHIVE),
    _branch("call it unfinished", "state = 'init'", words.CANNOT_RESET),
    _branch("give it other data", "timeline_id = '{other_timeline}'", words.CANNOT_RESET),
    _branch("move it", "project_id = 'elsewhere'", words.CANNOT_MOVE),
    _branch("rename its id", "id = 'br-x'", words.CANNOT_MOVE),
    _branch("let it expire", "expires_at = now() + interval '1 day'", words.CANNOT_EXPIRE, state="PR400"),
    _branch("unprotect it", "is_protected = false", words.CANNOT_UNPROTECT),
    _branch("unprotect and delete it", "is_protected = false, deleted_at = now()", words.CANNOT_UNPROTECT),
    Attempt(
        "replace it",
        "INSERT INTO branch SELECT * FROM branch WHERE id = '{branch}' ON CONFLICT (id) DO UPDATE SET deleted_at = now()",
        words.CANNOT_DELETE,
        "branch_protection",
    ),
    Attempt(
        "merge it away",
        "MERGE INTO branch USING (SELECT '{branch}' AS id) AS it ON branch.id = it.id WHEN MATCHED THEN DELETE",
        words.CANNOT_DELETE,
        "branch_protection",
    ),
    # Its data.
    Attempt(
        "delete the timeline's row",
        "DELETE FROM timeline WHERE id = '{timeline}'",
        words.CANNOT_DELETE,
        "timeline_protection",
    ),
    _timeline("mark its timeline for deletion", "state = 'deleting'", words.CANNOT_DELETE),
    _timeline("mark its timeline as deleted", "state = 'deleted'", words.CANNOT_DELETE),
    _timeline("make its timeline anew", "state = 'making'", words.CANNOT_RESET),
    _timeline("end its timeline", "ended_at = now()", words.CANNOT_RESET),
    _timeline("give its timeline away", "branch_id = '{other_branch}', ended_at = NULL", words.CANNOT_MOVE),
    _timeline("make its timeline a snapshot's", "branch_id = NULL", words.CANNOT_MOVE),
    _timeline("move its timeline", "project_id = 'elsewhere'", words.CANNOT_MOVE),
    # Its endpoints.
    Attempt(
        "delete the endpoint's row",
        "DELETE FROM endpoint WHERE id = '{endpoint}'",
        endpoint_words.CANNOT_DELETE_ENDPOINT,
        "endpoint_protection",
    ),
    _endpoint("delete its endpoint", "deleted_at = now()", endpoint_words.CANNOT_DELETE_ENDPOINT),
    _endpoint("disable its endpoint", "is_disabled = true", endpoint_words.CANNOT_DISABLE_ENDPOINT),
    _endpoint("point its endpoint elsewhere", "branch_id = '{other_branch}'", endpoint_words.CANNOT_MOVE_ENDPOINT),
    _endpoint("take its writer", "type = 'read_only'", endpoint_words.CANNOT_MOVE_ENDPOINT),
    Attempt(
        "point another endpoint to it",
        "UPDATE endpoint SET branch_id = '{branch}', type = 'read_only' WHERE id = '{other_endpoint}'",
        endpoint_words.CANNOT_MOVE_ENDPOINT,
        "endpoint_protection",
    ),
    # What it lies in.
    Attempt(
        "delete the project's row",
        "DELETE FROM project WHERE id = '{project}'",
        words.CANNOT_DELETE_PROJECT,
        "project_protection",
    ),
    Attempt(
        "delete its project",
        "UPDATE project SET deleted_at = now() WHERE id = '{project}'",
        words.CANNOT_DELETE_PROJECT,
        "project_protection",
    ),
    Attempt(
        "transfer its project",
        "UPDATE project SET org_id = '{other_org}' WHERE id = '{project}'",
        words.CANNOT_MOVE_PROJECT,
        "project_protection",
    ),
    Attempt(
        "delete its organization",
        "DELETE FROM organization WHERE id = '{org}'",
        words.CANNOT_DELETE_ORGANIZATION,
        "organization_protection",
    ),
    *(
        Attempt(
            f"mark its volume {state}",
            f"UPDATE volume SET state = '{state}' WHERE project_id = '{{project}}'",
            words.CANNOT_DELETE_PROJECT,
            "volume_protection",
        )
        for state in ("deleting", "deleted", "ready", "formatting")
    ),
    Attempt(
        "delete the volume's row",
        "DELETE FROM volume WHERE project_id = '{project}'",
        words.CANNOT_DELETE_PROJECT,
        "volume_protection",
    ),
    # Its keys.
    Attempt(
        "schedule the destruction of its keys",
        "UPDATE key_ring SET state = 'pending_destruction', destroy_at = now() WHERE project_id = '{project}'",
        words.CANNOT_DESTROY_KEYS,
        "key_ring_protection",
        role="cloister_keys",
    ),
    _key("destroy its key", "state = 'destroyed', wrapped = NULL"),
    _key("write over its key", "wrapped = '\\x00'"),
    _key("disable its key", "state = 'disabled'"),
    _key("give its key another name", "purpose = 'nothing'"),
    # Operations.
    *(
        Attempt(f"run {machine}", operation(machine), words.CANNOT_DELETE_PROJECT, "operation_protection")
        for machine in PROJECT_MACHINES
    ),
    *(
        Attempt(f"run {machine}", operation(machine), told, "operation_protection")
        for machine, told in BRANCH_MACHINES.items()
    ),
    *(
        Attempt(
            f"run {machine} of another branch on its timeline",
            operation(machine, aim="other_branch", work=work),
            BRANCH_MACHINES.get(machine, words.CANNOT_DELETE),
            "operation_protection",
        )
        for machine in (*TIMELINE_MACHINES, *BRANCH_MACHINES)
        for work in (_OWN_TIMELINE, _MAKES_ANEW, _GOES_BY_IT)
    ),
    Attempt(
        "give it another branch's past and passwords",
        operation("restore_branch", aim="other_branch", work='{{"preserved_id": "{branch}"}}'),
        words.CANNOT_RESET,
        "operation_protection",
    ),
    Attempt(
        "finalize onto it",
        operation("finalize_restore", aim="other_branch", work=_REPLACES),
        words.CANNOT_RESET,
        "operation_protection",
    ),
    Attempt(
        "undo its creation",
        operation("create_project", is_undoing=True),
        words.CANNOT_DELETE_PROJECT,
        "operation_protection",
    ),
    Attempt(
        "turn a harmless operation into another",
        f"{operation('suspend_compute')}; UPDATE operation SET machine = 'delete_project' WHERE id = 'op-1'",
        words.CANNOT_DELETE_PROJECT,
        "operation_protection",
    ),
    # Around the triggers.
    Attempt(
        "unprotect by function, of another branch's event",
        """SELECT unprotect('{branch}', '{{"action": "branch.unprotect", "actor": "me", "reason": "no",
                             "branch_id": "{other_branch}", "project_id": "{project}"}}')""",
        words.CANNOT_UNPROTECT,
        "",
    ),
    Attempt(
        "unprotect by function, without a reason",
        """SELECT unprotect('{branch}', '{{"action": "branch.unprotect", "actor": "me", "reason": " ",
                             "branch_id": "{branch}", "project_id": "{project}"}}')""",
        words.CANNOT_UNPROTECT,
        "",
    ),
    Attempt(
        "unprotect by function, as if it had failed",
        """SELECT unprotect('{branch}', '{{"action": "branch.unprotect", "actor": "me", "reason": "yes",
                             "outcome": "denied", "branch_id": "{branch}", "project_id": "{project}"}}')""",
        words.CANNOT_UNPROTECT,
        "",
    ),
]

FORBIDDEN: Final = {
    # What the roles have no right to at all, so that no trigger is asked.
    "claim to have unprotected it": (
        "cloister_api",
        "INSERT INTO unprotection (branch_id, xid, audit_seq) VALUES ('{branch}', pg_current_xact_id(), 1)",
    ),
    "drop the trigger": ("cloister_api", "DROP TRIGGER branch_protection ON branch"),
    "disable the trigger": ("cloister_api", "ALTER TABLE branch DISABLE TRIGGER branch_protection"),
    "replicate past the triggers": ("cloister_api", "SET session_replication_role = replica"),
    "replace the function": (
        "cloister_api",
        "CREATE OR REPLACE FUNCTION cloister.is_shielded(branch_id text) RETURNS boolean LANGUAGE sql AS 'SELECT false'",
    ),
    "become the owner": ("cloister_api", "SET ROLE postgres"),
    "truncate branches": ("cloister_api", "TRUNCATE branch CASCADE"),
    "truncate keys": ("cloister_keys", "TRUNCATE wrapped_key"),
    "delete its keys": ("cloister_keys", "DELETE FROM wrapped_key WHERE project_id = '{project}'"),
    "destroy its keys as the api": (
        "cloister_api",
        "UPDATE wrapped_key SET state = 'destroyed', wrapped = NULL WHERE project_id = '{project}'",
    ),
    "unprotect as the key broker": ("cloister_keys", "SELECT unprotect('{branch}', '{{}}')"),
    "read branches as the key broker": ("cloister_keys", "SELECT * FROM branch"),
}

"""`cloister branches`: lines of a project's history, each with data of its own that starts as a copy that costs nothing.

Looking, making and changing is here; going back and comparing is in `branch_history.py`, the tree in `branch_tree.py`.
"""

from pathlib import Path
from typing import Final

import click

from cloister.cli import output as out
from cloister.cli.advice import advised
from cloister.cli.api import Json
from cloister.cli.branch_history import reset, restore, schema_diff, show_passwords
from cloister.cli.branch_tree import tree
from cloister.cli.connecting import run_psql, secured
from cloister.cli.consents import consent, consent_policy
from cloister.cli.failure import CommandError
from cloister.cli.masking import anonymize, mask_options, masking, rules_of
from cloister.cli.output import Column
from cloister.cli.points import Moment, parse_parent
from cloister.cli.projects import given
from cloister.cli.session import ComputeUnits, Session, client_command, project_option, project_path, wait_option

COLUMNS: Final = (
    Column("Id", "id"),
    Column("Name", "name", may_cut=True),
    Column("Default", "default"),
    Column("Protected", "protected"),
    Column("Tags", "tags"),
    Column("State", "current_state"),
    Column("Size", "logical_size", out.size),
    Column("Expires", "expires_at", out.ahead),
    Column("Created", "created_at", out.ago),
)
DETAILS: Final = (
    *COLUMNS,
    Column("Parent", "parent_id"),
    Column("Left it at", "parent_lsn"),
    Column("Left it when", "parent_timestamp", out.ago),
    Column("Started as", "init_source"),
    Column("Bytes of its own", "unique_size", out.size),
    Column("Bytes of history", "history_size", out.size),
)
DELETED: Final = (
    Column("Id", "id"),
    Column("Name", "name", may_cut=True),
    Column("Deleted", "recovery.deleted_at", out.ago),
    Column("Recoverable", "recovery.recoverable_until", out.ahead),
)
ENDPOINT: Final = (Column("Id", "id"), Column("Host", "host"), Column("Type", "type"))

_TYPES: Final = click.Choice(["read_write", "read_only"])


@click.group()
def branches() -> None:
    """Create, restore, compare and delete branches.

    A branch starts with the data of its parent, shares every byte with it, and goes its own way from there: try a
    migration on it, give one to each pull request, or go back to where production was an hour ago.

    \b
    cloister branches create --name preview          a copy of the default branch, ready in a moment
    cloister branches create --parent main@2026-03-04T05:06:07Z
    cloister branches reset preview --parent         start again from the parent
    cloister branches restore main ^self@2026-03-04T05:06:07Z --preserve-under-name before
    cloister branches tree
    """  # noqa: D301 - click leaves the lines after \b as they are


for _command in (tree, restore, reset, schema_diff, masking, anonymize, consent, consent_policy):
    branches.add_command(_command)


@branches.command("list")
@click.option("--search", metavar="TEXT", help="Only those whose name or id holds this text.")
@click.option("--deleted", is_flag=True, help="Those that were deleted and can still be recovered, instead.")
@project_option
@client_command
def list_(session: Session, *, search: str | None, deleted: bool, project_id: str | None) -> None:
    """List the branches of a project, newest first."""
    path = f"{project_path(session.project_id(project_id))}/branches"
    rows = list(session.api.pages(path, "branches", search=search, include_deleted=deleted or None))
    if deleted:
        gone = [row for row in rows if row.get("recovery")]
        session.show_list(gone, DELETED, empty="No deleted branch can be recovered.")
    else:
        session.show_list(rows, COLUMNS, empty="No branch.")


@branches.command()
@click.argument("branch", metavar="BRANCH", required=False)
@project_option
@client_command
def get(session: Session, *, branch: str | None, project_id: str | None) -> None:
    """Show a branch by id or name; the default branch without either."""
    session.show(session.branch(session.project_id(project_id), branch), DETAILS)


@branches.command()
@click.option("--name", metavar="NAME", help="Default: one is made up.")
@click.option(
    "--parent",
    metavar="PARENT",
    help="A branch's id or name, a timestamp or LSN in the default branch's history, or BRANCH@POINT. "
    "Default: the default branch as it is now.",
)
@click.option("--compute/--no-compute", default=True, help="With an endpoint to connect to (default), or without.")
@click.option("--type", "type_", type=_TYPES, default="read_write", help="Kind of that endpoint.")
@click.option("--cu", type=ComputeUnits(), help="Size of its compute: 0.5, or a range 0.25-2.")
@click.option(
    "--suspend-timeout", type=int, metavar="SECONDS", help="Idle time before it sleeps; 0: default, -1: never."
)
@click.option("--schema-only", is_flag=True, help="Tables without rows; a root branch of its own.")
@mask_options
@click.option("--protected", is_flag=True, help="Protect it at once.")
@click.option("--expires-at", type=Moment(), help="Delete it then: a timestamp, or a time from now like 12h or 7d.")
@click.option("--psql", "then_psql", is_flag=True, help="Connect to it with psql when it is ready.")
@project_option
@wait_option
@client_command
def create(
    session: Session,
    *,
    name: str | None,
    parent: str | None,
    compute: bool,
    type_: str,
    cu: Json | None,
    suspend_timeout: int | None,
    schema_only: bool,
    masks: tuple[str, ...],
    mask_file: Path | None,
    protected: bool,
    expires_at: str | None,
    then_psql: bool,
    project_id: str | None,
    wait: bool,
) -> None:
    """Create a branch.

    It has its parent's data, roles and databases, and takes as long for a terabyte as for a table. The parent goes on
    working; one that sleeps sleeps on.

    \b
    cloister branches create --name preview-42 --expires-at 7d
    cloister branches create --name audit --parent 2026-03-04T05:06:07Z --type read_only
    cloister branches create --parent staging@0/15E9A30 --no-compute
    cloister branches create --name try --mask 'shop.public.people.email=anon.partial_email(email)'

    With --mask or --mask-file nobody can connect to it before these columns hold something else, in its history and statistics too.

    The child of a protected branch gets new passwords for all its roles. They are in the answer, and nowhere else.
    """  # noqa: D301 - click leaves the lines after \b as they are
    project_id = session.project_id(project_id)
    place = None if parent is None else parse_parent(parent)
    branch = given(
        name=name,
        parent_id=session.branch_id(project_id, place.branch) if place and place.branch else None,
        init_source="schema-only" if schema_only else None,
        protected=protected or None,
        expires_at=expires_at,
        **(place.fields("parent_") if place else {}),
    )
    endpoint = given(type=type_, **(cu or {}), suspend_timeout_seconds=suspend_timeout)
    path = f"{project_path(project_id)}/branches"
    body: Json = {"branch": branch, "endpoints": [endpoint] if compute else []}
    if rules := rules_of(masks, mask_file):
        path = f"{project_path(project_id)}/branch_anonymized"
        body = {"branch_create": body, "masking_rules": rules, "start_anonymization": True}
    with advised(place.branch if place else None):
        answer = session.api.post(path, body)
    session.settle(answer, "Masking the branch" if rules else "Creating the branch", wait=wait)
    if wait:
        answer["branch"] = session.branch(project_id, answer["branch"]["id"])
    session.show(answer if session.is_json else answer["branch"], DETAILS)
    uris = [uri["connection_uri"] for uri in answer.get("connection_uris") or []]
    if not session.is_json:
        if uris:
            click.echo(f"\n{secured(uris[0], 'verify-full', session.api.target)}")
        show_passwords(answer, "The parent branch is protected, so these passwords are new.")
    if then_psql:
        if not uris:
            raise CommandError(
                "the branch has no single way to connect (one endpoint, role and database): "
                f"cloister psql --branch {answer['branch']['id']}"
            )
        run_psql(uris[0], session.api.target, ())


@branches.command()
@click.argument("branch", metavar="BRANCH")
@click.argument("new_name", metavar="NEW-NAME")
@project_option
@client_command
def rename(session: Session, *, branch: str, new_name: str, project_id: str | None) -> None:
    """Give a branch another name. Its id and its hosts stay."""
    _change(session, project_id, branch, {"name": new_name})


@branches.command()
@click.argument("branch", metavar="BRANCH")
@click.option("--hard", is_flag=True, help="At once and for good. Nothing brings it back.")
@project_option
@wait_option
@client_command
def delete(session: Session, *, branch: str, hard: bool, project_id: str | None, wait: bool) -> None:
    """Delete a branch. For seven days `cloister branches recover` brings it back.

    Sessions on it end. A protected branch, the default branch, and one with children are refused.
    """
    project_id = session.project_id(project_id)
    with advised(branch):
        answer = session.api.delete(session.branch_path(project_id, branch), hard_delete=hard or None)
    if not answer:
        out.note("There was no such branch.")
        return
    session.settle(answer, "Deleting the branch", wait=wait)
    session.show(answer["branch"], COLUMNS)
    if not session.is_json and not hard:
        out.note(f"\nIt can be recovered for 7 days: cloister branches recover {answer['branch']['id']}")


@branches.command()
@click.argument("branch", metavar="BRANCH")
@project_option
@wait_option
@client_command
def recover(session: Session, *, branch: str, project_id: str | None, wait: bool) -> None:
    """Bring back a branch that was deleted in the last seven days, by id or name.

    Its hosts work again with the passwords they had. `cloister branches list --deleted` shows what can be recovered.
    """
    project_id = session.project_id(project_id)
    path = f"{project_path(project_id)}/branches"
    rows = session.api.pages(path, "branches", include_deleted=True)
    found = [row for row in rows if row.get("recovery") and branch in (row["id"], row["name"])]
    match found:
        case []:
            raise CommandError(
                f"no deleted branch {out.printable(branch)!r} can be recovered: "
                "`cloister branches list --deleted` shows those that can"
            )
        case [only]:
            answer = session.api.post(f"{path}/{only['id']}/recover")
        case _:
            raise CommandError(
                f"several deleted branches have that name, give an id: {', '.join(r['id'] for r in found)}"
            )
    session.settle(answer, "Recovering the branch", wait=wait)
    session.show(answer["branch"], COLUMNS)


@branches.command("set-default")
@click.argument("branch", metavar="BRANCH")
@project_option
@wait_option
@client_command
def set_default(session: Session, *, branch: str, project_id: str | None, wait: bool) -> None:
    """Make a branch the project's default: the one meant where none is named."""
    project_id = session.project_id(project_id)
    with advised(branch):
        answer = session.api.post(f"{session.branch_path(project_id, branch)}/set_as_default")
    session.settle(answer, "Changing the default branch", wait=wait)
    session.show(answer["branch"], COLUMNS)


@branches.command("set-expiration")
@click.argument("branch", metavar="BRANCH")
@click.option("--expires-at", type=Moment(), help="A timestamp, or a time from now like 12h or 7d; at most 30 days.")
@project_option
@client_command
def set_expiration(session: Session, *, branch: str, expires_at: str | None, project_id: str | None) -> None:
    """Say when a branch is to be deleted by itself. Without --expires-at: never.

    Resetting the branch starts its time anew.
    """
    _change(session, project_id, branch, {"expires_at": expires_at})


@branches.command()
@click.argument("branch", metavar="BRANCH")
@project_option
@client_command
def protect(session: Session, *, branch: str, project_id: str | None) -> None:
    """Protect a branch.

    It can then be neither deleted, reset nor restored over, nor its project be deleted, and its children get passwords
    of their own.
    """
    _change(session, project_id, branch, {"protected": True})


@branches.command()
@click.argument("branch", metavar="BRANCH")
@project_option
@client_command
def unprotect(session: Session, *, branch: str, project_id: str | None) -> None:
    """Take a branch's protection away. The audit log records it."""
    _change(session, project_id, branch, {"protected": False})


@branches.command("add-compute")
@click.argument("branch", metavar="BRANCH")
@click.option("--type", "type_", type=_TYPES, default="read_only", help="Kind of the endpoint (default: read_only).")
@click.option("--cu", type=ComputeUnits(), help="Size of its compute: 0.5, or a range 0.25-2.")
@click.option(
    "--suspend-timeout", type=int, metavar="SECONDS", help="Idle time before it sleeps; 0: default, -1: never."
)
@project_option
@wait_option
@client_command
def add_compute(
    session: Session,
    *,
    branch: str,
    type_: str,
    cu: Json | None,
    suspend_timeout: int | None,
    project_id: str | None,
    wait: bool,
) -> None:
    """Give a branch another endpoint: one that reads, or the one that writes."""
    project_id = session.project_id(project_id)
    endpoint = given(
        branch_id=session.branch_id(project_id, branch),
        type=type_,
        **(cu or {}),
        suspend_timeout_seconds=suspend_timeout,
    )
    answer = session.api.post(f"{project_path(project_id)}/endpoints", {"endpoint": endpoint})
    session.settle(answer, "Adding a compute", wait=wait)
    session.show(answer["endpoint"], ENDPOINT)


def _change(session: Session, project_id: str | None, branch: str, change: Json) -> None:
    project_id = session.project_id(project_id)
    with advised(branch):
        answer = session.api.patch(session.branch_path(project_id, branch), {"branch": change})
    session.show(answer["branch"], COLUMNS)

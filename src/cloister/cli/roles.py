"""`cloister roles`: who may log in to a branch's databases."""

from typing import Final

import click

from cloister.cli import output as out
from cloister.cli.api import Json, segment
from cloister.cli.output import Column
from cloister.cli.session import Session, branch_option, client_command, project_option, wait_option

COLUMNS: Final = (
    Column("Name", "name", may_cut=True),
    Column("Created", "created_at", out.ago),
    Column("Changed", "updated_at", out.ago),
)
SECRET: Final = (Column("Name", "name"), Column("Password", "password"))


@click.group()
def roles() -> None:
    """List, create and delete roles, and renew their passwords."""


@roles.command("list")
@branch_option
@project_option
@client_command
def list_(session: Session, *, branch: str | None, project_id: str | None) -> None:
    """List the roles of a branch."""
    path = session.branch_path(session.project_id(project_id), branch)
    session.show_list(session.api.get(f"{path}/roles").get("roles") or [], COLUMNS, empty="No role.")


@roles.command()
@click.option("--name", required=True, metavar="NAME", help="The role's name.")
@click.option("--no-login", is_flag=True, help="A group: without a password, it cannot log in.")
@branch_option
@project_option
@wait_option
@client_command
def create(
    session: Session, *, name: str, no_login: bool, branch: str | None, project_id: str | None, wait: bool
) -> None:
    """Create a role. Its password is generated, and shown once."""
    path = session.branch_path(session.project_id(project_id), branch)
    role: Json = {"name": name, **({"no_login": True} if no_login else {})}
    answer = session.api.post(f"{path}/roles", {"role": role})
    session.settle(answer, "Creating the role", wait=wait)
    _show_password(session, answer["role"])


@roles.command()
@click.argument("role", metavar="NAME")
@branch_option
@project_option
@wait_option
@client_command
def delete(session: Session, *, role: str, branch: str | None, project_id: str | None, wait: bool) -> None:
    """Delete a role. One that owns a database is refused."""
    path = session.branch_path(session.project_id(project_id), branch)
    answer = session.api.delete(f"{path}/roles/{segment(role)}")
    if not answer:
        out.note("There was no such role.")
        return
    session.settle(answer, "Deleting the role", wait=wait)
    session.show(answer["role"], COLUMNS)


@roles.command("reset-password")
@click.argument("role", metavar="NAME")
@branch_option
@project_option
@wait_option
@client_command
def reset_password(session: Session, *, role: str, branch: str | None, project_id: str | None, wait: bool) -> None:
    """Give a role a new password, shown once. Running sessions stay."""
    path = session.branch_path(session.project_id(project_id), branch)
    answer = session.api.post(f"{path}/roles/{segment(role)}/reset_password")
    session.settle(answer, "Setting the password", wait=wait)
    _show_password(session, answer["role"])


@roles.command("reveal-password")
@click.argument("role", metavar="NAME")
@branch_option
@project_option
@client_command
def reveal_password(session: Session, *, role: str, branch: str | None, project_id: str | None) -> None:
    """Show a role's password, if the project stores passwords. The audit log records it."""
    path = session.branch_path(session.project_id(project_id), branch)
    answer = session.api.get(f"{path}/roles/{segment(role)}/reveal_password")
    session.show(answer if session.is_json else {"name": role, **answer}, SECRET)


def _show_password(session: Session, role: Json) -> None:
    session.show(role, SECRET)
    if not session.is_json and role.get("password"):
        out.note("\nThe password is shown this once: keep it now, or reset it later.")

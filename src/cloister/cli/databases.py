"""`cloister databases`: the databases of a branch."""

from typing import Final

import click

from cloister.cli import output as out
from cloister.cli.api import segment
from cloister.cli.output import Column
from cloister.cli.session import Session, branch_option, client_command, project_option, wait_option

COLUMNS: Final = (
    Column("Name", "name", may_cut=True),
    Column("Owner", "owner_name", may_cut=True),
    Column("Created", "created_at", out.ago),
)


@click.group()
def databases() -> None:
    """List, create and delete databases."""


@databases.command("list")
@branch_option
@project_option
@client_command
def list_(session: Session, *, branch: str | None, project_id: str | None) -> None:
    """List the databases of a branch."""
    path = session.branch_path(session.project_id(project_id), branch)
    session.show_list(session.api.get(f"{path}/databases").get("databases") or [], COLUMNS, empty="No database.")


@databases.command()
@click.option("--name", required=True, metavar="NAME", help="The database's name.")
@click.option("--owner-name", metavar="ROLE", help="Its owner. Default: the branch's only role.")
@branch_option
@project_option
@wait_option
@client_command
def create(
    session: Session, *, name: str, owner_name: str | None, branch: str | None, project_id: str | None, wait: bool
) -> None:
    """Create a database."""
    path = session.branch_path(session.project_id(project_id), branch)
    if owner_name is None:
        names = [role["name"] for role in session.api.get(f"{path}/roles").get("roles") or []]
        if len(names) != 1:
            raise click.UsageError("the branch does not have exactly one role: name the owner with --owner-name")
        owner_name = names[0]
    answer = session.api.post(f"{path}/databases", {"database": {"name": name, "owner_name": owner_name}})
    session.settle(answer, "Creating the database", wait=wait)
    session.show(answer["database"], COLUMNS)


@databases.command()
@click.argument("database", metavar="NAME")
@branch_option
@project_option
@wait_option
@client_command
def delete(session: Session, *, database: str, branch: str | None, project_id: str | None, wait: bool) -> None:
    """Delete a database with all that is in it."""
    path = session.branch_path(session.project_id(project_id), branch)
    answer = session.api.delete(f"{path}/databases/{segment(database)}")
    if not answer:
        out.note("There was no such database.")
        return
    session.settle(answer, "Deleting the database", wait=wait)
    session.show(answer["database"], COLUMNS)

"""`cloister branches`: the data directories of a project."""

from typing import Final

import click

from cloister.cli import output as out
from cloister.cli.output import Column
from cloister.cli.session import Session, client_command, project_option, project_path

COLUMNS: Final = (
    Column("Id", "id"),
    Column("Name", "name", may_cut=True),
    Column("Default", "default"),
    Column("Protected", "protected"),
    Column("State", "current_state"),
    Column("Created", "created_at", out.ago),
)


@click.group()
def branches() -> None:
    """List and show branches."""


@branches.command("list")
@project_option
@client_command
def list_(session: Session, *, project_id: str | None) -> None:
    """List the branches of a project."""
    project_id = session.project_id(project_id)
    rows = list(session.api.pages(f"{project_path(project_id)}/branches", "branches"))
    session.show_list(rows, COLUMNS, empty="No branch.")


@branches.command()
@click.argument("branch", metavar="BRANCH", required=False)
@project_option
@client_command
def get(session: Session, *, branch: str | None, project_id: str | None) -> None:
    """Show a branch by id or name; the default branch without either."""
    session.show(session.branch(session.project_id(project_id), branch), COLUMNS)

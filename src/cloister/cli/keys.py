"""`cloister keys`: the keys of projects, as the key broker keeps them. Never the keys themselves."""

from typing import Final

import click

from cloister.cli import output as out
from cloister.cli.output import Column
from cloister.cli.session import PROJECT_VARIABLE, Session, client_command

COLUMNS: Final = (
    Column("Project", "project_id"),
    Column("Purpose", "purpose"),
    Column("Version", "version"),
    Column("State", "state"),
    Column("Wrapped by", "provider"),
    Column("Created", "created_at", out.ago),
)


@click.group()
def keys() -> None:
    """List the keys that projects are encrypted with."""


@keys.command("list")
@click.option("--project-id", "--project", envvar=PROJECT_VARIABLE, metavar="ID", help="Only those of this project.")
@client_command
def list_(session: Session, *, project_id: str | None) -> None:
    """List keys: what for, which version, in which state."""
    answer = session.api.get("/cloister/keys", project_id=project_id)
    session.show_list(answer.get("keys") or [], COLUMNS, empty="No key.")

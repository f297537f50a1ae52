"""`cloister me` and `cloister regions`."""

import click

from cloister.cli.output import Column
from cloister.cli.session import Session, client_command


@click.command()
@client_command
def me(session: Session) -> None:
    """Show whose API key this is."""
    columns = (Column("Id", "id"), Column("Name", "name"), Column("E-mail", "email"))
    session.show(session.api.get("/users/me"), columns)


@click.command()
@client_command
def regions(session: Session) -> None:
    """List the regions a project can live in."""
    columns = (Column("Id", "region_id"), Column("Name", "name"), Column("Default", "default"))
    session.show_list(session.api.get("/regions").get("regions") or [], columns, empty="No region.")

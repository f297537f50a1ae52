"""`cloister api-keys`: what proves to the API who asks."""

from typing import Final

import click

from cloister.cli import output as out
from cloister.cli.api import segment
from cloister.cli.output import Column
from cloister.cli.session import Session, client_command

COLUMNS: Final = (
    Column("Id", "id"),
    Column("Name", "name", may_cut=True),
    Column("Created", "created_at", out.ago),
    Column("Last used", "last_used_at", out.ago),
    Column("From", "last_used_from_addr"),
)


@click.group("api-keys")
def api_keys() -> None:
    """List, create and revoke API keys."""


@api_keys.command("list")
@client_command
def list_(session: Session) -> None:
    """List your API keys, not the keys themselves."""
    answer = session.api.get_list("/api_keys")
    session.show_list(answer, COLUMNS, empty="No API key.")


@api_keys.command()
@click.option("--name", required=True, metavar="NAME", help="What it is for, in up to 64 characters.")
@client_command
def create(session: Session, *, name: str) -> None:
    """Create an API key. It is shown once."""
    answer = session.api.post("/api_keys", {"key_name": name})
    session.show(answer, (Column("Id", "id"), Column("Name", "name"), Column("Key", "key")))
    if not session.is_json:
        out.note("\nThe key is shown this once: keep it now.")


@api_keys.command()
@click.argument("key_id", metavar="ID")
@client_command
def revoke(session: Session, *, key_id: str) -> None:
    """Revoke an API key, at once and for good."""
    answer = session.api.delete(f"/api_keys/{segment(key_id)}")
    session.show(answer, (Column("Id", "id"), Column("Name", "name"), Column("Revoked", "revoked")))

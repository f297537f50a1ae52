"""`cloister api-keys`: what proves to the API who asks. Yours; with --org-id an organization's."""

from collections.abc import Sequence
from typing import Final

import click

from cloister.cli import output as out
from cloister.cli.api import Json, segment
from cloister.cli.output import Column
from cloister.cli.points import Moment
from cloister.cli.session import Session, client_command

COLUMNS: Final = (
    Column("Id", "id"),
    Column("Name", "name", may_cut=True),
    Column("Begins", "prefix"),
    Column("Created", "created_at", out.ago),
    Column("Last used", "last_used_at", out.ago),
    Column("From", "last_used_from_addr"),
    Column("Expires", "expires_at", out.ahead),
)
OF_ORGANIZATION: Final = (*COLUMNS, Column("Project", "project_id"), Column("Made by", "created_by.name", may_cut=True))

_ORG_OPTION: Final = click.option("--org-id", metavar="ID", help="An organization's keys, not yours.")


@click.group("api-keys")
def api_keys() -> None:
    """List, create and revoke API keys."""


@api_keys.command("list")
@_ORG_OPTION
@client_command
def list_(session: Session, *, org_id: str | None) -> None:
    """List API keys, not the keys themselves."""
    answer = session.api.get_list(_path(org_id))
    session.show_list(answer, COLUMNS if org_id is None else OF_ORGANIZATION, empty="No API key.")


@api_keys.command()
@click.option("--name", required=True, metavar="NAME", help="What it is for, in up to 64 characters.")
@click.option("--expires-at", type=Moment(), help="Refuse it from then on: a timestamp, or a time from now like 7d.")
@click.option("--from", "addresses", multiple=True, metavar="ADDRESS", help="Open from here only; may be repeated.")
@click.option("--for-project", metavar="ID", help="With --org-id: a key for this project alone.")
@_ORG_OPTION
@client_command
def create(
    session: Session,
    *,
    name: str,
    expires_at: str | None,
    addresses: Sequence[str],
    for_project: str | None,
    org_id: str | None,
) -> None:
    """Create an API key. It is shown once."""
    if for_project and not org_id:
        raise click.UsageError("a key for a project is its organization's: name that with --org-id")
    body: Json = {"key_name": name}
    if expires_at:
        body["expires_at"] = expires_at
    if addresses:
        body["allowed_ips"] = list(addresses)
    if for_project:
        body["project_id"] = for_project
    session.show(
        session.api.post(_path(org_id), body), (Column("Id", "id"), Column("Name", "name"), Column("Key", "key"))
    )
    if not session.is_json:
        out.note("\nThe key is shown this once: keep it now.")


@api_keys.command()
@click.argument("key_id", metavar="ID")
@_ORG_OPTION
@client_command
def revoke(session: Session, *, key_id: str, org_id: str | None) -> None:
    """Revoke an API key, at once and for good."""
    answer = session.api.delete(f"{_path(org_id)}/{segment(key_id)}")
    session.show(answer, (Column("Id", "id"), Column("Name", "name"), Column("Revoked", "revoked")))


def _path(org_id: str | None) -> str:
    return "/api_keys" if org_id is None else f"/organizations/{segment(org_id)}/api_keys"

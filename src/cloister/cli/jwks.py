"""`cloister jwks`: whose tokens open a project's databases."""

from collections.abc import Sequence
from typing import Final

import click

from cloister.cli import output as out
from cloister.cli.api import Json, segment
from cloister.cli.output import Column
from cloister.cli.session import Session, client_command, project_option, project_path

COLUMNS: Final = (
    Column("Id", "id"),
    Column("Issuer", "provider_name", may_cut=True),
    Column("Audience", "jwt_audience", may_cut=True),
    Column("Roles", "role_names"),
    Column("Branch", "branch_id"),
    Column("Created", "created_at", out.ago),
    Column("URL", "jwks_url", may_cut=True),
)


@click.group()
def jwks() -> None:
    """Let tokens of another issuer open databases over HTTPS, in place of passwords."""


@jwks.command("list")
@project_option
@client_command
def list_(session: Session, *, project_id: str | None) -> None:
    """List the issuers of a project."""
    path = project_path(session.project_id(project_id))
    session.show_list(session.api.get(f"{path}/jwks")["jwks"], COLUMNS, empty="No issuer: passwords only.")


@jwks.command()
@click.argument("url", metavar="URL")
@click.option("--provider", required=True, metavar="NAME", help="What the issuer is called in lists.")
@click.option("--audience", metavar="AUDIENCE", help="What a token's `aud` must hold. Give it, if tokens have one.")
@click.option("--issuer", metavar="ISSUER", help="What a token's `iss` must be.")
@click.option("--role", "roles", multiple=True, metavar="NAME", help="A role that the tokens open. Repeatable.")
@click.option("--branch", metavar="ID-OR-NAME", help="On this branch only.")
@project_option
@client_command
def add(
    session: Session,
    *,
    url: str,
    provider: str,
    audience: str | None,
    issuer: str | None,
    roles: Sequence[str],
    branch: str | None,
    project_id: str | None,
) -> None:
    """Register where an issuer publishes its keys. They are fetched now, and again when it is needed."""
    project_id = session.project_id(project_id)
    optional = {"jwt_audience": audience, "jwt_issuer": issuer, "role_names": list(roles) or None}
    asked: Json = {"jwks_url": url, "provider_name": provider}
    asked |= {name: value for name, value in optional.items() if value is not None}
    if branch is not None:
        asked["branch_id"] = session.branch_id(project_id, branch)
    added = session.api.post(f"{project_path(project_id)}/jwks", asked)["jwks"]
    session.show(added, COLUMNS)
    if audience is None and not session.is_json:
        out.note("\nTokens that have an audience (aud) will be refused: --audience says which one is meant.")


@jwks.command()
@click.argument("jwks_id", metavar="ID")
@project_option
@client_command
def delete(session: Session, *, jwks_id: str, project_id: str | None) -> None:
    """End it: from the next request on, none of the issuer's tokens opens anything."""
    path = project_path(session.project_id(project_id))
    session.show(session.api.delete(f"{path}/jwks/{segment(jwks_id)}"), COLUMNS)

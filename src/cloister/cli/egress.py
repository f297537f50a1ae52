"""`cloister egress`: where a project's databases may connect to. Nowhere, until you say so."""

from pathlib import Path
from typing import Final

import click

from cloister.cli import output as out
from cloister.cli.api import Json, segment
from cloister.cli.failure import CommandError
from cloister.cli.output import Column
from cloister.cli.session import Session, client_command, project_option, project_path

COLUMNS: Final = (
    Column("To", "to"),
    Column("Host in SQL", "host"),
    Column("Own CA", "has_ca"),
    Column("Allowed by", "created_by", may_cut=True),
    Column("Allowed", "created_at", out.ago),
    Column("Id", "id"),
)

_TO: Final = click.option(
    "--to", required=True, metavar="HOST:PORT", help="An address, a network (203.0.113.0/24:5432), or a name."
)


@click.group()
def egress() -> None:
    """Say which servers a project's databases may connect to.

    A database reaches nothing by itself. A rule opens a way to one PostgreSQL server, or to each of a network, for
    postgres_fdw and dblink: over TLS, with the certificate verified, and recorded in the audit log. SQL names it by the
    path that `list` shows as host.
    """


@egress.command("list")
@project_option
@client_command
def list_(session: Session, *, project_id: str | None) -> None:
    """List the ways out of a project."""
    session.show_list(
        session.api.get(_path(session, project_id))["egress_rules"],
        COLUMNS,
        empty="No way out: its databases reach nothing.",
    )


@egress.command()
@_TO
@click.option(
    "--ca",
    "ca_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="PEM of the authority that signs the other end's certificate. Default: those that the server's host trusts.",
)
@project_option
@client_command
def allow(session: Session, *, to: str, ca_file: Path | None, project_id: str | None) -> None:
    """Open a way out, also for databases that run.

    \b
    cloister egress allow --to db.example.com:5432
    CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw
      OPTIONS (host '/egress/db.example.com', port '5432', dbname 'app');
    """  # noqa: D301 - click leaves the lines after \b as they are
    body: Json = {"to": to}
    if ca_file is not None:
        try:
            body["ca_pem"] = ca_file.read_text()
        except UnicodeDecodeError:
            raise CommandError(f"{ca_file} is not a PEM file") from None
    session.show(session.api.post(_path(session, project_id), body)["egress_rule"], COLUMNS)


@egress.command()
@_TO
@project_option
@client_command
def remove(session: Session, *, to: str, project_id: str | None) -> None:
    """Close a way out. Connections through it end."""
    path = _path(session, project_id)
    known = session.api.get(path)["egress_rules"]
    found = next((rule for rule in known if to in (rule["to"], rule["id"])), None)
    if found is None:
        raise CommandError(f"there is no way out to {to}: `cloister egress list` shows those there are")
    session.show(session.api.delete(f"{path}/{segment(found['id'])}")["egress_rule"], COLUMNS)


def _path(session: Session, project_id: str | None) -> str:
    return f"/cloister{project_path(session.project_id(project_id))}/egress"

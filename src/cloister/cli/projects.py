"""`cloister projects`: tenants, each with its own volume and key."""

from typing import Any, Final

import click

from cloister.cli import output as out
from cloister.cli.api import Json
from cloister.cli.connecting import run_psql, secured
from cloister.cli.output import Column
from cloister.cli.session import ComputeUnits, Session, client_command, project_path, wait_option

COLUMNS: Final = (
    Column("Id", "id"),
    Column("Name", "name", may_cut=True),
    Column("PostgreSQL", "pg_version"),
    Column("Tags", "tags"),
    Column("Created", "created_at", out.ago),
)
DELETED: Final = (
    Column("Id", "id"),
    Column("Name", "name", may_cut=True),
    Column("Deleted", "deleted_at", out.ago),
    Column("Recoverable", "recoverable_until", out.ahead),
)
DETAILS: Final = (
    *COLUMNS,
    Column("Changed", "updated_at", out.ago),
    Column("Region", "region_id"),
    Column("Organization", "org_id"),
    Column("Stores passwords", "store_passwords"),
    Column("Allowed addresses", "settings.allowed_ips.ips"),
    Column("Channel binding required", "settings.require_channel_binding"),
    Column("Smallest compute", "default_endpoint_settings.autoscaling_limit_min_cu"),
    Column("Largest compute", "default_endpoint_settings.autoscaling_limit_max_cu"),
    Column("Suspends after", "default_endpoint_settings.suspend_timeout_seconds", out.seconds),
)


@click.group()
def projects() -> None:
    """List, create, change, delete and recover projects."""


@projects.command("list")
@click.option("--recoverable", is_flag=True, help="Those that were deleted and can still be recovered, instead.")
@click.option("--org-id", metavar="ID", help="Only those of this organization.")
@click.option("--search", metavar="TEXT", help="Only those whose name or id holds this text.")
@client_command
def list_(session: Session, *, recoverable: bool, org_id: str | None, search: str | None) -> None:
    """List projects, newest first."""
    rows = list(
        session.api.pages("/projects", "projects", org_id=org_id, search=search, recoverable=recoverable or None)
    )
    if recoverable:
        session.show_list(rows, DELETED, empty="No deleted project can be recovered.")
        return
    session.show_list(rows, COLUMNS, empty="No project yet. Create one: cloister projects create")


@projects.command()
@click.option("--name", metavar="NAME", help="Default: the project's id.")
@click.option("--pg-version", type=int, metavar="MAJOR", help="PostgreSQL's major version. Default: the newest here.")
@click.option("--database", metavar="NAME", help="Name of the first database (default: neondb).")
@click.option("--role", metavar="NAME", help="Name of the first role (default: neondb_owner).")
@click.option("--cu", type=ComputeUnits(), help="Size of its computes: 0.5, or a range 0.25-2.")
@click.option("--suspend-timeout", type=int, metavar="SECONDS", help="Idle time before a compute sleeps; -1: never.")
@click.option(
    "--store-passwords/--no-store-passwords", default=None, help="Keep passwords so that they can be revealed."
)
@click.option("--org-id", metavar="ID", help="The organization it belongs to.")
@click.option("--region-id", metavar="ID", help="The region it lives in.")
@click.option("--psql", "then_psql", is_flag=True, help="Connect to it with psql when it is ready.")
@wait_option
@client_command
def create(
    session: Session,
    *,
    name: str | None,
    pg_version: int | None,
    database: str | None,
    role: str | None,
    cu: Json | None,
    suspend_timeout: int | None,
    store_passwords: bool | None,
    org_id: str | None,
    region_id: str | None,
    then_psql: bool,
    wait: bool,
) -> None:
    """Create a project: a database, a role with a password, an endpoint.

    The password is in the answer, and nowhere else: it is shown once.
    """
    project = given(
        name=name,
        pg_version=pg_version,
        org_id=org_id,
        region_id=region_id,
        store_passwords=store_passwords,
        branch=given(database_name=database, role_name=role),
        default_endpoint_settings=given(**(cu or {}), suspend_timeout_seconds=suspend_timeout),
    )
    answer = session.api.post("/projects", {"project": project})
    session.settle(answer, "Creating the project", wait=wait)
    uris = [uri["connection_uri"] for uri in answer.get("connection_uris") or []]
    session.show(answer if session.is_json else answer["project"], COLUMNS)
    if not session.is_json and uris:
        click.echo(f"\n{secured(uris[0], 'verify-full', session.api.target)}")
        out.note("\nThe password is shown this once: keep it now, or reset it later.")
    if then_psql and uris:
        run_psql(uris[0], session.api.target, ())


@projects.command()
@click.argument("project_id", metavar="ID")
@client_command
def get(session: Session, *, project_id: str) -> None:
    """Show a project."""
    session.show(session.api.get(project_path(project_id))["project"], DETAILS)


@projects.command()
@click.argument("project_id", metavar="ID")
@click.option("--name", metavar="NAME", help="Its new name.")
@click.option("--cu", type=ComputeUnits(), help="Default size of its computes: 0.5, or a range 0.25-2.")
@click.option("--suspend-timeout", type=int, metavar="SECONDS", help="Default idle time of its computes; -1: never.")
@click.option(
    "--require-channel-binding/--no-require-channel-binding",
    default=None,
    help="Refuse clients whose password's proof is not tied to their TLS session, and with them SQL over HTTPS.",
)
@wait_option
@client_command
def update(
    session: Session,
    *,
    project_id: str,
    name: str | None,
    cu: Json | None,
    suspend_timeout: int | None,
    require_channel_binding: bool | None,
    wait: bool,
) -> None:
    """Change a project. What is not named stays as it is."""
    change = given(
        name=name,
        settings=given(require_channel_binding=require_channel_binding),
        default_endpoint_settings=given(**(cu or {}), suspend_timeout_seconds=suspend_timeout),
    )
    if not change:
        raise click.UsageError("nothing to change: give --name, --cu, --suspend-timeout or --require-channel-binding")
    answer = session.api.patch(project_path(project_id), {"project": change})
    session.settle(answer, "Changing the project", wait=wait)
    session.show(answer["project"], DETAILS)


@projects.command()
@click.argument("project_id", metavar="ID")
@click.option("--now", is_flag=True, help="Destroy its key and its data at once, and for good.")
@wait_option
@client_command
def delete(session: Session, *, project_id: str, now: bool, wait: bool) -> None:
    """Delete a project. For seven days `cloister projects recover` brings it back.

    Its sessions end, its computes stop, its volume is locked. After seven days, or with --now, also for a project that was
    deleted before, the key is destroyed, and nothing brings the data back: in no copy and no backup. A project with a
    protected branch is refused.
    """
    answer = session.api.delete(project_path(project_id), hard_delete=now or None)
    session.settle(answer, "Destroying the project" if now else "Deleting the project", wait=wait)
    session.show(answer["project"], COLUMNS)
    if not session.is_json and not now:
        out.note(f"\nIt can be recovered for 7 days: cloister projects recover {answer['project']['id']}")


@projects.command()
@click.argument("project_id", metavar="ID")
@client_command
def recover(session: Session, *, project_id: str) -> None:
    """Bring back a project that was deleted in the last seven days.

    Its hosts, roles, passwords and branches are as they were; it sleeps until somebody connects.
    `cloister projects list --recoverable` shows what can be recovered.
    """
    session.show(session.api.post(f"{project_path(project_id)}/recover")["project"], COLUMNS)


def given(**fields: Any) -> Json:
    """Only what was given: a field left out leaves the decision to the API."""
    return {name: value for name, value in fields.items() if value is not None and value != {}}

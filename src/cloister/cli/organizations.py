"""`cloister orgs`: organizations, who belongs to them, and who was granted one of their projects."""

from collections.abc import Callable, Sequence
from typing import Final, ParamSpec, TypeVar

import click

from cloister.cli import output as out
from cloister.cli.api import Json, segment
from cloister.cli.failure import CommandError
from cloister.cli.output import Column
from cloister.cli.points import Duration
from cloister.cli.session import Session, client_command, project_option, project_path

P = ParamSpec("P")
R = TypeVar("R")

COLUMNS: Final = (
    Column("Id", "id"),
    Column("Name", "name", may_cut=True),
    Column("Created", "created_at", out.ago),
)
MEMBERS: Final = (
    Column("Id", "member.id"),
    Column("E-mail", "user.email"),
    Column("Role", "member.role"),
    Column("By groups of", "member.by_groups_of"),
    Column("Since", "member.joined_at", out.ago),
)
GRANTS: Final = (
    Column("Id", "id"),
    Column("E-mail", "granted_to_email"),
    Column("Role", "role"),
    Column("Since", "granted_at", out.ago),
)
ACCESS: Final = (
    Column("E-mail", "email"),
    Column("May", "effective_project_permission", str.lower),
    Column("In the organization", "org_role"),
    Column("Granted", "project_role"),
)
OFFER: Final = (Column("Id", "id"), Column("Project", "project_id"), Column("Ends", "expires_at", out.ahead))
ACCOUNT: Final = (Column("Id", "id"), Column("E-mail", "email"), Column("Name", "name"), Column("Key", "key"))

ROLES: Final = click.Choice(["admin", "editor", "viewer", "collaborator"])
PROJECT_ROLES: Final = click.Choice(["admin", "editor", "viewer"])


def org_option(command: Callable[P, R]) -> Callable[P, R]:
    """Adds --org-id, which `org_path` understands."""
    return click.option("--org-id", metavar="ID", help="The organization (default: the only one that is yours).")(
        command
    )


def org_path(session: Session, given: str | None) -> str:
    """The path of the organization named, or of the only one there is."""
    if given:
        return f"/organizations/{segment(given)}"
    match session.api.get("/users/me/organizations").get("organizations") or []:
        case [only]:
            return f"/organizations/{segment(str(only['id']))}"
        case []:
            raise CommandError("you belong to no organization")
        case _:
            raise CommandError("you belong to several organizations: name one with --org-id")


@click.group()
def orgs() -> None:
    """Manage organizations, their people, and who may use which project."""


@orgs.command("list")
@client_command
def list_(session: Session) -> None:
    """List the organizations that you belong to."""
    found = session.api.get("/users/me/organizations").get("organizations") or []
    session.show_list(found, COLUMNS, empty="No organization.")


@orgs.command()
@click.option("--name", required=True, metavar="NAME", help="What it is called.")
@client_command
def create(session: Session, *, name: str) -> None:
    """Make an organization, of which you are the admin. For operators of the platform."""
    session.show(session.api.post("/cloister/organizations", {"name": name}), COLUMNS)


@orgs.command("create-account")
@click.argument("email", metavar="EMAIL")
@click.option("--name", required=True, metavar="NAME", help="Whose account it is.")
@client_command
def create_account(session: Session, *, email: str, name: str) -> None:
    """Make an account and its first API key. For operators of the platform. The key is shown once."""
    session.show(session.api.post("/cloister/accounts", {"email": email, "name": name}), ACCOUNT)
    if not session.is_json:
        out.note("\nYou have seen this key: whoever gets it should make another and revoke it.")


@orgs.command()
@org_option
@client_command
def members(session: Session, *, org_id: str | None) -> None:
    """List who belongs to an organization."""
    session.show_list(_members(session, org_path(session, org_id)), MEMBERS, empty="Nobody.")


@orgs.command()
@click.argument("email", metavar="EMAIL")
@click.option("--role", type=ROLES, required=True, help="What they may in it.")
@org_option
@client_command
def add(session: Session, *, email: str, role: str, org_id: str | None) -> None:
    """Add somebody who has an account here."""
    body = {"invitations": [{"email": email, "role": role}]}
    answer = session.api.post(f"{org_path(session, org_id)}/invitations", body)
    session.show(answer["invitations"][0], (Column("E-mail", "email"), Column("Role", "role")))


@orgs.command("set-role")
@click.argument("who", metavar="EMAIL-OR-ID")
@click.argument("role", type=ROLES, metavar="ROLE")
@org_option
@client_command
def set_role(session: Session, *, who: str, role: str, org_id: str | None) -> None:
    """Give somebody another role, from their next call on."""
    path = org_path(session, org_id)
    member = _member(session, path, who)
    answer = session.api.patch(f"{path}/members/{segment(member['member']['id'])}", {"role": role})
    session.show(answer, (Column("Id", "id"), Column("Role", "role")))


@orgs.command()
@click.argument("who", metavar="EMAIL-OR-ID")
@org_option
@client_command
def remove(session: Session, *, who: str, org_id: str | None) -> None:
    """Remove somebody, with all that was granted to them in the organization, from their next call on."""
    path = org_path(session, org_id)
    member = _member(session, path, who)
    session.api.delete(f"{path}/members/{segment(member['member']['id'])}")
    session.show(member, MEMBERS)


@orgs.command()
@project_option
@client_command
def grants(session: Session, *, project_id: str | None) -> None:
    """List who was granted a project, besides those who may by their role in the organization."""
    session.show_list(_grants(session, project_path(session.project_id(project_id))), GRANTS, empty="No grant.")


@orgs.command()
@project_option
@client_command
def access(session: Session, *, project_id: str | None) -> None:
    """List who may what in a project, by their role in the organization or by a grant: the larger of both counts."""
    path = project_path(session.project_id(project_id))
    found = session.api.get(f"{path}/members").get("project_members") or []
    session.show_list(found, ACCESS, empty="Nobody.")


@orgs.command()
@click.argument("email", metavar="EMAIL")
@click.option("--role", type=PROJECT_ROLES, default="editor", show_default=True, help="What they may in it.")
@project_option
@client_command
def grant(session: Session, *, email: str, role: str, project_id: str | None) -> None:
    """Grant a project to somebody, or with another role."""
    path = project_path(session.project_id(project_id))
    session.show(session.api.post(f"{path}/permissions", {"email": email, "role": role}), GRANTS)


@orgs.command()
@click.argument("who", metavar="EMAIL-OR-ID")
@project_option
@client_command
def ungrant(session: Session, *, who: str, project_id: str | None) -> None:
    """Take a grant back. What somebody may by their role in the organization, they still may."""
    path = project_path(session.project_id(project_id))
    for found in _grants(session, path):
        if who.lower() in (found["id"], found["granted_to_email"].lower()):
            session.show(session.api.delete(f"{path}/permissions/{segment(found['id'])}"), GRANTS)
            return
    raise CommandError(f"the project was not granted to {who}")


@orgs.command()
@click.argument("project_ids", nargs=-1, required=True, metavar="PROJECT...")
@click.option("--to", "destination", required=True, metavar="ORG", help="The organization that gets them.")
@org_option
@client_command
def transfer(session: Session, *, project_ids: Sequence[str], destination: str, org_id: str | None) -> None:
    """Move projects to another organization: all of them, or none. Their grants and keys stay behind."""
    body = {"destination_org_id": destination, "project_ids": list(project_ids)}
    session.api.post(f"{org_path(session, org_id)}/projects/transfer", body)
    rows = [{"id": it, "org_id": destination} for it in project_ids]
    session.show_list(rows, (Column("Project", "id"), Column("Organization", "org_id")), empty="")


@orgs.command()
@click.argument("project_id", metavar="PROJECT")
@click.option("--for", "lasts", type=Duration(), default="1d", show_default=True, help="Until then; 7d at most.")
@client_command
def offer(session: Session, *, project_id: str, lasts: int) -> None:
    """Offer a project to somebody of another organization. Whoever has the offer's id can take the project, once."""
    path = f"{project_path(session.project_id(project_id))}/transfer_requests"
    made = session.api.post(path, {"ttl_seconds": lasts})
    session.show(made, OFFER)
    if not session.is_json:
        out.note(f"\nWhoever gets the id takes it with: cloister orgs accept {project_id} {made['id']}")


@orgs.command()
@click.argument("project_id", metavar="PROJECT")
@click.argument("offer_id", metavar="OFFER")
@click.option(
    "--to", "destination", metavar="ORG", help="Where it goes (default: the only organization that is yours)."
)
@client_command
def accept(session: Session, *, project_id: str, offer_id: str, destination: str | None) -> None:
    """Take a project that was offered. Its grants and keys stay behind."""
    path = f"{project_path(project_id)}/transfer_requests/{segment(offer_id)}"
    session.api.put(path, {"org_id": destination} if destination else {})
    row = {"id": project_id, "org_id": destination}
    session.show(row, (Column("Project", "id"), Column("Organization", "org_id")))


def _members(session: Session, path: str) -> list[Json]:
    return list(session.api.pages(f"{path}/members", "members"))


def _member(session: Session, path: str, who: str) -> Json:
    for found in _members(session, path):
        if who.lower() in (found["member"]["id"], found["user"]["email"].lower()):
            return found
    raise CommandError(f"{who} does not belong to the organization")


def _grants(session: Session, path: str) -> list[Json]:
    return session.api.get(f"{path}/permissions").get("project_permissions") or []

"""`cloister people`: who may log in, where, and what their groups give them."""

from pathlib import Path
from typing import Final

import click

from cloister.cli import output as out
from cloister.cli.api import Json, segment
from cloister.cli.failure import CommandError
from cloister.cli.organizations import ROLES, org_option, org_path
from cloister.cli.output import Column
from cloister.cli.points import Duration
from cloister.cli.session import Session, client_command

ISSUERS: Final = (
    Column("Id", "id"),
    Column("Name", "name"),
    Column("Issuer", "issuer", may_cut=True),
    Column("Client", "client_id", may_cut=True),
    Column("Domains", "domains", ", ".join),
    Column("Operators", "operators", may_cut=True),
    Column("Session (s)", "session_seconds"),
    Column("Since", "created_at", out.ago),
)
GROUPS: Final = (
    Column("Id", "id"),
    Column("Issuer", "issuer"),
    Column("Group", "group", may_cut=True),
    Column("Role", "role"),
    Column("Since", "created_at", out.ago),
)
ACCOUNT: Final = (Column("Id", "id"), Column("E-mail", "email"), Column("Name", "name"), Column("Disabled", "disabled"))
SCIM: Final = (
    Column("Organization", "org_id"),
    Column("Enabled", "enabled_at", out.ago),
    Column("Last used", "last_used_at", out.ago),
    Column("From", "last_used_from_addr"),
    Column("Users", "users"),
    Column("Active", "active"),
    Column("Linked", "linked"),
    Column("Groups", "groups"),
)


@click.group()
def people() -> None:
    """Let people log in at an issuer (OpenID Connect), and say what their groups give them."""


@people.command()
@client_command
def issuers(session: Session) -> None:
    """List the issuers at which people log in. For operators of the platform."""
    session.show_list(session.api.get("/cloister/issuers")["issuers"], ISSUERS, empty="No issuer: API keys only.")


@people.command("add-issuer")
@click.argument("name", metavar="NAME")
@click.option("--issuer", required=True, metavar="URL", help="As its tokens say it, to the letter.")
@click.option("--client-id", required=True, metavar="ID", help="What this platform is called there.")
@click.option(
    "--client-secret-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A file with the secret that was agreed on. Without it, a public client.",
)
@click.option("--domain", "domains", multiple=True, help="Whose addresses it may speak for; may be repeated.")
@click.option(
    "--groups-claim", default="groups", show_default=True, metavar="CLAIM", help="Where its ID tokens list groups."
)
@click.option("--operators", metavar="GROUP", help="The group whose people are operators of the platform.")
@click.option("--session", "lasts", type=Duration(), help="How long a session lasts: 5min to 12h. Default: 8h.")
@client_command
def add_issuer(
    session: Session,
    *,
    name: str,
    issuer: str,
    client_id: str,
    client_secret_file: Path | None,
    domains: tuple[str, ...],
    groups_claim: str,
    operators: str | None,
    lasts: int | None,
) -> None:
    """Register an issuer. For operators of the platform.

    At the issuer, register this platform as a native application with the redirect address http://127.0.0.1/login/NAME (any port),
    and have its groups put into the ID token. Without --domain, people come in whose address the issuer has verified.
    """
    body: Json = {"name": name, "issuer": issuer, "client_id": client_id, "groups_claim": groups_claim}
    if client_secret_file is not None:
        try:
            body["client_secret"] = client_secret_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"{client_secret_file} cannot be read: {error}") from None
    if domains:
        body["domains"] = list(domains)
    if operators:
        body["operators"] = operators
    if lasts is not None:
        body["session_seconds"] = lasts
    session.show(session.api.post("/cloister/issuers", body), ISSUERS)


@people.command("remove-issuer")
@click.argument("issuer_id", metavar="ID")
@client_command
def remove_issuer(session: Session, *, issuer_id: str) -> None:
    """End every session of an issuer's, and all that its groups give. For operators of the platform."""
    session.show(session.api.delete(f"/cloister/issuers/{segment(issuer_id)}"), ISSUERS)


@people.command()
@org_option
@client_command
def groups(session: Session, *, org_id: str | None) -> None:
    """List the groups that give a role in an organization."""
    found = session.api.get(f"/cloister{org_path(session, org_id)}/groups").get("groups") or []
    session.show_list(found, GROUPS, empty="No group: people are of the organization by name.")


@people.command("map")
@click.argument("group", metavar="GROUP")
@click.option("--role", type=ROLES, required=True, help="What whoever is in it may.")
@click.option("--issuer", metavar="NAME", help="Whose group it is. Default: the only issuer there is.")
@org_option
@client_command
def map_(session: Session, *, group: str, role: str, issuer: str | None, org_id: str | None) -> None:
    """Give a group of an issuer's a role in an organization; again, with another role, to change it.

    It holds from each one's next login on, and in sessions only: whoever is taken out of the group, or leaves, has nothing any
    more when the session ends. A change ends the sessions of who is in the organization by that issuer's groups.
    """
    body: Json = {"group": group, "role": role}
    if issuer:
        body["issuer"] = issuer
    session.show(session.api.post(f"/cloister{org_path(session, org_id)}/groups", body), GROUPS)


@people.command()
@click.argument("group_id", metavar="ID")
@org_option
@client_command
def unmap(session: Session, *, group_id: str, org_id: str | None) -> None:
    """Let a group give nothing any more, at once."""
    session.show(session.api.delete(f"/cloister{org_path(session, org_id)}/groups/{segment(group_id)}"), GROUPS)


@people.command()
@click.argument("email", metavar="EMAIL")
@client_command
def disable(session: Session, *, email: str) -> None:
    """Let somebody in no more: no key of theirs, no login, and their access to data ends. For operators of the platform."""
    session.show(session.api.patch("/cloister/accounts", {"email": email, "disabled": True}), ACCOUNT)


@people.command()
@click.argument("email", metavar="EMAIL")
@client_command
def enable(session: Session, *, email: str) -> None:
    """Let somebody in again, with what is theirs. For operators of the platform."""
    session.show(session.api.patch("/cloister/accounts", {"email": email, "disabled": False}), ACCOUNT)


@people.group()
def scim() -> None:
    """Let your identity provider say who is there and who is not any more (SCIM 2.0).

    \b
    cloister people scim enable     # its address, and the token, once: give both to your identity provider
    cloister people scim rotate     # another token; the one before opens nothing from now on
    cloister people scim status

    Whoever is deactivated there has nothing in the organization from the next call on. Nobody gets a role by it.
    """  # noqa: D301 - click leaves the lines after \b as they are


@scim.command("enable")
@org_option
@client_command
def scim_enable(session: Session, *, org_id: str | None) -> None:
    """Give the organization a directory, and a token that is shown once."""
    _show_token(session, session.api.post(_scim_path(session, org_id)))


@scim.command("rotate")
@org_option
@client_command
def scim_rotate(session: Session, *, org_id: str | None) -> None:
    """Make another token. The one before ends at once."""
    _show_token(session, session.api.post(_scim_path(session, org_id) + "/rotate"))


@scim.command("disable")
@org_option
@client_command
def scim_disable(session: Session, *, org_id: str | None) -> None:
    """Let nobody speak any more. Who was deactivated stays so."""
    session.show(session.api.delete(_scim_path(session, org_id)), SCIM)


@scim.command("status")
@org_option
@client_command
def scim_status(session: Session, *, org_id: str | None) -> None:
    """Tell whether the directory speaks, and of how many it has said that they are there."""
    session.show(session.api.get(_scim_path(session, org_id)), SCIM)


def _scim_path(session: Session, org_id: str | None) -> str:
    return f"/cloister{org_path(session, org_id)}/scim"


def _show_token(session: Session, answer: Json) -> None:
    if session.is_json:
        out.show_json(answer)
        return
    session.show(answer["scim"] | {"token": answer["token"]}, (*SCIM, Column("Token", "token")))
    out.note(
        "\nThe token is shown this once: give it to your identity provider now, with the API's address and /scim/v2."
    )

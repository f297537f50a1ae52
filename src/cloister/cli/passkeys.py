"""`cloister passkeys`: what one shows for a privileged act, and whether an organization demands that."""

from typing import Final

import click

from cloister.cli import output as out
from cloister.cli import signing
from cloister.cli.api import Json, segment
from cloister.cli.failure import CommandError
from cloister.cli.organizations import org_option, org_path
from cloister.cli.output import Column
from cloister.cli.session import Session, client_command

COLUMNS: Final = (
    Column("Id", "id"),
    Column("Name", "name", may_cut=True),
    Column("Since", "created_at", out.ago),
    Column("Last used", "last_used_at", out.ago),
)
POLICY: Final = (Column("Passkey required", "required"),)
RECOVERED: Final = (Column("E-mail", "email"), Column("Removed", "removed", ", ".join))

_PATH: Final = "/cloister/users/me/passkeys"


@click.group()
def passkeys() -> None:
    """A passkey (security key, fingerprint, phone) of yours, which you show for each privileged act.

    \b
    cloister passkeys add "key ring"      # your browser opens; touch the key
    cloister projects delete ID           # from now on this takes it, whoever has your API key
    cloister passkeys add "drawer"        # a second one, for the day on which the first is lost
    cloister passkeys policy --require    # of everybody in your organization

    Privileged is what destroys, what lets somebody at data or takes a protection away, and what makes keys and roles. The command that
    does it opens the platform's page in your browser, and goes on when you have signed there. On a machine without a browser:
    `ssh -L 40000:127.0.0.1:40000 MACHINE`, there `export CLOISTER_PASSKEY_PORT=40000`, and open the address that is shown on your own.
    """  # noqa: D301 - click leaves the lines after \b as they are


@passkeys.command("list")
@client_command
def list_(session: Session) -> None:
    """List your passkeys."""
    session.show_list(_own(session), COLUMNS, empty="You have no passkey: `cloister passkeys add` registers one.")


@passkeys.command()
@click.argument("name", metavar="NAME", default="passkey")
@client_command
def add(session: Session, *, name: str) -> None:
    """Register a passkey, with your browser. If you have one already, you show it first.

    The page is at the platform's name, and passkeys are for that name: your browser must trust its certificate (of the platform's own
    authority, that is ca.pem in its state directory).
    """
    ceremony = session.api.post(_PATH + "/begin")
    credential = signing.sign(session.platform, ceremony, "make the passkey there")
    session.show(session.api.post(_PATH, {"name": name, "credential": credential}), COLUMNS)


@passkeys.command()
@click.argument("which", metavar="NAME|ID")
@client_command
def remove(session: Session, *, which: str) -> None:
    """Remove a passkey of yours. You show one for it, and it may be that one."""
    found = [it for it in _own(session) if which in (it["id"], it["name"])]
    if not found:
        raise CommandError(f"you have no passkey {which}: `cloister passkeys list` shows them")
    session.show(session.api.delete(f"{_PATH}/{segment(found[0]['id'])}"), COLUMNS)


@passkeys.command()
@click.option("--require/--no-require", "required", default=None, help="Say so; without either, show what is so.")
@org_option
@client_command
def policy(session: Session, *, required: bool | None, org_id: str | None) -> None:
    """Show or set whether privileged acts in an organization take a passkey, of everybody.

    Whoever has none is then refused them until they register one, and so are the organization's own keys, those of service accounts
    among them: nobody is there who could show one. To change it takes an admin with a passkey.
    """
    path = f"/cloister{org_path(session, org_id)}/passkey_policy"
    answer = session.api.get(path) if required is None else session.api.put(path, {"required": required})
    session.show(answer, POLICY)


@passkeys.command()
@click.argument("email", metavar="EMAIL")
@click.option("--reason", required=True, help="Stands in the audit log, and in the alert.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@client_command
def recover(session: Session, *, email: str, reason: str, yes: bool) -> None:
    """Take away the passkeys of somebody who has lost them: on the server, as root.

    Until they register another, their API key alone does what is privileged: be sure that it is they who ask. Whoever has a second
    passkey removes the lost one with that, and needs nobody. The finding passkeys-recovered tells your channels.
    """
    from cloister.app.recovery import recover_passkeys  # noqa: PLC0415 - the control database, on the server alone

    if session.state_dir is None:
        raise CommandError("passkeys are recovered on the server itself")
    if not yes:
        click.confirm(f"Take away every passkey of {email}?", abort=True, err=True)
    names = recover_passkeys(session.state_dir, email, reason)
    session.show({"email": email, "removed": names}, RECOVERED)


def _own(session: Session) -> list[Json]:
    found: list[Json] = session.api.get(_PATH)["passkeys"]
    return found

"""`cloister service-accounts`: what machines are and may in an organization, and their keys."""

from collections.abc import Sequence
from typing import Final

import click

from cloister.cli import output as out
from cloister.cli.api import Json, segment
from cloister.cli.failure import CommandError
from cloister.cli.organizations import PROJECT_ROLES, org_option, org_path
from cloister.cli.output import Column
from cloister.cli.points import Duration
from cloister.cli.session import Session, client_command

COLUMNS: Final = (
    Column("Name", "name"),
    Column("Role", "role"),
    Column("Projects", "projects", may_cut=True),
    Column("Owner", "owner", may_cut=True),
    Column("Orphaned", "orphaned_at", out.ago),
    Column("Disabled", "disabled_at", out.ago),
    Column("Keys end", "ends", may_cut=True),
    Column("Last used", "last_used_at", out.ago),
)

_name: Final = click.argument("name", metavar="NAME")
_days: Final = click.option(
    "--days", type=click.IntRange(1, 366), default=90, show_default=True, help="The key ends after so many."
)
_ROLES: Final = click.Choice(["editor", "viewer", "collaborator"])


@click.group("service-accounts")
def service_accounts() -> None:
    """Accounts for machines: a role and projects of their own, keys that end and are rotated, somebody who answers for them.

    \b
    cloister service-accounts create ci --grant calm-forest-12345678=editor
    cloister service-accounts rotate ci --overlap 1h     # the key before is good for another hour
    cloister service-accounts rotate ci --overlap 0s     # somebody has seen it: it ends now
    cloister service-accounts disable ci                 # none of its keys opens anything, from now on

    They decide about nobody's access to data and ask for none, and make no keys. To make or rotate a key takes an admin with a key
    of theirs that has no end, or with a passkey (`cloister passkeys`): then a session of `cloister login` does it.
    """  # noqa: D301 - click leaves the lines after \b as they are


@service_accounts.command("list")
@org_option
@client_command
def list_(session: Session, *, org_id: str | None) -> None:
    """List an organization's service accounts, and when their keys end."""
    rows = [_told(it) for it in _all(session, _path(session, org_id))]
    session.show_list(rows, COLUMNS, empty="No service account.")


@service_accounts.command()
@_name
@click.option("--role", type=_ROLES, default="collaborator", show_default=True, help="In the whole organization.")
@click.option("--grant", "grants", multiple=True, metavar="PROJECT=ROLE", help="In one project; may be repeated.")
@click.option("--owner", metavar="EMAIL", help="Who answers for it (default: you).")
@_days
@click.option("--from", "addresses", multiple=True, metavar="ADDRESS", help="Its key opens from here only.")
@org_option
@client_command
def create(
    session: Session,
    *,
    name: str,
    role: str,
    grants: Sequence[str],
    owner: str | None,
    days: int,
    addresses: Sequence[str],
    org_id: str | None,
) -> None:
    """Make a service account and its first key, which is shown once."""
    body: Json = {"name": name, "role": role, "grants": _parsed(grants), "key_days": days}
    if owner:
        body["owner"] = owner
    if addresses:
        body["allowed_ips"] = list(addresses)
    _show_key(session, session.api.post(_path(session, org_id), body))


@service_accounts.command()
@_name
@click.option("--overlap", type=Duration(), default="1h", show_default=True, help="Keys before end then; 7d at most.")
@_days
@click.option("--from", "addresses", multiple=True, metavar="ADDRESS", help="Default: where the key before opens from.")
@org_option
@client_command
def rotate(
    session: Session, *, name: str, overlap: int, days: int, addresses: Sequence[str], org_id: str | None
) -> None:
    """Make a new key, which is shown once. Those before are good for the overlap, and no longer than they were."""
    body: Json = {"overlap_seconds": overlap, "key_days": days}
    if addresses:
        body["allowed_ips"] = list(addresses)
    _show_key(session, session.api.post(f"{_one(session, name, org_id)}/rotate", body))


@service_accounts.command()
@_name
@click.option("--role", type=_ROLES, help="In the whole organization.")
@click.option("--grant", "grants", multiple=True, metavar="PROJECT=ROLE", help="These and no others; may be repeated.")
@click.option("--no-grants", is_flag=True, help="No project of its own any more.")
@click.option("--owner", metavar="EMAIL", help="Who answers for it from now on.")
@org_option
@client_command
def update(
    session: Session,
    *,
    name: str,
    role: str | None,
    grants: Sequence[str],
    no_grants: bool,
    owner: str | None,
    org_id: str | None,
) -> None:
    """Change what it may, or who answers for it. Holds from the next call of its keys on."""
    if grants and no_grants:
        raise click.UsageError("--grant and --no-grants exclude each other")
    body: Json = {}
    if role:
        body["role"] = role
    if grants or no_grants:
        body["grants"] = _parsed(grants)
    if owner:
        body["owner"] = owner
    if not body:
        raise click.UsageError("say what is to change: --role, --grant, --no-grants or --owner")
    session.show(_told(session.api.patch(_one(session, name, org_id), body)), COLUMNS)


@service_accounts.command()
@_name
@org_option
@client_command
def disable(session: Session, *, name: str, org_id: str | None) -> None:
    """None of its keys opens anything, from the next call on."""
    session.show(_told(session.api.patch(_one(session, name, org_id), {"disabled": True})), COLUMNS)


@service_accounts.command()
@_name
@org_option
@client_command
def enable(session: Session, *, name: str, org_id: str | None) -> None:
    """Its keys that have not ended meanwhile are good again."""
    session.show(_told(session.api.patch(_one(session, name, org_id), {"disabled": False})), COLUMNS)


@service_accounts.command()
@_name
@org_option
@client_command
def remove(session: Session, *, name: str, org_id: str | None) -> None:
    """Remove it with its keys, at once and for good."""
    session.show(session.api.delete(_one(session, name, org_id)), COLUMNS[:2])


def _path(session: Session, org_id: str | None) -> str:
    return f"/cloister{org_path(session, org_id)}/service_accounts"


def _all(session: Session, path: str) -> list[Json]:
    return session.api.get(path).get("service_accounts") or []


def _one(session: Session, name: str, org_id: str | None) -> str:
    path = _path(session, org_id)
    for found in _all(session, path):
        if name in (found["name"], found["id"]):
            return f"{path}/{segment(found['id'])}"
    raise CommandError(f"there is no service account {name}")


def _parsed(grants: Sequence[str]) -> list[Json]:
    found = []
    for text in grants:
        project_id, _, role = text.partition("=")
        if not project_id or role not in PROJECT_ROLES.choices:
            raise click.UsageError(f"{text!r} is not PROJECT=ROLE, with a role of {', '.join(PROJECT_ROLES.choices)}")
        found.append({"project_id": project_id, "role": role})
    return found


def _told(it: Json) -> Json:
    """With what people look for in its keys."""
    keys = it["keys"]
    used = max((key["last_used_at"] for key in keys if key["last_used_at"]), default=None)
    return it | {
        "projects": ", ".join(f"{grant['project_id']}={grant['role']}" for grant in it["grants"]) or None,
        "ends": ", ".join(out.ahead(key["expires_at"]) for key in keys) or None,
        "last_used_at": used,
    }


def _show_key(session: Session, answer: Json) -> None:
    if session.is_json:
        session.show(answer, ())
        return
    session.show(_told(answer["service_account"]) | {"key": answer["key"]}, (*COLUMNS, Column("Key", "key")))
    out.note("\nThe key is shown this once: keep it now.")

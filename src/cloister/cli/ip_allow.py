"""`cloister ip-allow`: the addresses from which a project may be connected to. An empty list allows all."""

from collections.abc import Sequence
from typing import Final

import click

from cloister.cli import output as out
from cloister.cli.api import Json
from cloister.cli.output import Column
from cloister.cli.session import Session, client_command, project_option, project_path

COLUMNS: Final = (
    Column("Addresses", "ips"),
    Column("On protected branches only", "protected_branches_only"),
)


@click.group("ip-allow")
def ip_allow() -> None:
    """Say from which addresses a project may be connected to."""


@ip_allow.command("list")
@project_option
@client_command
def list_(session: Session, *, project_id: str | None) -> None:
    """Show the allow list."""
    session.show(_current(session, session.project_id(project_id)), COLUMNS)


@ip_allow.command()
@click.argument("ips", nargs=-1, required=True, metavar="ADDRESS...")
@click.option(
    "--protected-only/--all-branches", default=None, help="Apply the list to protected branches only, or to all."
)
@project_option
@client_command
def add(session: Session, *, ips: Sequence[str], protected_only: bool | None, project_id: str | None) -> None:
    """Add addresses: single ones, ranges A-B, networks in CIDR form, IPv4 or IPv6."""
    project_id = session.project_id(project_id)
    current = _current(session, project_id)
    wanted = list(dict.fromkeys([*current["ips"], *_words(ips)]))
    _set(session, project_id, wanted, current["protected_branches_only"] if protected_only is None else protected_only)


@ip_allow.command()
@click.argument("ips", nargs=-1, required=True, metavar="ADDRESS...")
@project_option
@client_command
def remove(session: Session, *, ips: Sequence[str], project_id: str | None) -> None:
    """Remove addresses, written as they were added. Their running sessions end."""
    project_id = session.project_id(project_id)
    current = _current(session, project_id)
    unwanted = _words(ips)
    if missing := [ip for ip in unwanted if ip not in current["ips"]]:
        raise click.UsageError(f"not on the list: {', '.join(missing)}")
    remaining = [ip for ip in current["ips"] if ip not in unwanted]
    _set(session, project_id, remaining, current["protected_branches_only"])
    if not remaining:
        out.note("The list is empty now: every address may connect.")


@ip_allow.command()
@click.argument("ips", nargs=-1, metavar="[ADDRESS...]")
@click.option("--protected-only", is_flag=True, help="Apply the list to protected branches only.")
@project_option
@client_command
def reset(session: Session, *, ips: Sequence[str], protected_only: bool, project_id: str | None) -> None:
    """Replace the list by these addresses; by none, which allows all."""
    wanted = _words(ips)
    _set(session, session.project_id(project_id), wanted, protected_only)
    if not wanted:
        out.note("The list is empty now: every address may connect.")


def _words(ips: Sequence[str]) -> list[str]:
    """People write commas between addresses."""
    return [word for text in ips for word in text.replace(",", " ").split()]


def _current(session: Session, project_id: str) -> Json:
    project = session.api.get(project_path(project_id))["project"]
    return {"ips": [], "protected_branches_only": False} | ((project.get("settings") or {}).get("allowed_ips") or {})


def _set(session: Session, project_id: str, ips: Sequence[str], protected_only: bool) -> None:
    allowed = {"ips": list(ips), "protected_branches_only": protected_only}
    answer = session.api.patch(project_path(project_id), {"project": {"settings": {"allowed_ips": allowed}}})
    session.show(answer["project"]["settings"]["allowed_ips"], COLUMNS)

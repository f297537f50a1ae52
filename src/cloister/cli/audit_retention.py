"""`cloister audit retention`: for how long what is recorded is kept."""

from collections.abc import Sequence
from typing import Final

import click

from cloister.cli import output as out
from cloister.cli.api import Json, segment
from cloister.cli.failure import CommandError
from cloister.cli.output import Column
from cloister.cli.session import Session, client_command

RECORDS: Final = ("statements", "recordings")
DAYS_MIN: Final = 365
DAYS_MAX: Final = 36_500

COLUMNS: Final = (
    Column("Retention", "id"),
    Column("Record", "record"),
    Column("Kept for", "kept"),
    Column("State", "state"),
    Column("Why", "reason", may_cut=True),
    Column("Asked by", "asked_by"),
    Column("Agreed by", "agreed_by"),
    Column("Holds from", "holds_from"),
)

OLD_COLUMNS: Final = (
    Column("Project", "project_id"),
    Column("What", "resource"),
    Column("From", "first_at"),
    Column("To", "last_at"),
    Column("Statements", "statements"),
    Column("Fate", "fate"),
)

org_option = click.option("--org-id", required=True, metavar="ID", help="Whose record.")


@click.group()
def retention() -> None:
    """Say for how long what is recorded is kept, and see what goes.

    \b
    statements   what clients executed, a month at a time
    recordings   sessions of approved access, one at a time

    Both are kept without end unless an organization says otherwise; the audit log itself always is. What has been kept for long
    enough is erased within an hour, unless a legal hold stands on its project (`cloister audit hold`); every proof stays.
    """  # noqa: D301 - click leaves the lines after \b as they are


@retention.command("show")
@org_option
@click.option("--due", is_flag=True, help="What goes today, instead of what was said.")
@client_command
def show(session: Session, *, org_id: str, due: bool) -> None:
    """Show for how long each record is kept, who said so, and what was asked for; or, with --due, what goes."""
    if due:
        _show_old(session, org_id, RECORDS, None)
        return
    found = session.api.get(_path(org_id)).get("retentions") or []
    rows = found if session.is_json else [_row(each) for each in found]
    session.show_list(rows, COLUMNS, empty="Nothing was said: statements and recordings are kept without end.")


@retention.command("set")
@org_option
@click.option("--record", type=click.Choice(RECORDS), help="Which of them.")
@click.option("--days", type=click.IntRange(DAYS_MIN, DAYS_MAX), help="For how long: a year at least.")
@click.option("--forever", is_flag=True, help="Without end.")
@click.option("--reason", metavar="TEXT", help="Why: it is in the audit log for good.")
@click.option("--dry-run", is_flag=True, help="Show what would go today if this held, and set nothing.")
@click.option("--agree", "agree_id", metavar="ID", help="Agree to what somebody else asked for.")
@client_command
def set_(
    session: Session,
    *,
    org_id: str,
    record: str | None,
    days: int | None,
    forever: bool,
    reason: str | None,
    dry_run: bool,
    agree_id: str | None,
) -> None:
    """Set for how long a record is kept.

    \b
    1. Look:     cloister audit retention set --org-id O --record statements --days 400 --dry-run
    2. Set:      cloister audit retention set --org-id O --record statements --days 400 --reason "Records policy 3"
    3. Another:  cloister audit retention set --org-id O --agree ID      (an admin, within 7 days; never you)

    For longer than before, it holds at once, and nobody has to agree. For less long it holds a week after somebody did, and not
    at all if anybody sets something longer meanwhile. What is gone then does not come back.
    """  # noqa: D301 - click leaves the lines after \b as they are
    if agree_id is not None:
        if record is not None or days is not None or forever or reason is not None or dry_run:
            raise CommandError("--agree takes nothing else: the one who asked said what, and why")
        _show(session, session.api.post(f"{_path(org_id)}/{segment(agree_id)}/agree")["retention"])
        return
    if record is None or (days is None) is not forever:
        raise CommandError("say --record, and --days or --forever")
    if dry_run:
        if forever:
            raise CommandError("--forever erases nothing: there is nothing to try")
        _show_old(session, org_id, [record], days)
        return
    if reason is None:
        raise CommandError("say --reason: it is in the audit log for good")
    said = session.api.post(_path(org_id), {"record": record, "days": days, "reason": reason})["retention"]
    _show(session, said)
    if not said.get("holds_from") and not session.is_json:
        where = f"--org-id {said['org_id']} --agree {said['id']}"
        out.note(
            f"\nThat is for less long: nothing changes yet. Now somebody else says: cloister audit retention set {where}"
        )


def _path(org_id: str) -> str:
    return f"/cloister/organizations/{segment(org_id)}/audit_retention"


def _show(session: Session, found: Json) -> None:
    session.show(found if session.is_json else _row(found), COLUMNS)


def _row(found: Json) -> Json:
    days = found.get("days")
    return {**found, "kept": f"{days} days" if days else "ever"}


def _show_old(session: Session, org_id: str, records: Sequence[str], days: int | None) -> None:
    found: list[Json] = []
    for record in records:
        found += session.api.get(f"{_path(org_id)}/preview", record=record, days=days).get("old") or []
    if not session.is_json:
        found = [{**each, "fate": "held" if each["is_held"] else "goes"} for each in found]
    session.show_list(found, OLD_COLUMNS, empty="Nothing is that old.")

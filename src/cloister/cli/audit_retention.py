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
EVENTS_DAYS_MIN: Final = 400
DAYS_MAX: Final = 36_500

KEPT_BY: Final = {
    "age": "it is not old enough, or is the proof that those before it were",
    "hold": "it is of a project under a legal hold",
    "statements": "the statements that it vouches for can still be read",
    "recording": "the recording that it vouches for can still be read",
    "sentinel": "the sentinel has not looked at it",
    "export": "a target of `cloister audit export-to`, or a witness, has not taken it",
}

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

EVENTS_COLUMNS: Final = (
    Column("Pruned up to", "pruned"),
    Column("Announced up to", "announced"),
    Column("Would go up to", "up_to"),
    Column("The next stays since", "why"),
)

org_option = click.option("--org-id", metavar="ID", help="Whose record.")
platform_option = click.option(
    "--platform", is_flag=True, help="The audit log's own events, instead of an organization's record: an operator's."
)


@click.group()
def retention() -> None:
    """Say for how long what is recorded is kept, and see what goes.

    \b
    statements   what clients executed, a month at a time
    recordings   sessions of approved access, one at a time
    events       the audit log's own (--platform)

    All are kept without end unless their organization says otherwise, or two operators do of the log's own events. What has been kept for long
    enough is erased within an hour, unless a legal hold stands on its project (`cloister audit hold`); every proof stays.
    Of the log's own events the oldest go, and nothing that is left depends on them: `cloister audit verify` says up to where.
    """  # noqa: D301 - click leaves the lines after \b as they are


@retention.command("show")
@org_option
@platform_option
@click.option("--due", is_flag=True, help="What goes today, instead of what was said.")
@client_command
def show(session: Session, *, org_id: str | None, platform: bool, due: bool) -> None:
    """Show for how long each record is kept, who said so, and what was asked for; or, with --due, what goes."""
    path = _path(org_id, platform=platform)
    if due:
        if platform:
            _show_events(session, path, None)
        else:
            _show_old(session, path, RECORDS, None)
        return
    found = session.api.get(path).get("retentions") or []
    rows = found if session.is_json else [_row(each) for each in found]
    what = "the audit log's own events" if platform else "statements and recordings"
    session.show_list(rows, COLUMNS, empty=f"Nothing was said: {what} are kept without end.")


@retention.command("set")
@org_option
@platform_option
@click.option("--record", type=click.Choice(RECORDS), help="Which of them.")
@click.option(
    "--days", type=click.IntRange(DAYS_MIN, DAYS_MAX), help="For how long: a year at least; events, 400 days."
)
@click.option("--forever", is_flag=True, help="Without end.")
@click.option("--reason", metavar="TEXT", help="Why: it is in the audit log for good.")
@click.option("--dry-run", is_flag=True, help="Show what would go today if this held, and set nothing.")
@click.option("--agree", "agree_id", metavar="ID", help="Agree to what somebody else asked for.")
@client_command
def set_(
    session: Session,
    *,
    org_id: str | None,
    platform: bool,
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
    at all if anybody sets something longer meanwhile. What is gone then does not come back. With --platform instead of --org-id
    and --record, two operators say it of the audit log's own events.
    """  # noqa: D301 - click leaves the lines after \b as they are
    path = _path(org_id, platform=platform)
    where = "--platform" if platform else f"--org-id {org_id}"
    if agree_id is not None:
        if record is not None or days is not None or forever or reason is not None or dry_run:
            raise CommandError("--agree takes nothing else: the one who asked said what, and why")
        _show(session, session.api.post(f"{path}/{segment(agree_id)}/agree")["retention"])
        return
    if (record is None) is not platform or (days is None) is not forever:
        raise CommandError(
            "say --record, and --days or --forever; with --platform no --record, for it is the log's own events"
        )
    if platform and days is not None and days < EVENTS_DAYS_MIN:
        raise CommandError(f"the log's own events are kept for {EVENTS_DAYS_MIN} days at least")
    if dry_run:
        if forever:
            raise CommandError("--forever erases nothing: there is nothing to try")
        if record is None:
            _show_events(session, path, days)
        else:
            _show_old(session, path, [record], days)
        return
    if reason is None:
        raise CommandError("say --reason: it is in the audit log for good")
    what = {} if record is None else {"record": record}
    said = session.api.post(path, {**what, "days": days, "reason": reason})["retention"]
    _show(session, said)
    if not said.get("holds_from") and not session.is_json:
        out.note(
            "\nThat is for less long: nothing changes yet. Now somebody else says: "
            f"cloister audit retention set {where} --agree {said['id']}"
        )


def _path(org_id: str | None, *, platform: bool) -> str:
    if (org_id is None) is not platform:
        raise CommandError("say --org-id, or --platform: whose record it is")
    if org_id is None:
        return "/cloister/audit/retention"
    return f"/cloister/organizations/{segment(org_id)}/audit_retention"


def _show(session: Session, found: Json) -> None:
    session.show(found if session.is_json else _row(found), COLUMNS)


def _row(found: Json) -> Json:
    days = found.get("days")
    return {**found, "kept": f"{days} days" if days else "ever"}


def _show_events(session: Session, path: str, days: int | None) -> None:
    found = session.api.get(f"{path}/preview", days=days)
    if not session.is_json:
        found["why"] = KEPT_BY.get(found["kept_by"], found["kept_by"])
    session.show(found, EVENTS_COLUMNS)


def _show_old(session: Session, path: str, records: Sequence[str], days: int | None) -> None:
    found: list[Json] = []
    for record in records:
        found += session.api.get(f"{path}/preview", record=record, days=days).get("old") or []
    if not session.is_json:
        found = [{**each, "fate": "held" if each["is_held"] else "goes"} for each in found]
    session.show_list(found, OLD_COLUMNS, empty="Nothing is that old.")

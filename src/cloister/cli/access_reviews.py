"""`cloister access review`: of every right in an organization, whether it is still needed."""

from typing import Final

import click

from cloister.cli import output as out
from cloister.cli.api import Json, segment
from cloister.cli.failure import CommandError
from cloister.cli.organizations import org_option, org_path
from cloister.cli.output import Column
from cloister.cli.session import Session, client_command

REVIEWS: Final = (
    Column("Id", "id"),
    Column("Began", "started_at", out.ago),
    Column("By", "started_by", may_cut=True),
    Column("Due", "due_at", out.ahead),
    Column("Closed", "closed_at", out.ago),
    Column("Rights", "rights"),
    Column("Unanswered", "unanswered"),
)
ITEMS: Final = (
    Column("No", "number"),
    Column("What", "kind"),
    Column("Whose", "whose", may_cut=True),
    Column("Right", "right", may_cut=True),
    Column("Since", "facts.since", out.ago),
    Column("Last used", "facts.last_used", out.ago),
    Column("Answer", "decision"),
    Column("By", "decided_by", may_cut=True),
)
POLICY: Final = (
    Column("Every days", "every_days"),
    Column("Days to answer", "answer_days"),
    Column("Unanswered rights lapse", "unanswered_rights_lapse"),
)


@click.group()
def review() -> None:
    """Who may what in the organization: keep or take back every right, before they pile up.

    \b
    1. Begin one:       cloister access review start            (or: … policy set --every-days 90)
    2. Look:            cloister access review show             (the open one)
    3. Answer each:     cloister access review keep 2 3 5; cloister access review remove 4 --note "left the team"
    4. End it:          cloister access review close            (by itself when it is due)

    Nobody answers for their own rights. What nobody has answered for when a review is due is taken back, unless it was begun with
    --report-only; the last admin stays. The report of a closed one is evidence: its SHA-256 is in the audit log.
    """  # noqa: D301 - click leaves the lines after \b as they are


_days = click.option(
    "--answer-days", type=click.IntRange(1, 60), default=14, show_default=True, help="Until it is due."
)
_report_only = click.option(
    "--report-only", is_flag=True, help="Unanswered rights are only reported. Default: they are taken back."
)


@review.command()
@_days
@_report_only
@org_option
@client_command
def start(session: Session, *, answer_days: int, report_only: bool, org_id: str | None) -> None:
    """Begin a review of every right that there is now."""
    body = {"answer_days": answer_days, "unanswered_rights_lapse": not report_only}
    _show(session, session.api.post(_reviews(session, org_id), body))


@review.command("list")
@org_option
@client_command
def list_reviews(session: Session, *, org_id: str | None) -> None:
    """List the reviews there were."""
    found = session.api.get(_reviews(session, org_id)).get("access_reviews") or []
    session.show_list(found, REVIEWS, empty="There was no review yet: cloister access review start")


@review.command()
@click.argument("review_id", metavar="[REVIEW]", required=False)
@click.option("--report", is_flag=True, help="Of a closed one: the report alone, to the byte that was hashed.")
@org_option
@client_command
def show(session: Session, *, review_id: str | None, report: bool, org_id: str | None) -> None:
    """Show a review: every right, and what was answered. Default: the newest."""
    answer = session.api.get(_review(session, org_id, review_id, only_open=False))
    if not report:
        _show(session, answer)
        return
    if answer.get("report") is None:
        raise CommandError("the review is not closed: it has no report yet")
    click.echo(answer["report"], nl=False)


@review.command()
@click.argument("numbers", metavar="NUMBER…", nargs=-1, required=True, type=click.IntRange(1))
@click.option("--note", default="", metavar="TEXT", help="Why. It is in the report and in the audit log.")
@org_option
@client_command
def keep(session: Session, *, numbers: tuple[int, ...], note: str, org_id: str | None) -> None:
    """Answer that rights of the open review are still needed."""
    _answer(session, org_id, numbers, {"decision": "keep", "note": note})


@review.command()
@click.argument("numbers", metavar="NUMBER…", nargs=-1, required=True, type=click.IntRange(1))
@click.option("--note", default="", metavar="TEXT", help="Why. It is in the report and in the audit log.")
@org_option
@client_command
def remove(session: Session, *, numbers: tuple[int, ...], note: str, org_id: str | None) -> None:
    """Take rights of the open review back, now: remove a member, revoke a grant or a key."""
    _answer(session, org_id, numbers, {"decision": "remove", "note": note})


@review.command()
@org_option
@client_command
def close(session: Session, *, org_id: str | None) -> None:
    """End the open review, once everything is answered."""
    _show(session, session.api.post(_review(session, org_id, None, only_open=True) + "/close"))


@review.group()
def policy() -> None:
    """How often a review begins by itself."""


@policy.command("show")
@org_option
@client_command
def show_policy(session: Session, *, org_id: str | None) -> None:
    """Show how often."""
    session.show(session.api.get(_policy(session, org_id)), POLICY)


@policy.command("set")
@click.option(
    "--every-days",
    type=click.IntRange(7, 366),
    default=90,
    show_default=True,
    help="From one's beginning to the next's.",
)
@_days
@_report_only
@org_option
@client_command
def set_policy(session: Session, *, every_days: int, answer_days: int, report_only: bool, org_id: str | None) -> None:
    """Begin reviews by itself; the first one so many days from now, or from the last one."""
    body = {"every_days": every_days, "answer_days": answer_days, "unanswered_rights_lapse": not report_only}
    session.show(session.api.put(_policy(session, org_id), body), POLICY)


@policy.command("remove")
@org_option
@client_command
def remove_policy(session: Session, *, org_id: str | None) -> None:
    """Begin none by itself any more."""
    session.show(session.api.delete(_policy(session, org_id)), POLICY)


def _answer(session: Session, org_id: str | None, numbers: tuple[int, ...], body: Json) -> None:
    path = _review(session, org_id, None, only_open=True)
    answer: Json = {}
    for number in numbers:
        answer = session.api.post(f"{path}/items/{number}", body)
    _show(session, answer)


def _show(session: Session, answer: Json) -> None:
    if session.is_json:
        out.show_json(answer)
        return
    found = answer["access_review"]
    session.show_list([_told(item) for item in answer["items"]], ITEMS, empty="Nobody has any right here.")
    if found.get("closed_at") is not None:
        out.note(f"Closed. SHA-256 of the report: {found['sha256']}")
    else:
        lapse = "is taken back then" if found["unanswered_rights_lapse"] else "is reported then"
        out.note(
            f"{found['unanswered']} of {found['rights']} to be answered by {found['due_at']}; what is not {lapse}."
        )


def _told(item: Json) -> Json:
    facts = item["facts"]
    match item["kind"]:
        case "key":
            whose, right = f"made by {facts['made_by']}", f"key {facts['name']}"
        case "service":
            whose, right = f"owned by {facts['owner']}", f"{facts['role']}, service account {facts['name']}"
            if facts.get("grants"):
                right += "; " + ", ".join(f"{role} in {it}" for it, role in sorted(facts["grants"].items()))
            if facts.get("orphaned_since"):
                whose += ", who has left"
        case "shift":
            whose, right = facts["email"], f"on call until {facts['until']}"
        case _:
            whose, right = facts["email"], facts["role"]
    if facts.get("by_groups_of"):
        right += f" by groups of {facts['by_groups_of']}"
    if item.get("project_id"):
        right += f" in {item['project_id']}"
    return item | {"whose": whose, "right": right}


def _reviews(session: Session, org_id: str | None) -> str:
    return f"/cloister{org_path(session, org_id)}/access_reviews"


def _policy(session: Session, org_id: str | None) -> str:
    return f"/cloister{org_path(session, org_id)}/access_review_policy"


def _review(session: Session, org_id: str | None, review_id: str | None, *, only_open: bool) -> str:
    path = _reviews(session, org_id)
    if review_id is None:
        found = session.api.get(path).get("access_reviews") or []
        if not found or (only_open and found[0].get("closed_at") is not None):
            raise CommandError("no review is open: cloister access review start")
        review_id = found[0]["id"]
    return f"{path}/{segment(review_id)}"

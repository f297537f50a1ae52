"""`cloister branches consent`: another person's word to a copy of a protected branch, and whether an organization wants it."""

from pathlib import Path
from typing import Final

import click

from cloister.cli import output as out
from cloister.cli.api import Json, segment
from cloister.cli.failure import CommandError
from cloister.cli.masking import mask_options, rules_of, told
from cloister.cli.organizations import org_option, org_path
from cloister.cli.output import Column
from cloister.cli.session import Session, client_command, project_option, project_path

COLUMNS: Final = (
    Column("Consent", "id"),
    Column("To", "act"),
    Column("State", "state"),
    Column("Rules", "rules"),
    Column("Why", "reason", may_cut=True),
    Column("Asked by", "asked_by"),
    Column("Asked", "asked_at", out.ago),
    Column("Agreed by", "agreed_by"),
    Column("Agreed", "agreed_at", out.ago),
    Column("Used for", "used_for"),
    Column("Ended by", "ended_by"),
)
POLICY: Final = (
    Column("Consent required", "required"),
    Column("To be lifted, says", "lift_asked_by"),
    Column("Said", "lift_asked_at", out.ago),
)


@click.command()
@click.argument("branch", metavar="BRANCH")
@click.option(
    "--to", "act", type=click.Choice(["copy", "mask", "unprotect"]), help="Ask for a consent to this, with --reason."
)
@click.option("--reason", metavar="TEXT", help="Why: it is in the audit log for good.")
@mask_options
@click.option("--agree", "agree_id", metavar="ID", help="Agree to what somebody else asked for.")
@click.option("--end", "end_id", metavar="ID", help="Take back one that was not used.")
@project_option
@client_command
def consent(
    session: Session,
    *,
    branch: str,
    act: str | None,
    reason: str | None,
    masks: tuple[str, ...],
    mask_file: Path | None,
    agree_id: str | None,
    end_id: str | None,
    project_id: str | None,
) -> None:
    """Ask another person's consent to a copy of a protected branch, or to the end of its protection, or give yours.

    \b
    1. Ask:      cloister branches consent main --to copy --reason "INC-7: replay the import"
    2. Another:  cloister branches consent main --agree ID       (who may do the same themselves, within an hour; never you)
    3. Do it:    cloister branches create --parent main          (who asked, within the next hour, once)

    With --to mask and rules as `cloister branches create --mask` takes them, it is to every copy that is masked by these or by more, for
    90 days, whoever makes it. Needed where your organization says so (cloister branches consent-policy). Without options: what was asked
    for, newest first.
    """  # noqa: D301 - click leaves the lines after \b as they are
    rules = rules_of(masks, mask_file)
    if sum(it is not None for it in (act, agree_id, end_id)) > 1 or (act is None and (reason or rules)):
        raise CommandError("one of --to, --agree and --end; --reason and masking rules go with --to")
    if act is not None and reason is None:
        raise CommandError("--to takes --reason: it is in the audit log for good")
    project_id = session.project_id(project_id)
    branch_id = session.branch(project_id, branch)["id"]
    path = f"/cloister{project_path(project_id)}/branches/{segment(branch_id)}/consents"
    if agree_id is not None or end_id is not None:
        verb = f"{segment(agree_id)}/agree" if agree_id is not None else f"{segment(end_id or '')}/end"
        _show(session, session.api.post(f"{path}/{verb}")["consent"])
    elif act is not None:
        body: Json = {"act": act, "reason": reason} | ({"masking_rules": rules} if rules else {})
        asked: Json = session.api.post(path, body)["consent"]
        _show(session, asked)
        if not session.is_json:
            where = f"{branch_id} --project-id {project_id} --agree {asked['id']}"
            out.note(f"\nNothing is opened by it. Now somebody else says: cloister branches consent {where}")
    else:
        found = session.api.get(path).get("consents") or []
        rows = found if session.is_json else [_row(each) for each in found]
        session.show_list(rows, COLUMNS, empty="Nobody asked for a consent on this branch.")


def _show(session: Session, found: Json) -> None:
    session.show(found if session.is_json else _row(found), COLUMNS)


def _row(found: Json) -> Json:
    """With its rules in full: whoever agrees agrees on each."""
    rules = "; ".join(f"{it['column']}={it['holds']}" for it in told(found.get("masking_rules") or []))
    return {**found, "rules": rules}


@click.command("consent-policy")
@click.option("--require/--no-require", "required", default=None, help="Say so; without either, show what is so.")
@org_option
@client_command
def consent_policy(session: Session, *, required: bool | None, org_id: str | None) -> None:
    """Show or set whether an organization wants another person's consent to each copy of a protected branch.

    It is demanded at one admin's word. Not to demand it any more takes two: the first who says --no-require is written down, and
    another who says the same within a week lifts it. Whoever says --require meanwhile puts an end to that.
    """
    path = f"/cloister{org_path(session, org_id)}/consent_policy"
    answer = session.api.get(path) if required is None else session.api.put(path, {"required": required})
    session.show(answer, POLICY)
    if required is False and answer["required"] and not session.is_json:
        out.note("\nIt still holds. Now another admin says: cloister branches consent-policy --no-require")

"""`cloister branches consent`: another person's word to a copy of a protected branch, and whether an organization wants it."""

from typing import Final

import click

from cloister.cli import output as out
from cloister.cli.api import Json, segment
from cloister.cli.failure import CommandError
from cloister.cli.organizations import org_option, org_path
from cloister.cli.output import Column
from cloister.cli.session import Session, client_command, project_option, project_path

COLUMNS: Final = (
    Column("Consent", "id"),
    Column("To", "act"),
    Column("State", "state"),
    Column("Why", "reason", may_cut=True),
    Column("Asked by", "asked_by"),
    Column("Asked", "asked_at", out.ago),
    Column("Agreed by", "agreed_by"),
    Column("Agreed", "agreed_at", out.ago),
    Column("Used for", "used_for"),
)
POLICY: Final = (
    Column("Consent required", "required"),
    Column("To be lifted, says", "lift_asked_by"),
    Column("Said", "lift_asked_at", out.ago),
)


@click.command()
@click.argument("branch", metavar="BRANCH")
@click.option("--to", "act", type=click.Choice(["copy", "unprotect"]), help="Ask for a consent to this, with --reason.")
@click.option("--reason", metavar="TEXT", help="Why: it is in the audit log for good.")
@click.option("--agree", "agree_id", metavar="ID", help="Agree to what somebody else asked for.")
@project_option
@client_command
def consent(
    session: Session, *, branch: str, act: str | None, reason: str | None, agree_id: str | None, project_id: str | None
) -> None:
    """Ask another person's consent to a copy of a protected branch, or to the end of its protection, or give yours.

    \b
    1. Ask:      cloister branches consent main --to copy --reason "INC-7: replay the import"
    2. Another:  cloister branches consent main --agree ID       (who may do the same themselves, within an hour; never you)
    3. Do it:    cloister branches create --parent main          (who asked, within the next hour, once)

    Needed where your organization says so (cloister branches consent-policy). Without options: what was asked for, newest first.
    """  # noqa: D301 - click leaves the lines after \b as they are
    if agree_id is not None and (act is not None or reason is not None):
        raise CommandError("--agree takes neither --to nor --reason: the one who asked said why")
    if (act is None) is not (reason is None):
        raise CommandError("--to and --reason go together")
    project_id = session.project_id(project_id)
    branch_id = session.branch(project_id, branch)["id"]
    path = f"/cloister{project_path(project_id)}/branches/{segment(branch_id)}/consents"
    if agree_id is not None:
        session.show(session.api.post(f"{path}/{segment(agree_id)}/agree")["consent"], COLUMNS)
    elif act is not None:
        asked: Json = session.api.post(path, {"act": act, "reason": reason})["consent"]
        session.show(asked, COLUMNS)
        if not session.is_json:
            where = f"{branch_id} --project-id {project_id} --agree {asked['id']}"
            out.note(f"\nNothing is opened by it. Now somebody else says: cloister branches consent {where}")
    else:
        found = session.api.get(path).get("consents") or []
        session.show_list(found, COLUMNS, empty="Nobody asked for a consent on this branch.")


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

"""`cloister audit forget`: erasing one person in the audit log's own events."""

from typing import Final

import click

from cloister.cli import output as out
from cloister.cli.api import Json, segment
from cloister.cli.failure import CommandError
from cloister.cli.output import Column
from cloister.cli.session import PROJECT_VARIABLE, Session, client_command, project_path

ERASED: Final = "(erased)"
"""Where something was, and is not any more."""

COLUMNS: Final = (
    Column("Forgetting", "id"),
    Column("Whom", "whom"),
    Column("Where", "where"),
    Column("Why", "reason", may_cut=True),
    Column("Asked by", "asked_by"),
    Column("Asked", "asked_at"),
    Column("Agreed by", "agreed_by"),
    Column("Events", "events"),
    Column("Up to", "up_to"),
    Column("Stay", "remaining"),
)


@click.command()
@click.option("--project-id", "--project", envvar=PROJECT_VARIABLE, metavar="ID", help="In this project's events.")
@click.option("--platform", is_flag=True, help="In the whole log, instead of a project's events: an operator's.")
@click.option("--role", metavar="NAME", help="A database role of the project, by its name.")
@click.option("--ip", metavar="IP", help="An address.")
@click.option(
    "--account", metavar="EMAIL|ID", help="An account: itself, its keys, and where others did something to it."
)
@click.option("--reason", metavar="TEXT", help="Ask for it, and say why. This stays: do not name the person in it.")
@click.option("--agree", "agree_id", metavar="ID", help="Agree to what somebody else asked for. It cannot be undone.")
@client_command
def forget(
    session: Session,
    *,
    project_id: str | None,
    platform: bool,
    role: str | None,
    ip: str | None,
    account: str | None,
    reason: str | None,
    agree_id: str | None,
) -> None:
    """Erase one person in the events of the audit log, and keep the events and every proof.

    \b
    1. Look:     cloister audit subject --project P --role anna
    2. Ask:      cloister audit forget --project P --role anna --reason "Art. 17, ticket 4711"
    3. Another:  cloister audit forget --project P --agree ID       (an admin, within 7 days; never you)

    Gone are the names of roles, addresses, programs, e-mail addresses and written reasons in these events: those that were there when
    it was asked for. What was done, to what, when, and the ids of accounts stay, with every hash: `cloister audit verify` holds as
    before, and says if anybody erased more. With --platform two operators do the same in the whole log. Copies are not reached: what
    was exported, and backups of the control database. Without options: what was asked for.
    """  # noqa: D301 - click leaves the lines after \b as they are
    if platform:
        path, where = "/cloister/audit/forgettings", "--platform"
    else:
        project_id = session.project_id(project_id)
        path, where = f"/cloister{project_path(project_id)}/audit_forgettings", f"--project {project_id}"
    subjects = {kind: it for kind, it in (("role", role), ("address", ip), ("account", account)) if it is not None}
    if agree_id is not None:
        if subjects or reason is not None:
            raise CommandError("--agree takes neither whom nor --reason: the one who asked said so")
        agreed = session.api.post(f"{path}/{segment(agree_id)}/agree")["forgetting"]
        _show(session, agreed)
        if not session.is_json:
            out.note(_left(agreed))
    elif subjects or reason is not None:
        if len(subjects) != 1 or reason is None:
            raise CommandError("say one of --role, --ip and --account, and --reason")
        ((kind, subject),) = subjects.items()
        asked = session.api.post(path, {"kind": kind, "subject": subject, "reason": reason})["forgetting"]
        _show(session, asked)
        if not session.is_json:
            out.note(
                f"\nNothing is erased yet. Now somebody else says: cloister audit forget {where} --agree {asked['id']}"
            )
    else:
        found = session.api.get(path).get("forgettings") or []
        rows = found if session.is_json else [_row(each) for each in found]
        session.show_list(rows, COLUMNS, empty="Nobody asked for anybody to be forgotten.")


def erased_row(event: Json) -> Json:
    """An event as a table shows it: what was erased in it says so."""
    if not event.get("erasure"):
        return event
    actor = str(event.get("actor", ""))
    return {**event, "address": ERASED, "actor": f"{actor}{ERASED}" if actor.endswith(":") else actor}


def _left(agreed: Json) -> str:
    """What this did not reach, for who has just been told that it is done."""
    stay = agreed["remaining"]
    older = f"Events from before this could be erased, which stay: {stay}. " if stay else ""
    return f"\n{older}Not reached: what was exported, and backups of the control database from before (docs/audit.md)."


def _show(session: Session, found: Json) -> None:
    session.show(found if session.is_json else _row(found), COLUMNS)


def _row(found: Json) -> Json:
    return {
        **found,
        "whom": f"{found['kind']} {found.get('subject') or ERASED}",
        "where": found.get("project_id") or "the whole log",
    }

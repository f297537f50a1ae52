"""`cloister audit hold`: what keeps a project's record from every erasing."""

from typing import Final

import click

from cloister.cli import output as out
from cloister.cli.api import Json, segment
from cloister.cli.failure import CommandError
from cloister.cli.output import Column
from cloister.cli.session import PROJECT_VARIABLE, Session, client_command, project_path

HOLD_COLUMNS: Final = (
    Column("Hold", "id"),
    Column("State", "state"),
    Column("Why", "reason", may_cut=True),
    Column("Placed by", "placed_by"),
    Column("Placed", "placed_at"),
    Column("Why lifted", "lift_reason", may_cut=True),
    Column("Asked by", "lift_asked_by"),
    Column("Lifted by", "lifted_by"),
    Column("Lifted", "lifted_at"),
)


@click.command()
@click.option("--project-id", "--project", envvar=PROJECT_VARIABLE, metavar="ID", help="The project.")
@click.option("--reason", metavar="TEXT", help="Place a hold, and say why: it is in the audit log for good.")
@click.option("--lift", "lift_id", metavar="ID", help="With --reason: ask for the end of this hold.")
@click.option("--agree", "agree_id", metavar="ID", help="Agree to the end of a hold that somebody else asked for.")
@client_command
def hold(
    session: Session, *, project_id: str | None, reason: str | None, lift_id: str | None, agree_id: str | None
) -> None:
    """Keep what was recorded of a project from being erased: a legal hold.

    \b
    1. Place:    cloister audit hold --project P --reason "Matter 17"                 (an admin)
    2. Lift:     cloister audit hold --project P --lift ID --reason "Matter 17 is settled"
    3. Another:  cloister audit hold --project P --agree ID             (an admin, within 7 days; never you)

    While one stands, nobody erases its statements, destroys its keys, deletes it or gives it to another organization, whoever
    agrees. Work in the project goes on as before. Without options: the holds that stand, and those that were lifted.
    """  # noqa: D301 - click leaves the lines after \b as they are
    path = f"/cloister{project_path(session.project_id(project_id))}/audit_holds"
    if agree_id is not None and (reason is not None or lift_id is not None):
        raise CommandError("--agree takes neither --reason nor --lift: the one who asked said why")
    if lift_id is not None and reason is None:
        raise CommandError("--lift takes --reason: it is in the audit log for good")
    if agree_id is not None:
        _show(session, session.api.post(f"{path}/{segment(agree_id)}/agree")["hold"])
    elif lift_id is not None:
        asked = session.api.post(f"{path}/{segment(lift_id)}/lift", {"reason": reason})["hold"]
        _show(session, asked)
        if not session.is_json:
            where = f"--project {asked['project_id']} --agree {asked['id']}"
            out.note(f"\nIt stands. Now somebody else says: cloister audit hold {where}")
    elif reason is not None:
        _show(session, session.api.post(path, {"reason": reason})["hold"])
    else:
        found = session.api.get(path).get("holds") or []
        rows = found if session.is_json else [_row(each) for each in found]
        session.show_list(rows, HOLD_COLUMNS, empty="No hold was placed on this project.")


def _show(session: Session, found: Json) -> None:
    session.show(found if session.is_json else _row(found), HOLD_COLUMNS)


def _row(found: Json) -> Json:
    asked = "stands, to be lifted" if found.get("lift_asked_at") else "stands"
    return {**found, "state": "lifted" if found.get("lifted_at") else asked}

"""`cloister snapshots`: moments of a branch that are kept, whatever becomes of the branch."""

from typing import Any, Final

import click

from cloister.cli import output as out
from cloister.cli.advice import advised
from cloister.cli.api import Json, segment
from cloister.cli.branch_history import show_passwords
from cloister.cli.failure import CommandError
from cloister.cli.output import Column
from cloister.cli.points import Duration, Moment, Place, PointInTime
from cloister.cli.projects import given
from cloister.cli.session import Session, branch_option, client_command, project_option, project_path, wait_option

COLUMNS: Final = (
    Column("Id", "id"),
    Column("Name", "name", may_cut=True),
    Column("Branch", "source_branch_id"),
    Column("As of", "timestamp", out.ago),
    Column("LSN", "lsn"),
    Column("By hand", "manual"),
    Column("Expires", "expires_at", out.ahead),
)
BRANCH: Final = (Column("Id", "id"), Column("Name", "name"), Column("State", "current_state"))
SCHEDULE: Final = (
    Column("Frequency", "frequency"),
    Column("Hour (UTC)", "hour"),
    Column("Day", "day"),
    Column("Month", "month"),
    Column("Kept for", "retention_seconds", out.duration),
)

_FREQUENCIES: Final = ("hourly", "daily", "weekly", "monthly", "yearly")


@click.group()
def snapshots() -> None:
    """Take, schedule and restore snapshots.

    A snapshot keeps a branch as it is or was at a moment, beyond the branch's history and beyond the branch itself. It
    shares its bytes with the branch until the branch changes them.

    \b
    cloister snapshots create --name before-the-release
    cloister snapshots restore snap-calm-forest-ab12cd34                 look at it on a branch of its own
    cloister snapshots restore snap-calm-forest-ab12cd34 --finalize      and let that be the branch again
    cloister snapshots schedule set daily --hour 3 --retention 14d
    """  # noqa: D301 - click leaves the lines after \b as they are


@snapshots.command("list")
@project_option
@client_command
def list_(session: Session, *, project_id: str | None) -> None:
    """List the snapshots of a project, newest first."""
    path = f"{project_path(session.project_id(project_id))}/snapshots"
    rows = session.api.get(path).get("snapshots") or []
    session.show_list(rows, COLUMNS, empty="No snapshot yet. Take one: cloister snapshots create")


@snapshots.command()
@click.argument("snapshot", metavar="ID")
@project_option
@client_command
def get(session: Session, *, snapshot: str, project_id: str | None) -> None:
    """Show a snapshot."""
    session.show(_found(session, session.project_id(project_id), snapshot), COLUMNS)


@snapshots.command()
@click.option("--name", metavar="NAME", help="Default: its id.")
@click.option("--at", "point", type=PointInTime(), help="A timestamp or LSN in the branch's history. Default: now.")
@click.option("--expires-at", type=Moment(), help="Delete it then: a timestamp, or a time from now like 7d.")
@branch_option
@project_option
@wait_option
@client_command
def create(
    session: Session,
    *,
    name: str | None,
    point: Place | None,
    expires_at: str | None,
    branch: str | None,
    project_id: str | None,
    wait: bool,
) -> None:
    """Take a snapshot of a branch, as it is or was. The branch goes on working."""
    project_id = session.project_id(project_id)
    query = given(name=name, expires_at=expires_at) | (point.fields("") if point else {})
    with advised(branch):
        answer = session.api.post(f"{session.branch_path(project_id, branch)}/snapshot", **query)
    session.settle(answer, "Taking the snapshot", wait=wait)
    shown = _found(session, project_id, answer["snapshot"]["id"]) if wait else answer["snapshot"]
    session.show(shown, COLUMNS)


@snapshots.command()
@click.argument("snapshot", metavar="ID")
@click.option("--name", metavar="NAME", help="Its new name.")
@click.option("--expires-at", type=Moment(), help="A timestamp, or a time from now like 7d.")
@click.option("--never-expires", is_flag=True, help="Keep it until somebody deletes it.")
@project_option
@client_command
def update(
    session: Session,
    *,
    snapshot: str,
    name: str | None,
    expires_at: str | None,
    never_expires: bool,
    project_id: str | None,
) -> None:
    """Change a snapshot's name or expiry. What is not named stays as it is."""
    if never_expires and expires_at:
        raise click.UsageError("--expires-at and --never-expires exclude each other")
    change: dict[str, Any] = given(name=name, expires_at=expires_at)
    if never_expires:
        change["expires_at"] = None
    if not change:
        raise click.UsageError("nothing to change: give --name, --expires-at or --never-expires")
    answer = session.api.patch(_path(session.project_id(project_id), snapshot), {"snapshot": change})
    session.show(answer["snapshot"], COLUMNS)


@snapshots.command()
@click.argument("snapshot", metavar="ID")
@project_option
@wait_option
@client_command
def delete(session: Session, *, snapshot: str, project_id: str | None, wait: bool) -> None:
    """Delete a snapshot. Nothing brings it back; branches made of it stay."""
    answer = session.api.delete(_path(session.project_id(project_id), snapshot))
    session.settle(answer, "Deleting the snapshot", wait=wait)
    if session.is_json:
        out.show_json(answer)
    else:
        out.note(f"Deleted {snapshot}.")


@snapshots.command()
@click.argument("snapshot", metavar="ID")
@click.option("--name", metavar="NAME", help="Of the new branch. Default: one is made up.")
@click.option("--target-branch", metavar="BRANCH", help="The branch to replace. Default: the one it was taken of.")
@click.option("--finalize", is_flag=True, help="Replace that branch at once. What it was stays as a branch.")
@project_option
@wait_option
@client_command
def restore(
    session: Session,
    *,
    snapshot: str,
    name: str | None,
    target_branch: str | None,
    finalize: bool,
    project_id: str | None,
    wait: bool,
) -> None:
    """Make a branch of a snapshot, to look at it, or to take the place of the branch it was taken of.

    Without --finalize that happens only when you say so: cloister snapshots finalize BRANCH.
    """
    project_id = session.project_id(project_id)
    body = given(
        name=name,
        target_branch_id=session.branch_id(project_id, target_branch) if target_branch else None,
        finalize_restore=finalize or None,
    )
    with advised(target_branch):
        answer = session.api.post(f"{_path(project_id, snapshot)}/restore", body)
    session.settle(answer, "Restoring the snapshot", wait=wait)
    if wait:
        answer["branch"] = session.branch(project_id, answer["branch"]["id"])
    if session.is_json:
        out.show_json(answer)
        return
    session.show(answer["branch"], BRANCH)
    show_passwords(answer, "It was taken of a protected branch, so these passwords are new.")


@snapshots.command()
@click.argument("branch", metavar="BRANCH")
@click.option("--name", metavar="NAME", help="What the replaced branch is called from then on.")
@project_option
@wait_option
@client_command
def finalize(session: Session, *, branch: str, name: str | None, project_id: str | None, wait: bool) -> None:
    """Let a branch that was made of a snapshot take the place of the one it was made for: its name and its hosts."""
    project_id = session.project_id(project_id)
    branch_id = session.branch_id(project_id, branch)
    with advised(branch):
        answer = session.api.post(f"{session.branch_path(project_id, branch_id)}/finalize_restore", given(name=name))
    session.settle(answer, "Finalizing the restore", wait=wait)
    session.show(answer if session.is_json else session.branch(project_id, branch_id), BRANCH)


@snapshots.group()
def schedule() -> None:
    """Say when snapshots of a branch are taken by themselves."""


@schedule.command("get")
@branch_option
@project_option
@client_command
def get_schedule(session: Session, *, branch: str | None, project_id: str | None) -> None:
    """Show a branch's schedule."""
    path = f"{session.branch_path(session.project_id(project_id), branch)}/backup_schedule"
    session.show_list(session.api.get(path).get("schedule") or [], SCHEDULE, empty="No snapshot is scheduled.")


@schedule.command("set")
@click.argument("frequencies", type=click.Choice(_FREQUENCIES), nargs=-1, metavar=f"[{'|'.join(_FREQUENCIES)}]...")
@click.option("--hour", type=click.IntRange(0, 23), help="Of the day, in UTC.")
@click.option("--day", type=click.IntRange(1, 31), help="Of the week (1 is Monday), or of the month.")
@click.option("--month", type=click.IntRange(1, 12), help="Of the year.")
@click.option("--retention", type=Duration(), help="How long each is kept: 36h, 14d, 8w. Default: for ever.")
@click.option("--none", "none_", is_flag=True, help="Take none any more.")
@branch_option
@project_option
@client_command
def set_schedule(
    session: Session,
    *,
    frequencies: tuple[str, ...],
    hour: int | None,
    day: int | None,
    month: int | None,
    retention: int | None,
    none_: bool,
    branch: str | None,
    project_id: str | None,
) -> None:
    """Replace a branch's schedule.

    \b
    cloister snapshots schedule set daily --hour 3 --retention 14d
    cloister snapshots schedule set --none
    """  # noqa: D301 - click leaves the lines after \b as they are
    if none_ == bool(frequencies):
        raise click.UsageError("say how often (hourly, daily, weekly, monthly, yearly), or --none")
    items = [_item(frequency, hour, day, month, retention) for frequency in frequencies]
    path = f"{session.branch_path(session.project_id(project_id), branch)}/backup_schedule"
    session.api.put(path, {"schedule": items})
    session.show_list(items, SCHEDULE, empty="No snapshot is scheduled.")


def _item(frequency: str, hour: int | None, day: int | None, month: int | None, retention: int | None) -> Json:
    """Each frequency takes of the options what has a meaning for it."""
    return given(
        frequency=frequency,
        hour=None if frequency == "hourly" else hour,
        day=day if frequency in ("weekly", "monthly", "yearly") else None,
        month=month if frequency == "yearly" else None,
        retention_seconds=retention,
    )


def _path(project_id: str, snapshot: str) -> str:
    return f"{project_path(project_id)}/snapshots/{segment(snapshot)}"


def _found(session: Session, project_id: str, snapshot: str) -> Json:
    for row in session.api.get(f"{project_path(project_id)}/snapshots").get("snapshots") or []:
        if row["id"] == snapshot:
            found: Json = row
            return found
    raise CommandError(f"project {project_id} has no snapshot {out.printable(snapshot)!r}")

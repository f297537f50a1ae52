"""`cloister backups`: what of a project is in the store, and what comes back from there."""

import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

import click

from cloister.cli import output as out
from cloister.cli.advice import advised
from cloister.cli.api import Json
from cloister.cli.branch_history import show_passwords
from cloister.cli.failure import CommandError
from cloister.cli.output import Column
from cloister.cli.points import Place, PointInTime
from cloister.cli.progress import Progress
from cloister.cli.projects import given
from cloister.cli.session import Session, client_command, project_option, project_path, wait_option
from cloister.cli.waiting import wait_for

COLUMNS: Final = (
    Column("Branch", "name", may_cut=True),
    Column("Deleted", "deleted_at", out.ago),
    Column("Bases", "count"),
    Column("The last", "newest_at", out.ago),
    Column("Size", "size", out.size),
    Column("Sent until", "sent_until", out.ago),
    Column("Read back", "checked_at", out.ago),
    Column("Restore tried", "restore_tried_at", out.ago),
    Column("Locked until", "locked_until", out.ahead),
    Column("Problem", "problem", may_cut=True),
)
BASE_COLUMNS: Final = (
    Column("As of", "moment"),
    Column("From LSN", "stop_lsn"),
    Column("Size", "bytes", out.size),
    Column("Sent for it", "sent_bytes", out.size),
    Column("Chunks", "chunks"),
    Column("Locked until", "locked_until", out.ahead),
    Column("Read back", "checked_at", out.ago),
    Column("Damaged", "damaged"),
)
BRANCH: Final = (Column("Id", "id"), Column("Name", "name"), Column("State", "current_state"))

LOOK_EVERY_S: Final = 1.0
PATIENCE_S: Final = 6 * 3600.0
# What is asked for goes on when we stop waiting.
RESTORE_PATIENCE_S: Final = 24 * 3600.0

REASON: Final = click.option("--reason", required=True, metavar="TEXT", help="Why, for the audit log.")


@click.command("list")
@click.argument("branch", required=False)
@project_option
@client_command
def list_(session: Session, *, branch: str | None, project_id: str | None) -> None:
    """Show what of a project is in the store: of every branch, or all bases of one.

    `Sent until` is what a loss of this server would take you back to. Of a branch that is written to it is at most a minute ago; of one
    that sleeps, when it fell asleep. Branches that were deleted are listed while anything of them is locked in the store.
    """
    found = session.api.get(_path(session.project_id(project_id)))
    if branch is not None:
        rows = _named(found, branch).get("bases") or []
        session.show_list(rows, BASE_COLUMNS, empty="No base of this branch is in the store yet.")
        return
    if session.is_json:
        out.show_json(found)
        return
    session.show_list([_summary(it) for it in found["branches"]], COLUMNS, empty="No branch.")
    for remark in _remarks(found):
        out.note(remark)


@click.command("now")
@click.argument("branch", required=False)
@project_option
@wait_option
@client_command
def now(session: Session, *, branch: str | None, project_id: str | None, wait: bool) -> None:
    """Send a base of a branch now, or of all branches of a project.

    One is sent by itself every day of what is written to: this is for just before something large. What is in the store already is not
    sent again.
    """
    path = _path(session.project_id(project_id))
    asked = session.api.post(path, given(branch_id=_id_of(session, path, branch)))
    wanted = {it["branch_id"]: it["wanted_at"] for it in _live(asked, branch)}
    if wait:
        asked = _wait(session, path, "Sending", lambda it: _sent_since(it, wanted.get(it["branch_id"])))
    _show(session, asked, branch)


@click.command("check")
@click.argument("branch", required=False)
@click.option("--restore", "by_restoring", is_flag=True, help="Restore all of it, look at it, and throw it away.")
@project_option
@wait_option
@client_command
def check(session: Session, *, branch: str | None, by_restoring: bool, project_id: str | None, wait: bool) -> None:
    """Read some of the newest base back from the store, and open it. Fails if anything is damaged.

    That happens by itself once a day. It shows that what is there can be fetched and decrypted, with the keys that are here. That a
    database comes of it, --restore shows, and by itself once a week: the branch is restored beside itself, as far as was sent, amcheck looks at every table and index, and it
    is thrown away. It takes as long as a restore, and as much room in the project's volume meanwhile.
    """
    path = _path(session.project_id(project_id))
    asked = session.api.post(
        f"{path}/check", given(branch_id=_id_of(session, path, branch), restore=by_restoring or None)
    )
    if by_restoring:
        _show_restored(session, path, asked, branch, wait=wait)
        return
    wanted = {it["branch_id"]: it["check_wanted_at"] for it in _live(asked, branch) if it.get("check_wanted_at")}
    if wait:
        asked = _wait(session, path, "Reading back", lambda it: _seen_since(it, wanted.get(it["branch_id"])))
    _show(session, asked, branch)
    damaged = [it["name"] for it in _live(asked, branch) if (it.get("bases") or [{}])[0].get("damaged")]
    if damaged:
        raise CommandError(f"damaged in the store: {', '.join(damaged)}. Another base is sent; see docs/backups.md")


def _show_restored(session: Session, path: str, asked: Json, branch: str | None, *, wait: bool) -> None:
    wanted = {it["branch_id"]: it.get("restore_wanted_at") for it in _live(asked, branch)}
    if wait:
        asked = _wait(
            session,
            path,
            "Trying a restore",
            lambda it: _since(it.get("restore_tried_at"), wanted.get(it["branch_id"])),
        )
    _show(session, asked, branch)
    if not wait:
        return
    for outcome, words in _RESTORED_BADLY.items():
        if names := [it["name"] for it in _live(asked, branch) if it.get("restore_tried") == outcome]:
            raise CommandError(f"{', '.join(names)}: {words}")


_RESTORED_BADLY: Final = {
    "damaged": "amcheck finds damage in what comes out of the store. The finding `backup-damaged` says where; see docs/backups.md",
    "no room": "not tried, for there is no room in the project's volume or on the server's disk",
}


@click.command("restore")
@click.argument("branch", required=False)
@click.option("--at", "point", type=PointInTime(), help="A timestamp or LSN. Default: as far as was sent.")
@click.option("--as", "name", metavar="NAME", help="Of the new branch. Default: one is made up.")
@click.option("--whole", is_flag=True, help="Every branch of the project, each as itself: its volume is gone.")
@project_option
@wait_option
@client_command
def restore(
    session: Session,
    *,
    branch: str | None,
    point: Place | None,
    name: str | None,
    whole: bool,
    project_id: str | None,
    wait: bool,
) -> None:
    """Make a branch of what is in the store: of BRANCH, by name or id, also of one that was deleted for good. Default: the default branch.

    It is a copy, as any branch of that branch would be: of a protected one its roles have new passwords, which are shown once, and where
    your organization wants another person's consent, it takes one.

    --whole is for a project whose volume is gone: a disk that died, or a new server that has the control database and the keys. Every
    branch comes back under its own id, as far as was sent. It is refused while the volume is there.
    """
    project_id = session.project_id(project_id)
    path = _path(project_id)
    if whole:
        if branch or point or name:
            raise click.UsageError("--whole is all branches, as far as was sent: it goes with nothing else")
        answer = session.api.post(f"{path}/restore_project")
        if wait:
            with Progress("Restoring the project"):
                wait_for(session.api, answer["operations"], patience_s=RESTORE_PATIENCE_S)
        _show(session, session.api.get(path), None)
        return
    body = given(branch_id=_id_of(session, path, branch), name=name) | (point.fields("") if point else {})
    with advised(branch):
        answer = session.api.post(f"{path}/restore", body)
    if wait:
        with Progress("Restoring"):
            wait_for(session.api, answer["operations"], patience_s=RESTORE_PATIENCE_S)
        branch_path = f"{project_path(project_id)}/branches/{answer['branch']['id']}"
        answer = answer | {"branch": session.api.get(branch_path)["branch"]}
    if session.is_json:
        out.show_json(answer)
        return
    session.show(answer["branch"], BRANCH)
    show_passwords(answer, "The branch is a copy of a protected one, so its roles have new passwords.")


@click.command("off")
@REASON
@project_option
@client_command
def off(session: Session, *, reason: str, project_id: str | None) -> None:
    """Leave a project out: nothing more of it is sent. What is in the store stays there while it is locked, and can be restored."""
    _show(session, session.api.post(f"{_path(session.project_id(project_id))}/exclude", {"reason": reason}), None)


@click.command("on")
@project_option
@client_command
def on(session: Session, *, project_id: str | None) -> None:
    """Take a project in again that was left out."""
    _show(session, session.api.post(f"{_path(session.project_id(project_id))}/include"), None)


def _path(project_id: str) -> str:
    return f"/cloister{project_path(project_id)}/backups"


def _named(found: Json, branch: str) -> Json:
    """By id or name; of two with that name, the one that is there."""
    for it in found["branches"]:
        if branch in (it["branch_id"], it["name"]):
            named: Json = it
            return named
    raise CommandError(f"no branch {branch!r} has anything in the store: `cloister backups list`")


def _id_of(session: Session, path: str, branch: str | None) -> str | None:
    return None if branch is None else str(_named(session.api.get(path), branch)["branch_id"])


def _live(found: Json, branch: str | None) -> list[Json]:
    return [
        it
        for it in found["branches"]
        if not it.get("deleted_at") and (branch is None or branch in (it["branch_id"], it["name"]))
    ]


def _summary(it: Json) -> Json:
    bases = it.get("bases") or []
    newest = bases[0] if bases else {}
    return {
        **it,
        "count": len(bases),
        "newest_at": newest.get("sent_at"),
        "size": newest.get("bytes"),
        "checked_at": newest.get("checked_at"),
        "locked_until": newest.get("locked_until"),
        "problem": it.get("problem") or _PROBLEMS.get(it.get("restore_tried", ""), ""),
    }


_PROBLEMS: Final = {"damaged": "a restore of it is damaged", "no room": "no room to try a restore in"}


def _remarks(found: Json) -> list[str]:
    remarks = []
    if found.get("has_store") is False:
        remarks.append("There is no store: nothing is sent. The operator sets one: cloister backups store set")
    if problem := found.get("store_problem"):
        remarks.append(f"The store: {problem}")
    if reason := found.get("excluded_because"):
        remarks.append(
            f"This project is left out since {found['excluded_at']}: {reason}. cloister backups on takes it in."
        )
    return remarks


def _show(session: Session, found: Json, branch: str | None) -> None:
    if session.is_json:
        out.show_json(found)
        return
    session.show_list([_summary(it) for it in _live(found, branch)], COLUMNS, empty="No branch.")
    for remark in _remarks(found):
        out.note(remark)


def _sent_since(it: Json, wanted: str | None) -> bool:
    bases = it.get("bases") or []
    return wanted is None or (bool(bases) and _moment(bases[0]["sent_at"]) >= _moment(wanted))


def _seen_since(it: Json, wanted: str | None) -> bool:
    bases = it.get("bases") or []
    return _since(bases[0].get("checked_at") if bases else None, wanted)


def _since(done: str | None, wanted: str | None) -> bool:
    return wanted is None or (done is not None and _moment(done) >= _moment(wanted))


def _wait(session: Session, path: str, doing: str, is_done: Callable[[Json], bool]) -> Json:
    """Until it is so of every branch that is there. Raises CommandError with what stands in the way, after it was tried a few times."""
    deadline = time.monotonic() + PATIENCE_S
    with Progress(doing):
        while True:
            found: Json = session.api.get(path)
            left = [it for it in _live(found, None) if not is_done(it)]
            if not left:
                return found
            for it in left:
                if it.get("failing_since") and (problem := it.get("problem")):
                    raise CommandError(f"{it['name']}: {problem}. It is tried again by itself")
            if time.monotonic() > deadline:
                raise CommandError(f"{left[0]['name']} is not done after {PATIENCE_S:.0f} s; it goes on")
            time.sleep(LOOK_EVERY_S)


def _moment(text: Any) -> datetime:
    return datetime.fromisoformat(str(text))

"""`cloister access`: into a project's data for a while, with somebody's approval and under record; and what was recorded."""

import time
from collections.abc import Sequence
from typing import Final

import click

from cloister.cli import output as out
from cloister.cli.access_reviews import review
from cloister.cli.api import Json, segment
from cloister.cli.connecting import run_psql
from cloister.cli.failure import CommandError
from cloister.cli.organizations import org_option, org_path
from cloister.cli.output import Column
from cloister.cli.points import Duration, Moment
from cloister.cli.session import Session, client_command, project_option, project_path

WATCH_EVERY_S: Final = 1.0

REQUESTS: Final = (
    Column("Id", "id"),
    Column("State", "state"),
    Column("Who", "requested_by", may_cut=True),
    Column("Until", "ends_at"),
    Column("Writes", "write"),
    Column("Approved by", "approved_by", may_cut=True),
    Column("Why", "reason", may_cut=True),
)
REQUEST: Final = (
    Column("Id", "id"),
    Column("State", "state"),
    Column("Who", "requested_by"),
    Column("Why", "reason"),
    Column("Branch", "branch_id"),
    Column("For", "duration_seconds", out.duration),
    Column("Writes", "write"),
    Column("Breaks the glass", "break_glass"),
    Column("Requested", "requested_at", out.ago),
    Column("Approved by", "approved_by"),
    Column("Approvals needed", "approvals_needed"),
    Column("Until", "ends_at"),
    Column("Over since", "closed_at", out.ago),
)
RECORDINGS: Final = (
    Column("Id", "id"),
    Column("Who", "recorded", may_cut=True),
    Column("Began", "began_at", out.ago),
    Column("Ended", "ended_at", out.ago),
    Column("Because", "reason"),
    Column("Database", "database", may_cut=True),
    Column("From", "address"),
    Column("Statements", "statements"),
)
SHIFTS: Final = (
    Column("Id", "id"),
    Column("Who", "email"),
    Column("From", "starts_at"),
    Column("Until", "ends_at"),
)


@click.group()
def access() -> None:
    """Get at a project's data for a while: approved by somebody else, recorded, and over on time.

    \b
    1. You ask:          cloister access request --reason "INC-7: wrong totals" --for 1h
    2. Somebody agrees:  cloister access approve ID      (a manager, or who is on call; never you)
    3. You connect:      cloister access psql ID
    4. Anybody allowed:  cloister access recordings ID, then cloister access replay RECORDING
    """  # noqa: D301 - click leaves the lines after \b as they are


@access.command()
@click.option("--reason", required=True, metavar="TEXT", help="What for. Approvers and the audit log read it.")
@click.option(
    "--for", "duration", type=Duration(), default="1h", show_default=True, help="From the approval on; at most 8h."
)
@click.option("--write", is_flag=True, help="Also change data. Without it you can only read.")
@click.option(
    "--break-glass",
    is_flag=True,
    help="No manager can be reached: two people who may ask themselves let you in. Raises an alert.",
)
@click.option("--branch", metavar="BRANCH", help="Id or name of the branch. Default: the default branch.")
@project_option
@client_command
def request(
    session: Session,
    *,
    reason: str,
    duration: int,
    write: bool,
    break_glass: bool,
    branch: str | None,
    project_id: str | None,
) -> None:
    """Ask for access. The request waits an hour for an answer."""
    project_id = session.project_id(project_id)
    wanted: Json = {
        "reason": reason,
        "duration_seconds": duration,
        "branch_id": session.branch_id(project_id, branch),
        "write": write,
        "break_glass": break_glass,
    }
    made = session.api.post(f"/cloister{project_path(project_id)}/access_requests", {"access_request": wanted})
    _show(session, made)
    if not session.is_json:
        out.note(f"\nNow somebody else says: cloister access approve {made['access_request']['id']}")


@access.command("list")
@project_option
@client_command
def list_(session: Session, *, project_id: str | None) -> None:
    """List requests, the newest first."""
    found = session.api.get(_requests(session, project_id)).get("access_requests") or []
    session.show_list(found, REQUESTS, empty="No request.")


@access.command()
@click.argument("access_id", metavar="ID")
@project_option
@client_command
def show(session: Session, *, access_id: str, project_id: str | None) -> None:
    """Show one request."""
    _show(session, session.api.get(_request(session, project_id, access_id)))


@access.command()
@click.argument("access_id", metavar="ID")
@project_option
@client_command
def approve(session: Session, *, access_id: str, project_id: str | None) -> None:
    """Agree to somebody else's request. Its time begins now."""
    _show(session, session.api.post(f"{_request(session, project_id, access_id)}/approve"))


@access.command()
@click.argument("access_id", metavar="ID")
@click.option("--reason", default="", metavar="TEXT", help="Why not.")
@project_option
@client_command
def deny(session: Session, *, access_id: str, reason: str, project_id: str | None) -> None:
    """Refuse somebody else's request."""
    _show(session, session.api.post(f"{_request(session, project_id, access_id)}/deny", {"reason": reason}))


@access.command()
@click.argument("access_id", metavar="ID")
@project_option
@client_command
def terminate(session: Session, *, access_id: str, project_id: str | None) -> None:
    """End an access now, its open sessions with it: yours, or one that you could have approved."""
    _show(session, session.api.post(f"{_request(session, project_id, access_id)}/terminate"))


@access.command(context_settings={"ignore_unknown_options": True})
@click.argument("access_id", metavar="ID")
@click.argument("psql_args", nargs=-1, type=click.UNPROCESSED, metavar="[-- PSQL_ARGUMENTS...]")
@click.option("--database-name", metavar="NAME", help="Default: the branch's only database.")
@project_option
@client_command
def psql(
    session: Session, *, access_id: str, psql_args: Sequence[str], database_name: str | None, project_id: str | None
) -> None:
    """Connect with psql, under record. The password is made for this run and never shown."""
    made = session.api.post(f"{_request(session, project_id, access_id)}/credentials")
    uri = _uri_of(made, database_name)
    out.note("This session is recorded.")
    run_psql(uri, session.api.target, psql_args)


@access.command()
@click.argument("access_id", metavar="ID")
@project_option
@client_command
def connect(session: Session, *, access_id: str, project_id: str | None) -> None:
    """Make a password for another client than psql, shown once. The one before opens nothing more."""
    made = session.api.post(f"{_request(session, project_id, access_id)}/credentials")
    if session.is_json:
        out.show_json(made)
        return
    for each in made["connection_uris"]:
        click.echo(each["connection_uri"])
    out.note(f"\nShown once. Sessions are recorded, and end at {made['ends_at']}.")


@access.command()
@click.argument("access_id", metavar="[ID]", required=False)
@project_option
@client_command
def recordings(session: Session, *, access_id: str | None, project_id: str | None) -> None:
    """List recorded sessions, of one access or of the project."""
    project = f"/cloister{project_path(session.project_id(project_id))}"
    path = (
        f"{project}/recordings" if access_id is None else f"{project}/access_requests/{segment(access_id)}/recordings"
    )
    session.show_list(session.api.get(path).get("recordings") or [], RECORDINGS, empty="No recording.")


@access.command()
@click.argument("recording_id", metavar="RECORDING")
@click.option(
    "--verify", is_flag=True, help="Say only whether it is whole, and which event of the audit log has its end."
)
@project_option
@client_command
def replay(session: Session, *, recording_id: str, verify: bool, project_id: str | None) -> None:
    """Show what was done in a recorded session, statement by statement. That you looked is recorded.

    Before anything is shown, every chunk was opened and the chain of hashes followed to its end, which is the one that
    the audit log has. A recording in which anything was changed or cut off is refused, with the place.
    """
    answer = session.api.get(_recording(session, project_id, recording_id))
    recording, statements = answer["recording"], answer["statements"]
    if session.is_json:
        out.show_json({"recording": recording, "audit_seq": answer.get("audit_seq")} if verify else answer)
        return
    if verify:
        state = "ended" if recording.get("ended_at") else "still going on"
        click.echo(f"Whole: {recording['statements']} statements in {recording['chunks']} chunks, {state}.")
        click.echo(f"Hash:  {recording['head']}")
        if (seq := answer.get("audit_seq")) is not None:
            click.echo(f"Audit: event {seq} has the same hash and the same numbers.")
        else:
            click.echo("Audit: nothing yet. The log is told the hash when the session ends.")
        return
    click.echo(f"{out.printable(recording['recorded'])} from {recording['address']}, began {recording['began_at']}")
    for statement in statements:
        _tell(statement)
    if recording.get("ended_at"):
        click.echo(f"ended {recording['ended_at']}: {out.printable(recording['reason'])}")


@access.command()
@click.argument("recording_id", metavar="RECORDING")
@project_option
@client_command
def watch(session: Session, *, recording_id: str, project_id: str | None) -> None:
    """Follow a session while it goes on. Each look is recorded. `cloister access terminate` ends it."""
    path = _recording(session, project_id, recording_id)
    seen: set[tuple[int, str, int]] = set()  # a statement is told when it is asked, and again when it has ended
    while True:
        answer = session.api.get(path)
        for statement in answer["statements"]:
            if (key := (statement["number"], statement["outcome"], statement["at_ms"])) not in seen:
                seen.add(key)
                _tell(statement)
        if answer["recording"].get("ended_at"):
            click.echo(f"ended: {out.printable(answer['recording']['reason'])}")
            return
        time.sleep(WATCH_EVERY_S)


@access.group("on-call")
def on_call() -> None:
    """Who may decide beside the managers, and when."""


@on_call.command("list")
@org_option
@client_command
def list_shifts(session: Session, *, org_id: str | None) -> None:
    """List the shifts that are not over."""
    found = session.api.get(f"/cloister{org_path(session, org_id)}/on_call").get("shifts") or []
    session.show_list(found, SHIFTS, empty="Nobody is on call: managers decide.")


@on_call.command()
@click.argument("email", metavar="EMAIL")
@click.option("--from", "starts_at", type=Moment(), default="0m", help="A timestamp, or a time from now. Default: now.")
@click.option(
    "--until", "ends_at", type=Moment(), required=True, help="A timestamp, or a time from now like 12h or 7d."
)
@org_option
@client_command
def add(session: Session, *, email: str, starts_at: str, ends_at: str, org_id: str | None) -> None:
    """Put somebody of the organization on call."""
    body = {"email": email, "starts_at": starts_at, "ends_at": ends_at}
    session.show(session.api.post(f"/cloister{org_path(session, org_id)}/on_call", body), SHIFTS)


@on_call.command()
@click.argument("shift_id", metavar="ID")
@org_option
@client_command
def remove(session: Session, *, shift_id: str, org_id: str | None) -> None:
    """Take a shift back, from the next call on."""
    session.show(session.api.delete(f"/cloister{org_path(session, org_id)}/on_call/{segment(shift_id)}"), SHIFTS)


access.add_command(review)


_NOT_KNOWN: Final = {
    "asked": "under way",
    "unknown": "outcome unknown: the session ended first",
}


def _tell(statement: Json) -> None:
    """One statement, in the order a reader asks: when, what, how it went."""
    what = statement["text"] or f"({statement['kind']} {statement['name']})"
    for number, line in enumerate(what.splitlines() or [what]):
        click.echo(f"{_clock(statement['at_ms']) if number == 0 else '':>10}  {out.printable(line)}")
    if statement["outcome"] in _NOT_KNOWN:
        click.echo(f"{'':>10}  -> {_NOT_KNOWN[statement['outcome']]}")
        return
    if statement["outcome"] == "failed":
        how = f"ERROR {statement['sqlstate']} {statement['error']}".rstrip()
    else:
        how = ", ".join(filter(None, statement["tags"])) or statement["outcome"]
    moved = f", {statement['rows_sent']} rows sent" if statement["rows_sent"] else ""
    click.echo(f"{'':>10}  -> {out.printable(how)}{moved} in {statement['took_ms']} ms")


def _clock(ms: int) -> str:
    return f"{ms // 60_000}:{ms % 60_000 // 1000:02}.{ms % 1000:03}"


def _uri_of(made: Json, database: str | None) -> str:
    found = {each["connection_parameters"]["database"]: each["connection_uri"] for each in made["connection_uris"]}
    if database is not None and database in found:
        return str(found[database])
    if database is None and len(found) == 1:
        return str(next(iter(found.values())))
    names = ", ".join(out.printable(name) for name in found)
    raise CommandError(f"name one of the branch's databases with --database-name: {names}")


def _show(session: Session, answer: Json) -> None:
    session.show(answer if session.is_json else answer["access_request"], REQUEST)


def _requests(session: Session, project_id: str | None) -> str:
    return f"/cloister{project_path(session.project_id(project_id))}/access_requests"


def _request(session: Session, project_id: str | None, access_id: str) -> str:
    return f"{_requests(session, project_id)}/{segment(access_id)}"


def _recording(session: Session, project_id: str | None, recording_id: str) -> str:
    return f"/cloister{project_path(session.project_id(project_id))}/recordings/{segment(recording_id)}"

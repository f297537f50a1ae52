"""The verbs of `cloister alerts` that ask the API. Where alerts go is a file of the server's: `channels.py`."""

import statistics
import time
from datetime import datetime
from typing import Final

import click

from cloister.cli import output as out
from cloister.cli.alerts.channels import channels
from cloister.cli.api import Json, segment
from cloister.cli.failure import CommandError
from cloister.cli.output import Column
from cloister.cli.progress import Progress
from cloister.cli.session import Session, client_command, wait_option

PATH: Final = "/cloister/findings"

SELFTEST_PATIENCE_S: Final = 60.0
# Five seconds is the promise; a machine that is very busy shall be told by how much it is missed.

SELFTEST_POLL_S: Final = 0.5

COLUMNS: Final = (
    Column("Finding", "id"),
    Column("Level", "level"),
    Column("What", "summary", may_cut=True),
    Column("Alarms", "alarms"),
    Column("State", "state"),
    Column("Raised", "raised_at", out.ago),
    Column("Due", "due_at", out.ahead),
    Column("With", "assignee", may_cut=True),
)
METRICS: Final = (
    Column("Level", "level"),
    Column("Raised", "raised"),
    Column("Detected, p50", "detect.p50_s", out.seconds),
    Column("p95", "detect.p95_s", out.seconds),
    Column("Acknowledged, p50", "acknowledge.p50_s", out.duration),
    Column("p95", "acknowledge.p95_s", out.duration),
    Column("within", "acknowledge_within_s", out.duration),
    Column("Resolved, p50", "resolve.p50_s", out.duration),
    Column("p95", "resolve.p95_s", out.duration),
    Column("within", "resolve_within_s", out.duration),
    Column("Not resolved", "unresolved"),
    Column("Overdue", "overdue"),
)
_LEVELS: Final = ("critical", "high", "medium", "low")


@click.group()
def alerts() -> None:
    """Look at what the sentinel found, and act."""


alerts.add_command(channels)


@alerts.command("list")
@click.option("--state", type=click.Choice(["open", "acknowledged", "resolved"]), help="Default: what is not resolved.")
@click.option("--mine", is_flag=True, help="Only those assigned to you.")
@click.option("--overdue", is_flag=True, help="Only those that wait for longer than they may (docs/alerts.md).")
@click.option("--limit", type=click.IntRange(1, 500), default=100, show_default=True, help="How many.")
@client_command
def list_(session: Session, *, state: str | None, mine: bool, overdue: bool, limit: int) -> None:
    """List findings, the gravest first."""
    wanted = {name: "true" for name, is_wanted in (("mine", mine), ("overdue", overdue)) if is_wanted}
    found = session.api.get(PATH, state=state, limit=limit, **wanted).get("findings") or []
    found.sort(key=lambda it: _LEVELS.index(it["level"]))
    session.show_list(found, COLUMNS, empty="Nothing was found.")


@alerts.command()
@click.argument("finding_id", metavar="FINDING")
@client_command
def show(session: Session, *, finding_id: str) -> None:
    """Show a finding: what was seen, what to do, who works on it, and what happened around it.

    Around it: what its role, address and account did within an hour of the newest alarm, and what was done about the finding. For
    more of them: `cloister audit subject`.
    """
    found = session.api.get(_path(finding_id))["finding"]
    timeline = session.api.get(_path(finding_id, "timeline"))["events"]
    if session.is_json:
        out.show_json(found | {"timeline": timeline})
        return
    _say(f"{found['title']}  [{found['level']}, {found['state']}]\n\n{found['summary']}\n")
    _say(f"What to do   {found['response']}\n")
    for name, value in found["subject"].items():
        _say(f"{name:12} {value}")
    _say(f"alarms       {found['alarms']}, events {found['first_seq']} to {found['last_seq']} of the audit log")
    if found["assignee"]:
        _say(f"with         {found['assignee']}")
    if found["due_at"]:
        awaited = "acknowledged" if found["state"] == "open" else "resolved"
        _say(f"due          to be {awaited}: {out.ahead(found['due_at'])}")
    for each in found.get("alerts") or []:
        how = (
            f"{each['after_s']:.1f} s after it was raised" if each["delivered_at"]
            else f"given up: {each['error']}" if each["given_up_at"]
            else f"not yet, {each['attempts']} attempts: {each['error'] or 'in a moment'}"
        )  # fmt: skip
        _say(f"told         {each['channel']} ({each['kind']}): {how}")
    for each in found["notes"]:
        _say(f"note         {_second(each['noted_at'])} {each['noted_by']}: {each['text']}")
    if timeline:
        _say("\nAround it")
    for each in timeline:
        event = each["event"]
        how = "" if event.get("outcome", "ok") == "ok" else f" ({event['outcome']})"
        where = f" from {event['address']}" if event.get("address") else ""
        why = f": {event['reason']}" if event.get("reason") else ""
        _say(f"{each['seq']:>8}  {_second(event['at'])}  {event['action']}{how} by {event['actor']}{where}{why}")


@alerts.command()
@click.argument("finding_id", metavar="FINDING")
@click.argument("email", required=False)
@click.option("--nobody", is_flag=True, help="Take it from whoever has it.")
@client_command
def assign(session: Session, *, finding_id: str, email: str | None, nobody: bool) -> None:
    """Say which operator works on it."""
    if (email is None) is not nobody:
        raise CommandError("name an EMAIL, or say --nobody")
    session.show(session.api.post(_path(finding_id, "assign"), {"email": email or ""})["finding"], COLUMNS)


@alerts.command()
@click.argument("finding_id", metavar="FINDING")
@click.argument("text")
@client_command
def note(session: Session, *, finding_id: str, text: str) -> None:
    """Write something down about it. Notes stay, also when it is resolved."""
    session.show(session.api.post(_path(finding_id, "notes"), {"text": text})["finding"], COLUMNS)


@alerts.command()
@click.option("--days", type=click.IntRange(1, 400), default=30, show_default=True, help="Findings raised within.")
@client_command
def metrics(session: Session, *, days: int) -> None:
    """How long findings waited, by level: to be detected, acknowledged, resolved; and how many wait too long now."""
    answer = session.api.get(f"{PATH}/metrics", days=days)
    if session.is_json:
        out.show_json(answer)
        return
    session.show_list(answer["levels"], METRICS, empty="")


@alerts.command()
@click.argument("finding_id", metavar="FINDING")
@click.option("--note", default="", help="Why, for whoever reads it next.")
@client_command
def ack(session: Session, *, finding_id: str, note: str) -> None:
    """Say that you are looking at it: it is not told again."""
    session.show(session.api.post(_path(finding_id, "acknowledge"), {"note": note})["finding"], COLUMNS)


@alerts.command()
@click.argument("finding_id", metavar="FINDING")
@click.option("--note", default="", help="What it was, for whoever reads it next.")
@client_command
def resolve(session: Session, *, finding_id: str, note: str) -> None:
    """Close a finding. The same again is a new one. What is held stays held: `release` it."""
    session.show(session.api.post(_path(finding_id, "resolve"), {"note": note})["finding"], COLUMNS)


@alerts.command()
@click.argument("finding_id", metavar="FINDING")
@click.option(
    "--action",
    required=True,
    type=click.Choice(["end-sessions", "lock-role", "rotate-credentials", "quarantine", "freeze-project"]),
    help="What to do to whom the finding is about.",
)
@wait_option
@client_command
def respond(session: Session, *, finding_id: str, action: str, wait: bool) -> None:
    """Act on a finding.

    end-sessions: its sessions end; whoever may log in can come again. lock-role: nobody is let in as the role any more.
    rotate-credentials: the password is worth nothing; the tenant sets a new one, which you do not see. quarantine: nobody is
    let in to the endpoint, its compute stops and stays down, and a branch keeps its data for examination.
    freeze-project: so for every endpoint of the project. No tenant can undo a hold; `release` does.
    """
    answer = session.api.post(_path(finding_id, "respond"), {"action": action})
    session.settle(answer, f"{action}, because of {finding_id}", wait=wait)
    _tell(session, answer)


@alerts.command()
@click.argument("finding_id", metavar="FINDING")
@client_command
def release(session: Session, *, finding_id: str) -> None:
    """Undo what is held because of a finding."""
    _tell(session, session.api.post(_path(finding_id, "release"), {}))


@alerts.command()
@client_command
def heartbeat(session: Session) -> int:
    """Whether the sentinel is awake. Exit code 1 if it has been silent, or is behind."""
    pulse = session.api.get("/cloister/sentinel")
    age = None if pulse["beat_at"] is None else time.time() - datetime.fromisoformat(pulse["beat_at"]).timestamp()
    is_well = age is not None and age < 30 and pulse["events_behind"] < 5_000
    if session.is_json:
        out.show_json(pulse | {"is_well": is_well})
    else:
        said = "never" if age is None else f"{age:.0f} s ago"
        click.echo(
            f"last beat {said}, {pulse['events_behind']} events behind, {pulse['alerts_waiting']} alerts waiting, "
            f"{pulse['findings_open']} findings open"
        )
    if not is_well:
        raise CommandError("the sentinel does not keep up: see logs/sentinel.log, and `cloister doctor`")
    return 0


@alerts.command()
@client_command
def selftest(session: Session) -> int:
    """Raise every finding, by the way that real ones take, and say how long each took.

    The stories go into the audit log as probes, which say that they did not happen; the sentinel looks at them apart, and
    the findings, and the alerts that your channels get, say that they are tests.
    """
    began = time.time()
    with Progress("Raising every finding") as _:
        started = session.api.post("/cloister/sentinel/test", {})
        missing = set(started["rules"])
        found: list[Json] = []
        while missing and time.time() - began < SELFTEST_PATIENCE_S:
            time.sleep(SELFTEST_POLL_S)
            found = session.api.get(PATH, run=started["run"], limit=500).get("findings") or []
            missing = set(started["rules"]) - {each["rule"] for each in found}
    after = sorted(datetime.fromisoformat(each["raised_at"]).timestamp() - began for each in found)
    report = {
        "run": started["run"],
        "raised": len(set(started["rules"]) - missing),
        "missing": sorted(missing),
        "p50_s": round(statistics.median(after), 3) if after else None,
        "p95_s": round(after[max(0, -(-len(after) * 95 // 100) - 1)], 3) if after else None,
        "max_s": round(after[-1], 3) if after else None,
    }
    if session.is_json:
        out.show_json(report)
    elif not missing:
        click.echo(
            f"{report['raised']} findings raised, from the call to the finding: p50 {report['p50_s']} s, "
            f"p95 {report['p95_s']} s, the last {report['max_s']} s"
        )
    if missing:
        raise CommandError(f"not raised within {SELFTEST_PATIENCE_S:.0f} s: {', '.join(sorted(missing))}")
    return 0


def _say(text: str) -> None:
    """Whoever is found chose some of it."""
    for line in text.split("\n"):
        click.echo(out.printable(line))


def _second(at: str) -> str:
    return at[:19].replace("T", " ")


def _tell(session: Session, answer: Json) -> None:
    if session.is_json:
        out.show_json(answer)
    else:
        for each in answer["done"]:
            _say(each)


def _path(finding_id: str, verb: str = "") -> str:
    return f"{PATH}/{segment(finding_id)}" + (f"/{verb}" if verb else "")

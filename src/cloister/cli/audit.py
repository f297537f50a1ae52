"""`cloister audit`: what happened, and whether the record of it is whole."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import click

from cloister.base.settings import Settings, load
from cloister.cli import output as out
from cloister.cli.api import Json
from cloister.cli.failure import CommandError
from cloister.cli.output import Column
from cloister.cli.progress import Progress
from cloister.cli.session import PROJECT_VARIABLE, Session, client_command

if TYPE_CHECKING:
    from cloister.trust.audit.verify import Broken, Head, Intact

EVENTS_PATH: Final = "/cloister/audit/events"
VERIFY_PATH: Final = "/cloister/audit/verify"
PAGE_ROWS: Final = 500
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}

COLUMNS: Final = (
    Column("Event", "seq"),
    Column("When", "at"),
    Column("Who", "actor", may_cut=True),
    Column("Did", "action"),
    Column("Outcome", "outcome"),
    Column("To", "to", may_cut=True),
    Column("From", "address"),
    Column("Why", "reason", may_cut=True),
)


class Since(click.ParamType[str]):
    """`30m`, `24h`, `7d`, or a time like 2026-01-31T12:00:00Z; becomes RFC 3339."""

    name = "AGE|TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        try:
            if text[-1:] in _UNITS and text[:-1].isdigit():
                moment = datetime.now(UTC) - timedelta(seconds=int(text[:-1]) * _UNITS[text[-1]])
            else:
                moment = datetime.fromisoformat(text)
                moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is neither an age like 24h nor a time like 2026-01-31T12:00:00Z", param, ctx)


class HeadType(click.ParamType["Head"]):
    """A head of the log noted earlier, as `cloister audit verify` printed it."""

    name = "SEQ:HASH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> "Head":
        from cloister.trust.audit.verify import Head  # noqa: PLC0415 - heavy

        if isinstance(value, Head):
            return value
        try:
            return Head.parse(str(value))
        except ValueError:
            self.fail(f"{value!r} is not SEQ:HASH as `cloister audit verify` prints it", param, ctx)


@click.group()
def audit() -> None:
    """Read the audit log, and verify it."""


@audit.command("list")
@click.option("--project-id", "--project", envvar=PROJECT_VARIABLE, metavar="ID", help="Only about this project.")
@click.option("--action", metavar="ACTION", help="Only this action; a group of them if it ends with a dot: connection.")
@click.option("--since", type=Since(), help="Only since then: 30m, 24h, 7d, or a time.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="How many, newest first.")
@click.option("--before", type=int, metavar="SEQ", help="Only events before this one.")
@client_command
def list_(
    session: Session, *, project_id: str | None, action: str | None, since: str | None, limit: int, before: int | None
) -> None:
    """List events, newest first. Reading the log is an event, too."""
    rows: list[Json] = []
    while len(rows) < limit:
        asked = min(limit - len(rows), PAGE_ROWS)
        answer = session.api.get(EVENTS_PATH, project_id=project_id, action=action, cursor=before, limit=asked)
        found = [_flat(each) for each in answer.get("events") or []]
        # Times are RFC 3339 in UTC with microseconds: their order is that of their text.
        recent = [event for event in found if since is None or str(event.get("at", "")) >= since]
        rows += recent
        if len(found) < asked or (found and not recent):
            break
        before = int(found[-1]["seq"])
    if not session.is_json:
        rows = [{"outcome": "ok", **row, "to": _target(row)} for row in rows]
    session.show_list(rows, COLUMNS, empty="No event.")


@audit.command()
@click.option(
    "--noted", type=HeadType(), multiple=True, help="A head noted earlier, which the log must contain. Repeatable."
)
@client_command
def verify(session: Session, *, noted: Sequence["Head"]) -> int:
    """Replay the whole log. Exit code 1 with the first broken link if it was changed.

    On the server the log is read from the control database itself; elsewhere the API is asked. Note the head that it
    prints somewhere else: whoever rules the control database can rewrite the log as a whole, and only a head from
    before shows that (--noted).
    """
    with Progress("Replaying the audit log"):
        place = session.state_dir
        if place is None:
            verdict = session.api.get(VERIFY_PATH, noted=",".join(map(str, noted)) or None)
        else:
            verdict = _verdict(asyncio.run(replay(load(place), noted)))
    if session.is_json:
        out.show_json(verdict)
    elif verdict["is_intact"]:
        click.echo(f"intact: {str(verdict['head']).partition(':')[0]} events, head {verdict['head']}")
    if not verdict["is_intact"]:
        raise CommandError(
            f"the audit log is BROKEN at event {verdict['broken_at']} ({verdict['fault']}); "
            "everything before it is as it was appended"
        )
    return 0


def _verdict(outcome: "Intact | Broken") -> Json:
    """As the API would say it."""
    from cloister.trust.audit.verify import Intact  # noqa: PLC0415 - heavy

    if isinstance(outcome, Intact):
        return {"is_intact": True, "head": str(outcome.head)}
    return {"is_intact": False, "broken_at": outcome.seq, "fault": outcome.fault.value}


def _flat(recorded: Json) -> Json:
    """An event with its place in the log."""
    return {"seq": recorded["seq"], **recorded["event"], "hash": recorded["hash"]}


async def replay(settings: Settings, noted: Sequence["Head"]) -> "Intact | Broken":
    """The verdict on the log, read from the control database itself."""
    from cloister.cli.control_database import connected  # noqa: PLC0415 - heavy
    from cloister.trust.audit import verify as chain  # noqa: PLC0415 - heavy

    async with connected(settings) as database:
        return await chain.verify(database, noted)


def _target(event: Json) -> str:
    """The most exact thing the event is about."""
    for name in ("endpoint_id", "branch_id", "project_id", "org_id"):
        if event.get(name):
            return f"{event[name]} {event.get('resource', '')}".strip()
    return str(event.get("resource") or "")

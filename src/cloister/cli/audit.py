"""`cloister audit`: what happened, and whether the record of it is whole."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from cloister.base.settings import Settings, load
from cloister.cli import output as out
from cloister.cli.api import Json
from cloister.cli.audit_forget import erased_row, forget
from cloister.cli.audit_holds import hold
from cloister.cli.audit_retention import retention
from cloister.cli.audit_statements import (
    STATEMENT_COLUMNS,
    STATEMENT_TEXT_CHARS_MAX,
    erase,
    level_,
    statements,
    statements_of,
    tell_pruned,
)
from cloister.cli.audit_targets import export_to
from cloister.cli.failure import CommandError
from cloister.cli.output import Column
from cloister.cli.progress import Progress
from cloister.cli.session import PROJECT_VARIABLE, Session, client_command
from cloister.cli.since import Since
from cloister.cli.witnesses import confirm, witnesses_of

if TYPE_CHECKING:
    from cloister.protocol.merkle.notes import Checkpoint, SignedTree, VerifierKey
    from cloister.trust.audit.statements import Held
    from cloister.trust.audit.targets import Witness
    from cloister.trust.audit.verify import Broken, Head, Intact
    from cloister.trust.audit.witness import Seen

EVENTS_PATH: Final = "/cloister/audit/events"
WHO_PATH: Final = "/cloister/audit/who"
VERIFY_PATH: Final = "/cloister/audit/verify"
PAGE_ROWS: Final = 500
COMMIT_CHARS: Final = 12
# As git shows one: enough to tell it from the others of a repository.

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
COMMIT: Final = Column("Commit", "details.commit", lambda commit: str(commit)[:COMMIT_CHARS])
"""Beside the others, where one of the events has one."""


WHO_COLUMNS: Final = (
    Column("Who", "who"),
    Column("Acting as", "actor"),
    Column("API key", "key"),
    Column("Access", "access"),
    Column("Token's subject", "token_subject"),
    Column("Password given by", "given"),
    Column("When", "at"),
    Column("Did", "action"),
    Column("From", "address"),
    Column("Endpoint", "endpoint_id"),
    Column("Program", "program"),
    Column("TLS", "tls_version"),
    Column("Session", "session_id"),
    Column("Request", "request_id"),
    Column("Plan", "event.event.details.plan"),
    Column("Commit", "event.event.details.commit"),
)


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


class KeyType(click.ParamType["VerifierKey"]):
    """The key that checkpoints are signed with, as `cloister audit checkpoint --key` printed it."""

    name = "KEY"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> "VerifierKey":
        from cloister.protocol.merkle.notes import NoteError, VerifierKey  # noqa: PLC0415 - heavy

        if isinstance(value, VerifierKey):
            return value
        try:
            return VerifierKey.parse(str(value))
        except NoteError as error:
            self.fail(f"{value!r} is no key as `cloister audit checkpoint --key` prints it: {error}", param, ctx)


@click.group()
def audit() -> None:
    """Read the audit log, verify it, and send it on."""


for command in (export_to, level_, statements, erase, forget, hold, retention):
    audit.add_command(command)


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
    _show_events(
        session, _events(session, since=since, limit=limit, before=before, project_id=project_id, action=action)
    )


def _events(session: Session, *, since: str | None, limit: int, before: int | None, **wanted: str | None) -> list[Json]:
    """Page by page, newest first."""
    rows: list[Json] = []
    pruned = None
    while len(rows) < limit:
        asked = min(limit - len(rows), PAGE_ROWS)
        answer = session.api.get(EVENTS_PATH, **wanted, cursor=before, limit=asked)
        found = [_flat(each) for each in answer.get("events") or []]
        # Times are RFC 3339 in UTC with microseconds: their order is that of their text.
        recent = [event for event in found if since is None or str(event.get("at", "")) >= since]
        rows += recent
        if len(found) < asked:
            pruned = answer.get("pruned")
            break
        if found and not recent:
            break
        before = int(found[-1]["seq"])
    tell_pruned(session, pruned)
    return rows


def _show_events(session: Session, rows: list[Json]) -> None:
    if not session.is_json:
        rows = [{"outcome": "ok", **erased_row(row), "to": _target(row)} for row in rows]
    has_commits = any((row.get("details") or {}).get("commit") for row in rows)
    session.show_list(rows, (*COLUMNS, COMMIT) if has_commits else COLUMNS, empty="No event.")


@audit.command()
@click.argument("event", metavar="EVENT|SESSION")
@client_command
def who(session: Session, *, event: str) -> None:
    """Who stands behind an event, or behind the session of a statement.

    EVENT is its number in `cloister audit list`; SESSION the session's id there, and in `cloister audit statements`. Behind an
    API key stands its account; behind a role of an approved access its request, and who agreed to it. Behind a role with a
    password stands whoever knows it: then you see to whom it was given.
    """
    asked = {"event": event} if event.isascii() and event.isdigit() else {"session_id": event}
    found = session.api.get(WHO_PATH, **asked)
    session.show(found if session.is_json else _who_row(found), WHO_COLUMNS)


@audit.command()
@click.option("--role", metavar="NAME", help="What this database role did.")
@click.option("--ip", metavar="IP", help="What was done from this address.")
@click.option("--account", metavar="EMAIL", help="What this account did: itself, its keys, its approved access.")
@click.option("--project-id", "--project", envvar=PROJECT_VARIABLE, metavar="ID", help="Only about this project.")
@click.option("--since", type=Since(), help="Only since then: 30m, 24h, 7d, or a time.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="How many, newest first.")
@click.option("--before", type=int, metavar="SEQ", help="Only events before this one.")
@client_command
def subject(
    session: Session,
    *,
    role: str | None,
    ip: str | None,
    account: str | None,
    project_id: str | None,
    since: str | None,
    limit: int,
    before: int | None,
) -> None:
    """All events of a role, an address or an account, newest first. What was executed: `cloister audit statements`.

    Of several of these, all must fit.
    """
    if role is None and ip is None and account is None:
        raise CommandError("name a --role, an --ip or an --account")
    wanted = {"role": role, "address": ip, "account": account, "project_id": project_id}
    _show_events(session, _events(session, since=since, limit=limit, before=before, **wanted))


@audit.command()
@click.argument("name", metavar="[SCHEMA.]TABLE")
@click.option("--project-id", "--project", envvar=PROJECT_VARIABLE, metavar="ID", help="The project.")
@click.option("--since", type=Since(), default="24h", show_default=True, help="Since then: 30m, 24h, 7d, or a time.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="How many, newest first.")
@client_command
def table(session: Session, *, name: str, project_id: str | None, since: str, limit: int) -> None:
    """List the recorded statements that name a table, newest first.

    Rather too many than one too few: in any case, in comments and literals too, and every statement whose text was cut. What
    reached it through a view, a function or dynamic SQL is there by the server's word, in the column Table; it has no session
    and no address, but the role. `cloister audit who SESSION` says who it was.
    """
    from cloister.trust.audit.tables import names_table  # noqa: PLC0415 - heavy

    def fits(each: Json) -> bool:
        text, touched = str(each.get("text", "")), str(each.get("touched", ""))
        return names_table(text, name, is_cut=len(text) >= STATEMENT_TEXT_CHARS_MAX) or names_table(touched, name)

    rows = statements_of(session, project_id, since=since, limit=limit, fits=fits)
    session.show_list(rows, (*STATEMENT_COLUMNS, Column("Session", "session_id")), empty="No statement.")


@audit.command()
@click.option(
    "--noted", type=HeadType(), multiple=True, help="A head noted earlier, which the log must contain. Repeatable."
)
@click.option(
    "--against",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help="A file of checkpoints taken earlier: the log must begin with each of them. Repeatable; only on the server.",
)
@click.option(
    "--witness",
    "witnesses",
    multiple=True,
    metavar="NAME",
    help="A witness (`export-to add-witness`): the log must begin with every checkpoint there. Repeatable; only on the server.",
)
@click.option("--key", type=KeyType(), help="The key that must have signed them; by default the one kept here.")
@client_command
def verify(
    session: Session,
    *,
    noted: Sequence["Head"],
    against: Sequence[Path],
    witnesses: Sequence[str],
    key: "VerifierKey | None",
) -> int:
    """Replay the whole log. Exit code 1 with the first broken link if it was changed.

    The log is held to the last checkpoint that the key broker signed, and on the server, every segment of recorded statements
    to its event in the log, erased ones too. On the server it is read from the control database
    itself; elsewhere the API is asked, and the signature on its answer is verified here. Keep checkpoints (`cloister audit
    checkpoint --print`) and their key somewhere else: who rules the whole server can put everything back to yesterday, and
    only what lies elsewhere shows that.
    """
    held: list[tuple[Witness, list[Seen]]] = []
    with Progress("Replaying the audit log"):
        place = session.state_dir
        if place is None:
            if against or witnesses:
                raise CommandError("--against and --witness are for the server itself")
            verdict = session.api.get(VERIFY_PATH, noted=",".join(map(str, noted)) or None)
            refuse_unsigned(verdict, key)
        else:
            settings = load(place)
            last, checkpoints = signed_trees(settings, against, key)
            held = asyncio.run(witnesses_of(settings, witnesses, key or _own_key(last)))
            checkpoints += [each.checkpoint for _, some in held for each in some]
            outcome, recorded = asyncio.run(_verify_here(settings, noted, checkpoints))
            verdict = _verdict(outcome)
            if recorded is not None:
                verdict["statements"] = {
                    "segments": recorded.segments,
                    "erased": recorded.erased,
                    "wrong": recorded.wrong,
                }
            if verdict.get("fault") == "rolled back":
                asyncio.run(confirm(held, verdict["broken_at"], key or _own_key(last)))
            verdict["checkpoint"] = None if last is None else last.size
    if session.is_json:
        out.show_json(verdict)
    elif verdict["is_intact"]:
        events = str(verdict["head"]).partition(":")[0]
        click.echo(f"intact: {events} events, head {verdict['head']}")
        if verdict.get("pruned"):
            click.echo(_pruned(verdict))
        if "checkpoint" in verdict:
            click.echo(_covered(int(events), verdict["checkpoint"], len(against)))
            for target, some in held:
                newest = some[-1].checkpoint.size
                click.echo(
                    f"witness: extends all {len(some)} checkpoints in {target.place}, the newest of {newest} events"
                )
            if erased := verdict.get("erased"):
                click.echo(f"personal: erased in {erased} events, and events say by whom")
            if held_to := verdict.get("statements"):
                click.echo(_statements_held(held_to))
    if (verdict.get("statements") or {}).get("wrong"):
        raise CommandError(f"the statement log is BROKEN: {verdict['statements']['wrong']}; the audit log is intact")
    if not verdict["is_intact"]:
        rest = (
            "it is not the log that was signed or noted then"
            if verdict["fault"] == "rolled back"
            else "everything before it is as it was appended"
        )
        raise CommandError(f"the audit log is BROKEN at event {verdict['broken_at']} ({verdict['fault']}); {rest}")
    return 0


@audit.command()
@click.option("--print", "is_printed", is_flag=True, help="The signed note itself, to be kept elsewhere.")
@click.option("--key", "is_key", is_flag=True, help="The key that verifies it, to be kept elsewhere once.")
@client_command
def checkpoint(session: Session, *, is_printed: bool, is_key: bool) -> None:
    """The last checkpoint of the log: how many events, the root of their tree, signed by the key broker.

    Append it to a file on another host, or print it; `cloister audit verify --against FILE` then proves that the log of
    today begins with the log of then.
    """
    last = _last(_settings(session))
    if last is None:
        raise CommandError("nothing was signed yet")
    if session.is_json:
        out.show_json({"size": last.size, "note": last.note, "key": last.key})
    elif is_printed or is_key:
        click.echo(last.note if is_printed else last.key, nl=not is_printed)
    else:
        click.echo(f"{last.size} events, root {_opened(last, None).root.hex()}\nsigned by {last.key}")


@audit.command()
@click.option(
    "--tiles",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    metavar="DIR",
    help="Where to; a directory that holds an earlier export is added to.",
)
@client_command
def export(session: Session, *, tiles: Path) -> None:
    """Write the log with its tree as files that anybody can verify (C2SP tlog-tiles), up to the last checkpoint.

    Fails if the log is not what was signed, or not what DIR says that it was.
    """
    from cloister.base.database.owner import connected  # noqa: PLC0415 - heavy
    from cloister.trust.audit import export as tiling  # noqa: PLC0415 - heavy

    settings = _settings(session)
    last = _last(settings)
    if last is None:
        raise CommandError("nothing was signed yet")

    async def write() -> int:
        async with connected(settings) as database:
            return await tiling.export(database, last, tiles)

    with Progress("Exporting the audit log"):
        files = asyncio.run(write())
    if session.is_json:
        out.show_json({"size": last.size, "new_files": files, "key": last.key})
    else:
        click.echo(f"{last.size} events in {tiles}, {files} new files\nsigned by {last.key}")


def signed_trees(
    settings: Settings, against: Sequence[Path], key: "VerifierKey | None"
) -> "tuple[SignedTree | None, list[Checkpoint]]":
    """The last tree signed here, and every checkpoint that the log is to be held to, their signatures verified.

    `key`, or the one kept here, must have signed each.
    """
    from cloister.protocol.merkle.notes import NoteError, VerifierKey, split  # noqa: PLC0415 - heavy

    last = _last(settings)
    found = [] if last is None else [_opened(last, key)]
    if against and key is None:
        if last is None:
            raise CommandError("nothing was signed here: name the --key of these checkpoints")
        key = VerifierKey.parse(last.key)
    for path in against:
        assert key is not None
        try:
            notes = [key.opened(note) for note in split(path.read_text())]
        except (NoteError, UnicodeDecodeError) as error:
            raise CommandError(f"{path}: {error}") from error
        if not notes:
            raise CommandError(f"{path}: no checkpoint")
        found += notes
    return last, found


def _own_key(last: "SignedTree | None") -> "VerifierKey | None":
    from cloister.protocol.merkle.notes import VerifierKey  # noqa: PLC0415 - heavy

    return None if last is None else VerifierKey.parse(last.key)


def refuse_unsigned(verdict: Json, key: "VerifierKey | None") -> None:
    """Unless `key`, or else the one that the API names, signed the checkpoint that it says it held the log to."""
    from cloister.protocol.merkle.notes import NoteError, VerifierKey  # noqa: PLC0415 - heavy

    try:
        checkpoint = (key or VerifierKey.parse(verdict["key"])).opened(verdict["note"])
    except NoteError as error:
        raise CommandError(f"the checkpoint that the API names: {error}") from error
    if checkpoint.size != verdict["checkpoint"]:
        raise CommandError(f"the API says that {verdict['checkpoint']} events were signed; its note, {checkpoint.size}")


def _settings(session: Session) -> Settings:
    place = session.state_dir
    if place is None:
        raise CommandError("this reads the platform's own files: run it on the server, with --state-dir")
    return load(place)


def _last(settings: Settings) -> "SignedTree | None":
    from cloister.trust.keys.notary import read_last  # noqa: PLC0415 - heavy

    return read_last(settings.paths.notary)


def _opened(last: "SignedTree", key: "VerifierKey | None") -> "Checkpoint":
    """Its checkpoint, if `key` signed it."""
    from cloister.protocol.merkle.notes import NoteError, VerifierKey  # noqa: PLC0415 - heavy

    try:
        return (key or VerifierKey.parse(last.key)).opened(last.note)
    except NoteError as error:
        raise CommandError(f"the last checkpoint kept here: {error}") from error


def _pruned(verdict: Json) -> str:
    older = (
        f"; older than that, and held to nothing: {verdict['older']} of the heads and checkpoints"
        if verdict.get("older")
        else ""
    )
    return f"pruned below {verdict['pruned'] + 1} on {verdict['pruned_at'][:10]}, and an event says so{older}"


def _covered(events: int, size: int | None, files: int) -> str:
    """What the signatures say about these events."""
    signed = "no checkpoint was signed yet" if size is None else f"signed: the first {size}"
    later = "" if size is None or events == size else f", not yet the {events - size} after them"
    return signed + later + (f"; extends every checkpoint in {files} file{'s' if files > 1 else ''}" if files else "")


def _verdict(outcome: "Intact | Broken") -> Json:
    """As the API would say it."""
    from cloister.trust.audit.verify import Intact  # noqa: PLC0415 - heavy

    if isinstance(outcome, Intact):
        return {
            "is_intact": True,
            "head": str(outcome.head),
            "erased": outcome.erased,
            "pruned": outcome.pruned,
            "pruned_at": None if outcome.pruned_at is None else outcome.pruned_at.isoformat(),
            "older": outcome.older,
        }
    return {"is_intact": False, "broken_at": outcome.seq, "fault": outcome.fault.value}


def _flat(recorded: Json) -> Json:
    """An event with its place in the log."""
    return {"seq": recorded["seq"], **recorded["event"], "hash": recorded["hash"]}


async def replay(
    settings: Settings, noted: Sequence["Head"], checkpoints: "Sequence[Checkpoint]" = ()
) -> "Intact | Broken":
    """The verdict on the log, read from the control database itself."""
    from cloister.base.database.owner import connected  # noqa: PLC0415 - heavy
    from cloister.trust.audit import verify as chain  # noqa: PLC0415 - heavy

    async with connected(settings) as database:
        return await chain.verify(database, noted, checkpoints)


async def _verify_here(
    settings: Settings, noted: Sequence["Head"], checkpoints: "Sequence[Checkpoint]"
) -> "tuple[Intact | Broken, Held | None]":
    """The log, and if it is intact, the segments of statements that it vouches for."""
    from cloister.base.database.owner import connected  # noqa: PLC0415 - heavy
    from cloister.trust.audit.statements import verify_segments  # noqa: PLC0415 - heavy
    from cloister.trust.audit.verify import Intact, verify  # noqa: PLC0415 - heavy

    async with connected(settings) as database:
        outcome = await verify(database, noted, checkpoints)
        return outcome, await verify_segments(database) if isinstance(outcome, Intact) else None


def _statements_held(found: Json) -> str:
    if not found["segments"]:
        return "segments of statements: none"
    erased = f"; erased: {found['erased']}, and events say by whom" if found["erased"] else ""
    return f"segments of statements: {found['segments']}, each as it was sealed{erased}"


def _who_row(found: Json) -> Json:
    """The chain in words."""
    account, access = found.get("account"), found.get("access_request")
    given = [f"{each['event']['actor']} ({each['event']['action']}, event {each['seq']})" for each in
             found.get("password_given_by") or []]  # fmt: skip
    key = found.get("key_id")
    agreed = "" if not access else ", ".join(access["approved_by"]) or "nobody"
    erasure = found["event"]["event"].get("erasure")
    nobody = f"erased by {erasure}" if erasure else "whoever it was: no account can be told"
    return {
        **erased_row({**found, "erasure": erasure}),
        "who": f"{account['name']} <{account['email']}>" if account else nobody,
        "key": f"{key} ({found.get('key_name', '')})" if key else "",
        "access": f"{access['id']}, agreed to by {agreed}: {access['reason']}" if access else "",
        "given": "; ".join(given),
        "action": found["event"]["event"]["action"],
    }


def _target(event: Json) -> str:
    """The most exact thing the event is about."""
    for name in ("endpoint_id", "branch_id", "project_id", "org_id"):
        if event.get(name):
            return f"{event[name]} {event.get('resource', '')}".strip()
    return str(event.get("resource") or "")

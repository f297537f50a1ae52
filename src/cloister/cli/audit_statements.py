"""`cloister audit level`, `statements` and `erase`: what of a project's statements is recorded, what was, and its end."""

from collections.abc import Callable
from typing import Final

import click

from cloister.cli import output as out
from cloister.cli.api import Json, segment
from cloister.cli.failure import CommandError
from cloister.cli.output import Column
from cloister.cli.session import PROJECT_VARIABLE, Session, client_command, project_path
from cloister.cli.since import Since

LEVELS: Final = ("off", "base", "extended", "full")
SEGMENTS: Final = 16

STATEMENT_TEXT_CHARS_MAX: Final = 4_096
# A text as long as this was cut (docs/adr/0024).

STATEMENT_COLUMNS: Final = (
    Column("When", "at"),
    Column("Who", "role", may_cut=True),
    Column("From", "address"),
    Column("Outcome", "outcome"),
    Column("SQLSTATE", "sqlstate"),
    Column("Rows", "rows"),
    Column("Table", "touched", may_cut=True),
    Column("Statement", "text", may_cut=True),
)


ERASURE_COLUMNS: Final = (
    Column("Erasure", "id"),
    Column("Months", "months"),
    Column("Why", "reason", may_cut=True),
    Column("Asked by", "asked_by"),
    Column("Asked", "asked_at"),
    Column("Agreed by", "agreed_by"),
    Column("Erased", "agreed_at"),
    Column("Segments", "segments"),
    Column("Statements", "statements"),
)


@click.command("level")
@click.option("--project-id", "--project", envvar=PROJECT_VARIABLE, metavar="ID", help="The project.")
@click.option("--set", "wanted", type=click.Choice(LEVELS), help="The level from now on.")
@client_command
def level_(session: Session, *, project_id: str | None, wanted: str | None) -> None:
    """Show or set what of a project's statements is recorded, beside its connections.

    \b
    off       no statements
    base      what changes objects, roles, rights or settings, and whatever failed
    extended  and what changes rows
    full      and every read

    Sessions that are open end, so that none goes on under the old level. Lowering it takes a permission of its own.
    Secrets are masked; texts are kept encrypted, and sealed by the audit log.
    """  # noqa: D301 - click leaves the lines after \b as they are
    path = f"/cloister{project_path(session.project_id(project_id))}/audit_level"
    answer = session.api.get(path) if wanted is None else session.api.put(path, {"level": wanted})
    session.show(answer, (Column("Level", "level"),))


@click.command("statements")
@click.option("--project-id", "--project", envvar=PROJECT_VARIABLE, metavar="ID", help="The project.")
@click.option("--role", metavar="NAME", help="Only of this database role.")
@click.option("--address", metavar="IP", help="Only from this address.")
@click.option("--session-id", metavar="ID", help="Only of this session (`cloister audit list` has it).")
@click.option("--text", metavar="TEXT", help="Only with this in the statement, in any case: a table's name, say.")
@click.option("--since", type=Since(), help="Only since then: 30m, 24h, 7d, or a time.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="How many, newest first.")
@client_command
def statements(
    session: Session,
    *,
    project_id: str | None,
    role: str | None,
    address: str | None,
    session_id: str | None,
    text: str | None,
    since: str | None,
    limit: int,
) -> None:
    """List what a project's clients executed, newest first: who, what, when, from where.

    A line with a Table is what the server noted inside itself: tables that statements touched, and statements of functions, DO
    blocks and triggers. The others are what clients sent. Each segment of the record is held to its event in the audit log; one
    that was changed or taken away ends this with an error. Whether the audit log is whole, `cloister audit verify` says.
    """
    wanted = {"role": role, "address": address, "session_id": session_id}

    def fits(each: Json) -> bool:
        is_wanted = all(value is None or each[name] == value for name, value in wanted.items())
        said = f"{each.get('touched', '')}\n{each.get('text', '')}"
        return is_wanted and (text is None or text.lower() in said.lower())

    rows = statements_of(session, project_id, since=since, limit=limit, fits=fits)
    session.show_list(rows, STATEMENT_COLUMNS, empty="No statement.")


@click.command()
@click.option("--project-id", "--project", envvar=PROJECT_VARIABLE, metavar="ID", help="The project.")
@click.option("--reason", metavar="TEXT", help="Ask for it, and say why: it is in the audit log for good.")
@click.option("--before", type=Since(), help="With --reason: only months that were over then. 90d, or a time.")
@click.option("--agree", "erasure_id", metavar="ID", help="Agree to what somebody else asked for. It cannot be undone.")
@client_command
def erase(
    session: Session, *, project_id: str | None, reason: str | None, before: str | None, erasure_id: str | None
) -> None:
    """Erase what a project's clients executed, and keep the proof that it was recorded.

    \b
    1. Ask:      cloister audit erase --project P --reason "Art. 17, ticket 4711"
    2. Another:  cloister audit erase --project P --agree ID        (an admin, within 7 days; never you)

    Then the keys of these months are destroyed, in every backup too, and nobody reads their statements again. Everything else
    stays: how many there were, their digests, who erased them and why; `cloister audit verify` holds as before. The project and
    its data are not touched, and what is executed from now on is recorded under a new key. Without options: what was asked for.
    """  # noqa: D301 - click leaves the lines after \b as they are
    path = f"/cloister{project_path(session.project_id(project_id))}/statement_erasures"
    if reason is not None and erasure_id is not None:
        raise CommandError("--reason asks for an erasure, --agree ends one: not both")
    if before is not None and reason is None:
        raise CommandError("--before belongs to --reason")
    if reason is not None:
        asked = session.api.post(path, {"reason": reason, **({"up_to": before} if before else {})})["erasure"]
        session.show(asked if session.is_json else _erasure_row(asked), ERASURE_COLUMNS)
        if not session.is_json:
            where = f"--project {asked['project_id']} --agree {asked['id']}"
            out.note(f"\nNothing is erased yet. Now somebody else says: cloister audit erase {where}")
    elif erasure_id is not None:
        agreed = session.api.post(f"{path}/{segment(erasure_id)}/agree")["erasure"]
        session.show(agreed if session.is_json else _erasure_row(agreed), ERASURE_COLUMNS)
        if agreed["remaining"] and not session.is_json:
            out.note(
                f"\n{agreed['remaining']} segments are from before there were keys to erase, and stay (docs/audit.md)."
            )
    else:
        found = session.api.get(path).get("erasures") or []
        rows = found if session.is_json else [_erasure_row(each) for each in found]
        session.show_list(rows, ERASURE_COLUMNS, empty="No erasure was asked for.")


def tell_pruned(session: Session, pruned: str | None) -> None:
    """A list that came to its end, because what was older is gone."""
    if pruned and not session.is_json:
        out.note(f"This is not all there ever was: {pruned}, and what is not here may be among them.\n")


def _erasure_row(found: Json) -> Json:
    return {**found, "months": f"over before {found['up_to']}" if found.get("up_to") else "all"}


def statements_of(
    session: Session, project_id: str | None, *, since: str | None, limit: int, fits: Callable[[Json], bool]
) -> list[Json]:
    """Newest first. Chosen here: nobody can search what is encrypted."""
    path = f"/cloister{project_path(session.project_id(project_id))}/statements"
    rows: list[Json] = []
    before: int | None = None
    erased = 0
    while len(rows) < limit:
        answer = session.api.get(path, cursor=before, limit=SEGMENTS)
        segments = answer.get("segments") or []
        if not segments:
            tell_pruned(session, answer.get("pruned"))
        erased += sum(each["count"] for each in segments if each.get("erased_at"))
        found = [each for it in segments for each in reversed(it["statements"])]
        recent = [each for each in found if since is None or each["at"] >= since]
        rows += [each for each in recent if fits(each)]
        if not segments or (found and not recent):  # a page may have fewer than were asked for
            break
        before = int(segments[-1]["id"])
    if erased and not session.is_json:
        out.note(
            f"Statements among these that were erased: {erased}. cloister audit erase shows by whom, and why; those that were kept "
            "for long enough, cloister audit list --action audit.prune.\n"
        )
    return rows[:limit]

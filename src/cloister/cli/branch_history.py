"""`cloister branches restore`, `reset` and `schema-diff`: a branch and what it, its parent or another one was."""

import sys
from typing import Final

import click

from cloister.cli import output as out
from cloister.cli.advice import advised
from cloister.cli.api import ApiError, Json, segment
from cloister.cli.failure import CommandError
from cloister.cli.output import Column
from cloister.cli.points import Place, parse_place
from cloister.cli.progress import Progress
from cloister.cli.projects import given
from cloister.cli.session import Session, client_command, project_option, project_path, wait_option

RESTORED: Final = (
    Column("Id", "id"),
    Column("Name", "name"),
    Column("State", "current_state"),
    Column("Parent", "parent_id"),
    Column("As of LSN", "parent_lsn"),
    Column("As of", "parent_timestamp"),
    Column("Kept as", "preserved"),
)

_preserve = click.option(
    "--preserve-under-name", metavar="NAME", help="Keep what the branch is now as a branch of this name."
)


@click.command()
@click.argument("branch", metavar="BRANCH")
@click.argument("source", metavar="SOURCE[@POINT]")
@_preserve
@project_option
@wait_option
@client_command
def restore(
    session: Session,
    *,
    branch: str,
    source: str,
    preserve_under_name: str | None,
    project_id: str | None,
    wait: bool,
) -> None:
    """Make a branch what another one is, or what it was itself.

    SOURCE is ^self, ^parent, or a branch's id or name; POINT a timestamp or an LSN in its history, to the second and to
    the record. The branch's id and hosts stay, so whoever connects to it finds the restored data.

    \b
    cloister branches restore main ^self@2026-03-04T05:06:07Z --preserve-under-name before
    cloister branches restore preview ^parent
    cloister branches restore preview main@0/15E9A30
    """  # noqa: D301 - click leaves the lines after \b as they are
    project_id = session.project_id(project_id)
    target = session.branch(project_id, branch)
    place = parse_place(source)
    body = given(
        source_branch_id=_resolved(session, project_id, place, target), preserve_under_name=preserve_under_name
    ) | place.fields("source_")
    _restore(session, project_id, target, body, f"Restoring the branch to {place.branch} {place.words()}", wait=wait)


@click.command()
@click.argument("branch", metavar="BRANCH")
@click.option(
    "--parent", is_flag=True, required=True, help="Reset to the parent: said, so that nobody does it by chance."
)
@_preserve
@project_option
@wait_option
@client_command
def reset(
    session: Session,
    *,
    branch: str,
    parent: bool,  # noqa: ARG001 - there is no other kind
    preserve_under_name: str | None,
    project_id: str | None,
    wait: bool,
) -> None:
    """Start a branch again from its parent as it is now.

    What was changed on it is gone, unless it is kept with --preserve-under-name.

    \b
    cloister branches reset preview --parent
    """  # noqa: D301 - click leaves the lines after \b as they are
    project_id = session.project_id(project_id)
    target = session.branch(project_id, branch)
    source_id = _resolved(session, project_id, Place("^parent"), target)
    body = given(source_branch_id=source_id, preserve_under_name=preserve_under_name)
    _restore(session, project_id, target, body, "Resetting the branch", wait=wait)


@click.command("schema-diff")
@click.argument("base", metavar="[BASE]", required=False)
@click.argument("compared", metavar="[SOURCE[@POINT]]", required=False)
@click.option("--database", "--db", "database", metavar="NAME", help="Only this database. Default: all of them.")
@project_option
@client_command
def schema_diff(
    session: Session, *, base: str | None, compared: str | None, database: str | None, project_id: str | None
) -> None:
    """Show how the schemas of two branches differ, as `diff -u` would.

    With one branch, or none (the default branch): what it changed since it left its parent. With two: what leads from BASE
    to SOURCE, which may also be ^self or ^parent of BASE, and a point in its history.

    \b
    cloister branches schema-diff preview
    cloister branches schema-diff main preview --database shop
    cloister branches schema-diff main ^self@2026-03-04T05:06:07Z
    """  # noqa: D301 - click leaves the lines after \b as they are
    project_id = session.project_id(project_id)
    first = session.branch(project_id, base)
    if compared is None:
        before_id, after_id = _resolved(session, project_id, Place("^parent"), first), first["id"]
        point: Json = {}
    else:
        place = parse_place(compared)
        before_id, after_id = first["id"], _resolved(session, project_id, place, first)
        point = place.fields("")
    names = [database] if database else _databases(session, project_id, before_id, after_id)
    found = []
    for name in names:
        with Progress(f"Comparing {out.printable(name)}"):
            path = f"{project_path(project_id)}/branches/{segment(after_id)}/compare_schema"
            diff = _difference(session, path, name, {"base_branch_id": before_id, **point})
        found.append({"database": name, "base_branch_id": before_id, "branch_id": after_id, "diff": diff})
    if session.is_json:
        out.show_json(found)
        return
    for each in found:
        _show_diff(each["diff"])
    if not any(each["diff"] for each in found):
        out.note("The schemas are the same.")


def show_passwords(answer: Json, why: str) -> None:
    """The passwords that this answer shows once."""
    named = [role for role in answer.get("roles") or [] if role.get("password")]
    if not named:
        return
    click.echo()
    rows = [[out.printable(role["name"]), role["password"]] for role in named]
    for line in out.table(["Role", "Password"], rows, [True, False], None):
        click.echo(line)
    out.note(f"\n{why} They are shown this once: keep them now, or reset them later.")


def _restore(session: Session, project_id: str, target: Json, body: Json, doing: str, *, wait: bool) -> None:
    path = f"{project_path(project_id)}/branches/{segment(target['id'])}"
    with advised(str(target["name"])):
        answer = session.api.post(f"{path}/restore", body)
    session.settle(answer, doing, wait=wait)
    if wait:
        answer["branch"] = session.api.get(path)["branch"]
    if session.is_json:
        out.show_json(answer)
        return
    shown = answer["branch"] | {"preserved": body.get("preserve_under_name")}
    session.show(shown, [column for column in RESTORED if column.path != "preserved" or shown["preserved"]])
    show_passwords(answer, "These roles are new on this branch, and so are their passwords.")


def _resolved(session: Session, project_id: str, place: Place, target: Json) -> str:
    """The id of the branch that a place names, as seen from `target`."""
    match place.branch:
        case "^self":
            return str(target["id"])
        case "^parent":
            if not target.get("parent_id"):
                raise CommandError(f"{out.printable(str(target['name']))} is a root branch: it has no parent")
            return str(target["parent_id"])
        case name:
            return session.branch_id(project_id, name)


def _databases(session: Session, project_id: str, *branch_ids: str) -> list[str]:
    """Those that are on each of the branches; the others are told."""
    each = [
        {row["name"] for row in session.api.get(f"{project_path(project_id)}/branches/{it}/databases")["databases"]}
        for it in branch_ids
    ]
    for name in sorted(set.union(*each) - set.intersection(*each)):
        where = next(it for it, names in zip(branch_ids, each, strict=True) if name in names)
        out.note(f"Database {name} is only on {where}.")
    return sorted(set.intersection(*each))


def _difference(session: Session, path: str, database: str, query: Json) -> str:
    try:
        answer = session.api.get(path, db_name=database, **query)
    except ApiError as error:
        if error.status == 404 and "database" in str(error):
            raise CommandError(f"not both branches have a database {out.printable(database)}") from error
        raise
    return str(answer.get("diff") or "")


def _show_diff(diff: str) -> None:
    """Byte for byte into a file or pipe, so that `patch` takes it; to a person in colour, and harmless."""
    if not sys.stdout.isatty():
        click.echo(diff, nl=False, color=True)  # as it is: nothing is taken out
        return
    for line in diff.removesuffix("\n").split("\n") if diff else []:
        colour = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
        click.secho(out.printable(line.expandtabs()), fg=colour, bold=line.startswith(("+++", "---")))

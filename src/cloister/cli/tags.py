"""`cloister tags`: what a project or a branch is, in a word each, for policies and people to go by."""

from typing import Final

import click

from cloister.base.tags import KEPT
from cloister.cli import output as out
from cloister.cli.api import Json, segment
from cloister.cli.output import Column
from cloister.cli.session import Session, client_command, project_option, project_path

COLUMNS: Final = (Column("Of", "of"), Column("Name", "name", may_cut=True), Column("Tags", "tags"))

_BRANCH: Final = click.option("--branch", metavar="BRANCH", help="By id or name. Default: the project itself.")
_TAGS: Final = click.argument("tags", metavar="TAG…", nargs=-1, required=True)


@click.group()
def tags() -> None:
    """Say what a project or a branch is: pii for data about people, prod for what customers rely on, and words of your own.

    A branch has its project's tags besides its own, and a new one starts with its parent's. pii and prod follow the data,
    also through reset, restore and snapshots, and taking one off needs a permission of its own.

    \b
    cloister tags add pii --branch main
    cloister tags remove pii --branch masked --reason "names and addresses replaced"
    """  # noqa: D301 - click leaves the lines after \b as they are


@tags.command("list")
@project_option
@client_command
def list_(session: Session, *, project_id: str | None) -> None:
    """List the tags of a project, and of each of its branches."""
    path = project_path(session.project_id(project_id))
    project = session.api.get(path)["project"]
    rows: list[Json] = [{"of": "project", "id": project["id"], "name": project["name"], "tags": project["tags"]}]
    unguarded = []
    for branch in session.api.pages(f"{path}/branches", "branches"):
        derived = ["protected"] if branch["protected"] else []
        is_kept = not KEPT.isdisjoint([*branch["tags"], *project["tags"]]) and not branch.get("expires_at")
        if is_kept and not derived and (branch["default"] or not branch.get("parent_id")):
            unguarded.append(branch["name"])
        rows.append({"of": "branch", "id": branch["id"], "name": branch["name"], "tags": branch["tags"] + derived})
    session.show_list(rows, COLUMNS, empty="")
    if not session.is_json:
        for name in unguarded:
            out.note(f"\n{out.printable(name)} is not protected: cloister branches protect {out.printable(name)}")


@tags.command()
@_TAGS
@_BRANCH
@project_option
@client_command
def add(session: Session, *, tags: tuple[str, ...], branch: str | None, project_id: str | None) -> None:
    """Set tags, besides those that are there."""
    _change(session, project_id, branch, {"add": list(tags)})


@tags.command()
@_TAGS
@_BRANCH
@click.option("--reason", metavar="TEXT", help="Why pii or prod goes: the audit log has it.")
@project_option
@client_command
def remove(
    session: Session, *, tags: tuple[str, ...], branch: str | None, reason: str | None, project_id: str | None
) -> None:
    """Take tags off. pii and prod are an admin's to take off, and stay with snapshots that were taken before."""
    _change(session, project_id, branch, {"remove": list(tags)} | ({} if reason is None else {"reason": reason}))


def _change(session: Session, project_id: str | None, branch: str | None, body: Json) -> None:
    project_id = session.project_id(project_id)
    path = f"/cloister{project_path(project_id)}"
    if branch is not None:
        path += f"/branches/{segment(session.branch(project_id, branch)['id'])}"
    answer = session.api.patch(f"{path}/tags", body)
    if session.is_json:
        out.show_json(answer)
    else:
        click.echo(f"Tags: {', '.join(answer['tags']) or 'none'}")

"""`cloister branches tree`: a project's branches as they grew, with what each takes and what becomes of it."""

from collections.abc import Iterator
from typing import Final

import click

from cloister.cli import output as out
from cloister.cli.api import Json
from cloister.cli.output import Column
from cloister.cli.session import Session, client_command, project_option, project_path

_BESIDE_NAME: Final = (
    Column("Created", "created_at", out.ago),
    Column("Size", "logical_size", out.size),
    Column("Own", "unique_size", out.size),
    Column("History", "history_size", out.size),
    Column("State", "compute_state"),
    Column("Notes", "notes"),
)

_DEPTH_MAX: Final = 40
# Deeper branches are drawn at this depth: the names must stay on the screen.


@click.command()
@project_option
@client_command
def tree(session: Session, *, project_id: str | None) -> None:
    """Show the branches as a tree: who grew out of whom, how old and large they are, and what becomes of them.

    Size is what its tables and indexes hold, Own what deleting the branch would give back, History what being able to go
    back costs. State is that of the compute that writes; read-only endpoints stand in the notes.

    \b
    cloister branches tree
    cloister branches tree --output json | jq '.[].children[].name'
    """  # noqa: D301 - click leaves the lines after \b as they are
    project_id = session.project_id(project_id)
    rows = list(session.api.pages(f"{project_path(project_id)}/branches", "branches"))
    endpoints = session.api.get(f"{project_path(project_id)}/endpoints").get("endpoints") or []
    roots = grown(rows, endpoints)
    if session.is_json:
        out.show_json(roots)
        return
    drawn = list(_drawn(roots))
    cells = [[f"{lead}{out.printable(str(it['name']))}", *(c.text(it) for c in _BESIDE_NAME)] for lead, it in drawn]
    titles = ["Branch", *(column.title for column in _BESIDE_NAME)]
    for line in out.table(titles, cells, [True, *(False for _ in _BESIDE_NAME)], out.terminal_width()):
        click.echo(line)


def grown(rows: list[Json], endpoints: list[Json]) -> list[Json]:
    """The roots, each with its `children`, oldest first. A branch whose parent is not there is a root."""
    nodes = {row["id"]: {**row, "compute_state": _compute_state(row, endpoints), "children": []} for row in rows}
    roots: list[Json] = []
    for node in sorted(nodes.values(), key=lambda it: (str(it.get("created_at")), it["id"])):
        node["notes"] = _notes(node, endpoints)
        parent = nodes.get(node.get("parent_id") or "")
        (roots if parent is None else parent["children"]).append(node)
    return roots


def _drawn(roots: list[Json]) -> Iterator[tuple[str, Json]]:
    """Each node with the lines that lead to it."""
    pending = [("", node, is_last, 0) for node, is_last in _with_last(roots)][::-1]
    while pending:
        lead, node, is_last, at = pending.pop()
        is_root = at == 0
        yield (lead if is_root else f"{lead}{'└─ ' if is_last else '├─ '}"), node
        below = lead if is_root or at >= _DEPTH_MAX else f"{lead}{'   ' if is_last else '│  '}"
        pending += [(below, child, last, at + 1) for child, last in _with_last(node["children"])][::-1]


def _with_last(nodes: list[Json]) -> list[tuple[Json, bool]]:
    return [(node, number == len(nodes)) for number, node in enumerate(nodes, 1)]


def _compute_state(branch: Json, endpoints: list[Json]) -> str:
    """What a person wants to know first: whether something runs on it."""
    if branch.get("current_state") != "ready":
        return str(branch.get("current_state"))
    writers = [it for it in endpoints if it.get("branch_id") == branch["id"] and it.get("type") != "read_only"]
    states = {it.get("current_state") for it in writers}
    for state in ("active", "init", "idle"):
        if state in states:
            return state
    return "no compute"


def _notes(branch: Json, endpoints: list[Json]) -> str:
    notes = [word for word in ("default", "protected") if branch.get(word)]
    notes += branch.get("tags") or []
    if branch.get("init_source") == "schema-only":
        notes.append("schema only")
    if branch.get("expires_at"):
        notes.append(f"expires {out.ahead(branch['expires_at'])}")
    readers = [it for it in endpoints if it.get("branch_id") == branch["id"] and it.get("type") == "read_only"]
    if readers:
        awake = sum(it.get("current_state") == "active" for it in readers)
        notes.append(f"{len(readers)} read-only" + (f" ({awake} active)" if awake else ""))
    return ", ".join(notes)

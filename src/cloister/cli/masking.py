"""`cloister branches masking` and `anonymize`, and how masking rules are given on a command line."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeAlias

import click

from cloister.cli import output as out
from cloister.cli.api import Json, segment
from cloister.cli.failure import CommandError
from cloister.cli.output import Column
from cloister.cli.progress import Progress
from cloister.cli.session import Session, client_command, project_option, project_path, wait_option
from cloister.cli.waiting import wait_for

STATUS: Final = (
    Column("Branch", "branch_id"),
    Column("State", "state"),
    Column("Status", "status_message"),
    Column("Changed at", "updated_at"),
)
RULES: Final = (Column("Column", "column"), Column("Holds", "holds"))

Rules: TypeAlias = list[Json]

_RULE: Final = re.compile(
    r"(?P<database>[^.=]+)\.(?P<schema>[^.=]+)\.(?P<table>[^.=]+)\.(?P<column>[^.=]+)=(?P<holds>.*)", re.DOTALL
)
_FUNCTION: Final = re.compile(r"anon\.\w+\(.*\)", re.DOTALL)


def mask_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command `masks` and `mask_file`, for `rules_of`."""
    file = click.option(
        "--mask-file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        metavar="FILE",
        help='The same as JSON, with the API\'s names: [{"database_name": …, "masking_function": …}, …].',
    )
    mask = click.option(
        "--mask",
        "masks",
        multiple=True,
        metavar="RULE",
        help="What a column is to hold instead: DATABASE.SCHEMA.TABLE.COLUMN=FUNCTION or =VALUE. Once for each column.",
    )
    return mask(file(command))


def rules_of(masks: tuple[str, ...], file: Path | None) -> Rules:
    """As the API takes them. Raises CommandError."""
    rules: Rules = []
    if file is not None:
        try:
            rules = json.loads(file.read_text())
        except ValueError as error:
            raise CommandError(f"{file}: {error}") from None
        if not isinstance(rules, list):
            raise CommandError(f"{file}: a list of rules is wanted")
    return rules + [_rule(mask) for mask in masks]


def told(rules: Rules) -> list[Json]:
    """As a table shows them."""
    return [
        {
            "column": ".".join(rule[f"{name}_name"] for name in ("database", "schema", "table", "column")),
            "holds": rule.get("masking_function", rule.get("masking_value", "")),
        }
        for rule in rules
    ]


def _rule(text: str) -> Json:
    found = _RULE.fullmatch(text)
    if found is None:
        raise CommandError(
            f"{text!r} is no masking rule: DATABASE.SCHEMA.TABLE.COLUMN=FUNCTION (names with dots go into --mask-file)"
        )
    names = {f"{name}_name": found[name] for name in ("database", "schema", "table", "column")}
    kind = "masking_function" if _FUNCTION.fullmatch(found["holds"]) else "masking_value"
    return names | {kind: found["holds"]}


@click.command()
@click.argument("branch", metavar="BRANCH")
@project_option
@client_command
def masking(session: Session, *, branch: str, project_id: str | None) -> None:
    """Show how far the masking of a branch is, and by which rules."""
    path = _path(session, project_id, branch)
    status = session.api.get(f"{path}/anonymized_status")
    rules = session.api.get(f"{path}/masking_rules")["masking_rules"]
    if session.is_json:
        out.show_json(status | {"masking_rules": rules})
        return
    session.show(status, STATUS)
    click.echo()
    session.show_list(told(rules), RULES, empty="No rule.")


@click.command()
@click.argument("branch", metavar="BRANCH")
@mask_options
@project_option
@wait_option
@client_command
def anonymize(
    session: Session, *, branch: str, masks: tuple[str, ...], mask_file: Path | None, project_id: str | None, wait: bool
) -> None:
    """Mask a branch that was created to be masked, or whose masking failed.

    Its data is its parent's as of now. Rules that are given here take the place of all it had.

    \b
    cloister branches anonymize try-42 --mask 'shop.public.people.email=anon.partial_email(email)'
    """  # noqa: D301 - click leaves the lines after \b as they are
    path = _path(session, project_id, branch)
    if rules := rules_of(masks, mask_file):
        session.api.patch(f"{path}/masking_rules", {"masking_rules": rules})
    status = session.api.post(f"{path}/anonymize")
    if wait:
        with Progress("Masking the branch"):
            wait_for(session.api, _operations(session, path))
        status = session.api.get(f"{path}/anonymized_status")
    session.show(status, STATUS)


def _operations(session: Session, path: str) -> list[Json]:
    """Those of a branch that have not ended: this route's answer is Neon's, which names none."""
    project, _, branch_id = path.partition("/branches/")
    asked = session.api.get(f"{project}/operations", limit=100)["operations"]
    ended = ("finished", "failed", "error", "cancelled", "skipped")
    return [it for it in asked if it.get("branch_id") == branch_id and it["status"] not in ended]


def _path(session: Session, project_id: str | None, branch: str) -> str:
    project_id = session.project_id(project_id)
    return f"{project_path(project_id)}/branches/{segment(session.branch(project_id, branch)['id'])}"

"""`cloister operations`: the work that calls left behind."""

from typing import Any, Final

import click

from cloister.cli import output as out
from cloister.cli.api import segment
from cloister.cli.output import Column
from cloister.cli.session import Session, client_command, project_option, project_path


def _milliseconds(value: Any) -> str:
    return f"{value} ms"


COLUMNS: Final = (
    Column("Id", "id"),
    Column("Action", "action"),
    Column("Status", "status"),
    Column("Took", "total_duration_ms", _milliseconds),
    Column("Created", "created_at", out.ago),
)
DETAILS: Final = (
    *COLUMNS,
    Column("Branch", "branch_id"),
    Column("Endpoint", "endpoint_id"),
    Column("Failures", "failures_count"),
    Column("Error", "error"),
)


@click.group()
def operations() -> None:
    """List and show operations."""


@operations.command("list")
@project_option
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="How many.")
@client_command
def list_(session: Session, *, project_id: str | None, limit: int) -> None:
    """List a project's operations, newest first."""
    path = f"{project_path(session.project_id(project_id))}/operations"
    session.show_list(session.api.get(path, limit=limit).get("operations") or [], COLUMNS, empty="No operation.")


@operations.command()
@click.argument("operation_id", metavar="ID")
@project_option
@client_command
def get(session: Session, *, operation_id: str, project_id: str | None) -> None:
    """Show an operation."""
    path = f"{project_path(session.project_id(project_id))}/operations/{segment(operation_id)}"
    session.show(session.api.get(path)["operation"], DETAILS)

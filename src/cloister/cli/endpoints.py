"""`cloister endpoints`: the hosts that clients connect to, and the computes behind them."""

from typing import Final

import click

from cloister.cli import output as out
from cloister.cli.api import Json, segment
from cloister.cli.output import Column
from cloister.cli.projects import given
from cloister.cli.session import (
    ComputeUnits,
    Session,
    branch_option,
    client_command,
    project_option,
    project_path,
    wait_option,
)

COLUMNS: Final = (
    Column("Id", "id"),
    Column("State", "current_state"),
    Column("Type", "type"),
    Column("Min CU", "autoscaling_limit_min_cu"),
    Column("Max CU", "autoscaling_limit_max_cu"),
    Column("Suspends after", "suspend_timeout_seconds", out.seconds),
    Column("Last active", "last_active", out.ago),
    Column("Branch", "branch_id"),
)
DETAILS: Final = (
    Column("Host", "host"),
    *COLUMNS,
    Column("Disabled", "disabled"),
    Column("Created", "created_at", out.ago),
)


@click.group()
def endpoints() -> None:
    """List, create, change, start, suspend and delete endpoints."""


@endpoints.command("list")
@project_option
@client_command
def list_(session: Session, *, project_id: str | None) -> None:
    """List the endpoints of a project."""
    path = f"{project_path(session.project_id(project_id))}/endpoints"
    session.show_list(session.api.get(path).get("endpoints") or [], COLUMNS, empty="No endpoint.")


@endpoints.command()
@click.argument("endpoint_id", metavar="ID")
@project_option
@client_command
def get(session: Session, *, endpoint_id: str, project_id: str | None) -> None:
    """Show an endpoint."""
    session.show(session.api.get(_path(session, project_id, endpoint_id))["endpoint"], DETAILS)


@endpoints.command()
@branch_option
@project_option
@click.option("--type", "type_", type=click.Choice(["read_write", "read_only"]), default="read_write", help="Its kind.")
@click.option("--cu", type=ComputeUnits(), help="Size of its compute: 0.5, or a range 0.25-2.")
@click.option(
    "--suspend-timeout", type=int, metavar="SECONDS", help="Idle time before it sleeps; 0: default, -1: never."
)
@wait_option
@client_command
def create(
    session: Session,
    *,
    branch: str | None,
    project_id: str | None,
    type_: str,
    cu: Json | None,
    suspend_timeout: int | None,
    wait: bool,
) -> None:
    """Give a branch an endpoint."""
    project_id = session.project_id(project_id)
    endpoint = given(
        branch_id=session.branch(project_id, branch)["id"],
        type=type_,
        **(cu or {}),
        suspend_timeout_seconds=suspend_timeout,
    )
    answer = session.api.post(f"{project_path(project_id)}/endpoints", {"endpoint": endpoint})
    session.settle(answer, "Creating the endpoint", wait=wait)
    session.show(answer["endpoint"], DETAILS)


@endpoints.command()
@click.argument("endpoint_id", metavar="ID")
@project_option
@click.option("--cu", type=ComputeUnits(), help="Size of its compute: 0.5, or a range 0.25-2.")
@click.option(
    "--suspend-timeout", type=int, metavar="SECONDS", help="Idle time before it sleeps; 0: default, -1: never."
)
@click.option("--disable/--enable", "disabled", default=None, help="Refuse connections, or accept them again.")
@wait_option
@client_command
def update(
    session: Session,
    *,
    endpoint_id: str,
    project_id: str | None,
    cu: Json | None,
    suspend_timeout: int | None,
    disabled: bool | None,
    wait: bool,
) -> None:
    """Change an endpoint. What is not named stays as it is."""
    change = given(**(cu or {}), suspend_timeout_seconds=suspend_timeout, disabled=disabled)
    if not change:
        raise click.UsageError("nothing to change: give --cu, --suspend-timeout, --disable or --enable")
    path = _path(session, project_id, endpoint_id)
    answer = session.api.patch(path, {"endpoint": change})
    session.settle(answer, "Changing the endpoint", wait=wait)
    session.show(session.api.get(path)["endpoint"] if wait else answer["endpoint"], DETAILS)


@endpoints.command()
@click.argument("endpoint_id", metavar="ID")
@project_option
@wait_option
@client_command
def delete(session: Session, *, endpoint_id: str, project_id: str | None, wait: bool) -> None:
    """Delete an endpoint. The branch keeps its data."""
    answer = session.api.delete(_path(session, project_id, endpoint_id))
    if not answer:
        out.note("There was no such endpoint.")
        return
    session.settle(answer, "Deleting the endpoint", wait=wait)
    session.show(answer["endpoint"], DETAILS)


@endpoints.command()
@click.argument("endpoint_id", metavar="ID")
@project_option
@wait_option
@client_command
def start(session: Session, *, endpoint_id: str, project_id: str | None, wait: bool) -> None:
    """Wake an endpoint's compute. Connecting to it does the same."""
    _operate(session, project_id, endpoint_id, "start", "Starting the compute", wait=wait)


@endpoints.command()
@click.argument("endpoint_id", metavar="ID")
@project_option
@wait_option
@client_command
def suspend(session: Session, *, endpoint_id: str, project_id: str | None, wait: bool) -> None:
    """Put an endpoint's compute to sleep. Its sessions end; the next connection wakes it."""
    _operate(session, project_id, endpoint_id, "suspend", "Suspending the compute", wait=wait)


@endpoints.command()
@click.argument("endpoint_id", metavar="ID")
@project_option
@wait_option
@client_command
def restart(session: Session, *, endpoint_id: str, project_id: str | None, wait: bool) -> None:
    """Stop and start an endpoint's compute."""
    _operate(session, project_id, endpoint_id, "restart", "Restarting the compute", wait=wait)


def _operate(session: Session, project_id: str | None, endpoint_id: str, verb: str, doing: str, *, wait: bool) -> None:
    path = _path(session, project_id, endpoint_id)
    answer = session.api.post(f"{path}/{verb}")
    session.settle(answer, doing, wait=wait)
    # The answer is from before the work: what people want to see is what came of it.
    session.show(session.api.get(path)["endpoint"] if wait else answer["endpoint"], DETAILS)


def _path(session: Session, project_id: str | None, endpoint_id: str) -> str:
    return f"{project_path(session.project_id(project_id))}/endpoints/{segment(endpoint_id)}"

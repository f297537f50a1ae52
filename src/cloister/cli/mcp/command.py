"""`cloister mcp`: the server on standard input and output, as an MCP client starts it."""

import os
from datetime import timedelta
from pathlib import Path
from typing import Final

import click

from cloister.base.secret import Secret
from cloister.cli.failure import CommandError
from cloister.cli.mcp.bench import Bench
from cloister.cli.mcp.sql import PRODUCT
from cloister.cli.session import Session, project_option

LIFETIME_HOURS_MAX: Final = 30 * 24
# As far ahead as the API lets a branch expire.


@click.command()
@project_option
@click.option(
    "--role-name",
    metavar="NAME",
    help="Connect as this role, with the password in PGPASSWORD, to branches that the server did not make. "
    "Default: the database's owner, if the project stores passwords.",
)
@click.option(
    "--branch-hours",
    type=click.IntRange(1, LIFETIME_HOURS_MAX),
    default=24,
    show_default=True,
    help="After how many hours a branch that it made is deleted by itself.",
)
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Ask the platform of this machine that lives here.",
)
@click.pass_context
def mcp(
    ctx: click.Context, *, project_id: str | None, role_name: str | None, branch_hours: int, state_dir: Path | None
) -> None:
    """Serve databases to an AI agent, by the Model Context Protocol.

    It is not for people to type: an MCP client starts it and talks to it on standard input and output. Put this into the
    client's configuration, with a key made for it alone (cloister api-keys create --name agent):

    \b
    {"mcpServers": {"cloister": {
        "command": "cloister",
        "args": ["mcp", "--project-id", "calm-forest-12345678"],
        "env": {"CLOISTER_API_HOST": "https://db.example.com/api/v2",
                "CLOISTER_API_KEY": "napi_…",
                "CLOISTER_CA_FILE": "/path/ca.pem"}}}}

    The agent reads: projects, branches, schemas, and SQL in a transaction that cannot write. To change something it makes
    a branch, a copy that expires, and writes there. Branches that it did not make it can neither write to nor delete.

    Every call is in the audit log, as client cloister-mcp of that key; every session as application_name cloister-mcp:

    \b
    cloister audit list

    docs/mcp.md says what holds it back, and what does not.
    """  # noqa: D301 - click leaves the lines after \b as they are
    try:
        from cloister.cli.mcp.server import build  # noqa: PLC0415 - of an extra, which may be missing
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("mcp", "pydantic"):
            raise
        raise CommandError("the MCP library is not installed: pip install 'cloister[mcp]'") from None
    session = Session(state_dir or ctx.obj, "json", product=PRODUCT, signs=False)
    given = os.environ.get("PGPASSWORD")
    bench = Bench(
        session,
        project_id=project_id,
        role_name=role_name,
        password=Secret(given) if given else None,
        lifetime=timedelta(hours=branch_hours),
    )
    try:
        session.api.get("/users/me")  # a wrong key or host is said now, and not in the agent's first answer
        build(bench).run("stdio")
    finally:
        session.close()

"""`cloister down` and `cloister status`."""

from pathlib import Path
from typing import Any, Final

import click

from cloister.base.settings import STATE_DIR_DEFAULT
from cloister.cli import output as out
from cloister.cli.output import Column
from cloister.cli.progress import Progress


def _exports(states: Any) -> str:
    return "; ".join(f"{name} ({state})" for name, state in states.items()) or "nobody"


COLUMNS: Final = (
    Column("Ready", "ready"),
    Column("Version", "version"),
    Column("API", "api_url"),
    Column("Domain", "domain"),
    Column("PostgreSQL", "postgres"),
    Column("CA file", "ca_file"),
    Column("Admin key", "admin_key_file"),
    Column("Storage", "storage.driver"),
    Column("Cipher", "storage.cipher"),
    Column("Opener", "storage.opener"),
    Column("Computes running", "storage.running_computes"),
    Column("Volumes open", "storage.open_volumes"),
    Column("Free on disk", "storage.free_bytes", out.size),
    Column("Log sent to", "audit_exports", _exports),
)

state_dir_option = click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="The platform that lives here (default: /var/lib/cloister).",
)


@click.command()
@state_dir_option
@click.option("--now", is_flag=True, help="Do not let sessions and checkpoints finish: crash recovery follows.")
@click.pass_context
def down(ctx: click.Context, state_dir: Path | None, now: bool) -> int:
    """Stop the platform on this machine. Nothing committed is lost, either way.

    Where there is a store for backups, what was written since the last goes there before, within some seconds; --now sends nothing.
    """
    from cloister.app import operator  # noqa: PLC0415 - heavy

    with Progress(operator.STOPPING) as progress:
        lines = operator.down(directory(ctx, state_dir), now=now, tell=progress.say)
    for line in lines:
        click.echo(line, err=True)
    return 0


@click.command()
@state_dir_option
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_context
def status(ctx: click.Context, state_dir: Path | None, as_json: bool) -> int:
    """Show how the platform on this machine is. Exit code 0 if it is ready."""
    from cloister.app import operator  # noqa: PLC0415 - heavy

    found = operator.status(directory(ctx, state_dir))
    out.show_one(found, COLUMNS, output="json" if as_json else "table")
    return 0 if found["ready"] else 1


def directory(ctx: click.Context, given: Path | None) -> Path:
    return (given or ctx.obj or STATE_DIR_DEFAULT).absolute()

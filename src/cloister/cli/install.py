"""`cloister install`: a systemd unit, so that the platform starts with the machine."""

import re
import sys
from pathlib import Path
from typing import Final

import click

from cloister.cli.failure import CommandError
from cloister.cli.platform import directory, state_dir_option

UNIT_DIR: Final = Path("/etc/systemd/system")
_PLAIN: Final = re.compile(r"[A-Za-z0-9/._@+-]+")
# Systemd splits, expands and unescapes everything else.

_UNIT: Final = """\
[Unit]
Description=Cloister: a Postgres database for every tenant
Documentation=file://{docs}
Wants=network-online.target
After=network-online.target
RequiresMountsFor={state_dir}

[Service]
Type=exec
ExecStart={python} -P -m cloister up --state-dir {state_dir}
# Only the supervisor is told to stop: it ends sessions, computes and the control database in order.
KillMode=mixed
TimeoutStopSec=240
Restart=on-failure
RestartSec=1
# Computes get cgroups of their own below this unit's.
Delegate=yes
# `up` sets it as well. Here it is systemd's own, which writes what its units say whenever it reads them again.
MemorySwapMax=0
# A compute that ran out of memory must not take the platform along.
OOMPolicy=continue
TasksMax=infinity
LimitNOFILE=1048576
LimitCORE=0

[Install]
WantedBy=multi-user.target
"""


@click.command()
@state_dir_option
@click.option("--name", default="cloister", show_default=True, metavar="NAME", help="Name of the unit.")
@click.option("--print", "only_print", is_flag=True, help="Print the unit and write nothing.")
@click.pass_context
def install(ctx: click.Context, state_dir: Path | None, name: str, only_print: bool) -> None:
    """Write a systemd unit that runs `cloister up`. Settings stay in the state directory."""
    text = unit(directory(ctx, state_dir), Path(sys.executable))
    if only_print:
        click.echo(text, nl=False)
        return
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
        raise click.UsageError("--name may have letters, digits, _, . and - only")
    if not UNIT_DIR.is_dir():
        raise CommandError(
            f"{UNIT_DIR} does not exist: this machine does not run systemd; see `cloister install --print`"
        )
    path = UNIT_DIR / f"{name}.service"
    path.write_text(text)
    click.echo(f"{path} written. Start it, now and with the machine:")
    click.echo(f"  systemctl daemon-reload && systemctl enable --now {name}")


def unit(state_dir: Path, python: Path) -> str:
    """The text of the unit. Raises CommandError for a path that systemd would not take as it stands."""
    docs = Path(__file__).resolve().parents[3] / "docs" / "operating.md"
    for path in (state_dir, python):
        if not _PLAIN.fullmatch(str(path)):
            raise CommandError(f"a systemd unit cannot name {path}: use a path of letters, digits and /._@+-")
    shown = docs if _PLAIN.fullmatch(str(docs)) else "/"
    return _UNIT.format(state_dir=state_dir, python=python, docs=shown)

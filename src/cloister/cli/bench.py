"""`cloister bench`: the benchmarks of a checkout, which measure this machine."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from cloister.cli.failure import CommandError


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[NAME...] [--json FILE]")
def bench(arguments: Sequence[str]) -> None:
    """Measure this machine: wake, connect, throughput, create, branch, encryption, density."""
    checkout = Path(__file__).resolve().parents[3]
    if not (checkout / "benchmarks" / "__main__.py").is_file():
        raise CommandError("the benchmarks are part of a checkout of Cloister, and this is an installed package")
    os.chdir(checkout)
    os.execv(sys.executable, [sys.executable, "-m", "benchmarks", *arguments])  # noqa: S606 - an argument list, no shell

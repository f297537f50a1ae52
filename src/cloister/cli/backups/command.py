"""The command `cloister backups`."""

import click

from cloister.cli.backups.store import store


@click.group()
def backups() -> None:
    """Keep projects' history in a bucket of yours, and bring it back from there (docs/backups.md)."""


backups.add_command(store)

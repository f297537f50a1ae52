"""The command `cloister backups`."""

import click

from cloister.cli.backups.platform import recover_platform
from cloister.cli.backups.project import check, list_, now, off, on, restore
from cloister.cli.backups.store import store


@click.group()
def backups() -> None:
    """Keep projects' history in a bucket of yours, and bring it back from there (docs/backups.md).

    With a store set, every project is sent there by itself: what is written, within a minute; and once a day a base, from which all of
    that is replayed. Branches that were deleted for good come back from it, and projects whose volume is gone.

    \b
    cloister backups list                                  what is there, and how far behind
    cloister backups restore main --as look                main as far as was sent, as a branch of its own
    cloister backups restore main --at 2026-03-04T05:06:07Z
    cloister backups restore --whole                       every branch, where the project's volume is gone
    cloister backups check                                 read some of it back, now

    The control database goes there, too. A server that lost everything comes back with `recover-platform`, the root key and the keystore's
    backup.
    """  # noqa: D301 - click leaves the lines after \b as they are


for command in (list_, now, restore, check, off, on, recover_platform, store):
    backups.add_command(command)

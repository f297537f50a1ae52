"""Files of the sentinel's, with secrets in them, which root writes on the server: where alerts go, and who is sent the log."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from cloister.base.settings import Settings, load
from cloister.cli.failure import CommandError
from cloister.cli.session import Session

if TYPE_CHECKING:
    from cloister.cli.private_files import Note

ca_option: Final = click.option("--ca-file", default="", help="The CA of its certificate; default: the system's.")
private_option: Final = click.option(
    "--private", is_flag=True, help="It may be an address of this host or of a private network."
)


def settings(session: Session) -> Settings:
    place = session.state_dir
    if place is None or os.geteuid() != 0:
        raise CommandError("where the platform sends things is a file of the server's: run this there as root")
    return load(place)


def write(path: Path, wanted: Sequence[Any], note: "Note | None" = None) -> None:
    """Nobody's to read but the sentinel's."""
    import msgspec  # noqa: PLC0415 - heavy

    from cloister.base.identities import Service  # noqa: PLC0415 - heavy
    from cloister.cli import private_files  # noqa: PLC0415

    content = msgspec.json.format(msgspec.json.encode(wanted), indent=2) + b"\n"
    private_files.write(path, content, owner=Service.SENTINEL, note=note)

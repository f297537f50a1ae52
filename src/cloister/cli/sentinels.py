"""Files of the sentinel's, with secrets in them, which root writes on the server: where alerts go, and who is sent the log."""

import os
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import click

from cloister.base.settings import Settings, load
from cloister.cli.failure import CommandError
from cloister.cli.session import Session

ca_option: Final = click.option("--ca-file", default="", help="The CA of its certificate; default: the system's.")
private_option: Final = click.option(
    "--private", is_flag=True, help="It may be an address of this host or of a private network."
)


def settings(session: Session) -> Settings:
    place = session.state_dir
    if place is None or os.geteuid() != 0:
        raise CommandError("where the platform sends things is a file of the server's: run this there as root")
    return load(place)


def write(path: Path, wanted: Sequence[Any]) -> None:
    """Whole or not at all, and nobody's to read but the sentinel's from the first moment."""
    import msgspec  # noqa: PLC0415 - heavy

    from cloister.base.identities import Service, gid_of, uid_of  # noqa: PLC0415 - heavy

    # The directory is the sentinel's: a link that it put there is not followed, and an old file of that name is not reused.
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        temporary = f".{path.name}.{secrets.token_hex(4)}"
        opener: Callable[[str, int], int] = lambda name, flags: os.open(  # noqa: E731 - as open() wants it
            name, flags | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=directory
        )
        with open(temporary, "xb", opener=opener) as file:
            os.fchown(file.fileno(), uid_of(Service.SENTINEL), gid_of(Service.SENTINEL))
            file.write(msgspec.json.format(msgspec.json.encode(wanted), indent=2) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path.name, src_dir_fd=directory, dst_dir_fd=directory)
        os.fsync(directory)
    finally:
        os.close(directory)

"""`cloister keys backup`, `restore` and `drill`: the keystore, on another disk. On the server, as root."""

import asyncio
import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
import msgspec

from cloister.base.identities import Service, acting_as
from cloister.base.settings import Paths, load
from cloister.cli.failure import CommandError
from cloister.cli.platform import directory, state_dir_option

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cloister.trust.keys.backup import Backup
    from cloister.trust.keys.drill import Drilled
    from cloister.trust.keys.roots import Roots

FILE_NAME: Final = "cloister-keystore.backup"
"""One name: the next backup takes the place of the one before, whose seals may be of somebody who was erased since."""

MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a directory of our own in it, which no disk keeps

_ATTEMPTS: Final = 5
# A project may be made between the broker's answer and our look at the seals.

_SHARES: Final = click.option(
    "--share",
    "shares",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    metavar="FILE",
    help="A share of the root key (`cloister keys shares`), instead of the key on this server. Repeatable: as many as are enough.",
)
_FILE: Final = click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True), metavar="FILE")


@click.command()
@state_dir_option
@click.option(
    "--to",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE|DIR",
    help="Where to: on another disk than the data.",
)
@click.pass_context
def backup(ctx: click.Context, *, state_dir: Path | None, to: Path) -> None:
    """Copy the keystore, seals and epoch key, encrypted to the root key.

    Without the keystore nothing opens, whatever else was backed up: make one after each project that is made, and after each that is
    erased. It replaces the one that is there, and overwrites it. One that lies anywhere else from before an erasure still has what was
    erased: destroy it.
    """
    from cloister.trust.keys import backup as backups  # noqa: PLC0415 - heavy

    paths = _paths(ctx, state_dir)
    target = to / FILE_NAME if to.is_dir() else to
    if paths.state_dir.resolve() in [target.resolve(), *target.resolve().parents]:
        raise CommandError(f"{target} is beside the data, and is lost with it: another disk, or another host")
    if not target.parent.is_dir():
        raise CommandError(f"{target.parent} is no directory")
    made = _made(paths)
    _replace(target, msgspec.json.encode(made))
    known = backups.marked(paths.key_backup)
    drilled = (None, 0) if known is None else (known.drilled_at, known.drilled_epoch)
    backups.mark(
        paths.key_backup,
        backups.Marked(
            epoch=made.epoch,
            sha256=backups.digest(made.content),
            seals=len(made.seals),
            made_at=time.time(),
            to=str(target),
            drilled_at=drilled[0],
            drilled_epoch=drilled[1],
        ),
    )
    click.echo(f"{len(made.seals)} seals of epoch {made.epoch}, for the root key {made.root_version}, in {target}.")
    if target.stat().st_dev == paths.state_dir.stat().st_dev:
        click.echo("It is on the disk of the data: carry it elsewhere.")
    if known is not None and known.epoch < made.epoch:
        click.echo(f"Backups of epoch {known.epoch} have what was erased since: destroy them, wherever they are.")


@click.command()
@state_dir_option
@_FILE
@_SHARES
@click.option("--epoch", type=click.IntRange(min=1), help="The newest that you know of: an older backup is refused.")
@click.pass_context
def restore(
    ctx: click.Context, *, state_dir: Path | None, file: Path, shares: tuple[Path, ...], epoch: int | None
) -> None:
    """Put a backup in the place of a keystore that is gone. The platform is down.

    A keystore that is there is never replaced, and a backup from before the last erasure is refused: it would bring back what was
    erased. What is known of that lies on this server; where it is a new one, say --epoch: the newest that you know of, which each
    backup, each drill and `cloister keys providers` have said.
    """
    from cloister.trust.keys import backup as backups  # noqa: PLC0415 - heavy

    paths = _paths(ctx, state_dir)
    for each in (paths.keystore, paths.epochs):
        if not each.is_dir():
            raise CommandError(
                f"{each} is no directory: `cloister up` makes it, and then says that the keystore is missing"
            )
    newest = max(epoch or 0, _newest_known(paths))
    if not newest:
        raise CommandError("nothing here says how new a backup has to be: say --epoch, the newest that you know of")
    found = read(file)
    with _opened(paths, shares) as roots, acting_as(Service.KEYS):
        count = backups.restore(found, roots, paths.keystore, paths.epochs, newest_known=newest)
    click.echo(
        f"{count} seals of epoch {found.epoch} are back, as of {found.made_at}. `cloister up` starts the platform."
    )


@click.command()
@state_dir_option
@_FILE
@_SHARES
@click.pass_context
def drill(ctx: click.Context, *, state_dir: Path | None, file: Path, shares: tuple[Path, ...]) -> None:
    """See that a backup can be put back, and opens projects' keys: four times a year. Nothing is changed.

    It is put back into memory, every seal is opened, and of some projects the keys, which the audit log is told of before. No volume
    is opened. With --share the root key is what the shares give, not what lies here: the whole way back.
    """
    from cloister.trust.keys import backup as backups  # noqa: PLC0415 - heavy

    paths = _paths(ctx, state_dir)
    found = read(file)
    if not MEMORY.is_dir():
        raise CommandError(f"{MEMORY} is not there, and a drill is not put on a disk, which keeps it")
    scratch = Path(tempfile.mkdtemp(prefix="cloister-drill-", dir=MEMORY))
    try:
        with _opened(paths, shares) as roots:
            outcome = asyncio.run(_drilled(paths, found, roots, scratch, has_shares=bool(shares)))
    finally:
        shutil.rmtree(scratch)
    known = backups.marked(paths.key_backup)
    if known is not None:
        backups.mark(
            paths.key_backup, msgspec.structs.replace(known, drilled_at=time.time(), drilled_epoch=found.epoch)
        )
    by = f"{len(shares)} shares" if shares else "the root key here"
    click.echo(
        f"{outcome.seals} seals of epoch {outcome.epoch}, opened with {by}; the keys of {outcome.projects} projects open."
    )
    if outcome.later:
        click.echo(
            f"Projects that are not in it, and would be lost: {outcome.later}. Make another: cloister keys backup"
        )


async def _drilled(paths: Paths, found: "Backup", roots: "Roots", scratch: Path, *, has_shares: bool) -> "Drilled":
    from cloister.base.database.owner import connected  # noqa: PLC0415 - heavy
    from cloister.trust.keys.drill import drill as tried  # noqa: PLC0415

    async with connected(load(paths.state_dir)) as database:
        return await tried(database, found, roots, scratch, newest_known=_newest_known(paths), has_shares=has_shares)


# ── what it takes ──


def _paths(ctx: click.Context, state_dir: Path | None) -> Paths:
    if os.geteuid() != 0:
        raise CommandError("the keystore is handled by root, on the server itself")
    return load(directory(ctx, state_dir)).paths


def _newest_known(paths: Paths) -> int:
    """The epoch of the newest keystore that this server knows of; 0: of none."""
    from cloister.trust.keys import backup as backups  # noqa: PLC0415 - heavy
    from cloister.trust.keys.keystore import known_epochs  # noqa: PLC0415

    known = backups.marked(paths.key_backup)
    there = known_epochs(paths.epochs) if paths.epochs.is_dir() else set()
    return max([0 if known is None else known.epoch, *there])


def _made(paths: Paths) -> "Backup":
    """The broker's envelope, with the seals that it is bound to."""
    from cloister.trust.keys import backup as backups  # noqa: PLC0415 - heavy
    from cloister.trust.keys.client import KeyClient  # noqa: PLC0415
    from cloister.trust.keys.keystore import SEALS_FILE, Seals  # noqa: PLC0415

    client = KeyClient(paths.broker_socket)
    for _ in range(_ATTEMPTS):
        copy = asyncio.run(client.copy_keystore())
        content = (paths.keystore / SEALS_FILE).read_bytes()
        if backups.digest(content) == copy.sha256:
            return backups.Backup(
                format=backups.FORMAT,
                made_at=copy.made_at,
                epoch=copy.epoch,
                provider=copy.provider,
                root_version=copy.root_version,
                epoch_key=copy.epoch_key,
                seals=msgspec.json.decode(content, type=Seals).seals,
            )
    raise CommandError("the keystore changes all the time: try again")


def _replace(target: Path, content: bytes) -> None:
    """With its mode from the first moment; the one before is overwritten, as far as its disk does that."""
    from cloister.base.durable import write_durably  # noqa: PLC0415 - heavy

    old = None
    with contextlib.suppress(FileNotFoundError):
        old = os.open(target, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    write_durably(target, content, mode=0o600)
    if old is not None:
        try:
            os.pwrite(old, os.urandom(os.fstat(old).st_size), 0)
            os.fsync(old)
        finally:
            os.close(old)


def read(file: Path) -> "Backup":
    """Raises CommandError, PreconditionError."""
    from cloister.trust.keys import backup as backups  # noqa: PLC0415 - heavy

    if file.stat().st_size > backups.BYTES_MAX:
        raise CommandError(f"{file} is no backup of a keystore: it is larger than one can be")
    return backups.parse(file.read_bytes())


@contextlib.contextmanager
def _opened(paths: Paths, shares: tuple[Path, ...]) -> "Iterator[Roots]":
    """The root keys: from shares, or those of this server, whose files only the broker's user may read."""
    from cloister.cli.key_shares import key_of  # noqa: PLC0415 - heavy
    from cloister.trust.keys.memory import SecretPage  # noqa: PLC0415
    from cloister.trust.keys.providers import configuration  # noqa: PLC0415
    from cloister.trust.keys.providers.file import FileProvider  # noqa: PLC0415
    from cloister.trust.keys.providers.provider import KEY_BYTES  # noqa: PLC0415
    from cloister.trust.keys.roots import Roots  # noqa: PLC0415

    if shares:
        page = SecretPage(KEY_BYTES)
        page.buffer[:] = key_of(shares)
        roots = Roots(FileProvider.of(page))
    else:
        with acting_as(Service.KEYS):
            roots = configuration.open_roots(paths.key_providers, paths.root_key)
    try:
        yield roots
    finally:
        roots.close()

"""`cloister backups recover-platform`: a server that lost everything, from the store. As root, before the first `cloister up`."""

from datetime import datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from cloister.base.settings import Settings
from cloister.cli.backups.store import configured, store_options
from cloister.cli.failure import CommandError
from cloister.cli.platform import directory, state_dir_option
from cloister.cli.progress import Progress

if TYPE_CHECKING:
    from cloister.app.platform_recovery import Recovered

_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)


@click.command("recover-platform")
@click.argument("place", metavar="s3://BUCKET[/PREFIX]")
@store_options
@click.option(
    "--keystore", type=_FILE, required=True, metavar="FILE", help="The keystore's backup (`cloister keys backup`)."
)
@click.option(
    "--share",
    "shares",
    multiple=True,
    type=_FILE,
    metavar="FILE",
    help="A share of the root key. Repeatable: as many as are enough.",
)
@click.option("--root-key", type=_FILE, metavar="FILE", help="A copy of the root key's file, in place of shares.")
@click.option(
    "--epoch", type=click.IntRange(min=1), default=1, help="The newest that you know of: an older keystore is refused."
)
@click.option("--at", metavar="TIMESTAMP", help="The newest dump from before then. Default: the newest.")
@state_dir_option
@click.pass_context
def recover_platform(
    ctx: click.Context,
    /,
    *,
    place: str,
    credentials: IO[str],
    keystore: Path,
    shares: tuple[Path, ...],
    root_key: Path | None,
    epoch: int,
    at: str | None,
    state_dir: Path | None,
    **given: Any,
) -> None:
    """Bring the control database back on a server where there is no platform yet.

    It takes the store, the root key, and the keystore's backup, and nothing else. The newest dump there that this root key opens becomes
    the control database, and its audit log says so; projects come back after that, one by one, with `cloister backups restore --whole`. It is
    refused where there is a platform, or what is left of one.

    This server sends there from its first start on, and the one that did before sends no more as soon as it sees that, within a minute. To
    drill this while that one goes on, give a credentials file whose writer may put nothing.

    What was written after that dump is lost: an hour of settings, two minutes of keys and projects. A store may keep back its newest
    dumps, and nothing here shows that: compare with a witness of the log, or with what `cloister audit verify` said last.

    Refused by the store or by a key, or cut off, it leaves no platform: give it again. Until it has ended well `cloister up` is refused in
    that state directory, for it would make an empty one. For that, move the directory away.
    """
    import msgspec  # noqa: PLC0415 - heavy

    from cloister.app.platform_recovery import recover_platform as recovered  # noqa: PLC0415 - heavy
    from cloister.cli.key_backup import read  # noqa: PLC0415 - heavy
    from cloister.cli.key_shares import key_of  # noqa: PLC0415

    if shares and root_key:
        raise click.UsageError("the root key comes from shares, or from a file")
    moment = None if at is None else _moment(at)
    store = configured(place, credentials, given)
    key = key_of(shares) if shares else _read_root(root_key) if root_key else None
    sealed = read(keystore)
    settings = Settings(state_dir=str(directory(ctx, state_dir)))
    with Progress("Recovering the platform"):
        found = recovered(
            settings, msgspec.json.encode(store) + b"\n", key, sealed, epoch=epoch, at=moment, place=store.place
        )
    _tell(found)
    _tell_without_seal([each for each in found.projects if each[0] not in sealed.seals])


def _read_root(file: Path) -> bytes:
    from cloister.trust.keys.providers.provider import KEY_BYTES  # noqa: PLC0415 - heavy

    with file.open("rb") as opened:
        content = opened.read(KEY_BYTES + 1)
    if len(content) != KEY_BYTES:
        raise CommandError(f"{file} is no copy of a root key's file, which has {KEY_BYTES} bytes")
    return content


def _moment(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise CommandError(f"{text!r} is no timestamp like 2026-03-04T05:06:07Z")
    return moment.timestamp()


def _tell(found: "Recovered") -> None:
    moment = datetime.fromtimestamp(found.dump.moment).astimezone()
    click.echo(f"The control database is back as of {moment:%Y-%m-%d %H:%M:%S %Z}, up to event {found.seq} of its log.")
    if found.damaged:
        click.echo(
            f"warning: later dumps do not open with this root key, or are damaged: {', '.join(found.damaged)}", err=True
        )
    if found.dump.checkpoint is not None:
        click.echo(
            f"Its log had {found.dump.checkpoint.size} events signed as {found.dump.checkpoint.key.split('+')[0]}, and goes on under "
            "another name: whoever keeps checkpoints of the old one sees how much is missing."
        )
    click.echo("Now: `cloister up`, with the options that it had. Then, for each project:")
    for project_id, name in found.projects:
        click.echo(f"  cloister backups restore --whole --project-id {project_id}    # {name!r}")


def _tell_without_seal(projects: list[tuple[str, str]]) -> None:
    if projects:
        click.echo(
            f"warning: made after this backup of the keystore, which has no seal of theirs, so nothing opens their data: "
            f"{', '.join(f'{project_id} ({name!r})' for project_id, name in projects)}. If there is a newer backup of it: move the state "
            "directory away, and begin again with that one",
            err=True,
        )

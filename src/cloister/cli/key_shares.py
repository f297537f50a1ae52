"""`cloister keys shares`: the root key in several hands, on paper. On the server, as root; the platform need not run."""

import os
import sys
import time
from pathlib import Path
from typing import Final

import click
import msgspec

from cloister.base.identities import Service, gid_of, uid_of
from cloister.base.settings import Paths, load
from cloister.cli.failure import CommandError
from cloister.cli.platform import directory, state_dir_option

_WORDS_A_LINE: Final = 6
_PEOPLE: Final = click.IntRange(2, 16)

_FILES: Final = click.argument(
    "files", nargs=-1, type=click.Path(path_type=Path, dir_okay=False, exists=True), metavar="[FILE]..."
)


@click.group()
def shares() -> None:
    """Put the root key into several hands, on paper.

    Whoever loses the root key loses every project. `make` splits it into shares of 33 words: so many of them give it back, fewer say
    nothing about it. `try` is the drill, four times a year; `restore` is for the day on which the key is gone.

    They are for a root key in a file. One in an HSM or a cloud is backed up there, and a passphrase is remembered.
    """


@shares.command()
@state_dir_option
@click.option("--people", type=_PEOPLE, required=True, help="How many shares there are.")
@click.option("--enough", type=_PEOPLE, required=True, help="How many of them give the key.")
@click.option(
    "--to",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIRECTORY",
    help="Into files there, a share each, instead of one after the other on the terminal.",
)
@click.pass_context
def make(ctx: click.Context, *, state_dir: Path | None, people: int, enough: int, to: Path | None) -> None:
    """Split the root key among several people.

    On the terminal each share is shown alone, for one person to write down, and is cleared away before the next. Shares of
    an earlier time stay good: they are of the same key, but do not mix with the new ones.
    """
    from cloister.trust.keys.shares import Made, note, split  # noqa: PLC0415 - heavy

    paths = _paths(ctx, state_dir)
    if to is None and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise CommandError("shares are shown on a terminal, or written with --to DIRECTORY")
    key, version = _held(paths)
    made = split(key, people=people, enough=enough)
    if to is None:
        _show(made, enough)
    else:
        _write(made, to)
    now = time.time()
    note(paths.key_shares, Made(root_version=version, people=people, enough=enough, made_at=now, tried_at=now))
    click.echo(f"{people} shares of the root key {version}: any {enough} of them give it back.")
    click.echo("Keep them apart, and off this server. `cloister keys shares try` is the drill.")


@shares.command("try")
@state_dir_option
@_FILES
@click.pass_context
def try_(ctx: click.Context, *, state_dir: Path | None, files: tuple[Path, ...]) -> None:
    """See whether enough shares give the root key: the drill. Nothing is changed.

    Each FILE holds a share; without any the shares are asked for, and not shown as they are typed.
    """
    from cloister.trust.keys.shares import note, noted  # noqa: PLC0415 - heavy

    paths = _paths(ctx, state_dir)
    _, current = _held(paths)
    _, version, count = _joined(files)
    if version != current:
        raise CommandError(f"these are shares of the root key {version}, and {current} is in use: make new ones")
    known = noted(paths.key_shares)
    if known is not None and known.root_version == current:
        note(paths.key_shares, msgspec.structs.replace(known, tried_at=time.time()))
    click.echo(f"These {count} shares give the root key {version}, which is in use.")


@shares.command()
@state_dir_option
@_FILES
@click.pass_context
def restore(ctx: click.Context, *, state_dir: Path | None, files: tuple[Path, ...]) -> None:
    """Write the root key anew from enough shares, where it is gone.

    A key that is there is never replaced. Shares of another key than this platform's are refused where that is known; where it
    is not, the key broker finds out at the start.
    """
    from cloister.trust.keys.providers.file import write_private  # noqa: PLC0415 - heavy
    from cloister.trust.keys.shares import noted  # noqa: PLC0415

    paths = _paths(ctx, state_dir)
    path = _file(paths)
    if path.exists():
        raise CommandError(f"{path} is there: `cloister keys shares try` says whether shares give it")
    key, version, _ = _joined(files)
    known = noted(paths.key_shares)
    if known is not None and known.root_version != version:
        raise CommandError(f"these are shares of the root key {version}, and this platform's is {known.root_version}")
    write_private(path, key, uid=uid_of(Service.KEYS), gid=gid_of(Service.KEYS))
    click.echo(f"The root key {version} is in {path}. `cloister up` starts the platform.")


# ── the key ──


def _paths(ctx: click.Context, state_dir: Path | None) -> Paths:
    if os.geteuid() != 0:
        raise CommandError("the root key is handled by root, on the server itself")
    return load(directory(ctx, state_dir)).paths


def _file(paths: Paths) -> Path:
    from cloister.trust.keys.providers.configuration import file_of_root  # noqa: PLC0415 - heavy

    path = file_of_root(paths.key_providers, paths.root_key)
    if path is None:
        raise CommandError("the root key of this platform is not in a file: what holds it has to back it up")
    return path


def _held(paths: Paths) -> tuple[bytes, str]:
    """The root key in use, and its version."""
    from cloister.trust.keys.providers.provider import fingerprint  # noqa: PLC0415 - heavy

    path = _file(paths)
    if not path.exists():
        raise CommandError(f"{path} is gone: `cloister keys shares restore` writes it anew from shares")
    key = path.read_bytes()
    return key, fingerprint(key)


def key_of(files: tuple[Path, ...]) -> bytes:
    """What these shares give. Raises CommandError, BadRequestError."""
    return _joined(files)[0]


def _joined(files: tuple[Path, ...]) -> tuple[bytes, str, int]:
    """A key from shares, its version, and how many there were."""
    from cloister.trust.keys.providers.provider import KEY_BYTES, fingerprint  # noqa: PLC0415 - heavy
    from cloister.trust.keys.shares import join  # noqa: PLC0415

    brought = [_read(file) for file in files] if files else _asked()
    key = join(brought)
    if len(key) != KEY_BYTES:
        raise CommandError(f"these shares give {len(key)} bytes: no root key of a platform")
    return key, fingerprint(key), len(brought)


# ── shares, in and out ──


def _asked() -> list[str]:
    """From the terminal, or a line each from a pipe. The first one says how many are needed."""
    from cloister.trust.keys.shares import needed  # noqa: PLC0415 - heavy

    if not sys.stdin.isatty():
        return [line for line in sys.stdin.read().splitlines() if line.strip()]
    first = click.prompt("Share 1", hide_input=True)
    count = needed(first)
    return [first, *(click.prompt(f"Share {number} of {count}", hide_input=True) for number in range(2, count + 1))]


def _read(file: Path) -> str:
    """The words in it: what stands before a # in each line."""
    text = file.read_bytes().decode(errors="replace")
    return " ".join(line.partition("#")[0] for line in text.splitlines())


def _show(made: list[str], enough: int) -> None:
    for number, share in enumerate(made, 1):
        click.clear()
        click.echo(f"Share {number} of {len(made)}. {enough} are enough. Write it down, in this order:\n")
        click.echo(_laid_out(share))
        click.pause("\nPress a key when it is written down. It is not shown again.")
    click.clear()


def _write(made: list[str], directory: Path) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for number, share in enumerate(made, 1):
        descriptor = os.open(
            directory / f"share-{number}.txt", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600
        )
        with open(descriptor, "w") as file:
            file.write(f"# Share {number} of {len(made)} of a root key of Cloister\n{_laid_out(share)}\n")


def _laid_out(share: str) -> str:
    words = share.split()
    lines = (words[start : start + _WORDS_A_LINE] for start in range(0, len(words), _WORDS_A_LINE))
    return "\n".join(" ".join(f"{word:<9}" for word in line).rstrip() for line in lines)

"""`cloister backups store`: where backups go. A file on the server, which root writes and only the courier's user reads; the API
does not know it."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Any, Final, TypeVar

import click

from cloister.base.settings import Settings
from cloister.cli import buckets, sentinels
from cloister.cli.failure import CommandError
from cloister.cli.output import Column
from cloister.cli.session import Session, client_command

if TYPE_CHECKING:
    from cloister.cli.private_files import Note
    from cloister.node.backups.commands import Probed
    from cloister.node.backups.store import Store

F = TypeVar("F", bound=Callable[..., Any])

COLUMNS: Final = (
    Column("Place", "place"),
    Column("Region", "region"),
    Column("Endpoint", "endpoint"),
    Column("Writer", "writer"),
    Column("Reader", "reader"),
    Column("Encrypted there", "sse"),
    Column("CA file", "ca_file"),
    Column("May be private", "private"),
)


def store_options(command: F) -> F:
    """What says where a store is, and who we are there."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


_OPTIONS: Final[tuple[Callable[[Any], Any], ...]] = (
    click.option("--region", required=True, help="The bucket's region."),
    click.option("--endpoint", default="", metavar="URL", help="Of a store that is not AWS's: https://HOST[:PORT]."),
    click.option(
        "--credentials",
        type=click.File("r"),
        required=True,
        help="A file as AWS's tools have it, with the profiles [writer] and [reader]; - reads it from stdin. It is read once.",
    ),
    click.option(
        "--sse/--no-sse",
        default=True,
        show_default=True,
        help="Have the store encrypt what it gets, beside us. Some do not know how, and refuse it.",
    ),
    sentinels.ca_option,
    sentinels.private_option,
)


def configured(place: str, credentials: IO[str], given: dict[str, Any]) -> "Store":
    """What the options say, as the courier reads it. Raises CommandError, BadRequestError."""
    import msgspec  # noqa: PLC0415 - heavy

    from cloister.node.backups import store as config  # noqa: PLC0415 - heavy

    bucket, prefix = buckets.place(place)
    text, where = credentials.read(), credentials.name
    keys = {name: buckets.credentials(text, where, name) for name in ("writer", "reader")}
    try:
        return msgspec.convert(
            {
                **given,
                "bucket": bucket,
                "prefix": prefix,
                "endpoint": given["endpoint"].rstrip("/"),
                **{name: {"key_id": key, "secret_key": secret} for name, (key, secret) in keys.items()},
            },
            config.Store,
        ).checked()
    except msgspec.ValidationError as error:
        raise CommandError(f"this store cannot be: {error}") from error


@click.group()
def store() -> None:
    """Say where backups go: a bucket that keeps every version and locks it. On the server, as root.

    The bucket is made with object lock, which most stores turn on only then. Never put the keystore's backup or a copy of the root key
    into it, nor where the same people reach it: whoever has them and it has everything. With AWS's own command:

    \b
      aws s3api create-bucket --bucket BUCKET --object-lock-enabled-for-bucket …
      aws s3api put-bucket-lifecycle-configuration --bucket BUCKET --lifecycle-configuration '{
        "Rules": [{"ID": "cloister", "Status": "Enabled", "Filter": {"Prefix": "PREFIX/"},
          "Expiration": {"Days": 38}, "NoncurrentVersionExpiration": {"NoncurrentDays": 1}}]}'

    Object lock turns versions on. Each object is put with a lock of its own, in the mode COMPLIANCE: the bucket needs no default.
    What is still needed after 30 days is put again before its lock ends; the rule removes the rest.

    Two credentials, of two users. The writer's policy, for what runs all the time:

    \b
      {"Version": "2012-10-17", "Statement": [{"Effect": "Allow",
        "Action": ["s3:PutObject", "s3:PutObjectRetention"], "Resource": "arn:aws:s3:::BUCKET/PREFIX/*"}]}

    And the reader's, for a restore, for the daily sample, and to see how the bucket is made:

    \b
      {"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Resource": "arn:aws:s3:::BUCKET/PREFIX/*",
         "Action": ["s3:GetObject", "s3:GetObjectVersion", "s3:GetObjectRetention"]},
        {"Effect": "Allow", "Resource": "arn:aws:s3:::BUCKET",
         "Action": ["s3:ListBucket", "s3:ListBucketVersions", "s3:GetBucketVersioning",
           "s3:GetBucketObjectLockConfiguration", "s3:GetLifecycleConfiguration", "s3:GetEncryptionConfiguration"]}]}
    """  # noqa: D301


@store.command("set")
@click.argument("place", metavar="s3://BUCKET[/PREFIX]")
@store_options
@click.option(
    "--take-over",
    is_flag=True,
    help="Send there though another platform did, such as one that was restored from there.",
)
@client_command
def set_(session: Session, /, *, place: str, credentials: IO[str], take_over: bool, **given: Any) -> None:
    """Send backups of all projects to this bucket, from now on; what is in another stays there until its lock ends.

    One platform sends into a place at a time. With --take-over it is this one from now on: the other sees that within a minute, sends no
    more, and says so.

    The credentials are kept on this server, in a file for the courier's user alone. They can put objects there and get them, and take
    none away. Everything in an object is encrypted here, with a key of its project's.

    \b
      [writer]
      aws_access_key_id = …
      aws_secret_access_key = …
      [reader]
      …
    """  # noqa: D301
    import msgspec  # noqa: PLC0415 - heavy

    from cloister.base.identities import Service  # noqa: PLC0415 - heavy
    from cloister.cli import private_files  # noqa: PLC0415
    from cloister.node.backups import senders  # noqa: PLC0415 - heavy

    settings = sentinels.settings(session)
    made = configured(place, credentials, given)
    note = _noted(settings, made, "store.set", **({"take_over": True} if take_over else {}))
    private_files.write(settings.paths.store_file, msgspec.json.encode(made) + b"\n", owner=Service.COURIER, note=note)
    if take_over:
        senders.take_over(settings.paths)
    click.echo(f"Backups go to {made.place}. `cloister backups store test` says whether it keeps them.", err=True)


@store.command()
@client_command
def show(session: Session) -> None:
    """Show where backups go, and with which credentials, without the secrets."""
    settings = sentinels.settings(session)
    found = _read(settings)
    session.show(
        {
            "place": found.place,
            "region": found.region,
            "endpoint": found.endpoint,
            "writer": found.writer.key_id,
            "reader": found.reader.key_id,
            "sse": found.sse,
            "ca_file": found.ca_file,
            "private": found.private,
        },
        COLUMNS,
    )


@store.command()
@client_command
def test(session: Session) -> None:
    """Put an object of 32 bytes, get it back, and try to take it away, with each credential. Exit code 1 where that is no store for
    backups. What was put stays for a day, for it is locked."""
    import msgspec  # noqa: PLC0415 - heavy

    from cloister.base.rpc import Client  # noqa: PLC0415 - heavy
    from cloister.node.backups.commands import CALL_TIMEOUT_S, ProbeStore  # noqa: PLC0415 - heavy

    settings = sentinels.settings(session)
    found = _read(settings)

    async def probed() -> "Probed":
        client = Client(settings.paths.courier_socket)
        try:
            return await client.call(ProbeStore(), timeout_s=CALL_TIMEOUT_S)
        finally:
            await client.close()

    seen = asyncio.run(probed())
    if session.is_json:
        session.show(msgspec.to_builtins(seen), ())
    else:
        _tell(found, seen)
    if seen.problems:
        raise CommandError(f"{found.place}: {'; '.join(seen.problems)}")


def _tell(found: "Store", seen: "Probed") -> None:
    facts = seen.facts
    if seen.locked_until is not None:
        until = datetime.fromtimestamp(seen.locked_until, UTC)
        click.echo(
            f"{found.place} keeps every version. {seen.key} is there, and locked until {until:%Y-%m-%d %H:%M} UTC."
        )
    if not seen.problems:
        click.echo(
            "The store encrypts it, too." if seen.is_encrypted else "The store does not say that it encrypts it."
        )
        if facts.kept_days is None:
            click.echo(
                "warning: nothing is known to remove what is old: `cloister backups store --help` has the lifecycle rule",
                err=True,
            )
        else:
            click.echo(f"What is old goes after {facts.kept_days} days.")
    for each in seen.warnings:
        click.echo(f"warning: {each}", err=True)


@store.command()
@client_command
def remove(session: Session) -> None:
    """Send nothing more. What is in the bucket stays there until its lock ends, and cannot be restored until the store is set again."""
    from cloister.cli import private_files  # noqa: PLC0415

    settings = sentinels.settings(session)
    found = _read(settings)
    private_files.remove(settings.paths.store_file, note=_noted(settings, found, "store.remove"))


def _read(settings: Settings) -> "Store":
    from cloister.node.backups import store as config  # noqa: PLC0415 - heavy

    return config.read(settings.paths.store_file)


def _noted(settings: Settings, found: "Store", action: str, **more: object) -> "Note":
    from cloister.cli import private_files  # noqa: PLC0415 - heavy

    return private_files.noted(settings, action, found.place, to=found.place, writer=found.writer.key_id, **more)

"""`cloister audit export-to`: who is sent the audit log. A file on the server, which root writes and only the sentinel's user
reads; the API does not know it. Each change is an event, and so is sent."""

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from cloister.base.settings import Settings
from cloister.cli import buckets, sentinels
from cloister.cli.failure import CommandError
from cloister.cli.output import Column
from cloister.cli.session import Session, client_command

if TYPE_CHECKING:
    from cloister.cli.private_files import Note
    from cloister.trust.audit.targets import Target

COLUMNS: Final = (
    Column("Name", "name"),
    Column("Kind", "type"),
    Column("To", "to", may_cut=True),
    Column("Took up to", "seq"),
    Column("Behind", "behind"),
    Column("State", "state", may_cut=True),
)
_AFTER = click.option(
    "--after", type=click.IntRange(min=0), metavar="SEQ",
    help="Send what came after this event; 0 sends the whole log. Default: from now on.",
)  # fmt: skip


def _bucket_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        sentinels.private_option,
        sentinels.ca_option,
        click.option(
            "--credentials", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True,
            help="A file as AWS's tools have it: aws_access_key_id and aws_secret_access_key. It is read once.",
        ),
        click.option("--endpoint", default="", metavar="URL", help="Of a store that is not AWS's: https://HOST[:PORT]."),
        click.option("--region", required=True, help="The bucket's region."),
    ):  # fmt: skip
        command = option(command)
    return command


@click.group("export-to")
def export_to() -> None:
    """Send the audit log on, as it grows, in OCSF: to a webhook, to syslog, to OpenTelemetry, to S3. On the server, as root.

    Each target gets every event, in order, at least once. One that is away gets all it missed when it is back, for the log
    keeps it; nothing waits for it.
    """


@export_to.command("list")
@client_command
def list_(session: Session) -> None:
    """List targets: how far each is, and why it does not take more."""
    settings = sentinels.settings(session)
    rows = asyncio.run(_rows(settings, _read(settings)))
    session.show_list(rows, COLUMNS, empty="The audit log is sent to nobody.")


@export_to.command("add-webhook")
@click.argument("name")
@click.argument("url")
@_AFTER
@sentinels.ca_option
@sentinels.private_option
@client_command
def add_webhook(session: Session, /, **given: Any) -> None:
    """POST batches of events to URL, signed (docs/audit.md). Prints the secret to verify with, once."""
    secret = secrets.token_hex(32)
    _add(session, "webhook", {**given, "secret": secret})
    click.echo(secret)


@export_to.command("add-syslog")
@click.argument("name")
@click.option("--host", required=True, help="The syslog server.")
@click.option("--port", type=int, default=6514, show_default=True, help="Its port.")
@_AFTER
@sentinels.ca_option
@sentinels.private_option
@client_command
def add_syslog(session: Session, /, **given: Any) -> None:
    """Send each event as a line of syslog (RFC 5424 over TLS)."""
    _add(session, "syslog", given)


@export_to.command("add-otlp")
@click.argument("name")
@click.argument("url")
@click.option(
    "--headers-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Lines NAME: VALUE, sent with each call: who we are, to the collector.",
)
@_AFTER
@sentinels.ca_option
@sentinels.private_option
@client_command
def add_otlp(session: Session, /, *, headers_file: Path | None, **given: Any) -> None:
    """POST events to URL as OpenTelemetry's logs (OTLP over HTTP, JSON): https://HOST:4318/v1/logs, say."""
    _add(session, "otlp", {**given, "headers": {} if headers_file is None else _headers(headers_file)})


@export_to.command("add-s3")
@click.argument("name")
@click.argument("place", metavar="s3://BUCKET[/PREFIX]")
@_bucket_options
@click.option(
    "--retain-days",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Lock each object so long that nobody can delete it; 0: not at all.",
)
@_AFTER
@client_command
def add_s3(session: Session, /, **given: Any) -> None:
    """Put events into a bucket, as objects with an event a line. An object is put when its first event is a minute old."""
    _add(session, "s3", _in_bucket(given))


@export_to.command("add-witness")
@click.argument("name")
@click.argument("place", metavar="s3://BUCKET[/PREFIX]")
@_bucket_options
@click.option(
    "--retain-days",
    type=click.IntRange(min=1),
    default=400,
    show_default=True,
    help="Nobody can delete a checkpoint for so long.",
)
@click.option(
    "--every",
    "every_s",
    type=click.IntRange(5, 86_400),
    default=300,
    show_default=True,
    metavar="SECONDS",
    help="How often a checkpoint is put, if there is a new one.",
)
@client_command
def add_witness(session: Session, /, **given: Any) -> None:
    """Put signed checkpoints into a bucket with object lock, where nobody can delete them: `cloister audit verify --witness NAME`
    then finds a log that was rolled back, even if this whole server was.

    The bucket must have been made with object lock. Checkpoints are five lines without secrets.
    """
    _add(session, "witness", _in_bucket({**given, "after": 0}))


@export_to.command()
@click.argument("name")
@client_command
def remove(session: Session, *, name: str) -> None:
    """Send it nothing more."""
    settings = sentinels.settings(session)
    target = _find(settings, name)
    kept = [each for each in _read(settings) if each.name != name]
    sentinels.write(settings.paths.audit_exports, kept, _noted(settings, target, "export.remove"))
    asyncio.run(_forget(settings, target))


@export_to.command()
@click.argument("name")
@client_command
def test(session: Session, *, name: str) -> None:
    """Send one event that says that it is a test, now, and say what the receiver answered. A witness gets the last checkpoint."""
    from cloister.trust.audit.events import Event, timestamp, written  # noqa: PLC0415 - heavy
    from cloister.trust.audit.forwarder import attempt  # noqa: PLC0415 - heavy
    from cloister.trust.audit.ocsf import encoded  # noqa: PLC0415 - heavy
    from cloister.trust.keys.notary import read_last  # noqa: PLC0415 - heavy

    settings = sentinels.settings(session)
    target = _find(settings, name)
    event = Event(action="export.test", actor="platform:root", at=timestamp(datetime.now(UTC)), resource=name)
    made = encoded(0, *written(event), secrets.token_bytes(32), origin=settings.domain)
    signed = read_last(settings.paths.notary)
    if error := asyncio.run(attempt(target, [made], origin=settings.domain, signed=signed)):
        raise CommandError(f"{name}: {error}")
    click.echo(f"{name} took it")


def _add(session: Session, kind: str, given: dict[str, Any]) -> None:
    import msgspec  # noqa: PLC0415 - heavy

    from cloister.trust.audit import targets as config  # noqa: PLC0415 - heavy

    settings = sentinels.settings(session)
    if given["after"] is None:
        given["after"] = asyncio.run(_head(settings))
    try:
        made: Target = msgspec.convert({"type": kind, **given}, config.Target)
    except msgspec.ValidationError as error:
        raise CommandError(f"this target cannot be: {error}") from error
    wanted = config.checked([*_read(settings), made])
    asyncio.run(_forget(settings, made))
    sentinels.write(settings.paths.audit_exports, wanted, _noted(settings, made, "export.add"))


def _in_bucket(given: dict[str, Any]) -> dict[str, Any]:
    """What the target's file has of these options."""
    bucket, prefix = buckets.place(given.pop("place"))
    path = given.pop("credentials")
    key_id, secret_key = buckets.credentials(path.read_text(errors="replace"), str(path))
    keys = {"key_id": key_id, "secret_key": secret_key, "endpoint": given["endpoint"].rstrip("/")}
    return {**given, **keys, "bucket": bucket, "prefix": prefix}


def _headers(path: Path) -> dict[str, str]:
    pairs = [line.partition(":") for line in path.read_text().splitlines() if line.strip()]
    return {name.strip(): value.strip() for name, _, value in pairs}


def _read(settings: Settings) -> "list[Target]":
    from cloister.trust.audit import targets as config  # noqa: PLC0415 - heavy

    return config.read(settings.paths.audit_exports)


def _find(settings: Settings, name: str) -> "Target":
    target = next((each for each in _read(settings) if each.name == name), None)
    if target is None:
        raise CommandError(f"there is no target {name!r}")
    return target


async def _head(settings: Settings) -> int:
    from cloister.base.database.owner import connected  # noqa: PLC0415 - heavy

    async with connected(settings) as database, database.reading() as tx:
        return int(await tx.fetch_value("SELECT seq FROM cloister.audit_head"))


def _noted(settings: Settings, target: "Target", action: str) -> "Note":
    from cloister.cli import private_files  # noqa: PLC0415 - heavy

    return private_files.noted(settings, action, target.name, to=target.place, after=target.after)


async def _forget(settings: Settings, target: "Target") -> None:
    """How far a target of this name was, while none is served: what is behind holds up pruning, and a new one begins anew."""
    from cloister.base.database.owner import connected  # noqa: PLC0415 - heavy

    async with connected(settings) as database, database.transaction() as tx:
        await tx.execute("DELETE FROM cloister.audit_export WHERE name = $1", target.name)


async def _rows(settings: Settings, targets: "list[Target]") -> list[dict[str, Any]]:
    from cloister.base.database.owner import connected  # noqa: PLC0415 - heavy
    from cloister.trust.audit.forwarder import progress  # noqa: PLC0415 - heavy

    async with connected(settings) as database, database.reading() as tx:
        found = await progress(tx, targets)
    return [
        {**asdict(each), "failed_since": each.failed_since and each.failed_since.isoformat(), "state": each.state}
        for each in found
    ]

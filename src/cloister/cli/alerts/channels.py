"""`cloister alerts channels`: where alerts go. A file on the server, which root writes and only the sentinel's user reads; the
API does not know it."""

import asyncio
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from cloister.base.settings import Settings
from cloister.cli import sentinels
from cloister.cli.failure import CommandError
from cloister.cli.output import Column
from cloister.cli.session import Session, client_command

if TYPE_CHECKING:
    from cloister.trust.sentinel.channels import Channel

COLUMNS: Final = (
    Column("Name", "name"),
    Column("Kind", "type"),
    Column("To", "to", may_cut=True),
    Column("From level", "level"),
)
_LEVEL = click.option(
    "--level", type=click.Choice(["low", "medium", "high", "critical"]), default="low", show_default=True,
    help="The least that is told here.",
)  # fmt: skip


@click.group()
def channels() -> None:
    """Say where alerts go: webhook, mail, syslog; and the dead man's switch. On the server, as root."""


@channels.command("list")
@client_command
def list_(session: Session) -> None:
    """List channels, without their secrets."""
    session.show_list(
        [_shown(each) for each in _read(sentinels.settings(session))], COLUMNS, empty="Nobody is told of anything."
    )


@channels.command("add-webhook")
@click.argument("name")
@click.argument("url")
@_LEVEL
@sentinels.ca_option
@sentinels.private_option
@client_command
def add_webhook(session: Session, /, **given: Any) -> None:
    """POST each finding as JSON to URL, signed (docs/alerts.md). Prints the secret to verify with, once."""
    secret = secrets.token_hex(32)
    _add(session, "webhook", {**given, "secret": secret})
    click.echo(secret)


@channels.command("add-mail")
@click.argument("name")
@click.option("--host", required=True, help="The mail server.")
@click.option("--port", type=int, default=587, show_default=True, help="Its port.")
@click.option(
    "--tls",
    type=click.Choice(["starttls", "implicit"]),
    default="starttls",
    show_default=True,
    help="Before the first word.",
)
@click.option("--from", "sender", required=True, metavar="ADDRESS", help="The sender.")
@click.option("--to", "to", required=True, multiple=True, metavar="ADDRESS", help="Repeatable.")
@click.option("--username", default="", help="If the server wants a login.")
@click.option("--password-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Its password.")
@_LEVEL
@click.option(
    "--people",
    is_flag=True,
    help="Also to whom a finding is about, such as the first passkey of their account. Whatever its level.",
)
@sentinels.ca_option
@sentinels.private_option
@client_command
def add_mail(session: Session, /, *, password_file: Path | None, to: Sequence[str], **given: Any) -> None:
    """Send each finding as a mail. Never without TLS."""
    password = password_file.read_text().strip() if password_file else ""
    _add(session, "mail", {**given, "to": list(to), "password": password})


@channels.command("add-syslog")
@click.argument("name")
@click.option("--host", required=True, help="The syslog server.")
@click.option("--port", type=int, default=6514, show_default=True, help="Its port.")
@_LEVEL
@sentinels.ca_option
@sentinels.private_option
@client_command
def add_syslog(session: Session, /, **given: Any) -> None:
    """Send each finding as a line of syslog (RFC 5424 over TLS)."""
    _add(session, "syslog", given)


@channels.command("add-heartbeat")
@click.argument("name")
@click.argument("url")
@click.option("--every", "every_s", type=click.IntRange(10, 86_400), default=60, show_default=True, help="Seconds.")
@sentinels.ca_option
@sentinels.private_option
@client_command
def add_heartbeat(session: Session, /, **given: Any) -> None:
    """Call URL while the sentinel is well. Whoever owns it raises the alarm when it is called no more."""
    _add(session, "heartbeat", given)


@channels.command()
@click.argument("name")
@client_command
def remove(session: Session, *, name: str) -> None:
    """Remove a channel. What was not delivered there is given up."""
    settings = sentinels.settings(session)
    before = _read(settings)
    after = [each for each in before if each.name != name]
    if len(after) == len(before):
        raise CommandError(f"there is no channel {name!r}")
    _write(settings, after)


@channels.command()
@click.argument("name")
@client_command
def test(session: Session, *, name: str) -> None:
    """Send a test to one channel, now, and say what its receiver answered."""
    from cloister.trust.sentinel.delivery import attempt  # noqa: PLC0415 - heavy

    channel = next((each for each in _read(sentinels.settings(session)) if each.name == name), None)
    if channel is None:
        raise CommandError(f"there is no channel {name!r}")
    now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    finding = {"id": "fd-000000000000", "rule": "test", "level": "low", "title": "A test of this channel", "is_test": True,
               "summary": "Somebody ran `cloister alerts channels test`", "response": "Nothing.", "subject": {}, "alarms": 1,
               "first_seq": 0, "last_seq": 0, "first_at": now, "last_at": now}  # fmt: skip
    if error := asyncio.run(attempt(channel, finding, "raised", 0)):
        raise CommandError(f"{name}: {error}")
    click.echo(f"{name} took it")


def _add(session: Session, kind: str, given: dict[str, Any]) -> None:
    import msgspec  # noqa: PLC0415 - heavy

    from cloister.trust.sentinel import channels as config  # noqa: PLC0415 - heavy

    settings = sentinels.settings(session)
    try:
        made: Channel = msgspec.convert({"type": kind, **given}, config.Channel)
    except msgspec.ValidationError as error:
        raise CommandError(f"this channel cannot be: {error}") from error
    _write(settings, config.checked([*_read(settings), made]))


def _read(settings: Settings) -> "list[Channel]":
    from cloister.trust.sentinel import channels as config  # noqa: PLC0415 - heavy

    return config.read(settings.paths.alert_channels)


def _write(settings: Settings, wanted: "Sequence[Channel]") -> None:
    sentinels.write(settings.paths.alert_channels, wanted)


def _shown(channel: "Channel") -> dict[str, Any]:
    given = {name: getattr(channel, name) for name in channel.__struct_fields__ if name not in ("secret", "password")}
    to = given.get("url") or f"{given.get('host')}:{given.get('port')}"
    if isinstance(given.get("to"), list):
        to = f"{', '.join(given['to'])} by {to}"
    return {**given, "type": channel.__struct_config__.tag, "to": to}

"""`cloister up`: options into settings, then the supervisor of `app/` takes over.

A platform keeps its settings: a second `up` without options uses those of the first. What cannot be changed under data
that exists is refused here, before anything is touched.
"""

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from cloister.base.errors import BadRequestError, PreconditionError
from cloister.base.ipallow import AllowList
from cloister.base.settings import STATE_DIR_DEFAULT, Address, Settings, load
from cloister.cli.progress import Progress

FIXED: Final[Mapping[str, str]] = {
    "storage": "the volumes that exist are of the other kind",
    "database_url": "the control database would be another, without your projects",
}
"""Settings that a platform keeps for life, each with the reason."""


class AddressType(click.ParamType[Address]):
    name = "HOST:PORT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Address:
        if isinstance(value, Address):
            return value
        try:
            return Address.parse(str(value))
        except BadRequestError as error:
            self.fail(error.public, param, ctx)


@click.command()
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where everything lives (default: /var/lib/cloister).",
)
@click.option("--domain", metavar="NAME", help="Endpoints are ep-….NAME (default: db.localhost).")
@click.option("--listen-postgres", type=AddressType(), help="For PostgreSQL clients (default: :5432, every address).")
@click.option("--listen-https", type=AddressType(), help="For the HTTP API (default: :443, every address).")
@click.option(
    "--storage", type=click.Choice(["luks", "plain"]), help="Encrypted volumes (default), or plain directories."
)
@click.option(
    "--opener", type=click.Choice(["auto", "dm-crypt", "qemu-storage-daemon"]), help="What opens a LUKS volume."
)
@click.option(
    "--open-swap",
    type=click.Choice(["refuse", "allow"]),
    help="Whether to start where memory may be swapped to a disk in clear (refuse).",
)
@click.option(
    "--repair-days",
    type=click.IntRange(1, 365),
    metavar="DAYS",
    help="How long a security update of this server may wait before it is a finding (14).",
)
@click.option("--gateway-workers", type=int, metavar="N", help="Gateway processes (default: 2).")
@click.option(
    "--database-url",
    metavar="DSN",
    envvar="CLOISTER_DATABASE_URL",
    help="An external control database instead of the embedded one. With a password in it: set CLOISTER_DATABASE_URL.",
)
@click.option("--tls-cert", "tls_cert_file", metavar="FILE", help="Your own certificate with its chain, PEM.")
@click.option("--tls-key", "tls_key_file", metavar="FILE", help="Its private key, PEM.")
@click.option(
    "--proxy-protocol-from", multiple=True, metavar="ADDRESS", help="A load balancer that sends PROXY v2. Repeatable."
)
@click.option(
    "--jwks-network",
    "jwks_networks",
    multiple=True,
    metavar="ADDRESS",
    help="A private address or network where JWKS URLs may lead (default: public ones only). Repeatable.",
)
@click.option(
    "--jwks-ca", "jwks_authority", metavar="FILE", help="An authority to trust for JWKS URLs, PEM; read now and kept."
)
@click.option(
    "--suspend-timeout", "suspend_timeout_s", type=int, metavar="SECONDS", help="Idle time before sleep (300)."
)
@click.option(
    "--idle-check-interval", "idle_check_interval_s", type=float, metavar="SECONDS", help="How often to look (5)."
)
@click.option("--store-passwords/--no-store-passwords", default=None, help="Default of new projects (no).")
@click.option(
    "--password-policy", type=click.Choice(["strict", "neon"]), help="How passwords' 60 bits are counted (strict)."
)
@click.option("--pool-volumes", type=click.IntRange(0, 1000), metavar="N", help="Volumes kept ready (default: 3).")
@click.option("--volume-size", "volume_bytes", type=int, metavar="BYTES", help="Largest size of a project (64 GiB).")
@click.option(
    "--egress-allow",
    multiple=True,
    metavar="NETWORK",
    help="A private network that projects' ways out may lead to (none). Repeatable.",
)
@click.option("--region-id", metavar="ID", help="What the API calls this place (self-hosted).")
@click.option("--detach", is_flag=True, help="Return when it is ready, and leave it running.")
@click.pass_context
def up(ctx: click.Context, /, state_dir: Path | None, *, detach: bool, **options: Any) -> int:
    """Start the platform on this machine.

    Settings are kept in the state directory: next time, `cloister up` alone starts the same platform. Where there is none a new one is made,
    but not where `cloister backups recover-platform` was begun and did not end.
    """
    directory = (state_dir or ctx.obj or STATE_DIR_DEFAULT).absolute()
    asked = {name: value for name, value in options.items() if value not in (None, ())}
    saved = load(directory) if (directory / "settings.json").exists() else None
    settings = decide(directory, saved, asked)
    from cloister.app import operator  # noqa: PLC0415 - only this command starts processes

    if operator.is_running(settings.paths):
        if saved is not None and settings != saved:
            raise PreconditionError(public="the platform runs with other settings: stop it with `cloister down` first")
        click.echo(f"already up: {directory}")
        return 0
    if settings.storage == "plain":
        click.echo("cloister: storage is plain: NOTHING IS ENCRYPTED in this platform", err=True)
    if not detach:
        return operator.up(settings, detach=False)
    with Progress("Starting the platform"):
        code = operator.up(settings, detach=True)
    if code == 0:
        click.echo(
            f"up: PostgreSQL on {settings.listen_postgres}, HTTPS on {settings.listen_https}, state in {directory}"
        )
    return code


def decide(directory: Path, saved: Settings | None, asked: Mapping[str, Any]) -> Settings:
    """The settings to run with: those saved, changed by what was asked; an empty text takes a setting back to its
    default. Raises PreconditionError, BadRequestError."""
    wanted = {name: _meant(name, value) for name, value in asked.items()}
    if saved is None:
        settings = Settings(state_dir=str(directory), **wanted)
    else:
        for name, reason in FIXED.items():
            if name in wanted and wanted[name] != getattr(saved, name):
                # Without the values: a database's URL may hold a password.
                raise PreconditionError(public=f"{name.replace('_', '-')} cannot change in {directory}: {reason}")
        settings = msgspec.structs.replace(saved, state_dir=str(directory), **wanted)
    settings.validate()
    AllowList.parse(settings.proxy_protocol_from)
    AllowList.parse(settings.jwks_networks)
    return settings


def _meant(name: str, value: Any) -> Any:
    match name:
        case "tls_cert_file" | "tls_key_file":
            # Processes start elsewhere than where the operator stands.
            return str(Path(value).absolute()) if value else None
        case "database_url":
            return value or None
        case "jwks_authority":
            return _authority(value) if value else None
        case "proxy_protocol_from" | "jwks_networks" | "egress_allow":
            return tuple(entry for entry in value if entry)
        case _:
            return value


def _authority(file: str) -> str:
    """Its text, for the process that needs it runs as a user who may not reach the file."""
    try:
        text = Path(file).read_text()
        ssl.create_default_context(cadata=text)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise PreconditionError(public=f"--jwks-ca {file} is no certificate: {error}") from error
    return text

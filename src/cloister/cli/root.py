"""All commands by name. A command's module is imported when the command is asked for: `cloister projects list` must not
pay for the doctor.
"""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

from cloister import __version__
from cloister.base.errors import CloisterError
from cloister.cli.failure import CommandError

CLIENT: Final[Mapping[str, str]] = {
    "projects": "cloister.cli.projects:projects",
    "branches": "cloister.cli.branches:branches",
    "snapshots": "cloister.cli.snapshots:snapshots",
    "endpoints": "cloister.cli.endpoints:endpoints",
    "roles": "cloister.cli.roles:roles",
    "databases": "cloister.cli.databases:databases",
    "operations": "cloister.cli.operations:operations",
    "ip-allow": "cloister.cli.ip_allow:ip_allow",
    "jwks": "cloister.cli.jwks:jwks",
    "egress": "cloister.cli.egress:egress",
    "tags": "cloister.cli.tags:tags",
    "connection-string": "cloister.cli.connecting:connection_string",
    "psql": "cloister.cli.connecting:psql",
    "login": "cloister.cli.logins:login",
    "logout": "cloister.cli.logins:logout",
    "passkeys": "cloister.cli.passkeys:passkeys",
    "people": "cloister.cli.people:people",
    "api-keys": "cloister.cli.api_keys:api_keys",
    "service-accounts": "cloister.cli.service_accounts:service_accounts",
    "orgs": "cloister.cli.organizations:orgs",
    "access": "cloister.cli.access:access",
    "me": "cloister.cli.account:me",
    "regions": "cloister.cli.account:regions",
    "mcp": "cloister.cli.mcp.command:mcp",
    "config": "cloister.cli.config.command:config",
}
"""Commands that ask the HTTP API, from anywhere."""

PLATFORM: Final[Mapping[str, str]] = {
    "up": "cloister.cli.up:up",
    "down": "cloister.cli.platform:down",
    "status": "cloister.cli.platform:status",
    "doctor": "cloister.cli.doctor.command:doctor",
    "keys": "cloister.cli.keys:keys",
    "audit": "cloister.cli.audit:audit",
    "alerts": "cloister.cli.alerts.command:alerts",
    "backups": "cloister.cli.backups.command:backups",
    "bench": "cloister.cli.bench:bench",
    "install": "cloister.cli.install:install",
}
"""Commands about the platform itself."""

ALIASES: Final[Mapping[str, str]] = {
    "project": "projects",
    "branch": "branches",
    "snapshot": "snapshots",
    "endpoint": "endpoints",
    "role": "roles",
    "database": "databases",
    "db": "databases",
    "operation": "operations",
    "org": "orgs",
    "cs": "connection-string",
}
"""Names that fingers know from the Neon CLI."""


class Root(click.Group):
    """Finds a command's module by its name."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return [*CLIENT, *PLATFORM]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        name = ALIASES.get(cmd_name, cmd_name)
        where = CLIENT.get(name) or PLATFORM.get(name)
        if where is None:
            return None
        module, _, attribute = where.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, names in (("Databases (over the HTTP API)", CLIENT), ("Platform (on the server)", PLATFORM)):
            commands = [(name, self.get_command(ctx, name)) for name in names]
            with formatter.section(title):
                formatter.write_dl([(name, found.get_short_help_str(70)) for name, found in commands if found])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CloisterError as error:
            raise CommandError(error.public) from error


@click.group(
    cls=Root,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Elsewhere than on the server, CLOISTER_API_HOST, CLOISTER_API_KEY and CLOISTER_CA_FILE say which platform to "
    "ask. Output is a table; `--output json` gives the API's own objects.",
)
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="CLOISTER_STATE_DIR",
    help="The platform of this machine that lives here (default: /var/lib/cloister).",
)
@click.version_option(__version__, message="cloister %(version)s")
@click.pass_context
def root(ctx: click.Context, state_dir: Path | None) -> None:
    """A Postgres database for every tenant, on your own servers."""
    ctx.obj = state_dir

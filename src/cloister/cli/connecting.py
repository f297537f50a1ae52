"""`cloister connection-string` and `cloister psql`: from a project to a session over verified TLS.

A password is never put on a command line, where every user of the machine could read it: psql gets it, as everything
else, in its environment.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from ssl import get_default_verify_paths
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

import click

from cloister.cli import output as out
from cloister.cli.api import Json
from cloister.cli.failure import CommandError
from cloister.cli.session import Session, branch_option, client_command, project_option, project_path
from cloister.cli.target import Target

SSL_MODES: Final = ("verify-full", "verify-ca", "require", "omit")


def _which(command: Any) -> Any:
    for option in (
        click.option(
            "--endpoint-type",
            type=click.Choice(["read_write", "read_only"]),
            default=None,
            help="Of the branch's endpoints, one of this kind. Default: the one that writes.",
        ),
        click.option("--pooled", is_flag=True, help="The pooled host (…-pooler)."),
        click.option("--database-name", metavar="NAME", help="Default: the branch's only database."),
        click.option("--role-name", metavar="NAME", help="Default: the branch's only role."),
        project_option,
    ):
        command = option(command)
    return command


@click.command("connection-string")
@click.argument("branch", metavar="[BRANCH]", required=False)
@_which
@click.option(
    "--ssl", type=click.Choice(SSL_MODES), default="verify-full", show_default=True, help="sslmode of the string."
)
@click.option("--extended", is_flag=True, help="Show host, role, database and options one by one.")
@client_command
def connection_string(
    session: Session,
    *,
    branch: str | None,
    project_id: str | None,
    role_name: str | None,
    database_name: str | None,
    pooled: bool,
    endpoint_type: str | None,
    ssl: str,
    extended: bool,
) -> None:
    """Print the connection string of a branch, by id or name; of the default branch without either.

    It holds the password only if the project stores passwords. Otherwise give the one you were shown to your client in
    PGPASSWORD or a password file.
    """
    uri = _uri(session, branch, project_id, role_name, database_name, pooled=pooled, endpoint_type=endpoint_type)
    uri = secured(uri, ssl, session.api.target)
    parts = urlsplit(uri)
    if session.is_json or extended:
        described: Json = {
            "connection_string": uri,
            "host": parts.hostname,
            "port": parts.port or 5432,
            "role": unquote(parts.username or ""),
            "password": unquote(parts.password) if parts.password else None,
            "database": unquote(parts.path.removeprefix("/")),
            "options": parts.query,
        }
        session.show(described, [out.Column(name.replace("_", " ").capitalize(), name) for name in described])
    else:
        click.echo(uri)
    if parts.password is None and not session.is_json:
        out.note("(without the password, which was shown when it was made: put it into PGPASSWORD)")


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("psql_args", nargs=-1, type=click.UNPROCESSED, metavar="[-- PSQL_ARGUMENTS...]")
@branch_option
@_which
@client_command
def psql(
    session: Session,
    *,
    psql_args: Sequence[str],
    branch: str | None,
    project_id: str | None,
    role_name: str | None,
    database_name: str | None,
    pooled: bool,
    endpoint_type: str | None,
) -> None:
    """Connect with psql, the server's certificate verified.

    The password is the project's stored one, or PGPASSWORD, or psql asks for it. What stands after -- goes to psql:
    cloister psql -- -c 'select 1'
    """
    uri = _uri(session, branch, project_id, role_name, database_name, pooled=pooled, endpoint_type=endpoint_type)
    run_psql(uri, session.api.target, psql_args)


def run_psql(uri: str, target: Target, arguments: Sequence[str]) -> None:
    """Become psql. Returns never."""
    if shutil.which("psql") is None:
        raise CommandError("psql is not installed here: install postgresql-client, or use `cloister connection-string`")
    environment = psql_environment(secured(uri, "verify-full", target), os.environ)
    os.execvpe("psql", ["psql", *arguments], environment)  # noqa: S606 - an argument list, no shell


def psql_environment(uri: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of libpq for that connection, in place of whatever the environment said about another one."""
    parts = urlsplit(uri)
    options = dict(parse_qsl(parts.query))
    wanted = {
        "PGHOST": parts.hostname,
        "PGPORT": str(parts.port or 5432),
        "PGUSER": unquote(parts.username or ""),
        "PGDATABASE": unquote(parts.path.removeprefix("/")),
        "PGPASSWORD": unquote(parts.password) if parts.password else environment.get("PGPASSWORD"),
        "PGSSLMODE": options.get("sslmode"),
        "PGSSLROOTCERT": options.get("sslrootcert"),
        "PGCHANNELBINDING": options.get("channel_binding"),
        "PGOPTIONS": options.get("options") or environment.get("PGOPTIONS"),
    }
    misleading = {*wanted, "PGHOSTADDR", "PGSERVICE"}
    kept = {name: value for name, value in environment.items() if name not in misleading}
    return kept | {name: value for name, value in wanted.items() if value}


def secured(uri: str, ssl: str, target: Target) -> str:
    """The connection string with that sslmode, and with the platform's CA file where the mode verifies against it."""
    parts = urlsplit(uri)
    options = dict(parse_qsl(parts.query))
    for name in ("sslmode", "sslrootcert", "channel_binding"):
        options.pop(name, None)
    if ssl != "omit":
        options |= {"sslmode": ssl, "channel_binding": "require"}
        if ssl != "require":
            # libpq before 16 does not know `sslrootcert=system`, so the file of trusted authorities is named instead.
            trusted = target.ca_file or get_default_verify_paths().cafile
            options["sslrootcert"] = str(Path(trusted).absolute()) if trusted else "system"
    return urlunsplit(parts._replace(query=urlencode(options, safe="/")))


def _uri(
    session: Session,
    branch: str | None,
    project_id: str | None,
    role_name: str | None,
    database_name: str | None,
    *,
    pooled: bool,
    endpoint_type: str | None,
) -> str:
    project_id = session.project_id(project_id)
    branch_id = session.branch(project_id, branch)["id"]
    path = f"{project_path(project_id)}/branches/{branch_id}"
    role = role_name or _only(session.api.get(f"{path}/roles").get("roles") or [], "role", "--role-name")
    database = database_name or _only(
        session.api.get(f"{path}/databases").get("databases") or [], "database", "--database-name"
    )
    answer = session.api.get(
        f"{project_path(project_id)}/connection_uri",
        branch_id=branch_id,
        endpoint_id=None if endpoint_type is None else _of_type(session, path, endpoint_type),
        role_name=role,
        database_name=database,
        pooled=pooled,
    )
    return str(answer["uri"])


def _of_type(session: Session, path: str, endpoint_type: str) -> str:
    """The oldest, where there are several."""
    for endpoint in session.api.get(f"{path}/endpoints").get("endpoints") or []:
        if endpoint["type"] == endpoint_type:
            return str(endpoint["id"])
    raise CommandError(
        f"the branch has no {endpoint_type} endpoint: cloister branches add-compute BRANCH --type {endpoint_type}"
    )


def _only(found: Sequence[Json], what: str, option: str) -> str:
    match found:
        case [one]:
            return str(one["name"])
        case []:
            raise CommandError(f"the branch has no {what}")
        case _:
            names = ", ".join(out.printable(str(one["name"])) for one in found)
            raise CommandError(f"the branch has several {what}s, name one with {option}: {names}")

"""`cloister login` and `cloister logout`: a session of a person's, by way of their browser."""

import os
import secrets
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import click

from cloister.cli import kept, target
from cloister.cli import output as out
from cloister.cli.api import Api, ApiError, Json, segment
from cloister.cli.browser import show
from cloister.cli.failure import CommandError
from cloister.cli.loopback import Loopback
from cloister.cli.output import Column
from cloister.cli.session import Session, client_command
from cloister.protocol.openid import challenge_of

COLUMNS: Final = (
    Column("E-mail", "email"),
    Column("Name", "name"),
    Column("Issuer", "issuer"),
    Column("Roles", "roles", lambda roles: ", ".join(f"{it['role']} of {it['org_id']}" for it in roles)),
    Column("Operator", "operator"),
    Column("Until", "expires_at"),
)


@click.command()
@click.option("--issuer", metavar="NAME|URL", help="Where to log in. Default: the only issuer there is.")
@click.option("--port", type=click.IntRange(1024, 65_535), help="Wait for the browser on this port of 127.0.0.1.")
@click.option("--no-browser", is_flag=True, help="Show the address instead of opening it.")
@click.option("--link", is_flag=True, help="Let the account whose key you use be yours at the issuer from now on.")
@client_command
def login(session: Session, *, issuer: str | None, port: int | None, no_browser: bool, link: bool) -> None:
    """Log in at your organization's issuer, with your browser.

    The session is kept for later commands (in ~/.config/cloister, for you alone) until it ends, or until `cloister logout`.
    CLOISTER_API_HOST and CLOISTER_CA_FILE say where, as for every command; CLOISTER_API_KEY, where it is set, goes before it.

    On a machine without a browser: `ssh -L 40000:127.0.0.1:40000 MACHINE`, there `cloister login --no-browser --port 40000`, and
    open the address that it shows on your own.
    """
    here = session.platform
    api = Api(here)
    secret = secrets.token_urlsafe(32)
    try:
        with Loopback(port or 0) as loopback:
            asked: Json = {"port": loopback.port, "challenge": challenge_of(secret)}
            if issuer:
                asked["issuer"] = issuer
            begun = (
                session.api.post("/cloister/users/me/logins", asked) if link else api.post("/cloister/logins", asked)
            )
            show(begun["authorization_url"], "log in there", in_browser=not no_browser)
            brought = loopback.wait(urlsplit(begun["redirect_uri"]).path, begun["state"])
        if "code" not in brought:
            why = brought.get("error_description") or brought.get("error") or "without a word"
            raise CommandError(f"the issuer refused: {why}")
        finish: Json = {"state": begun["state"], "secret": secret, "code": brought["code"]}
        if "iss" in brought:
            finish["iss"] = brought["iss"]
        finished = api.post("/cloister/logins/finish", finish)
    finally:
        api.close()
    kept.keep(
        os.environ,
        kept.Kept(
            url=here.url,
            key=finished.pop("key"),
            expires_at=finished["expires_at"],
            email=finished["email"],
            ca_file=str(Path(here.ca_file).absolute()) if here.ca_file else None,
        ),
    )
    session.show(finished, COLUMNS)


@click.command()
@client_command
def logout(session: Session) -> None:
    """End your session, here and on the platform."""
    if os.environ.get(target.KEY_VARIABLE):
        raise CommandError(f"{target.KEY_VARIABLE} is set: unset it, or end that key with `cloister api-keys revoke`")
    here = session.platform
    found = kept.find(os.environ, here.url)
    if found is None:
        raise CommandError(f"there is no session at {here.url}")
    if not found.is_over:
        try:
            key_id = str(session.api.get("/auth")["auth_data"])
            session.api.delete(f"/api_keys/{segment(key_id)}")
        except ApiError as error:
            if error.status != 401:  # it was ended elsewhere
                raise
    kept.forget(os.environ, here.url)
    if not session.is_json:
        out.note("You are logged out.")

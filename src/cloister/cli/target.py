"""Which platform a client command asks, and how it proves itself.

From anywhere: CLOISTER_API_HOST, CLOISTER_API_KEY, CLOISTER_CA_FILE; after `cloister login` the session that it kept, where
there is no key. On the server itself nothing need be set: the state directory names the host, the certificate authority and the
first API key. The key is never an option, for options are seen by everybody who may list processes.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from cloister.base.secret import Secret
from cloister.cli import kept
from cloister.cli.failure import CommandError

HOST_VARIABLE: Final = "CLOISTER_API_HOST"
KEY_VARIABLE: Final = "CLOISTER_API_KEY"
CA_VARIABLE: Final = "CLOISTER_CA_FILE"

API_PATH: Final = "/api/v2"

_KEY: Final = re.compile(r"[\x21-\x7e]+")
# Anything else would break the header it is sent in, or is a line break that came along from an editor.


@dataclass(frozen=True, slots=True)
class Target:
    """A platform, as its clients see it."""

    host: str
    """As the certificate names it."""
    port: int
    path: str
    key: Secret[str] | None
    """None: to log in."""
    ca_file: Path | None
    """None: the authorities that this machine trusts."""
    dial: str
    """The host to connect to: on the server itself the address it listens on, whatever DNS says."""
    admin_key: Path | None = None
    """On the server itself: where its first API key is."""

    @property
    def url(self) -> str:
        port = "" if self.port == 443 else f":{self.port}"
        return f"https://{self.host}{port}{self.path}"


def find(environment: Mapping[str, str], state_dir: Path | None) -> Target:
    """The platform to ask: the environment's, unless a state directory was named or no host is set; then this machine's; or the
    one at which somebody has logged in. Proved by CLOISTER_API_KEY, or else by a kept session, or else, on the server, by the
    first API key, which only root may read."""
    here = find_without_key(environment, state_dir)
    if key := environment.get(KEY_VARIABLE):
        return replace(here, key=parse_key(KEY_VARIABLE, key))
    if (session := kept.find(environment, here.url)) is not None:
        if session.is_over:  # to go on as somebody else, the administrator for one, would be worse
            raise CommandError("your session is over: `cloister login` begins another, `cloister logout` forgets it")
        ca_file = here.ca_file or (Path(session.ca_file) if session.ca_file else None)
        return replace(here, key=parse_key("the kept session", session.key), ca_file=ca_file)
    if here.admin_key is None:
        raise CommandError(
            f"there is no {KEY_VARIABLE} and no session at {here.url}: put an API key there, or `cloister login`"
        )
    return _of_administrator(here, here.admin_key)


def find_on_server(state_dir: Path) -> Target:
    """The platform of this machine, proved by its first API key, whoever else has logged in. Raises CommandError."""
    here = from_state_dir(state_dir, {})
    assert here.admin_key is not None, "a platform that was found by its state directory has one"
    return _of_administrator(here, here.admin_key)


def _of_administrator(here: Target, path: Path) -> Target:
    try:
        return replace(here, key=parse_key(str(path), path.read_text()))
    except PermissionError as error:
        raise CommandError(
            f"may not read {error.filename}: be root, `cloister login`, or set {HOST_VARIABLE} and {KEY_VARIABLE}"
        ) from None
    except FileNotFoundError as error:
        raise CommandError(f"{error.filename} is missing: has `cloister up` ever finished here?") from None


def find_without_key(environment: Mapping[str, str], state_dir: Path | None) -> Target:
    """As `find`, to log in."""
    if state_dir is None and environment.get(HOST_VARIABLE):
        return from_environment(environment)
    return from_state_dir(state_dir, environment)


def from_environment(environment: Mapping[str, str]) -> Target:
    host, port, path = parse_host(environment[HOST_VARIABLE])
    ca_file = Path(named) if (named := environment.get(CA_VARIABLE)) else None
    return Target(host, port, path, None, ca_file, dial=host)


def from_state_dir(state_dir: Path | None, environment: Mapping[str, str]) -> Target:
    """The platform of this machine; or, where there is none, the only one at which somebody has logged in."""
    from cloister.base.settings import STATE_DIR_DEFAULT, load  # noqa: PLC0415 - not paid for by remote clients

    directory = state_dir or STATE_DIR_DEFAULT
    if state_dir is None and not directory.exists():
        if (session := kept.only(environment)) is not None:
            host, port, path = parse_host(session.url)
            return Target(host, port, path, None, Path(session.ca_file) if session.ca_file else None, dial=host)
        raise CommandError(
            f"no platform on this machine in {directory}: set {HOST_VARIABLE} and {KEY_VARIABLE}, or start one"
        )
    try:
        settings = load(directory)
    except PermissionError as error:
        raise CommandError(
            f"may not read {error.filename}: be root, or set {HOST_VARIABLE} and {KEY_VARIABLE}"
        ) from None
    listen = settings.listen_https
    return Target(
        host=settings.domain,
        port=_bound_port(settings.paths.status) or listen.port,
        path=API_PATH,
        key=None,
        ca_file=None if settings.tls_cert_file else settings.paths.ca_file,
        dial=listen.host if listen.host not in ("", "0.0.0.0", "::") else "127.0.0.1",  # noqa: S104 - compared, not bound
        admin_key=settings.paths.admin_key,
    )


def parse_host(text: str) -> tuple[str, int, str]:
    """Host, port and path of `https://host[:port][/api/v2]`; scheme and path may be left out."""
    parts = urlsplit(text if "://" in text else f"https://{text}")
    if parts.scheme != "https":
        raise CommandError(f"{HOST_VARIABLE} must be an https:// address: the API key may not cross a network in clear")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or parts.username or parts.query or parts.fragment:
        raise CommandError(f"{HOST_VARIABLE} is {text!r}, not an address like https://api.example.com/api/v2")
    return host, port or 443, parts.path.rstrip("/") or API_PATH


def parse_key(where: str, text: str) -> Secret[str]:
    if not _KEY.fullmatch(key := text.strip()):
        raise CommandError(f"{where} does not hold an API key")
    return Secret(key)


def _bound_port(status: Path) -> int | None:
    """The port that the running platform was given, which matters where it was told to take any (port 0)."""
    try:
        return int(json.loads(status.read_text())["https"][0].rpartition(":")[2])
    except (OSError, ValueError, LookupError):
        return None

"""Has somebody's passkey sign: opens the platform's page in their browser, and waits on the loopback interface for what it brings.

The page is at the host that is asked: passkeys are made for that name, and the browser shows which it is.
"""

import json
import os
import re
import secrets
import sys
from typing import Any, Final

from cloister.cli.browser import show
from cloister.cli.failure import CommandError
from cloister.cli.loopback import Loopback
from cloister.cli.progress import Progress
from cloister.cli.target import HOST_VARIABLE, Target
from cloister.protocol import base64url

PORT_VARIABLE: Final = "CLOISTER_PASSKEY_PORT"
PATIENCE_S: Final = 300.0
# As long as a challenge is good.

_PATH: Final = "/passkey"
_PORT: Final = re.compile(r"[1-9][0-9]{3,4}")
_CHALLENGE: Final = re.compile(r"[A-Za-z0-9_-]{43}")


def sign(target: Target, ceremony: dict[str, Any], to_do: str) -> dict[str, Any]:
    """The credential that the browser brings: of `navigator.credentials.get`, or `create`. Raises CommandError."""
    options = ceremony.get("get") or ceremony.get("create") or {}
    name, challenge = options.get("rpId") or options.get("rp", {}).get("id"), options.get("challenge")
    if not isinstance(challenge, str) or not _CHALLENGE.fullmatch(challenge):
        raise CommandError("the platform asks for a passkey, and does not say what to sign")
    if name != target.host:
        raise CommandError(f"passkeys of this platform are for {name}: set {HOST_VARIABLE} to that name")
    port = _port()
    if port is None and not _somebody_is_there():
        raise CommandError(
            f"this takes your passkey ({ceremony.get('act')}), and nobody is at a terminal here; "
            f"with {PORT_VARIABLE} the command waits for a browser all the same"
        )
    state = secrets.token_urlsafe(32)
    with Loopback(port or 0) as loopback:
        place = "" if target.port == 443 else f":{target.port}"
        url = f"https://{target.host}{place}/passkeys#{challenge}.{loopback.port}.{state}"
        show(url, to_do, in_browser=port is None)
        with Progress("Waiting for your passkey"):
            brought = loopback.wait(_PATH, state, patience_s=PATIENCE_S)
    try:
        said = json.loads(base64url.decode(brought["credential"]))
    except (LookupError, ValueError):
        raise CommandError("the browser brought no passkey's answer: begin again") from None
    if not isinstance(said, dict):
        raise CommandError("the browser brought no passkey's answer: begin again")
    return said


def header(credential: dict[str, Any]) -> str:
    """As the API takes it, in the header of the repeated request."""
    return base64url.encode(json.dumps(credential).encode())


def _somebody_is_there() -> bool:
    return sys.stderr.isatty()


def _port() -> int | None:
    """A port that was named; None: any, and a browser on this machine."""
    text = os.environ.get(PORT_VARIABLE)
    if not text:
        return None
    if not _PORT.fullmatch(text) or not 1024 <= int(text) <= 65_535:
        raise CommandError(f"{PORT_VARIABLE} is {text!r}, not a port from 1024")
    return int(text)

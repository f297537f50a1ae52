"""Waits on the loopback interface for the browser that comes back from a login, or from signing (RFC 8252 §7.3).

It listens for one of them, answers one request with its state, and is gone. Whatever else comes (a page that guesses the port,
another program) is answered with 404 and changes nothing.
"""

import hmac
import http.server
import time
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from cloister.cli.failure import CommandError

HOST: Final = "127.0.0.1"
PATIENCE_S: Final = 600.0
# As long as the platform waits.
_REQUEST_TIMEOUT_S: Final = 5.0

_DONE: Final = (
    b"<!doctype html><meta charset=utf-8><title>Cloister</title><p>Back to your terminal: this window is done."
)


class Loopback(http.server.HTTPServer):
    """Use as a context manager."""

    def __init__(self, port: int = 0) -> None:
        self._path = ""
        self._state = ""
        self._found: dict[str, str] | None = None
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise CommandError(f"cannot listen on {HOST}:{port}: {error.strerror}") from None

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def wait(self, path: str, state: str, *, patience_s: float = PATIENCE_S) -> dict[str, str]:
        """What the browser brings to this path with this state. Raises CommandError when nobody comes."""
        self._path, self._state = path, state
        deadline = time.monotonic() + patience_s
        while self._found is None:
            self.timeout = deadline - time.monotonic()
            if self.timeout <= 0:
                raise CommandError("nobody came back from the browser: begin again")
            self.handle_request()
        return self._found

    def take(self, host: str, target: str) -> bool:
        """Whether it is the answer that is waited for."""
        parts = urlsplit(target)
        said = dict(parse_qsl(parts.query))
        if host != f"{HOST}:{self.port}" or parts.path != self._path:
            return False
        if not hmac.compare_digest(said.get("state", "").encode(), self._state.encode()):
            return False
        self._found = said
        return True


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Loopback
    timeout = _REQUEST_TIMEOUT_S  # of the socket: who connects and says nothing is not waited for

    def do_GET(self) -> None:
        is_it = self.server.take(self.headers.get("host", ""), self.path)
        body = _DONE if is_it else b""
        self.send_response(200 if is_it else 404)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """The request line has the code in it."""

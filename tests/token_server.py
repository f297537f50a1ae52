"""An issuer's web server, for platforms under test: its JWKS, over HTTPS on the loopback interface."""

import ssl
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

from tests.fix_gateway import write_certificate
from tests.token_issuer import document


class TokenServer:
    """Use as a context manager."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="issuer-")
        write_certificate(Path(self._directory.name))
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(self.ca_file, Path(self._directory.name) / "key.pem")
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, name="issuer")

    @property
    def ca_file(self) -> Path:
        return Path(self._directory.name) / "chain.pem"

    @property
    def jwks_url(self) -> str:
        return f"https://127.0.0.1:{self._server.server_address[1]}/jwks.json"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()
        self._directory.cleanup()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = document()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass

"""A small HTTPS server that answers as the API does, with a certificate from a CA of its own."""

import http.server
import ipaddress
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cloister.cli import run

Answer = tuple[int, Any] | tuple[int, Any, dict[str, str]]


@dataclass
class Asked:
    """One request, as the server saw it."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


@dataclass
class FakeApi:
    """Answers by (method, path); each answer is a value, a list taken one by one, or a function of the request."""

    ca_file: Path
    answers: dict[tuple[str, str], Any] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    port: int = 0
    is_public: str = "-"
    """What is asked without a key: paths that begin like this."""

    def on(self, method: str, path: str, *answers: Answer | Callable[[Asked], Answer]) -> None:
        self.answers[method, f"/api/v2{path}"] = list(answers)

    def find(self, asked: Asked) -> Answer:
        self.asked.append(asked)
        if not asked.path.startswith(self.is_public) and asked.headers.get("Authorization") != "Bearer napi_test":
            return 401, {"request_id": "r", "code": "", "message": "authentication required"}
        queue = self.answers.get((asked.method, asked.path))
        if not queue:
            return 404, {"request_id": "r", "code": "", "message": f"not found: {asked.method} {asked.path}"}
        answer = queue.pop(0) if len(queue) > 1 else queue[0]
        found: Answer = answer(asked) if callable(answer) else answer
        return found

    def bodies(self, method: str) -> list[Any]:
        return [asked.body for asked in self.asked if asked.method == method]


@dataclass(frozen=True)
class Authority:
    """A CA, and how to get a server's certificate from it."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def create(cls) -> "Authority":
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])
        certificate = (
            _builder(name, name, key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(key, certificate)

    def write(self, path: Path) -> Path:
        path.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))
        return path

    def issue(self, path: Path, *names: str) -> Path:
        """A file with key and certificate for these names."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test server")])
        alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
        alternatives.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
        certificate = (
            _builder(subject, self.certificate.subject, key)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        return path


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
    )


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority.create()


@pytest.fixture
def api(authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    """The server, and the environment in which the command line finds it."""
    fake = FakeApi(authority.write(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.issue(tmp_path / "server.pem", "localhost", "db.localhost"))
    server = _server(fake, context)
    fake.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    for variable in ("CLOISTER_PROJECT", "CLOISTER_STATE_DIR", "PGPASSWORD"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("CLOISTER_API_HOST", f"https://localhost:{fake.port}/api/v2")
    monkeypatch.setenv("CLOISTER_API_KEY", "napi_test")
    monkeypatch.setenv("CLOISTER_CA_FILE", str(fake.ca_file))
    monkeypatch.setattr("cloister.cli.api.BUSY_PAUSE_S", 0.01)
    yield fake
    server.shutdown()
    server.server_close()
    thread.join()


def _server(fake: FakeApi, context: ssl.SSLContext) -> http.server.ThreadingHTTPServer:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            asked = Asked(self.command, parts.path, dict(parse_qsl(parts.query)), dict(self.headers), body)
            status, answer, *more = fake.find(asked)
            content = b"" if answer is None else answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            for name, value in (more[0] if more else {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815 - the base class's names

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's signature
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def finish_request(self, request: Any, client_address: Any) -> None:
            # The handshake belongs into the connection's own thread; one that fails is the client's business.
            try:
                request = context.wrap_socket(request, server_side=True)
            except (ssl.SSLError, OSError):
                return
            with request:
                super().finish_request(request, client_address)

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass

    return Server(("127.0.0.1", 0), Handler)


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Done]


@pytest.fixture
def cloister(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in this process: `cloister("projects", "list")`."""

    def command(*words: str) -> Done:
        code = run(words)
        said = capsys.readouterr()
        return Done(code, said.out, said.err)

    return command

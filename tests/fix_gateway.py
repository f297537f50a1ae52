"""A gateway for tests: real TLS, a real PostgreSQL behind it, and a control plane that says what the test wants.

    compute_server      a PostgreSQL 18 on a Unix socket that lets this process's user be any role but `cloister_admin`
    gateway_world       `await world.start()` a worker; then `world.directory`, `world.port`, `world.dsn(…)`, …

The control plane is the real protocol of `base/directory` over a real socket, answered by `FakeDirectory`.
"""

import asyncio
import contextlib
import datetime as dt
import ipaddress
import os
import pwd
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cloister.base.audit_levels import AuditLevel
from cloister.base.directory import (
    AnyCommand,
    AnyEvent,
    Compute,
    ConnectionEvent,
    Frozen,
    KeySet,
    KeySets,
    LookUp,
    LookUpKeys,
    Pool,
    Pooler,
    Record,
    RecordStatements,
    Route,
    StatementRecord,
    Wake,
)
from cloister.base.errors import CloisterError, NotFoundError, UnavailableError
from cloister.base.identities import service_of_uid
from cloister.base.rpc import Connection, Server
from cloister.base.settings import Settings
from cloister.edge.gateway import GatewayWorker, ServeOptions, limits
from cloister.edge.sql import HttpsFront
from cloister.node.postgres.tuning import CLIENT_CHECK
from cloister.protocol.scram import Verifier
from tests.fix_database import _MEMORY, UNPRIVILEGED_UID, _run, _serving

DOMAIN: Final = "db.localhost"
ENDPOINT: Final = "ep-calm-forest-ab12cd34"
OTHER_ENDPOINT: Final = "ep-cold-river-ef56gh78"
BRANCH: Final = "br-calm-forest-ab12cd34"
PASSWORD: Final = "npg_0123456789abcdef"

_HBA: Final = """local all all peer map=gateway
local replication all peer map=gateway
"""
_IDENT: Final = "gateway {user} /^(?!cloister_admin$).*$\n"
# As a compute's: the gateway's user may be anybody but the platform's own superuser.


@pytest.fixture(scope="session")
def compute_server() -> Iterator[Path]:
    """The socket directory of a compute with the roles `ada` and `bob` and the databases `app` and, with dblink in it, `linked`."""
    directory = Path(tempfile.mkdtemp(prefix="cloister-test-compute-", dir=_MEMORY if _MEMORY.is_dir() else None))
    try:
        if os.geteuid() == 0:
            os.chown(directory, UNPRIVILEGED_UID, UNPRIVILEGED_UID)
        data = directory / "data"
        _run(
            "initdb", "-D", data, "-U", "cloister_admin", *"-A trust --no-sync --locale=C.UTF-8 --encoding=UTF8".split()
        )
        with _serving(data, directory, client_connection_check_interval=CLIENT_CHECK):
            _wait_until(directory, is_open=True)
            with psycopg.connect(
                host=str(directory), user="cloister_admin", dbname="postgres", autocommit=True
            ) as admin:
                admin.execute("CREATE ROLE ada LOGIN")
                admin.execute("CREATE ROLE bob LOGIN")
                admin.execute("CREATE DATABASE app OWNER ada")
                admin.execute("CREATE DATABASE linked OWNER ada")
                with psycopg.connect(host=str(directory), user="cloister_admin", dbname="linked") as linked:
                    linked.execute("CREATE EXTENSION dblink")
                (data / "pg_hba.conf").write_text(_HBA)
                (data / "pg_ident.conf").write_text(_IDENT.format(user=pwd.getpwuid(os.geteuid()).pw_name))
                admin.execute("SELECT pg_reload_conf()")
            _wait_until(directory, is_open=False)
            yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _wait_until(socket_dir: Path, *, is_open: bool) -> None:
    """Until the platform's superuser may log in, or may not any more."""
    give_up_at = time.monotonic() + 10
    while True:
        try:
            psycopg.connect(host=str(socket_dir), user="cloister_admin", dbname="postgres").close()
            was_open = True
        except psycopg.OperationalError:
            was_open = False
        if was_open == is_open:
            return
        assert time.monotonic() < give_up_at, (socket_dir / "log").read_text()
        time.sleep(0.01)


def write_certificate(directory: Path, *, common_name: str = DOMAIN) -> x509.Certificate:
    """A self-signed leaf for the domain, as chain.pem and key.pem: its own CA for the clients under test."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(f"*.{DOMAIN}"), x509.DNSName(DOMAIN), x509.DNSName("localhost"),
                                         x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    files = {
        "key.pem": key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
        "chain.pem": certificate.public_bytes(serialization.Encoding.PEM),
    }
    for file_name, content in files.items():
        temporary = directory / f"{file_name}.new"
        temporary.write_bytes(content)
        temporary.replace(directory / file_name)
    return certificate


@dataclass
class FakeDirectory:
    """Answers as it is told; keeps what it was asked."""

    path: Path
    socket_dir: str
    mock_secret: bytes = b"m" * 32
    verifiers: dict[tuple[str, str], Verifier] = field(default_factory=dict)
    route_socket_dir: str | None = None
    """What routes say, where it is not the truth."""
    allowed_ips: list[str] | None = None
    is_binding_required: bool = False
    is_asleep: bool = False
    is_disabled: bool = False
    is_read_only: bool = False
    connection_limit: int = 0
    wake_error: CloisterError | None = None
    pool_error: CloisterError | None = None
    pool_dir: str = ""
    """Where a pooler listens; empty: the compute plays it."""
    key_sets: dict[str, list[KeySet]] = field(default_factory=dict)
    """By endpoint."""
    refreshed_key_sets: dict[str, list[KeySet]] | None = None
    """What issuers say when they are asked again."""
    may_log_in: set[str] = field(default_factory=set)
    """Roles without a password that may."""
    pooled_roles: set[str] = field(default_factory=set)
    may_wake: asyncio.Event = field(default_factory=asyncio.Event)
    may_look_up: asyncio.Event = field(default_factory=asyncio.Event)
    generation: int = 1
    asked: list[AnyCommand] = field(default_factory=list)
    events: list[ConnectionEvent] = field(default_factory=list)
    is_recording: bool = True
    is_keeping: bool = True
    statements: list[StatementRecord] = field(default_factory=list)
    lost: dict[str, int] = field(default_factory=dict)
    audit_level: AuditLevel = AuditLevel.OFF
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    frozen: list[Frozen] = field(default_factory=list)
    _server: Server | None = None

    def set_password(self, role: str, password: str, endpoint: str = ENDPOINT, iterations: int = 4096) -> None:
        self.verifiers[endpoint, role] = Verifier.of_password(password, salt=os.urandom(16), iterations=iterations)

    async def start(self) -> None:
        self.may_wake.set()
        self.may_look_up.set()
        allowed: Any = frozenset({service_of_uid(os.geteuid())})
        self._server = Server(self.path, AnyCommand, self._answer, allowed=allowed)
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop()
            self._server = None

    def send(self, event: AnyEvent) -> None:
        assert self._server is not None
        for connection in self._server.connections:
            connection.send_event(event)

    @property
    def wakes(self) -> list[Wake]:
        return [command for command in self.asked if isinstance(command, Wake)]

    async def until(self, action: str, count: int = 1) -> list[ConnectionEvent]:
        """Wait until so many events of this action were recorded."""
        async with asyncio.timeout(10), self.changed:
            await self.changed.wait_for(lambda: sum(event.action == action for event in self.events) >= count)
        return [event for event in self.events if event.action == action]

    async def until_told(self, text: str) -> StatementRecord:
        """Wait until a statement with this in its text was recorded."""
        async with asyncio.timeout(10), self.changed:
            await self.changed.wait_for(lambda: any(text in each.text for each in self.statements))
        return next(each for each in self.statements if text in each.text)

    async def until_asked(self, kind: type[AnyCommand]) -> None:
        async with asyncio.timeout(10), self.changed:
            await self.changed.wait_for(lambda: any(isinstance(command, kind) for command in self.asked))

    async def until_frozen(self, token: int) -> Frozen:
        async with asyncio.timeout(10), self.changed:
            await self.changed.wait_for(lambda: any(answer.token == token for answer in self.frozen))
        return next(answer for answer in self.frozen if answer.token == token)

    async def _answer(self, _connection: Connection, command: AnyCommand) -> Any:
        self.asked.append(command)
        await self._tell()
        match command:
            case LookUp(endpoint=endpoint, role=role):
                await self.may_look_up.wait()
                return self._route(endpoint, role)
            case LookUpKeys(endpoint=endpoint, is_refresh=is_refresh):
                if is_refresh and self.refreshed_key_sets is not None:
                    self.key_sets = self.refreshed_key_sets
                return KeySets(sets=self.key_sets.get(endpoint, []))
            case Wake(endpoint_id=endpoint_id):
                await self.may_wake.wait()
                if self.wake_error is not None:
                    raise self.wake_error
                was_cold, self.is_asleep = self.is_asleep, False
                return Compute(
                    endpoint_id=endpoint_id, socket_dir=self.socket_dir, generation=self.generation, was_cold=was_cold
                )
            case Pool(endpoint_id=endpoint_id, role=role):
                if self.is_asleep:
                    raise NotFoundError(f"{endpoint_id} does not run")
                if self.pool_error is not None:
                    raise self.pool_error
                self.pooled_roles.add(role)
                return Pooler(self.pool_dir or self.socket_dir)
            case Record(events):
                if not self.is_recording:
                    raise UnavailableError("away")
                self.events += events
                await self._tell()
                return len(events)
            case RecordStatements():
                if not self.is_keeping:
                    raise UnavailableError("away")
                self.statements += command.statements
                self.lost |= command.lost
                await self._tell()
                return len(command.statements)
            case Frozen():
                self.frozen.append(command)
                await self._tell()
                return 0

    def _route(self, endpoint: str, role: str) -> Route:
        name, _, point = endpoint.partition("@")
        verifier = self.verifiers.get((name, role))
        is_known = any(known == name for known, _role in self.verifiers)
        return Route(
            endpoint_id=endpoint,
            project_id="calm-forest-12345678" if is_known else "",
            branch_id=BRANCH if is_known else "",
            is_known=is_known,
            is_doomed=verifier is None,
            may_log_in=verifier is not None or (is_known and role in self.may_log_in),
            verifier=str(verifier or Verifier.mock(name, role, self.mock_secret)),
            allowed_ips=self.allowed_ips if is_known else None,
            is_binding_required=self.is_binding_required and is_known,
            is_disabled=self.is_disabled and is_known,
            is_read_only=self.is_read_only or point != "",
            socket_dir=None if self.is_asleep or not is_known else self.route_socket_dir or self.socket_dir,
            generation=self.generation,
            connection_limit=self.connection_limit,
            audit_level=self.audit_level,
            is_volatile=point != "" or name.startswith("br-"),
        )

    async def _tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()


@dataclass
class GatewayWorld:
    directory: FakeDirectory
    state_dir: Path
    port: int = 0
    https_port: int = 0
    _listening: socket.socket | None = None
    _https_listening: socket.socket | None = None
    _workers: list[tuple[asyncio.Task[None], asyncio.Event]] = field(default_factory=list)

    @property
    def ca_file(self) -> Path:
        return self.state_dir / "certificates" / "chain.pem"

    @property
    def api_socket(self) -> Path:
        """Where HTTPS connections are passed on to."""
        return self.state_dir / "https.sock"

    async def start(
        self, worker: int = 1, *, drain_timeout_s: float = 0.0, https: bool = False, **settings: Any
    ) -> int:
        """Start a worker on the shared sockets; its index is for `stop`."""
        if self._listening is None:
            self._listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
            self.port = self._listening.getsockname()[1]
        if https and self._https_listening is None:
            self._https_listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
            self.https_port = self._https_listening.getsockname()[1]
        allowed: Any = frozenset({service_of_uid(os.geteuid())})
        all_settings = Settings(state_dir=str(self.state_dir), domain=DOMAIN, **settings)
        gateway = GatewayWorker(
            all_settings,
            [self._listening.dup()],
            ServeOptions(
                worker=worker,
                drain_timeout_s=drain_timeout_s,
                siblings=allowed,
                directory_socket=self.directory.path,
                run_dir=self.state_dir,
            ),
            front=HttpsFront(all_settings, api_socket=self.api_socket) if https else None,
            front_listening=[self._https_listening.dup()] if https and self._https_listening else [],
        )
        stop, ready = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(gateway.run(stop, ready.set))
        self._workers.append((task, stop))
        waiting = asyncio.create_task(ready.wait())
        await asyncio.wait([task, waiting], timeout=10, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            waiting.cancel()
            await task
        return len(self._workers) - 1

    def begin_stop(self, index: int) -> asyncio.Task[None]:
        task, stop = self._workers[index]
        stop.set()
        return task

    async def stop(self) -> None:
        for task, stop in self._workers:
            stop.set()
            async with asyncio.timeout(20):
                await task
        for listening in (self._listening, self._https_listening):
            if listening is not None:
                listening.close()

    def dsn(self, *, role: str = "ada", password: str = PASSWORD, database: str = "app", endpoint: str = ENDPOINT,
            **extra: Any) -> str:  # fmt: skip
        """A connection string for libpq: the name is for SNI, the address for the kernel."""
        options = {
            "host": f"{endpoint}.{DOMAIN}",
            "hostaddr": "127.0.0.1",
            "port": self.port,
            "user": role,
            "password": password,
            "dbname": database,
            "sslmode": "verify-full",
            "sslrootcert": self.ca_file,
            "channel_binding": "require",
            "gssencmode": "disable",
            "connect_timeout": 10,
            **extra,
        }
        return psycopg.conninfo.make_conninfo(
            "", **{name: value for name, value in options.items() if value is not None}
        )

    async def connect(self, **options: Any) -> "psycopg.AsyncConnection[tuple[Any, ...]]":
        return await psycopg.AsyncConnection.connect(self.dsn(**options), autocommit=True)

    async def refusal(self, **options: Any) -> str:
        """What a client is told that must not get in."""
        try:
            connection = await self.connect(**options)
        except psycopg.OperationalError as error:
            return str(error)
        await connection.close()
        raise AssertionError("it got in")

    async def psql(self, *arguments: str, **options: Any) -> "tuple[int, str]":
        process = await asyncio.create_subprocess_exec(
            "psql", "-XAtq", self.dsn(**options), *arguments,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        output, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, output.decode().strip()

    async def open_raw(self) -> "tuple[asyncio.StreamReader, asyncio.StreamWriter]":
        return await asyncio.open_connection("127.0.0.1", self.port)

    def client_tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.ca_file))


@pytest.fixture
def few_guesses(monkeypatch: pytest.MonkeyPatch) -> int:
    """So many wrong proofs before a client is slowed down. None is forgiven while the test runs, however slow the machine is."""
    monkeypatch.setattr(limits, "FAILURES_BURST", 3)
    monkeypatch.setattr(limits, "FAILURES_PER_S", 0.0)
    return 3


@pytest.fixture
async def gateway_world(compute_server: Path) -> AsyncIterator[GatewayWorld]:
    """Not started yet, so that a test can say first what is different. `ada` has a password."""
    with tempfile.TemporaryDirectory(prefix="cloister-test-gateway-") as name:
        state_dir = Path(name)
        (state_dir / "certificates").mkdir()
        write_certificate(state_dir / "certificates")
        directory = FakeDirectory(state_dir / "directory.sock", str(compute_server))
        directory.set_password("ada", PASSWORD)
        await directory.start()
        world = GatewayWorld(directory, state_dir)
        try:
            yield world
        finally:
            with contextlib.suppress(asyncio.CancelledError):
                await world.stop()
            await directory.stop()

"""What we measure ourselves against: a bare PostgreSQL, and PgBouncer with TLS and SCRAM in front of one.

Both use the same engine and the same data as the platform; the bare server has PostgreSQL's own defaults but for the
settings that Cloister's computes get as well (shared buffers, WAL size), so that the difference is ours.
"""

import asyncio
import base64
import hashlib
import hmac
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Final

import asyncpg

from cloister.base.database.embedded import binaries

BIN: Final = binaries()
UNPRIVILEGED: Final = "nobody"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def demoted() -> list[str]:
    """Words before a command: as root, run it as an unprivileged user, since postgres refuses root."""
    if os.geteuid() != 0:
        return []
    entry = pwd.getpwnam(UNPRIVILEGED)
    return ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups"]


def own(path: Path) -> None:
    if os.geteuid() == 0:
        shutil.chown(path, UNPRIVILEGED)


class BarePostgres:
    """A PostgreSQL in a directory of its own, on a Unix socket, without sandbox, encryption or gateway."""

    def __init__(self, directory: Path, *settings: str) -> None:
        self.directory = directory
        self.data = directory / "data"
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    def initialise(self) -> None:
        self.directory.mkdir(parents=True)
        own(self.directory)
        subprocess.run(
            [*demoted(), BIN / "initdb", "-D", self.data, "-U", "bench", "--auth=trust", "--no-instructions", "--no-sync",
             "--wal-segsize=1", "--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8",
             "--locale=C"],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip

    def start(self) -> None:
        """Returns when the process is spawned."""
        arguments = [word for setting in self._settings for word in ("-c", setting)]
        self._process = subprocess.Popen(
            [*demoted(), BIN / "postgres", "-D", self.data, "-c", "listen_addresses=", "-k", self.directory, *arguments],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait()
            self._process = None

    async def first_row(self) -> None:
        """Connect as soon as it is possible and fetch one row."""
        while True:
            try:
                connection = await asyncpg.connect(host=str(self.directory), user="bench", database="postgres")
            except (OSError, asyncpg.CannotConnectNowError):
                await asyncio.sleep(0.001)
                continue
            try:
                await connection.fetchval("SELECT 1")
            finally:
                await connection.close()
            return


class PgBouncer:
    """Debian's PgBouncer: TLS required, SCRAM-SHA-256, in front of a BarePostgres."""

    def __init__(
        self,
        directory: Path,
        server: BarePostgres,
        certificate: Path,
        key: Path,
        *,
        pool_mode: str = "session",
        pool_size: int = 64,
        clients_max: int = 500,
    ) -> None:
        self.port = free_port()
        self.password = secrets.token_urlsafe(18)
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True)
        for source, name in ((certificate, "chain.pem"), (key, "key.pem")):
            shutil.copy(source, directory / name)
            own(directory / name)
            (directory / name).chmod(0o600)
        (directory / "users.txt").write_text(f'"bench" "{scram_verifier(self.password)}"\n')
        (directory / "pgbouncer.ini").write_text(
            f"""[databases]
* = host={server.directory} user=bench
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {self.port}
unix_socket_dir =
pool_mode = {pool_mode}
default_pool_size = {pool_size}
max_client_conn = {clients_max}
listen_backlog = 1024
auth_type = scram-sha-256
auth_file = {directory}/users.txt
client_tls_sslmode = require
client_tls_cert_file = {directory}/chain.pem
client_tls_key_file = {directory}/key.pem
log_connections = 0
log_disconnections = 0
""",
        )
        for name in ("users.txt", "pgbouncer.ini"):
            own(directory / name)
        own(directory)

    def start(self) -> None:
        self._process = subprocess.Popen(
            [*demoted(), "pgbouncer", "-q", self._directory / "pgbouncer.ini"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                time.sleep(0.01)
            else:
                return
        raise RuntimeError("pgbouncer did not start")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait()
            self._process = None


def scram_verifier(password: str, iterations: int = 4096) -> str:
    """As PostgreSQL stores it (RFC 5803's fields)."""
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")

    def b64(raw: bytes) -> str:
        return base64.b64encode(raw).decode()

    return f"SCRAM-SHA-256${iterations}:{b64(salt)}${b64(stored)}:{b64(server)}"

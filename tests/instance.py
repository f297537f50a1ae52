"""A whole platform of one's own, for journeys and benchmarks: its own state directory, ports, users' sockets, cgroups.

Started through `cloister up` as an operator does, driven through the API and real clients, and cleaned up to the last
loop device, also when a test failed half-way.
"""

import atexit
import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

import asyncpg
import httpx
import psycopg

from cloister.base.settings import LAYOUT_VERSION, Paths
from tests.trees import clear, control_groups

UP_TIMEOUT_S = 120


@dataclass(frozen=True, slots=True)
class Tenant:
    """A project as its owner got it, once, at creation."""

    project_id: str
    branch_id: str
    endpoint_id: str
    host: str
    port: int
    role: str
    password: str
    database: str
    ca_file: Path

    @property
    def uri(self) -> str:
        return (
            f"postgresql://{self.role}:{self.password}@{self.host}:{self.port}/{self.database}"
            f"?sslmode=verify-full&channel_binding=require&sslrootcert={self.ca_file}"
        )

    @property
    def environment(self) -> dict[str, str]:
        """For psql and pgbench: the connection in libpq's variables, so that no password is on a command line."""
        return {
            "PATH": os.environ["PATH"],
            "PGHOST": self.host,
            "PGPORT": str(self.port),
            "PGUSER": self.role,
            "PGPASSWORD": self.password,
            "PGDATABASE": self.database,
            "PGSSLMODE": "verify-full",
            "PGSSLROOTCERT": str(self.ca_file),
            "PGCHANNELBINDING": "require",
        }

    def connect(self, **options: Any) -> psycopg.Connection[Any]:
        return psycopg.connect(self.uri, autocommit=True, **options)

    async def connect_async(self, **options: Any) -> Any:
        return await asyncpg.connect(
            host=self.host,
            port=self.port,
            user=self.role,
            password=self.password,
            database=self.database,
            ssl=ssl.create_default_context(cafile=str(self.ca_file)),
            **options,
        )

    def psql(self, sql: str, **overrides: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["psql", "-X", "-A", "-t", "-q", "-c", sql],
            env=self.environment | overrides, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip


class KeptEngines:
    """What a platform makes once from each PostgreSQL of the host, in a third of its first start: its root file system and
    its template, which are only read from then on. The first platform of a run makes them, and the next find them made,
    as after an upgrade of Cloister. They know by a digest what they were made from."""

    def __init__(self) -> None:
        self._directory: Path | None = None

    def keep(self, paths: Paths) -> None:
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="cloister-engines-"))
            atexit.register(shutil.rmtree, self._directory, ignore_errors=True)
        for template in paths.engines.glob("*/template"):
            if not (kept := self._directory / template.parent.name).exists():
                _link_tree(template.parent, kept)

    def give(self, paths: Paths) -> None:
        if self._directory is not None:
            paths.layout_version.write_text(f"{LAYOUT_VERSION}\n")  # or the directory would be somebody else's
            _link_tree(self._directory, paths.engines)


kept_engines = KeptEngines()


def _link_tree(source: Path, target: Path) -> None:
    """The same files, with their owners, under other directories."""
    subprocess.run(["cp", "--archive", "--link", source, target], check=True, timeout=60)


class Instance:
    """One platform. Use as a context manager: up on entry, gone without trace on exit."""

    def __init__(self, *options: str, storage: str = "luks", workers: int = 2) -> None:
        self.state_dir = Path(tempfile.mkdtemp(prefix="cloister-"))
        self.state_dir.chmod(0o755)
        self.paths = Paths(self.state_dir)
        self.postgres_port, self.https_port = _free_ports(2)
        self.domain = "db.localhost"
        self._options = [
            "--domain", self.domain,
            "--listen-postgres", f"localhost:{self.postgres_port}",
            "--listen-https", f"localhost:{self.https_port}",
            "--storage", storage,
            "--gateway-workers", str(workers),
            *options,
        ]  # fmt: skip
        self._http: httpx.Client | None = None

    def __enter__(self) -> Self:
        try:
            self.up()
        except BaseException:
            self.destroy()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.destroy()

    # The operator's hands.

    def cloister(
        self, *words: str, check: bool = True, timeout: float = UP_TIMEOUT_S
    ) -> subprocess.CompletedProcess[str]:
        """Run the command line as on the server itself."""
        done = subprocess.run(
            [sys.executable, "-m", "cloister", *words],
            env={"PATH": os.environ["PATH"], "CLOISTER_STATE_DIR": str(self.state_dir), "HOME": "/root"},
            capture_output=True, text=True, timeout=timeout, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if check and done.returncode != 0:
            raise AssertionError(
                f"cloister {' '.join(words)} → {done.returncode}\n{done.stdout}{done.stderr}{self.logs()}"
            )
        return done

    def up(self, *more: str) -> None:
        if not self.paths.layout_version.exists():
            kept_engines.give(self.paths)
        self.cloister("up", "--state-dir", str(self.state_dir), *self._options, *more, "--detach")
        self.hang_up()
        kept_engines.keep(self.paths)

    def down(self, *more: str) -> str:
        """What it told its operator."""
        return self.cloister("down", "--state-dir", str(self.state_dir), *more).stderr

    def status(self) -> dict[str, Any]:
        done = self.cloister("status", "--state-dir", str(self.state_dir), "--json", check=False)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def logs(self) -> str:
        """The end of every log, for a failing test's report."""
        lines = []
        for log in sorted(self.paths.logs.glob("*.log")):
            lines.append(f"--- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-25:]))
        return "\n".join(lines)

    def pids(self) -> dict[str, int]:
        """Label → pid of the platform's own processes, as the supervisor knows them."""
        document = json.loads(self.paths.status.read_text())
        return {label: each["pid"] for label, each in document["processes"].items() if each["pid"]}

    def kill(self, label: str) -> None:
        os.kill(self.pids()[label], signal.SIGKILL)

    def kill_and_await(self, label: str, timeout_s: float = 60) -> None:
        """Kill, and wait for another process in its place: what the supervisor says is a moment behind."""
        deadline = time.monotonic() + timeout_s
        pid = self.pids().get(label)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            while self.pids().get(label) in (None, pid):
                if time.monotonic() > deadline:
                    raise AssertionError(f"{label} does not come back\n" + self.logs())
                time.sleep(0.02)
        self.await_ready(timeout_s)
        self.hang_up()

    def await_ready(self, timeout_s: float = 60) -> dict[str, int]:
        """Until the supervisor says that every process is up, and they are: what it says is a moment behind. Gives their
        pids, all of them."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            with contextlib.suppress(FileNotFoundError, ValueError):
                document = json.loads(self.paths.status.read_text())
                pids = {label: each["pid"] for label, each in document["processes"].items()}
                if document["is_ready"] and all(pid and _is_alive(pid) for pid in pids.values()):
                    return pids
            time.sleep(0.02)
        raise AssertionError("the platform did not get ready\n" + self.logs())

    def control_groups(self) -> list[Path]:
        """This platform's own and those of its endpoints, in every hierarchy that the kernel has."""
        return control_groups(self.paths)

    def descendants(self) -> list[int]:
        """Every process of this platform that is alive: its command line or its cgroup names the instance."""
        mine = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):
                    words = (entry / "cmdline").read_bytes()
                    groups = (entry / "cgroup").read_text()
                    marks = (str(self.state_dir).encode(), f"cloister-{self.paths.instance}".encode())
                    if any(mark in words for mark in marks) or f"cloister-{self.paths.instance}/" in groups:
                        mine.append(int(entry.name))
        return mine

    def kill_everything(self) -> None:
        """What a power cut leaves of the processes: nothing."""
        deadline = time.monotonic() + 20
        while (alive := self.descendants()) and time.monotonic() < deadline:
            for pid in alive:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)

    def hang_up(self) -> None:
        """The next call of the API connects anew."""
        if self._http is not None:
            self._http.close()
            self._http = None

    def destroy(self) -> None:
        self.hang_up()
        with contextlib.suppress(Exception):
            self.cloister("down", "--state-dir", str(self.state_dir), "--now", check=False, timeout=60)
        self.kill_everything()
        shutil.rmtree(self.state_dir, ignore_errors=True)
        clear(self.paths)

    # The tenants' hands.

    @property
    def http(self) -> httpx.Client:
        if self._http is None:
            self._http = httpx.Client(
                base_url=f"https://localhost:{self.https_port}/api/v2",
                headers={"Authorization": f"Bearer {self.paths.admin_key.read_text().strip()}"},
                verify=ssl.create_default_context(cafile=str(self.paths.ca_file)),
                timeout=60,
            )
        return self._http

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Asked again, when the API says, while this key has asked too often: on a quick machine tests meet that limit."""
        deadline = time.monotonic() + 30
        while (answer := self.http.request(method, path, **options)).status_code == httpx.codes.TOO_MANY_REQUESTS:
            assert time.monotonic() < deadline, answer.text
            time.sleep(float(answer.headers["Retry-After"]))
        return answer

    def api(self, method: str, path: str, body: Any = None, *, expect: int | None = None, **options: Any) -> Any:
        answer = self.request(method, path, json=body, **options)
        if expect is not None and answer.status_code != expect:
            raise AssertionError(f"{method} {path} → {answer.status_code} {answer.text}\n{self.logs()}")
        if expect is None and answer.status_code >= 400:
            raise AssertionError(f"{method} {path} → {answer.status_code} {answer.text}\n{self.logs()}")
        return answer.json() if answer.content else None

    def create_project(self, name: str = "journey", *, wait: bool = True, **fields: Any) -> Tenant:
        made = self.api("POST", "/projects", {"project": {"name": name, **fields}}, expect=201)
        uri = urlsplit(made["connection_uris"][0]["connection_uri"])
        assert parse_qs(uri.query)["sslmode"] == ["verify-full"]
        tenant = Tenant(
            project_id=made["project"]["id"],
            branch_id=made["branch"]["id"],
            endpoint_id=made["endpoints"][0]["id"],
            host=uri.hostname or "",
            port=uri.port or 5432,
            role=unquote(uri.username or ""),
            password=unquote(uri.password or ""),
            database=unquote(uri.path[1:]),
            ca_file=self.paths.ca_file,
        )
        if wait:
            self.settle(tenant.project_id)
        return tenant

    def settle(self, project_id: str, timeout_s: float = 60) -> None:
        """Until no operation of the project is under way."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            operations = self.api("GET", f"/projects/{project_id}/operations")["operations"]
            if all(each["status"] not in ("scheduling", "running", "cancelling") for each in operations):
                return
            time.sleep(0.02)
        raise AssertionError("operations do not end\n" + self.logs())

    def suspend(self, tenant: Tenant) -> None:
        """Suspend and wait until the compute is gone and the volume closed."""
        self.api("POST", f"/projects/{tenant.project_id}/endpoints/{tenant.endpoint_id}/suspend")
        self.settle(tenant.project_id)

    def endpoint(self, tenant: Tenant) -> dict[str, Any]:
        found: dict[str, Any] = self.api("GET", f"/projects/{tenant.project_id}/endpoints/{tenant.endpoint_id}")[
            "endpoint"
        ]
        return found


@contextlib.contextmanager
def tail(instance: Instance) -> Iterator[None]:
    """Adds the platform's logs to whatever fails inside."""
    try:
        yield
    except Exception as error:
        error.add_note(instance.logs())
        raise


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()

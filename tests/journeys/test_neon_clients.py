"""Other people's SDKs and drivers, unmodified: each creates a project, branches, queries, resets, deletes.

The journeys of those that are written for Node are in tests/clients/journeys.mjs.
"""

import json
import os
import shutil
import ssl
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import neon_api
import psycopg
import pytest
import sqlalchemy

from tests.front import Front
from tests.instance import Instance
from tests.npm import CLIENTS, NODE_MODULES

pytestmark = pytest.mark.root

JDBC = Path("/usr/share/java/postgresql.jar")
"""The driver as Debian packs it."""


@pytest.mark.parametrize(
    ("control", "driver"),
    [
        ("sdk", "websocket"),
        ("sdk", "drizzle-pg"),
        ("api-client", "pg"),
        ("api-client", "postgres"),
        ("api-client", "drizzle-http"),
        ("sdk", "drizzle-websocket"),
        ("api-client", "prisma"),
        ("toolkit", "http"),
    ],
)
def test_a_client_for_node(instance: Instance, front: Front, control: str, driver: str) -> None:
    if driver == "prisma":
        generate_client_of_prisma()
    done = subprocess.run(
        front.seen_by(["node", CLIENTS / "journeys.mjs", control, driver]),
        env={
            "PATH": os.environ["PATH"],
            "API": f"https://localhost:{instance.https_port}/api/v2",
            "KEY": instance.paths.admin_key.read_text().strip(),
            "HTTPS_PORT": str(instance.https_port),
            "NODE_EXTRA_CA_CERTS": str(front.ca_file),
        },
        capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"before": 2, "after": 1, "first": 1}


def generate_client_of_prisma() -> None:
    """As everybody who uses Prisma does. The command fetches a program for migrations before it does anything, from a server
    of Prisma's own; told that it has one already, it fetches nothing, and generating does not need it."""
    done = subprocess.run(
        ["node", NODE_MODULES / "prisma/build/index.js", "generate", "--schema", CLIENTS / "notes.prisma"],
        env={"PATH": os.environ["PATH"], "PRISMA_SCHEMA_ENGINE_BINARY": "/bin/true", "CHECKPOINT_DISABLE": "1"},
        cwd=CLIENTS, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_jdbc(instance: Instance, tmp_path: Path) -> None:
    """Debian's driver, with this machine's Java: create, query, branch, query there, reset, delete."""
    if shutil.which("javac") is None or not JDBC.exists():
        pytest.skip(f"no JDK, or no {JDBC} (Debian: default-jdk-headless, libpostgresql-jdbc-java)")
    subprocess.run(["javac", "-d", tmp_path, CLIENTS / "Jdbc.java"], check=True, timeout=60)

    def ask(to: dict[str, str], *statements: str) -> str:
        return with_jdbc(instance, tmp_path, to, *statements)

    project = instance.http.post("/projects", json={"project": {"name": "jdbc"}}).json()
    project_id, root = project["project"]["id"], project["branch"]["id"]
    try:
        first = project["connection_uris"][0]["connection_parameters"]
        assert ask(first, "CREATE TABLE t (n int)", "INSERT INTO t VALUES (1)") == "1"
        instance.settle(project_id)
        asked = {"branch": {"name": "dev"}, "endpoints": [{"type": "read_write"}]}
        branch = instance.http.post(f"/projects/{project_id}/branches", json=asked).json()
        dev = {**first, "host": branch["endpoints"][0]["host"]}
        assert ask(dev, "INSERT INTO t VALUES (2)") == "2"
        instance.settle(project_id)
        there = f"/projects/{project_id}/branches/{branch['branch']['id']}/restore"
        assert instance.http.post(there, json={"source_branch_id": root}).status_code == 200
        instance.settle(project_id)
        assert ask(dev) == "1"
        refused = ask({**dev, "password": "wrong"})
        assert refused == 'FATAL: password authentication failed for user "neondb_owner"'
    finally:
        instance.settle(project_id)
        assert instance.http.delete(f"/projects/{project_id}").status_code == 200


def with_jdbc(instance: Instance, classes: Path, to: dict[str, str], *statements: str) -> str:
    """What tests/clients/Jdbc.java says."""
    done = subprocess.run(
        ["java", "-XX:TieredStopAtLevel=1", "-cp", f"{JDBC}:{classes}", "Jdbc", *statements],
        env={
            "PATH": os.environ["PATH"],
            "URL": f"jdbc:postgresql://{to['host']}:{instance.postgres_port}/{to['database']}",
            "ROLE": to["role"], "PASSWORD": to["password"], "CA_FILE": str(instance.paths.ca_file),
        },
        capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


Ask = Callable[..., Awaitable[int]]
COUNT = "SELECT count(*) FROM t"


async def with_psycopg(uri: str, ca_file: str, *statements: str) -> int:
    async with await psycopg.AsyncConnection.connect(f"{uri}&sslrootcert={ca_file}", autocommit=True) as session:
        for statement in statements:
            await session.execute(statement)
        row = await (await session.execute(COUNT)).fetchone()
        assert row is not None
        return int(row[0])


async def with_asyncpg(uri: str, ca_file: str, *statements: str) -> int:
    session = await asyncpg.connect(uri.partition("?")[0], ssl=ssl.create_default_context(cafile=ca_file))
    try:
        for statement in statements:
            await session.execute(statement)
        return int(await session.fetchval(COUNT))
    finally:
        await session.close()


async def with_sqlalchemy(uri: str, ca_file: str, *statements: str) -> int:
    engine = sqlalchemy.create_engine(f"{uri}&sslrootcert={ca_file}".replace("postgresql:", "postgresql+psycopg:"))
    try:
        with engine.begin() as session:
            for statement in statements:
                session.execute(sqlalchemy.text(statement))
            return int(session.execute(sqlalchemy.text(COUNT)).scalar_one())
    finally:
        engine.dispose()


@pytest.mark.parametrize("ask", [with_psycopg, with_asyncpg, with_sqlalchemy])
async def test_a_client_for_python(instance: Instance, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    ca_file = str(instance.paths.ca_file)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", ca_file)
    key = instance.paths.admin_key.read_text().strip()
    neon: Any = neon_api.NeonAPI(key, base_url=f"https://localhost:{instance.https_port}/api/v2/")
    # What it makes of an answer leaves passwords out, so it can only ask for those that are kept.
    made = neon.project_create(project={"name": ask.__name__, "store_passwords": True})
    project_id = made.project.id
    try:
        (root,) = neon.branches(project_id).branches
        names = {"database_name": "neondb", "role_name": "neondb_owner"}
        first = neon.connection_uri(project_id, **names).uri
        assert await ask(first, ca_file, "CREATE TABLE t (n int)", "INSERT INTO t VALUES (1)") == 1
        instance.settle(project_id)
        branch = neon.branch_create(project_id, branch={"name": "dev"}, endpoints=[{"type": "read_write"}])
        assert [it.name for it in neon.branches(project_id).branches] == ["dev", "main"]
        hosts = {it.branch_id: it.host for it in neon.endpoints(project_id).endpoints}
        dev = first.replace(hosts[root.id], hosts[branch.branch.id])
        assert await ask(dev, ca_file, "INSERT INTO t VALUES (2)") == 2
        instance.settle(project_id)
        # It has no word for a reset of its own.
        reset = {"source_branch_id": root.id}
        neon._request("POST", f"projects/{project_id}/branches/{branch.branch.id}/restore", json=reset)
        instance.settle(project_id)
        assert await ask(dev, ca_file) == 1
        assert await ask(first, ca_file) == 1
        assert {it.status.value for it in neon.operations(project_id).operations} == {"finished"}
    finally:
        instance.settle(project_id)
        assert neon.project_delete(project_id).project.id == project_id
        neon._session.close()


def test_what_neon_api_asks_beside(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(instance.paths.ca_file))
    key = instance.paths.admin_key.read_text().strip()
    neon: Any = neon_api.NeonAPI(key, base_url=f"https://localhost:{instance.https_port}/api/v2/")
    try:
        assert neon.me().billing_account is not None
        created = neon.api_key_create(key_name="python")
        assert created.id in {it.id for it in neon.api_keys()}
        assert neon.api_key_revoke(created.id).revoked is True
        with pytest.raises(neon_api.exceptions.NeonAPIError, match="project not found"):
            neon.project("calm-forest-00000000")
    finally:
        neon._session.close()

"""What is left of a project while it sleeps: bytes that nobody can read, and nothing else."""

import asyncio
import contextlib
import json
import os
import subprocess
import time
import uuid
from pathlib import Path

import psycopg
import pytest

from cloister.base.errors import PreconditionError
from cloister.trust.keys.client import KeyClient
from tests.back_doors import wait_until
from tests.instance import Instance

pytestmark = pytest.mark.root


def test_nothing_of_a_sleeping_project_is_open_or_readable(instance: Instance) -> None:
    """No process, no loop device, no mount, and none of a planted canary in its bytes on disk."""
    tenant = instance.create_project("canary")
    canary = f"canary-{uuid.uuid4()}"
    with tenant.connect() as connection:
        connection.execute("CREATE TABLE secret (t text)")
        connection.execute("INSERT INTO secret SELECT %s FROM generate_series(1, 1000)", (canary,))
    image = next(path for path in instance.paths.volumes.iterdir() if path.name.startswith(tenant.project_id))
    assert _lines_about(tenant.project_id), "while awake, a process or mount names the project"
    instance.suspend(tenant)

    assert _processes_naming(tenant.endpoint_id, tenant.project_id) == []
    assert tenant.project_id not in _mounts_of(instance)
    loops = subprocess.run(
        ["losetup", "--list", "--noheadings", "--output", "BACK-FILE"], capture_output=True, text=True, check=True
    )
    assert tenant.project_id not in loops.stdout
    storage = instance.status()["storage"]
    assert storage["encrypted"]
    assert "aes-xts" in storage["cipher"]
    assert not _bytes_hold(image, canary.encode())
    # The control run: the canary is there for who has the key.
    assert tenant.psql("SELECT count(*) FROM secret WHERE t = '" + canary + "'").stdout == "1000\n"


def test_a_deleted_project_is_asleep_for_everybody_and_comes_back_as_it_was(instance: Instance) -> None:
    shop = instance.create_project("shop")
    images = instance.paths.volumes
    with shop.connect() as session:
        session.execute("CREATE TABLE orders AS SELECT generate_series(1, 1000) AS id")
        # Said to the server alone: the platform knows of it by what it reads when it puts the project away.
        session.execute("CREATE ROLE till LOGIN PASSWORD 'correct-Horse7-battery-staple!'")
        told = instance.cloister("projects", "delete", shop.project_id)
        assert f"cloister projects recover {shop.project_id}" in told.stdout + told.stderr
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT 1")
    assert "password authentication failed" in shop.psql("SELECT 1").stderr
    wait_until(lambda: not _lines_about(shop.project_id), "its volume stays open")
    with pytest.raises(PreconditionError, match="deleted"):
        asyncio.run(_passphrase(instance, shop.project_id))
    instance.api("GET", f"/projects/{shop.project_id}", expect=404)
    listed = json.loads(instance.cloister("projects", "list", "--recoverable", "--output", "json").stdout)
    assert shop.project_id in {it["id"] for it in listed}

    instance.cloister("projects", "recover", shop.project_id)
    assert shop.psql("SELECT count(*) FROM orders").stdout == "1000\n"
    assert (
        shop.psql("SELECT current_user", PGUSER="till", PGPASSWORD="correct-Horse7-battery-staple!").stdout == "till\n"
    )

    instance.cloister("projects", "delete", shop.project_id)
    instance.cloister("projects", "delete", "--now", shop.project_id)
    wait_until(lambda: not list(images.glob(f"{shop.project_id}*")), "its image is still there")
    assert "project not found" in instance.cloister("projects", "recover", shop.project_id, check=False).stderr


def test_another_projects_key_does_not_open_it(instance: Instance) -> None:
    """The image of one project put in the place of another's does not open, and the wake says so and no more."""
    one, two = instance.create_project("one"), instance.create_project("two")
    for tenant in (one, two):
        instance.suspend(tenant)
    first, second = (
        next(path for path in instance.paths.volumes.iterdir() if path.name.startswith(tenant.project_id))
        for tenant in (one, two)
    )
    aside = second.with_name("aside")
    second.rename(aside)
    try:
        os.link(first, second)
        said = two.psql("SELECT 1", PGCONNECT_TIMEOUT="8")
        assert said.returncode != 0
        assert str(instance.state_dir) not in said.stderr
    finally:
        second.unlink()
        aside.rename(second)
    deadline = time.monotonic() + 90
    while two.psql("SELECT 1").stdout != "1\n":
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert one.psql("SELECT 1").stdout == "1\n"


def test_the_key_is_nowhere_in_memory_while_it_sleeps(instance: Instance) -> None:
    """The volume's passphrase is in no process's memory once the project sleeps, in digits or in bytes.

    It is got as the node agent gets it: root asks the broker, which records that.
    """
    tenant = instance.create_project("forgotten")
    digits = asyncio.run(_passphrase(instance, tenant.project_id))
    needles = (digits[:32], digits[32:], bytes.fromhex(digits.decode())[:16], bytes.fromhex(digits.decode())[16:])
    awake = [pid for pid in instance.descendants() if _memory_holds(pid, needles)]
    assert awake, "while it is awake, the volume's daemon holds it: the search can find it"
    instance.suspend(tenant)
    holders = [pid for pid in instance.descendants() if _memory_holds(pid, needles)]
    assert holders == [], [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in holders]


async def _passphrase(instance: Instance, project_id: str) -> bytes:
    descriptor = await KeyClient(instance.paths.broker_socket).unwrap(project_id, "test")
    try:
        return os.pread(descriptor, 64, 0)
    finally:
        os.close(descriptor)


def _memory_holds(pid: int, needles: tuple[bytes, ...]) -> bool:
    with (
        contextlib.suppress(OSError, ValueError),
        Path(f"/proc/{pid}/maps").open() as maps,
        Path(f"/proc/{pid}/mem").open("rb", 0) as memory,
    ):
        for line in maps:
            span, rights = line.split()[:2]
            if not rights.startswith("rw-p"):  # PostgreSQL's shared buffers are large and hold pages of its files
                continue
            start, end = (int(part, 16) for part in span.split("-"))
            with contextlib.suppress(OSError, ValueError, OverflowError):
                memory.seek(start)
                content = memory.read(end - start)
                if any(needle in content for needle in needles):
                    return True
    return False


def _bytes_hold(image: Path, needle: bytes) -> bool:
    """Search what a sparse file really holds."""
    overlap = len(needle) - 1
    with image.open("rb") as file:
        end = 0
        while True:
            try:
                start = os.lseek(file.fileno(), end, os.SEEK_DATA)
            except OSError:
                return False
            end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            for offset in range(start, end, 16 * 2**20):
                if needle in os.pread(file.fileno(), 16 * 2**20 + overlap, offset):
                    return True


def _processes_naming(*words: str) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if any(word in line for word in words) and "grep" not in line:
                    found.append(line)
    return found


def _mounts_of(instance: Instance) -> str:
    """The mounts that the platform's own processes see: they live in a mount namespace of their own."""
    return Path(f"/proc/{instance.pids()['agent']}/mounts").read_text()


def _lines_about(word: str) -> list[str]:
    return _processes_naming(word)

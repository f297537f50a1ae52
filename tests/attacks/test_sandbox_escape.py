"""A tenant who has become a real superuser, and runs code of their own: how far do they get?

The probes of the catalogue, §6.3, and ten more, are one small C program, installed as the /bin/sh that a compute does
not have, so that `COPY … FROM PROGRAM` runs it inside. Each is run twice: inside a compute, where it must be refused, and
on the host without the sandbox, where it must reach what it is after; a probe that fails in both places proves nothing.

Everything happens in a network namespace of the test's own, with addresses that a cloud's metadata service and a private
network would have, so that a sandbox that shared its starter's network would be found out.
"""

import asyncio
import contextlib
import ctypes
import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from cloister.base.identities import COMPUTE_UID_FIRST
from cloister.node.commands import ComputeSpec
from tests.fix_computes import VOLUME_BYTES, EnginesOnHost, Node, connect, running_node

pytestmark = pytest.mark.root

CLONE_NEWNET, CLONE_NEWIPC = 0x40000000, 0x08000000
CONTROL_UID = COMPUTE_UID_FIRST + 99_000
SHARED_MEMORY_KEY = 0x636C6F
METADATA, PRIVATE = "169.254.169.254", "10.1.2.3"
PROCESSES, HOG_MB = 400, 600
FILL_MB = VOLUME_BYTES // 1024**2 + 16


@dataclass(frozen=True)
class Probe:
    what: str
    command: str
    is_root: bool = False
    """Outside, it takes root to reach it: there the sandbox is off, and so is the giving up of root."""


@dataclass
class Outcome:
    inside: str
    outside: str


PROBES = {
    "01-data-of-another": Probe("read another tenant's data", "read {b_data}/PG_VERSION", is_root=True),
    "02-socket-of-another": Probe("connect to another tenant's server", "unix {b_socket}", is_root=True),
    "03-processes": Probe("see another process", "see {b_pid}"),
    "04-touch-process": Probe("signal and trace another process", "touch {sleeper}", is_root=True),
    "05a-platform-socket": Probe("connect to the platform's sockets", "unix {platform_socket}", is_root=True),
    "05b-platform-file": Probe("read the platform's secrets", "read {secret}", is_root=True),
    "06-loopback": Probe("connect to a port of the host", "tcp 127.0.0.1 {port}"),
    "07a-metadata": Probe("connect to the metadata service", f"tcp {METADATA} {{port}}"),
    "07b-private": Probe("connect to a private network", f"tcp {PRIVATE} {{port}}"),
    "08-raw": Probe("open a raw or packet socket", "raw", is_root=True),
    "09-abstract": Probe("connect to an abstract Unix socket", "abstract {abstract}"),
    "10-sysv": Probe("attach another's shared memory or queue", f"sysv {SHARED_MEMORY_KEY} /cloister-probe"),
    "11-keys": Probe("use the kernel's keyrings", "keys"),
    "12-mount": Probe("mount", "mount", is_root=True),
    "13-userns": Probe("become root in a user namespace", "userns"),
    "14-devices": Probe("open /dev, /sys, /proc/sys", "devices", is_root=True),
    "15-fork": Probe("start any number of processes", f"fork {PROCESSES}"),
    "16-memory": Probe("take any amount of memory", f"hog {HOG_MB}"),
    "17-disk": Probe("fill more than its volume", f"fill {{writable}}/fill {FILL_MB}"),
    "18-leave": Probe("leave a set-uid file or a core dump", "leave {writable}/leave"),
    "19-writable-code": Probe("have memory that is written and executed", "wx"),
    "20-own-code-data": Probe("run a file from the data directory", "own {writable}/own"),
    "21-own-code-shm": Probe("run a file from shared memory", "own {shm}/own"),
    "22-own-code-socket": Probe("run a file beside the socket", "own {sockets}/own"),
    "23-link": Probe("put a symbolic link where the socket is", "link {sockets}/link"),
    # The catalogue's cases end with 18; these are about ways out (docs/egress.md), while the neighbour has one.
    "24-door-of-another": Probe("go through another project's door", "unix {b_door}", is_root=True),
    "25-own-door": Probe("make a door", "door {doors}/mine"),
    "26-resolver": Probe("ask a resolver something", f"udp {PRIVATE} 53"),
    "27-loopback-6": Probe("connect to a port of the host over IPv6", "tcp6 ::1 {port}"),
    "28-families": Probe("open a socket of the kernel's", "families"),
}


@pytest.fixture(scope="module")
def outcomes(engines: EnginesOnHost) -> Iterator[dict[str, Outcome]]:
    with own_namespaces(), tempfile.TemporaryDirectory(prefix="cloister-probe-") as scratch:
        os.chmod(scratch, 0o755)  # noqa: S103 - the probes run as others
        yield asyncio.run(run_all(engines, Path(scratch)))


@pytest.mark.parametrize("name", PROBES)
def test_a_probe_is_refused_inside_and_reaches_outside(name: str, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[name]
    assert outcome.inside.startswith("refused"), f"{PROBES[name].what}: {outcome.inside}"
    assert outcome.outside.startswith("reached"), f"the control run is vacuous: {outcome.outside}"


def test_the_neighbour_noticed_nothing(outcomes: dict[str, Outcome]) -> None:
    """During every probe the other tenant's server went on committing, with the processes it had."""
    assert outcomes["neighbour"] == Outcome("committed during every probe", "never restarted")


def test_who_ran_out_of_memory_comes_back_by_itself(outcomes: dict[str, Outcome]) -> None:
    assert outcomes["afterwards"].inside == "same postmaster, rows there"


async def test_without_a_shell_no_program_runs_at_all(engines: EnginesOnHost) -> None:
    """What a tenant's compute really is: not even the first step of the probes above."""
    async with running_node(engines) as node:
        connection = await connect(await node.start(node.new_compute()))
        with pytest.raises(asyncpg.PostgresError, match=r"could not execute command|command not found|failed"):
            await copy_from_program(connection, "echo reached")
        for library in ("/data/own.so", "$libdir/file_fdw", "$libdir/plpython3", "libc.so.6"):
            with pytest.raises(asyncpg.PostgresError):
                await connection.execute(f"LOAD '{library}'")
        names = {row[0] for row in await connection.fetch("SELECT name FROM pg_catalog.pg_available_extensions")}
        assert {"vector", "pg_trgm", "dblink"} <= names
        assert not names & {"file_fdw", "adminpack", "plperl", "plpython3u"}
        assert await connection.fetchval("SELECT pg_catalog.pg_read_file('/etc/passwd')") == (
            engines.engines.doors.passwd()
        )
        listing = await connection.fetch("SELECT pg_catalog.pg_ls_dir('/')")
        assert {row[0] for row in listing} == {
            *("bin", "data", "dev", "egress", "etc", "lib", "lib64", "opt", "outbox", "run", "sbin")
        }
        assert [row[0] for row in await connection.fetch("SELECT pg_catalog.pg_ls_dir('/bin')")] == []
        await connection.close()


async def run_all(engines: EnginesOnHost, scratch: Path) -> dict[str, Outcome]:
    shell = compile_probes(scratch / "bin" / "sh")
    async with running_node(engines, extra_readable={"/bin": shell.parent}) as node:
        a, b = node.new_compute(), node.new_compute()
        info_a, info_b = await node.start(a), await node.start(b)
        neighbour = await connect(info_b)
        await neighbour.execute("CREATE TABLE public.t (n int)")
        attacker = await connect(info_a)
        await attacker.execute("CREATE TABLE public.t AS SELECT 1 AS n")
        b_door, listening = listen_behind(node, b)
        with listening, bait(scratch, node) as facts:
            facts |= {
                "b_data": str(node.timeline_dir(b) / "data"),
                "b_socket": f"{info_b.socket_dir}/.s.PGSQL.5432",
                "b_pid": str(info_b.pid),
                "b_door": str(b_door),
            }
            outside = scratch / "outside"
            outside.mkdir()
            outside.chmod(0o777)
            places_inside = {
                "writable": "/data",
                "shm": "/dev/shm",
                "sockets": "/run/postgresql",
                "doors": "/egress",
            }
            places_outside = dict.fromkeys(places_inside, str(outside))
            results = {}
            committed = 0
            for name, probe in PROBES.items():
                reached = run_outside(shell, probe, facts | places_outside)
                running = asyncio.create_task(run_inside(attacker, probe.command.format(**facts, **places_inside)))
                await neighbour.execute("INSERT INTO public.t VALUES (1)")
                committed += 1
                results[name] = Outcome(await running, reached)
                if attacker.is_closed():
                    attacker = await connect(info_a)
            rows = await neighbour.fetchval("SELECT count(*) FROM public.t")
            results["neighbour"] = Outcome(
                "committed during every probe" if rows == committed else f"{rows} of {committed}",
                "never restarted" if not neighbour.is_closed() else "restarted",
            )
        same = {info.pid for info in node.computes.running()} == {info_a.pid, info_b.pid} and node.exits == []
        rows = await attacker.fetchval("SELECT n FROM public.t")
        results["afterwards"] = Outcome("same postmaster, rows there" if same and rows == 1 else "lost", "")
        attacker.terminate()
        await neighbour.close()
        return results


def listen_behind(node: Node, spec: ComputeSpec) -> tuple[Path, socket.socket]:
    """A door of this project, as the relay would open it, with somebody listening."""
    path = node.paths.egress_doors / spec.project_id / "203.0.113.7" / ".s.PGSQL.5432"
    path.parent.mkdir()
    handle = os.open(path.parent, os.O_PATH)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(f"/proc/self/fd/{handle}/{path.name}")
    listening.listen()
    os.close(handle)
    return path, listening


def compile_probes(target: Path) -> Path:
    target.parent.mkdir()
    source = Path(__file__).with_name("sandbox_probes.c")
    subprocess.run(["gcc", "-static", "-O1", "-w", "-o", target, source, "-lrt"], check=True)
    return target


async def run_inside(connection: Any, command: str) -> str:
    try:
        return await copy_from_program(connection, command)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        detail = getattr(error, "detail", None)
        return f"refused: {error} ({detail})"


async def copy_from_program(connection: Any, command: str) -> str:
    await connection.execute("CREATE TEMPORARY TABLE IF NOT EXISTS said (line text)")
    await connection.execute("TRUNCATE pg_temp.said")
    await connection.execute(f"COPY pg_temp.said FROM PROGRAM '{command}'")
    return str(await connection.fetchval("SELECT line FROM pg_temp.said"))


def run_outside(program: Path, probe: Probe, facts: dict[str, str]) -> str:
    uid = 0 if probe.is_root else CONTROL_UID
    done = subprocess.run(
        [program, "-c", probe.command.format(**facts)],
        user=uid,
        group=uid,
        extra_groups=[],
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    return done.stdout.strip() or f"refused: exit {done.returncode}"


@contextlib.contextmanager
def bait(scratch: Path, node: Node) -> Iterator[dict[str, str]]:
    """What there is to reach on a host: listeners, shared memory, a message queue, a secret, a process."""
    libc = ctypes.CDLL("libc.so.6", use_errno=True)
    with contextlib.ExitStack() as stack:
        tcp = stack.enter_context(socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True))
        abstract = stack.enter_context(socket.socket(socket.AF_UNIX))
        abstract.bind(b"\0cloister-probe")
        abstract.listen()
        platform = stack.enter_context(socket.socket(socket.AF_UNIX))
        platform.bind(str(node.paths.run / "agent.sock"))
        platform.listen()
        stack.callback((node.paths.run / "agent.sock").unlink)
        secret = scratch / "root.key"
        secret.write_text("secret")
        secret.chmod(0o600)
        segment = libc.shmget(SHARED_MEMORY_KEY, 4096, 0o1000 | 0o666)
        assert segment >= 0
        stack.callback(libc.shmctl, segment, 0, None)
        sleeper = stack.enter_context(subprocess.Popen(["sleep", "100"]))
        stack.callback(sleeper.kill)
        yield {
            "port": str(tcp.getsockname()[1]),
            "abstract": "cloister-probe",
            "platform_socket": str(node.paths.run / "agent.sock"),
            "secret": str(secret),
            "sleeper": str(sleeper.pid),
        }


@contextlib.contextmanager
def own_namespaces() -> Iterator[None]:
    """Network and IPC of this thread's own, and of what it starts; the host's stay as they are."""
    libc = ctypes.CDLL("libc.so.6", use_errno=True)
    with open("/proc/thread-self/ns/net", "rb") as net, open("/proc/thread-self/ns/ipc", "rb") as ipc:
        assert libc.unshare(CLONE_NEWNET | CLONE_NEWIPC) == 0
        try:
            for words in ("link set lo up", f"addr add {METADATA}/32 dev lo", f"addr add {PRIVATE}/32 dev lo"):
                subprocess.run(["ip", *words.split()], check=True)
            yield
        finally:
            assert libc.setns(net.fileno(), CLONE_NEWNET) == 0
            assert libc.setns(ipc.fileno(), CLONE_NEWIPC) == 0

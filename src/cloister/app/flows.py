"""Whether the platform's processes are apart: each Unix user tries each socket and file, and gets what `flows.tsv` says.

The table is the one that docs/flows.md shows. It is tried, not read off: a child of this process becomes the user and
connects, asks, logs in, reads. `anybody` is a uid that nobody has. Beside the table, every socket that the platform keeps
must be in it, and nothing of the platform's or a tenant's listens on a network on its own account: one that nobody thought of
is a difference, too.

`cloister doctor --flows` tries all of it. The round that the supervisor has made every minute (`watchman.py`) tries what leaves no
trace, `QUIET`, and now and then the rest, which whoever is asked notes in its log. The key broker, which records strangers, knows that
it is us (`base/trials.py`).
"""

import contextlib
import ipaddress
import json
import os
import select
import socket
import stat
import struct
from collections.abc import Container, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

import msgspec

from cloister.base import trials
from cloister.base.database import embedded
from cloister.base.errors import PreconditionError
from cloister.base.identities import COMPUTE_UID_COUNT, COMPUTE_UID_FIRST, Service, gid_of, uid_of
from cloister.base.rpc.wire import LENGTH, Request, frame
from cloister.base.settings import Paths, Settings

USERS: Final = {
    "api": Service.API,
    "gateway": Service.GATEWAY,
    "keys": Service.KEYS,
    "database": Service.DATABASE,
    "egress": Service.EGRESS,
    "courier": Service.COURIER,
    "sentinel": Service.SENTINEL,
    "anybody": None,
}
"""The table's columns. Root is none: nothing on its own machine is closed to it."""

ANYBODY_UID: Final = COMPUTE_UID_FIRST + COMPUTE_UID_COUNT - 1
"""Like a compute's, and never one."""

ANSWER_TIMEOUT_S: Final = 5.0
REFUSAL_TIMEOUT_S: Final = 0.5
# One socket takes connections and says nothing; who is refused there is cut off at once.

QUIET: Final = frozenset({"read", "enter", "write"})
"""Kinds that nobody is asked for but the kernel."""

_LISTEN: Final = "0A"
# The state TCP_LISTEN in /proc/net/tcp.

_PROTOCOL_3: Final = 196608


@dataclass(frozen=True, slots=True)
class Flow:
    place: str
    kind: str
    may: frozenset[str]
    """Of `USERS`."""
    why: str


@dataclass(frozen=True, slots=True)
class Difference:
    """Between the table and the world."""

    seen: str
    is_open: bool
    """What must be closed is open; not so, somebody is refused what they need."""


def table() -> list[Flow]:
    """Raises ValueError for a cell that is neither yes nor no: what cannot be read is not a rule."""
    lines = resources.files("cloister.app").joinpath("flows.tsv").read_text().splitlines()
    columns = lines[0].split("\t")[2:-1]
    if tuple(columns) != tuple(USERS):
        raise ValueError(f"flows.tsv has the columns {columns}")
    flows = []
    for line in lines[1:]:
        place, kind, *cells, why = line.split("\t")
        if len(cells) != len(columns) or not set(cells) <= {"yes", "no"} or kind not in _ATTEMPTS:
            raise ValueError(f"flows.tsv: {line}")
        may = frozenset(user for user, cell in zip(columns, cells, strict=True) if cell == "yes")
        flows.append(Flow(place, kind, may, why))
    return flows


def markdown(flows: list[Flow]) -> str:
    """The table as docs/flows.md has it."""
    lines = [f"| Place | | {' | '.join(USERS)} | Why |", f"|---|---|{'---|' * len(USERS)}---|"]
    for flow in flows:
        cells = " | ".join("yes" if user in flow.may else "" for user in USERS)
        lines.append(f"| `{flow.place}` | {flow.kind} | {cells} | {flow.why} |")
    return "\n".join(lines) + "\n"


def try_all(settings: Settings, *, quietly: bool = False) -> list[Difference]:
    """What each user was given, held against the table; `quietly`, what can be tried without a trace at the other end."""
    rows = table()
    tried = [flow for flow in rows if flow.kind in QUIET or not quietly]
    found = _differences(settings, dict.fromkeys(USERS, tried))
    found += strange_sockets(settings.paths, {str(place(settings.paths, flow)) for flow in rows})
    if settings.database_url is None:
        found += strange_rules(settings.paths)
    services = {uid_of(service) for service in Service if service is not Service.AGENT}
    for name in ("tcp", "tcp6"):
        found += strange_listeners(Path(f"/proc/net/{name}").read_text(), services)
    return found


def knock(settings: Settings) -> list[Difference]:
    """What is not quiet, by those who may not: nothing of ours is done in the name of those who may. A service that is not there
    lets nobody in."""
    loud = [flow for flow in table() if flow.kind not in QUIET]
    return _differences(settings, {user: [flow for flow in loud if user not in flow.may] for user in USERS})


def _differences(settings: Settings, by_user: dict[str, list[Flow]]) -> list[Difference]:
    if os.geteuid() != 0:
        raise PreconditionError(public="only root can try what other users may")
    found = []
    with trials.trying(settings.paths.broker_socket, uid_of(Service.KEYS)) as announce:
        for user, flows in by_user.items():
            tried = [flow for flow in flows if _is_there(flow, settings)]
            seen = attempt(user, tried, settings.paths, announce)
            found += [difference for flow in tried for difference in decide(flow, {user: seen[flow.place]})]
    return found


def _is_there(flow: Flow, settings: Settings) -> bool:
    """Who brings a control database of their own says in its configuration who logs in; a root key can be elsewhere for good."""
    if flow.place.startswith("control:"):
        return settings.database_url is None
    return flow.kind != "read" or place(settings.paths, flow).exists()


def decide(flow: Flow, seen: dict[str, bool]) -> list[Difference]:
    return [
        Difference(f"{user} {'can' if got_in else 'cannot'} {flow.kind} {flow.place}", is_open=got_in)
        for user, got_in in seen.items()
        if got_in != (user in flow.may)
    ]


def strange_sockets(paths: Paths, known: set[str]) -> list[Difference]:
    """Sockets in the services' directories that the table does not have. Gateways talk to each other by numbered ones."""
    found = [
        entry
        for directory in (
            paths.agent_run,
            paths.keys_run,
            paths.api_run,
            paths.egress_run,
            paths.courier_run,
            paths.control_socket_dir,
        )
        if directory.exists()
        for entry in directory.iterdir()
        if stat.S_ISSOCK(entry.lstat().st_mode) and str(entry) not in known
    ]
    return [Difference(f"{entry} is a socket that nobody expects", is_open=True) for entry in sorted(found)]


def strange_rules(paths: Paths) -> list[Difference]:
    """Who may log in to the control database stands in two files that every start of it writes anew."""
    return [
        Difference(f"the control database's {name} is not what its start wrote", is_open=True)
        for name, text in embedded.login_rules().items()
        if (file := paths.control_data / name).exists() and file.read_text(errors="replace") != text
    ]


def strange_listeners(proc_net_tcp: str, services: Container[int]) -> list[Difference]:
    """The two ports are opened by root and handed down. A socket that listens for a service's user or a compute's was opened by
    that itself, where a compute has no network at all. The text is that of /proc/net/tcp or tcp6."""
    return [
        Difference(f"uid {each.uid} listens on {each.address}:{each.port}", is_open=True)
        for each in listening(proc_net_tcp)
        if each.uid in services or COMPUTE_UID_FIRST <= each.uid < COMPUTE_UID_FIRST + COMPUTE_UID_COUNT
    ]


@dataclass(frozen=True, slots=True)
class Listener:
    address: str
    port: int
    uid: int
    inode: int


def listening(proc_net_tcp: str) -> list[Listener]:
    found = []
    for line in proc_net_tcp.splitlines()[1:]:
        fields = line.split()
        if fields[3] == _LISTEN:
            host, _, port = fields[1].partition(":")
            found.append(Listener(_address(host), int(port, 16), int(fields[7]), int(fields[9])))
    return found


def _address(hexadecimal: str) -> str:
    """The kernel writes each 32-bit word in the machine's byte order."""
    raw = bytes.fromhex(hexadecimal)
    words = b"".join(raw[start : start + 4][::-1] for start in range(0, len(raw), 4))
    return str(ipaddress.ip_address(words))


def place(paths: Paths, flow: Flow) -> Path:
    match flow.place.partition(":")[0]:
        case "control":
            return paths.control_socket_dir / ".s.PGSQL.5432"
        case "tls_key":
            return paths.certificates / "key.pem"
        case "authority":
            return paths.certificates / "authority" / "root-and-key.pem"
        case name:
            found: Path = getattr(paths, name)
            return found


def attempt(
    user: str, tried: list[Flow], paths: Paths, announce: trials.Announce = lambda _pid: None
) -> dict[str, bool]:
    """Place → whether this user got in. In a child, which becomes the user for good; the kernel lets none of that user's
    other processes into one that was root."""
    service = USERS[user]
    uid = ANYBODY_UID if service is None else uid_of(service)
    gid = ANYBODY_UID if service is None else gid_of(service)
    reading, writing = os.pipe()
    if (pid := os.fork()) == 0:
        code = 1
        with contextlib.suppress(BaseException):
            os.close(reading)
            announce(os.getpid())
            os.setgroups([])
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            answers = {flow.place: _ATTEMPTS[flow.kind](place(paths, flow), flow) for flow in tried}
            os.write(writing, json.dumps(answers).encode())
            code = 0
        os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    announce(0)  # while nobody else can have its number
    os.waitpid(pid, 0)
    if not said:
        raise PreconditionError(public=f"nothing could be tried as {user}")
    found: dict[str, bool] = json.loads(said)
    return found


def _call(path: Path, _flow: Flow) -> bool:
    """A server of ours answers a caller of its list, if only that it did not understand; it hangs up on others."""
    with _connected(path, socket.SOCK_STREAM) as connection:
        if connection is None:
            return False
        with contextlib.suppress(OSError):
            connection.sendall(frame(msgspec.msgpack.encode(Request(1, msgspec.Raw(b"\xc0")))))
            return len(connection.recv(LENGTH.size)) > 0
        return False


def _hand_over(path: Path, _flow: Flow) -> bool:
    with _connected(path, socket.SOCK_SEQPACKET) as connection:
        if connection is None:
            return False
        was_cut_off, _, _ = select.select([connection], [], [], REFUSAL_TIMEOUT_S)
        return not was_cut_off


def _log_in(path: Path, flow: Flow) -> bool:
    """By the kernel's word alone: no password is known."""
    role = flow.place.partition(":")[2]
    body = struct.pack(">i", _PROTOCOL_3) + f"user\0{role}\0database\0cloister\0\0".encode()
    with _connected(path, socket.SOCK_STREAM) as connection:
        if connection is None:
            return False
        with contextlib.suppress(OSError):
            connection.sendall(struct.pack(">i", len(body) + 4) + body)
            return connection.recv(9) == b"R\0\0\0\x08\0\0\0\0"
        return False


def _read(path: Path, _flow: Flow) -> bool:
    return _can_open(path, os.O_RDONLY)


def _enter(path: Path, _flow: Flow) -> bool:
    return os.access(path, os.X_OK, effective_ids=True)


def _write(path: Path, _flow: Flow) -> bool:
    return os.access(path, os.W_OK, effective_ids=True)


_ATTEMPTS: Final = {
    "call": _call,
    "hand over": _hand_over,
    "log in": _log_in,
    "read": _read,
    "enter": _enter,
    "write": _write,
}


@contextlib.contextmanager
def _connected(path: Path, kind: socket.SocketKind) -> Iterator[socket.socket | None]:
    with socket.socket(socket.AF_UNIX, kind) as connection:
        connection.settimeout(ANSWER_TIMEOUT_S)
        try:
            connection.connect(str(path))
        except OSError:  # the kernel refuses it, or nobody is there
            yield None
        else:
            yield connection


def _can_open(path: Path, flags: int) -> bool:
    try:
        os.close(os.open(path, flags | os.O_CLOEXEC))
    except PermissionError:
        return False
    return True

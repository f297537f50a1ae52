"""Who listens, and that nothing of ours speaks without TLS."""

import ipaddress
import json
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from cloister.app.flows import Listener, listening
from cloister.base.errors import PreconditionError
from cloister.base.identities import COMPUTE_UID_COUNT, COMPUTE_UID_FIRST, Service, uid_of
from cloister.base.settings import Address
from cloister.cli.doctor.finding import Finding, Subject, fail, ok

_PATIENCE_S: Final = 5.0

STARTUP_IN_CLEAR: Final = b"\x00\x00\x00\x16\x00\x03\x00\x00user\x00doctor\x00\x00\x00"
# StartupMessage, protocol 3.0, without asking for TLS first.
HTTP_IN_CLEAR: Final = b"GET /api/v2/projects HTTP/1.1\r\nHost: doctor\r\nConnection: close\r\n\r\n"


def open_ports(subject: Subject) -> list[Finding]:
    """Nothing of the platform listens on a network but its two ports."""
    status = running_status(subject)
    bound = {name: {Address.parse(text).port for text in status[name]} for name in ("postgres", "https")}
    pids = [status["pid"], *(each["pid"] for each in status["processes"].values() if each["pid"])]
    uids = {uid_of(service) for service in Service if service is not Service.AGENT}
    listeners = [listener for name in ("tcp", "tcp6") for listener in listening(Path(f"/proc/net/{name}").read_text())]
    return [decide(listeners, bound["postgres"] | bound["https"], uids, socket_inodes(pids))]


def decide(listeners: Iterable[Listener], expected: set[int], uids: set[int], inodes: set[int]) -> Finding:
    mine = [
        listener
        for listener in listeners
        if listener.inode in inodes
        or listener.uid in uids
        or COMPUTE_UID_FIRST <= listener.uid < COMPUTE_UID_FIRST + COMPUTE_UID_COUNT
    ]
    strange = sorted({f"{each.address}:{each.port} (uid {each.uid})" for each in mine if each.port not in expected})
    if strange:
        return fail("open ports", f"listening beside the two ports: {', '.join(strange)}", "stop it: nothing else may")
    if missing := expected - {listener.port for listener in mine}:
        return fail("open ports", f"nobody listens on {', '.join(map(str, sorted(missing)))}", "restart the platform")
    return ok("open ports", f"{', '.join(map(str, sorted(expected)))} and no other")


def plaintext(subject: Subject) -> list[Finding]:
    """Both ports are knocked at without TLS, and must not answer as if that were fine."""
    postgres, https = endpoints(subject)
    return [
        decide_postgres(_exchange(postgres, STARTUP_IN_CLEAR)),
        decide_https(_exchange(https, HTTP_IN_CLEAR)),
    ]


def decide_postgres(answer: bytes) -> Finding:
    if answer[:1] in (b"", b"E"):
        return ok("PostgreSQL in clear", "refused")
    return fail(
        "PostgreSQL in clear", f"answered {answer[:1]!r} to a startup without TLS", "stop the platform, report it"
    )


def decide_https(answer: bytes) -> Finding:
    if answer.startswith(b"HTTP/") and answer.split(b" ", 2)[1:2] != [b"400"]:
        return fail("HTTP in clear", f"answered {answer[:32]!r}", "stop the platform, report it")
    return ok("HTTP in clear", "refused")


def endpoints(subject: Subject) -> tuple[tuple[str, int], tuple[str, int]]:
    """Where this machine reaches the two ports, as they were really bound."""
    status = running_status(subject)
    postgres, https = (Address.parse(status[name][-1]) for name in ("postgres", "https"))
    return (_dial(postgres), postgres.port), (_dial(https), https.port)


def running_status(subject: Subject) -> dict[str, Any]:
    """What the supervisor last wrote. Raises PreconditionError if none runs."""
    try:
        found: dict[str, Any] = json.loads(subject.platform.paths.status.read_text())
    except FileNotFoundError:
        raise PreconditionError(public="the platform is not running") from None
    return found


def _dial(address: Address) -> str:
    if not ipaddress.ip_address(address.host).is_unspecified:
        return address.host
    return "::1" if ":" in address.host else "127.0.0.1"


def _exchange(where: tuple[str, int], request: bytes) -> bytes:
    with socket.create_connection(where, timeout=_PATIENCE_S) as plain:
        plain.sendall(request)
        try:
            return plain.recv(256)
        except ConnectionResetError:
            return b""


def socket_inodes(pids: Iterable[int]) -> set[int]:
    found = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = str(descriptor.readlink())
            except FileNotFoundError:
                continue
            if target.startswith("socket:["):
                found.add(int(target[8:-1]))
    return found

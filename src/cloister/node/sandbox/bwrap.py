"""What a sandbox is, as an argument list for bubblewrap. Pure: the spawning is in `launch.py`.

Inside there is the engine's root file system, read-only (`rootfs.py`); two device nodes; the directories that are
handed in; and no /proc, no /sys, no /tmp, no shell. Namespaces of its own for processes, network, IPC, host name,
cgroups and mounts. A user namespace is left out on purpose: the real uid gives nothing away without capabilities, and
PostgreSQL must see the real uids of who connects to its socket, which is how it tells the gateway from the API.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

DEVICES: Final = ("/dev/null", "/dev/urandom")

ARGS_FD, STATUS_FD, INFO_FD, BLOCK_FD, SECCOMP_FD, LOCK_FD = 3, 4, 5, 6, 7, 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    root: Path
    """Made by `rootfs.build`, owned by root."""
    uid: int
    """Also the group id. Never one that a person or another project has."""
    writable: dict[str, Path]
    """Path inside → directory outside."""
    readable: dict[str, Path] = field(default_factory=dict)
    """Path inside → file or directory outside. What is bound here over an executable place can be executed."""
    environment: dict[str, str] = field(default_factory=dict)
    """All of it."""
    groups: tuple[int, ...] = ()
    """Further groups."""


def options(sandbox: Sandbox) -> list[str]:
    """The options, which bubblewrap reads from ARGS_FD. Descriptors are those that `launch.py` arranges."""
    binds = [word for inside, outside in sandbox.readable.items() for word in ("--ro-bind", str(outside), inside)]
    binds += [word for inside, outside in sandbox.writable.items() for word in ("--bind", str(outside), inside)]
    environment = [word for name, value in sandbox.environment.items() for word in ("--setenv", name, value)]
    return [
        *("--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup"),
        *("--hostname", "compute", "--new-session"),
        # PostgreSQL is process 1: nothing inside can kill it, its own end is everybody's, and a pid file left by a
        # crash, which always says 1, is seen through at once.
        "--as-pid-1",
        *("--cap-drop", "ALL"),
        # These three are setpriv's, to give up the rest and itself; PostgreSQL starts with none.
        *("--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "--cap-add", "CAP_SETPCAP"),
        *("--ro-bind", str(sandbox.root), "/"),
        *(word for device in DEVICES for word in ("--dev-bind", device, device)),
        *binds,
        *environment,
        *("--chdir", "/"),
        *("--seccomp", str(SECCOMP_FD)),
        *("--info-fd", str(INFO_FD), "--json-status-fd", str(STATUS_FD), "--block-fd", str(BLOCK_FD)),
    ]


def command(sandbox: Sandbox, program: list[str]) -> list[str]:
    """Become nobody for good, then run `program`."""
    groups = ["--groups", ",".join(map(str, sandbox.groups))] if sandbox.groups else ["--clear-groups"]
    return [
        "/sbin/setpriv",
        *("--reuid", str(sandbox.uid), "--regid", str(sandbox.uid), *groups),
        *("--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all", "--no-new-privs"),
        "--",
        *program,
    ]

"""The platform's processes, as a table: what each runs as, what it is given, and in which order they start."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloister.base.identities import Service, gid_of, uid_of
from cloister.base.settings import Settings

READY_FD_VARIABLE: Final = "CLOISTER_READY_FD"
LISTEN_FDS_VARIABLE: Final = "CLOISTER_LISTEN_FDS"


@dataclass(frozen=True, slots=True)
class Child:
    """One process kind. `name` is what `python -m cloister.app NAME` runs."""

    name: str
    service: Service
    worker: int = 0
    listens: tuple[str, ...] = ()
    """Which of the supervisor's listening sockets it inherits: `postgres`, `https`."""
    stop_patience_s: float = 10.0
    """How long it may take to end after SIGTERM before SIGKILL."""
    needs: Path | None = None
    """It runs while this file is there."""

    @property
    def is_wanted(self) -> bool:
        return self.needs is None or self.needs.exists()

    @property
    def label(self) -> str:
        return f"{self.name}-{self.worker}" if self.name == "gateway" else self.name


def children(settings: Settings) -> list[Child]:
    """In the order of starting; stopped in reverse."""
    database = [] if settings.database_url else [Child("database", Service.DATABASE, stop_patience_s=30)]
    return [
        *database,
        Child("broker", Service.KEYS),
        Child("agent", Service.AGENT, stop_patience_s=60),
        Child("egress", Service.EGRESS),
        Child("courier", Service.COURIER, needs=settings.paths.store_file),
        Child("api", Service.API),
        Child("sentinel", Service.SENTINEL),
        *(
            Child("gateway", Service.GATEWAY, worker=number, listens=("postgres", "https"), stop_patience_s=15)
            for number in range(1, settings.gateway_workers + 1)
        ),
    ]


def spawn(
    child: Child, settings: Settings, *, listen_fds: Sequence[tuple[str, int]], ready_fd: int
) -> subprocess.Popen[bytes]:
    """Start a child with its own user, a clean environment, and only the descriptors it needs."""
    log = (settings.paths.logs / f"{child.label}.log").open("ab")
    with log:
        return subprocess.Popen(
            [*command(child.name, settings), "--worker", str(child.worker)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[*(descriptor for _, descriptor in listen_fds), ready_fd],
            env=environment(ready_fd, listen_fds),
            user=uid_of(child.service),
            group=gid_of(child.service),
            extra_groups=[],
            umask=0o022 if child.service is Service.AGENT else 0o077,  # the agent makes root file systems for others
            start_new_session=True,
            cwd="/",
        )


def command(name: str, settings: Settings) -> list[str]:
    """What runs the process `name` as a child of ours."""
    words = [sys.executable, "-m", "cloister.app", name, "--state-dir", settings.state_dir]
    return [*words, "--supervisor", str(os.getpid())]


def environment(ready_fd: int, listen_fds: Sequence[tuple[str, int]]) -> dict[str, str]:
    """Nothing of the operator's shell reaches a process: no SSLKEYLOGFILE, no LD_PRELOAD, no PG* variables."""
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
        "PYTHONSAFEPATH": "1",
        "OPENSSL_CONF": str(Path(__file__).with_name("openssl.cnf")),
        READY_FD_VARIABLE: str(ready_fd),
        LISTEN_FDS_VARIABLE: ",".join(f"{name}={descriptor}" for name, descriptor in listen_fds),
    }

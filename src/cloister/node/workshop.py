"""Where engines are made ready: the one place that knows both what PostgreSQL needs and what a sandbox is.

`initdb` runs in a sandbox too, as a uid that owns nothing else: PostgreSQL refuses to run as root, and an installation
below somebody's home directory cannot be read by other users, but it can be bound.

Nothing here preloads the guard: these runs take statements from the platform only, and no tenant can be connected.
"""

import os
from pathlib import Path
from typing import Final

from cloister.base.errors import InternalError
from cloister.base.identities import COMPUTE_UID_COUNT, COMPUTE_UID_FIRST
from cloister.base.settings import Paths
from cloister.node.postgres.access import Doors
from cloister.node.postgres.engines import NOT_OFFERED, Engine, Engines, discover
from cloister.node.postgres.tuning import POLICY_DEFAULT, PasswordPolicy
from cloister.node.runs import Run, Runs
from cloister.node.sandbox import rootfs
from cloister.node.sandbox.cgroups import HOST_CORES

WORKSHOP_UID: Final = COMPUTE_UID_FIRST + COMPUTE_UID_COUNT - 1
# The last of the range; projects are given theirs from its start.

_MEMORY_BYTES: Final = 256 * 1024**2

_PATIENCE_S: Final = 120.0
# `initdb` takes two seconds; a machine that is thrashing may take long.


def make_engines(paths: Paths, doors: Doors, password_policy: PasswordPolicy = POLICY_DEFAULT) -> Engines:
    """The engines of this host, to be made ready when they are first needed."""
    return Engines(paths, doors, SandboxWorkshop(Runs(paths, None)), discover(), password_policy)


class SandboxWorkshop:
    """Implements `postgres.engines.Workshop`."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs

    def build_root(self, engine: Engine, texts: dict[str, str], directories: tuple[str, ...]) -> None:
        installation = engine.installation
        files = {installation.bindir / "postgres": installation.postgres}
        for directory in (installation.pkglibdir, installation.sharedir):
            files |= rootfs.files_below(directory, installation.inside(directory), skip=NOT_OFFERED)
        files[installation.guard] = f"{installation.inside(installation.pkglibdir)}/guard.so"
        if installation.base is None:  # Distributions build with the system's time zones.
            files |= rootfs.files_below(Path("/usr/share/zoneinfo"), "/usr/share/zoneinfo")
        rootfs.build(
            engine.root,
            rootfs.Contents(
                files=files,
                texts=texts,
                # /bin is for initdb's shell, below, and stays empty in a compute.
                directories=(*directories, "/bin"),
                relocated=None
                if installation.base is None
                else (installation.base, installation.inside(installation.base)),
            ),
        )

    async def run(self, engine: Engine, data: Path, program: list[str], stdin: bytes) -> str:
        os.chown(data, WORKSHOP_UID, WORKSHOP_UID)
        os.chmod(data, 0o700)
        ran = await self._runs.run(
            Run(
                engine=engine,
                data=data,
                uid=WORKSHOP_UID,
                program=program,
                stdin=stdin,
                memory_bytes=_MEMORY_BYTES,
                cpu_cores=HOST_CORES,
                patience_s=_PATIENCE_S,
            )
        )
        if ran.code != 0:
            raise InternalError(
                f"{program[0]} of PostgreSQL {engine.version} exited with {ran.code}: {ran.output[-2000:]}"
            )
        return ran.output

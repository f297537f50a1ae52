"""A keeper with everything it needs under one directory, and a clock that a test moves."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cloister.base.clock import Clock, FakeClock
from cloister.base.database import Database
from cloister.trust.keys.asking import By
from cloister.trust.keys.keeper import Keeper
from cloister.trust.keys.keystore import Keystore
from cloister.trust.keys.providers import FileProvider, Provider, create_root_key
from cloister.trust.keys.roots import Roots

AGENT: Final = By("platform:agent")
ALICE: Final = By("user:alice")


@dataclass
class Rig:
    """A host: what a restart of the broker finds again."""

    directory: Path
    database: Database
    clock: Clock = field(default_factory=FakeClock)

    @property
    def keystore_directory(self) -> Path:
        return _made(self.directory / "keystore")

    @property
    def epochs(self) -> Path:
        return _made(self.directory / "epochs")

    def root(self, name: str = "root") -> FileProvider:
        """A root key in a file of that name, made at its first use."""
        path = self.directory / f"{name}.key"
        if not path.exists():
            create_root_key(path, uid=os.geteuid(), gid=os.getegid())
        return FileProvider(path)

    def keystore(self) -> Keystore:
        return Keystore(self.keystore_directory, self.epochs)

    def keeper(self, current: Provider | None = None, *former: Provider, patience_s: float = 0) -> Keeper:
        """As a broker that has just started has one."""
        roots = Roots(current or self.root(), former)
        return Keeper(self.database, roots, self.keystore(), self.clock, provider_patience_s=patience_s)


async def read_key(keeper: Keeper, project_id: str, purpose: str = "volume", material: int | None = None) -> bytes:
    """As the node agent gets it, but as bytes."""
    _, descriptor = await keeper.unwrap(project_id, purpose, "open", AGENT, material=material)
    try:
        return bytes.fromhex(os.pread(descriptor, 100, 0).decode())
    finally:
        os.close(descriptor)


def _made(directory: Path) -> Path:
    directory.mkdir(exist_ok=True)
    return directory

"""A keeper with everything it needs under one directory, and a clock that a test moves."""

import base64
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
from cloister.trust.keys.providers.provider import Context
from cloister.trust.keys.roots import Roots

AGENT: Final = By("platform:agent")
ALICE: Final = By("user:alice")


class Mistaken(FileProvider):
    """Opens what was wrapped before, and wraps something else than it is given."""

    def wrap(self, plaintext: memoryview, context: Context) -> bytes:
        return super().wrap(memoryview(bytes(len(plaintext))), context)


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

    def mistaken_root(self, name: str = "root") -> Mistaken:
        """The same key, in other hands."""
        self.root(name).close()
        return Mistaken(self.directory / f"{name}.key")

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


def shows(content: bytes, secret: bytes) -> bool:
    """Whether the secret is in there: as it is, as hexadecimal digits, or as base64, wherever in a text that begins."""
    forms = [secret, secret.hex().encode()]
    for before in range(3):
        digits = base64.b64encode(bytes(before) + secret).rstrip(b"=")
        forms.append(digits[-(-8 * before // 6) : -1])  # what its neighbours have no part in
    return any(form in content for form in forms)


def _made(directory: Path) -> Path:
    directory.mkdir(exist_ok=True)
    return directory

"""Which root keys a platform has: `secrets/key-providers.json`, written by `cloister keys migrate`.

    {"current": {"kind": "pkcs11", "library": "…", "token": "cloister", "key": "root-1", "pin_file": "…"},
     "former": [{"kind": "file", "path": "…/root.key"}]}

Without that file there is one root, the key or passphrase that the platform was started with. Nothing in it is secret;
secrets are files that it names, readable by the broker's user alone.
"""

from pathlib import Path
from typing import Final, TypeAlias, assert_never

import msgspec

from cloister.base.durable import write_durably
from cloister.base.errors import PreconditionError
from cloister.trust.keys.providers import open_provider, passphrase_file
from cloister.trust.keys.providers.aws import AwsProvider
from cloister.trust.keys.providers.file import FileProvider
from cloister.trust.keys.providers.pkcs11 import Pkcs11Provider
from cloister.trust.keys.providers.provider import Provider
from cloister.trust.keys.providers.vault import VaultProvider
from cloister.trust.keys.roots import Roots

FORMER_MAX: Final = 8
# One is usual; more are moves that were begun before the last was over.


class _Root(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    pass


class FileRoot(_Root, frozen=True, kw_only=True, tag="file"):
    path: str


class FirstRoot(_Root, frozen=True, kw_only=True, tag="first"):
    """What the platform was started with: `root.key`, or the passphrase."""


class Pkcs11Root(_Root, frozen=True, kw_only=True, tag="pkcs11"):
    library: str
    token: str
    key: str
    pin_file: str


class AwsRoot(_Root, frozen=True, kw_only=True, tag="aws-kms", omit_defaults=True):
    key_id: str
    region: str
    credentials_file: str | None = None
    endpoint_url: str | None = None


class VaultRoot(_Root, frozen=True, kw_only=True, tag="vault", omit_defaults=True):
    address: str
    key: str
    token_file: str
    mount: str = "transit"
    ca_file: str | None = None


Root: TypeAlias = FirstRoot | FileRoot | Pkcs11Root | AwsRoot | VaultRoot


class Configuration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    current: Root
    former: list[Root] = []

    def moved_to(self, root: Root) -> "Configuration":
        """With another current root; what was current becomes a former one. The same again changes nothing."""
        if root == self.current:
            return self
        former = [self.current, *(it for it in self.former if it not in (root, self.current))]
        if len(former) > FORMER_MAX:
            raise PreconditionError(public="too many former root keys: let the moves under way end first")
        return Configuration(current=root, former=former)


def parse_root(text: bytes) -> Root:
    """What an operator wrote. Raises PreconditionError with what is wrong."""
    try:
        root: Root = msgspec.json.decode(text, type=Root)
    except msgspec.DecodeError as error:
        raise PreconditionError(public=f"not the description of a root key: {error}") from error
    return root


def load(path: Path) -> Configuration:
    """Raises PreconditionError if it is damaged: no root is guessed at."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Configuration)
    except FileNotFoundError:
        return Configuration(current=FirstRoot())
    except msgspec.DecodeError as error:
        raise PreconditionError(public=f"{path}: {error}") from error


def save(path: Path, configuration: Configuration) -> None:
    """Readable by everybody: it names files, and holds no secret."""
    write_durably(path, msgspec.json.format(msgspec.json.encode(configuration), indent=2) + b"\n")


def file_of_root(path: Path, root_key: Path) -> Path | None:
    """Where the current root key is; None where it is not in a file. Raises PreconditionError."""
    match load(path).current:
        case FileRoot(path=named):
            return Path(named)
        case FirstRoot() if not passphrase_file(root_key).exists():
            return root_key
        case _:
            return None


def open_roots(path: Path, root_key: Path) -> Roots:
    """Raises PreconditionError."""
    configuration = load(path)
    return Roots(_opened(configuration.current, root_key), [_opened(it, root_key) for it in configuration.former])


def _opened(root: Root, root_key: Path) -> Provider:
    match root:
        case FirstRoot():
            return open_provider(root_key)
        case FileRoot():
            return FileProvider(Path(root.path))
        case Pkcs11Root():
            return Pkcs11Provider(Path(root.library), root.token, root.key, Path(root.pin_file))
        case AwsRoot():
            credentials = Path(root.credentials_file) if root.credentials_file else None
            return AwsProvider(root.key_id, root.region, credentials_file=credentials, endpoint_url=root.endpoint_url)
        case VaultRoot():
            ca_file = Path(root.ca_file) if root.ca_file else None
            return VaultProvider(root.address, root.key, Path(root.token_file), mount=root.mount, ca_file=ca_file)
        case unreachable:
            assert_never(unreachable)

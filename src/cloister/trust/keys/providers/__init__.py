"""Where root keys are: a file of 32 bytes (`file.py`), a passphrase (`passphrase.py`), an HSM (`pkcs11.py`), AWS KMS
(`aws.py`), Vault (`vault.py`); `configuration.py` says which this platform has.

A provider wraps and unwraps; the broker knows nothing else of it. The last three never show us their root key at all.
"""

from pathlib import Path

from cloister.base.errors import PreconditionError
from cloister.trust.keys.providers.file import FileProvider, create_root_key
from cloister.trust.keys.providers.passphrase import (
    CREDENTIAL,
    VARIABLE,
    PassphraseProvider,
    create_passphrase,
    take_passphrase,
)
from cloister.trust.keys.providers.provider import Context, KeyDamagedError, Provider

__all__ = [
    "Context",
    "FileProvider",
    "KeyDamagedError",
    "PassphraseProvider",
    "Provider",
    "create_passphrase",
    "create_root_key",
    "open_provider",
    "passphrase_file",
    "take_passphrase",
]


def passphrase_file(root_key: Path) -> Path:
    """Beside the root key's path: the salt and parameters of a platform that has a passphrase instead."""
    return root_key.with_suffix(".passphrase.json")


def open_provider(root_key: Path, passphrase_descriptor: int | None = None) -> FileProvider | PassphraseProvider:
    """The provider of this platform: a passphrase, if one was set with `create_passphrase` at `passphrase_file(root_key)`,
    or else the key in the file. Raises PreconditionError."""
    parameters = passphrase_file(root_key)
    if not parameters.exists():
        return FileProvider(root_key)
    passphrase = take_passphrase(passphrase_descriptor)
    if passphrase is None:
        raise PreconditionError(
            public=f"the keys of this platform need a passphrase: give it as the credential {CREDENTIAL} or in {VARIABLE}"
        )
    return PassphraseProvider(parameters, passphrase)

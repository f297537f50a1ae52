"""Where root keys come from: a file of 32 bytes (`file.py`) or a passphrase (`passphrase.py`).

A provider wraps and unwraps; the broker knows nothing else of it. One that asks a machine elsewhere (an HSM, a cloud's
key service) would never show us its root key at all.
"""

from pathlib import Path

from cloister.trust.keys.providers.file import FileProvider, create_root_key
from cloister.trust.keys.providers.passphrase import PassphraseProvider, create_passphrase, take_passphrase
from cloister.trust.keys.providers.provider import Context, KeyDamagedError, Provider

__all__ = [
    "Context",
    "FileProvider",
    "KeyDamagedError",
    "PassphraseProvider",
    "Provider",
    "create_passphrase",
    "create_root_key",
    "take_passphrase",
]


def passphrase_file(root_key: Path) -> Path:
    """Beside the root key's path: the salt and parameters of a platform that has a passphrase instead."""
    return root_key.with_suffix(".passphrase.json")

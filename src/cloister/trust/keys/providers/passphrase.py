"""A root key derived from a passphrase that somebody gives at every start.

The disk holds only a salt, the work factors and a fingerprint of the right key. Argon2id makes each guess cost 64 MiB and
about a tenth of a second (RFC 9106's choice for when memory is short).
"""

import ctypes
import os
from pathlib import Path
from typing import Final, Literal

import msgspec
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from cloister.base.errors import PreconditionError
from cloister.trust.keys.memory import SecretPage, wipe
from cloister.trust.keys.providers.file import open_private, write_private
from cloister.trust.keys.providers.provider import KEY_BYTES, RootKey

PASSPHRASE_BYTES_MIN: Final = 16
# Shorter ones are guessed: a passphrase protects a disk that the guesser holds.
PASSPHRASE_BYTES_MAX: Final = 1024

VARIABLE: Final = "CLOISTER_ROOT_PASSPHRASE"
CREDENTIAL: Final = "cloister-root-passphrase"
_SALT_BYTES: Final = 16


class Parameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    salt: bytes
    memory_kib: int = 64 * 1024
    iterations: int = 3
    lanes: int = 4
    fingerprint: str = ""
    kdf: Literal["argon2id"] = "argon2id"


class PassphraseProvider(RootKey):
    name = "passphrase"

    def __init__(self, path: Path, passphrase: bytearray) -> None:
        """`path` is what `create_passphrase` wrote; `passphrase` is wiped before this returns. Raises PreconditionError
        if it is not the right one."""
        try:
            parameters = _parameters(path)
            super().__init__(_derive(parameters, passphrase))
        finally:
            wipe(passphrase)
        if self.fingerprint != parameters.fingerprint:
            self.close()
            raise PreconditionError(public="this is not the passphrase that this platform's keys were wrapped with")

    @property
    def root_version(self) -> str:
        return self.fingerprint


def create_passphrase(path: Path, passphrase: bytearray, *, uid: int, gid: int) -> None:
    """Make `passphrase` the root of a new platform's keys, and wipe it. Raises FileExistsError rather than replace one."""
    try:
        if not PASSPHRASE_BYTES_MIN <= len(passphrase) <= PASSPHRASE_BYTES_MAX:
            raise PreconditionError(
                public=f"the passphrase must have {PASSPHRASE_BYTES_MIN} to {PASSPHRASE_BYTES_MAX} bytes"
            )
        parameters = Parameters(salt=os.urandom(_SALT_BYTES))
        root = RootKey(_derive(parameters, passphrase))
    finally:
        wipe(passphrase)
    try:
        parameters = msgspec.structs.replace(parameters, fingerprint=root.fingerprint)
        write_private(path, msgspec.json.encode(parameters) + b"\n", uid=uid, gid=gid)
    finally:
        root.close()


def take_passphrase(descriptor: int | None = None) -> bytearray | None:
    """The passphrase, once: from an open descriptor (read to its end and closed), from a systemd credential, or from the
    environment, which is the last resort and is overwritten here. None if it was given nowhere. A line end is not part
    of it."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if descriptor is None and directory is not None:
        try:
            descriptor = os.open(Path(directory) / CREDENTIAL, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            descriptor = None
    passphrase = _read(descriptor) if descriptor is not None else _from_environment()
    if passphrase is not None and passphrase.endswith(b"\n"):
        del passphrase[-1]
    return passphrase


def _read(descriptor: int) -> bytearray:
    buffer = bytearray(PASSPHRASE_BYTES_MAX + 1)
    filled = 0
    try:
        while filled < len(buffer) and (count := os.readv(descriptor, [memoryview(buffer)[filled:]])):
            filled += count
    finally:
        os.close(descriptor)
    # A copy of the right length: shrinking the buffer might move it, and leave the old place as it was.
    passphrase = bytearray(memoryview(buffer)[:filled])
    wipe(buffer)
    return passphrase


def _from_environment() -> bytearray | None:
    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_void_p
    address = getenv(VARIABLE.encode())
    value = os.environb.pop(VARIABLE.encode(), None)
    if value is None:
        return None
    if address is not None:
        # Unsetting a variable leaves it where exec(2) put it, and /proc/PID/environ shows that place.
        ctypes.memset(address, 0, len(value))
    return bytearray(value)


def _parameters(path: Path) -> Parameters:
    descriptor = open_private(path)
    try:
        return msgspec.json.decode(os.read(descriptor, 4096), type=Parameters)
    except msgspec.DecodeError as error:
        raise PreconditionError(public=f"{path}: {error}") from error
    finally:
        os.close(descriptor)


def _derive(parameters: Parameters, passphrase: bytearray) -> SecretPage:
    page = SecretPage(KEY_BYTES)
    try:
        Argon2id(
            salt=parameters.salt,
            length=KEY_BYTES,
            iterations=parameters.iterations,
            lanes=parameters.lanes,
            memory_cost=parameters.memory_kib,
        ).derive_into(passphrase, page.buffer)  # type: ignore[arg-type]  # any buffer will do, and this one can be wiped
    except BaseException as error:
        page.close()
        if isinstance(error, ValueError):
            raise PreconditionError(public=f"the passphrase's parameters are damaged: {error}") from error
        raise
    return page

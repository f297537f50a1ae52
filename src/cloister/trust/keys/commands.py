"""What the key broker can be asked.

The API's process may create and destroy keys and list versions, and has the key of one recording or of a page of the statement
log at a time; only the node agent may unwrap a volume's. An unwrapped key never travels in a message: it comes as a sealed memfd beside the answer, so that it goes from the broker to the volume
daemon without ever lying in the agent's memory.
"""

from typing import ClassVar, Final

import msgspec

from cloister.base import versions
from cloister.base.rpc.wire import Command
from cloister.base.versions import Condition
from cloister.protocol.merkle.notes import SignedTree

BACKUP: Final = "backup"
"""The purpose of the key under which the agent seals what goes into the store of backups."""


class KeyInfo(msgspec.Struct, frozen=True, kw_only=True):
    project_id: str
    purpose: str
    """`volume`, `backup`, `recording`, `statements`; `project` is what wraps the others."""
    version: int
    """Of the envelope: a rotation of what is above it makes another."""
    material: int = 1
    """Of the secret in it."""
    state: str
    """`enabled`, `destroyed`"""
    provider: str
    """What wraps it: a provider's root key, e.g. `file`, or `project`, the project's own key."""
    created_at: str


class RingInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A project's keys as a whole."""

    project_id: str
    state: str
    """`enabled`, `disabled`, `pending_destruction`, `destroyed`"""
    destroy_at: str = ""
    rotated_at: str
    rotate_days: int
    """By the policy of its organization."""
    keys: list[KeyInfo]


class RootCount(msgspec.Struct, frozen=True, kw_only=True):
    provider: str
    root_version: str
    is_current: bool
    is_held: bool
    """The broker has it; if not, the keys under it cannot be used."""
    projects: int


class KeystoreInfo(msgspec.Struct, frozen=True, kw_only=True):
    epoch: int
    seals: int
    roots: list[RootCount]
    """The current one first; a project that is still being moved counts under each of its roots."""


class KeystoreCopy(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup needs beside the seals, which whoever asks reads themselves."""

    epoch: int
    made_at: str
    sha256: str
    """Of the seals."""
    provider: str
    root_version: str
    epoch_key: bytes
    """Wrapped by the root key, and bound to the above."""


class DumpKeyInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Of the key of the control database's dumps, what lies in the store beside them."""

    material: int
    envelope: bytes
    """Its own, under the root key (`platform.py`)."""
    epoch: int
    """The keystore's, now."""


class OnBehalf(msgspec.Struct, frozen=True, kw_only=True):
    """For whom the API asks, as the audit log names them. Its word is taken: it may append to the log itself."""

    actor: str
    address: str = ""
    request_id: str = ""
    client: str = ""
    change: str = ""
    """The reviewed change it belongs to (`base/reviewed.py`)."""


POLICY_DAYS_DEFAULT: Final = 365
POLICY_DAYS_MAX: Final = 2560
# AWS KMS's default and maximum.

WAITING_DAYS_MIN: Final = 7
WAITING_DAYS_MAX: Final = 30
# As AWS KMS has them: long enough to notice, short enough to be a deletion.


class CreateKey(Command[KeyInfo], frozen=True, kw_only=True):
    """Mint 32 random bytes, wrap them, store the wrapped form. Allowed to the API. If the project has an enabled key
    of that purpose already, that one is returned: twice is once."""

    reply: ClassVar[type] = KeyInfo
    project_id: str
    purpose: str = "volume"


class UnwrapKey(Command[KeyInfo], frozen=True, kw_only=True):
    """Allowed to the node agent only. Recorded in the audit log *before* the key is unwrapped; if it cannot be
    recorded, refused. The answer carries one file descriptor (SCM_RIGHTS): a sealed memfd with the 32 bytes as 64
    lower-case hexadecimal digits and nothing else. They are a passphrase, and QEMU takes only text for one."""

    reply: ClassVar[type] = KeyInfo
    project_id: str
    purpose: str = "volume"
    reason: str
    """Why, in a word: `format`, `open`, `reencrypt`; of a backup key `back_up`, `restore`, `read_back`. Goes into the audit
    event."""
    material: int | None = None
    """Which one of that purpose: a volume that is encrypted anew has two. None: the newest."""


class RenewKey(Command[KeyInfo], frozen=True, kw_only=True):
    """A further key for the project's volume, beside that of material `beyond`, which the volume has and keeps until it is
    encrypted anew. Allowed to the API. If there is one beyond it already, that one is returned: twice is once."""

    reply: ClassVar[type] = KeyInfo
    project_id: str
    beyond: int
    by: OnBehalf


class RetireKey(Command[int], frozen=True, kw_only=True):
    """Destroy the key of this material, which the project's volume does not have (any more). Allowed to the API, whose word is
    taken for that; the last one is never destroyed. The answer is how many versions were; twice is once. Raises
    UnprocessableError where the project has a protected branch: there an old key goes by itself seven days after the volume
    left it."""

    reply: ClassVar[type] = int
    project_id: str
    material: int
    by: OnBehalf


class RecordingEnvelope(msgspec.Struct, frozen=True):
    """What lies with a recording."""

    wrapped: bytes
    seal: int | None
    """Its month's in the keystore, 202611; None: from before there were any."""


class MakeRecordingKey(Command[RecordingEnvelope], frozen=True, kw_only=True):
    """A new key for one recording, wrapped by the project's recording key, which is made if there is none. Allowed to the
    API. The answer is the envelope; the key comes as a descriptor, as with UnwrapKey. Recorded before the recording key is
    used."""

    reply: ClassVar[type] = RecordingEnvelope
    project_id: str
    recording_id: str
    by: OnBehalf


class OpenRecordingKey(Command[None], frozen=True, kw_only=True):
    """Opens what MakeRecordingKey gave: the key of this one recording, as a descriptor. Allowed to the API. Recorded before
    it is opened."""

    reply: ClassVar[object] = None
    project_id: str
    recording_id: str
    envelope: RecordingEnvelope
    reason: str
    """`record`: to write on. `replay`: somebody reads."""
    by: OnBehalf


class MakeStatementKey(Command[tuple[bytes, bytes]], frozen=True, kw_only=True):
    """A new pair for a project's statement log. Allowed to the API. The answer is its public half, and the envelope of the
    private one. Recorded before the key that wraps it is used."""

    reply: ClassVar[object] = tuple[bytes, bytes]
    project_id: str
    generation: int


class OpenStatementKeys(Command[None], frozen=True, kw_only=True):
    """The keys of some segments of one generation, which begin with `shares`. Allowed to the API. They come as a descriptor,
    as with UnwrapKey, one after the other. Recorded before the envelope is opened."""

    reply: ClassVar[object] = None
    project_id: str
    generation: int
    wrapped: bytes
    shares: list[bytes]
    reason: str
    by: OnBehalf


class EraseStatements(Command[int], frozen=True, kw_only=True):
    """Take the seals of those months of a project's statement log whose keys have ended in the control database. Allowed to the
    API. The answer is how many were taken; twice is once."""

    reply: ClassVar[type] = int
    project_id: str
    by: OnBehalf


class DestroyKeys(Command[int], frozen=True):
    """Destroy every version of every key of a project: its data can never be read again. Allowed to the API. The
    answer is the number destroyed; twice is once."""

    reply: ClassVar[type] = int
    project_id: str


class RotateKeys(Command[RingInfo], frozen=True, kw_only=True):
    """Give the project a new key of its own, and wrap what is below it anew. Its volume's key stays, so nothing is
    reopened. Allowed to the API."""

    reply: ClassVar[type] = RingInfo
    project_id: str
    by: OnBehalf


class ChangeRing(Command[RingInfo], frozen=True, kw_only=True):
    """`disable`: no unwrap any more; what runs lives on. `enable`: again. `destroy`: disabled, and after `days` destroyed.
    `cancel`: not destroyed, still disabled. Allowed to the API. Twice is once."""

    reply: ClassVar[type] = RingInfo
    project_id: str
    change: str
    days: int = WAITING_DAYS_MAX
    reason: str = ""
    by: OnBehalf


class GetRing(Command[RingInfo], frozen=True, kw_only=True):
    """Allowed to the API."""

    reply: ClassVar[type] = RingInfo
    project_id: str


class KeyPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """In days."""

    rotate_days: int
    reencrypt_days: int | None = None
    """How old the encryption of the data may become; None: it is not encrypted anew by itself."""

    def version(self, org_id: str) -> str:
        return versions.version("key_policy", org_id, self.rotate_days, self.reencrypt_days)


class SetKeyPolicy(Command[KeyPolicy], frozen=True, kw_only=True):
    """How often the keys of an organization's projects are rotated, and their data is encrypted anew. Allowed to the API. The
    answer is the policy."""

    reply: ClassVar[type] = KeyPolicy
    org_id: str
    policy: KeyPolicy
    by: OnBehalf
    condition: Condition | None = None
    """Which version the caller has seen, where they say so."""


class GetKeyPolicy(Command[KeyPolicy], frozen=True, kw_only=True):
    """Allowed to the API."""

    reply: ClassVar[type] = KeyPolicy
    org_id: str


class GetKeystore(Command[KeystoreInfo], frozen=True):
    """Allowed to the API."""

    reply: ClassVar[type] = KeystoreInfo


class ReloadRoots(Command[int], frozen=True):
    """Take the root keys from their configuration again. The current one is tried first: if it does not give back what it
    wraps, nothing changes. Allowed to root on this host (`cloister keys migrate`). The answer is how many are held."""

    reply: ClassVar[type] = int


class CopyKeystore(Command[KeystoreCopy], frozen=True):
    """The epoch's key, for a backup, wrapped by the root key. Allowed to root on this host (`cloister keys backup`)."""

    reply: ClassVar[type] = KeystoreCopy


class UnwrapDumpKey(Command[DumpKeyInfo], frozen=True, kw_only=True):
    """The key of the control database's dumps, which is made if there is none. Allowed to the node agent only. Recorded before it is
    unwrapped. It comes as a descriptor, as with UnwrapKey."""

    reply: ClassVar[type] = DumpKeyInfo
    reason: str
    """`back_up`, `read_back`."""


class ListKeys(Command[list[KeyInfo]], frozen=True):
    """Allowed to the API."""

    reply: ClassVar[object] = list[KeyInfo]
    project_id: str | None = None


class GetCheckpoint(Command[SignedTree], frozen=True):
    """The last checkpoint of the audit log that was signed. Allowed to the API."""

    reply: ClassVar[type] = SignedTree


class SignCheckpoint(Command[SignedTree], frozen=True, kw_only=True):
    """Sign a checkpoint of the audit log. `proof` shows that the tree of `size` leaves with these `peaks` begins with the
    last that was signed; the broker has that one itself. Refused, and recorded, if it does not. Allowed to the API. Twice
    is once."""

    reply: ClassVar[type] = SignedTree
    size: int
    peaks: list[bytes]
    proof: list[bytes]


AnyCommand = (
    CreateKey
    | UnwrapKey
    | MakeRecordingKey
    | OpenRecordingKey
    | MakeStatementKey
    | OpenStatementKeys
    | EraseStatements
    | RenewKey
    | RetireKey
    | DestroyKeys
    | RotateKeys
    | ChangeRing
    | GetRing
    | SetKeyPolicy
    | GetKeyPolicy
    | GetKeystore
    | ReloadRoots
    | CopyKeystore
    | UnwrapDumpKey
    | ListKeys
    | GetCheckpoint
    | SignCheckpoint
)

"""What the key broker can be asked.

The API's process may create and destroy keys and list versions; only the node agent may unwrap one. An unwrapped key
never travels in a message: it comes as a sealed memfd beside the answer, so that it goes from the broker to the volume
daemon without ever lying in the agent's memory.
"""

from typing import ClassVar

import msgspec

from cloister.base.rpc.wire import Command
from cloister.protocol.merkle.notes import SignedTree


class KeyInfo(msgspec.Struct, frozen=True, kw_only=True):
    project_id: str
    purpose: str
    """`volume`; later `backup`, `recording` …"""
    version: int
    state: str
    """`enabled`, `disabled`, `destroyed`"""
    provider: str
    """Which provider's root key wraps it, e.g. `file`."""
    created_at: str


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
    """Why, in a word: `format`, `open`. Goes into the audit event."""


class DestroyKeys(Command[int], frozen=True):
    """Destroy every version of every key of a project: its data can never be read again. Allowed to the API. The
    answer is the number destroyed; twice is once."""

    reply: ClassVar[type] = int
    project_id: str


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


AnyCommand = CreateKey | UnwrapKey | DestroyKeys | ListKeys | GetCheckpoint | SignCheckpoint

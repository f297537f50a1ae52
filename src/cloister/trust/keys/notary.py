"""The notary: signs checkpoints of the audit log, each an extension of the one before.

It never takes anybody's word for that. What it signed last, it keeps itself, outside the control database, and who asks
for the next signature proves that the new tree begins with that one. So whoever rules the API process can delay
checkpoints; they cannot have two histories signed, nor an older one again.

    notary/key.json     the public key, and the private one wrapped by the root key
    notary/last.json    the last tree that was signed (public: `cloister audit` reads it)

The private key is in clear only while it signs. Its use is no event of the audit log: that would need a checkpoint of its
own, and so on; the checkpoint is the record.
"""

import secrets
import threading
from pathlib import Path
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloister.base.durable import write_durably
from cloister.base.errors import BadRequestError, ConflictError, PreconditionError
from cloister.protocol.merkle.notes import Checkpoint, NoteError, SignedTree, VerifierKey
from cloister.protocol.merkle.tree import Tree, is_consistent
from cloister.trust.keys.memory import SecretPage
from cloister.trust.keys.providers.provider import KEY_BYTES, Context
from cloister.trust.keys.roots import Roots

KEY_FILE: Final = "key.json"
LAST_FILE: Final = "last.json"

_CONTEXT: Final = Context("", "notary", 1)
# No project has an empty id: this envelope opens for nothing else.


class ForkError(ConflictError):
    """A tree that is not an extension of the last that was signed."""


class KeyFile(msgspec.Struct, frozen=True, kw_only=True):
    key: str
    sealed: bytes


class Notary:
    """Called from threads, because it waits for the disk. Raises PreconditionError if its files are not as it wrote them:
    it then signs nothing, rather than begin a second history."""

    def __init__(self, roots: Roots, directory: Path) -> None:
        self._roots = roots
        self._directory = directory
        self._opened: tuple[KeyFile, SignedTree] | None = None
        # Two at once would both extend the same tree, each its own way. Held by the thread: a caller who gave up waiting
        # has not ended it.
        self._one_at_a_time = threading.Lock()

    def last(self) -> SignedTree:
        """The last tree that was signed; at first an empty one."""
        with self._one_at_a_time:
            return self._state()[1]

    def reopen(self) -> None:
        """Read the files again: after another root key took over, the private key moves under it."""
        with self._one_at_a_time:
            self._opened = None
            self._state()

    def sign(self, size: int, peaks: list[bytes], proof: list[bytes]) -> SignedTree:
        """Sign the tree, if it extends the last.

        1. The peaks make a tree of that size; its root is computed here, not believed.
        2. The same tree again: the answer was lost, it is the same.
        3. The proof shows that the new tree begins with the last one signed. If not, refuse: nothing has changed.
        4. Sign, with the private key in a page of its own.
        5. Keep what was signed, on disk. Only then is it given away: a crash before leaves a signature nobody has seen.
        """
        with self._one_at_a_time:
            return self._extended(size, peaks, proof)

    def _extended(self, size: int, peaks: list[bytes], proof: list[bytes]) -> SignedTree:
        key, last = self._state()
        # 1.
        try:
            tree = Tree(size, tuple(peaks))
        except ValueError as error:
            raise BadRequestError(public=str(error)) from error
        # 2.
        before = Tree(last.size, tuple(last.peaks))
        if tree == before:
            return last
        # 3.
        if size <= before.size or not is_consistent((before.size, before.root), (size, tree.root), proof):
            raise ForkError(public=f"a tree of {size} events is no extension of the {before.size} that were signed")
        # 4.
        signed = self._signed(key, tree)
        # 5.
        self._keep(signed)
        self._opened = (key, signed)
        return signed

    def _signed(self, key: KeyFile, tree: Tree) -> SignedTree:
        verifier = VerifierKey.parse(key.key)
        text = Checkpoint(verifier.name, tree.size, tree.root).text
        with SecretPage(KEY_BYTES) as page:
            self._roots.unwrap_into(key.sealed, _CONTEXT, page.buffer)
            signature = Ed25519PrivateKey.from_private_bytes(page.buffer).sign(text.encode())
        return SignedTree(
            size=tree.size, peaks=list(tree.peaks), note=verifier.note(text, signature), key=str(verifier)
        )

    def _moved(self, key: KeyFile) -> KeyFile:
        """Under the current root key, if a former one wraps it."""
        with SecretPage(KEY_BYTES) as page:
            if self._roots.unwrap_into(key.sealed, _CONTEXT, page.buffer) is self._roots.current:
                return key
            moved = KeyFile(key=key.key, sealed=self._roots.current.wrap(page.buffer, _CONTEXT))
        write_durably(self._directory / KEY_FILE, msgspec.json.encode(moved), mode=0o600)
        return moved

    def _keep(self, signed: SignedTree) -> None:
        write_durably(self._directory / LAST_FILE, msgspec.json.encode(signed))

    def _state(self) -> tuple[KeyFile, SignedTree]:
        if self._opened is None:
            self._opened = self._read() or self._begin()
        return self._opened

    def _read(self) -> tuple[KeyFile, SignedTree] | None:
        """What was kept, or None if nothing was signed yet. Half of it, or what does not fit together, is refused."""
        last = read_last(self._directory)
        try:
            content = (self._directory / KEY_FILE).read_bytes()
        except FileNotFoundError:
            if last is None or last.size == 0:  # or `_begin` was cut short
                return None
            raise PreconditionError(public=f"{self._directory / KEY_FILE} is missing: restore it") from None
        if last is None:
            raise PreconditionError(public=f"{self._directory / LAST_FILE} is missing: restore it")
        try:
            key = msgspec.json.decode(content, type=KeyFile)
        except msgspec.DecodeError as error:
            raise PreconditionError(public=f"{self._directory / KEY_FILE}: {error}") from error
        if last.key != key.key:
            raise PreconditionError(public=f"{self._directory}: the last checkpoint is of another key")
        return self._moved(key), last

    def _begin(self) -> tuple[KeyFile, SignedTree]:
        """A key, and the empty tree signed by it. The key's file is written last: it says that the rest is there."""
        # The name must be this log's alone, and neither a domain nor a directory is for ever.
        name = f"cloister/{secrets.token_hex(8)}/audit"
        with SecretPage(KEY_BYTES) as page:
            page.fill_randomly()
            public = Ed25519PrivateKey.from_private_bytes(page.buffer).public_key().public_bytes_raw()
            sealed = self._roots.current.wrap(page.buffer, _CONTEXT)
        key = KeyFile(key=str(VerifierKey(name, public)), sealed=sealed)
        signed = self._signed(key, Tree())
        self._keep(signed)
        write_durably(self._directory / KEY_FILE, msgspec.json.encode(key), mode=0o600)
        return key, signed


def read_last(directory: Path) -> SignedTree | None:
    """The last tree that was signed, as it lies on disk, checked against itself; None if there is none.

    Anybody may read it, and whoever can write there can put another key beside another tree: compare the key with the
    one that was noted elsewhere. Raises PreconditionError if it is damaged.
    """
    path = directory / LAST_FILE
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        last = msgspec.json.decode(content, type=SignedTree)
    except msgspec.DecodeError as error:
        raise PreconditionError(public=f"{path}: {error}") from error
    checked(last, str(path))
    return last


def checked(signed: SignedTree, where: str) -> Checkpoint:
    """What was signed, if it is what is beside it. Raises PreconditionError."""
    try:
        checkpoint = VerifierKey.parse(signed.key).opened(signed.note)
        tree = Tree(signed.size, tuple(signed.peaks))
    except (NoteError, ValueError) as error:
        raise PreconditionError(public=f"{where}: {error}") from error
    if (checkpoint.size, checkpoint.root) != (tree.size, tree.root):
        raise PreconditionError(public=f"{where}: the tree is not the one that was signed")
    return checkpoint

"""A Merkle tree that only grows, by the hashes of RFC 9162 §2.1, in the room of its right edge.

A tree of n leaves is a row of perfect subtrees, one for each bit of n, the largest first; their roots are the `peaks`.
They are enough to append, to compute the root, and, with the leaves that came since, to prove that the tree of today
begins with the tree of then. So nobody who builds or signs a log needs more than 32 bytes times log2(n) of its past.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

HASH_BYTES: Final = 32

EMPTY_ROOT: Final = hashlib.sha256(b"").digest()

PEAKS_MAX: Final = 63
# A sequence number is a bigint.

PROOF_MAX: Final = 2 * PEAKS_MAX
# A proof of consistency has at most one hash a level, and one more.


def leaf_hash(entry: bytes) -> bytes:
    return hashlib.sha256(b"\0" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


@dataclass(frozen=True, slots=True)
class Tree:
    """The right edge of a tree of `size` leaves."""

    size: int = 0
    peaks: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if self.size < 0 or len(self.peaks) != self.size.bit_count() or len(self.peaks) > PEAKS_MAX:
            raise ValueError(f"{len(self.peaks)} peaks do not make a tree of {self.size}")
        if any(len(peak) != HASH_BYTES for peak in self.peaks):
            raise ValueError("a peak is not a hash")

    @classmethod
    def over(cls, roots: Sequence[bytes], width: int) -> "Tree":
        """A tree by the roots of its perfect subtrees of `width` leaves, a power of two: its leaves are not needed."""
        above = cls().extended(roots)
        return cls(above.size * width, above.peaks)

    @property
    def root(self) -> bytes:
        if not self.peaks:
            return EMPTY_ROOT
        *left, root = self.peaks
        for peak in reversed(left):
            root = node_hash(peak, root)
        return root

    def extended(self, leaves: Sequence[bytes]) -> "Tree":
        """With the hashes of more leaves behind it."""
        size, peaks = self.size, list(self.peaks)
        for leaf in leaves:
            peaks.append(leaf)
            size += 1
            # As in counting: every bit that the carry passes joins two subtrees of one height.
            for _ in range((size & -size).bit_length() - 1):
                right = peaks.pop()
                peaks.append(node_hash(peaks.pop(), right))
        return Tree(size, tuple(peaks))

    def spans(self) -> Iterator[tuple[tuple[int, int], bytes]]:
        """Each peak with the leaves it covers: from, to (exclusive)."""
        start = 0
        for peak, height in zip(self.peaks, _bits_downwards(self.size), strict=True):
            yield (start, start + (1 << height)), peak
            start += 1 << height


def consistency_proof(old: Tree, leaves: Sequence[bytes]) -> list[bytes]:
    """That `old.extended(leaves)` begins with `old` (RFC 9162 §2.1.4.1). Empty if one of them is, or both are the same.

    Of the old tree the proof names peaks only; all else lies in the new leaves.
    """
    size = old.size + len(leaves)
    if old.size in (0, size):
        return []
    known = dict(old.spans())

    def root_of(start: int, end: int) -> bytes:
        if end <= old.size:
            return known[start, end]
        return Tree().extended(leaves[start - old.size : end - old.size]).root

    proof: list[bytes] = []
    start, end, is_all_of_old = 0, size, True
    while old.size != end:
        middle = start + _split(end - start)
        if old.size <= middle:
            proof.append(root_of(middle, end))
            end = middle
        else:
            proof.append(root_of(start, middle))
            start, is_all_of_old = middle, False
    if not is_all_of_old:
        proof.append(root_of(start, end))
    proof.reverse()
    return proof


def is_consistent(old: tuple[int, bytes], new: tuple[int, bytes], proof: Sequence[bytes]) -> bool:
    """Whether the proof shows that the tree `new` (size, root) begins with the tree `old` (RFC 9162 §2.1.4.2)."""
    (old_size, old_root), (new_size, new_root) = old, new
    if not 0 <= old_size <= new_size or len(proof) > PROOF_MAX or any(len(each) != HASH_BYTES for each in proof):
        return False
    if old_size == new_size:
        return not proof and old_root == new_root
    if old_size == 0:
        return not proof and old_root == EMPTY_ROOT
    path = list(proof)
    if old_size & (old_size - 1) == 0:  # the old tree is perfect: its root is a node of the new one and is not repeated
        path.insert(0, old_root)
    if not path:
        return False
    # The places of the last leaf of each tree, going up. Where the old tree ends at a right child, both share the node.
    here, last = old_size - 1, new_size - 1
    while here & 1:
        here, last = here >> 1, last >> 1
    as_old = as_new = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if here & 1 or here == last:
            as_old, as_new = node_hash(sibling, as_old), node_hash(sibling, as_new)
            while here and not here & 1:
                here, last = here >> 1, last >> 1
        else:
            as_new = node_hash(as_new, sibling)
        here, last = here >> 1, last >> 1
    return last == 0 and as_old == old_root and as_new == new_root


def _split(size: int) -> int:
    """The largest power of two below `size`: where RFC 9162 divides a tree."""
    return 1 << ((size - 1).bit_length() - 1)


def _bits_downwards(number: int) -> Iterator[int]:
    return (bit for bit in reversed(range(number.bit_length())) if number >> bit & 1)

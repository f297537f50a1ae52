"""A tree as files, in the layout of C2SP tlog-tiles: 256 hashes a tile, 256 entries a bundle.

    tile/<level>/<number>[.p/<width>]      hashes; level 0 are leaves, a hash of level n + 1 is the root of a tile of level n
    tile/entries/<number>[.p/<width>]      the entries themselves, each after its length in two bytes

A tile that is not full yet carries its width in its name; a full one never changes.
"""

import struct
from collections.abc import Iterator
from typing import Final

from cloister.protocol.merkle.tree import Tree, leaf_hash

WIDTH: Final = 256

ENTRY_BYTES_MAX: Final = 65_535
# The length in a bundle has two bytes.


def tile_path(kind: int | str, number: int, width: int = WIDTH) -> str:
    """`kind` is a level, or `entries`. The number is written in groups of three digits, all but the last after an x."""
    digits = str(number)
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    groups = [digits[at : at + 3] for at in range(0, len(digits), 3)]
    name = "/".join([*(f"x{group}" for group in groups[:-1]), groups[-1]])
    return f"tile/{kind}/{name}" + ("" if width == WIDTH else f".p/{width}")


class Tiler:
    """Cuts a stream of entries. `add` each, then `finish`; all give the files that are complete, with their names."""

    def __init__(self) -> None:
        self._bundle: list[bytes] = []
        self._levels: list[list[bytes]] = [[]]
        self._done: list[int] = [0]
        """How many full tiles of each level there were."""

    def add(self, entry: bytes) -> Iterator[tuple[str, bytes]]:
        if len(entry) > ENTRY_BYTES_MAX:
            raise ValueError(f"an entry of {len(entry)} bytes")
        self._bundle.append(struct.pack(">H", len(entry)) + entry)
        if len(self._bundle) == WIDTH:
            yield tile_path("entries", self._done[0]), b"".join(self._bundle)
            self._bundle = []
        yield from self._append(0, leaf_hash(entry))

    def skip(self, root: bytes) -> Iterator[tuple[str, bytes]]:
        """A full tile of leaves that are gone, by its root: it and its bundle are left out, and what is above them is as it was."""
        if self._bundle:
            raise ValueError("a tile that was begun is not skipped")
        self._done[0] += 1
        if len(self._levels) == 1:
            self._levels.append([])
            self._done.append(0)
        yield from self._append(1, root)

    def _append(self, level: int, digest: bytes) -> Iterator[tuple[str, bytes]]:
        self._levels[level].append(digest)
        while len(self._levels[level]) == WIDTH:
            hashes = self._levels[level]
            yield tile_path(level, self._done[level]), b"".join(hashes)
            self._levels[level] = []
            self._done[level] += 1
            level += 1
            if level == len(self._levels):
                self._levels.append([])
                self._done.append(0)
            self._levels[level].append(Tree().extended(hashes).root)

    def finish(self) -> Iterator[tuple[str, bytes]]:
        """What is left: the tiles at the right edge, with their widths."""
        if self._bundle:
            yield tile_path("entries", self._done[0], len(self._bundle)), b"".join(self._bundle)
        for level, hashes in enumerate(self._levels):
            if hashes:
                yield tile_path(level, self._done[level], len(hashes)), b"".join(hashes)

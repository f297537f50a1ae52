"""A volume's blocks, taken over into an image under another key while the first may still be written to.

`Copy` knows two files of equal size, what of them is in use, and a digest of every chunk that it wrote. A pass reads all that
is in use and writes what is not in the target yet; as long as somebody writes to the source, the next pass finds some more.
When nobody writes any more, one pass makes the two equal. So nothing has to be told of what was written in between: the
bytes are the truth, and a pass that was cut off anywhere, by anything, is simply followed by another.

The digest is of the very bytes that were written, never of what was read a moment before or after: a chunk that changes to
and fro meanwhile cannot be taken for one that did not.
"""

import hashlib
import mmap
import os
import threading
import time
from collections.abc import Iterator
from typing import Final

from cloister.base.errors import InternalError

CHUNK_BYTES: Final = 256 * 1024
# What is read, compared and written at once. Smaller is slower; larger takes more of a sparse image's holes along.

_DIGEST_BYTES: Final = 16

_MAP_NORESERVE: Final = 0x4000
# <asm-generic/mman-common.h>. The table of digests is as long as the volume could become, and used as far as it is full.


class StoppedError(Exception):
    """The copy was asked to stop. Go on with a new one, at any time."""


class Pace:
    """How fast, from one moment to the next, and whether at all. Any thread may change it."""

    def __init__(self, bytes_per_s: int | None) -> None:
        self.bytes_per_s = bytes_per_s
        self._stopped = threading.Event()
        self._due = time.monotonic()

    def stop(self) -> None:
        self._stopped.set()

    def spend(self, count: int) -> None:
        """Wait until `count` bytes more are due. Raises StoppedError."""
        now = time.monotonic()
        wait_s = 0.0
        if (speed := self.bytes_per_s) is not None:
            self._due = max(self._due, now) + count / speed  # what was not used is not saved up
            wait_s = self._due - now
        if self._stopped.wait(wait_s) if wait_s > 0 else self._stopped.is_set():
            raise StoppedError


class Copy:
    """From `source` to `target`, opened for direct I/O. Their images tell what of each is in use, from `payload` on."""

    def __init__(self, source: int, source_image: int, target: int, target_image: int, *, payload: int) -> None:
        self.size = os.fstat(source).st_size
        if os.fstat(target).st_size != self.size:
            raise InternalError(f"{self.size} bytes do not fit into {os.fstat(target).st_size}")
        self._source, self._source_image = source, source_image
        self._target, self._payload = target, payload
        # In page-aligned memory, as direct I/O wants it; and a table whose pages come into being when they are used.
        self._buffer, self._other = mmap.mmap(-1, CHUNK_BYTES), mmap.mmap(-1, CHUNK_BYTES)
        chunks = -(-self.size // CHUNK_BYTES)
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        self._digests = mmap.mmap(-1, max(chunks, 1) * _DIGEST_BYTES, flags=flags)
        self._key = os.urandom(32)
        self._unverified: set[int] = set()
        self._before = set(self._in_use(target_image))
        self.passed_bytes = 0
        """Of the pass that is under way."""

    @property
    def used_bytes(self) -> int:
        return sum(self._length(chunk) for chunk in self._in_use(self._source_image))

    def follow(self, pace: Pace) -> int:
        """One pass, and what it wrote on the disk. How many bytes differed. Raises StoppedError, OSError."""
        differed = 0
        self.passed_bytes = 0
        for chunk in self._in_use(self._source_image):
            data = self._read(self._source, chunk)
            digest = self._digest(data)
            if self._known(chunk) != digest:
                self._unverified.add(chunk)
                if os.pwrite(self._target, data, chunk * CHUNK_BYTES) != len(data):
                    raise InternalError("a short write")
                self._digests[chunk * _DIGEST_BYTES : (chunk + 1) * _DIGEST_BYTES] = digest
                differed += len(data)
            self.passed_bytes += len(data)
            pace.spend(len(data))
        os.fsync(self._target)
        return differed

    def verify(self, pace: Pace) -> None:
        """Read back what was written since the last time. Raises InternalError if it is something else."""
        for chunk in sorted(self._unverified):
            data = self._read(self._target, chunk)
            if self._digest(data) != self._recorded(chunk):
                raise InternalError(f"chunk {chunk} of the new image is not what was written to it")
            self._unverified.discard(chunk)
            pace.spend(len(data))

    def _known(self, chunk: int) -> bytes:
        """What the target holds there. Of a chunk from a copy that was cut off, read once and not believed unseen."""
        if chunk in self._before:
            self._before.discard(chunk)
            # Into a buffer of its own: the other one holds what was read of the source, to be written from there.
            digest = self._digest(self._read(self._target, chunk, self._other))
            self._digests[chunk * _DIGEST_BYTES : (chunk + 1) * _DIGEST_BYTES] = digest
        return self._recorded(chunk)

    def _recorded(self, chunk: int) -> bytes:
        return self._digests[chunk * _DIGEST_BYTES : (chunk + 1) * _DIGEST_BYTES]

    def _digest(self, data: memoryview) -> bytes:
        return hashlib.blake2b(data, digest_size=_DIGEST_BYTES, key=self._key).digest()

    def _read(self, file: int, chunk: int, buffer: mmap.mmap | None = None) -> memoryview:
        """Good until the next read into the same buffer."""
        data = memoryview(buffer or self._buffer)[: self._length(chunk)]
        if os.preadv(file, [data], chunk * CHUNK_BYTES) != len(data):
            raise InternalError("a short read")
        return data

    def _length(self, chunk: int) -> int:
        return min(CHUNK_BYTES, self.size - chunk * CHUNK_BYTES)

    def _in_use(self, image: int) -> Iterator[int]:
        """The chunks of which the image holds anything. What it does not hold was never written: XFS does not read it."""
        position, end, last = self._payload, self._payload + self.size, -1
        while position < end:
            try:
                start = os.lseek(image, position, os.SEEK_DATA)
            except OSError:  # nothing but a hole up to the end
                return
            position = min(os.lseek(image, start, os.SEEK_HOLE), end)
            first, beyond = (start - self._payload) // CHUNK_BYTES, -(-(position - self._payload) // CHUNK_BYTES)
            for chunk in range(max(first, last + 1), beyond):
                last = chunk
                yield chunk

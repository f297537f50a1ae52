"""Sealed objects."""

from typing import Final

PLAIN_BYTES_MAX: Final = 3 * 1024**2
"""In one object: SEGMENTS_MAX segments of WAL."""

OBJECT_BYTES_MAX: Final = PLAIN_BYTES_MAX + 4096
"""What does not compress grows by some 800 bytes, a head and a tag. It must fit one message (base/limits.RPC_FRAME_BYTES_MAX)."""

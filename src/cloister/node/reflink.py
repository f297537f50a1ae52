"""Two files that share their blocks until one of them is written: FICLONE of ioctl_ficlone(2)."""

import errno
import fcntl
from typing import Final

_FICLONE: Final = 0x40049409
_CANNOT: Final = frozenset((errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY, errno.EXDEV))


def reflink(source: int, target: int) -> bool:
    """Give the empty file `target` the blocks of `source`, both open. False where the file system cannot; raises OSError for
    anything else, a full one among it."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno in _CANNOT:
            return False
        raise
    return True

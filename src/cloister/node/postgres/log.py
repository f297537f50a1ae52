"""The log of a tenant's server: kept short, and kept on the tenant's encrypted volume, for it says what a tenant did.

It is root's file in root's directory. A compute adds to it through the descriptor it was started with, and can neither
read it nor find it. Two files of the limit's size are enough for a person.
"""

import contextlib
import os
from pathlib import Path
from typing import Final

LOG_BYTES_MAX: Final = 4 * 1024**2
# Some 40 000 lines. It takes from the tenant's quota, not from the host.

LOG_BYTES_KEPT: Final = LOG_BYTES_MAX // 4


class ServerLog:
    def __init__(self, timeline_dir: Path) -> None:
        self.path = timeline_dir / "postgres.log"
        self.older = timeline_dir / "postgres.log.1"

    def open(self) -> int:
        """A descriptor that only appends. The caller closes it."""
        with contextlib.suppress(FileNotFoundError):
            if self.path.stat().st_size > LOG_BYTES_MAX:
                self.path.replace(self.older)
        return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

    def shorten(self) -> None:
        """While it is written: keep the newest part beside it and let it start again. It is open for appending, so the
        next line goes to the new beginning."""
        size = self.path.stat().st_size
        if size <= LOG_BYTES_MAX:
            return
        with self.path.open("r+b") as log:
            log.seek(size - LOG_BYTES_KEPT)
            self.older.write_bytes(log.read(LOG_BYTES_KEPT))
            log.truncate(0)

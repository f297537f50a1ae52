"""A sign of life on stderr while work takes long, if a person is watching."""

import itertools
import sys
import threading
import time
from types import TracebackType
from typing import Final, Self

_FRAMES: Final = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_FRAMES_ASCII: Final = "|/-\\"
_FRAME_S: Final = 0.1
_SILENCE_S: Final = 0.3
# What is done sooner needs no sign of life.


class Progress:
    """`with Progress("Creating project"):` shows a spinner and the seconds until the block ends."""

    def __init__(self, doing: str) -> None:
        self._doing = doing
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def say(self, doing: str) -> None:
        """What is done from here on."""
        self._doing = doing

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._thread = threading.Thread(target=self._spin, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _spin(self) -> None:
        if self._ended.wait(_SILENCE_S):
            return
        began = time.monotonic() - _SILENCE_S
        frames = _FRAMES if (sys.stderr.encoding or "").lower().startswith("utf") else _FRAMES_ASCII
        try:
            for frame in itertools.cycle(frames):
                sys.stderr.write(f"\r{frame} {self._doing} … {time.monotonic() - began:.1f} s \x1b[K")
                sys.stderr.flush()
                if self._ended.wait(_FRAME_S):
                    break
            sys.stderr.write("\r\x1b[2K")
            sys.stderr.flush()
        except OSError:
            return  # the terminal is gone; the work goes on

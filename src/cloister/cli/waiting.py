"""Waiting for the operations that a call returned."""

import time
from collections.abc import Callable, Iterable
from typing import Final

from cloister.cli.api import Api, ApiError, Json, segment
from cloister.cli.failure import CommandError

PATIENCE_S: Final = 300.0
# Far more than any operation takes; the operation itself goes on when we stop waiting.
_PAUSE_FIRST_S: Final = 0.05
_PAUSE_LAST_S: Final = 1.0

_DONE: Final = frozenset({"finished", "skipped"})
_BAD: Final = frozenset({"failed", "error", "cancelled"})


def wait_for(
    api: Api,
    operations: Iterable[Json],
    *,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
    patience_s: float = PATIENCE_S,
) -> None:
    """Return when all have finished. Raises CommandError with the error of the first that did not."""
    deadline = clock() + patience_s
    pause_s = _PAUSE_FIRST_S
    for operation in operations:
        latest = operation
        while latest.get("status") not in _DONE:
            if latest.get("status") in _BAD:
                why = latest.get("error") or f"it is {latest['status']}"
                raise CommandError(f"{latest.get('action', 'operation')} {latest['id']} did not succeed: {why}")
            if clock() > deadline:
                raise CommandError(
                    f"{latest.get('action', 'operation')} {latest['id']} still runs after {patience_s:.0f} s; "
                    f"look again with `cloister operations get {latest['id']}`"
                )
            sleep(pause_s)
            pause_s = min(pause_s * 1.5, _PAUSE_LAST_S)
            try:
                answer = api.get(f"/projects/{segment(latest['project_id'])}/operations/{segment(latest['id'])}")
            except ApiError as error:
                if error.status == 404:
                    break  # its project is gone, which only the last step of a deletion does
                raise
            latest = answer["operation"]

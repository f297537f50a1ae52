"""What the control database itself refuses, as our errors: the one place that knows its SQLSTATEs.

Rules that must hold whatever the code does are triggers (migration 0002). They raise one of these SQLSTATEs with a
message for the client, so a handler that forgot to check first still answers as it should: 422, not 500.
"""

from collections.abc import Callable
from typing import Any, Final

from cloister.base.errors import BadRequestError, BusyError, CloisterError, UnprocessableError

_ERRORS: Final[dict[str, Callable[..., CloisterError]]] = {
    "PR400": BadRequestError,
    "PR422": UnprocessableError,
    "PR423": BusyError,
}


def refusal(error: Any) -> CloisterError | None:
    """Of an asyncpg.PostgresError: our error, or None for one that is not a rule of ours. A trigger's message is for the
    client, its detail for our log, its hint the machine-readable code."""
    make = _ERRORS.get(error.sqlstate)
    if make is None:
        return None
    refused = make(f"{error.message} (refused by the database: {error.detail})", public=error.message)
    refused.code = error.hint or ""
    return refused

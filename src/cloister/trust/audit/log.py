"""Appending to the log. The chain itself is built by `audit_append` in the database (migration 0001)."""

from typing import cast

from cloister.base.database import Transaction
from cloister.trust.audit.events import Event, body


async def record(tx: Transaction, *events: Event) -> int:
    """Append events in the caller's transaction; returns the sequence number of the last.

    Takes the log's head lock until the transaction ends: make it the last statement.
    """
    return cast(
        "int", await tx.fetch_value("SELECT audit_append(VARIADIC $1::text[])", [body(event) for event in events])
    )

"""Appending to the log. The chain itself is built by `audit_append` in the database (migration 0027)."""

from typing import cast

from cloister.base.database import Transaction
from cloister.trust.audit.events import Event, written


async def record(tx: Transaction, *events: Event) -> int:
    """Append events in the caller's transaction; returns the sequence number of the last.

    Takes the log's head lock until the transaction ends: make it the last statement.
    """
    texts = [written(event) for event in events]
    seq = await tx.fetch_value("SELECT audit_append($1, $2)", [it.body for it in texts], [it.personal for it in texts])
    return cast("int", seq)

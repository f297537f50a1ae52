"""What takes two people: one asks, another agrees, within a week. The database holds the same of each such thing."""

from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from cloister.base.errors import ConflictError, ForbiddenError
from cloister.control.calling import Caller
from cloister.trust.access.principals import Holder

ANSWER_WITHIN: Final = timedelta(days=7)
"""Then it must be asked for again: who agrees should know why."""


def require_a_person(caller: Caller) -> None:
    """Raises ForbiddenError for a key that is an organization's: who made it could be the other of two."""
    if caller.principal.holder is not Holder.PERSON:
        raise ForbiddenError(
            f"{caller.principal.actor} is no person", public="permission denied: a person has to ask and to agree"
        )


def require_another(caller: Caller, asked_by: UUID) -> None:
    """Raises ForbiddenError for who asked."""
    if asked_by == caller.principal.account_id:
        raise ForbiddenError(
            f"{caller.principal.actor} asked for it", public="permission denied: somebody else has to agree"
        )


def require_in_time(asked_at: datetime, now: datetime) -> None:
    """Raises ConflictError."""
    if now >= asked_at + ANSWER_WITHIN:
        raise ConflictError(public="this was asked for too long ago: ask again")

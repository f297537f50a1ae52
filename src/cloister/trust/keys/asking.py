"""Who asks for a key, and what the audit log is told of it."""

import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from cloister.base.database import Database
from cloister.base.errors import CloisterError
from cloister.trust.audit import Action, Event, record
from cloister.trust.keys.commands import KeyInfo
from cloister.trust.keys.store import WrappedKey

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class By:
    """Who asks, as the audit log names them."""

    actor: str
    address: str = ""
    request_id: str = ""
    details: Mapping[str, object] = field(default_factory=dict)

    def event(self, action: Action, info: KeyInfo | None = None, *, project_id: str = "", **fields: object) -> Event:
        details = {**self.details, **fields.pop("details", {})}  # type: ignore[dict-item]
        event = Event(
            action=action,
            actor=self.actor,
            address=self.address,
            request_id=self.request_id,
            project_id=info.project_id if info is not None else project_id,
            resource=f"{info.purpose}/{info.version}" if info is not None else "",
            details=details,
        )
        return msgspec.structs.replace(event, **fields)


OURSELVES: Final = By("platform:keys")
"""The broker, when nobody asks: by a policy, or because its time has come."""


def attempt(by: By, key: WrappedKey | None, project_id: str, reason: str, refusal: CloisterError | None) -> Event:
    """The event of a use, or of its refusal."""
    event = by.event(Action.KEY_UNWRAP, key.info if key is not None else None, project_id=project_id, reason=reason)
    if refusal is not None:
        event = msgspec.structs.replace(event, outcome="denied", details={**event.details, "refused": refusal.public})
    return event


async def record_failure(database: Database, event: Event, error: CloisterError) -> None:
    """Beside the event of the attempt, which is in the log already: this one may be lost."""
    log.error("%s of %s: %s", event.action, event.project_id, error)
    with contextlib.suppress(CloisterError):
        async with database.transaction() as tx:
            await record(
                tx, msgspec.structs.replace(event, outcome="failed", details={**event.details, "error": error.public})
            )

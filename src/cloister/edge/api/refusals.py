"""Refused calls, on their way to the audit log.

A stranger can be refused as often as he likes, so refusals are counted first and written once a second, one event for
each (reason, who, from where, what) with its number, at most `KINDS_MAX` of them: what comes beyond is counted together.
Nothing is written on the way of the refused call itself. A crash loses at most the last second of refusals; of calls
that were permitted it loses none, for those are recorded before they are answered.
"""

import asyncio
import logging
from dataclasses import dataclass
from typing import Final

from cloister.base.errors import CloisterError
from cloister.edge.api.ports import AuditLog
from cloister.trust.audit import Action, Event

KINDS_MAX: Final = 128
# 128 events a second is what a flood may cost the log and its readers.

FLUSH_INTERVAL_S: Final = 1.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Refusal:
    reason: str
    """A stable word: the error's kind, or the limit's name."""
    actor: str
    address: str
    attempted: str
    """The action that was asked for; empty where no route matched."""
    org_id: str = ""
    project_id: str = ""
    resource: str = ""
    """Of a login, whom the issuer named."""


_TOO_MANY: Final = Refusal(reason="flood", actor="", address="", attempted="")


class Refusals:
    def __init__(self, audit: AuditLog) -> None:
        self._audit = audit
        self._counts: dict[Refusal, tuple[int, str]] = {}

    def note(self, refusal: Refusal, request_id: str) -> None:
        if refusal not in self._counts and len(self._counts) >= KINDS_MAX:
            refusal = _TOO_MANY
        count, first_request_id = self._counts.get(refusal, (0, request_id))
        self._counts[refusal] = (count + 1, first_request_id)

    async def flush(self) -> None:
        """Write what was counted; keep it, and try again at the next turn, if the log cannot be written."""
        counts, self._counts = self._counts, {}
        if not counts:
            return
        try:
            await self._audit.record(*(_event(refusal, *counted) for refusal, counted in counts.items()))
        except CloisterError as error:
            _log.warning("cannot record refused calls: %s", error)
            for refusal, (count, request_id) in counts.items():
                later, _ = self._counts.get(refusal, (0, ""))
                self._counts[refusal] = (count + later, request_id)

    async def run(self) -> None:
        """Flush until cancelled, and once more then."""
        try:
            while True:
                await asyncio.sleep(FLUSH_INTERVAL_S)
                await self.flush()
        finally:
            await self.flush()


def _event(refusal: Refusal, count: int, request_id: str) -> Event:
    details: dict[str, str | int] = {"attempted": refusal.attempted} if refusal.attempted else {}
    if count > 1:
        details["count"] = count
    return Event(
        action=Action.API_REFUSED,
        actor=refusal.actor or "stranger",
        outcome="denied",
        reason=refusal.reason,
        address=refusal.address,
        org_id=refusal.org_id,
        project_id=refusal.project_id,
        resource=refusal.resource,
        request_id=request_id,
        details=details,
    )

"""The verbs of access reviews. Each is one transaction: rows, what is taken back, and the audit events of both.

Who may was decided before: whoever may manage the organization's people, in person. That nobody answers for their own is held by
the database too (migration 17).
"""

from collections.abc import Awaitable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final, Protocol
from uuid import UUID, uuid4

from cloister.base.clock import Clock
from cloister.base.database import Database, Transaction
from cloister.base.errors import ConflictError, ForbiddenError, NotFoundError
from cloister.base.ids import OrgId, ProjectId
from cloister.base.versions import MovedError
from cloister.control.access import store as access
from cloister.control.calling import Caller
from cloister.control.organizations import store as organizations
from cloister.control.reviews import store
from cloister.control.reviews.model import Decision, Item, Kind, Policy, Review, check_answer_days, report
from cloister.control.service_accounts import store as service_accounts
from cloister.trust.access.keys import revoke_key
from cloister.trust.audit import Action, Event, record

LISTED_MAX: Final = 100
# The newest: a decade of monthly ones.

_BY_ITSELF: Final = "platform:reviews"
_REASON: Final = "access review"


class Told(Protocol):
    """Makes events of whoever acts."""

    def event(
        self,
        action: Action,
        *,
        org_id: str,
        project_id: str,
        resource: str,
        reason: str,
        details: dict[str, object],
    ) -> Event: ...


class _Platform:
    """For what happens because its time has come."""

    def event(
        self, action: Action, *, org_id: str, project_id: str, resource: str, reason: str, details: dict[str, object]
    ) -> Event:
        return Event(
            action=action,
            actor=_BY_ITSELF,
            org_id=org_id,
            project_id=project_id,
            resource=resource,
            reason=reason,
            details=details,
        )


PLATFORM: Final = _Platform()


class ReviewService:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def find(self, org_id: OrgId) -> list[Review]:
        async with self._database.reading() as tx:
            return await store.find(tx, org_id, LISTED_MAX)

    async def get(self, org_id: OrgId, review_id: UUID) -> Review:
        async with self._database.reading() as tx:
            return await store.get(tx, org_id, review_id)

    async def start(self, caller: Caller, org_id: OrgId, *, answer_days: int, lapses: bool) -> Review:
        """Raises BadRequestError, ConflictError while one is open."""
        check_answer_days(answer_days)
        async with self._database.transaction() as tx:
            if await store.has_open(tx, org_id):
                raise ConflictError(public="a review of the organization is open already")
            return await begin(
                tx, caller, caller.principal.email, org_id, self._clock.now(), answer_days=answer_days, lapses=lapses
            )

    async def decide(
        self, caller: Caller, org_id: OrgId, review_id: UUID, number: int, *, keeps: bool, note: str
    ) -> Review:
        """(1) The item waits for an answer. (2) It is not the caller's own, and who made a key or owns a service account does not
        vouch for it where somebody else can: it outlives them here, and opens what they may not any more. (3) What is not kept is taken back
        now; what is gone by then is told as that. Raises NotFoundError, ConflictError, ForbiddenError."""
        now, by = self._clock.now(), caller.principal.account_id
        async with self._database.transaction() as tx:
            review = await store.held(tx, org_id, review_id)
            item = _waiting(review, number, now)  # (1)
            if item.account_id == by:  # (2)
                raise ForbiddenError(f"{number} is their own", public="permission denied: nobody answers for their own")
            if keeps and await _is_only_their_word(tx, review, item, by):
                who = "owns a service account" if item.kind is Kind.SERVICE else "made a key"
                raise ForbiddenError(
                    f"{number} is their word alone", public=f"permission denied: who {who} does not vouch for it"
                )
            decision = Decision.KEPT
            if not keeps:  # (3)
                decision = await _take_back(tx, caller, review, item, now, as_what=Decision.REMOVED)
                if decision is Decision.HELD:
                    raise ConflictError(public="the organization would have no admin")
            await store.decide(tx, review_id, replace(item, decision=decision, decided_at=now, note=note), by)
            await record(tx, _of_item(caller, Action.REVIEW_DECIDE, review, item, decision=decision, note=note))
            return await store.get(tx, org_id, review_id)

    async def close(self, caller: Caller, org_id: OrgId, review_id: UUID) -> Review:
        """Before its time, when everything is answered that somebody could answer for. Raises ConflictError."""
        async with self._database.transaction() as tx:
            review = await store.held(tx, org_id, review_id)
            if review.closed_at is not None:
                raise ConflictError(public="the review is closed")
            waiting = [it for it in review.items if it.decision is None and not await _is_only_admins(tx, review, it)]
            if waiting:
                raise ConflictError(public=f"{len(waiting)} of {len(review.items)} rights are not answered for")
            await end(tx, caller, review, self._clock.now())
            return await store.get(tx, org_id, review_id)

    # ── the policy ──

    async def policy(self, org_id: OrgId) -> Policy:
        """Raises NotFoundError where there is none."""
        async with self._database.reading() as tx:
            return _there(await store.policy(tx, org_id))

    async def set_policy(
        self, caller: Caller, org_id: OrgId, *, every_days: int, answer_days: int, lapses: bool
    ) -> Policy:
        """Raises BadRequestError."""
        policy = Policy(every_days, answer_days, lapses, self._clock.now())
        policy.check()
        async with self._database.transaction() as tx:
            await self._require_version(tx, caller, org_id)
            await store.set_policy(tx, org_id, policy)
            details = {"every_days": every_days, "answer_days": answer_days, "lapses": lapses}
            await record(tx, caller.event(Action.REVIEW_POLICY, org_id=org_id, details=details))
            return _there(await store.policy(tx, org_id))

    async def remove_policy(self, caller: Caller, org_id: OrgId) -> Policy:
        async with self._database.transaction() as tx:
            await self._require_version(tx, caller, org_id)
            was = _there(await store.policy(tx, org_id))
            await store.remove_policy(tx, org_id)
            await record(tx, caller.event(Action.REVIEW_POLICY, org_id=org_id, details={"every_days": None}))
        return was

    @staticmethod
    async def _require_version(tx: Transaction, caller: Caller, org_id: OrgId) -> None:
        """By the organization's row, since there may be none of the policy yet. What is not there is of no version. Raises
        MovedError."""
        await tx.execute("SELECT FROM organization WHERE id = $1 FOR NO KEY UPDATE", org_id)
        seen = await store.policy(tx, org_id)
        if seen is not None:
            caller.require_version(seen.version(org_id))
        elif caller.condition is not None:
            raise MovedError


async def begin(
    tx: Transaction, teller: Told, by: str, org_id: OrgId, now: datetime, *, answer_days: int, lapses: bool
) -> Review:
    review = Review(
        id=uuid4(),
        org_id=org_id,
        started_by=by,
        started_at=now,
        due_at=now + timedelta(days=answer_days),
        lapses=lapses,
        closed_at=None,
        items=tuple(await store.rights(tx, org_id, now)),
    )
    await store.add(tx, review)
    details: dict[str, object] = {
        "rights": len(review.items),
        "due_at": review.due_at.isoformat(),
        "lapses": lapses,
    }
    await record(tx, _of_review(teller, Action.REVIEW_START, review, details))
    return review


async def end(tx: Transaction, teller: Told, review: Review, now: datetime) -> None:
    """What is open is answered by nobody. The report's hash goes into the audit log, whose tree vouches for it."""
    items = []
    for item in review.items:
        decided = item
        if item.decision is None:
            decision = Decision.UNANSWERED
            if review.lapses:
                decision = await _take_back(tx, teller, review, item, now, as_what=Decision.LAPSED)
            decided = replace(item, decision=decision, decided_at=now)
            await store.decide(tx, review.id, decided, None)
        items.append(decided)
    text, digest = report(replace(review, items=tuple(items)), now)
    await store.close(tx, review.id, now, text, digest)
    counts = {each.value: sum(item.decision is each for item in items) for each in Decision}
    await record(tx, _of_review(teller, Action.REVIEW_CLOSE, review, {"sha256": digest, **counts}))


async def _take_back(
    tx: Transaction, teller: Told, review: Review, item: Item, now: datetime, *, as_what: Decision
) -> Decision:
    """`as_what`; or GONE, or HELD for the only admin's."""
    if await _is_only_admins(tx, review, item):
        return Decision.HELD
    match item.kind:
        case Kind.MEMBER:
            was_there = await organizations.remove_member(tx, review.org_id, UUID(item.subject))
            action = Action.MEMBER_REMOVE
        case Kind.GRANT:
            assert item.project_id is not None
            was_there = await organizations.remove_grant(tx, item.project_id, UUID(item.subject)) is not None
            action = Action.ACCESS_REVOKE
        case Kind.KEY:
            was_there = await revoke_key(tx, int(item.subject), now, org_id=review.org_id)
            action = Action.API_KEY_REVOKE
        case Kind.SHIFT:
            was_there = await _is_removed(access.remove_shift(tx, review.org_id, UUID(item.subject)))
            action = Action.ON_CALL_REMOVE
        case Kind.SERVICE:
            was_there = await service_accounts.remove(tx, review.org_id, UUID(item.subject), now)
            action = Action.SERVICE_ACCOUNT_REMOVE
    if not was_there:
        return Decision.GONE
    await record(tx, _of_item(teller, action, review, item))
    return as_what


async def _is_removed(removing: Awaitable[object]) -> bool:
    try:
        await removing
    except NotFoundError:
        return False
    return True


async def _is_only_admins(tx: Transaction, review: Review, item: Item) -> bool:
    """Nobody can answer for it: there is no other admin."""
    return item.account_id is not None and await store.is_only_admin(tx, review.org_id, item.account_id)


async def _is_only_their_word(tx: Transaction, review: Review, item: Item, by: UUID) -> bool:
    """A key that they made, or a service account that they own, though there is another admin who could answer for it."""
    match item.kind:
        case Kind.KEY:
            whose = await store.maker_of(tx, int(item.subject))
        case Kind.SERVICE:
            whose = await service_accounts.owner_of(tx, UUID(item.subject))
        case _:
            return False
    return whose == by and not await store.is_only_admin(tx, review.org_id, by)


def _waiting(review: Review, number: int, now: datetime) -> Item:
    if review.closed_at is not None or now >= review.due_at:
        raise ConflictError(public="the review is closed")
    item = next((item for item in review.items if item.number == number), None)
    if item is None:
        raise NotFoundError(public="the review has no such item")
    if item.decision is not None:
        raise ConflictError(public="it is answered for already")
    return item


def _there(policy: Policy | None) -> Policy:
    if policy is None:
        raise NotFoundError(
            public="the organization's access is reviewed when somebody begins a review, and not by itself"
        )
    return policy


def _of_review(teller: Told, action: Action, review: Review, details: dict[str, object]) -> Event:
    return teller.event(
        action, org_id=review.org_id, project_id="", resource=str(review.id), reason=_REASON, details=details
    )


def _of_item(teller: Told, action: Action, review: Review, item: Item, **more: object) -> Event:
    """An event of a right names it as its own verb does; an answer names the review."""
    named: dict[str, object] = {name: item.facts[name] for name in ("email", "name", "role") if name in item.facts}
    is_answer = action is Action.REVIEW_DECIDE
    subject = {"kind": item.kind, "subject": item.subject} if is_answer else {"review_id": str(review.id)}
    resource = str(review.id) if is_answer else str(item.account_id or item.subject)
    return teller.event(
        action,
        org_id=review.org_id,
        project_id=ProjectId(item.project_id or ""),
        resource=resource,
        reason=_REASON,
        details={**named, **subject, **more},
    )

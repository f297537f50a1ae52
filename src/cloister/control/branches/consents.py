"""Another person's consent, where an organization demands it: before data of a protected branch comes to lie in another one, and
before the protection is taken off, which would be the way around.

One asks and says why, another agrees within the hour, and within the next the one who asked does it, once: the request for the
copy is the same as ever, and finds the consent by who makes it. Two agree in the same way on a set of masking rules, and that holds for
three months: whoever masks by them, or by more, needs no consent each time. One ends what was not used. The demand itself is made by
one person and lifted by two. Who may agree is who might do it themselves. All of it is held by the database too (migrations 0036 and
0037): it accepts no operation that copies, and no end of a protection, in a transaction that has not used a consent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final
from uuid import UUID, uuid4

import msgspec

from cloister.base import versions
from cloister.base.clock import Clock
from cloister.base.database import Database, Transaction, jsonb
from cloister.base.errors import BadRequestError, ConflictError, NotFoundError, UnprocessableError
from cloister.base.ids import BranchId, OrgId, ProjectId
from cloister.control.agreeing import ANSWER_WITHIN as LIFT_WITHIN
from cloister.control.agreeing import require_a_person, require_another
from cloister.control.branches import store
from cloister.control.branches.masking_rules import checked
from cloister.control.branches.model import Branch, MaskingRule
from cloister.control.calling import Caller
from cloister.control.claims import hold_project
from cloister.trust.access.permissions import Permission
from cloister.trust.audit import Action, Event, record

ANSWER_WITHIN: Final = timedelta(hours=1)
"""A request that nobody has answered by then is about a situation that has passed, as one for access."""

USE_WITHIN: Final = timedelta(hours=1)
"""What was agreed to is done now, or asked for again."""

MASK_LASTS: Final = timedelta(days=90)
"""Tables get columns that the rules do not know: somebody looks again."""

OPEN_MAX: Final = 20
"""Of one branch, asked for or agreed to and still good: whoever answers reads each."""

LISTED_MAX: Final = 100

NEEDED: Final = "CONSENT_NEEDED"
"""The code of a refusal."""


class Act(StrEnum):
    """What a consent is to."""

    COPY = "copy"
    UNPROTECT = "unprotect"
    MASK = "mask"
    """To copies that are masked by these rules, or by more."""


REFUSALS: Final[Mapping[Act, str]] = MappingProxyType(
    {
        Act.COPY: "cannot copy protected branch without the consent of another person",
        Act.UNPROTECT: "cannot unprotect branch without the consent of another person",
    }
)
"""The database says the same."""

PERMISSIONS: Final[Mapping[Act, Permission]] = MappingProxyType(
    {
        Act.COPY: Permission.BRANCH_CREATE_FROM_PROTECTED,
        Act.UNPROTECT: Permission.BRANCH_UNPROTECT,
        Act.MASK: Permission.BRANCH_CREATE_FROM_PROTECTED,
    }
)
"""Whose consent counts, and who may ask for it: who may do it."""


class ConsentNeededError(UnprocessableError):
    code = NEEDED


@dataclass(frozen=True, slots=True)
class Consent:
    id: UUID
    project_id: str
    branch_id: str
    act: Act
    reason: str
    asked_by: str
    """An e-mail address; of an organization's key, whose maker's."""
    asked_as: str
    asked_at: datetime
    asker_id: UUID
    """Whose account `asked_by` is."""
    agreed_by: str | None
    agreed_at: datetime | None
    used_for: str | None
    used_at: datetime | None
    rules: list[MaskingRule]
    ended_by: str | None
    ended_at: datetime | None

    def state(self, now: datetime) -> str:
        """`asked`, `agreed`, `used`, `ended` by somebody, or `over`: its time has passed."""
        if self.used_at is not None:
            return "used"
        if self.ended_at is not None:
            return "ended"
        if self.agreed_at is not None:
            return "agreed" if now < self.agreed_at + (MASK_LASTS if self.act is Act.MASK else USE_WITHIN) else "over"
        return "asked" if now < self.asked_at + ANSWER_WITHIN else "over"


@dataclass(frozen=True, slots=True)
class ConsentPolicy:
    is_required: bool
    lift_asked_by: str | None = None
    """An e-mail address: somebody else may agree until a week after."""
    lift_asked_at: datetime | None = None

    def version(self, org_id: OrgId) -> str:
        """Also another where somebody has asked to lift it: whoever says the same then lifts it."""
        return versions.version("consent_policy", org_id, self.is_required, self.lift_asked_by)


class ConsentService:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    # ── what an organization demands ──

    async def policy(self, org_id: OrgId) -> ConsentPolicy:
        async with self._database.reading() as tx:
            return await _policy(tx, org_id)

    async def require(self, caller: Caller, org_id: OrgId, *, is_required: bool) -> ConsentPolicy:
        """Said by one, it is demanded from the next call on. Not to demand it any more is said by two: the first is
        written down, and holds nothing; the second, who is another person, lifts it. Raises ForbiddenError."""
        async with self._database.transaction() as tx:
            await tx.execute("SELECT FROM organization WHERE id = $1 FOR NO KEY UPDATE", org_id)
            was = await _policy(tx, org_id)
            caller.require_version(was.version(org_id))
            asked_by = None
            if is_required:
                await tx.execute(_DEMAND, org_id)
            elif was.is_required:
                require_a_person(caller)
                asked_by = await self._lift(tx, caller, org_id)
            policy = await _policy(tx, org_id)
            details: dict[str, object] = {"required": policy.is_required, "was": was.is_required}
            if asked_by is not None:
                details["asked_by" if not policy.is_required else "lift_asked_by"] = asked_by
            await record(tx, caller.event(Action.CONSENT_POLICY, org_id=org_id, resource=org_id, details=details))
        return policy

    async def _lift(self, tx: Transaction, caller: Caller, org_id: OrgId) -> str:
        """Who asked, as the log names them."""
        row = await tx.fetch_row("SELECT * FROM consent_policy WHERE org_id = $1 FOR UPDATE", org_id)
        assert row is not None
        asked, me = row["lift_asked_by"], caller.principal.account_id
        if asked in (None, me) or self._clock.now() >= row["lift_asked_at"] + LIFT_WITHIN:
            await tx.execute("UPDATE consent_policy SET lift_asked_by = $2 WHERE org_id = $1", org_id, me)
            return f"user:{me}"
        await tx.execute("UPDATE consent_policy SET is_required = false, lifted_by = $2 WHERE org_id = $1", org_id, me)
        return f"user:{asked}"

    # ── one consent ──

    async def find(self, project_id: ProjectId, branch_id: BranchId) -> list[Consent]:
        """Newest first."""
        async with self._database.reading() as tx:
            await store.get(tx, project_id, branch_id)
            return [_consent(row) for row in await tx.fetch(_CONSENTS, project_id, branch_id, None, LISTED_MAX)]

    async def ask(
        self,
        caller: Caller,
        project_id: ProjectId,
        branch_id: BranchId,
        act: Act,
        reason: str,
        *,
        rules: Sequence[MaskingRule] = (),
    ) -> Consent:
        """It opens nothing. Raises NotFoundError, ForbiddenError, ConflictError, BadRequestError, UnprocessableError."""
        caller.require(PERMISSIONS[act])
        if (act is Act.MASK) is not bool(rules):
            raise BadRequestError(public="masking rules go with the act mask, and it with them")
        wanted = checked(rules)
        consent_id = uuid4()
        async with self._database.transaction() as tx:
            await hold_project(tx, project_id)
            branch = await store.get(tx, project_id, branch_id)
            if await tx.fetch_value(_OPEN, branch_id, ANSWER_WITHIN, USE_WITHIN) >= OPEN_MAX:
                raise ConflictError(public=f"{OPEN_MAX} consents of this branch are open already")
            await tx.execute(
                """INSERT INTO consent (id, branch_id, act, reason, asked_by, asked_as, rules)
                   VALUES ($1, $2, $3, $4, $5, $6, $7)""",
                *(consent_id, branch_id, act.value, reason, caller.principal.account_id, caller.principal.actor),
                jsonb(wanted) if wanted else None,
            )
            asked = await _get(tx, project_id, branch_id, consent_id)
            await record(tx, _event(Action.CONSENT_ASK, caller, branch, asked, reason=reason))
        return asked

    async def agree(self, caller: Caller, project_id: ProjectId, branch_id: BranchId, consent_id: UUID) -> Consent:
        """Raises NotFoundError, ForbiddenError, ConflictError.

        1. Whoever agrees is a person: who made a key could be who asked.
        2. It was asked for within the hour, and nobody agreed yet.
        3. That was somebody else; of a key, it was made by somebody else.
        4. They might do it themselves.
        """
        require_a_person(caller)  # 1.
        async with self._database.transaction() as tx:
            await hold_project(tx, project_id)
            branch = await store.get(tx, project_id, branch_id)
            asked = await _get(tx, project_id, branch_id, consent_id)
            state = asked.state(self._clock.now())  # 2.
            if state != "asked":
                words = "this was asked for too long ago: ask again" if state == "over" else f"it is {state} already"
                raise ConflictError(public=words)
            require_another(caller, asked.asker_id)  # 3.
            caller.require(PERMISSIONS[asked.act])  # 4.
            if asked.act is Act.MASK:
                await tx.execute(_REPLACE, branch_id, caller.principal.account_id)
            await tx.execute("UPDATE consent SET agreed_by = $2 WHERE id = $1", consent_id, caller.principal.account_id)
            agreed = await _get(tx, project_id, branch_id, consent_id)
            details = {"asked_by": asked.asked_as}
            await record(tx, _event(Action.CONSENT_AGREE, caller, branch, asked, details, reason=asked.reason))
        return agreed

    async def end(self, caller: Caller, project_id: ProjectId, branch_id: BranchId, consent_id: UUID) -> Consent:
        """Take back what was not used, at one's own word: who asked, who agreed, or whoever may agree. Raises NotFoundError,
        ForbiddenError, ConflictError."""
        async with self._database.transaction() as tx:
            await hold_project(tx, project_id)
            branch = await store.get(tx, project_id, branch_id)
            held = await _get(tx, project_id, branch_id, consent_id)
            caller.require(PERMISSIONS[held.act])
            if held.used_at is not None or held.ended_at is not None:
                raise ConflictError(public=f"it is {held.state(self._clock.now())} already")
            await tx.execute("UPDATE consent SET ended_by = $2 WHERE id = $1", consent_id, caller.principal.account_id)
            ended = await _get(tx, project_id, branch_id, consent_id)
            await record(tx, _event(Action.CONSENT_END, caller, branch, held))
        return ended


async def use(
    tx: Transaction,
    caller: Caller,
    branch: Branch,
    act: Act,
    target_id: BranchId,
    *,
    rules: Sequence[MaskingRule] = (),
) -> dict[str, object]:
    """The consent that the caller has, for this and nothing else; what their event says of it, which is nothing where none is
    needed. Of two requests at once one finds it. `rules`: by which the copy is masked. Raises ConsentNeededError.

    1. The branch is protected, and its organization demands it.
    2. Two agreed on rules, and all of them are among these: whoever asks may.
    3. The caller asked, by this name, and somebody agreed within the hour.
    4. It is used up from here on, if the transaction commits.
    """
    if not branch.is_protected or not await tx.fetch_value(_REQUIRED, branch.project_id):  # 1.
        return {}
    if rules and (agreed := await tx.fetch_value(_MASKS, branch.id, jsonb(list(rules)), MASK_LASTS)) is not None:  # 2.
        return {"consent": str(agreed)}
    found = await tx.fetch_value(_GOOD, branch.id, act.value, caller.principal.actor, USE_WITHIN)  # 3.
    if found is None:
        raise ConsentNeededError(f"{branch.id}, {caller.principal.actor}: {REFUSALS[act]}", public=REFUSALS[act])
    await tx.execute("UPDATE consent SET used_for = $2 WHERE id = $1", found, target_id)  # 4.
    return {"consent": str(found)}


_DEMAND: Final = """
    INSERT INTO consent_policy (org_id, is_required) VALUES ($1, true)
        ON CONFLICT (org_id) DO UPDATE SET is_required = true, lift_asked_by = NULL, lifted_by = NULL"""

_REQUIRED: Final = """
    SELECT coalesce(bool_or(c.is_required), false)
      FROM project p JOIN consent_policy c ON c.org_id = p.org_id WHERE p.id = $1"""

_OPEN: Final = """
    SELECT count(*) FROM consent
     WHERE branch_id = $1 AND used_at IS NULL AND ended_at IS NULL
       AND coalesce(agreed_at + $3::interval, asked_at + $2::interval) > now()"""

_GOOD: Final = """
    SELECT id FROM consent
     WHERE branch_id = $1 AND act = $2 AND asked_as = $3 AND used_at IS NULL AND ended_at IS NULL AND agreed_at > now() - $4::interval
     ORDER BY agreed_at LIMIT 1 FOR UPDATE"""

_MASKS: Final = """
    SELECT id FROM consent
     WHERE branch_id = $1 AND act = 'mask' AND ended_at IS NULL AND agreed_at > now() - $3::interval AND $2 @> rules"""

_REPLACE: Final = """
    UPDATE consent SET ended_by = $2 WHERE branch_id = $1 AND act = 'mask' AND agreed_at IS NOT NULL AND ended_at IS NULL"""

_CONSENTS: Final = """
    SELECT c.*, b.project_id, asker.email AS asker, agreer.email AS agreer, ender.email AS ender
      FROM consent c
      JOIN branch b ON b.id = c.branch_id
      JOIN account asker ON asker.id = c.asked_by
      LEFT JOIN account agreer ON agreer.id = c.agreed_by
      LEFT JOIN account ender ON ender.id = c.ended_by
     WHERE b.project_id = $1 AND c.branch_id = $2 AND ($3::uuid IS NULL OR c.id = $3)
     ORDER BY c.asked_at DESC, c.id LIMIT $4"""


def _event(
    action: Action,
    caller: Caller,
    branch: Branch,
    consent: Consent,
    details: Mapping[str, object] = MappingProxyType({}),
    *,
    reason: str = "",
) -> Event:
    return caller.event(
        action,
        project_id=branch.project_id,
        branch_id=branch.id,
        resource=branch.name,
        reason=reason,
        details={"consent": str(consent.id), "act": consent.act.value, **details},
    )


async def _get(tx: Transaction, project_id: str, branch_id: str, consent_id: UUID) -> Consent:
    row = await tx.fetch_row(_CONSENTS, project_id, branch_id, consent_id, 1)
    if row is None:
        raise NotFoundError(public="consent not found")
    return _consent(row)


async def _policy(tx: Transaction, org_id: OrgId) -> ConsentPolicy:
    row = await tx.fetch_row(
        """SELECT c.is_required, c.lift_asked_at, a.email FROM consent_policy c
             LEFT JOIN account a ON a.id = c.lift_asked_by AND c.is_required
            WHERE c.org_id = $1""",
        org_id,
    )
    if row is None:
        return ConsentPolicy(is_required=False)
    return ConsentPolicy(row["is_required"], row["email"], row["lift_asked_at"] if row["email"] else None)


def _consent(row: Any) -> Consent:
    return Consent(
        id=row["id"],
        project_id=row["project_id"],
        branch_id=row["branch_id"],
        act=Act(row["act"]),
        reason=row["reason"],
        asked_by=row["asker"],
        asked_as=row["asked_as"],
        asked_at=row["asked_at"],
        asker_id=row["asked_by"],
        agreed_by=row["agreer"],
        agreed_at=row["agreed_at"],
        used_for=row["used_for"],
        used_at=row["used_at"],
        rules=[] if row["rules"] is None else msgspec.json.decode(row["rules"], type=list[MaskingRule]),
        ended_by=row["ender"],
        ended_at=row["ended_at"],
    )

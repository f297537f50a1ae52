"""Threat: whoever may copy a protected branch does so by their own word, and has the data where nothing protects it, although their
organization wants two people for that.

On the real control plane and its database, of which only the node is made up. What somebody with the API process's own role
could write into the database is tried as that role.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from importlib import resources
from typing import Any, Final

import asyncpg
import msgspec
import pytest

from cloister.base.errors import (
    BadRequestError,
    CloisterError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    UnprocessableError,
)
from cloister.base.ids import BranchId, OrgId, ProjectId
from cloister.control.branches.consents import (
    ANSWER_WITHIN,
    NEEDED,
    OPEN_MAX,
    REFUSALS,
    Act,
    Consent,
    ConsentNeededError,
)
from cloister.control.branches.model import (
    HEAD,
    SCHEMA_ONLY,
    BranchChange,
    MaskingRule,
    NewBranch,
    NewMasking,
    Point,
    Restore,
    Snapshot,
)
from cloister.control.calling import Caller
from cloister.control.incidents.model import Response
from cloister.trust.access.permissions import Permission
from cloister.trust.access.principals import Holder
from cloister.trust.audit.events import timestamp
from tests.audited import raised
from tests.control.branches.scenes import branched, protect, refused
from tests.control.land import ACCOUNT, ANOTHER, BOB, CALLER, ORG, Land, a_land
from tests.fix_database import ControlDatabase, DatabaseAs

MACHINE: Final = replace(CALLER, principal=replace(CALLER.principal, key_id=7, holder=Holder.SERVICE))
"""A key of the organization's that Ada made."""
WHY: Final = "ticket 4711"
NEEDS: Final = "consent of another person"
NAME: Final = MaskingRule(database="neondb", schema="public", table="people", column="name", value="somebody")
RULE: Final = MaskingRule(
    database="neondb", schema="public", table="people", column="email", function="anon.hash(email)"
)


@dataclass
class Shop:
    land: Land
    project: ProjectId
    main: BranchId
    """Protected, and the default."""
    dev: BranchId
    """A child of it that is not."""
    masked: BranchId
    """Waits to be masked."""
    snapshot: Snapshot
    """Of main."""

    @property
    def control(self) -> Any:
        return self.land.control

    async def ask(self, act: Act = Act.COPY, by: Caller = CALLER, branch: BranchId | None = None) -> Consent:
        found: Consent = await self.control.consents.ask(by, self.project, branch or self.main, act, WHY)
        return found

    async def agree(self, consent: Consent, by: Caller = ANOTHER) -> Consent:
        found: Consent = await self.control.consents.agree(by, self.project, BranchId(consent.branch_id), consent.id)
        return found

    async def agreed(self, act: Act = Act.COPY, by: Caller = CALLER) -> Consent:
        return await self.agree(await self.ask(act, by))

    async def copy(self, by: Caller = CALLER) -> Any:
        return await self.control.branches.create(by, self.project, NewBranch(parent_id=self.main))

    async def agreed_rules(self, *rules: MaskingRule) -> Consent:
        asked = await self.control.consents.ask(CALLER, self.project, self.main, Act.MASK, WHY, rules=rules)
        return await self.agree(asked)

    async def mask(self, *rules: MaskingRule, by: Caller = CALLER) -> Any:
        masking = NewMasking(rules=list(rules), starts=True)
        return await self.control.branches.create(by, self.project, NewBranch(parent_id=self.main, masking=masking))

    async def copies(self) -> int:
        async with self.land.database.reading() as tx:
            return int(
                await tx.fetch_value(
                    """SELECT count(*) FROM operation
                        WHERE input -> 'recipe' ->> 'source_branch_id' = $1 AND branch_id <> $1""",
                    self.main,
                )
            )


@pytest.fixture
async def shop(database_as: DatabaseAs) -> AsyncIterator[Shop]:
    async with a_land(await database_as("cloister_api"), runs_operations=False) as land:
        await land.add_another()
        created = await land.project()
        dev = await branched(land, created, finish=False)
        waiting = NewMasking(rules=[RULE], starts=False)
        masked = await branched(land, created, finish=False, masking=waiting)
        snapshot, _ = await land.control.snapshots.create(
            CALLER, created.project.id, created.branch.id, name="before", point=HEAD, expires_at=None
        )
        land.clock.advance(timedelta(seconds=1))
        await protect(land, created)
        await land.control.consents.require(CALLER, OrgId(ORG), is_required=True)
        # What was begun is done when a test lets it settle: most need no more than the rows.
        yield Shop(land, created.project.id, created.branch.id, dev.branch.id, masked.branch.id, snapshot)


Door = Callable[[Shop], Awaitable[Any]]

DOORS: Final[dict[str, Door]] = {
    "a branch of it": lambda it: it.copy(),
    "a branch of the default": lambda it: it.control.branches.create(CALLER, it.project, NewBranch()),
    "its schema": lambda it: it.control.branches.create(
        CALLER, it.project, NewBranch(parent_id=it.main, init_source=SCHEMA_ONLY)
    ),
    "as it was": lambda it: it.control.branches.create(
        CALLER, it.project, NewBranch(parent_id=it.main, point=Point(at=it.land.clock.now()))
    ),
    "one that is protected": lambda it: it.control.branches.create(
        CALLER, it.project, NewBranch(parent_id=it.main, is_protected=True)
    ),
    "masked": lambda it: it.control.branches.create(
        CALLER, it.project, NewBranch(parent_id=it.main, masking=NewMasking(rules=[RULE], starts=True))
    ),
    "masked, later": lambda it: it.control.maskings.start(CALLER, it.project, it.masked),
    "a reset to it": lambda it: it.control.branches.restore(CALLER, it.project, it.dev, Restore(source_id=it.main)),
    "a reset that keeps what was": lambda it: it.control.branches.restore(
        CALLER, it.project, it.dev, Restore(source_id=it.main, preserve_under_name="was")
    ),
    "a branch of its snapshot": lambda it: it.control.snapshots.restore(
        CALLER, it.project, it.snapshot.id, name=None, target_id=None, is_final=False
    ),
    "its snapshot over another": lambda it: it.control.snapshots.restore(
        CALLER, it.project, it.snapshot.id, name=None, target_id=it.dev, is_final=True
    ),
    "its snapshot beside another": lambda it: it.control.snapshots.restore(
        CALLER, it.project, it.snapshot.id, name=None, target_id=it.dev, is_final=False
    ),
}


def test_who_is_refused_reads_the_same_from_the_database() -> None:
    sql = (resources.files("cloister.base.database") / "migrations" / "0036_consents.sql").read_text()
    assert [words in sql for words in REFUSALS.values()] == [True, True]


async def test_no_door_to_a_copy_opens_for_one_person(shop: Shop) -> None:
    """Nor after another branch became the default; and for two, each opens once."""
    await shop.land.settle()
    before = await shop.copies()
    for round_ in ("as it is", "dev is the default"):
        for name, door in DOORS.items():
            if round_ != "as it is" and name == "a branch of the default":
                continue  # that is dev, which is not protected
            with pytest.raises(ConsentNeededError) as refusal:
                await door(shop)
            assert (refusal.value.public, refusal.value.code) == (REFUSALS[Act.COPY], NEEDED), name
        await shop.control.branches.set_as_default(CALLER, shop.project, shop.dev)
    assert await shop.copies() == before
    await shop.control.branches.set_as_default(CALLER, shop.project, shop.main)
    for name, door in DOORS.items():
        consent = await shop.agreed()
        await door(shop)
        await shop.land.settle()
        (used,) = [it for it in await shop.control.consents.find(shop.project, shop.main) if it.id == consent.id]
        assert used.state(shop.land.clock.now()) == "used", name
        with pytest.raises(CloisterError):
            await door(shop)
    assert await shop.copies() == before + len(DOORS)


async def test_the_log_says_who_agreed_to_which_copy(shop: Shop) -> None:
    consent = await shop.agreed()
    await shop.copy()
    (asked,) = await shop.land.details_of("consent.ask")
    (agreed,) = await shop.land.details_of("consent.agree")
    *before, created = await shop.land.events("branch.create")
    assert asked["consent"] == agreed["consent"] == created.details["consent"] == str(consent.id)
    assert (agreed["asked_by"], agreed["act"]) == (f"user:{ACCOUNT}", "copy")
    assert (created.details["of_protected"], [it.details["of_protected"] for it in before]) == (True, [False, False])
    days = [timestamp(datetime.fromisoformat(created.at) - timedelta(days=day)) for day in range(8, 0, -1)]
    others = [msgspec.structs.replace(created, actor=f"user:{BOB}", at=day) for day in days]
    assert raised([*others, created]) == {"protected-copied"}, "where others do, and Ada never did"


async def test_the_protection_is_not_taken_off_by_one_person(shop: Shop) -> None:
    """It would be the way around. A consent to a copy is none to this."""
    await shop.agreed()
    change = BranchChange(is_protected=False)
    with pytest.raises(UnprocessableError, match="cannot unprotect branch without the consent"):
        await shop.control.branches.update(CALLER, shop.project, shop.main, change)
    consent = await shop.agreed(Act.UNPROTECT)
    branch, _ = await shop.control.branches.update(CALLER, shop.project, shop.main, change)
    assert not branch.is_protected
    assert (await shop.land.details_of("branch.unprotect"))[-1]["consent"] == str(consent.id)


async def test_nobody_agrees_with_themselves(shop: Shop) -> None:
    """Neither with another key, nor by a key that they made, nor as a machine, nor without the right to do it."""
    for by in (CALLER, MACHINE):
        consent = await shop.ask(by=by)
        for who in (CALLER, replace(CALLER, principal=replace(CALLER.principal, key_id=9))):
            with refused(ForbiddenError, "somebody else"):
                await shop.agree(consent, who)
        with refused(ForbiddenError, "a person"):
            await shop.agree(
                consent, replace(ANOTHER, principal=replace(ANOTHER.principal, holder=Holder.ORGANIZATION))
            )
        for grants in (frozenset[Permission](), frozenset({Permission.BRANCH_UNPROTECT})):
            with refused(ForbiddenError, "branch:create_from_protected"):
                await shop.agree(consent, replace(ANOTHER, grants=grants))
    with refused(ForbiddenError, "branch:unprotect"):
        await shop.ask(Act.UNPROTECT, replace(CALLER, grants=frozenset({Permission.BRANCH_CREATE_FROM_PROTECTED})))
    with pytest.raises(UnprocessableError, match=NEEDS):
        await shop.copy()


async def test_a_consent_is_used_by_who_asked_for_that_branch_and_that_act(shop: Shop) -> None:
    await shop.agreed(Act.UNPROTECT)
    await shop.agree(await shop.ask(by=ANOTHER), CALLER)
    await shop.agree(await shop.ask(branch=shop.dev))
    await shop.agreed(by=MACHINE)
    await shop.ask()
    with pytest.raises(UnprocessableError, match=NEEDS):
        await shop.copy()
    # A machine's is for the key that asked: neither for who made it, nor for another of its keys.
    with pytest.raises(UnprocessableError, match=NEEDS):
        await shop.copy(replace(MACHINE, principal=replace(MACHINE.principal, key_id=8)))
    await shop.copy(MACHINE)
    with pytest.raises(UnprocessableError, match=NEEDS):
        await shop.copy(MACHINE)


async def test_of_two_copies_at_once_one_finds_the_consent(shop: Shop) -> None:
    await shop.agreed()
    outcomes = await asyncio.gather(shop.copy(), shop.copy(), return_exceptions=True)
    assert sorted(type(it).__name__ for it in outcomes) == ["BranchCreated", "ConsentNeededError"]


async def test_what_is_old_elsewhere_or_answered_opens_nothing(shop: Shop, control_database: ControlDatabase) -> None:
    consent = await shop.ask()
    with pytest.raises(NotFoundError):
        await shop.control.consents.agree(ANOTHER, shop.project, shop.dev, consent.id)
    shop.land.clock.advance(ANSWER_WITHIN + timedelta(minutes=1))
    with refused(ConflictError, "too long ago"):
        await shop.agree(consent)
    shop.land.clock.advance(-ANSWER_WITHIN)
    await shop.agree(consent)
    with refused(ConflictError, "agreed already"):
        await shop.agree(consent)
    await _as_owner(
        control_database,
        """ALTER TABLE consent DISABLE TRIGGER consent_holds;
           UPDATE consent SET asked_at = asked_at - interval '61 minutes', agreed_at = agreed_at - interval '61 minutes';
           ALTER TABLE consent ENABLE ALWAYS TRIGGER consent_holds""",
    )
    with pytest.raises(UnprocessableError, match=NEEDS):
        await shop.copy()


async def test_so_many_are_open_and_no_more(shop: Shop) -> None:
    for _ in range(OPEN_MAX):
        await shop.ask()
    with refused(ConflictError, "open already"):
        await shop.ask()


async def test_the_demand_is_not_lifted_by_one_person(shop: Shop) -> None:
    """Whoever asks twice is one person, and so is a machine of theirs; said to be demanded again, nothing is asked any more."""

    async def lift(by: Caller) -> bool:
        return bool((await shop.control.consents.require(by, OrgId(ORG), is_required=False)).is_required)

    again = replace(CALLER, principal=replace(CALLER.principal, key_id=9))
    assert [await lift(CALLER), await lift(again)] == [True, True]
    with refused(ForbiddenError, "a person"):
        await lift(MACHINE)
    assert (await shop.control.consents.policy(OrgId(ORG))).lift_asked_by == "ada@example.org"
    await shop.control.consents.require(ANOTHER, OrgId(ORG), is_required=True)
    assert await lift(ANOTHER), "Bob objected, and asks himself now"
    shop.land.clock.advance(timedelta(days=7, minutes=1))
    assert await lift(CALLER), "Bob asked too long ago"
    shop.land.clock.advance(-timedelta(days=7, minutes=1))
    with pytest.raises(UnprocessableError, match=NEEDS):
        await shop.copy()
    assert await lift(ANOTHER) is False
    await shop.copy()
    said = (await shop.land.details_of("consent.policy"))[-1]
    assert (said["required"], said["was"], said["asked_by"]) == (False, True, f"user:{ACCOUNT}")


async def test_where_nobody_demands_it_nothing_is_asked(shop: Shop) -> None:
    await shop.land.settle()
    for by in (CALLER, ANOTHER):
        await shop.control.consents.require(by, OrgId(ORG), is_required=False)
    for door in DOORS.values():
        await door(shop)
        await shop.land.settle()
    with refused(ForbiddenError, "branch:create_from_protected"):
        await shop.copy(replace(CALLER, grants=frozenset()))


async def test_a_quarantine_copies_nothing_alone(shop: Shop, control_database: ControlDatabase) -> None:
    """The operator's playbook is no way around: it shuts the endpoint, and makes no branch."""
    await shop.land.settle()
    before = await shop.copies()
    (endpoint,) = await shop.control.endpoints.find(shop.project, shop.main)
    await _as_owner(control_database, _FINDING.format(project=shop.project, endpoint=endpoint.id))
    running = asyncio.create_task(shop.control.incidents.respond(CALLER, "fd-000000000001", Response.QUARANTINE))
    while not running.done():
        await shop.land.settle()
        await asyncio.sleep(0)
    assert "none was made" in (await running).done[1]
    assert await shop.copies() == before


# ── masked by rules that two agreed on ──


async def test_who_masks_by_agreed_rules_needs_no_consent_and_who_does_not_does(shop: Shop) -> None:
    """All of them, word by word, and more if they like: whoever asks does not choose which."""
    await shop.land.settle()
    asked = await shop.control.consents.ask(CALLER, shop.project, shop.main, Act.MASK, WHY, rules=[RULE])
    with pytest.raises(UnprocessableError, match=NEEDS):
        await shop.mask(RULE)
    for by in (CALLER, replace(CALLER, principal=replace(CALLER.principal, key_id=9))):
        with refused(ForbiddenError, "somebody else"):
            await shop.agree(asked, by)
    consent = await shop.agree(asked)
    assert consent.rules == [RULE]
    before = await shop.copies()
    for rules in ([RULE], [NAME, RULE]):
        await shop.mask(*rules, by=MACHINE)
        assert (await shop.land.details_of("branch.create"))[-1]["consent"] == str(consent.id)
    await shop.control.maskings.start(MACHINE, shop.project, shop.masked)
    assert await shop.copies() == before + 3

    other = replace_rule(RULE, function="anon.partial_email(email)")
    for rules in ([NAME], [other], [replace_rule(RULE, column="mail", function="anon.hash(mail)")], [NAME, other]):
        with pytest.raises(UnprocessableError, match=NEEDS):
            await shop.mask(*rules)
    for name, door in DOORS.items():
        if "masked" not in name:
            with pytest.raises(CloisterError):
                await door(shop)
    with pytest.raises(UnprocessableError, match="cannot unprotect branch without the consent"):
        await shop.control.branches.update(CALLER, shop.project, shop.main, BranchChange(is_protected=False))
    assert await shop.copies() == before + 3


async def test_a_draft_is_masked_by_the_rules_that_it_has_when_it_starts(shop: Shop) -> None:
    await shop.agreed_rules(RULE, NAME)
    with pytest.raises(UnprocessableError, match=NEEDS):
        await shop.control.maskings.start(CALLER, shop.project, shop.masked)
    await shop.control.maskings.change_rules(CALLER, shop.project, shop.masked, [NAME, RULE])
    await shop.control.maskings.start(CALLER, shop.project, shop.masked)


async def test_agreed_rules_hold_until_others_are_agreed_on_or_somebody_ends_them_or_for_three_months(
    shop: Shop, control_database: ControlDatabase
) -> None:
    """Of two sets the laxer would be the one that holds."""
    first = await shop.agreed_rules(RULE)
    second = await shop.agreed_rules(RULE, NAME)
    with pytest.raises(UnprocessableError, match=NEEDS):
        await shop.mask(RULE)
    await shop.mask(RULE, NAME)
    states = {
        it.id: it.state(shop.land.clock.now()) for it in await shop.control.consents.find(shop.project, shop.main)
    }
    assert (states[first.id], states[second.id]) == ("ended", "agreed")
    with refused(ForbiddenError, "branch:create_from_protected"):
        await shop.control.consents.end(replace(CALLER, grants=frozenset()), shop.project, shop.main, second.id)
    await shop.control.consents.end(CALLER, shop.project, shop.main, second.id)
    with pytest.raises(UnprocessableError, match=NEEDS):
        await shop.mask(RULE, NAME)
    with refused(ConflictError, "ended already"):
        await shop.control.consents.end(CALLER, shop.project, shop.main, second.id)
    await shop.agreed_rules(RULE)
    await _as_owner(
        control_database,
        """ALTER TABLE consent DISABLE TRIGGER consent_holds;
           UPDATE consent SET asked_at = asked_at - interval '91 days', agreed_at = agreed_at - interval '91 days';
           ALTER TABLE consent ENABLE ALWAYS TRIGGER consent_holds""",
    )
    with pytest.raises(UnprocessableError, match=NEEDS):
        await shop.mask(RULE)


async def test_what_was_taken_back_opens_nothing(shop: Shop) -> None:
    """By whoever may agree, alone: before it was given, and after."""
    for consent in (await shop.ask(), await shop.agreed()):
        ended = await shop.control.consents.end(ANOTHER, shop.project, shop.main, consent.id)
        assert ended.state(shop.land.clock.now()) == "ended"
        with refused(ConflictError, "ended already"):
            await shop.agree(consent)
    with pytest.raises(UnprocessableError, match=NEEDS):
        await shop.copy()


async def test_rules_go_with_the_act_that_is_about_them(shop: Shop) -> None:
    """And they are checked as a branch's are: what is agreed on can be asked for."""
    for act, rules in ((Act.COPY, [RULE]), (Act.MASK, [])):
        with refused(BadRequestError, "masking rules go with"):
            await shop.control.consents.ask(CALLER, shop.project, shop.main, act, WHY, rules=rules)
    with refused(UnprocessableError, "two masking rules"):
        await shop.control.consents.ask(CALLER, shop.project, shop.main, Act.MASK, WHY, rules=[RULE, RULE])


def replace_rule(rule: MaskingRule, **changes: str) -> MaskingRule:
    return msgspec.structs.replace(rule, **changes)


# ── whoever has taken over the API's process, as far as the control database holds ──

_OPERATION: Final = """
    INSERT INTO operation (id, project_id, branch_id, action, machine, status, step, input, resource,
                           holds_resource, run_at, deadline_at, created_at, updated_at)
    SELECT gen_random_uuid(), project_id, '{dev}', 'create_branch', '{machine}', 'scheduling', 'halt', '{input}',
           'branch:{dev}', true, now(), now() + interval '1 h', now(), now() FROM branch WHERE id = '{main}'"""

FORGED: Final = {
    "a new branch": ("create_branch", '{{"recipe": {{"source_branch_id": "{main}", "sources": []}}}}'),
    "another name for it": ("create_branch", '{{"recipe": {{"source_branch_id": "{dev}", "sources": ["{timeline}"]}}}}'),
    "its snapshot": ("restore_branch", '{{"recipe": {{"source_branch_id": "{dev}", "sources": ["{frozen}"]}}}}'),
    "a masked one": ("anonymize_branch", '{{"recipe": {{"source_branch_id": "{main}", "sources": ["{timeline}"]}}}}'),
}  # fmt: skip


async def test_no_operation_that_copies_is_accepted_without_a_consent(shop: Shop) -> None:
    await shop.land.settle()
    async with shop.land.database.reading() as tx:
        timeline = await tx.fetch_value("SELECT timeline_id FROM branch WHERE id = $1", shop.main)
    ids = {"main": shop.main, "dev": shop.dev, "timeline": timeline, "frozen": shop.snapshot.timeline_id}
    own = '{{"recipe": {{"source_branch_id": "{dev}", "sources": []}}}}'.format(**ids)
    for name, (machine, given) in FORGED.items():
        work = given.format(**ids)
        statement = _OPERATION.format(machine=machine, input=work, **ids)
        with pytest.raises(UnprocessableError, match=NEEDS):
            await _run(shop.land, statement)
        changed = f"UPDATE operation SET input = '{work}' WHERE branch_id = '{shop.dev}'"
        allowed = _OPERATION.format(machine=machine, input=own, **ids)
        with pytest.raises((UnprocessableError, asyncpg.InsufficientPrivilegeError)) as refusal:
            await _run(shop.land, allowed, changed)
        assert "permission denied" in str(refusal.value) or "consent" in str(refusal.value), name
    # Nor with a snapshot that was said to be another branch's before.
    with pytest.raises(UnprocessableError, match="a snapshot stays what it was"):
        await _run(
            shop.land,
            f"UPDATE snapshot SET branch_id = '{shop.dev}' WHERE id = '{shop.snapshot.id}'",
            _OPERATION.format(machine="restore_branch", input=FORGED["its snapshot"][1].format(**ids), **ids),
        )
    # What is masked as was agreed is accepted, and stays what it was when that was looked at.
    await shop.agreed_rules(RULE)
    masked = '{{"rules": {rules}, "recipe": {{"source_branch_id": "{main}", "sources": []}}}}'
    agreed, fewer = (masked.format(rules=json.dumps(msgspec.to_builtins(it)), **ids) for it in ([RULE, NAME], [NAME]))
    change = f"WHERE branch_id = '{shop.dev}'"
    for statements in (
        [_OPERATION.format(machine="anonymize_branch", input=fewer, **ids)],
        [_OPERATION.format(machine="create_branch", input=agreed, **ids)],
        [
            _OPERATION.format(machine="anonymize_branch", input=agreed, **ids),
            f"UPDATE operation SET machine = 'create_branch' {change}",
        ],
        [
            _OPERATION.format(machine="anonymize_branch", input=agreed, **ids),
            f"UPDATE operation SET input = '{fewer}' {change}",
        ],
    ):
        with pytest.raises(UnprocessableError, match=NEEDS):
            await _run(shop.land, *statements)
    await _run(shop.land, _OPERATION.format(machine="anonymize_branch", input=agreed, **ids))
    with pytest.raises(UnprocessableError, match="cannot unprotect branch without the consent"):
        await _run(
            shop.land,
            f"""SELECT unprotect(id, json_build_object('action', 'branch.unprotect', 'actor', 'user:1', 'reason', 'x',
                       'branch_id', id, 'project_id', project_id)::text) FROM branch WHERE id = '{shop.main}'""",
        )


ALONE: Final = {
    "by one's own word": "UPDATE consent SET agreed_by = asked_by",
    "born agreed to": "INSERT INTO consent (id, branch_id, act, reason, asked_by, asked_as, agreed_by) SELECT gen_random_uuid(), branch_id, act, reason, asked_by, asked_as, asked_by FROM consent",
    "used unanswered": "UPDATE consent SET used_for = 'br-x'",
    "of another time": "UPDATE consent SET asked_at = now()",
    "of another branch": "UPDATE consent SET branch_id = branch_id",
    "taken away": "DELETE FROM consent",
    "ended and agreed to": "UPDATE consent SET ended_by = asked_by, agreed_by = '{bob}'",
    "rules that nobody saw": "UPDATE consent SET rules = '[]'",
    "no rules at all": "INSERT INTO consent (id, branch_id, act, reason, asked_by, asked_as, rules) SELECT gen_random_uuid(), branch_id, 'mask', reason, asked_by, asked_as, '[]' FROM consent",
    "the demand goes": "UPDATE consent_policy SET is_required = false, lifted_by = '{bob}'",
    "asked and lifted at once": "UPDATE consent_policy SET is_required = false, lift_asked_by = '{ada}', lifted_by = '{bob}'",
    "lifted by who asked": "UPDATE consent_policy SET lift_asked_by = '{ada}'; UPDATE consent_policy SET is_required = false, lifted_by = '{ada}'",
    "the demand is taken away": "DELETE FROM consent_policy",
    "the demand is another's": "UPDATE consent_policy SET org_id = org_id",
    "the rule": "ALTER TABLE consent DISABLE TRIGGER ALL",
}  # fmt: skip


async def test_the_apis_own_process_agrees_to_nothing_alone(shop: Shop) -> None:
    await shop.ask()
    for name, change in ALONE.items():
        refusals = (
            r"permission denied|must be owner|not_by_oneself|after it was|by two people|ends as it is|check constraint"
        )
        with pytest.raises(Exception, match=refusals):
            await _run(shop.land, *change.format(ada=ACCOUNT, bob=BOB).split(";"))
        (consent,) = await shop.control.consents.find(shop.project, shop.main)
        assert (consent.agreed_by, consent.used_for) == (None, None), name
        assert (await shop.control.consents.policy(OrgId(ORG))).is_required, name


async def test_a_used_consent_stays_used(shop: Shop) -> None:
    await shop.land.settle()
    await shop.agreed()
    await shop.copy()
    with pytest.raises(UnprocessableError, match="used once"):
        await _run(shop.land, "UPDATE consent SET used_for = 'br-x'")
    with pytest.raises(UnprocessableError, match=NEEDS):
        await _run(
            shop.land,
            _OPERATION.format(
                machine="create_branch",
                input=f'{{"recipe": {{"source_branch_id": "{shop.main}", "sources": []}}}}',
                main=shop.main,
                dev=shop.dev,
            ),
        )


_FINDING: Final = """
    INSERT INTO finding (id, rule, level, title, summary, response, fingerprint, subject, first_seq, last_seq, first_at, last_at)
    VALUES ('fd-000000000001', 'r', 'high', 't', 's', 'r', 'f',
            json_build_object('project_id', '{project}', 'endpoint_id', '{endpoint}'), 1, 1, '', '')"""


async def _run(land: Land, *statements: str) -> None:
    async with land.database.transaction() as tx:
        for statement in statements:
            await tx.execute(statement)


async def _as_owner(control_database: ControlDatabase, change: str) -> None:
    connection = await asyncpg.connect(control_database.url())
    try:
        await connection.execute("SET search_path = cloister")
        await connection.execute(change)
    finally:
        await connection.close()

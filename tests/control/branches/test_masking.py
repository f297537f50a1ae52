"""Masked branches, from the request to what they hold: what nobody reads before, what becomes of a failure, what stays."""

from datetime import timedelta
from typing import Any

import pytest

from cloister.base.errors import (
    ConflictError,
    ForbiddenError,
    NotFoundError,
    PreconditionError,
    UnavailableError,
    UnprocessableError,
)
from cloister.base.ids import BranchId
from cloister.base.limits import MASKING_RULES_MAX
from cloister.control.branches.masking_rules import checked
from cloister.control.branches.model import (
    SCHEMA_ONLY,
    BranchCreated,
    MaskingRule,
    NewBranch,
    NewMasking,
    Point,
    Restore,
)
from cloister.control.operations.model import Status
from cloister.control.services import ProjectCreated
from tests.control.branches.scenes import CAUSE, UNGRANTED, branched, holds, protect, refused, words
from tests.control.land import CALLER, Land

EMAIL = MaskingRule(database="neondb", schema="public", table="people", column="email", function="anon.hash(email)")
NAME = MaskingRule(database="neondb", schema="public", table="people", column="name", value="somebody")


async def masked(
    land: Land, created: ProjectCreated, *rules: MaskingRule, starts: bool = True, **new: Any
) -> BranchCreated:
    return await branched(land, created, masking=NewMasking(rules=list(rules or (EMAIL,)), starts=starts), **new)


async def test_a_masked_branch_holds_no_word_of_its_parent(land: Land) -> None:
    created = await land.project()
    land.node.write(created.endpoint.id, "a secret")
    child = await masked(land, created)
    assert holds(land, child) == ["***"]
    assert land.node.calls[2:] == ["CopyTimeline", "FinishCopy", "MaskTimeline", "DeleteTimeline", "StartCompute"]
    assert list(land.node.images[created.project.id].timelines) == [
        created.branch.timeline_id,
        child.branch.timeline_id,
    ]
    branch = await land.control.branches.get(created.project.id, child.branch.id)
    assert (branch.state, branch.parent_id) == ("ready", created.branch.id)
    masking = await land.control.maskings.get(created.project.id, branch.id)
    assert (masking.state, masking.rules, masking.message) == ("anonymized", [EMAIL], "")
    assert masking.started_by == CALLER.principal.account_id
    route = await land.look_up(child.endpoints[0].id, "neondb_owner")
    assert route.verifier == created.role.verifier


async def test_what_the_parents_server_said_does_not_bring_a_password_back(land: Land) -> None:
    """Masking takes its time; meanwhile the password is another one, a role is made, and the parent falls asleep."""
    created = await land.project()
    project_id, main_id = created.project.id, created.branch.id

    async def change(command: Any) -> None:
        if type(command).__name__ == "MaskTimeline":
            land.node.before = None
            roles = land.control.roles
            await land.finish((await roles.reset_password(CALLER, project_id, main_id, created.role.name)).operations)
            await land.finish((await roles.create(CALLER, project_id, main_id, "ada", can_login=True)).operations)
            await land.finish((await land.control.endpoints.suspend(CALLER, project_id, created.endpoint.id))[1])

    land.node.before = change
    child = await masked(land, created)
    there = land.node.catalog_of(created.endpoint.id).roles
    assert there[created.role.name].verifier != created.role.verifier
    for name in (created.role.name, "ada"):
        assert (await land.look_up(created.endpoint.id, name)).verifier == there[name].verifier
    known = await land.control.roles.find(project_id, child.branch.id)
    assert {role.name: role.verifier for role in known} == {created.role.name: created.role.verifier}


async def test_before_it_is_started_it_has_no_data_and_nobody_wakes_it(land: Land) -> None:
    created = await land.project()
    land.node.write(created.endpoint.id, "a secret")
    child = await masked(land, created, starts=False)
    assert child.operations == []
    assert list(land.node.images[created.project.id].timelines) == [created.branch.timeline_id]
    assert (await land.control.maskings.get(created.project.id, child.branch.id)).state == "initialized"
    with pytest.raises((NotFoundError, PreconditionError, UnavailableError)):
        await land.plane.runner.start(child.endpoints[0].id, CAUSE)
    assert len(land.node.computes) == 1
    # It is changed, then started; what is written meanwhile is in it as well.
    await land.control.maskings.change_rules(CALLER, created.project.id, child.branch.id, [EMAIL, NAME])
    land.node.write(created.endpoint.id, "another")
    masking, operations = await land.control.maskings.start(CALLER, created.project.id, child.branch.id)
    assert masking.state == "anonymizing"
    await land.finish(operations)
    assert holds(land, child) == ["***", "***"]
    done = await land.control.maskings.get(created.project.id, child.branch.id)
    assert (done.state, done.rules) == ("anonymized", [EMAIL, NAME])


async def test_a_rule_that_does_not_fit_leaves_no_data_and_can_be_put_right(land: Land) -> None:
    created = await land.project()
    land.node.write(created.endpoint.id, "a secret")
    land.node.failing["MaskTimeline"] = UnprocessableError("no", public="there is no table public.people")
    child = await masked(land, created, finish=False)
    await land.finish(child.operations[:1], Status.FAILED)
    await land.finish(child.operations[1:], Status.SKIPPED)
    assert list(land.node.images[created.project.id].timelines) == [created.branch.timeline_id]
    masking = await land.control.maskings.get(created.project.id, child.branch.id)
    assert (masking.state, masking.message) == ("error", "there is no table public.people")
    assert (await land.control.branches.get(created.project.id, child.branch.id)).state == "init"
    with refused(UnprocessableError, "branch not ready yet"):
        await land.control.branches.restore(
            CALLER, created.project.id, child.branch.id, Restore(source_id=child.branch.id, preserve_under_name="x")
        )

    land.node.failing.clear()
    await land.control.maskings.change_rules(CALLER, created.project.id, child.branch.id, [NAME])
    _masking, operations = await land.control.maskings.start(CALLER, created.project.id, child.branch.id)
    await land.finish(operations)
    assert holds(land, child) == ["***"]
    assert (await land.control.branches.get(created.project.id, child.branch.id)).state == "ready"


async def test_one_that_failed_can_be_deleted(land: Land) -> None:
    created = await land.project()
    land.node.failing["MaskTimeline"] = UnprocessableError("no", public="no")
    child = await masked(land, created, finish=False)
    await land.finish(child.operations[:1], Status.FAILED)
    _branch, operations = await land.control.branches.delete(CALLER, created.project.id, child.branch.id, hard=True)
    await land.finish(operations)
    with pytest.raises(NotFoundError):
        await land.control.branches.get(created.project.id, child.branch.id)


async def test_of_a_protected_parent_it_takes_the_permission_and_has_new_passwords(land: Land) -> None:
    created = await land.project()
    await protect(land, created)
    new = NewBranch(masking=NewMasking(rules=[EMAIL], starts=True))
    with pytest.raises(ForbiddenError):
        await land.control.branches.create(UNGRANTED, created.project.id, new)
    draft = await masked(land, created, starts=False)
    with pytest.raises(ForbiddenError):
        await land.control.maskings.start(UNGRANTED, created.project.id, draft.branch.id)
    child = await masked(land, created)
    assert "ScrubTimeline" in land.node.calls
    [password] = child.passwords
    mine = land.node.catalog_of(child.endpoints[0].id).roles["neondb_owner"]
    assert mine.verifier == password.role.verifier != created.role.verifier


async def test_of_a_parent_that_was_protected_since_it_keeps_no_password(land: Land) -> None:
    created = await land.project(store_passwords=True)
    project_id = created.project.id
    child = await masked(land, created, starts=False)
    await protect(land, created)
    _, operations = await land.control.maskings.start(CALLER, project_id, child.branch.id)
    await land.finish(operations)
    there = land.node.catalog_of(child.endpoints[0].id).roles[created.role.name].verifier
    assert there not in (None, created.role.verifier)
    assert (await land.look_up(child.endpoints[0].id, created.role.name)).verifier == there
    with refused(PreconditionError, "not stored"):
        await land.control.roles.reveal_password(CALLER, project_id, child.branch.id, created.role.name)
    reset = await land.control.roles.reset_password(CALLER, project_id, child.branch.id, created.role.name)
    await land.finish(reset.operations)


async def test_of_a_parent_that_was_restored_since_it_holds_what_that_is_now(land: Land) -> None:
    created = await land.project()
    land.clock.advance(timedelta(seconds=1))
    land.node.write(created.endpoint.id, "good")
    at = land.clock.now()
    land.clock.advance(timedelta(seconds=1))
    land.node.write(created.endpoint.id, "bad")
    child = await masked(land, created, starts=False)
    wish = Restore(source_id=created.branch.id, point=Point(at=at), preserve_under_name="before")
    done = await land.control.branches.restore(CALLER, created.project.id, created.branch.id, wish)
    await land.finish(done.operations)
    _, operations = await land.control.maskings.start(CALLER, created.project.id, child.branch.id)
    await land.finish(operations)
    assert holds(land, child) == ["***"]


async def test_a_masked_branch_gets_no_other_data_than_its_own(land: Land) -> None:
    created = await land.project()
    land.node.write(created.endpoint.id, "a secret")
    child = await masked(land, created)
    with refused(UnprocessableError, "cannot reset masked branch"):
        await land.control.branches.restore(
            CALLER, created.project.id, child.branch.id, Restore(source_id=created.branch.id)
        )
    restored = await land.control.branches.restore(
        CALLER, created.project.id, child.branch.id, Restore(source_id=child.branch.id, preserve_under_name="before")
    )
    await land.finish(restored.operations)
    assert await words(land, child.branch) == ["***"]


async def test_what_is_masked_stays_as_it_was(land: Land) -> None:
    created = await land.project()
    child = await masked(land, created)
    with refused(ConflictError, "anonymized already"):
        await land.control.maskings.change_rules(CALLER, created.project.id, child.branch.id, [NAME])
    with refused(ConflictError, "anonymized already"):
        await land.control.maskings.start(CALLER, created.project.id, child.branch.id)
    with refused(NotFoundError, "no anonymized branch"):
        await land.control.maskings.get(created.project.id, created.branch.id)


async def test_without_a_rule_nothing_is_copied(land: Land) -> None:
    created = await land.project()
    with refused(UnprocessableError, "at least one masking rule"):
        await land.control.branches.create(
            CALLER, created.project.id, NewBranch(masking=NewMasking(rules=[], starts=True))
        )
    with refused(UnprocessableError, "no rows to anonymize"):
        await masked(land, created, init_source=SCHEMA_ONLY)


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ([EMAIL, EMAIL], "two masking rules for neondb.public.people.email"),
        (
            [MaskingRule(database="d", schema="s", table="t", column="c")],
            "d.s.t.c: give masking_function or masking_value",
        ),
        (
            [MaskingRule(database="d", schema="s", table="t", column="c", function="anon.hash(c)", value="x")],
            "give masking_function or masking_value",
        ),
        (
            [MaskingRule(database="d", schema="s", table="t", column="c", function="pg_read_file('/etc/passwd')")],
            "d.s.t.c: ",
        ),
        (
            [
                MaskingRule(database="d", schema="s", table="t", column=str(n), value="x")
                for n in range(MASKING_RULES_MAX + 1)
            ],
            "at most",
        ),
    ],
)
def test_rules_that_cannot_be_are_refused_where_they_are_asked_for(rules: list[MaskingRule], said: str) -> None:
    with refused(UnprocessableError, said):
        checked(rules)


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("UPDATE masking SET state = 'error'", "a branch stays masked as it was"),
        ("UPDATE masking SET rules = '[]'", "a branch stays masked as it was"),
        (
            "UPDATE branch SET timeline_id = (SELECT timeline_id FROM branch WHERE is_default) WHERE NOT is_default",
            "cannot reset masked branch",
        ),
        ("DELETE FROM masking", "permission denied"),
    ],
)
async def test_no_statement_of_the_apis_process_does_it_either(land: Land, statement: str, words: str) -> None:
    await masked(land, await land.project())
    with pytest.raises(Exception, match=words):
        async with land.database.transaction() as tx:
            await tx.execute(statement)


async def test_no_statement_says_of_data_that_is_not_masked_that_it_is_there(land: Land) -> None:
    created = await land.project()
    draft = await masked(land, created, starts=False)
    for statement in (
        "UPDATE timeline SET state = 'ready' WHERE id = $1",
        "UPDATE masking SET state = 'anonymized' WHERE branch_id = $2",
    ):
        with pytest.raises(Exception, match="masked"):
            async with land.database.transaction() as tx:
                await tx.execute(
                    statement.replace("$2", "$1"),
                    BranchId(draft.branch.id) if "$2" in statement else draft.branch.timeline_id,
                )

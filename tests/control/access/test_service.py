"""Access from request to end, over a real control database, a fake node and a clock that is moved by hand."""

from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from cloister.base.directory import AppendRecording, BeginRecording, EndRecording, LookUp, Spoken
from cloister.base.errors import (
    BadRequestError,
    CloisterError,
    ConflictError,
    ForbiddenError,
    PreconditionError,
    UnprocessableError,
)
from cloister.base.ids import OrgId
from cloister.base.secret import new_api_key
from cloister.control.access.guard import LAST_WORDS, AccessGuard
from cloister.control.access.model import MACHINE, NewRequest, Request, State, Step
from cloister.control.calling import Caller
from cloister.control.people.model import NewGroup
from cloister.control.services import ProjectCreated
from cloister.trust.access.keys import NewKey, insert_key
from cloister.trust.access.permissions import Permission
from cloister.trust.access.principals import Principal
from tests.control.fake_node import FakeServer
from tests.control.land import CALLER, ORG, Land
from tests.fix_database import ControlDatabase

DEV, EVE = UUID(int=21), UUID(int=22)
ISSUER = UUID(int=31)
EDITOR = frozenset({Permission.ACCESS_REQUEST})
NEW = NewRequest(branch_id=None, reason="INC-7", duration=timedelta(minutes=30), may_write=False, is_break_glass=False)
ASKED = Spoken(number=1, kind="simple", text="SELECT 1", outcome="asked", began_ms=1, ended_ms=1)
DONE = Spoken(number=1, kind="simple", text="SELECT 1", outcome="done", began_ms=1, ended_ms=2)


def caller(account: UUID, grants: frozenset[Permission] = EDITOR, key: int = 5) -> Caller:
    name = "dev" if account == DEV else "eve"
    return Caller(Principal(account, key, f"{name}@example.org", name, {ORG: "editor"}), "r", "192.0.2.2", grants)


class Scene:
    """A project, and somebody who wants to see its data. `CALLER`, who owns it, is the manager."""

    def __init__(self, land: Land, created: ProjectCreated) -> None:
        self.land, self.created = land, created
        self.access: Any = land.control.access

    @property
    def project_id(self) -> Any:
        return self.created.project.id

    async def asked(self, new: NewRequest = NEW) -> Request:
        made: Request = await self.access.request(caller(DEV), self.created.project, new)
        return made

    async def approved(self, new: NewRequest = NEW) -> Request:
        agreed: Request = await self.access.approve(CALLER, self.project_id, (await self.asked(new)).id)
        return agreed

    async def state(self, request: Request) -> State:
        return State((await self.access.get(self.project_id, request.id)).state)

    async def begin(self, request: Request, **other: Any) -> str:
        words = {"endpoint_id": self.created.endpoint.id, "role": request.role, "session_id": "s", "address": "::1"}
        return await self.land.plane.directory._access.begin(BeginRecording(**words | other))

    async def append(self, recording: str, chunk: int, spoken: Spoken = ASKED) -> int:
        command = AppendRecording(recording_id=recording, chunk=chunk, statements=[spoken])
        return await self.land.plane.directory._access.append(command)

    async def end(self, recording: str) -> None:
        await self.land.plane.directory._access.end(EndRecording(recording_id=recording, reason="over"))

    async def roles(self) -> dict[str, bool]:
        image = self.land.node.images[self.project_id]
        return {
            name: writes for timeline in image.timelines.values() for name, writes in timeline.catalog.access.items()
        }


@pytest.fixture
async def scene(land: Land) -> Scene:
    async with land.database.transaction() as tx:
        for account, name in ((DEV, "dev"), (EVE, "eve")):
            await tx.execute(
                "INSERT INTO account (id, email, name) VALUES ($1, $2, $3)", account, f"{name}@example.org", name
            )
            await tx.execute(
                "INSERT INTO membership (org_id, account_id, role) VALUES ($1, $2, 'editor')", ORG, account
            )
    return Scene(land, await land.project())


def test_what_is_over_stays_over() -> None:
    assert {state for state, _ in MACHINE} == {State.PENDING, State.ACTIVE}
    assert {step for state, step in MACHINE if state is State.ACTIVE} == {Step.END, Step.REVOKE}


@pytest.mark.parametrize(
    "change", [{"reason": " "}, {"duration": timedelta(hours=9)}, {"duration": timedelta(seconds=1)}]
)
async def test_a_request_has_a_reason_and_a_length(scene: Scene, change: dict[str, Any]) -> None:
    with pytest.raises(BadRequestError):
        await scene.asked(replace(NEW, **change))


async def test_access_is_approved_used_recorded_and_over_on_time(scene: Scene) -> None:
    request = await scene.approved()
    assert request.ends_at == scene.land.clock.now() + NEW.duration
    await scene.access.credentials(caller(DEV), scene.project_id, request.id)
    endpoint_id = scene.created.endpoint.id
    assert not (await scene.land.look_up(endpoint_id, request.role)).is_doomed
    recording = await scene.begin(request)
    assert await scene.roles() == {request.role: False}
    assert await scene.append(recording, 0) == 1
    scene.land.clock.advance(NEW.duration)
    assert (await scene.land.look_up(endpoint_id, request.role)).is_doomed
    with pytest.raises(ForbiddenError):
        await scene.begin(request)
    await scene.land.plane.access_keeper.pass_once()
    assert await scene.state(request) is State.ENDED
    assert await scene.roles() == {}
    await scene.end(recording)
    with pytest.raises(ConflictError):
        await scene.append(recording, 1, DONE)
    replayed = await scene.access.replay(CALLER, scene.project_id, UUID(recording))
    assert (replayed.recording.reason, replayed.sealed_by is not None) == ("over", True)
    assert [(it.text, it.outcome) for it in replayed.statements] == [("SELECT 1", "unknown")]
    assert [it for it in await scene.land.actions() if it.startswith(("access.", "recording."))] == [
        "access.request", "access.approve", "access.credentials", "recording.start", "access.end", "recording.end",
        "recording.read",
    ]  # fmt: skip


async def test_a_keeper_that_died_leaves_its_work_to_the_next(scene: Scene) -> None:
    """The role was made, the process died; after its restart the access is over, and the role goes."""
    request = await scene.approved()
    await scene.begin(request)
    scene.land.clock.advance(NEW.duration)
    await scene.land.restart_api()
    await scene.land.plane.access_keeper.pass_once()
    assert await scene.roles() == {}
    scene.land.clock.advance(timedelta(minutes=1))
    await scene.land.plane.access_keeper.pass_once()
    (recording,) = await scene.land.control.access.recordings(scene.project_id, request.id)
    assert (recording.reason, recording.ended_at) == ("cut", scene.land.clock.now())


async def test_the_broker_gives_a_recordings_key_once_and_again_to_who_comes_after(scene: Scene) -> None:
    """It is kept while the recording goes on, and not a moment longer: neither after its end nor after a cut."""
    keys = scene.land.keys
    recording = await scene.begin(await scene.approved())
    await scene.append(recording, 0)
    recorded = (scene.project_id, f"user:{DEV}", "record")
    assert keys.recordings == [recorded]
    await scene.land.restart_api()
    scene.access = scene.land.control.access
    await scene.append(recording, 1, DONE)
    await scene.access.replay(CALLER, scene.project_id, UUID(recording))
    assert keys.recordings == [recorded, recorded, (scene.project_id, CALLER.principal.actor, "replay")]
    guard = scene.land.plane.directory._access
    assert isinstance(guard, AccessGuard)
    assert len(guard._open_keys) == 1
    await scene.end(recording)
    assert guard._open_keys == {}
    await scene.begin(await scene.approved())
    scene.land.clock.advance(NEW.duration)
    for _ in range(2):
        await scene.land.plane.access_keeper.pass_once()
        scene.land.clock.advance(timedelta(minutes=1))
    assert guard._open_keys == {}


async def test_a_recording_that_ends_while_the_broker_is_asked_leaves_no_key(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = await scene.begin(await scene.approved())
    await scene.land.restart_api()
    keys, guard = scene.land.keys, scene.land.plane.directory._access
    assert isinstance(guard, AccessGuard)
    give = keys.open_recording_key

    async def end_meanwhile(*arguments: Any) -> bytes:
        await scene.end(recording)
        return await give(*arguments)

    monkeypatch.setattr(keys, "open_recording_key", end_meanwhile)
    with pytest.raises(ConflictError):
        await scene.append(recording, 0)
    assert guard._open_keys == {}


async def test_where_the_projects_keys_are_destroyed_nobody_gets_in_and_nothing_is_replayed(scene: Scene) -> None:
    request = await scene.approved()
    recording = await scene.begin(request)
    await scene.end(recording)
    await scene.land.keys.destroy(scene.project_id)
    with pytest.raises(PreconditionError, match="destroyed"):
        await scene.begin(request)
    with pytest.raises(PreconditionError, match="destroyed"):
        await scene.access.replay(CALLER, scene.project_id, UUID(recording))


async def test_a_role_that_cannot_be_dropped_yet_is_tried_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    request = await scene.approved()
    await scene.begin(request)
    scene.land.node.deaf.add(scene.created.endpoint.id)
    await scene.access.terminate(CALLER, scene.project_id, request.id)
    await scene.land.plane.access_keeper.pass_once()
    scene.land.node.deaf.clear()
    assert await scene.roles() == {request.role: False}
    await scene.land.plane.access_keeper.pass_once()
    assert await scene.roles() == {}
    dropped: list[str] = []
    monkeypatch.setattr(FakeServer, "close_access", lambda _, name: dropped.append(name))
    await scene.land.plane.access_keeper.pass_once()
    assert dropped == []


async def test_who_is_deactivated_by_their_directory_has_no_access_any_more(scene: Scene) -> None:
    """They are of the organization still, and nothing of that holds (control/scim)."""
    active, waiting = await scene.approved(), await scene.asked()
    await scene.begin(active)
    async with scene.land.database.transaction() as tx:
        await tx.execute("UPDATE membership SET suspended_at = now() WHERE account_id = $1", DEV)
    await scene.land.plane.access_keeper.pass_once()
    assert (await scene.state(active), await scene.state(waiting)) == (State.REVOKED, State.EXPIRED)
    assert await scene.roles() == {}
    with pytest.raises(ForbiddenError):
        await scene.begin(active)


async def test_nobody_answers_and_it_expires(scene: Scene) -> None:
    request = await scene.asked()
    scene.land.clock.advance(timedelta(hours=1))
    with pytest.raises(ConflictError):
        await scene.access.approve(CALLER, scene.project_id, request.id)
    await scene.land.plane.access_keeper.pass_once()
    assert await scene.state(request) is State.EXPIRED
    assert await scene.land.details_of("access.expire") == [{"email": "dev@example.org"}]


async def test_who_leaves_the_organization_takes_no_access_along(scene: Scene) -> None:
    active, waiting = await scene.approved(), await scene.asked()
    await scene.begin(active)
    await scene.land.plane.access_keeper.pass_once()
    assert await scene.state(active) is State.ACTIVE
    await scene.land.control.organizations.remove(CALLER, OrgId(ORG), DEV)
    await scene.land.plane.access_keeper.pass_once()
    assert await scene.state(active) is State.REVOKED
    assert await scene.state(waiting) is State.EXPIRED
    assert await scene.roles() == {}
    with pytest.raises(ForbiddenError):
        await scene.begin(active)


async def in_a_session(scene: Scene, lasts: timedelta) -> None:
    """Dev is of the organization by an issuer's groups, and has logged in there."""
    now = scene.land.clock.now()
    async with scene.land.database.transaction() as tx:
        await tx.execute(
            """INSERT INTO issuer (id, name, url, client_id, domains, groups_claim, session_s, created_at)
               VALUES ($1, 'company', 'https://login.example.com', 'cloister', '{}', 'groups', 28800, $2)""",
            ISSUER,
            now,
        )
        await tx.execute("UPDATE membership SET issuer_id = $1 WHERE account_id = $2", ISSUER, DEV)
        key = NewKey(name="login at company", expires_at=now + lasts)
        await insert_key(tx, DEV, key, new_api_key(), now, issuer_id=ISSUER)


async def test_access_by_groups_ends_with_the_session(scene: Scene) -> None:
    """Unmapping a group ends the sessions that lived of it, and a group that is taken away at the issuer takes none with it:
    either way nobody keeps what groups let them ask for longer than what groups gave."""
    await in_a_session(scene, lasts=timedelta(minutes=5))
    active, waiting = await scene.approved(), await scene.asked()
    await scene.begin(active)
    await scene.land.plane.access_keeper.pass_once()
    assert (await scene.state(active), await scene.state(waiting)) == (State.ACTIVE, State.PENDING)
    scene.land.clock.advance(timedelta(minutes=5))
    await scene.land.plane.access_keeper.pass_once()
    assert (await scene.state(active), await scene.state(waiting)) == (State.REVOKED, State.EXPIRED)
    assert await scene.roles() == {}
    with pytest.raises(ForbiddenError):
        await scene.begin(active)


async def test_a_group_that_is_unmapped_takes_access_along(scene: Scene) -> None:
    await in_a_session(scene, lasts=timedelta(hours=8))
    by_group = NewGroup(issuer="company", name="dba", role="editor")
    group = await scene.land.control.issuers.map_group(CALLER, OrgId(ORG), by_group)
    active = await scene.approved()
    await scene.land.plane.access_keeper.pass_once()
    assert await scene.state(active) is State.ACTIVE
    await scene.land.control.issuers.unmap_group(CALLER, OrgId(ORG), group.id)
    await scene.land.plane.access_keeper.pass_once()
    assert await scene.state(active) is State.REVOKED


async def test_denied_is_not_approved_any_more(scene: Scene) -> None:
    request = await scene.asked()
    await scene.access.deny(CALLER, scene.project_id, request.id, "no")
    with pytest.raises(ConflictError):
        await scene.access.approve(CALLER, scene.project_id, request.id)


async def test_breaking_the_glass_takes_two_and_is_critical(scene: Scene) -> None:
    request = await scene.asked(replace(NEW, is_break_glass=True))
    for _ in range(2):  # one person twice is one person
        again = await scene.access.approve(caller(EVE), scene.project_id, request.id)
        assert again.state is State.PENDING
    agreed = await scene.access.approve(CALLER, scene.project_id, request.id)
    assert (agreed.state, len(agreed.approved_by)) == (State.ACTIVE, 2)
    async with scene.land.database.reading() as tx:
        text = await tx.fetch_value("SELECT body FROM audit_event WHERE action = 'access.break_glass'")
    assert '"severity":"critical"' in text.replace(" ", "")


async def test_writing_is_granted_only_where_it_was_agreed_to(scene: Scene) -> None:
    request = await scene.approved(replace(NEW, may_write=True))
    await scene.begin(request)
    assert await scene.roles() == {request.role: True}


async def test_a_chunk_out_of_turn_is_refused(scene: Scene) -> None:
    recording = await scene.begin(await scene.approved())
    for chunk in (1, -1):
        with pytest.raises(CloisterError):
            await scene.append(recording, chunk)


REFUSED_BY_THE_DATABASE = {
    "approved without an approval": "UPDATE access_request SET state = 'active', ends_at = answer_by WHERE state = 'pending'",
    "approved by oneself": """INSERT INTO access_approval SELECT id, account_id, account_id, now() FROM access_request
                               WHERE state = 'pending'""",
    "approved as if it were another's": """INSERT INTO access_approval
        SELECT r.id, a.id, r.account_id, now() FROM access_request r, account a WHERE r.account_id <> a.id AND r.state = 'pending' LIMIT 1""",
    "extended": "UPDATE access_request SET ends_at = ends_at + interval '1 s' WHERE state = 'active'",
    "another reason": "UPDATE access_request SET reason = 'other'",
    "writing after all": "UPDATE access_request SET may_write = true",
    "back from the end": "UPDATE access_request SET state = 'pending', closed_at = NULL WHERE state = 'denied'",
    "made as active": """INSERT INTO access_request (id, org_id, project_id, branch_id, account_id, reason, duration_s, may_write,
        is_break_glass, state, requested_at, answer_by, ends_at, role)
        SELECT gen_random_uuid(), org_id, project_id, branch_id, account_id, reason, duration_s, may_write, is_break_glass,
               'active', requested_at, answer_by, answer_by, 'cloister_access_' || repeat('0', 32) FROM access_request LIMIT 1""",
    "an approval taken back": "DELETE FROM access_approval",
    "a recording rewritten": "UPDATE recording_chunk SET sealed = ''",
    "a recording deleted": "DELETE FROM recording_chunk",
}


@pytest.mark.parametrize("statement", REFUSED_BY_THE_DATABASE.values(), ids=REFUSED_BY_THE_DATABASE.keys())
async def test_the_database_refuses_the_api_itself(
    scene: Scene, control_database: ControlDatabase, statement: str
) -> None:
    """Threat: the API's process does, by a fault or by force, what the service would not."""
    await scene.approved()
    denied = await scene.asked()
    await scene.access.deny(CALLER, scene.project_id, denied.id, "")
    await scene.asked()
    connection = await asyncpg.connect(control_database.url("cloister_api"))
    try:
        await connection.execute("SET search_path = cloister")
        with pytest.raises(asyncpg.PostgresError) as refused:
            await connection.execute(statement)
    finally:
        await connection.close()
    assert refused.value.sqlstate in ("PR422", "23514", "23503", "42501")


@pytest.mark.parametrize("is_terminated", [False, True])
async def test_a_gateway_that_missed_the_end_cannot_go_on(scene: Scene, is_terminated: bool) -> None:
    """What is asked is refused at once; what came of it may be told for a moment."""
    request = await scene.approved()
    recording = await scene.begin(request)
    await scene.append(recording, 0)
    if is_terminated:
        await scene.access.terminate(CALLER, scene.project_id, request.id)
    else:
        scene.land.clock.advance(NEW.duration)
    with pytest.raises(ForbiddenError):
        await scene.append(recording, 1, ASKED)
    assert await scene.append(recording, 1, DONE) == 2
    scene.land.clock.advance(LAST_WORDS)
    with pytest.raises(ForbiddenError):
        await scene.append(recording, 2, DONE)
    await scene.end(recording)


FORGERIES = {
    "cut at the end": """DELETE FROM recording_chunk WHERE index = 1;
        UPDATE recording SET chunks = 1, head = sha256(sha256(uuid_send(id)) || int8send(0) ||
            (SELECT sealed FROM recording_chunk WHERE index = 0))""",
    "and made to look as if it went on": """DELETE FROM recording_chunk WHERE index = 1;
        UPDATE recording SET chunks = 1, ended_at = NULL, head = sha256(sha256(uuid_send(id)) || int8send(0) ||
            (SELECT sealed FROM recording_chunk WHERE index = 0))""",
    "another number of statements": "UPDATE recording SET statements = 0",
}


@pytest.mark.parametrize("forgery", FORGERIES.values(), ids=FORGERIES.keys())
async def test_a_recording_that_does_not_end_as_the_audit_log_says_is_refused(
    scene: Scene, control_database: ControlDatabase, forgery: str
) -> None:
    """Threat: whoever owns the control database, without the audit log's hold on it outside, makes the chain fit."""
    recording = await scene.begin(await scene.approved())
    await scene.append(recording, 0)
    await scene.append(recording, 1, DONE)
    await scene.end(recording)
    assert (await scene.access.replay(CALLER, scene.project_id, UUID(recording))).sealed_by
    connection = await asyncpg.connect(control_database.url("postgres"))
    try:
        await connection.execute(
            f"SET search_path = cloister; ALTER TABLE recording DISABLE TRIGGER recording_grows; {forgery}"
        )
    finally:
        await connection.close()
    with pytest.raises(UnprocessableError) as refused:
        await scene.access.replay(CALLER, scene.project_id, UUID(recording))
    assert "audit log" in refused.value.public


GROWN_OTHERWISE = {
    "fewer chunks": "UPDATE recording SET chunks = 0, head = sha256(uuid_send(id))",
    "another head": "UPDATE recording SET head = sha256(head)",
    "another head and number": "UPDATE recording SET chunks = chunks + 1, head = sha256(head)",
    "fewer statements": "UPDATE recording SET statements = 0",
    "another's": "UPDATE recording SET account_id = gen_random_uuid()",
    "a chunk out of turn": "INSERT INTO recording_chunk SELECT id, chunks + 1, '' FROM recording",
}
AFTER_ITS_END = {
    "open again": "UPDATE recording SET ended_at = NULL",
    "another reason": "UPDATE recording SET reason = 'other'",
    "a chunk more": "INSERT INTO recording_chunk SELECT id, chunks, '' FROM recording",
}


@pytest.mark.parametrize("statement", [*GROWN_OTHERWISE.values(), *AFTER_ITS_END.values()])
async def test_the_database_lets_a_recording_grow_and_nothing_else(
    scene: Scene, control_database: ControlDatabase, statement: str
) -> None:
    recording = await scene.begin(await scene.approved())
    await scene.append(recording, 0)
    if statement in AFTER_ITS_END.values():
        await scene.end(recording)
    connection = await asyncpg.connect(control_database.url("cloister_api"))
    try:
        await connection.execute("SET search_path = cloister")
        with pytest.raises(asyncpg.PostgresError) as refused:
            await connection.execute(statement)
    finally:
        await connection.close()
    assert refused.value.sqlstate == "PR422"


@pytest.mark.parametrize("is_of_the_endpoint", [True, False])
async def test_what_the_operator_holds_lets_in_nobody_whose_access_was_approved_either(
    scene: Scene, control_database: ControlDatabase, is_of_the_endpoint: bool
) -> None:
    request, endpoint_id = await scene.approved(), scene.created.endpoint.id
    question = LookUp(endpoint=endpoint_id, role=request.role)
    assert not (await scene.land.plane.directory.look_up(question)).is_held
    connection = await asyncpg.connect(control_database.url())
    try:
        await connection.execute(
            "INSERT INTO cloister.hold (project_id, endpoint_id, held_by) VALUES ($1, $2, 'operator')",
            scene.project_id,
            endpoint_id if is_of_the_endpoint else "",
        )
    finally:
        await connection.close()
    assert (await scene.land.plane.directory.look_up(question)).is_held


async def test_nobody_reads_the_recording_of_themselves(scene: Scene) -> None:
    recording = await scene.begin(await scene.approved())
    with pytest.raises(ForbiddenError):
        await scene.access.replay(caller(DEV, frozenset(Permission)), scene.project_id, UUID(recording))


async def test_nobody_decides_about_their_own_through_another_key_either(scene: Scene) -> None:
    request = await scene.asked()
    for verb in (scene.access.approve, lambda *words: scene.access.deny(*words, "")):
        with pytest.raises(ForbiddenError):
            await verb(caller(DEV, frozenset(Permission), key=99), scene.project_id, request.id)
    assert await scene.state(request) is State.PENDING


async def test_who_is_no_manager_and_not_on_call_decides_nothing(scene: Scene) -> None:
    request = await scene.asked()
    with pytest.raises(ForbiddenError):
        await scene.access.approve(caller(EVE), scene.project_id, request.id)
    await scene.access.approve(CALLER, scene.project_id, request.id)
    with pytest.raises(ForbiddenError):
        await scene.access.terminate(caller(EVE), scene.project_id, request.id)


async def test_anothers_access_opens_nothing(scene: Scene) -> None:
    request = await scene.approved()
    with pytest.raises(ForbiddenError):
        await scene.access.credentials(caller(EVE), scene.project_id, request.id)


async def test_a_role_opens_its_own_branchs_endpoint_only(scene: Scene) -> None:
    request = await scene.approved()
    await scene.access.credentials(caller(DEV), scene.project_id, request.id)
    other = await scene.land.project()
    assert (await scene.land.look_up(other.endpoint.id, request.role)).is_doomed
    assert (await scene.land.look_up(scene.created.branch.id, request.role)).is_doomed
    with pytest.raises(ForbiddenError):
        await scene.begin(request, endpoint_id=other.endpoint.id)


async def test_on_call_is_for_people_of_the_organization_and_for_a_while(scene: Scene) -> None:
    now = scene.land.clock.now()
    shift = await scene.access.add_shift(CALLER, ORG, "dev@example.org", now, now + timedelta(hours=8))
    assert await scene.access.shifts(ORG) == [shift]
    for email, hours in (("nobody@example.org", 1), ("dev@example.org", 0), ("dev@example.org", 32 * 24)):
        with pytest.raises((UnprocessableError, BadRequestError)):
            await scene.access.add_shift(CALLER, ORG, email, now, now + timedelta(hours=hours))
    scene.land.clock.advance(timedelta(hours=8))
    assert await scene.access.shifts(ORG) == []

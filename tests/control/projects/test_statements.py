"""A project's level and its statement log, on a real control database."""

import dataclasses
import threading
from typing import Any

import asyncpg
import msgspec
import pytest

from cloister.base.audit_levels import AuditLevel
from cloister.base.directory import AnyCommand, RecordStatements, StatementRecord
from cloister.base.errors import BadRequestError, ConflictError, ForbiddenError, UnavailableError
from cloister.base.ids import ProjectId
from cloister.control.computes.directory import EVENTS_MAX
from cloister.trust.access.permissions import Permission
from cloister.trust.audit import segments as segments_
from cloister.trust.audit import statements as log
from cloister.trust.audit.statements import Segment
from tests.control.land import CALLER, Land
from tests.fix_database import ControlDatabase


def statement(project: str, text: str = "SELECT 1") -> StatementRecord:
    return StatementRecord(
        at="2026-01-01T00:00:00.000000Z", session_id="s", project_id=project, branch_id="b", endpoint_id="e", role="ada",
        database="app", address="192.0.2.1", kind="simple", outcome="done", text=text,
    )  # fmt: skip


async def tell(land: Land, *statements: StatementRecord, lost: dict[str, int] | None = None) -> None:
    command: AnyCommand = RecordStatements(statements=list(statements), lost=lost or {})
    answer = await land.plane.directory._answer(None, command)  # type: ignore[arg-type]
    assert answer == len(statements)


async def segments(land: Land, project: ProjectId, before: int | None = None) -> list[Segment]:
    found: list[Segment] = await land.control.statements.segments(CALLER, project, before=before, limit=10)
    return found


async def events(land: Land, action: str) -> list[asyncpg.Record]:
    async with land.database.reading() as tx:
        return list(
            await tx.fetch(
                "SELECT seq, body || coalesce(personal, '') AS body FROM audit_event WHERE action = $1 ORDER BY seq",
                action,
            )
        )


async def test_the_level_is_in_the_route_and_in_the_log(land: Land) -> None:
    created = await land.project()
    project, endpoint = created.project.id, created.endpoint.id
    assert await land.control.statements.level(project) is AuditLevel.OFF
    await land.control.statements.set_level(CALLER, project, AuditLevel.EXTENDED)
    assert (await land.look_up(endpoint, "neondb_owner")).audit_level is AuditLevel.EXTENDED
    (event,) = await events(land, "audit.level_set")
    assert '"level":"extended","before":"off","is_lowered":false' in event["body"]


async def test_lowering_takes_more_than_raising(land: Land) -> None:
    project = (await land.project()).project.id
    editor = dataclasses.replace(CALLER, grants=frozenset(Permission) - {Permission.AUDIT_LEVEL_LOWER})
    await land.control.statements.set_level(editor, project, AuditLevel.FULL)
    for lower in (AuditLevel.EXTENDED, AuditLevel.BASE, AuditLevel.OFF):
        with pytest.raises(ForbiddenError):
            await land.control.statements.set_level(editor, project, lower)
    assert await land.control.statements.level(project) is AuditLevel.FULL
    await land.control.statements.set_level(CALLER, project, AuditLevel.OFF)
    assert '"is_lowered":true' in (await events(land, "audit.level_set"))[-1]["body"]


async def test_what_was_told_comes_back_by_project_newest_first(land: Land) -> None:
    one, other = (await land.project()).project.id, (await land.project()).project.id
    await tell(
        land,
        statement(one, "first"),
        statement(other, "theirs"),
        statement(one, "second"),
        statement("no-such-project-1"),
    )
    await tell(land, statement(one, "third"))
    told = [[each.text for each in segment.statements] for segment in await segments(land, one)]
    assert told == [["third"], ["first", "second"]]
    newest, oldest = await segments(land, one)
    assert await segments(land, one, before=newest.id) == [oldest]
    assert [each.text for segment in await segments(land, other) for each in segment.statements] == ["theirs"]


async def test_what_is_read_at_once_is_bounded_and_opened_beside_the_loop(
    land: Land, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Page by page all of it is there; and what costs time costs nobody else theirs."""
    project = (await land.project()).project.id
    for n in range(5):
        await tell(land, statement(project, f"{n}"))
    size = len(msgspec.json.encode(statement(project, "0")))
    monkeypatch.setattr(log, "PAGE_BYTES_MAX", size + 1)
    threads: set[int] = set()
    opening = segments_.open_sized

    def open_sized(*given: Any) -> Any:
        threads.add(threading.get_ident())
        return opening(*given)

    monkeypatch.setattr(segments_, "open_sized", open_sized)
    pages, before = [], None
    while page := await segments(land, project, before=before):
        pages.append([each.text for segment in page for each in segment.statements])
        before = page[-1].id
    assert pages == [["4", "3"], ["2", "1"], ["0"]]
    assert threading.get_ident() not in threads


async def test_what_was_lost_is_an_event(land: Land) -> None:
    project = (await land.project()).project.id
    await tell(land, lost={project: 17, "no-such-project-1": 3})
    (event,) = await events(land, "statements.gap")
    assert '"statements":17' in event["body"]


async def test_a_gateway_cannot_send_more_than_there_is_room_for(land: Land) -> None:
    with pytest.raises(BadRequestError):
        await tell(land, *[statement("p")] * (EVENTS_MAX + 1))


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE statement_segment SET body = set_byte(body, 20, get_byte(body, 20) # 1)",
        "UPDATE statement_segment s SET body = (SELECT body FROM statement_segment o WHERE o.id <> s.id)",
        "DELETE FROM statement_segment WHERE id = (SELECT max(id) FROM statement_segment)",
        "INSERT INTO statement_segment (project_id, statements, body) SELECT project_id, 1, body FROM statement_segment",
    ],
)
async def test_a_segment_that_was_changed_is_found(land: Land, control_database: ControlDatabase, change: str) -> None:
    """By whoever may change the table, which the API's role may not."""
    project = (await land.project()).project.id
    await tell(land, statement(project, "first"))
    await tell(land, statement(project, "second"))
    assert len(await segments(land, project)) == 2
    await as_owner(control_database, change)
    with pytest.raises(ConflictError):
        await segments(land, project)


@pytest.mark.parametrize("change", ["UPDATE statement_segment SET statements = 7", "DELETE FROM statement_segment"])
async def test_the_api_may_not_change_what_was_sealed(land: Land, change: str) -> None:
    project = (await land.project()).project.id
    await tell(land, statement(project))
    with pytest.raises(Exception, match="permission denied"):
        async with land.database.transaction() as tx:
            await tx.execute(change)


async def test_the_key_broker_is_asked_for_a_key_once_and_for_each_reading(land: Land) -> None:
    one, other = (await land.project()).project.id, (await land.project()).project.id
    for text in ("first", "second"):
        await tell(land, statement(one, text), statement(other, text))
    async with land.database.reading() as tx:
        keys = await tx.fetch("SELECT project_id, generation FROM statement_key ORDER BY project_id")
    assert [tuple(key) for key in keys] == sorted([(one, 1), (other, 1)])
    await segments(land, one)
    assert land.keys.readings == [(one, CALLER.principal.actor, 2)], "and not for the other's"


async def test_a_new_month_has_a_new_key_and_the_last_one_is_read_beside_it(
    land: Land, control_database: ControlDatabase
) -> None:
    project = (await land.project()).project.id
    await tell(land, statement(project, "old"))
    await as_owner(control_database, A_MONTH_AGO)
    await tell(land, statement(project, "new"))
    told = [[each.text for each in segment.statements] for segment in await segments(land, project)]
    assert told == [["new"], ["old"]]
    assert [count for _, _, count in land.keys.readings] == [1, 1], "each month's key opens its own"


async def test_while_keys_are_disabled_the_last_months_goes_on_and_without_one_the_log_says_so(
    land: Land, control_database: ControlDatabase
) -> None:
    """What runs is recorded; what cannot be sealed is never written in clear, and counted; others do not suffer."""
    known, new, other = [(await land.project()).project.id for _ in range(3)]
    await tell(land, statement(known, "before"))
    await as_owner(control_database, A_MONTH_AGO)
    land.keys.disabled = {known, new}
    await tell(land, statement(known, "goes on"), statement(new, "lost"), statement(other, "theirs"))
    land.keys.disabled = set()
    for project, expected in ((known, [["goes on"], ["before"]]), (new, []), (other, [["theirs"]])):
        assert [[each.text for each in it.statements] for it in await segments(land, project)] == expected
    (event,) = await events(land, "statements.gap")
    assert all(part in event["body"] for part in (new, '"reason":"no_key"', '"statements":1'))


async def test_while_the_key_broker_is_away_nothing_is_kept_and_the_gateway_has_it_still(
    land: Land, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = (await land.project()).project.id

    async def away(project_id: str, generation: int) -> tuple[bytes, bytes]:
        raise UnavailableError("the broker is away")

    with monkeypatch.context() as patched:
        patched.setattr(land.keys, "make_statement_key", away)
        with pytest.raises(UnavailableError):
            await tell(land, statement(project, "waits"))
    assert await events(land, "statements.gap") == []
    await tell(land, statement(project, "waits"))
    assert len(await segments(land, project)) == 1


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE statement_key SET wrapped = '\\x00'",
        "DELETE FROM statement_key",
        """INSERT INTO statement_key (project_id, generation, public, wrapped, began_at)
           SELECT project_id, 7, public, wrapped, now() + interval '9 years' FROM statement_key""",
    ],
)
async def test_the_api_makes_keys_rows_and_changes_none(land: Land, change: str) -> None:
    await tell(land, statement((await land.project()).project.id))
    with pytest.raises(Exception, match=r"permission denied|does not change"):
        async with land.database.transaction() as tx:
            await tx.execute(change)


A_MONTH_AGO = """ALTER TABLE statement_key DISABLE TRIGGER USER;
    UPDATE statement_key SET began_at = began_at - interval '31 days';
    ALTER TABLE statement_key ENABLE ALWAYS TRIGGER statement_key_ends;
    UPDATE statement_segment SET sealed_at = sealed_at - interval '31 days'"""


async def as_owner(control_database: ControlDatabase, change: str) -> None:
    connection = await asyncpg.connect(control_database.url())
    try:
        await connection.execute("SET search_path = cloister")
        await connection.execute(change)
    finally:
        await connection.close()

"""Kept answers in a real table: one effect for one key, sealed bodies, a day's life."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from cloister.base.database import Database
from cloister.base.errors import ConflictError, InternalError, UnprocessableError
from cloister.base.secret import Secret
from cloister.edge.api.idempotency import KEPT_FOR, Answer, Answers, Slot
from tests.edge.api.world import ADA, World
from tests.fix_database import DatabaseAs

NOW = datetime(2026, 3, 4, tzinfo=UTC)
KEY = Secret(b"k" * 32)
BODY = b'{"password": "npg_shown-once"}'


@pytest.fixture
async def database(database_as: DatabaseAs) -> Database:
    superuser = await database_as("postgres")
    async with superuser.transaction() as tx:
        await tx.execute("INSERT INTO account (id, email, name) VALUES ($1, $2, $3)", ADA.account_id, ADA.email, "Ada")
    return await database_as("cloister_api")


def slot(key: str = "k", body: bytes = b"{}") -> Slot:
    return Slot.of(ADA, key, method="POST", target=b"/api/v2/projects?", body=body)


async def test_the_same_request_gets_the_same_answer(database: Database) -> None:
    answers = Answers(database, KEY)
    assert await answers.begin(slot(), NOW) is None
    await answers.finish(slot(), Answer(201, BODY))
    assert await answers.begin(slot(), NOW + timedelta(hours=23)) == Answer(201, BODY)


async def test_another_request_under_the_same_key_is_refused(database: Database) -> None:
    answers = Answers(database, KEY)
    await answers.begin(slot(), NOW)
    with pytest.raises(UnprocessableError):
        await answers.begin(slot(body=b"{ }"), NOW)
    await answers.finish(slot(), Answer(201, BODY))
    with pytest.raises(UnprocessableError):
        await answers.begin(slot(body=b"{ }"), NOW)


async def test_one_of_many_at_once_does_the_work(database: Database) -> None:
    answers = Answers(database, KEY)
    outcomes = await asyncio.gather(*(answers.begin(slot(), NOW) for _ in range(8)), return_exceptions=True)
    assert outcomes.count(None) == 1
    assert sum(isinstance(it, ConflictError) for it in outcomes) == 7


async def test_a_request_that_died_is_not_done_a_second_time(database: Database) -> None:
    answers = Answers(database, KEY)
    await answers.begin(slot(), NOW)
    with pytest.raises(ConflictError, match="look at what exists"):
        await answers.begin(slot(), NOW + timedelta(hours=5))


async def test_an_abandoned_key_is_free(database: Database) -> None:
    answers = Answers(database, KEY)
    await answers.begin(slot(), NOW)
    await answers.abandon(slot())
    assert await answers.begin(slot(body=b"other"), NOW) is None


async def test_a_finished_answer_is_not_abandoned(database: Database) -> None:
    answers = Answers(database, KEY)
    await answers.begin(slot(), NOW)
    await answers.finish(slot(), Answer(201, BODY))
    await answers.abandon(slot())
    assert await answers.begin(slot(), NOW) == Answer(201, BODY)


async def test_after_a_day_a_key_is_new(database: Database) -> None:
    answers = Answers(database, KEY)
    await answers.begin(slot("swept"), NOW)
    await answers.begin(slot("asked"), NOW)
    await answers.finish(slot("asked"), Answer(201, BODY))
    assert await answers.begin(slot("asked", b"another"), NOW + KEPT_FOR) is None
    assert await answers.sweep(NOW + KEPT_FOR - timedelta(seconds=1)) == 0
    assert await answers.sweep(NOW + KEPT_FOR) == 1


async def test_an_answer_is_noise_without_its_key_and_in_another_row(database: Database) -> None:
    answers = Answers(database, KEY)
    for key in ("a", "b"):
        await answers.begin(slot(key), NOW)
        await answers.finish(slot(key), Answer(201, key.encode() + BODY))
    async with database.transaction() as tx:
        stored = await tx.fetch_value("SELECT string_agg(body, '') FROM idempotent_answer")
        assert b"npg_" not in stored
        await tx.execute(
            "UPDATE idempotent_answer SET body = (SELECT body FROM idempotent_answer WHERE key = 'b') WHERE key = 'a'"
        )
    with pytest.raises(InternalError):
        await answers.begin(slot("a"), NOW)
    assert await answers.begin(slot("b"), NOW) == Answer(201, b"b" + BODY)
    with pytest.raises(InternalError):
        await Answers(database, Secret(b"x" * 32)).begin(slot("b"), NOW)


def test_parts_of_a_request_cannot_be_moved_between_each_other() -> None:
    def digest(target: bytes, body: bytes) -> bytes:
        return Slot.of(ADA, "k", method="POST", target=target, body=body).digest

    assert digest(b"/a", b"bc") != digest(b"/ab", b"c")


async def test_twenty_creations_at_once_with_one_key_create_one_project(database: Database) -> None:
    world = World(answers=Answers(database, KEY))
    async with world.client() as client:
        answers = await asyncio.gather(
            *(client.post("/projects", json={"project": {}}, headers={"Idempotency-Key": "once"}) for _ in range(20))
        )
        last = await client.post("/projects", json={"project": {}}, headers={"Idempotency-Key": "once"})
    assert len(world.projects.created) == 1
    assert {it.status_code for it in answers} <= {201, 409}
    assert last.status_code == 201
    assert last.headers["idempotent-replayed"] == "true"

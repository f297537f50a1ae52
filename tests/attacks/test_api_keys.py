"""Somebody without a key, or with a revoked one, tries what could pass for one."""

from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloister.base.database import Database
from cloister.base.errors import UnauthenticatedError
from cloister.base.secret import new_api_key
from cloister.trust.access import keys as keys_module
from cloister.trust.access.bootstrap import bootstrap
from cloister.trust.access.keys import ApiKeys, NewKey, insert_key
from cloister.trust.access.principals import Principal
from tests.fix_database import ControlDatabase, DatabaseAs


@pytest.fixture
async def database(database_as: DatabaseAs) -> Database:
    return await database_as("cloister_api")


@pytest.fixture
async def key(database: Database) -> str:
    return (await bootstrap(database, None)).reveal()


async def refusal(keys: ApiKeys, bearer: str) -> tuple[type[Exception], str, str]:
    with pytest.raises(UnauthenticatedError) as refused:
        await keys.authenticate(bearer, "192.0.2.66")
    return type(refused.value), str(refused.value), refused.value.public


async def test_near_misses_are_refused_in_the_same_words(database: Database, key: str) -> None:
    keys = ApiKeys(database)
    assert isinstance(await keys.authenticate(key, "::1"), Principal)
    near = [
        "",
        key[:-1],
        key + "x",
        key.swapcase(),
        key.lower(),
        f" {key}",
        f"{key}\n",
        f"{key}\0",
        key.removeprefix("napi_"),
    ]
    near += [new_api_key().reveal(), "x" * 1_000_000, "' OR '1'='1", "%", "\ud800", "\udcff", "napi_%"]
    assert len({await refusal(keys, text) for text in near}) == 1


async def test_a_revoked_key_is_refused_in_the_words_for_an_unknown_one(database: Database, key: str) -> None:
    keys = ApiKeys(database)
    principal = await keys.authenticate(key, "::1")
    async with database.transaction() as tx:
        await tx.execute("UPDATE api_key SET revoked_at = now() WHERE id = $1", principal.key_id)
    assert await refusal(keys, key) == await refusal(keys, new_api_key().reveal())


async def test_the_same_work_is_done_for_no_key_an_unknown_one_and_a_revoked_one(
    database: Database, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = ApiKeys(database)
    principal = await keys.authenticate(key, "::1")
    async with database.transaction() as tx:
        await tx.execute("UPDATE api_key SET revoked_at = now() WHERE id = $1", principal.key_id)
    from cloister.base.database import Transaction

    work: list[str] = []
    look, hash_ = Transaction.fetch_row, keys_module.digest_of

    async def observed(self: Transaction, query: str, *args: object) -> object:
        work.append("query")
        return await look(self, query, *args)

    def hashed(text: str) -> bytes:
        work.append("hash")
        return hash_(text)

    monkeypatch.setattr(Transaction, "fetch_row", observed)
    monkeypatch.setattr(keys_module, "digest_of", hashed)
    for text in ("", "x" * 10_000, new_api_key().reveal(), key):
        work.clear()
        await refusal(keys, text)
        assert work == ["hash", "query"]


async def test_a_stolen_database_holds_no_key(database: Database, control_database: ControlDatabase, key: str) -> None:
    async with database.reading() as tx:
        rows = await tx.fetch("SELECT api_key::text AS row FROM api_key")
        log = await tx.fetch("SELECT body || coalesce(personal, '') AS body FROM audit_event")
    for text in [row["row"] for row in rows] + [row["body"] for row in log]:
        assert key not in text
        assert key.removeprefix("napi_") not in text


@given(text=st.text(max_size=100))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_no_guess_is_a_key(text: str, key: str, database: Database) -> None:
    await refusal(ApiKeys(database), text)


async def test_a_key_of_one_account_never_speaks_for_another(database: Database, key: str) -> None:
    other, account_id = new_api_key(), UUID(int=7)
    async with database.transaction() as tx:
        await tx.execute("INSERT INTO account VALUES ($1, 'eve@example.com', 'Eve')", account_id)
        await insert_key(tx, account_id, NewKey(name="hers"), other, (await tx.fetch_value("SELECT now()")))
    principal = await ApiKeys(database).authenticate(other.reveal(), "::1")
    assert principal.account_id == account_id
    assert principal.memberships == {}

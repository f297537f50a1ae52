"""Issuers are registered, groups are given a meaning, people are disabled; and each of it is taken back."""

import asyncio
import dataclasses
from datetime import timedelta
from typing import Any

import pytest

from cloister.base.database import Transaction
from cloister.base.errors import BadRequestError, ConflictError, NotFoundError, UnauthenticatedError, UnprocessableError
from cloister.control.people import logins
from cloister.control.people.issuers import GROUPS_MAX
from cloister.control.people.model import NewGroup
from cloister.trust.access.keys import insert_key
from tests.control.people.company import ADA, CALLER, COMPANY, HERE, THERE, Company
from tests.waiting import until_it_waits


async def test_a_client_secret_is_kept_sealed_and_not_told(company: Company) -> None:
    (issuer,) = await company.issuers.find()
    assert issuer.client_secret is not None
    assert b"shared with" not in issuer.client_secret
    (event,) = await company.events("issuer.add")
    assert "shared with" not in str(event)


async def test_an_issuer_that_cannot_be_relied_on_is_not_registered(company: Company) -> None:
    await company.issuers.remove(CALLER, company.registered.id)
    for metadata in (
        {"issuer": "https://another.example"},
        {"issuer": "https://login.example.com/"},
        {"token_endpoint": "http://login.example.com/token"},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"jwks_uri": 7},
        {"id_token_signing_alg_values_supported": ["HS256", "none"]},
        {"code_challenge_methods_supported": ["plain"]},
    ):
        company.issuer.metadata = dict[str, object](metadata)
        with pytest.raises(BadRequestError):
            await company.issuers.add(CALLER, COMPANY)
    assert await company.issuers.find() == []


async def test_what_cannot_be_registered(company: Company) -> None:
    for change in (
        {"url": "http://login.example.com"},
        {"url": "https://user@login.example.com"},
        {"session": timedelta(minutes=4)},
        {"session": timedelta(hours=13)},
    ):
        with pytest.raises(BadRequestError):
            await company.issuers.add(CALLER, dataclasses.replace(COMPANY, name="second", **change))


async def test_one_issuer_is_registered_once(company: Company) -> None:
    with pytest.raises(ConflictError):
        await company.issuers.add(CALLER, dataclasses.replace(COMPANY, name="second"))


async def test_an_issuer_that_is_removed_takes_everything_with_it(company: Company) -> None:
    session = await company.log_in(groups=["dba", "platform"])
    await company.issuers.remove(CALLER, company.registered.id)
    with pytest.raises(UnauthenticatedError):
        await company.who(session)
    for table in ("identity", "issuer_group", "login"):
        assert await company.count(table) == 0
    assert await company.count("membership") == 2, "Ada's, which nobody's groups gave"
    with pytest.raises(NotFoundError):
        await company.issuers.remove(CALLER, company.registered.id)


async def test_an_organization_is_not_left_without_an_admin(company: Company) -> None:
    await company.map("leads", "admin", THERE)
    await company.log_in(groups=["leads"])
    async with company.database.transaction() as tx:
        await tx.execute("DELETE FROM membership WHERE org_id = $1 AND account_id = $2", THERE, ADA)
    with pytest.raises(UnprocessableError):
        await company.issuers.remove(CALLER, company.registered.id)
    with pytest.raises(UnprocessableError):
        await company.log_in(groups=["dba"])


async def test_a_group_that_loses_its_meaning_ends_the_sessions_that_lived_of_it(company: Company) -> None:
    group_id = await company.map("auditors", "viewer", THERE)
    auditor = await company.log_in(groups=["auditors"])
    editor = await company.log_in(sub="u-2", email="dan@example.com", groups=["dba"])
    await company.issuers.unmap_group(CALLER, THERE, group_id)
    with pytest.raises(UnauthenticatedError):
        await company.who(auditor)
    assert (await company.who(editor)).memberships == {HERE: "editor"}
    (event,) = await company.events("group.unmap")
    assert (event["details"]["group"], event["details"]["sessions_ended"]) == ("auditors", 1)
    with pytest.raises(NotFoundError):
        await company.issuers.unmap_group(CALLER, THERE, group_id)


async def test_a_group_of_another_organization_is_not_there(company: Company) -> None:
    group_id = await company.map("auditors", "viewer", THERE)
    with pytest.raises(NotFoundError):
        await company.issuers.unmap_group(CALLER, HERE, group_id)


async def test_a_group_that_is_lowered_ends_the_sessions_as_well(company: Company) -> None:
    session = await company.log_in(groups=["dba"])
    await company.map("others", "viewer")
    await company.who(session)  # which a new group does not touch
    kept = (await company.issuers.groups(HERE))[0].id
    assert await company.map("dba", "viewer") == kept
    with pytest.raises(UnauthenticatedError):
        await company.who(session)
    assert (await company.log_in(groups=["dba"])).roles == {HERE: "viewer"}


async def test_groups_have_an_end(company: Company) -> None:
    async with company.database.transaction() as tx:
        await tx.execute(
            """INSERT INTO issuer_group (id, issuer_id, name, org_id, role, created_at)
               SELECT gen_random_uuid(), $1, 'g' || n, $2, 'viewer', now() FROM generate_series(2, $3::int) n""",
            company.registered.id,
            HERE,
            GROUPS_MAX,
        )
    with pytest.raises(UnprocessableError):
        await company.issuers.map_group(CALLER, HERE, NewGroup(issuer=None, name="one more", role="viewer"))


async def test_who_is_disabled_is_out_at_once_and_comes_back_with_what_is_theirs(company: Company) -> None:
    session = await company.log_in()
    await company.issuers.disable(CALLER, "EVE@example.com", is_disabled=True)
    with pytest.raises(UnauthenticatedError):
        await company.who(session)
    await company.issuers.disable(CALLER, "eve@example.com", is_disabled=False)
    assert (await company.who(session)).memberships == {HERE: "editor"}
    assert [it["action"] for it in await company.events("account.disable", "account.enable")] == [
        "account.disable",
        "account.enable",
    ]


async def test_nobody_disables_themselves_or_nobody(company: Company) -> None:
    with pytest.raises(UnprocessableError):
        await company.issuers.disable(CALLER, "ada@example.com", is_disabled=True)
    with pytest.raises(NotFoundError):
        await company.issuers.disable(CALLER, "zoe@example.com", is_disabled=True)


@pytest.mark.parametrize("how", ["unmapped", "lowered", "removed"])
async def test_what_is_taken_away_while_somebody_logs_in_is_in_no_session(
    company: Company, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The login has looked at what its groups give, and its session is not there yet for whoever ends sessions."""
    (group,) = await company.issuers.groups(HERE)

    async def take_away() -> None:
        match how:
            case "unmapped":
                await company.issuers.unmap_group(CALLER, HERE, group.id)
            case "lowered":
                await company.map("dba", "viewer")
            case _:
                await company.issuers.remove(CALLER, company.registered.id)

    async with asyncio.TaskGroup() as tasks:

        async def taken_meanwhile(tx: Transaction, *arguments: Any, **more: Any) -> int:
            await until_it_waits(tx, tasks.create_task(take_away()))
            return await insert_key(tx, *arguments, **more)

        monkeypatch.setattr(logins, "insert_key", taken_meanwhile)
        session = await company.log_in()
    with pytest.raises(UnauthenticatedError):
        await company.who(session)


async def test_who_comes_back_from_an_issuer_that_was_just_removed_is_told_to_begin_again(
    company: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = company.logins._issuers.keys

    async def removed_meanwhile(issuer: Any) -> Any:
        keys = await asked(issuer)
        await company.issuers.remove(CALLER, issuer.id)
        return keys

    monkeypatch.setattr(company.logins._issuers, "keys", removed_meanwhile)
    with pytest.raises(logins.LoginRefusedError) as refused:
        await company.log_in()
    assert refused.value.why == "login_unknown"


async def test_a_key_that_is_revoked_while_the_issuer_is_asked_links_nothing(
    company: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever had stolen it would come in by that identity from then on."""
    asked = company.logins._issuers.keys

    async def revoked_meanwhile(issuer: Any) -> Any:
        await company.api_keys.revoke(CALLER, company.adas_key)
        return await asked(issuer)

    monkeypatch.setattr(company.logins._issuers, "keys", revoked_meanwhile)
    with pytest.raises(logins.LoginRefusedError) as refused:
        await company.log_in(links=company.adas_key, groups=[], email="ada@example.com")
    assert refused.value.why == "login_unknown"
    assert await company.count("identity") == 0

"""A person logs in, and may what their groups give, until the session ends. What is refused: tests/attacks/test_login.py."""

import dataclasses
import functools
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from cloister.base.errors import BadRequestError, ConflictError, UnauthenticatedError, UnprocessableError
from cloister.control.calling import Caller
from cloister.control.organizations.service import OrganizationService
from cloister.control.people.logins import LOGIN_LASTS, LoginRefusedError
from cloister.control.people.model import SESSION_DEFAULT, Begin
from cloister.trust.access.keys import NewKey
from cloister.trust.access.principals import Principal
from tests.control.people.company import ADA, CALLER, HERE, NOBODY, THERE, Company
from tests.openid_issuer import at_hash
from tests.token_issuer import token


async def test_the_first_login_makes_the_account_the_role_and_the_session(company: Company) -> None:
    logged_in = await company.log_in()
    principal = await company.who(logged_in)
    assert (principal.account_id, principal.email, principal.name) == (logged_in.account_id, "eve@example.com", "Eve")
    assert principal.memberships == logged_in.roles == {HERE: "editor"}
    assert principal.is_limited
    assert not principal.is_operator
    made, joined, began = await company.events("account.create", "member.add", "session.create")
    assert {it["actor"] for it in (made, joined, began)} == {f"user:{logged_in.account_id}"}
    assert (joined["org_id"], joined["details"]["role"], joined["details"]["by_groups_of"]) == (
        HERE,
        "editor",
        "company",
    )
    assert (began["resource"], began["address"]) == (f"api_key/{logged_in.key_id}", NOBODY.address)
    assert (began["details"]["issuer"], began["details"]["subject"]) == ("company", "u-1")


async def test_the_browser_is_sent_where_only_we_can_finish(company: Company) -> None:
    begun = await company.start()
    asked = {name: values[0] for name, values in parse_qs(urlsplit(begun.url).query).items()}
    assert asked["redirect_uri"] == begun.redirect_uri == "http://127.0.0.1:40000/login/company"
    assert asked["scope"].split()[0] == "openid"
    await company.finish(company.issuer.authorize(begun.url))
    (form,) = company.issuer.forms
    assert form["code_verifier"] not in begun.url
    assert asked["nonce"] not in form.values()
    assert company.issuer.authorizations[0] is not None
    assert "client_secret" not in form
    assert begun.state.reveal() not in repr(begun)


async def test_the_second_login_is_of_the_same_account_whatever_the_address_has_become(company: Company) -> None:
    first = await company.log_in()
    second = await company.log_in(email="eve.married@example.com", name="Eve M.")
    assert second.account_id == first.account_id
    assert (await company.who(second)).email == "eve@example.com"
    assert len(await company.events("account.create")) == 1


async def test_a_session_ends_and_is_tidied_up_by_the_next_one(company: Company) -> None:
    first = await company.log_in()
    company.clock.advance(SESSION_DEFAULT)
    with pytest.raises(UnauthenticatedError):
        await company.who(first)
    second = await company.log_in()
    keys = await company.api_keys.find(await company.who(second))
    assert [it.id for it in keys] == [second.key_id]


async def test_a_group_that_is_taken_away_ends_the_role_at_the_next_login(company: Company) -> None:
    await company.map("auditors", "viewer", THERE)
    await company.log_in(groups=["dba", "auditors"])
    second = await company.log_in(groups=["auditors"])
    assert (await company.who(second)).memberships == {THERE: "viewer"}
    (event,) = await company.events("member.remove")
    assert (event["org_id"], event["details"]["was"], event["details"]["by_groups_of"]) == (HERE, "editor", "company")


async def test_the_last_group_goes_although_there_is_nothing_left_to_log_in_for(company: Company) -> None:
    first = await company.log_in()
    with pytest.raises(LoginRefusedError) as refused:
        await company.log_in(groups=[])
    assert refused.value.why == "login_no_role"
    assert len(await company.events("member.remove")) == 1
    assert (await company.who(first)).memberships == {}, "in the session from before as well"


async def test_of_several_groups_the_largest_role_counts_and_a_change_is_an_event(company: Company) -> None:
    await company.map("everybody", "viewer")
    await company.map("leads", "admin")
    assert (await company.log_in(groups=["everybody", "dba", "of no meaning"])).roles == {HERE: "editor"}
    assert (await company.log_in(groups=["leads", "everybody"])).roles == {HERE: "admin"}
    (event,) = await company.events("member.update")
    assert (event["details"]["was"], event["details"]["role"]) == ("editor", "admin")


async def test_what_was_given_by_hand_is_not_for_groups_to_change(company: Company) -> None:
    linked = await company.log_in(links=company.adas_key, groups=["dba"], email="ada@example.com")
    assert linked.roles == {HERE: "admin", THERE: "admin"}
    again = await company.log_in(groups=[])
    assert (await company.who(again)).memberships == {HERE: "admin", THERE: "admin"}


async def test_what_groups_give_holds_in_sessions_and_for_no_other_key(company: Company) -> None:
    """So that whoever leaves the company leaves with the end of the session, and not with the next login that never comes."""
    await company.map("leads", "admin")
    session = await company.log_in(groups=["leads"])
    _, personal = await company.api_keys.create(_caller(await company.who(session)), NewKey(name="kept"))
    kept = await company.api_keys.authenticate(personal.reveal(), "192.0.2.2")
    assert (await company.who(session)).memberships == {HERE: "admin"}
    assert kept.account_id == session.account_id
    assert kept.memberships == {}


async def test_operators_are_a_group_and_only_for_the_session(company: Company) -> None:
    operator = await company.log_in(groups=["platform"])
    assert (await company.who(operator)).is_operator
    _, personal = await company.api_keys.create(_caller(await company.who(operator)), NewKey(name="kept"))
    assert not (await company.api_keys.authenticate(personal.reveal(), "192.0.2.2")).is_operator
    later = await company.log_in(groups=["dba"])
    assert not (await company.who(later)).is_operator
    assert not (await company.who(operator)).is_operator, "in the session from before as well"


async def test_a_link_takes_the_holder_of_the_account(company: Company) -> None:
    linked = await company.log_in(links=company.adas_key, groups=[], email="ada@example.com")
    assert linked.account_id == ADA
    (event,) = await company.events("identity.link")
    assert (event["actor"], event["details"]["subject"]) == (f"user:{ADA}", "u-1")
    assert (await company.log_in(groups=[])).account_id == ADA


async def test_keys_are_asked_for_at_each_login_so_a_rotation_needs_no_word(company: Company) -> None:
    await company.log_in()
    company.issuer.published = ["RS256"]
    company.issuer.sign = lambda claims: token("RS256", **claims)
    await company.log_in()
    company.issuer.published = ["EdDSA"]
    with pytest.raises(LoginRefusedError):
        await company.log_in()


async def test_an_access_token_that_belongs_to_it(company: Company) -> None:
    for algorithm in ("RS256", "ES256", "EdDSA"):
        hashed = {"at_hash": at_hash("at", algorithm)}
        company.issuer.sign = functools.partial(_signed, algorithm, hashed)
        await company.log_in()


async def test_strangers_who_begin_logins_cause_one_question(company: Company) -> None:
    for _ in range(5):
        await company.start()
    assert len(company.issuer.asked) == 1


async def test_logins_that_nobody_finished_are_forgotten(company: Company) -> None:
    await company.start()
    company.clock.advance(LOGIN_LASTS)
    await company.start()
    assert await company.count("login") == 1


async def test_what_cannot_begin_a_login(company: Company) -> None:
    for port, challenge in ((80, "A" * 43), (70_000, "A" * 43), (40_000, "A" * 42 + "="), (40_000, "")):
        with pytest.raises(BadRequestError):
            await company.logins.begin(Begin(issuer=None, port=port, challenge=challenge))


async def test_an_issuer_that_is_not_registered(company: Company) -> None:
    with pytest.raises(UnprocessableError):
        await company.logins.begin(Begin(issuer="https://elsewhere.example", port=40_000, challenge="A" * 43))


async def test_an_unlinked_identity_of_a_second_person_with_the_same_account(company: Company) -> None:
    await company.log_in(links=company.adas_key, email="ada@example.com")
    with pytest.raises(LoginRefusedError) as refused:
        await company.log_in(links=company.adas_key, sub="u-2")
    assert refused.value.why == "login_taken"


async def test_a_role_that_groups_give_is_not_changed_by_hand(company: Company) -> None:
    logged_in = await company.log_in()
    organizations = OrganizationService(company.database, company.clock)
    with pytest.raises(ConflictError):
        await organizations.change_role(CALLER, HERE, logged_in.account_id, "admin")
    members = {it.email: it.issuer for it in await organizations.members(HERE)}
    assert members == {"ada@example.com": "", "eve@example.com": "company"}


async def test_a_session_is_as_short_as_the_issuer_was_registered_for(company: Company) -> None:
    logged_in = await company.log_in()
    assert logged_in.expires_at - company.clock.now() == timedelta(hours=8)


def _caller(principal: Principal) -> Caller:
    return dataclasses.replace(CALLER, principal=principal)


def _signed(algorithm: str, more: dict[str, Any], claims: dict[str, Any]) -> str:
    return token(algorithm, **claims | more)

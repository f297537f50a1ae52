"""What a directory says happens: who leaves has nothing from the next call on, and who is back has what they had."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from cloister.base.database import Transaction
from cloister.base.errors import ConflictError, NotFoundError, UnauthenticatedError
from cloister.control.people import logins
from cloister.control.people.logins import LoginRefusedError
from cloister.trust.access.keys import insert_key
from tests.control.people.company import ADA, CALLER, HERE, THERE
from tests.control.scim.scene import Scene
from tests.waiting import until_it_waits


async def test_the_token_is_shown_once_and_kept_as_a_digest(scene: Scene) -> None:
    with pytest.raises(ConflictError):
        await scene.scim.enable(CALLER, HERE)
    token = scene.tokens[HERE]
    assert len(token) == len("scim_") + 43
    async with scene.company.database.reading() as tx:
        rows = await tx.fetch("SELECT s::text AS it FROM scim s")
    assert not any(token in row["it"] for row in rows)
    assert token not in str(await scene.company.events())


async def test_rotating_ends_the_token_before_and_disabling_every_one(scene: Scene) -> None:
    await scene.create()
    _, new = await scene.scim.rotate(CALLER, HERE)
    assert (await scene.ask("GET", "/Users")).status_code == 401
    assert (await scene.ask("GET", "/Users", token=new.reveal())).status_code == 200
    status = await scene.scim.disable(CALLER, HERE)
    assert (status.is_enabled, status.users) == (False, 1)
    assert (await scene.ask("GET", "/Users", token=new.reveal())).status_code == 401
    for change in (scene.scim.rotate, scene.scim.disable):
        with pytest.raises(NotFoundError):
            await change(CALLER, HERE)
    actions = ["scim.enable", "scim.rotate", "scim.disable"]
    assert [it["action"] for it in await scene.company.events(*actions) if it["org_id"] == HERE] == actions


async def test_who_is_deactivated_has_nothing_from_the_next_call_on(scene: Scene) -> None:
    session = await scene.company.log_in(groups=["dba"])
    key = await scene.personal_key(session.account_id)
    user_id = await scene.create()
    assert await scene.memberships(session.key.reveal()) == {HERE: "editor"}

    assert (await scene.set_active(user_id, False)).json()["active"] is False

    for opened in (session.key.reveal(), key):
        with pytest.raises(UnauthenticatedError):
            await scene.memberships(opened)
    with pytest.raises(LoginRefusedError) as caught:
        await scene.company.log_in(groups=["dba"])
    assert caught.value.why == "login_deactivated"
    (event,) = await scene.company.events("scim.user_deactivate")
    assert (event["actor"], event["resource"]) == (f"scim:{HERE}", str(session.account_id))
    assert (event["details"]["had_membership"], event["details"]["sessions_ended"]) == (True, 1)


async def test_who_is_back_has_what_they_had(scene: Scene) -> None:
    account_id = await scene.add_member("eve@example.com", "viewer", number=7)
    key = await scene.personal_key(account_id)
    user_id = await scene.create()
    await scene.set_active(user_id, False)
    with pytest.raises(UnauthenticatedError):
        await scene.memberships(key)
    await scene.set_active(user_id, True)
    assert await scene.memberships(key) == {HERE: "viewer"}
    (event,) = await scene.company.events("scim.user_activate")
    assert event["details"]["had_membership"] is True


async def test_another_organizations_word_counts_in_that_organization_alone(scene: Scene) -> None:
    account_id = await scene.add_member("eve@example.com", number=7)
    await scene.add_member("eve@example.com", "viewer", THERE, number=7)
    key = await scene.personal_key(account_id)
    user_id = await scene.create(token=scene.tokens[THERE])
    await scene.set_active(user_id, False, token=scene.tokens[THERE])
    assert await scene.memberships(key) == {HERE: "editor"}


async def test_a_user_who_is_created_inactive_is_out_at_once(scene: Scene) -> None:
    session = await scene.company.log_in(groups=["dba"])
    await scene.create(active=False)
    with pytest.raises(UnauthenticatedError):
        await scene.memberships(session.key.reveal())


async def test_who_is_deleted_stays_out_until_they_are_created_again(scene: Scene) -> None:
    session = await scene.company.log_in(groups=["dba"])
    user_id = await scene.create()
    assert (await scene.ask("DELETE", f"/Users/{user_id}")).status_code == 204
    assert (await scene.ask("GET", f"/Users/{user_id}")).status_code == 404
    with pytest.raises(UnauthenticatedError):
        await scene.memberships(session.key.reveal())
    with pytest.raises(LoginRefusedError):
        await scene.company.log_in(groups=["dba"])
    assert await scene.create() != user_id
    assert (await scene.company.log_in(groups=["dba"])).roles == {HERE: "editor"}


async def test_somebody_is_found_by_the_address_that_their_issuer_told(scene: Scene) -> None:
    """Their account here has another one."""
    account_id = await scene.add_member("private@example.org", number=7)
    async with scene.company.database.transaction() as tx:
        key_id = await tx.fetch_value(
            "INSERT INTO api_key (name, digest, account_id) VALUES ('k', '\\x01', $1) RETURNING id", account_id
        )
    await scene.company.log_in(links=key_id, groups=["dba"])
    key = await scene.personal_key(account_id)
    user_id = await scene.create()
    await scene.set_active(user_id, False)
    with pytest.raises(UnauthenticatedError):
        await scene.memberships(key)


async def test_a_login_finds_whose_account_a_user_is(scene: Scene) -> None:
    user_id = await scene.create("eve@example.com")
    session = await scene.company.log_in(groups=["dba"])
    assert (await scene.scim.status(HERE)).linked == 1
    await scene.patch(f"/Users/{user_id}", {"op": "replace", "path": "userName", "value": "renamed"})
    await scene.set_active(user_id, False)
    with pytest.raises(UnauthenticatedError):
        await scene.memberships(session.key.reveal())


async def test_the_last_admin_is_not_deactivated_and_somebody_else_can_be_made_one(scene: Scene) -> None:
    user_id = await scene.create("ada@example.com")
    for answer in (
        await scene.set_active(user_id, False),
        await scene.ask("DELETE", f"/Users/{user_id}"),
    ):
        assert (answer.status_code, answer.json()["scimType"]) == (409, "mutability")
        assert "only admin" in answer.json()["detail"]
    assert (await scene.ask("GET", f"/Users/{user_id}")).json()["active"] is True
    assert {it["reason"] for it in await scene.company.events("scim.user_update") if it.get("outcome") == "failed"} == {
        "last_admin"
    }
    await scene.add_member("bob@example.com", "admin", number=8)
    assert (await scene.set_active(user_id, False)).status_code == 200
    # And now Bob is the last: Ada, who is suspended, does not count.
    bob = await scene.create("bob@example.com")
    assert (await scene.set_active(bob, False)).status_code == 409
    async with scene.company.database.transaction() as tx:
        assert await tx.execute("DELETE FROM membership WHERE org_id = $1 AND account_id = $2", HERE, ADA)


async def test_who_is_taken_out_of_a_group_logs_in_again_and_has_it_no_more(scene: Scene) -> None:
    user_id = await scene.create()
    made = await scene.ask("POST", "/Groups", {"displayName": "dba", "members": [{"value": user_id}]})
    group = f"/Groups/{made.json()['id']}"
    session = await scene.company.log_in(groups=["dba"])
    await scene.patch(group, {"op": "remove", "path": f'members[value eq "{user_id}"]'})
    with pytest.raises(UnauthenticatedError):
        await scene.memberships(session.key.reveal())
    with pytest.raises(LoginRefusedError):
        await scene.company.log_in(groups=["dba"])
    await scene.patch(group, {"op": "Add", "path": "members", "value": [{"value": user_id}]})
    assert (await scene.company.log_in(groups=["dba"])).roles == {HERE: "editor"}


async def test_who_is_taken_out_of_a_group_while_they_log_in_has_it_no_more(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    user_id = await scene.create()
    made = await scene.ask("POST", "/Groups", {"displayName": "dba", "members": [{"value": user_id}]})
    group = f"/Groups/{made.json()['id']}"
    await scene.company.log_in(groups=["dba"])

    async with asyncio.TaskGroup() as tasks:

        async def taken_out_meanwhile(tx: Transaction, *arguments: Any, **more: Any) -> int:
            removal = {"op": "remove", "path": f'members[value eq "{user_id}"]'}
            await until_it_waits(tx, tasks.create_task(scene.patch(group, removal)))
            return await insert_key(tx, *arguments, **more)

        monkeypatch.setattr(logins, "insert_key", taken_out_meanwhile)
        session = await scene.company.log_in(groups=["dba"])
    with pytest.raises(UnauthenticatedError):
        await scene.memberships(session.key.reveal())


async def test_a_session_that_is_over_anyway_costs_nothing(scene: Scene) -> None:
    await scene.company.log_in(groups=["dba"])
    user_id = await scene.create()
    scene.company.clock.advance(timedelta(days=2))
    for _ in range(2):
        assert (await scene.set_active(user_id, False)).status_code == 200
    assert len(await scene.company.events("scim.user_deactivate")) == 1, "what is so already is no event"

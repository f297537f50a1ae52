"""Threats to directories: a token for what it is not good for, another organization's people, a role out of nothing, words that become
queries, bodies without end, one attribute said twice, and somebody who was let go and comes back."""

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, Final

import pytest

from cloister.base.errors import UnauthenticatedError
from cloister.control.people.logins import LoginRefusedError
from cloister.control.people.model import Begin
from cloister.edge.api.content import BODY_BYTES_MAX
from cloister.edge.api.routes import ROUTES
from cloister.protocol.openid import challenge_of
from cloister.protocol.scim.paths import OPERATIONS_MAX, PATCH
from tests.attacks.test_http_confused_deputy import BODIES, path_of
from tests.control.people.company import CALLER, HERE, SECRET, THERE
from tests.control.scim.conftest import scene
from tests.control.scim.scene import GROUP, USER, Scene

__all__ = ["scene"]

_A_WHILE: Final = timedelta(seconds=2)
# Until an address that failed may ask again.


# ── the token ──


async def test_a_token_opens_nothing_of_the_api(scene: Scene) -> None:
    async with scene.client(base="/api/v2") as client:
        for route in ROUTES:
            if not hasattr(route.permission, "why"):
                answer = await client.request(route.method, path_of(route), json=BODIES.get(route.name))
                assert answer.status_code in (401, 429), route.name
                scene.company.clock.advance(_A_WHILE)


async def test_no_other_key_opens_scim(scene: Scene) -> None:
    session = await scene.company.log_in(groups=["dba"])
    keys = [session.key.reveal(), await scene.personal_key(CALLER.principal.account_id)]
    for wrong in (*keys, "scim_", "scim_" + "x" * 43, scene.tokens[HERE][:-1], scene.tokens[HERE] + "A", " "):
        assert (await scene.ask("GET", "/Users", token=wrong)).status_code == 401
    for header in (
        [],
        ["Basic eDp5"],
        [f"Bearer {scene.tokens[HERE]}"] * 2,
        [f"bearer {scene.tokens[HERE]}, Bearer x"],
    ):
        async with scene.client() as client:
            del client.headers["authorization"]
            headers = [("authorization", one) for one in header]
            assert (await client.get("/Users", headers=headers)).status_code == 401
    refused = [it for it in await _refused(scene) if it["details"].get("attempted") == "scim"]
    assert sum(it["details"].get("count", 1) for it in refused) == 11


async def test_guesses_from_one_address_are_limited(scene: Scene) -> None:
    async with scene.client("scim_" + "x" * 43) as client:
        answers = [(await client.get("/Users")).status_code for _ in range(30)]
    assert answers[-1] == 429
    async with scene.client(address="198.51.100.7") as client:
        assert (await client.get("/Users")).status_code == 200


async def test_a_token_that_was_replaced_is_replayed(scene: Scene) -> None:
    user_id = await scene.create()
    old = scene.tokens[HERE]
    await scene.scim.rotate(CALLER, HERE)
    assert (await scene.set_active(user_id, False, token=old)).status_code == 401
    assert (await scene.ask("DELETE", f"/Users/{user_id}", token=old)).status_code == 401


async def test_a_token_that_was_replaced_while_a_body_came_changes_nothing(scene: Scene) -> None:
    """Whoever stole it has begun requests, and ends them after the theft was found."""

    async def body() -> AsyncIterator[bytes]:
        whole = json.dumps({"schemas": [USER], "userName": "mallory@example.com"}).encode()
        yield whole[:-1]
        await scene.scim.rotate(CALLER, HERE)
        scene.company.clock.advance(_A_WHILE)
        yield whole[-1:]

    async with scene.client() as client:
        headers = {"content-type": "application/json"}
        assert (await client.post("/Users", content=body(), headers=headers)).status_code == 401
    assert [it["outcome"] for it in await scene.company.events("scim.user_create")] == ["failed"]
    assert (await scene.scim.status(HERE)).users == 0


async def test_a_request_that_is_replayed_changes_nothing(scene: Scene) -> None:
    first = await scene.create()
    assert (await scene.ask("POST", "/Users", {"userName": "EVE@example.com"})).status_code == 409
    for _ in range(2):
        assert (await scene.set_active(first, False)).status_code == 200
    assert len(await scene.company.events("scim.user_deactivate")) == 1


# ── other people's ──


async def test_nobody_of_another_organization_is_seen_or_changed(scene: Scene) -> None:
    theirs = await scene.create("bob@example.com", token=scene.tokens[THERE])
    group = (await scene.ask("POST", "/Groups", {"displayName": "ops"}, token=scene.tokens[THERE])).json()["id"]
    for path in (f"/Users/{theirs}", f"/Groups/{group}"):
        assert (await scene.ask("GET", path)).status_code == 404
        assert (await scene.ask("DELETE", path)).status_code == 404
        assert (await scene.patch(path, {"op": "replace", "value": {"displayName": "mine"}})).status_code == 404
        assert (await scene.ask("PUT", path, {"userName": "x", "displayName": "mine"})).status_code == 404
    for kind, name in (("Users", "id"), ("Groups", "id")):
        found = await scene.ask("GET", f'/{kind}?filter={name} eq "{theirs if kind == "Users" else group}"')
        assert found.json()["totalResults"] == 0
    assert (await scene.ask("GET", "/Users")).json()["totalResults"] == 0
    mine = (await scene.ask("POST", "/Groups", {"displayName": "dba"})).json()["id"]
    answer = await scene.patch(f"/Groups/{mine}", {"op": "add", "path": "members", "value": [{"value": theirs}]})
    assert answer.status_code == 400
    assert (await scene.ask("POST", "/Groups", {"displayName": "x", "members": [{"value": theirs}]})).status_code == 400


async def test_somebody_who_is_only_elsewhere_is_not_found_by_their_address(scene: Scene) -> None:
    """Neither locked out, nor told of: to create them answers as for somebody whom nobody knows."""
    bob = await scene.add_member("bob@example.com", org_id=THERE, number=8)
    key = await scene.personal_key(bob)
    known = await scene.ask("POST", "/Users", {"userName": "bob@example.com", "active": False})
    unknown = await scene.ask("POST", "/Users", {"userName": "nobody@example.com", "active": False})
    assert known.status_code == unknown.status_code == 201
    assert known.json().keys() == unknown.json().keys()
    assert (await scene.scim.status(HERE)).linked == 0, "nor do its admins learn that there is such an account"
    assert await scene.memberships(key) == {THERE: "editor"}


async def test_a_session_elsewhere_is_not_ended(scene: Scene) -> None:
    """Neither of who was never here, nor of who was, and is not any more."""
    await scene.company.map("ops", "viewer", THERE)
    user_id = await scene.create()
    session = await scene.company.log_in(groups=["ops"])
    await scene.set_active(user_id, False)
    assert await scene.memberships(session.key.reveal()) == {THERE: "viewer"}
    former = await scene.company.log_in(groups=["ops"], sub="u-2", email="bob@example.com")
    await scene.add_member("bob@example.com", number=former.account_id.int)
    bob = await scene.create("bob@example.com")
    async with scene.company.database.transaction() as tx:
        await tx.execute("DELETE FROM membership WHERE org_id = $1 AND account_id = $2", HERE, former.account_id)
    await scene.set_active(bob, False)
    assert await scene.memberships(former.key.reveal()) == {THERE: "viewer"}


async def test_a_name_that_is_taken_on_afterwards_locks_out_nobody_elsewhere(scene: Scene) -> None:
    bob = await scene.add_member("bob@example.com", org_id=THERE, number=8)
    key = await scene.personal_key(bob)
    user_id = await scene.create("somebody@example.com")
    await scene.patch(
        f"/Users/{user_id}",
        {"op": "replace", "path": "userName", "value": "bob@example.com"},
        {"op": "replace", "path": "active", "value": False},
    )
    assert await scene.memberships(key) == {THERE: "editor"}


# ── more than one had ──


async def test_groups_give_nothing(scene: Scene) -> None:
    """A token that leaked makes nobody an admin: a role comes of a login, by the issuer's word."""
    await scene.company.map("admins", "admin")
    session = await scene.company.log_in(groups=["dba"])
    user_id = await scene.create(roles=[{"value": "admin"}], entitlements=[{"value": "admin"}])
    await scene.ask("POST", "/Groups", {"schemas": [GROUP], "displayName": "admins", "members": [{"value": user_id}]})
    assert await scene.memberships(session.key.reveal()) == {HERE: "editor"}
    assert (await scene.company.log_in(groups=["dba"])).roles == {HERE: "editor"}
    answer = await scene.patch(f"/Users/{user_id}", {"op": "add", "path": "groups", "value": [{"value": "x"}]})
    assert (answer.status_code, answer.json()["scimType"]) == (400, "mutability")


async def test_a_user_who_is_created_has_nothing(scene: Scene) -> None:
    before = [await scene.company.count(table) for table in ("account", "membership", "api_key")]
    await scene.create("mallory@example.com", active=True)
    assert before == [await scene.company.count(table) for table in ("account", "membership", "api_key")]


async def test_who_an_operator_disabled_is_not_let_in_by_a_directory(scene: Scene) -> None:
    bob = await scene.add_member("bob@example.com", number=8)
    key = await scene.personal_key(bob)
    user_id = await scene.create("bob@example.com")
    await scene.company.issuers.disable(CALLER, "bob@example.com", is_disabled=True)
    await scene.set_active(user_id, False)
    await scene.set_active(user_id, True)
    with pytest.raises(UnauthenticatedError):
        await scene.memberships(key)


# ── who was let go ──


async def test_open_sessions_end_and_no_other_name_opens_one(scene: Scene) -> None:
    sessions = [await scene.company.log_in(groups=["dba"]) for _ in range(3)]
    user_id = await scene.create()
    await scene.set_active(user_id, False)
    for session in sessions:
        with pytest.raises(UnauthenticatedError):
            await scene.memberships(session.key.reveal())
    for address in ("eve@example.com", "EVE@EXAMPLE.COM", "eve+new@example.com"):
        with pytest.raises(LoginRefusedError) as caught:
            await scene.company.log_in(email=address, groups=["dba"])
        assert caught.value.why == "login_deactivated"


async def test_to_be_renamed_first_helps_nobody(scene: Scene) -> None:
    bob = await scene.add_member("bob@example.com", number=8)
    key = await scene.personal_key(bob)
    user_id = await scene.create("bob@example.com")
    await scene.patch(f"/Users/{user_id}", {"op": "replace", "path": "userName", "value": "somebody else"})
    await scene.patch(f"/Users/{user_id}", {"op": "remove", "path": "emails"})
    await scene.set_active(user_id, False)
    with pytest.raises(UnauthenticatedError):
        await scene.memberships(key)


async def test_a_second_user_of_the_same_person_does_not_bring_them_back(scene: Scene) -> None:
    session = await scene.company.log_in(groups=["dba"])
    user_id = await scene.create()
    await scene.set_active(user_id, False)
    await scene.create("another name", emails=[{"value": "eve@example.com"}], active=True)
    with pytest.raises(UnauthenticatedError):
        await scene.memberships(session.key.reveal())
    with pytest.raises(LoginRefusedError):
        await scene.company.log_in(groups=["dba"])


async def test_who_was_let_go_does_not_come_back_as_somebody_new(scene: Scene) -> None:
    """By another subject at the issuer, and with another of their addresses, which no account here has."""
    await scene.company.log_in(groups=["dba"])
    user_id = await scene.create(emails=[{"value": "e.smith@example.com"}])
    await scene.set_active(user_id, False)
    for _ in range(2):
        with pytest.raises(LoginRefusedError) as caught:
            await scene.company.log_in(sub="u-2", email="e.smith@example.com", groups=["dba"])
        assert caught.value.why == "login_deactivated"
        assert (await scene.ask("DELETE", f"/Users/{user_id}")).status_code in (204, 404)


async def test_who_was_let_go_does_not_come_back_by_another_identity(scene: Scene) -> None:
    """Nor by an issuer that calls them otherwise than the directory does."""
    session = await scene.company.log_in(groups=["dba"])
    async with scene.company.database.transaction() as tx:
        await tx.execute("DELETE FROM membership WHERE account_id = $1", session.account_id)
        other = await tx.fetch_value(
            """INSERT INTO issuer (id, name, url, client_id, client_secret, domains, groups_claim, session_s,
                                   created_at)
               SELECT gen_random_uuid(), 'partner', url || '/other', client_id, client_secret, domains, groups_claim, session_s,
                      created_at FROM issuer RETURNING id"""
        )
        await tx.execute(
            """INSERT INTO identity (issuer_id, subject, account_id, email, created_at, last_login_at)
               VALUES ($1, 'e-7', $2, 'e.smith@example.com', now(), now())""",
            other,
            session.account_id,
        )
    for name, more in (("employee 7", {"externalId": "e-7"}), ("e.smith@example.com", {})):
        user_id = await scene.create(name, active=False, **more)
        begin = Begin(issuer="company", port=40_000, challenge=challenge_of(SECRET))
        begun = await scene.company.logins.begin(begin, links=None)
        with pytest.raises(LoginRefusedError) as caught:
            await scene.company.finish(scene.company.issuer.authorize(begun.url))
        assert caught.value.why == "login_deactivated"
        assert (await scene.ask("DELETE", f"/Users/{user_id}")).status_code == 204
        async with scene.company.database.transaction() as tx:
            await tx.execute("DELETE FROM scim_user")


async def test_an_address_that_nobody_verified_makes_nobody_another_user(scene: Scene) -> None:
    """Who is taken for somebody else is not found when they themselves are let go."""
    await scene.create("carol@example.com")
    mallory: dict[str, Any] = {"sub": "u-2", "groups": ["dba"]}
    await scene.company.log_in(**mallory, email="mallory@example.com")
    session = await scene.company.log_in(**mallory, email="carol@example.com", email_verified=False)
    user_id = await scene.create("mallory@example.com")
    await scene.set_active(user_id, False)
    with pytest.raises(UnauthenticatedError):
        await scene.memberships(session.key.reveal())
    with pytest.raises(LoginRefusedError):
        await scene.company.log_in(**mallory)


async def test_a_directory_that_is_disabled_lets_nobody_back_in(scene: Scene) -> None:
    await scene.company.log_in(groups=["dba"])
    await scene.set_active(await scene.create(), False)
    await scene.scim.disable(CALLER, HERE)
    with pytest.raises(LoginRefusedError):
        await scene.company.log_in(groups=["dba"])


# ── what is sent ──


@pytest.mark.parametrize(
    "text",
    [
        'userName eq "x" or userName eq "eve@example.com"',
        'userName eq "x" or 1 eq 1',
        "userName eq \"x' OR '1'='1\"",
        'userName eq "%"',
        'userName sw ""',
        "userName pr",
        'not (userName eq "x")',
        'userName eq "x\\u0000"',
        'userName eq "\\ud800"',
        'userName eq "x',
        "userName eq x",
        'password eq "x"',
        'account_id eq "x"',
        'userName eq "a" and userName eq "b"',
        '((((((((userName eq "x"))))))))',
        'userName eq "' + "x" * 2000 + '"',
        'user\u212aey eq "x"',
    ],
)  # fmt: skip
async def test_a_filter_is_never_a_query(scene: Scene, text: str) -> None:
    await scene.create()
    async with scene.client() as client:
        answer = await client.get("/Users", params={"filter": text})
    assert answer.status_code == 400 or answer.json()["totalResults"] == 0
    assert answer.headers["content-type"] == "application/scim+json"


async def test_bodies_and_patches_have_a_limit(scene: Scene) -> None:
    user_id = await scene.create()
    headers = {"Content-Type": "application/scim+json"}
    deep = b'{"a":' * 5000 + b"1" + b"}" * 5000
    many = [{"op": "replace", "path": "active", "value": True}] * (OPERATIONS_MAX + 1)
    bodies: list[tuple[bytes, int]] = [
        (b'{"userName": "' + b"x" * BODY_BYTES_MAX + b'"}', 413),
        (b'{"userName": "' + b"x" * 300 + b'"}', 400),
        (deep, 400),
        (b"[]", 400),
        (b"", 400),
        (b'{"userName": NaN}', 400),
        (b'{"userName": "\\u0000"}', 400),
        (b'{"userName": "\\ud800"}', 400),
        (b'{"userName": "\xff"}', 400),
        (b'{"userName": ' + b"9" * 5000 + b"}", 400),
        (json.dumps({"userName": "a", "emails": [{"value": f"{n}@example.com"} for n in range(9)]}).encode(), 400),
    ]
    async with scene.client() as client:
        for body, status in bodies:
            assert (await client.post("/Users", content=body, headers=headers)).status_code == status, body[:40]
        answer = await client.patch(f"/Users/{user_id}", json={"schemas": [PATCH], "Operations": many})
        assert (answer.status_code, answer.json()["scimType"]) == (400, "tooMany")
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        assert (await client.post("/Users", content=b"userName=x", headers=form)).status_code == 415
    assert await scene.company.count("scim_user") == 1


@pytest.mark.parametrize(
    "body",
    [
        b'{"userName": "eve@example.com", "active": false, "Active": true}',
        b'{"userName": "eve@example.com", "active": false, "active": true}',
        b'{"userName": "eve@example.com", "username": "bob@example.com"}',
        b'{"userName": "eve@example.com", "active": false, "urn:ietf:params:scim:schemas:core:2.0:User:active": true}',
    ],
)
async def test_an_attribute_said_twice_is_refused(scene: Scene, body: bytes) -> None:
    async with scene.client() as client:
        answer = await client.post("/Users", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["scimType"]) == (400, "invalidSyntax")


async def test_case_makes_no_second_person_and_no_second_attribute(scene: Scene) -> None:
    user_id = await scene.create("Eve@Example.com")
    for same in ("eve@example.com", "EVE@EXAMPLE.COM"):
        assert (await scene.ask("POST", "/Users", {"USERNAME": same})).status_code == 409
    answer = await scene.patch(f"/Users/{user_id}", {"OP": "REPLACE", "Path": "ACTIVE", "VALUE": "FALSE"})
    assert answer.json()["active"] is False
    values: tuple[Any, ...] = ("no", 0, None, [], "", {"active": True})
    for value in values:
        wrong = await scene.patch(f"/Users/{user_id}", {"op": "replace", "path": "active", "value": value})
        assert wrong.status_code == 400, value


async def test_an_attribute_said_with_its_schema_is_not_passed_over(scene: Scene) -> None:
    """It would be answered with 200, and nobody deactivated."""
    user_id = await scene.create()
    answer = await scene.patch(f"/Users/{user_id}", {"op": "replace", "value": {f"{USER}:active": False}})
    assert answer.json()["active"] is False
    other = await scene.create("bob@example.com")
    whole = {"schemas": [USER], f"{USER}:userName": "bob@example.com", f"{USER.upper()}:ACTIVE": "False"}
    assert (await scene.ask("PUT", f"/Users/{other}", whole)).json()["active"] is False


async def test_one_operation_that_is_wrong_undoes_those_before_it(scene: Scene) -> None:
    user_id = await scene.create()
    answer = await scene.patch(
        f"/Users/{user_id}",
        {"op": "replace", "path": "active", "value": False},
        {"op": "replace", "path": "id", "value": "another"},
    )
    assert answer.status_code == 400
    assert (await scene.ask("GET", f"/Users/{user_id}")).json()["active"] is True


@pytest.mark.parametrize(
    "path",
    ["/Users%2f../Groups", "/Users%2f..", "/Users//", "/users", "/Users/a/b", "/Bulk", "/Me", "/.search", "/%c3%28"],
)
async def test_there_are_no_other_resources(scene: Scene, path: str) -> None:
    for method in ("GET", "POST", "DELETE"):
        assert (await scene.ask(method, path, {"schemas": [USER]})).status_code in (404, 405)


async def _refused(scene: Scene) -> list[dict[str, Any]]:
    await scene.app.state.boundary.refusals.flush()
    return await scene.company.events("api.refused")

"""Passkeys, over a real control database: what the verbs do, and what the database itself refuses."""

from typing import Any

import asyncpg
import pytest

from cloister.base.errors import BadRequestError, CloisterError, ConflictError, NotFoundError, UnprocessableError
from cloister.control.passkeys import service
from cloister.control.passkeys.model import CHALLENGE_LASTS, Challenge, Creation, PasskeyRefusedError
from cloister.control.passkeys.recovery import recover
from cloister.protocol.webauthn import Registration
from cloister.trust.audit import Event
from tests.audited import raised
from tests.edge.api.world import ADA, ORG
from tests.fix_database import ControlDatabase, DatabaseAs
from tests.passkey_scene import ACT_ROUTES, BOB, Scene
from tests.soft_authenticator import PRESENT, SoftAuthenticator


@pytest.fixture
async def scene(database_as: DatabaseAs) -> Scene:
    return await Scene(await database_as("cloister_api")).begin()


async def test_registered_listed_and_removed(scene: Scene) -> None:
    caller = await scene.caller(scene.bobs_key)
    assert not caller.principal.has_passkey
    made = await scene.register(scene.bobs_key, SoftAuthenticator(counter=9), "key ring")
    (passkey,) = await scene.service.find(caller)
    assert (passkey.id, passkey.name, passkey.credential.sign_count) == (made, "key ring", 9)
    assert (await scene.who(scene.bobs_key)).has_passkey
    assert (await scene.service.remove(caller, made)).name == "key ring"
    with pytest.raises(NotFoundError):
        await scene.service.remove(caller, made)
    added, removed = (await scene.events("passkey.add"))[-1], (await scene.events("passkey.remove"))[-1]
    assert (added["actor"], added["resource"]) == (f"user:{BOB}", str(made))
    assert added["details"] == {"name": "key ring", "is_first": True, "email": "bob@example.com"}
    assert removed["details"] == {"name": "key ring", "left": 0}


async def test_nobody_removes_anothers(scene: Scene) -> None:
    (adas,) = await scene.service.find(await scene.caller(scene.adas_key))
    with pytest.raises(NotFoundError):
        await scene.service.remove(await scene.caller(scene.eves_key), adas.id)


async def test_a_key_of_an_organization_has_no_passkey_although_its_maker_has(scene: Scene) -> None:
    assert not (await scene.who(await scene.key(ADA.account_id, org_id=ORG))).has_passkey


@pytest.mark.parametrize(
    ("why", "lies"),
    [
        ("passkey_verification", {"flags": PRESENT}),
        ("passkey_origin", {"origin": "https://example.com"}),
        ("passkey_challenge", {"answers": b"d" * 32}),
        ("passkey_unreadable", {"answers": b""}),
    ],
)
async def test_what_a_browser_must_not_bring(scene: Scene, why: str, lies: dict[str, Any]) -> None:
    caller = await scene.caller(scene.bobs_key)
    challenge = (await scene.service.begin(caller)).challenge
    said = SoftAuthenticator().make(challenge, **lies)
    if why == "passkey_unreadable":
        said = Registration(said.client_data[:-1], said.attestation_object)
    with pytest.raises(PasskeyRefusedError) as caught:
        await scene.service.add(caller, "x", said)
    assert caught.value.why == why
    assert await scene.service.find(caller) == []


async def test_a_challenge_is_for_one_passkey_of_one_key_for_a_while(scene: Scene) -> None:
    caller, other = await scene.caller(scene.bobs_key), await scene.caller(await scene.key(BOB))
    made = SoftAuthenticator()

    async def refused(by: Any, challenge: bytes) -> str:
        with pytest.raises(PasskeyRefusedError) as caught:
            await scene.service.add(by, "x", made.make(challenge))
        return caught.value.why

    assert await refused(other, (await scene.service.begin(caller)).challenge) == "passkey_other_key"
    late = (await scene.service.begin(caller)).challenge
    scene.world.clock.advance(CHALLENGE_LASTS)
    assert await refused(caller, late) == "passkey_expired"
    eves = (await scene.service.begin(await scene.caller(scene.eves_key))).challenge
    assert await refused(caller, eves) == "passkey_challenge"
    good = (await scene.service.begin(caller)).challenge
    await scene.service.add(caller, "x", made.make(good))
    assert await refused(await scene.caller(scene.bobs_key, with_passkey=True), good) == "passkey_challenge"
    # One that was given for an act makes no passkey.
    acts = await scene.challenge(ACT_ROUTES[0])
    assert await refused(await scene.caller(scene.adas_key), acts) == "passkey_other_request"


async def test_who_has_one_gets_no_other_without_showing_it(scene: Scene) -> None:
    """Also where two calls make the first at the same time: each was let in as if there were none."""
    caller = await scene.caller(scene.bobs_key)
    first, second = [(await scene.service.begin(caller)).challenge for _ in range(2)]
    await scene.service.add(caller, "one", SoftAuthenticator().make(first))
    with pytest.raises(ConflictError, match="just got a passkey"):
        await scene.service.add(caller, "two", SoftAuthenticator().make(second))
    await scene.register(scene.bobs_key, SoftAuthenticator(), "two", with_passkey=True)
    assert len(await scene.service.find(caller)) == 2
    bobs = [it["details"]["is_first"] for it in await scene.events("passkey.add") if it["actor"] == f"user:{BOB}"]
    assert bobs == [True, False]


async def test_names_numbers_and_credentials(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = scene.ada
    with pytest.raises(ConflictError):
        await scene.register(scene.bobs_key, taken)
    await scene.register(scene.bobs_key, SoftAuthenticator())
    with pytest.raises(ConflictError):
        await scene.register(scene.bobs_key, SoftAuthenticator(), with_passkey=True)  # the same name
    for name in ("", "x" * 65, "a\nb"):
        with pytest.raises(BadRequestError):
            await scene.register(scene.bobs_key, SoftAuthenticator(), name, with_passkey=True)
    monkeypatch.setattr(service, "PASSKEYS_MAX", 1)
    with pytest.raises(UnprocessableError):
        await scene.register(scene.bobs_key, SoftAuthenticator(), "second", with_passkey=True)


async def test_what_the_page_is_told(scene: Scene) -> None:
    """By whoever has the challenge; and it is still good afterwards."""
    creation = await scene.service.begin(await scene.caller(scene.bobs_key))
    told = await scene.service.shown(creation.challenge)
    assert told == creation
    assert isinstance(told, Creation)
    challenge = await scene.challenge(ACT_ROUTES[0])
    shown = await scene.service.shown(challenge)
    assert isinstance(shown, Challenge)
    assert shown.passkeys == (scene.ada.credential_id,)
    scene.world.clock.advance(CHALLENGE_LASTS)
    for over in (creation.challenge, challenge, b"never given out"):
        with pytest.raises(NotFoundError):
            await scene.service.shown(over)


async def test_what_an_organization_demands(scene: Scene) -> None:
    caller = await scene.caller(scene.adas_key)
    assert not await scene.service.is_required(ORG)
    assert await scene.service.require(caller, ORG, is_required=True)
    assert await scene.service.is_required(ORG)
    (event,) = await scene.events("passkey.policy")
    assert (event["org_id"], event["details"]) == (ORG, {"required": True, "was": False})


async def test_that_an_organization_demands_it_no_more_is_told(scene: Scene) -> None:
    """And nothing else that somebody says about it."""
    caller = await scene.caller(scene.adas_key)
    for is_required, was, findings in (
        (False, False, set()),
        (True, False, set()),
        (True, True, set()),
        (False, True, {"passkey-demand-lifted"}),
    ):
        assert await scene.service.require(caller, ORG, is_required=is_required) is is_required
        event = (await scene.events("passkey.policy"))[-1]
        assert event["details"] == {"required": is_required, "was": was}
        assert raised([Event(**event)]) == findings


async def test_challenges_that_nobody_answered_are_forgotten(scene: Scene) -> None:
    await scene.service.begin(await scene.caller(scene.bobs_key))
    scene.world.clock.advance(CHALLENGE_LASTS)
    await scene.service.begin(await scene.caller(scene.bobs_key))
    async with scene.database.reading() as tx:
        assert await tx.fetch_value("SELECT count(*) FROM passkey_challenge") == 1


async def test_who_lost_all_of_them_begins_again(scene: Scene, database_as: DatabaseAs) -> None:
    """By root on the server; what somebody else has stays."""
    owner = await database_as("postgres")
    await scene.register(scene.adas_key, SoftAuthenticator(), "drawer", with_passkey=True)
    for email, reason, refusal in (
        ("nobody@example.com", "lost", NotFoundError),
        ("ada@example.com", " ", BadRequestError),
        ("bob@example.com", "lost", ConflictError),
    ):
        with pytest.raises(refusal):
            await recover(owner, email, reason)
    assert sorted(it.name for it in await recover(owner, "Ada@example.com", "lost")) == ["drawer", "key ring"]
    (event,) = await scene.events("passkey.recover")
    assert (event["actor"], event["resource"], event["reason"]) == ("platform:root", str(ADA.account_id), "lost")
    assert not (await scene.who(scene.adas_key)).has_passkey
    assert (await scene.who(scene.eves_key)).has_passkey
    await scene.register(scene.adas_key, SoftAuthenticator())


@pytest.mark.parametrize(
    "change",
    [
        "account_id = '00000000-0000-0000-0000-000000000004'",
        "credential_id = 'x'",
        "public_key = 'x'",
        "id = '00000000-0000-0000-0000-000000000009'",
        "created_at = now()",
        "sign_count = sign_count",
        "sign_count = sign_count - 1",
        "sign_count = 0",
    ],
)
async def test_the_database_keeps_a_passkey_whose_it_is(
    scene: Scene, control_database: ControlDatabase, change: str
) -> None:
    """Even from whoever may do everything in it."""
    superuser = await asyncpg.connect(control_database.url(), server_settings={"search_path": "cloister"})
    try:
        with pytest.raises(asyncpg.PostgresError, match="passkey"):
            await superuser.execute(f"UPDATE passkey SET {change}, name = name WHERE account_id = $1", ADA.account_id)
    finally:
        await superuser.close()


async def test_what_the_apis_role_may_not_do(scene: Scene) -> None:
    for statement in (
        "UPDATE passkey SET name = 'x'",
        "UPDATE passkey SET account_id = account_id",
        "UPDATE passkey_challenge SET expires_at = now() + interval '1 year'",
    ):
        with pytest.raises((asyncpg.InsufficientPrivilegeError, CloisterError)):
            async with scene.database.transaction() as tx:
                await tx.execute(statement)

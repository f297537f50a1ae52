"""Threats: whoever stole a key, or watched one act, does something privileged with it.

Each goes over the whole table of acts: a new one is tried as well.
"""

from datetime import timedelta
from typing import Any

import pytest

from cloister.control.passkeys.model import CHALLENGE_LASTS, PasskeyRefusedError, PrivilegedRequest
from cloister.control.passkeys.proofs import Proofs
from cloister.edge.api.acts import ACTS
from cloister.edge.api.endpoint import Route
from tests.attacks.test_http_confused_deputy import path_of
from tests.edge.api.world import ADA, ORG
from tests.fix_database import DatabaseAs
from tests.passkey_scene import ACT_ROUTES, BOB, Scene, b64, challenge_in, header
from tests.soft_authenticator import PRESENT, RP_ID, VERIFIED, SoftAuthenticator


@pytest.fixture
async def scene(database_as: DatabaseAs) -> Scene:
    return await Scene(await database_as("cloister_api")).begin()


async def refused(scene: Scene, route: Route, why: str, **call: Any) -> None:
    """Nothing is done, and the log says why."""
    scene.world.audit.events.clear()
    answer = await scene.call(route, **call)
    assert answer.status_code == 403, (route.name, answer.text)
    (event,) = scene.world.audit.events
    assert (event.action, event.outcome, event.reason) == (route.audit, "failed", why), route.name


def test_the_table_is_of_routes_there_are() -> None:
    assert {route.name for route in ACT_ROUTES} == set(ACTS)


async def test_without_an_assertion(scene: Scene) -> None:
    for route in ACT_ROUTES:
        scene.world.audit.events.clear()
        answer = await scene.call(route)
        said = answer.json()
        assert (answer.status_code, said["code"]) == (428, "PASSKEY_NEEDED"), route.name
        assert said["passkey"]["act"] == ACTS[route.name].what
        assert said["passkey"]["get"]["userVerification"] == "required"
        (event,) = scene.world.audit.events
        assert (event.action, event.outcome, event.reason) == (route.audit, "failed", "passkey_needed")


async def test_and_with_one_it_is_done_once(scene: Scene) -> None:
    """The proof that the refusals below are not of everything; and a replay."""
    for route in ACT_ROUTES:
        signed = header(scene.ada.sign(await scene.challenge(route)))
        answer = await scene.call(route, headers=signed)
        assert answer.status_code == route.status, (route.name, answer.text)
        await refused(scene, route, "passkey_challenge", headers=signed)
    used = await scene.events("passkey.use")
    assert [it["details"]["act"] for it in used] == [ACTS[route.name].what for route in ACT_ROUTES]
    assert {it["actor"] for it in used} == {ADA.actor}


async def test_a_challenge_that_was_never_given_out(scene: Scene) -> None:
    for route in ACT_ROUTES:
        await refused(scene, route, "passkey_challenge", headers=header(scene.ada.sign(b"c" * 32)))


async def test_another_body(scene: Scene) -> None:
    """The same JSON, even."""
    for route in ACT_ROUTES:
        signed = header(scene.ada.sign(await scene.challenge(route)))
        if route.body.__name__ != "NoBody":
            await refused(scene, route, "passkey_other_request", headers=signed, spaces=" ")
            await refused(scene, route, "passkey_challenge", headers=signed)


async def test_another_path(scene: Scene) -> None:
    """One that means the same, and that of another act."""
    for route, other in zip(ACT_ROUTES, ACT_ROUTES[1:] + ACT_ROUTES[:1], strict=True):
        signed = header(scene.ada.sign(await scene.challenge(route)))
        await refused(scene, route, "passkey_other_request", headers=signed, query="?hard_delete=true")
        signed = header(scene.ada.sign(await scene.challenge(route)))
        await refused(scene, other, "passkey_other_request", headers=signed)


async def test_another_key_of_the_same_person(scene: Scene) -> None:
    for route in ACT_ROUTES:
        signed = header(scene.ada.sign(await scene.challenge(route)))
        await refused(scene, route, "passkey_other_key", headers=signed, key=scene.adas_other_key)


async def test_another_persons_passkey(scene: Scene) -> None:
    """Eve's, over Ada's challenge; and Ada's whole answer, sent by Eve."""
    for route in ACT_ROUTES:
        await refused(scene, route, "passkey_unknown", headers=header(scene.eve.sign(await scene.challenge(route))))
        signed = header(scene.ada.sign(await scene.challenge(route)))
        await refused(scene, route, "passkey_challenge", headers=signed, key=scene.eves_key)


async def test_a_passkey_that_nobody_registered(scene: Scene) -> None:
    for route in ACT_ROUTES:
        thief = SoftAuthenticator(credential_id=scene.ada.credential_id)
        await refused(scene, route, "passkey_signature", headers=header(thief.sign(await scene.challenge(route))))


async def test_too_late(scene: Scene) -> None:
    for route in ACT_ROUTES:
        signed = header(scene.ada.sign(await scene.challenge(route)))
        scene.world.clock.advance(CHALLENGE_LASTS)
        await refused(scene, route, "passkey_expired", headers=signed)


LIES: list[tuple[str, dict[str, Any]]] = [
    ("passkey_verification", {"flags": PRESENT}),
    ("passkey_presence", {"flags": VERIFIED}),
    ("passkey_origin", {"origin": "https://example.com"}),
    ("passkey_origin", {"origin": f"https://ep-calm-forest-12345678.{RP_ID}"}),
    ("passkey_rp", {"rp_id": "example.com"}),
    ("passkey_type", {"kind": "webauthn.create"}),
]


@pytest.mark.parametrize(("why", "lies"), LIES)
async def test_signed_otherwise_than_it_must_be(scene: Scene, why: str, lies: dict[str, Any]) -> None:
    """Each act with one of the lies: what hears them knows nothing of acts."""
    for route in ACT_ROUTES[LIES.index((why, lies)) :: len(LIES)]:
        await refused(scene, route, why, headers=header(scene.ada.sign(await scene.challenge(route), **lies)))


async def test_a_copy_of_the_passkey(scene: Scene) -> None:
    """Its counter is behind."""
    for route in ACT_ROUTES:
        signed = header(scene.ada.sign(await scene.challenge(route)))
        assert (await scene.call(route, headers=signed)).status_code == route.status
        scene.ada.counter = 1
        await refused(scene, route, "passkey_counter", headers=header(scene.ada.sign(await scene.challenge(route))))
        scene.ada.counter = 1_000 + ACT_ROUTES.index(route)


async def test_whoever_has_none_is_asked_where_the_organization_demands_it(scene: Scene) -> None:
    """Bob, who has none; and a key of the organization's, behind which is nobody."""
    machine = await scene.key(BOB, org_id=ORG)
    for route in ACT_ROUTES:
        if ACTS[route.name].always:
            await refused(scene, route, "passkey_missing", key=scene.bobs_key)
        else:
            assert (await scene.call(route, key=scene.bobs_key)).status_code == route.status, route.name
    await scene.service.require(await scene.caller(scene.adas_key), ORG, is_required=True)
    scene.world.clock.advance(CHALLENGE_LASTS)
    of_machines = set()
    for route in ACT_ROUTES:
        if not {"{project_id}", "{org_id}"} & set(route.path.split("/")):
            continue  # in nobody's name but one's own, or the platform's
        await refused(scene, route, "passkey_missing", key=scene.bobs_key)
        scene.world.audit.events.clear()
        assert (await scene.call(route, key=machine)).status_code == 403
        if [it.reason for it in scene.world.audit.events] == ["passkey_of_a_person"]:
            of_machines.add(route.name)
    assert of_machines == {
        "add_jwks",
        "agree_to_audit_retention",
        "agree_to_consent",
        "agree_to_forget_in_project",
        "agree_to_lift_audit_hold",
        "agree_to_statement_erasure",
        "allow_egress",
        "change_branch_tags",
        "change_project_tags",
        "delete_project",
        "disable_project_keys",
        "exclude_from_backups",
        "grant_permission",
        "restore_backup",
        "restore_project_from_backups",
        "schedule_key_destruction",
        "set_audit_level",
        "set_project_member_role",
        "update_branch",
        "approve_access_request",
    }, "the others no key of an organization's may anyway"


async def test_a_session_that_was_stolen_makes_no_machines_key(scene: Scene) -> None:
    """What ends makes no keys, but with a passkey at hand: then an organization's, and still none of its own."""
    lasts = scene.world.clock.now() + timedelta(hours=8)
    adas, bobs = await scene.key(ADA.account_id, expires_at=lasts), await scene.key(BOB, expires_at=lasts)
    for name in ("create_org_api_key", "create_service_account", "rotate_service_account"):
        (route,) = [it for it in ACT_ROUTES if it.name == name]
        assert (await scene.call(route, bobs)).status_code == 403
        challenge = challenge_in(await scene.call(route, adas))
        await refused(
            scene, route, "passkey_verification", key=adas, headers=header(scene.ada.sign(challenge, flags=1))
        )
        challenge = challenge_in(await scene.call(route, adas))
        assert (await scene.call(route, adas, headers=header(scene.ada.sign(challenge)))).status_code == route.status
    (route,) = [it for it in ACT_ROUTES if it.name == "create_api_key"]
    assert (await scene.call(route, adas)).status_code == 403
    # The passkey is removed between the decision and the demand.
    with pytest.raises(PasskeyRefusedError, match="has no passkey"):
        await Proofs(scene.database, RP_ID, scene.world.clock).ask(
            await scene.caller(bobs, with_passkey=True),
            PrivilegedRequest(act="x", target="x", request=b"x", org_id=None, always=False),
            None,
        )


async def test_two_headers_and_headers_that_are_none(scene: Scene) -> None:
    (route,) = [it for it in ACT_ROUTES if it.name == "delete_project"]
    good = header(scene.ada.sign(await scene.challenge(route)))["Cloister-Assertion"]
    async with scene.world.client(scene.adas_key) as client:
        twice = [("Cloister-Assertion", good)] * 2
        answer = await client.request(route.method, path_of(route), headers=twice)
        assert (answer.status_code, answer.json()["message"]) == (400, "cloister-assertion was sent twice")
    for text in ("", "e30", "!", "A", good[:-9], good + "A", "A" * 9_000, b64(b'{"id": 1}'), b64(b"\xff")):
        answer = await scene.call(route, headers={"Cloister-Assertion": text})
        assert answer.status_code == 400, text
    assert (await scene.call(route, headers={"Cloister-Assertion": good})).status_code == 200

"""Key sets in the control plane: registered with their keys, told to gateways, asked for again, taken away."""

import asyncio
import dataclasses
import socket
import threading
from datetime import timedelta
from queue import SimpleQueue
from typing import Any

import msgspec
import pytest

from cloister.base.directory import Invalidate, LookUpKeys
from cloister.base.errors import BadRequestError, InvalidIdError, NotFoundError, UnprocessableError
from cloister.base.ids import BranchId, ProjectId
from cloister.control.branches.model import NewBranch
from cloister.control.jwks.keys import TRY_AGAIN_S
from cloister.control.jwks.model import NewJwks
from cloister.control.jwks.service import JWKS_MAX, ROLES_DEFAULT
from cloister.protocol.tokens import VerifyingKey
from cloister.trust.fetching import FetchError
from cloister.trust.fetching.https import FETCHES_MAX
from tests.control.land import CALLER, Land
from tests.control.people.company import COMPANY
from tests.token_issuer import document, public

URL = "https://issuer.test/jwks"
NEW = NewJwks(url=URL, provider_name="Issuer", audience="shop", role_names=("app",))


async def told(land: Land, endpoint: str, *, is_refresh: bool = False) -> list[tuple[str, list[str]]]:
    """(id, kids) of each set that a gateway is told of."""
    answer = await land.plane.token_keys.look_up(LookUpKeys(endpoint=endpoint, is_refresh=is_refresh))
    return [(it.id, [key.kid for key in msgspec.json.decode(it.keys, type=list[VerifyingKey])]) for it in answer.sets]


async def test_a_key_set_is_fetched_kept_recorded_and_told(land: Land) -> None:
    created = await land.project()
    gateway = land.connect_gateway()
    land.issuer.publishes = document(public("ES256"), public("EdDSA"))
    made = await land.control.jwks.create(CALLER, created.project.id, NEW)
    assert land.issuer.asked == [URL]
    assert made.role_names == ("app",)
    assert await land.control.jwks.find(created.project.id) == [made]
    assert Invalidate(project_id=created.project.id) in gateway.heard
    assert await told(land, created.endpoint.id) == [(str(made.id), ["ES256", "EdDSA"])]
    assert await told(land, created.branch.id) == [(str(made.id), ["ES256", "EdDSA"])]
    (event,) = await land.details_of("jwks.create")
    assert event["jwks_url"] == URL
    assert event["role_names"] == "app"


async def test_one_that_was_taken_away_is_told_to_nobody(land: Land) -> None:
    created = await land.project()
    made = await land.control.jwks.create(CALLER, created.project.id, NEW)
    gateway = land.connect_gateway()
    assert await land.control.jwks.delete(CALLER, created.project.id, made.id) == made
    assert Invalidate(project_id=created.project.id) in gateway.heard
    assert await told(land, created.endpoint.id) == []
    assert len(await land.details_of("jwks.delete")) == 1
    with pytest.raises(NotFoundError):
        await land.control.jwks.delete(CALLER, created.project.id, made.id)


async def test_another_projects_cannot_be_taken_away(land: Land) -> None:
    created, other = await land.project(), await land.project()
    made = await land.control.jwks.create(CALLER, created.project.id, NEW)
    with pytest.raises(NotFoundError):
        await land.control.jwks.delete(CALLER, other.project.id, made.id)
    assert await told(land, other.endpoint.id) == []
    assert len(await told(land, created.endpoint.id)) == 1


async def test_one_of_a_branch_is_of_no_other(land: Land) -> None:
    created = await land.project()
    child = await land.control.branches.create(CALLER, created.project.id, NewBranch(name="dev"))
    await land.finish(child.operations)
    made = await land.control.jwks.create(
        CALLER, created.project.id, dataclasses.replace(NEW, branch_id=child.branch.id)
    )
    assert await told(land, child.branch.id) == [(str(made.id), [key.kid for key in made.keys])]
    assert await told(land, created.endpoint.id) == []


@pytest.mark.parametrize("endpoint", ["ep-no-such-00000000", "", "../../etc", "x" * 500])
async def test_nobody_vouches_where_there_is_nothing(land: Land, endpoint: str) -> None:
    await land.project()
    assert await told(land, endpoint) == []
    assert await told(land, endpoint, is_refresh=True) == []
    assert land.issuer.asked == []


async def test_an_issuer_is_asked_again_now_and_then_and_no_oftener(land: Land) -> None:
    created = await land.project()
    land.issuer.publishes = document(public("ES256"))
    await land.control.jwks.create(CALLER, created.project.id, NEW)
    land.issuer.publishes = document(public("EdDSA"))
    for _ in range(5):
        ((_, kids),) = await told(land, created.endpoint.id, is_refresh=True)
    assert (kids, len(land.issuer.asked)) == (["ES256"], 1)
    land.clock.advance(timedelta(seconds=TRY_AGAIN_S))
    for _ in range(5):
        ((_, kids),) = await told(land, created.endpoint.id, is_refresh=True)
    assert (kids, len(land.issuer.asked)) == (["EdDSA"], 2)


@pytest.mark.parametrize("says", [FetchError("it did not answer"), b"<html>", document(public("ES256", use="enc"))])
async def test_an_issuer_that_fails_keeps_its_keys_with_their_age(land: Land, says: Any) -> None:
    created = await land.project()
    await land.control.jwks.create(CALLER, created.project.id, NEW)
    before = await land.plane.token_keys.look_up(LookUpKeys(endpoint=created.endpoint.id))
    land.issuer.publishes = says
    land.clock.advance(timedelta(seconds=TRY_AGAIN_S))
    after = await land.plane.token_keys.look_up(LookUpKeys(endpoint=created.endpoint.id, is_refresh=True))
    assert len(land.issuer.asked) == 2
    assert after == before


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"url": "http://issuer.test/jwks"}, BadRequestError),
        ({"role_names": ("cloister_admin",)}, BadRequestError),
        ({"role_names": ("neon_superuser",)}, BadRequestError),
        ({"role_names": ("nul\0",)}, InvalidIdError),
        ({"branch_id": BranchId("br-no-such-00000000")}, NotFoundError),
    ],
)
async def test_what_is_not_taken(land: Land, changes: dict[str, Any], error: type[Exception]) -> None:
    created = await land.project()
    with pytest.raises(error):
        await land.control.jwks.create(CALLER, created.project.id, dataclasses.replace(NEW, **changes))
    assert land.issuer.asked == []
    assert await land.control.jwks.find(created.project.id) == []


@pytest.mark.parametrize(
    "says", [FetchError("it leads to no public address"), b"{}", document(public("ES256", kid=None))]
)
async def test_a_url_that_cannot_be_used_is_not_kept(land: Land, says: Any) -> None:
    created = await land.project()
    land.issuer.publishes = says
    with pytest.raises(BadRequestError) as refused:
        await land.control.jwks.create(CALLER, created.project.id, NEW)
    assert refused.value.public.startswith("jwks_url cannot be used: ")
    assert await land.control.jwks.find(created.project.id) == []


async def test_roles_that_nobody_names_are_neons(land: Land) -> None:
    created = await land.project()
    made = await land.control.jwks.create(CALLER, created.project.id, NewJwks(url=URL, provider_name="x"))
    assert made.role_names == ROLES_DEFAULT


async def test_those_of_a_deleted_branch_take_no_room(land: Land) -> None:
    created = await land.project()
    child = await land.control.branches.create(CALLER, created.project.id, NewBranch(name="dev"))
    await land.finish(child.operations)
    for _ in range(JWKS_MAX):
        await land.control.jwks.create(CALLER, created.project.id, dataclasses.replace(NEW, branch_id=child.branch.id))
    with pytest.raises(UnprocessableError):
        await land.control.jwks.create(CALLER, created.project.id, NEW)
    deleted = await land.control.branches.delete(CALLER, created.project.id, child.branch.id)
    await land.finish(deleted[1])
    assert await land.control.jwks.find(created.project.id) == []
    await land.control.jwks.create(CALLER, created.project.id, NEW)


async def test_a_project_has_so_many_and_one_that_is_gone_none(land: Land) -> None:
    created = await land.project()
    for _ in range(JWKS_MAX):
        await land.control.jwks.create(CALLER, created.project.id, NEW)
    with pytest.raises(UnprocessableError):
        await land.control.jwks.create(CALLER, created.project.id, NEW)
    with pytest.raises(NotFoundError):
        await land.control.jwks.create(CALLER, ProjectId("calm-forest-00000000"), NEW)
    _, operations = await land.control.projects.delete(CALLER, created.project.id)
    assert await told(land, created.endpoint.id) == []
    await land.finish(operations)


async def test_projects_whose_issuers_names_hang_take_no_turn_from_logins(
    land: Land, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as there are turns: several projects may be one tenant's."""
    let_go = threading.Event()
    asked: SimpleQueue[str] = SimpleQueue()

    def look_up(host: str, *_: Any, **__: Any) -> list[Any]:
        asked.put(host)
        if host.startswith("slow"):
            let_go.wait()
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.5", 443))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    plane = land.make_plane()
    slow = [
        asyncio.create_task(
            plane.control.jwks.create(
                CALLER,
                ProjectId(f"calm-forest-{number:08}"),
                dataclasses.replace(NEW, url=f"https://slow-{number}.test/"),
            )
        )
        for number in range(FETCHES_MAX)
    ]
    try:
        for _ in slow:
            await asyncio.to_thread(asked.get)
        with pytest.raises(BadRequestError, match="leads to no public address"):
            await plane.control.issuers.add(CALLER, dataclasses.replace(COMPANY, url="https://login.test"))
        assert asked.get() == "login.test"
    finally:
        let_go.set()
        await asyncio.gather(*slow, return_exceptions=True)

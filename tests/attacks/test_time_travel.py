"""Asking for the past: no way around the password, the allow list and the limits, and nothing learned on the way."""

import asyncio

import asyncpg
import pytest

from cloister.base.directory import LookUp
from cloister.base.errors import UnprocessableError
from cloister.edge.gateway import limits
from tests.fix_gateway import BRANCH, DOMAIN, ENDPOINT, PASSWORD, GatewayWorld

POINT = "neon_lsn:0/15E9A30"
NO_POINTS = ["neon_lsn:0", "neon_timestamp:yesterday", "neon_timestamp:2026-03-01T10:00:00", f"{POINT} {POINT}"]
NOBODYS_BRANCH = "br-cold-river-ef56gh78"


@pytest.fixture
def world(gateway_world: GatewayWorld) -> GatewayWorld:
    gateway_world.directory.set_password("ada", PASSWORD, BRANCH)
    gateway_world.directory.is_asleep = True
    return gateway_world


@pytest.mark.parametrize("options", [POINT, "", *NO_POINTS])
async def test_a_stranger_is_told_the_same_of_every_branch_and_point(world: GatewayWorld, options: str) -> None:
    await world.start()
    told = {await world.refusal(endpoint=name, password="wrong", options=options) for name in (BRANCH, NOBODYS_BRANCH)}
    assert len({text.partition("FATAL:")[2] for text in told}) == 1
    assert "password authentication failed" in told.pop()
    asked = {command.endpoint for command in world.directory.asked if isinstance(command, LookUp)}
    assert asked == {BRANCH, NOBODYS_BRANCH}, "of no point was anything asked"
    assert world.directory.wakes == []


@pytest.mark.parametrize(
    ("options", "sqlstate", "reason"),
    [
        ("neon_lsn:0", "22007", "malformed_point"),
        ("neon_timestamp:2026-03-01T10:00:00", "22007", "malformed_point"),
        (f"{POINT} {POINT}", "22023", "inconsistent_points"),
        ("", "22023", "no_point"),
    ],
)
async def test_what_is_no_point_is_refused_after_the_proof(
    world: GatewayWorld, options: str, sqlstate: str, reason: str
) -> None:
    await world.start()
    with pytest.raises(asyncpg.PostgresError) as raised:
        await asyncpg.connect(
            host=f"{BRANCH}.{DOMAIN}",
            port=world.port,
            user="ada",
            password=PASSWORD,
            database="app",
            ssl=world.client_tls(),
            server_settings={"options": options},
        )
    assert raised.value.sqlstate == sqlstate
    (denied,) = await world.directory.until("connection.denied")
    assert denied.reason == reason
    assert world.directory.wakes == []


async def test_a_point_that_cannot_be_reached_is_refused_with_the_reason(world: GatewayWorld) -> None:
    world.directory.wake_error = UnprocessableError("detail", public="the timestamp must lie between A and B")
    await world.start()
    assert "the timestamp must lie between A and B" in await world.refusal(endpoint=BRANCH, options=POINT)
    (denied,) = await world.directory.until("connection.denied")
    assert (denied.reason, denied.point) == ("point_unreachable", POINT.removeprefix("neon_"))


@pytest.mark.parametrize("name", [BRANCH, ENDPOINT])
async def test_an_address_outside_the_list_does_not_see_the_past(world: GatewayWorld, name: str) -> None:
    world.directory.allowed_ips = ["192.0.2.1"]
    await world.start()
    assert "is not allowed to connect" in await world.refusal(endpoint=name, options=POINT)
    assert world.directory.wakes == []


async def test_other_points_are_no_other_chances_to_guess(world: GatewayWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FAILURES_BURST", 3)
    await world.start()
    guesses = [
        world.refusal(endpoint=BRANCH, password=f"wrong{number}", options=f"neon_lsn:0/{number}")
        for number in range(1, 4)
    ]
    for told in await asyncio.gather(*guesses):
        assert "password authentication failed" in told
    assert "Too many connections attempts" in await world.refusal(endpoint=BRANCH, options="neon_lsn:0/4")


async def test_a_disabled_endpoint_has_no_past(world: GatewayWorld) -> None:
    world.directory.is_disabled = True
    await world.start()
    assert "the endpoint is disabled" in await world.refusal(options=POINT)
    assert world.directory.wakes == []

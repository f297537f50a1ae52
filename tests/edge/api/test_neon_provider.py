"""The community's Terraform provider for Neon, step by step, against the real application over the control plane of dictionaries.

What every answer of Neon's routes looks like is test_neon_contract.py's; here is what this program needs beyond it.
"""

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from cloister.base.errors import BusyError, UnprocessableError
from cloister.control.branches.protection import CANNOT_DELETE
from cloister.control.operations.model import Status
from cloister.control.projects.model import AllowedIps, ProjectSettings
from tests.edge.api.neon_provider import RETRIED, Provider, RefusedError
from tests.edge.api.world import (
    BRANCH,
    CHILD,
    ENDPOINT,
    GRANT,
    JWKS,
    NO_PROJECT,
    ORG,
    PASSWORD,
    PROJECT,
    World,
    a_database,
    an_endpoint,
    operation,
    project,
)

HOST = f"{ENDPOINT}.db.test"


@pytest.fixture
def world() -> World:
    """Passwords are stored, as the provider has it, and operations that an answer shows as running have ended since."""
    world = World()
    world.roles.stored_password = PASSWORD
    world.operations.rows = [operation(status=Status.FINISHED)]
    return world


@pytest.fixture
async def provider(world: World) -> AsyncIterator[Provider]:
    async with world.client() as client:
        yield Provider(client)


async def test_a_project_is_made_with_what_the_provider_always_sends(world: World, provider: Provider) -> None:
    state = await provider.create_project(name="shop")
    (asked,) = world.projects.created
    assert (asked.name, asked.store_passwords, asked.history_retention_seconds) == ("shop", True, 86400)
    assert state["default_branch_id"] == BRANCH
    assert (state["database_host"], state["database_host_pooler"]) == (HOST, f"{ENDPOINT}-pooler.db.test")
    assert (state["database_user"], state["database_name"]) == ("neondb_owner", "neondb")
    assert state["database_password"] == PASSWORD
    assert state["allowed_ips"] == []


async def test_what_a_project_may_be_made_with_is_understood(world: World, provider: Provider) -> None:
    await provider.create_project(
        name="shop",
        org_id=ORG,
        pg_version=18,
        branch={"name": "trunk", "database_name": "orders", "role_name": "owner"},
        default_endpoint_settings={"autoscaling_limit_min_cu": 0.5, "autoscaling_limit_max_cu": 1, "suspend_timeout_seconds": -1},
        settings={
            "quota": {"active_time_seconds": 3600},
            "allowed_ips": {"ips": ["203.0.113.0/24"], "protected_branches_only": True},
            "block_public_connections": False,
            "enable_logical_replication": True,
            "maintenance_window": {"weekdays": [1], "start_time": "01:00", "end_time": "02:00"},
        },
    )  # fmt: skip
    (asked,) = world.projects.created
    assert (asked.branch_name, asked.database_name, asked.role_name) == ("trunk", "orders", "owner")
    assert asked.settings is not None
    assert asked.settings.quota.active_time_seconds == 3600
    assert asked.settings.allowed_ips.ips == ["203.0.113.0/24"]
    assert asked.settings.enable_logical_replication
    assert asked.default_endpoint_settings is not None
    assert asked.default_endpoint_settings.suspend_timeout_seconds == -1


async def test_a_project_is_read_and_imported(world: World, provider: Provider) -> None:
    settings = ProjectSettings(allowed_ips=AllowedIps(["203.0.113.0/24"], protected_branches_only=True))
    world.projects.rows[PROJECT] = project(settings=settings)
    state = await provider.read_project(PROJECT)
    assert (state["id"], state["branch_name"], state["database_host"]) == (PROJECT, "main", HOST)
    assert (state["allowed_ips"], state["allowed_ips_protected_branches_only"]) == (["203.0.113.0/24"], True)
    assert provider.calls == [
        f"GET /projects/{PROJECT}",
        f"GET /projects/{PROJECT}/branches",
        f"GET /projects/{PROJECT}/branches/{BRANCH}/endpoints",
        f"GET /projects/{PROJECT}/branches/{BRANCH}/databases",
        f"GET /projects/{PROJECT}/branches/{BRANCH}/roles/neondb_owner/reveal_password",
    ]


async def test_the_pooler_is_where_the_provider_thinks_it_is(provider: Provider) -> None:
    """It makes that host up from the other, and asks nobody."""
    state = await provider.read_project(PROJECT)
    at = f"/projects/{PROJECT}/connection_uri?database_name=neondb&role_name=neondb_owner&pooled=true"
    assert urlsplit((await provider.ask("GET", at))["uri"]).hostname == state["database_host_pooler"]


async def test_an_allow_list_that_is_not_said_stays(world: World, provider: Provider) -> None:
    """Every change says `allowed_ips`, without addresses if the resource has none: that must not open a project to all."""
    await provider.update_project(PROJECT, {"block_public_connections": True}, name="store")
    (change,) = world.projects.changes
    assert change.name == "store"
    assert change.settings == {"allowed_ips": {}, "block_public_connections": True}


async def test_a_project_that_is_gone_leaves_the_state(provider: Provider) -> None:
    await provider.delete_project(PROJECT)
    assert await status_of(provider.read_project(NO_PROJECT)) == 404


async def test_a_branch(world: World, provider: Provider) -> None:
    state = await provider.create_branch(
        PROJECT, name="dev", parent_id=BRANCH, parent_timestamp="2026-03-04T06:00:00+01:00", protected=True
    )
    (asked,) = world.branches.created
    assert asked.point.at is not None
    assert asked.point.at.isoformat() == "2026-03-04T05:00:00+00:00"
    assert state == await provider.read_branch(PROJECT, CHILD) | {"protected": True}
    await provider.update_branch(PROJECT, CHILD, name="stage", protected=False)
    assert [(it.name, it.is_protected) for it in world.branches.changes] == [("stage", None), (None, False)]
    assert [(it["id"], it["primary"]) for it in await provider.branches(PROJECT)] == [(BRANCH, True), (CHILD, False)]
    await provider.delete_branch(PROJECT, CHILD)


async def test_an_endpoint(world: World, provider: Provider) -> None:
    await provider.create_endpoint(
        PROJECT, branch_id=BRANCH, type="read_only", region_id="self-hosted", settings={"pg_settings": {"work_mem": "64MB"}}
    )  # fmt: skip
    (asked,) = world.endpoints.created
    assert (asked.type, asked.pg_settings, asked.is_disabled) == ("read_only", {"work_mem": "64MB"}, False)
    state = await provider.read_endpoint(PROJECT, ENDPOINT)
    assert (state["host"], state["host_pooling"]) == (HOST, f"{ENDPOINT}-pooler.db.test")
    assert await provider.update_endpoint(PROJECT, state, suspend_timeout_seconds=60) == state
    (change,) = world.endpoints.changes
    assert (change.min_cu, change.max_cu, change.suspend_timeout_seconds) == (0.25, 2.0, 60)
    assert await provider.endpoints(PROJECT, BRANCH) == [state]
    await provider.delete_endpoint(PROJECT, ENDPOINT)


async def test_a_role_is_made_with_its_password_and_read_with_it(provider: Provider) -> None:
    made = await provider.create_role(PROJECT, BRANCH, "app")
    assert made == {"name": "app", "password": PASSWORD}
    assert await provider.read_role(PROJECT, BRANCH, "app") == made
    assert "app" in await provider.roles(PROJECT, BRANCH)
    await provider.delete_role(PROJECT, BRANCH, "app")
    assert await status_of(provider.read_role(PROJECT, BRANCH, "app")) == 404


async def test_a_project_that_stores_no_passwords_cannot_be_read(world: World, provider: Provider) -> None:
    """Not by this provider: 412 is nothing that it would try again or pass over."""
    world.roles.stored_password = None
    assert await status_of(provider.read_project(PROJECT)) == 412


async def test_a_database(provider: Provider) -> None:
    made = await provider.create_database(PROJECT, BRANCH, "orders", "app")
    assert made == {"name": "orders", "owner_name": "app"}
    await provider.read_database(PROJECT, BRANCH, "neondb")
    wanted = {"name": "shop", "owner_name": "app"}
    assert await provider.update_database(PROJECT, BRANCH, "neondb", wanted) == wanted
    await provider.delete_database(PROJECT, BRANCH, "neondb")


async def test_a_schedule_is_read_as_it_was_set(provider: Provider) -> None:
    """In its order, and with nothing filled in: otherwise every plan would find a change."""
    items: list[dict[str, Any]] = [
        {"frequency": "weekly", "day": 7, "hour": 4, "retention_seconds": 2_419_200},
        {"frequency": "daily", "hour": 3},
        {"frequency": "monthly", "day": 1},
    ]
    assert await provider.set_schedule(PROJECT, BRANCH, items) == items


async def test_a_schedule_is_removed_by_nobody_without_a_key(world: World, provider: Provider) -> None:
    """As the provider tries it, who says neither who asks nor what it sends, and takes the refusal for done."""
    await provider.set_schedule(PROJECT, BRANCH, [{"frequency": "daily", "hour": 3}])
    assert await provider.remove_schedule(PROJECT, BRANCH) in {401, 415}
    assert len(world.snapshots.items) == 1


async def test_a_permission(provider: Provider) -> None:
    assert await provider.grant(PROJECT, "user2@example.com") == {"id": str(GRANT), "grantee": "user2@example.com"}
    await provider.revoke(PROJECT, str(GRANT))


@pytest.mark.parametrize("where", [{}, {"org_id": ORG}, {"org_id": ORG, "project_id": PROJECT}])
async def test_a_key_is_shown_once_and_found_again_by_its_name(where: dict[str, str], provider: Provider) -> None:
    state = await provider.create_key("of terraform", **where)
    assert state["key"].startswith("napi_")
    await provider.revoke_key(state["id"], where.get("org_id"))


async def test_another_issuer(world: World, provider: Provider) -> None:
    url = "https://issuer.test/jwks"
    state = await provider.add_jwks(PROJECT, jwks_url=url, provider_name="Issuer", role_names=["authenticated"])
    assert state == {"id": str(JWKS), "project_id": PROJECT, "jwks_url": url, "provider_name": "Issuer"}
    assert len(world.jwks.created) == 1
    await provider.delete_jwks(PROJECT, str(JWKS))


async def test_the_region(provider: Provider) -> None:
    assert await provider.regions() == ["self-hosted"]


async def test_what_is_made_stands_first_however_many_there_are(world: World, provider: Provider) -> None:
    """What it calls the default endpoint and database is the oldest of the branch, among those that write."""
    world.endpoints.rows = [an_endpoint(id="ep-calm-forest-bbbbbbbb", type="read_only"), *world.endpoints.rows]
    world.databases.names = {"neondb", a_database("orders").name}
    state = await provider.read_project(PROJECT)
    assert (state["default_endpoint_id"], state["database_name"]) == (ENDPOINT, "neondb")


async def test_a_busy_project_is_tried_again(world: World, provider: Provider) -> None:
    """423 with Neon's words, and nothing was made that trying again would make twice."""
    world.branches.error = BusyError()
    assert await status_of(provider.create_branch(PROJECT, name="dev")) in RETRIED
    assert world.branches.created == []


async def test_a_refusal_says_why(world: World, provider: Provider) -> None:
    """A code and a message, both texts: the program shows them, and nothing else of the answer."""
    world.branches.error = UnprocessableError(public=CANNOT_DELETE)
    with pytest.raises(RefusedError, match=f"Error Code: .*{CANNOT_DELETE}") as refused:
        await provider.delete_branch(PROJECT, CHILD)
    # As at Neon. The provider takes it for gone, and `docs/terraform.md` says so: the platform still has it.
    assert refused.value.status == 422


async def test_what_somebody_else_deleted_meanwhile_leaves_the_state_with_the_next_look(provider: Provider) -> None:
    """Deleted twice is 204 without a body, as at Neon. The program stops at that, and then reads that there is nothing."""
    with pytest.raises(ValueError, match="Expecting value"):
        await provider.delete_role(PROJECT, BRANCH, "gone")
    assert await status_of(provider.read_role(PROJECT, BRANCH, "gone")) == 404


@pytest.mark.parametrize("of", [f"/organizations/{ORG}/vpc/region/self-hosted", f"/projects/{PROJECT}"])
async def test_a_private_network_of_somebody_elses_cloud_is_refused(of: str, provider: Provider) -> None:
    """`neon_vpc_endpoint_assignment` and `neon_vpc_endpoint_restriction`."""
    assert await status_of(provider.ask("POST", f"{of}/vpc_endpoints/vpce-1", {"label": "a"})) == 404


async def status_of(step: Any) -> int:
    with pytest.raises(RefusedError) as refused:
        await step
    return refused.value.status

"""The verbs on projects, from the request to the world."""

import pytest

from cloister.base.errors import (
    BadRequestError,
    BusyError,
    NotFoundError,
    UnavailableError,
    UnprocessableError,
)
from cloister.base.ids import OrgId
from cloister.control.calling import Page
from cloister.control.operations.model import Status
from cloister.control.projects.model import AllowedIps, NewProject, ProjectChange, ProjectSettings
from tests.audited import raised
from tests.control.land import CALLER, ORG, Land


async def test_a_project_without_a_pool_makes_its_key_volume_and_compute(land: Land) -> None:
    created = await land.project()
    assert [operation.action for operation in created.operations] == ["create_timeline", "start_compute"]
    assert (created.endpoint.state, created.branch.state) == ("init", "init")
    assert created.project.name == created.project.id
    assert land.node.calls == ["CreateVolume", "StartCompute"]
    row = await land.row(created.endpoint.id)
    assert (row["state"], row["is_clean"]) == ("active", False)
    catalog = land.node.catalog_of(created.endpoint.id)
    assert catalog.roles["neondb_owner"].verifier == created.role.verifier
    assert (await land.control.branches.default(created.project.id)).state == "ready"


async def test_a_pooled_volume_is_taken_and_its_names_are_changed(land: Land) -> None:
    while await land.plane.pool.fill_one():
        pass
    assert land.node.calls == ["CreateVolume"] * land.settings.pool_volumes
    created = await land.project(role_name="o'hara", database_name="x;y")
    assert land.node.calls.count("CreateVolume") == land.settings.pool_volumes
    assert land.node.catalog_of(created.endpoint.id).databases == {"x;y": "o'hara"}
    assert await land.plane.pool.fill_one(), "what was taken is replaced"


async def test_the_first_client_may_come_before_the_operations_have_ended(land: Land) -> None:
    created = await land.control.projects.create(CALLER, NewProject(role_name="ada"))
    route = await land.look_up(created.endpoint.id, "ada")
    assert not route.is_doomed
    assert route.verifier == created.role.verifier
    assert route.socket_dir is None
    compute = await land.plane.waker.wake(created.endpoint.id)
    assert land.node.catalog_of(compute.endpoint_id).roles["ada"].verifier == created.role.verifier


async def test_a_failed_creation_leaves_nothing(land: Land) -> None:
    land.node.failing["CreateVolume"] = UnprocessableError("no")
    created = await land.control.projects.create(CALLER, NewProject())
    await land.finish(created.operations[:1], Status.FAILED)
    await land.finish(created.operations[1:], Status.SKIPPED)
    assert land.node.images == {}
    assert created.project.id in land.keys.destroyed
    with pytest.raises(NotFoundError):
        await land.control.projects.get(created.project.id)


async def test_the_engine_version_must_be_one_that_the_node_has(land: Land) -> None:
    with pytest.raises(BadRequestError):
        await land.control.projects.create(CALLER, NewProject(pg_version=15))
    assert (await land.project(pg_version=17)).project.pg_version == 17


@pytest.mark.parametrize(
    "new",
    [
        NewProject(name=""),
        NewProject(name="x" * 257),
        NewProject(name="nul\0"),
        NewProject(role_name="cloister_admin"),
        NewProject(role_name="pg_evil"),
        NewProject(role_name="é" * 32),
        NewProject(database_name="template1"),
        NewProject(region_id="aws-us-east-2"),
        NewProject(history_retention_seconds=2_592_001),
        NewProject(settings=ProjectSettings(allowed_ips=AllowedIps(ips=["everywhere"]))),
        NewProject(org_id=OrgId("org-no-such-00000000")),
    ],
    ids=lambda new: str(new)[11:60],
)
async def test_what_cannot_be_is_refused_and_leaves_nothing(land: Land, new: NewProject) -> None:
    with pytest.raises((BadRequestError, UnprocessableError, NotFoundError)):
        await land.control.projects.create(CALLER, new)
    assert await land.control.projects.find([OrgId(ORG)], Page(), None) == []
    assert await land.actions() == []


async def test_pages_follow_each_other_and_end(land: Land) -> None:
    ids = [(await land.project(name=f"project {number}")).project.id for number in range(5)]
    seen: list[str] = []
    cursor: str | None = None
    while page := await land.control.projects.find([OrgId(ORG)], Page(2, cursor), None):
        seen += [project.id for project in page]
        cursor = page[-1].id
    assert seen == ids[::-1]
    found = await land.control.projects.find([OrgId(ORG)], Page(), "PROJECT 3")
    assert [project.id for project in found] == [ids[3]]
    assert await land.control.projects.find([OrgId("org-other-one-00000000")], Page(), None) == []


async def test_a_cursor_does_not_tell_whether_somebody_else_has_such_a_project(land: Land) -> None:
    """Else their creation could be told apart from their absence, and dated by one's own."""
    await land.project()
    theirs = (await land.project()).project.id
    async with land.database.transaction() as tx:
        await tx.execute("INSERT INTO organization (id, name) VALUES ('org-wild-river-00000001', 'Wild')")
        await tx.execute("UPDATE project SET org_id = 'org-wild-river-00000001' WHERE id = $1", theirs)
    for cursor in (theirs, "calm-forest-99999999"):
        assert await land.control.projects.find([OrgId(ORG)], Page(5, cursor), None) == []
    assert len(await land.control.projects.find([OrgId(ORG)], Page(5, theirs), None, project_ids=[theirs])) == 1


async def test_settings_are_merged_key_by_key_and_gateways_look_again(land: Land) -> None:
    gateway = land.connect_gateway()
    created = await land.project()
    project_id = created.project.id
    await land.control.projects.update(
        CALLER, project_id, ProjectChange(settings={"allowed_ips": {"ips": ["192.0.2.0/24"]}})
    )
    project, _ = await land.control.projects.update(
        CALLER, project_id, ProjectChange(name="new", settings={"enable_logical_replication": True})
    )
    assert project.name == "new"
    assert project.settings.allowed_ips == AllowedIps(ips=["192.0.2.0/24"])
    assert project.settings.enable_logical_replication
    assert gateway.names().count("Invalidate") == 2
    with pytest.raises(BadRequestError):
        await land.control.projects.update(CALLER, project_id, ProjectChange(settings={"allowed_ips": {"ips": [1]}}))
    with pytest.raises(BadRequestError):
        await land.control.projects.update(CALLER, project_id, ProjectChange(settings={"allowed_ips": {"ips": ["x"]}}))
    assert (await land.control.projects.get(project_id)).settings == project.settings


async def test_what_a_change_gives_away_is_in_the_log_in_a_word(land: Land) -> None:
    """For those who watch it. What does the opposite has none."""
    created = await land.project()
    one, both = ({"allowed_ips": {"ips": ips}} for ips in (["192.0.2.1"], ["192.0.2.1", "192.0.2.2"]))
    day = 86_400
    for change, expected in (
        (ProjectChange(settings=both), {}),
        (ProjectChange(settings=one), {}),
        (ProjectChange(settings=both), {"widens": "allow_list"}),
        (ProjectChange(history_retention_seconds=7 * day), {}),
        (ProjectChange(history_retention_seconds=7 * day), {}),
        (ProjectChange(history_retention_seconds=7 * day - 1), {"shortens": "history"}),
    ):
        await land.control.projects.update(CALLER, created.project.id, change)
        told = (await land.details_of("project.update"))[-1]
        assert {name: told[name] for name in ("widens", "loosens", "shortens") if name in told} == expected
    assert raised(await land.events("project.update")) == {"allow-list-widened", "retention-shortened"}


async def test_deleting_destroys_the_keys_and_the_bytes(land: Land) -> None:
    created = await land.project()
    project, operations = await land.control.projects.delete(CALLER, created.project.id, hard=True)
    with pytest.raises(NotFoundError):
        await land.control.projects.get(project.id)
    assert (await land.look_up(created.endpoint.id, "neondb_owner")).is_known is False
    await land.finish(operations)
    assert (land.node.images, land.node.computes, land.keys.enabled) == ({}, {}, set())
    with pytest.raises(NotFoundError):
        await land.plane.waker.wake(created.endpoint.id)
    async with land.database.reading() as tx:
        assert await tx.fetch_value("SELECT state FROM volume WHERE project_id = $1", project.id) == "deleted"


async def test_a_protected_branch_protects_its_project_and_its_endpoint(land: Land) -> None:
    created = await land.project()
    async with land.database.transaction() as tx:
        await tx.execute("UPDATE branch SET is_protected = true WHERE id = $1", created.branch.id)
    with pytest.raises(UnprocessableError, match=r"protected"):
        await land.control.projects.delete(CALLER, created.project.id)
    with pytest.raises(UnprocessableError, match=r"protected"):
        await land.control.endpoints.delete(CALLER, created.project.id, created.endpoint.id)
    assert created.project.id in land.node.images


async def test_conflicting_work_is_told_to_come_back(land: Land) -> None:
    land.node.failing["StartCompute"] = UnavailableError("later")
    created = await land.control.projects.create(CALLER, NewProject())
    with pytest.raises(BusyError):
        await land.control.projects.delete(CALLER, created.project.id)
    with pytest.raises(BusyError):
        await land.control.endpoints.suspend(CALLER, created.project.id, created.endpoint.id)


async def test_every_change_is_in_the_audit_log_once(land: Land) -> None:
    created = await land.project()
    await land.control.projects.update(CALLER, created.project.id, ProjectChange(name="n"))
    _, operations = await land.control.projects.delete(CALLER, created.project.id)
    await land.finish(operations)
    assert await land.actions() == [
        "project.create", "compute.start", "project.update", "project.delete", "compute.stop",
    ]  # fmt: skip


async def test_the_password_is_in_no_row_and_no_event(land: Land) -> None:
    created = await land.project(store_passwords=True)
    password = created.password.reveal().encode()
    async with land.database.reading() as tx:
        for table in ("operation", "pg_role", "audit_event", "project"):
            rows = await tx.fetch(f"SELECT t::text FROM {table} t")
            assert rows
            assert all(password not in row["t"].encode() and password.hex() not in row["t"] for row in rows)

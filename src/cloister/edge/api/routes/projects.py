"""Projects, and how to connect to them."""

from typing import Annotated

import msgspec

from cloister.base.errors import BadRequestError, NotFoundError, PreconditionError
from cloister.base.ids import OrgId
from cloister.control.branches.model import Branch
from cloister.control.calling import Page
from cloister.control.computes.model import Endpoint
from cloister.control.projects.model import NewProject, ProjectChange
from cloister.edge.api import paths
from cloister.edge.api.call import Call, NoBody, NoQuery, Plain, Versioned
from cloister.edge.api.endpoint import endpoint
from cloister.edge.api.wire import branches as branch_wire
from cloister.edge.api.wire import connections, databases, endpoints, projects, roles
from cloister.edge.api.wire.common import CursorPage
from cloister.edge.api.wire.operations import operations
from cloister.trust.access.permissions import Permission
from cloister.trust.audit import Action


class ListProjects(msgspec.Struct, frozen=True):
    cursor: str | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=400)] = 10
    search: Annotated[str, msgspec.Meta(max_length=256)] | None = None
    org_id: str | None = None
    recoverable: bool = False


@endpoint("GET", "/projects", permission=Permission.PROJECT_READ, audit=Action.PROJECT_LIST)
async def list_projects(call: Call[NoBody, ListProjects]) -> projects.ProjectList:
    query = call.query
    org_ids, project_ids = call.org_ids, call.project_ids
    if query.org_id is not None:
        org_ids, project_ids = call.within(paths.org_id(query.org_id))
    cursor = None if query.cursor is None else paths.project_id(query.cursor)
    page = Page(query.limit, cursor)
    find = call.control.projects.find_deleted if query.recoverable else call.control.projects.find
    found = await find(org_ids, page, query.search, project_ids=project_ids)
    return projects.ProjectList(
        projects=[projects.list_item(it, call.settings) for it in found],
        applications={},
        integrations={},
        pagination=CursorPage(cursor=found[-1].id) if found else None,
    )


class ListShared(msgspec.Struct, frozen=True):
    cursor: str | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=400)] = 10
    search: Annotated[str, msgspec.Meta(max_length=256)] | None = None


@endpoint("GET", "/projects/shared", permission=Permission.PROJECT_READ, audit=Action.PROJECT_LIST)
async def list_shared_projects(call: Call[NoBody, ListShared]) -> projects.SharedProjectList:
    """Those of organizations in which the principal may not read all projects."""
    query = call.query
    cursor = None if query.cursor is None else paths.project_id(query.cursor)
    page = Page(query.limit, cursor)
    found = await call.control.projects.find([], page, query.search, project_ids=call.project_ids)
    return projects.SharedProjectList(
        projects=[projects.list_item(it, call.settings) for it in found],
        pagination=CursorPage(cursor=found[-1].id) if found else None,
    )


@endpoint("POST", "/projects", permission=Permission.PROJECT_CREATE, audit=Action.PROJECT_CREATE, status=201)
async def create_project(call: Call[projects.CreateProject, NoQuery]) -> projects.ProjectCreatedAnswer:
    body = call.body.project
    branch = body.branch or projects.NewBranchBody()
    new = NewProject(
        name=body.name,
        org_id=_organization(call, body.org_id),
        pg_version=body.pg_version,
        region_id=body.region_id,
        branch_name=branch.name or "main",
        role_name=paths.role_name("neondb_owner" if branch.role_name is None else branch.role_name),
        database_name=paths.database_name("neondb" if branch.database_name is None else branch.database_name),
        store_passwords=body.store_passwords,
        history_retention_seconds=body.history_retention_seconds,
        settings=projects.project_settings(body.settings),
        default_endpoint_settings=projects.endpoint_defaults(body),
    )
    created = await call.control.projects.create(call.caller, new)
    password = created.password.reveal()
    return projects.ProjectCreatedAnswer(
        project=projects.project(created.project, call.settings, call.now),
        connection_uris=[
            connections.details(call.settings, created.endpoint.id, created.role.name, created.database.name, password)
        ],
        roles=[roles.role(created.role, password=password)],
        databases=[databases.database(created.database)],
        operations=operations(created.operations, call.now),
        branch=branch_wire.branch(created.branch),
        endpoints=[endpoints.endpoint(created.endpoint, call.settings)],
    )


@endpoint("GET", "/projects/{project_id}", permission=Permission.PROJECT_READ, audit=Action.PROJECT_GET, versioned=True)
async def get_project(call: Plain) -> Versioned[projects.ProjectAnswer]:
    assert call.project is not None
    answer = projects.ProjectAnswer(project=projects.project(call.project, call.settings, call.now))
    return Versioned(answer, call.project.version)


@endpoint(
    "PATCH",
    "/projects/{project_id}",
    permission=Permission.PROJECT_UPDATE,
    audit=Action.PROJECT_UPDATE,
    versioned=True,
)
async def update_project(call: Call[projects.UpdateProject, NoQuery]) -> Versioned[projects.ProjectOperations]:
    body = call.body.project
    change = ProjectChange(
        name=body.name,
        history_retention_seconds=body.history_retention_seconds,
        settings=projects.given(body.settings),
        default_endpoint_settings=projects.given(body.default_endpoint_settings),
    )
    project, started = await call.control.projects.update(call.caller, call.project_id, change)
    answer = projects.ProjectOperations(
        project=projects.project(project, call.settings, call.now), operations=operations(started, call.now)
    )
    return Versioned(answer, project.version)


class DeleteQuery(msgspec.Struct, frozen=True):
    hard_delete: bool = False
    """Cloister's, by the name that Neon has for branches."""


@endpoint(
    "DELETE",
    "/projects/{project_id}",
    permission=Permission.PROJECT_DELETE,
    audit=Action.PROJECT_DELETE,
    and_deleted=True,
    versioned=True,
)
async def delete_project(call: Call[NoBody, DeleteQuery]) -> projects.ProjectOperations:
    project, started = await call.control.projects.delete(call.caller, call.project_id, hard=call.query.hard_delete)
    return projects.ProjectOperations(
        project=projects.project(project, call.settings, call.now), operations=operations(started, call.now)
    )


@endpoint(
    "POST",
    "/projects/{project_id}/recover",
    permission=Permission.PROJECT_DELETE,
    audit=Action.PROJECT_RECOVER,
    and_deleted=True,
)
async def recover_project(call: Plain) -> projects.ProjectRecovered:
    project, branches = await call.control.projects.recover(call.caller, call.project_id)
    return projects.ProjectRecovered(
        project=projects.project(project, call.settings, call.now),
        branches=[branch_wire.branch(it) for it in branches],
    )


class ConnectionUriQuery(msgspec.Struct, frozen=True, kw_only=True):
    database_name: str
    role_name: str
    branch_id: str | None = None
    endpoint_id: str | None = None
    pooled: bool = False


@endpoint(
    "GET",
    "/projects/{project_id}/connection_uri",
    permission=Permission.CONNECTION_URI_READ,
    audit=Action.CONNECTION_URI_READ,
)
async def get_connection_uri(call: Call[NoBody, ConnectionUriQuery]) -> connections.ConnectionUri:
    query = call.query
    target, branch = await _target(call)
    role = await call.control.roles.get(call.project_id, branch.id, paths.role_name(query.role_name))
    database = await call.control.databases.get(call.project_id, branch.id, paths.database_name(query.database_name))
    password = None
    stores_passwords = call.project is not None and call.project.store_passwords
    # Seeing the password is a permission of its own, and recorded as such.
    if stores_passwords and call.also_permits(Permission.ROLE_REVEAL_PASSWORD):
        try:
            secret = await call.control.roles.reveal_password(call.caller, call.project_id, branch.id, role.name)
            password = secret.reveal()
        except PreconditionError:
            password = None  # set in SQL: the platform never saw it
    return connections.ConnectionUri(
        uri=connections.uri(call.settings, target.id, role.name, database.name, password, is_pooled=query.pooled)
    )


async def _target(call: Call[NoBody, ConnectionUriQuery]) -> tuple[Endpoint, Branch]:
    """The endpoint asked for, or the writer of the branch asked for, or of the default branch."""
    control, query = call.control, call.query
    if query.endpoint_id is not None:
        target = await control.endpoints.get(call.project_id, paths.endpoint_id(query.endpoint_id))
        if query.branch_id is not None and query.branch_id != target.branch_id:
            raise NotFoundError(public="endpoint not found")
        return target, await control.branches.get(call.project_id, target.branch_id)
    branch = (
        await control.branches.default(call.project_id)
        if query.branch_id is None
        else await control.branches.get(call.project_id, paths.branch_id(query.branch_id))
    )
    for target in await control.endpoints.find(call.project_id, branch.id):
        if target.type == "read_write":
            return target, branch
    raise NotFoundError(public="endpoint not found")


def _organization(call: Call[projects.CreateProject, NoQuery], asked: str | None) -> OrgId:
    """The organization asked for, or the only one there is: on a server of one's own nobody should have to name it."""
    if asked is not None:
        return _permitted(call.org_ids, asked)
    if len(call.org_ids) > 1:
        raise BadRequestError(public="org_id is required, you can find it on your organization settings page")
    return call.org_ids[0]


def _permitted(org_ids: tuple[OrgId, ...], asked: str) -> OrgId:
    org_id = paths.org_id(asked)
    if org_id not in org_ids:
        raise NotFoundError(public="organization not found")
    return org_id

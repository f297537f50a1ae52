"""What Neon's API has and this version does not.

Things that Neon's own command line asks about and that Cloister will never have (buckets, functions, credentials, VPC
endpoints, libraries to preload) are answered with an empty list, or that command would stop.
"""

from cloister.base.errors import NotFoundError
from cloister.edge.api.call import Plain
from cloister.edge.api.endpoint import endpoint
from cloister.edge.api.wire.common import Wire
from cloister.trust.access.permissions import Permission
from cloister.trust.audit import Action

_BRANCH = "/projects/{project_id}/branches/{branch_id}"


class Buckets(Wire, frozen=True, kw_only=True):
    buckets: list[str]


class Functions(Wire, frozen=True, kw_only=True):
    functions: list[str]


class Credentials(Wire, frozen=True, kw_only=True):
    credentials: list[str]


class VpcEndpoints(Wire, frozen=True, kw_only=True):
    endpoints: list[str]


class PreloadLibraries(Wire, frozen=True, kw_only=True):
    libraries: list[str]


@endpoint("GET", _BRANCH + "/buckets", permission=Permission.BRANCH_READ, audit=Action.BRANCH_GET)
async def list_buckets(call: Plain) -> Buckets:  # noqa: ARG001
    return Buckets(buckets=[])


@endpoint("GET", _BRANCH + "/functions", permission=Permission.BRANCH_READ, audit=Action.BRANCH_GET)
async def list_functions(call: Plain) -> Functions:  # noqa: ARG001
    return Functions(functions=[])


@endpoint("GET", _BRANCH + "/credentials", permission=Permission.BRANCH_READ, audit=Action.BRANCH_GET)
async def list_credentials(call: Plain) -> Credentials:  # noqa: ARG001
    return Credentials(credentials=[])


@endpoint("GET", "/projects/{project_id}/vpc_endpoints", permission=Permission.PROJECT_READ, audit=Action.PROJECT_GET)
async def list_project_vpc_endpoints(call: Plain) -> VpcEndpoints:  # noqa: ARG001
    return VpcEndpoints(endpoints=[])


@endpoint(
    "GET", "/organizations/{org_id}/vpc/vpc_endpoints", permission=Permission.ORGANIZATION_READ, audit=Action.USER_GET
)
async def list_vpc_endpoints(call: Plain) -> VpcEndpoints:  # noqa: ARG001
    return VpcEndpoints(endpoints=[])


@endpoint(
    "GET",
    "/organizations/{org_id}/vpc/region/{region_id}/vpc_endpoints",
    permission=Permission.ORGANIZATION_READ,
    audit=Action.USER_GET,
)
async def list_vpc_endpoints_of_region(call: Plain) -> VpcEndpoints:
    if call.path["region_id"] != call.settings.region_id:
        raise NotFoundError(public="region not found")
    return VpcEndpoints(endpoints=[])


@endpoint(
    "GET",
    "/projects/{project_id}/available_preload_libraries",
    permission=Permission.PROJECT_READ,
    audit=Action.PROJECT_GET,
)
async def list_preload_libraries(call: Plain) -> PreloadLibraries:  # noqa: ARG001
    """None may be chosen: what a server preloads is the platform's."""
    return PreloadLibraries(libraries=[])

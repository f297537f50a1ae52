"""What Neon's API has and this version does not.

Things that Neon's own command line asks about on every branch and that Cloister will never have (buckets, functions,
credentials) are answered with an empty list, or that command would stop.
"""

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


@endpoint("GET", _BRANCH + "/buckets", permission=Permission.BRANCH_READ, audit=Action.BRANCH_GET)
async def list_buckets(call: Plain) -> Buckets:  # noqa: ARG001
    return Buckets(buckets=[])


@endpoint("GET", _BRANCH + "/functions", permission=Permission.BRANCH_READ, audit=Action.BRANCH_GET)
async def list_functions(call: Plain) -> Functions:  # noqa: ARG001
    return Functions(functions=[])


@endpoint("GET", _BRANCH + "/credentials", permission=Permission.BRANCH_READ, audit=Action.BRANCH_GET)
async def list_credentials(call: Plain) -> Credentials:  # noqa: ARG001
    return Credentials(credentials=[])

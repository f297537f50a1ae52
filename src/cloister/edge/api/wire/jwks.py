"""Key sets of other issuers."""

from typing import Annotated
from uuid import UUID

import msgspec

from cloister.control.jwks.model import Jwks
from cloister.control.jwks.service import ROLES_MAX
from cloister.edge.api.wire.common import Moment, Request, Wire, moment
from cloister.edge.api.wire.operations import OperationView

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
RoleName = Annotated[str, msgspec.Meta(min_length=1, max_length=63)]


class AddJwks(Request, frozen=True, kw_only=True):
    """`jwt_issuer` is Cloister's own. `skip_role_creation` is understood: no roles are made, either way."""

    jwks_url: Annotated[str, msgspec.Meta(min_length=9, max_length=2048)]
    provider_name: Text
    branch_id: str | None = None
    jwt_audience: Text | None = None
    jwt_issuer: Annotated[str, msgspec.Meta(min_length=1, max_length=2048)] | None = None
    role_names: Annotated[list[RoleName], msgspec.Meta(max_length=ROLES_MAX)] | None = None
    skip_role_creation: bool = False


class JwksView(Wire, frozen=True, kw_only=True):
    id: UUID
    project_id: str
    branch_id: str | None = None
    jwks_url: str
    provider_name: str
    jwt_audience: str | None = None
    jwt_issuer: str | None = None
    role_names: list[str]
    created_at: Moment
    updated_at: Moment


class JwksList(Wire, frozen=True, kw_only=True):
    jwks: list[JwksView]


class JwksAnswer(Wire, frozen=True, kw_only=True):
    """`operations` is empty: it is done."""

    jwks: JwksView
    operations: list[OperationView]


def jwks(it: Jwks) -> JwksView:
    return JwksView(
        id=it.id,
        project_id=it.project_id,
        branch_id=it.branch_id,
        jwks_url=it.url,
        provider_name=it.provider_name,
        jwt_audience=it.audience,
        jwt_issuer=it.issuer,
        role_names=list(it.role_names),
        created_at=moment(it.created_at),
        updated_at=moment(it.updated_at),
    )

"""Roles."""

from cloister.control.roles.model import Role
from cloister.edge.api.wire.common import Moment, Request, Wire, moment
from cloister.edge.api.wire.operations import OperationView


class RoleView(Wire, frozen=True, kw_only=True):
    branch_id: str
    name: str
    password: str | None = None
    """Only in the answer that creates or resets it."""
    protected: bool
    authentication_method: str
    created_at: Moment
    updated_at: Moment


class RoleAnswer(Wire, frozen=True, kw_only=True):
    role: RoleView


class RoleList(Wire, frozen=True, kw_only=True):
    roles: list[RoleView]


class RoleOperations(Wire, frozen=True, kw_only=True):
    role: RoleView
    operations: list[OperationView]


class RolePassword(Wire, frozen=True, kw_only=True):
    password: str


class NewRoleBody(Request, frozen=True, kw_only=True):
    name: str
    no_login: bool | None = None


class CreateRole(Request, frozen=True, kw_only=True):
    role: NewRoleBody


def role(it: Role, *, password: str | None = None) -> RoleView:
    return RoleView(
        branch_id=it.branch_id,
        name=it.name,
        password=password,
        protected=False,
        authentication_method="password" if it.can_login else "no_login",
        created_at=moment(it.created_at),
        updated_at=moment(it.updated_at),
    )

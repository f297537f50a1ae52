"""Databases."""

from cloister.control.roles.model import DatabaseInfo
from cloister.edge.api.wire.common import Moment, Request, Wire, moment
from cloister.edge.api.wire.operations import OperationView


class DatabaseView(Wire, frozen=True, kw_only=True):
    id: int
    branch_id: str
    name: str
    owner_name: str
    created_at: Moment
    updated_at: Moment


class DatabaseAnswer(Wire, frozen=True, kw_only=True):
    database: DatabaseView


class DatabaseList(Wire, frozen=True, kw_only=True):
    databases: list[DatabaseView]


class DatabaseOperations(Wire, frozen=True, kw_only=True):
    database: DatabaseView
    operations: list[OperationView]


class NewDatabaseBody(Request, frozen=True, kw_only=True):
    name: str
    owner_name: str


class CreateDatabase(Request, frozen=True, kw_only=True):
    database: NewDatabaseBody


class DatabaseChangeBody(Request, frozen=True, kw_only=True):
    name: str | None = None
    owner_name: str | None = None


class UpdateDatabase(Request, frozen=True, kw_only=True):
    database: DatabaseChangeBody


def database(it: DatabaseInfo) -> DatabaseView:
    return DatabaseView(
        id=it.id,
        branch_id=it.branch_id,
        name=it.name,
        owner_name=it.owner_name,
        created_at=moment(it.created_at),
        updated_at=moment(it.updated_at),
    )

"""Schemas: what is in a database beside its data, and how two branches differ in it."""

import asyncio
from typing import Literal

import msgspec

from cloister.base.errors import UnprocessableError
from cloister.control.branches.difference import unified_diff
from cloister.control.branches.model import Branch, Point
from cloister.edge.api import paths, points
from cloister.edge.api.call import Call, NoBody
from cloister.edge.api.endpoint import endpoint
from cloister.edge.api.wire import schemas as wire
from cloister.trust.access.permissions import Permission
from cloister.trust.audit import Action

_BRANCH = "/projects/{project_id}/branches/{branch_id}"


class SchemaQuery(msgspec.Struct, frozen=True, kw_only=True):
    db_name: str
    lsn: points.Lsn | None = None
    timestamp: points.Timestamp | None = None
    format: Literal["sql", "json"] = "sql"


@endpoint("GET", _BRANCH + "/schema", permission=Permission.DATABASE_READ, audit=Action.SCHEMA_READ)
async def get_schema(call: Call[NoBody, SchemaQuery]) -> wire.SchemaAnswer:
    query = call.query
    it = await call.control.branches.get(call.project_id, call.branch_id)
    database, point = paths.database_name(query.db_name), points.point(query.lsn, query.timestamp)
    if query.format == "json":
        tables = await call.control.schemas.tables(call.caller, call.project_id, it.id, database, point)
        return wire.SchemaAnswer(json=wire.tables_answer(tables))
    sql = await call.control.schemas.sql(call.caller, call.project_id, it.id, database, point)
    return wire.SchemaAnswer(sql=sql)


class CompareQuery(msgspec.Struct, frozen=True, kw_only=True):
    db_name: str
    base_branch_id: str | None = None
    """What to compare with. Default: the branch's parent."""
    lsn: points.Lsn | None = None
    timestamp: points.Timestamp | None = None
    base_lsn: points.Lsn | None = None
    base_timestamp: points.Timestamp | None = None


@endpoint("GET", _BRANCH + "/compare_schema", permission=Permission.DATABASE_READ, audit=Action.SCHEMA_READ)
async def compare_schema(call: Call[NoBody, CompareQuery]) -> wire.SchemaDifference:
    query = call.query
    database = paths.database_name(query.db_name)
    it = await call.control.branches.get(call.project_id, call.branch_id)
    point = points.point(query.lsn, query.timestamp)
    base_point = points.point(query.base_lsn, query.base_timestamp, prefix="base_")
    base = await _base_of(call, it)
    before = await _sql(call, base, database, base_point)
    after = await _sql(call, it, database, point)
    # Half a second at worst, and not on the loop that everybody waits for.
    diff = await asyncio.to_thread(unified_diff, before, after, before_name=f"a/{database}", after_name=f"b/{database}")
    return wire.SchemaDifference(diff=diff)


async def _base_of(call: Call[NoBody, CompareQuery], it: Branch) -> Branch:
    base_id = paths.branch_id(call.query.base_branch_id) if call.query.base_branch_id else it.parent_id
    if base_id is None:
        raise UnprocessableError(public="a root branch has no parent to be compared with: give base_branch_id")
    return await call.control.branches.get(call.project_id, base_id)


async def _sql(call: Call[NoBody, CompareQuery], it: Branch, database: str, point: Point) -> str:
    return await call.control.schemas.sql(call.caller, call.project_id, it.id, database, point)

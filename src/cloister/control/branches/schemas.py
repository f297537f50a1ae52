"""The schema of a branch's database, as SQL or as its tables: told by pg_dump or psql, run by the node on the branch's compute
(`node/dumps.py`).

The compute is woken if it sleeps, and not found idle meanwhile. The schema as it was at a point needs none: the node recovers the
branch's data to there, aside, and looks at that. What comes back was said by a tenant's server and is text:
it is decoded, cut or held to a shape, and nothing in it is believed. Of the program's own words only a refusal is looked at, to
give it a name.
"""

import re
import unicodedata
from typing import Final, NoReturn

from cloister.base.clock import Clock
from cloister.base.database import Database
from cloister.base.errors import NotFoundError, PreconditionError, UnprocessableError
from cloister.base.ids import BranchId, EndpointId, ProjectId, new_timeline_id
from cloister.control.branches import store, timelines
from cloister.control.branches.children import origin_of
from cloister.control.branches.model import HEAD, Point
from cloister.control.branches.tables import Table, parse_tables
from cloister.control.calling import Caller
from cloister.control.computes import store as computes
from cloister.control.computes.agent import Agent
from cloister.control.computes.model import Endpoint
from cloister.control.computes.wake import Waker
from cloister.control.roles.names import PLATFORM_DATABASES
from cloister.node.commands import DumpSchema, DumpSchemaAt, SchemaDump, SchemaForm

DUMP_CALL_TIMEOUT_S: Final = 50.0
# Two run at once, each for at most 20 s; who waits longer is told to come again. Clients wait a minute.

_VERSIONS: Final = ("-- Dumped from database version ", "-- Dumped by pg_dump version ")
_KEY: Final = re.compile(r"\\restrict ([0-9A-Za-z]{1,100})")

_WORDS_MAX: Final = 300
_SOCKET: Final = re.compile(r'connection to server on socket "[^"]*" failed: ')


class SchemaService:
    def __init__(self, database: Database, agent: Agent, waker: Waker, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._agent = agent
        self._waker = waker

    async def sql(
        self, caller: Caller, project_id: ProjectId, branch_id: BranchId, database: str, point: Point = HEAD
    ) -> str:
        """Raises NotFoundError, UnprocessableError, UnavailableError, ExhaustedError. The wake is recorded as the platform's,
        the reading by the front door as the caller's."""
        del caller
        return comparable(await self._read(project_id, branch_id, database, point, "sql"))

    async def tables(
        self, caller: Caller, project_id: ProjectId, branch_id: BranchId, database: str, point: Point = HEAD
    ) -> list[Table]:
        """As `sql`."""
        del caller
        return parse_tables(await self._read(project_id, branch_id, database, point, "tables"))

    async def _read(
        self, project_id: ProjectId, branch_id: BranchId, database: str, point: Point, form: SchemaForm
    ) -> str:
        if database in PLATFORM_DATABASES:
            raise NotFoundError(f"{database} is the platform's", public="database not found")
        if point.is_head:
            dump = await self._now(project_id, branch_id, database, form)
        else:
            dump = await self._then(project_id, branch_id, database, point, form)
        return dump.text.decode(errors="replace")

    async def _now(self, project_id: ProjectId, branch_id: BranchId, database: str, form: SchemaForm) -> SchemaDump:
        async with self._database.reading() as tx:
            await store.get(tx, project_id, branch_id)
            endpoint_id = _suitable(await computes.find(tx, project_id, branch_id))
            pg_version = (await timelines.place_of(tx, project_id)).pg_version
        async with self._waker.awake(endpoint_id):
            return await self._told(
                DumpSchema(endpoint_id=endpoint_id, pg_version=pg_version, database=database, form=form)
            )

    async def _then(
        self, project_id: ProjectId, branch_id: BranchId, database: str, point: Point, form: SchemaForm
    ) -> SchemaDump:
        """Which of the branch's timelines holds an LSN, only the node can say."""
        async with self._database.reading() as tx:
            branch = await store.get(tx, project_id, branch_id)
            origin = await origin_of(tx, branch, point, self._clock.now())
            place = await timelines.place_of(tx, project_id)
        outside: PreconditionError | None = None
        for source_id in origin.sources:
            command = DumpSchemaAt(
                project_id=project_id,
                source_id=source_id,
                target_id=new_timeline_id(),
                pg_version=place.pg_version,
                uid=place.uid,
                database=database,
                form=form,
                lsn=origin.point.lsn,
                at=None if origin.point.at is None else origin.point.at.timestamp(),
            )
            try:
                return await self._told(command)
            except PreconditionError as error:
                outside = outside or error
        raise UnprocessableError(
            f"{point} of {branch_id}: {outside}",
            public="the point is outside the branch's history" if outside is None else outside.public,
        )

    async def _told(self, command: DumpSchema | DumpSchemaAt) -> SchemaDump:
        try:
            return await self._agent.call(command, timeout_s=DUMP_CALL_TIMEOUT_S)
        except UnprocessableError as error:
            _refused(str(error))


def comparable(text: str) -> str:
    """Without what pg_dump's head has that differs from run to run: versions, and the random key that keeps psql from
    commands hidden in the rest. This text is for reading and comparing."""
    lines = text.split("\n")
    length = next(
        (n for n, line in enumerate(lines) if line and not line.startswith(("--", "\\restrict "))), len(lines)
    )
    head, rest = lines[:length], lines[length:]
    keys = [match[1] for line in head if (match := _KEY.fullmatch(line))]
    unwanted = {f"\\{verb} {key}" for key in keys for verb in ("restrict", "unrestrict")}
    head = [line for line in head if not line.startswith(_VERSIONS)]
    return "\n".join(line for line in (*head, *rest) if line not in unwanted)


def _suitable(endpoints: list[Endpoint]) -> EndpointId:
    """The writer: what a reader shows is a moment older. Raises UnprocessableError."""
    usable = [it for it in endpoints if not it.is_disabled and not it.is_reader]
    if not usable:
        raise UnprocessableError(
            "no endpoint", public="the branch has no endpoint that could be woken: add one to read the schema"
        )
    return usable[0].id


def _refused(words: str) -> NoReturn:
    if re.search(r'database "[^\n]*" does not exist', words):
        raise NotFoundError(words, public="database not found")
    if "permission denied for database" in words:
        raise UnprocessableError(
            words,
            public="the database does not let its schema be read: GRANT CONNECT ON DATABASE … TO pg_read_all_data",
        )
    shown = "".join(it if unicodedata.category(it)[0] != "C" else " " for it in _SOCKET.sub("", words))
    raise UnprocessableError(words, public=f"the schema cannot be read: {shown.strip()[:_WORDS_MAX]}")

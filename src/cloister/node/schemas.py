"""Schemas of clusters that no compute works on: made anew in another cluster, or told as text.

Each time a private server is started (`private_servers.py`), and pg_dump or psql beside it, which come in as two roles. What
two clusters are told so that one gets the other's schema is `timelines/schema_copy.py`; which clusters these are, and what
becomes of them, is `timelines/keeper.py`.
"""

import dataclasses
import unicodedata
from pathlib import Path
from typing import Final

from cloister.base.errors import ExhaustedError, InternalError, UnprocessableError
from cloister.base.limits import SCHEMA_BYTES_MAX
from cloister.node.commands import SchemaForm
from cloister.node.postgres.access import READER_ROLE
from cloister.node.postgres.engines import Engine
from cloister.node.postgres.telling import TOLD
from cloister.node.postgres.tuning import DATA_DIR, SOCKET_DIR
from cloister.node.private_servers import options, say_alone, with_servers
from cloister.node.runs import BESIDE_DIR, Ran, Runs
from cloister.node.timelines import schema_copy, scrub
from cloister.node.timelines.layout import Timeline

_WORDS_MAX: Final = 300

_SOURCE_PORT, _TARGET_PORT = 5432, 5433

_COPY: Final = f"""set -eu
"$BIN/pg_ctl" start -s -w -t 300 -D {BESIDE_DIR} -o "$SOURCE_OPTIONS"
"$BIN/pg_ctl" start -s -w -t 300 -D {DATA_DIR} -o "$TARGET_OPTIONS"
export PGHOST={SOCKET_DIR}
for database in $DATABASES; do
    "$BIN/pg_dump" -p {_SOURCE_PORT} -U {READER_ROLE} --format=custom --compress=none --schema-only --no-subscriptions \\
        --no-security-labels --no-tablespaces --file={SOCKET_DIR}/schema "$database"
    "$BIN/psql" -p {_TARGET_PORT} -U {schema_copy.RESTORER_ROLE} --no-psqlrc --quiet --set=ON_ERROR_STOP=1 \\
        --command='{schema_copy.SCHEMAS_OPEN}' "$database"
    "$BIN/pg_restore" -p {_TARGET_PORT} -U {schema_copy.RESTORER_ROLE} --single-transaction --exit-on-error \\
        --dbname="$database" {SOCKET_DIR}/schema
done
"$BIN/pg_ctl" stop -s -w -m immediate -D {BESIDE_DIR}
"$BIN/pg_ctl" stop -s -w -t 300 -m fast -D {DATA_DIR}
"""


_TELL: Final = f"""set -eu
"$BIN/pg_ctl" start -s -w -t 300 -D {DATA_DIR} -o "$OPTIONS" >&2
export PGHOST={SOCKET_DIR} PGUSER={READER_ROLE}
exec "$BIN/$0" "$@"
"""
# When it ends, the server does: it is process 1 of the sandbox.


class Schemas:
    """Implements `timelines.keeper.SchemaPrograms`."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs

    async def dump(
        self, engine: Engine, timeline: Timeline, uid: int, database: str, form: SchemaForm = "sql"
    ) -> bytes:
        """The timeline is of no use afterwards. Raises UnprocessableError with what the program says, ExhaustedError."""
        told = TOLD[form]
        what = with_servers(
            engine,
            timeline.data,
            uid,
            _TELL,
            clients=schema_copy.CLIENTS,
            # As a variable it is a name and nothing else; as an argument it could be a whole connection string.
            environment={
                "PGDATABASE": database,
                "OPTIONS": options(engine, DATA_DIR, _SOURCE_PORT),
                **told.environment,
            },
        )
        program = [*what.program, told.program, *told.words]
        ran = await self._runs.run(dataclasses.replace(what, program=program, said_bytes_max=SCHEMA_BYTES_MAX))
        if len(ran.said) > SCHEMA_BYTES_MAX:
            raise ExhaustedError(
                f"the schema in {timeline.directory.name} is too large",
                public=f"the schema is larger than {SCHEMA_BYTES_MAX // 1024**2} MB",
            )
        if ran.code != 0:
            _log, begun, words = ran.output.partition(f"{told.program}: error: ")
            if not begun:
                raise InternalError(f"reading a schema ended with {ran.code}: {ran.output[-2000:]}")
            raise UnprocessableError(begun + words[-2000:])
        return ran.said

    async def copy(
        self, engine: Engine, source: Timeline, target: Timeline, uid: int, *, keeps_passwords: bool
    ) -> None:
        """`target` is a copy of the template, and `source` of no use afterwards. Both are at rest, before and after. Raises
        UnprocessableError with pg_restore's words."""
        # (1) The source tells how its roles and databases are made, and gives its databases names of ours.
        questions = schema_copy.questions(engine.major, keeps_passwords=keeps_passwords)
        output = await self._single(engine, source.data, uid, questions)
        oids = schema_copy.databases(output)
        output += await self._single(
            engine, source.data, uid, schema_copy.questions_inside(oids) + schema_copy.preparations()
        )
        told = schema_copy.told(output)
        # (2) The target makes them.
        await self._single(engine, target.data, uid, schema_copy.foundation(told))
        # (3) What is in the databases goes from server to server.
        environment = {
            "SOURCE_OPTIONS": options(engine, BESIDE_DIR, _SOURCE_PORT),
            "TARGET_OPTIONS": options(engine, DATA_DIR, _TARGET_PORT),
            "DATABASES": " ".join(map(schema_copy.name_of, oids)),
        }
        between = with_servers(
            engine, target.data, uid, _COPY, clients=schema_copy.CLIENTS, environment=environment, beside=source.data
        )
        _require_restored(await self._runs.run(between))
        # (4) What the restorer made is handed over; it leaves nothing behind, and goes.
        for oid in oids:
            statements = schema_copy.completion(told.inside.get(oid, []))
            await self._single(engine, target.data, uid, statements, database=schema_copy.name_of(oid))
        await self._single(engine, target.data, uid, schema_copy.conclusion(told))

    async def _single(
        self, engine: Engine, data: Path, uid: int, statements: bytes, *, database: str = scrub.DATABASE
    ) -> str:
        most = schema_copy.OUTPUT_BYTES_MAX
        return await say_alone(self._runs, engine, data, uid, statements, database=database, output_bytes_max=most)


def _require_restored(ran: Ran) -> None:
    if ran.code == 0:
        return
    refused = [line for line in ran.output.splitlines() if line.startswith(("pg_restore: error:", "pg_dump: error:"))]
    if not refused:
        raise InternalError(f"copying a schema ended with {ran.code}: {ran.output[-2000:]}")
    shown = "".join(it if unicodedata.category(it)[0] != "C" else " " for it in refused[0])
    raise UnprocessableError(ran.output[-2000:], public=f"the schema cannot be made anew: {shown.strip()[:_WORDS_MAX]}")

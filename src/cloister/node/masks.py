"""Columns of a cluster at rest made something else: by a private server and psql beside it (`private_servers.py`).

What is said is in `timelines/masking.py`; which cluster it is, and what becomes of it, is `timelines/keeper.py`.
"""

import secrets
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from cloister.base.errors import UnprocessableError
from cloister.node.postgres.engines import Engine
from cloister.node.postgres.tuning import DATA_DIR, SOCKET_DIR
from cloister.node.private_servers import options, say_alone, with_servers
from cloister.node.runs import Runs
from cloister.node.timelines import masking, scrub
from cloister.node.timelines.layout import Timeline
from cloister.node.timelines.masking import Rule

_PATIENCE_S: Final = 3000.0
# Every table that has a rule is written twice: half a gigabyte took a minute. The operation has an hour.

_OUTPUT_BYTES_MAX: Final = 1024**2

_PORT: Final = 5432

_MASK: Final = f"""set -eu
"$BIN/pg_ctl" start -s -w -t 300 -D {DATA_DIR} -o "$OPTIONS" </dev/null
export PGHOST={SOCKET_DIR} PGUSER={masking.MASKER_ROLE} PGDATABASE={scrub.DATABASE}
"$BIN/psql" --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --file=-
"$BIN/pg_ctl" stop -s -w -t 300 -m fast -D {DATA_DIR} </dev/null
"""


class Masks:
    """Implements `timelines.keeper.MaskPrograms`."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs

    async def mask(self, engine: Engine, timeline: Timeline, uid: int, rules: Sequence[Rule]) -> None:
        """The timeline is at rest, before and after, and of no use should this fail. Raises UnprocessableError."""
        token, salt = secrets.token_hex(8), secrets.token_hex(32)
        # (1) Databases have names that can be said, and there is somebody who may change what is the tenant's.
        found = scrub.named(await self._alone(engine, timeline, uid, masking.before(token)))
        by_database: dict[str, list[Rule]] = defaultdict(list)
        for rule in rules:
            if rule.database not in found:
                raise UnprocessableError(public=f"there is no database {rule.database}")
            by_database[scrub.name_of(token, found[rule.database])].append(rule)
        # (2) What the planner knows of the data is forgotten.
        for name in by_database:
            await self._alone(engine, timeline, uid, masking.without_statistics(), database=name)
        # (3) The change, and everything that is derived from it.
        run = with_servers(
            engine,
            timeline.data,
            uid,
            _MASK,
            clients=masking.CLIENTS,
            environment={"OPTIONS": options(engine, DATA_DIR, _PORT, masking.SERVER_SETTINGS)},
            stdin=masking.script(by_database.items(), secrets.token_hex(16), salt),
            patience_s=_PATIENCE_S,
        )
        ran = await self._runs.run(run)
        masking.require_masked(ran.code, ran.output)
        # (4) The names come back, and the log goes on where nothing of before is.
        await self._alone(engine, timeline, uid, masking.after())

    async def _alone(
        self, engine: Engine, timeline: Timeline, uid: int, statements: bytes, *, database: str = scrub.DATABASE
    ) -> str:
        return await say_alone(
            self._runs, engine, timeline.data, uid, statements, database=database, output_bytes_max=_OUTPUT_BYTES_MAX
        )

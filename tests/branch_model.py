"""What each branch of a project must contain, by a model in Python, and the SQL that writes and reads what it speaks of.

Data comes in batches: numbered rows with a version and a text that follows from both. A transaction inserts, changes or
deletes a whole batch, so what a batch may be found as is a set of versions, 0 for "not there": one version when the server
acknowledged, two when the connection was lost on the way and nobody knows. Whatever is found must be in the set, whole.

A statement whose client is gone may still be executed. The fence makes an end of that: every write takes the fence's row
and does nothing if it does not hold the epoch that the model knows, and a check moves it first. What is seen behind a
moved fence is final.
"""

from dataclasses import dataclass, field
from typing import Any, Final

import psycopg

from tests.instance import Tenant

Versions = frozenset[int]
ABSENT: Final[Versions] = frozenset({0})
TABLES: Final = 3


@dataclass(slots=True)
class Contents:
    """Batch number → what it may be found as. A batch that is not here is in no row."""

    batches: dict[int, Versions] = field(default_factory=dict)
    epoch: int = 0
    """What the fence holds."""

    def copy(self) -> "Contents":
        return Contents(dict(self.batches), self.epoch)

    def certain(self) -> list[int]:
        """Batches that are there in one version, for the next write to change."""
        return [batch for batch, versions in self.batches.items() if len(versions) == 1]

    def wrote(self, batch: int, version: int, *, is_acknowledged: bool) -> None:
        """`version` 0: deleted."""
        after = frozenset({version})
        if not is_acknowledged:
            after |= self.batches.get(batch, ABSENT)
        self.batches[batch] = after
        if after == ABSENT:
            del self.batches[batch]

    def compare(self, found: dict[int, int]) -> list[str]:
        """What is wrong with a branch in which these batches were found, in these versions."""
        return [
            f"batch {batch} is in version {found.get(batch, 0)}, and may be in {sorted(allowed)}"
            for batch in sorted(self.batches.keys() | found.keys())
            if found.get(batch, 0) not in (allowed := self.batches.get(batch, ABSENT))
        ]

    def narrow(self, found: dict[int, int]) -> None:
        """Behind a fence, what was seen is what is there."""
        self.batches = {batch: frozenset({version}) for batch, version in found.items()}


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment in a branch's life, and what it contained."""

    point: dict[str, str]
    """`{"timestamp": …}` or `{"lsn": …}`"""
    contents: Contents


@dataclass(slots=True)
class Line:
    """A branch, as the model knows it."""

    tenant: Tenant
    name: str
    contents: Contents
    marks: list[Mark] = field(default_factory=list)

    @property
    def id(self) -> str:
        return self.tenant.branch_id


# ── SQL ──

SCHEMA: Final = f"""
CREATE TABLE fence (is_only boolean PRIMARY KEY DEFAULT true, epoch bigint NOT NULL);
INSERT INTO fence (epoch) VALUES (0);
CREATE FUNCTION text_of(batch int, k int, version int) RETURNS text IMMUTABLE LANGUAGE sql
    RETURN repeat(md5(batch || '.' || k || '.' || version), 1 + (batch + k * k) % 90);
DO $$ BEGIN
    FOR n IN 0..{TABLES - 1} LOOP
        EXECUTE format('CREATE TABLE ledger_%s (batch int, k int, version int NOT NULL, payload text NOT NULL,
                                                PRIMARY KEY (batch, k))', n);
        EXECUTE format('CREATE INDEX ON ledger_%s (md5(payload))', n);
        EXECUTE format('CREATE INDEX ON ledger_%s (version, k)', n);
        EXECUTE format('ALTER TABLE ledger_%s ALTER payload SET STORAGE EXTERNAL', n);
    END LOOP;
END $$
"""

_OPEN: Final = "WITH open AS MATERIALIZED (SELECT epoch FROM fence WHERE epoch = %(epoch)s FOR SHARE) "
_INSERT: Final = """INSERT INTO ledger_{table}
    SELECT %(batch)s, k, %(version)s, text_of(%(batch)s, k, %(version)s) FROM generate_series(1, %(rows)s) AS k, open"""
_UPDATE: Final = """UPDATE ledger_{table} SET version = %(version)s, payload = text_of(batch, k, %(version)s)
    FROM open WHERE batch = %(batch)s"""
_DELETE: Final = "DELETE FROM ledger_{table} USING open WHERE batch = %(batch)s"

_LOOK: Final = " UNION ALL ".join(
    f"""SELECT batch, version, count(*), min(k), max(k), bool_and(payload = text_of(batch, k, version))
          FROM ledger_{table} GROUP BY batch, version"""
    for table in range(TABLES)
)


def rows_of(batch: int) -> int:
    """How many rows a batch has: some of one, some of a few hundred."""
    return 1 + batch * batch * 7 % 251


def write(connection: psycopg.Connection[Any], contents: Contents, batch: int, version: int) -> None:
    """One transaction: insert (version 1), change, or delete (0). Updates the model, also when the connection is lost."""
    statement = _DELETE if version == 0 else _INSERT if batch not in contents.batches else _UPDATE
    values = {"batch": batch, "version": version, "rows": rows_of(batch), "epoch": contents.epoch}
    try:
        done = connection.execute((_OPEN + statement.format(table=batch % TABLES)).encode(), values, prepare=False)
    except psycopg.OperationalError as error:
        require_lost(error, f"writing batch {batch}")
        contents.wrote(batch, version, is_acknowledged=False)
        raise
    contents.wrote(batch, version, is_acknowledged=True)
    assert done.rowcount == rows_of(batch), f"batch {batch}: {done.rowcount} rows written, not {rows_of(batch)}"


def require_lost(error: psycopg.OperationalError, what: str) -> None:
    """The connection ended, the server is on its way down or up, or its volume was taken from under it (an I/O error, the last
    thing that a server says whose volume's daemon was killed). Anything else is an answer, and not the right one."""
    if error.sqlstate is not None and not error.sqlstate.startswith(("08", "57P", "58")):
        raise AssertionError(f"{what}: {error.sqlstate} {error}") from error


def look(connection: psycopg.Connection[Any]) -> dict[int, int]:
    """Batch → version. A batch must be whole, in one version, with the texts that belong to it."""
    found: dict[int, int] = {}
    for batch, version, count, first, last, is_right in connection.execute(_LOOK.encode()):
        assert is_right, f"batch {batch}, version {version}: a text is not the row's own"
        assert (first, last, count) == (1, rows_of(batch), rows_of(batch)), f"batch {batch} is not whole: {count} rows"
        assert batch not in found, f"batch {batch} is there in versions {found[batch]} and {version}"
        found[batch] = version
    return found

"""Brings the control database's schema to the version this code was written for.

Migrations are `migrations/NNNN_name.sql`, applied in order, each in one transaction with its row in
`cloister.migration`. One that was applied is never edited: its hash is kept, and a difference is refused.
"""

import hashlib
from dataclasses import dataclass
from importlib import resources
from typing import Any

from cloister.base.errors import PreconditionError

_LOCK = 0x636C6F6973746572  # "cloister" in ASCII: two starting platforms migrate one after the other


@dataclass(frozen=True, slots=True)
class Migration:
    number: int
    name: str
    sql: str

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


def migrations() -> list[Migration]:
    found = []
    for entry in resources.files("cloister.base.database").joinpath("migrations").iterdir():
        if entry.name.endswith(".sql"):
            number, _, name = entry.name.removesuffix(".sql").partition("_")
            found.append(Migration(int(number), name, entry.read_text()))
    return sorted(found, key=lambda migration: migration.number)


async def migrate(connection: Any) -> int:
    """Apply what is missing, as the database's owner (an asyncpg connection). Returns how many were applied."""
    applied_now = 0
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
        await connection.execute("CREATE SCHEMA IF NOT EXISTS cloister")
        await connection.execute(
            """CREATE TABLE IF NOT EXISTS cloister.migration (
                   number integer PRIMARY KEY, name text NOT NULL, digest text NOT NULL,
                   applied_at timestamptz NOT NULL DEFAULT now())""",
        )
        known = {row["number"]: row for row in await connection.fetch("SELECT * FROM cloister.migration")}
        ours = migrations()
        if newer := set(known) - {migration.number for migration in ours}:
            raise PreconditionError(public=f"the control database has migration {max(newer)}; this Cloister is older")
        for migration in ours:
            if (row := known.get(migration.number)) is None:
                await connection.execute(migration.sql)
                await connection.execute(
                    "INSERT INTO cloister.migration (number, name, digest) VALUES ($1, $2, $3)",
                    migration.number,
                    migration.name,
                    migration.digest,
                )
                applied_now += 1
            elif row["digest"] != migration.digest:
                raise PreconditionError(public=f"migration {migration.number} was changed after it was applied")
    return applied_now

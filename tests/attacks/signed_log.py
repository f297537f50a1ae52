"""A log with a notary beside it, as `cloister audit` finds them on the server, and what its administrator may do to it."""

import asyncio
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import psycopg
import pytest

from cloister.app.guards import StoredAudit
from cloister.base.database import Database
from cloister.base.settings import Settings, save
from cloister.cli import run
from cloister.protocol.merkle.notes import SignedTree
from cloister.protocol.merkle.tree import Tree
from cloister.trust.audit.checkpoints import Checkpoints
from cloister.trust.keys.notary import Notary
from cloister.trust.keys.providers import FileProvider, create_root_key
from cloister.trust.keys.roots import Roots
from tests.fix_database import ControlDatabase

EVENTS = 600
"""More than two tiles."""

EDIT = """UPDATE audit_event SET body = '{"action":"a.b","actor":"user:mallory"}' WHERE seq = 300"""
DELETE = "DELETE FROM audit_event WHERE seq = 300"
REORDER = """UPDATE audit_event AS a SET body = b.body FROM audit_event AS b
              WHERE a.seq IN (300, 301) AND b.seq = 601 - a.seq"""
TRUNCATE = "DELETE FROM audit_event WHERE seq = 600"
ROLL_BACK = "DELETE FROM audit_event WHERE seq > 100"
CHANGES = [
    pytest.param(EDIT, id="edited"),
    pytest.param(DELETE, id="deleted"),
    pytest.param(REORDER, id="reordered"),
    pytest.param(TRUNCATE, id="truncated"),
    pytest.param(ROLL_BACK, id="rolled back"),
]


class Direct:
    """The notary without a broker around it."""

    def __init__(self, notary: Notary) -> None:
        self.notary = notary

    async def last_checkpoint(self) -> SignedTree:
        return self.notary.last()

    async def sign_checkpoint(self, tree: Tree, proof: Sequence[bytes]) -> SignedTree:
        return self.notary.sign(tree.size, list(tree.peaks), [*proof])


class SignedLog:
    """A state directory, a control database and a notary: what `cloister audit` looks at on the server."""

    def __init__(self, database: ControlDatabase, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.url = database.url()
        self._reader = database.url("cloister_api")
        self.sentinel = database.url("cloister_sentinel")
        self.settings = Settings(state_dir=str(directory), database_url=self.url)
        save(self.settings)
        self._capsys = capsys
        self.settings.paths.notary.mkdir()
        create_root_key(directory / "root.key", uid=os.geteuid(), gid=os.getegid())
        self.provider = FileProvider(directory / "root.key")
        self.notary = Notary(Roots(self.provider), self.settings.paths.notary)

    def append(self, count: int = 1) -> None:
        self.sql(
            """SELECT cloister.audit_append(array_agg(format('{"action":"a.b","actor":"user:%s"}', n)))
               FROM generate_series(1, %s) AS n""".replace("%s", "%%s", 1),
            count,
        )

    def sign(self) -> int:
        """As the API's process does."""

        async def sign_new() -> int:
            database = Database(url=self._reader)
            await database.open()
            try:
                return (await Checkpoints(database, Direct(self.notary)).sign_new()).size
            finally:
                await database.close()

        return asyncio.run(sign_new())

    def verdict_of_the_api(self) -> tuple[type, int]:
        """And how many events were signed."""

        async def verify() -> tuple[type, int]:
            database = Database(url=self._reader)
            await database.open()
            try:
                outcome, last = await StoredAudit(database, Direct(self.notary)).verify(())
                return type(outcome), last.size
            finally:
                await database.close()

        return asyncio.run(verify())

    def sql(self, statement: str, *values: object) -> None:
        """As the database's administrator."""
        with psycopg.connect(self.url) as connection:
            connection.execute(statement.encode(), values or None)

    def rewrite(self, change: str) -> None:
        """Carry out `change` on the table, and compute the chain and its head anew."""
        with psycopg.connect(self.url) as connection:
            connection.execute("SET search_path = cloister")
            connection.execute(change.encode())
            bodies = connection.execute("SELECT body FROM audit_event ORDER BY seq").fetchall()
            connection.execute("TRUNCATE audit_event")
            connection.execute("UPDATE audit_head SET seq = 0, hash = sha256('cloister audit log 1')")
            connection.execute("SELECT audit_append(%s::text[])", ([body for (body,) in bodies],))

    def roll_back_with_the_notary(self, notary: Path, size: int) -> None:
        """The database, and what the broker remembers, from a backup: `notary` is a copy of its directory then."""
        self.rewrite(f"DELETE FROM audit_event WHERE seq > {size}")
        shutil.rmtree(self.settings.paths.notary)
        shutil.copytree(notary, self.settings.paths.notary)
        self.notary = Notary(Roots(self.provider), self.settings.paths.notary)

    def audit(self, *words: str) -> tuple[int, str]:
        """`cloister audit …`: the exit code and what it said."""
        code = run(["audit", *words, "--state-dir", self.settings.state_dir])
        said = self._capsys.readouterr()
        return code, said.out + said.err

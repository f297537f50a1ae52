"""How old a server's transaction ids are is told long before their end; and what the end is, in a real PostgreSQL."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest

from cloister.base.ids import EndpointId
from cloister.control.computes.ages import IDS, LOOK_EVERY, Ages
from cloister.control.computes.sessions import Running, open_server
from cloister.control.roles.names import SUPERUSER
from tests import fix_database
from tests.control.land import Land

LAST_XIDS: Final = 3_000_000
# PostgreSQL keeps so many back.
XIDS_OF_A_SEGMENT: Final = 32 * 8192 * 4
PATIENCE_S: Final = 60.0
LATER: Final = {"autovacuum": "on", "autovacuum_naptime": "2147483s"}
# With `autovacuum` off it would begin at once, as it does for whatever has grown too old.


@pytest.mark.parametrize(
    ("ages", "told"),
    [
        (Ages(IDS // 4 - 1, IDS // 4 - 1), None),
        (Ages(IDS // 4, 1), 25),
        (Ages(1, IDS // 4), 25),
        (Ages(IDS, 0), 100),
    ],
)
async def test_an_age_of_a_quarter_is_told(land: Land, ages: Ages, told: int | None) -> None:
    created = await land.project()
    land.node.ages[created.endpoint.id] = ages
    await land.plane.reconciler.look_at_all()
    wanted = [{"percent": told, "xids": ages.xids, "multixacts": ages.multixacts}] if told else []
    assert await land.details_of("compute.aged") == wanted


async def test_it_is_told_every_hour_and_not_with_every_look(land: Land) -> None:
    created = await land.project()
    land.node.ages[created.endpoint.id] = Ages(IDS // 2, 1)
    for _ in range(3):
        await land.plane.reconciler.look_at_all()
    assert len(await land.details_of("compute.aged")) == 1
    land.clock.advance(LOOK_EVERY)
    await land.plane.reconciler.look_at_all()
    assert len(await land.details_of("compute.aged")) == 2
    land.clock.advance(LOOK_EVERY)
    land.node.ages[created.endpoint.id] = Ages(1, 1)
    await land.plane.reconciler.look_at_all()
    assert len(await land.details_of("compute.aged")) == 2


@contextmanager
def aged(xids: int, **settings: str) -> Iterator[tuple[Path, Path]]:
    """A cluster that is as old as that, not started yet: its directory, and its data."""
    directory = Path(tempfile.mkdtemp(prefix="cloister-test-aged-", dir=fix_database._MEMORY))
    try:
        if os.geteuid() == 0:
            os.chown(directory, fix_database.UNPRIVILEGED_UID, fix_database.UNPRIVILEGED_UID)
        data = directory / "data"
        fix_database._run("initdb", "-D", data, "-U", SUPERUSER, *"-A trust --no-sync --encoding=UTF8".split())
        shown = subprocess.run(
            [fix_database._BIN / "pg_controldata", data], check=True, capture_output=True, text=True, timeout=PATIENCE_S
        ).stdout
        oldest = int(next(it for it in shown.splitlines() if "oldestXID:" in it).split(":")[1])
        following = oldest + xids
        segment = data / "pg_xact" / f"{following // XIDS_OF_A_SEGMENT:04X}"
        segment.write_bytes(bytes(XIDS_OF_A_SEGMENT // 4))
        shutil.chown(segment, data.stat().st_uid, data.stat().st_gid)
        fix_database._run("pg_resetwal", "-f", "-x", str(following), "-D", data)
        yield directory, data
    finally:
        shutil.rmtree(directory, ignore_errors=True)


async def ages_of(directory: Path) -> Ages:
    server = await open_server(Running(EndpointId("ep-aged-one-00000000"), 1, str(directory), 18))
    try:
        return await server.ages()
    finally:
        await server.close()


def connect(directory: Path, database: str = "postgres") -> psycopg.Connection[Any]:
    return psycopg.connect(host=str(directory), user=SUPERUSER, dbname=database, autocommit=True)


async def test_a_server_says_how_old_it_is_and_at_the_end_reads_and_freezes_and_writes_nothing() -> None:
    """What docs/sql.md says of it."""
    nearly = IDS - LAST_XIDS + 1000
    with aged(nearly) as (directory, data), fix_database._serving(data, directory, **LATER):
        found = await ages_of(directory)
        assert nearly <= found.xids < nearly + 1000
        assert found.percent == 99
        with connect(directory) as session:
            assert session.execute("SELECT count(*) > 300 FROM pg_class").fetchone() == (True,)
            with pytest.raises(psycopg.errors.ProgramLimitExceeded, match="not accepting commands that assign new"):
                session.execute("CREATE TABLE t ()")
            session.execute("VACUUM (FREEZE)")
            age = session.execute("SELECT age(datfrozenxid) FROM pg_database WHERE datname = 'postgres'").fetchone()
            assert age is not None
            assert age[0] < 1000


async def test_a_server_at_the_end_comes_back_by_itself() -> None:
    """As one does that is woken, also where autovacuum is switched off, as it is here."""
    with aged(IDS - LAST_XIDS + 1000) as (directory, data), fix_database._serving(data, directory):
        deadline = time.monotonic() + PATIENCE_S
        while (await ages_of(directory)).percent > 0:
            assert time.monotonic() < deadline, (directory / "log").read_text()
        with connect(directory) as session:
            session.execute("CREATE TABLE t ()")

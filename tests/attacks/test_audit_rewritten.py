"""Who administers the control database changes the record, and computes every hash of the chain anew.

The chain alone cannot show that. Each way of doing it is tried on a real log, and each is found by `cloister audit
verify`, because the key broker has signed the tree; and by the lines of docs/audit.md, which use nothing of ours.
"""

import asyncio
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest

from cloister.app.guards import StoredAudit
from cloister.base.database import Database
from cloister.base.errors import ConflictError
from cloister.base.settings import Settings, save
from cloister.cli import run
from cloister.protocol.merkle.notes import SignedTree
from cloister.protocol.merkle.tree import Tree
from cloister.trust.audit.checkpoints import Checkpoints
from cloister.trust.audit.verify import Broken, Intact
from cloister.trust.keys.notary import Notary
from cloister.trust.keys.providers import FileProvider, create_root_key
from cloister.trust.keys.roots import Roots
from tests.fix_database import ControlDatabase

PAGE = Path(__file__).parents[2] / "docs" / "audit.md"

EVENTS = 600
"""More than two tiles."""


class Direct:
    """The notary without a broker around it."""

    def __init__(self, notary: Notary) -> None:
        self.notary = notary

    async def last_checkpoint(self) -> SignedTree:
        return self.notary.last()

    async def sign_checkpoint(self, tree: Tree, proof: Sequence[bytes]) -> SignedTree:
        return self.notary.sign(tree.size, list(tree.peaks), [*proof])


class Platform:
    """A state directory, a control database and a notary: what `cloister audit` looks at on the server."""

    def __init__(self, database: ControlDatabase, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.url = database.url()
        self._reader = database.url("cloister_api")
        self.settings = Settings(state_dir=str(directory), database_url=self.url)
        save(self.settings)
        self._capsys = capsys
        self.settings.paths.notary.mkdir()
        create_root_key(directory / "root.key", uid=os.geteuid(), gid=os.getegid())
        self.provider = FileProvider(directory / "root.key")
        self.notary = Notary(Roots(self.provider), self.settings.paths.notary)

    def append(self, count: int = 1) -> None:
        self.sql(
            """SELECT cloister.audit_append(VARIADIC array_agg(format('{"action":"a.b","actor":"user:%s"}', n)))
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
            connection.execute("SELECT audit_append(VARIADIC %s::text[])", ([body for (body,) in bodies],))

    def audit(self, *words: str) -> tuple[int, str]:
        """`cloister audit …`: the exit code and what it said."""
        code = run(["audit", *words, "--state-dir", self.settings.state_dir])
        said = self._capsys.readouterr()
        return code, said.out + said.err


@pytest.fixture
def platform(
    control_database: ControlDatabase, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Iterator[Platform]:
    platform = Platform(control_database, tmp_path, capsys)
    platform.append(EVENTS)
    assert platform.sign() == EVENTS
    yield platform
    platform.provider.close()


@pytest.fixture(scope="module")
def verified() -> Callable[[Path, str], list[bytes]]:
    """The stranger's program."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    page: dict[str, Any] = {}
    exec(code, page)  # noqa: S102 - our own page
    found: Callable[[Path, str], list[bytes]] = page["verified"]
    return found


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


def test_an_untouched_log_is_intact_and_says_what_is_signed(platform: Platform) -> None:
    code, said = platform.audit("verify")
    assert (code, said.splitlines()[1]) == (0, "signed: the first 600")
    platform.append(3)
    code, said = platform.audit("verify")
    assert (code, said.splitlines()[1]) == (0, "signed: the first 600, not yet the 3 after them")
    assert platform.sign() == EVENTS + 3
    assert platform.audit("verify")[1].splitlines()[1] == "signed: the first 603"


@pytest.mark.parametrize("change", CHANGES)
def test_a_rewritten_log_is_found(platform: Platform, change: str) -> None:
    platform.rewrite(change)
    for _ in range(2):
        code, said = platform.audit("verify")
        assert code == 1
        assert "BROKEN" in said
        assert "(rolled back)" in said
        platform.append(700)  # long past what was signed, so that only the root can tell
    # The control: the change is good enough for the chain, so it was the tree that found it.
    shutil.rmtree(platform.settings.paths.notary)
    code, said = platform.audit("verify")
    assert (code, said.splitlines()[1]) == (0, "no checkpoint was signed yet")


@pytest.mark.parametrize("change", CHANGES)
def test_the_api_finds_a_rewritten_log(platform: Platform, change: str) -> None:
    """As `cloister audit verify` asks it from elsewhere."""
    assert platform.verdict_of_the_api() == (Intact, EVENTS)
    platform.rewrite(change)
    assert platform.verdict_of_the_api() == (Broken, EVENTS)
    platform.append(700)
    assert platform.verdict_of_the_api() == (Broken, EVENTS), "the root tells, not the length"


@pytest.mark.parametrize("change", CHANGES)
def test_a_rewritten_log_is_neither_exported_nor_passes_for_the_one_exported_before(
    platform: Platform, tmp_path: Path, change: str
) -> None:
    assert platform.audit("export", "--tiles", str(tmp_path / "before"))[0] == 0
    platform.rewrite(change)
    code, said = platform.audit("export", "--tiles", str(tmp_path / "after"))
    assert code == 1
    assert re.search("not those that were signed|is missing", said)
    assert not (tmp_path / "after" / "checkpoint").exists()
    # Even if all that is here were taken over, key included: the directory remembers.
    shutil.rmtree(platform.settings.paths.notary)
    platform.settings.paths.notary.mkdir()
    platform.notary = Notary(Roots(platform.provider), platform.settings.paths.notary)
    platform.append(700)
    platform.sign()
    code, said = platform.audit("export", "--tiles", str(tmp_path / "before"))
    assert code == 1
    assert "was exported before and says something else" in said


def test_the_whole_server_put_back_to_yesterday_is_found_by_a_checkpoint_kept_elsewhere(
    platform: Platform, tmp_path: Path
) -> None:
    yesterday = shutil.copytree(platform.settings.paths.notary, tmp_path / "yesterday")
    witness = tmp_path / "checkpoints"
    key = platform.audit("checkpoint", "--key")[1].strip()
    for _ in range(2):
        platform.append(50)
        platform.sign()
        with witness.open("a") as file:
            file.write(platform.audit("checkpoint", "--print")[1])
    code, said = platform.audit("verify", "--against", str(witness), "--key", key)
    assert (code, said.splitlines()[1]) == (0, "signed: the first 700; extends every checkpoint in 1 file")
    # The database and the notary's directory, from the backup of yesterday.
    platform.rewrite("DELETE FROM audit_event WHERE seq > 600")
    shutil.rmtree(platform.settings.paths.notary)
    shutil.copytree(yesterday, platform.settings.paths.notary)
    assert platform.audit("verify")[0] == 0, "here nothing is wrong"
    code, said = platform.audit("verify", "--against", str(witness), "--key", key)
    assert code == 1
    assert "BROKEN at event 601 (rolled back)" in said
    platform.notary = Notary(Roots(platform.provider), platform.settings.paths.notary)
    platform.append(100)
    platform.sign()
    assert platform.audit("verify")[0] == 0
    assert platform.audit("verify", "--against", str(witness), "--key", key)[0] == 1, "nor when it has grown again"


def test_a_checkpoint_that_the_key_has_not_signed_is_not_believed(platform: Platform, tmp_path: Path) -> None:
    note, key = platform.audit("checkpoint", "--print")[1], platform.audit("checkpoint", "--key")[1].strip()
    forged = tmp_path / "forged"
    forged.write_text(note.replace("\n600\n", "\n599\n"))
    code, said = platform.audit("verify", "--against", str(forged))
    assert code == 1
    assert "does not fit" in said
    # The notary's directory was replaced whole: another key has signed what is there.
    shutil.rmtree(platform.settings.paths.notary)
    platform.settings.paths.notary.mkdir()
    platform.notary = Notary(Roots(platform.provider), platform.settings.paths.notary)
    platform.sign()
    assert platform.audit("verify")[0] == 0
    code, said = platform.audit("verify", "--key", key)
    assert code == 1
    assert "the last checkpoint kept here: not signed by" in said


def test_a_log_that_was_put_back_is_not_signed(platform: Platform) -> None:
    platform.rewrite(ROLL_BACK)
    with pytest.raises(ConflictError, match="rolled back"):
        platform.sign()


def test_a_stranger_checks_an_export_with_nothing_of_ours(
    platform: Platform, tmp_path: Path, verified: Callable[[Path, str], list[bytes]]
) -> None:
    tiles = tmp_path / "tiles"
    key = platform.audit("checkpoint", "--key")[1].strip()
    assert platform.audit("export", "--tiles", str(tiles))[0] == 0
    events = verified(tiles, key)
    assert len(events) == EVENTS
    assert events[41] == b'{"action":"a.b","actor":"user:42"}'
    platform.append(3_000)
    platform.sign()
    assert platform.audit("export", "--tiles", str(tiles))[0] == 0
    assert verified(tiles, key)[:EVENTS] == events
    # A hash of the second level is the root of a whole tile below.
    below = (tiles / "tile/0/013").read_bytes()
    assert len(below) == 256 * hashlib.sha256().digest_size
    bundle = tiles / "tile/entries/001"
    bundle.write_bytes(bundle.read_bytes().replace(b"user:300", b"user:301"))
    with pytest.raises(AssertionError):
        verified(tiles, key)

"""Somebody wants events of the log gone that must not go, or gone unseen: by way of its retention, or past it.

What goes by the rules goes for an outsider, too, who verifies all that is left with other code. One person alone and a process of ours
that was taken over are refused. What whoever rules the control database does, verification finds, with its place.
"""

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
from tlog_scales.backend import LocalBackend
from tlog_scales.reader import TilesReader
from tlog_scales.tiles import leaf_hash

from cloister.base.database import Database
from cloister.cli.audit import replay
from cloister.protocol.merkle.notes import Checkpoint, VerifierKey
from cloister.protocol.merkle.tree import Tree
from cloister.trust.audit.events import timestamp
from cloister.trust.audit.faults import Fault
from cloister.trust.audit.pruning import Pruner
from cloister.trust.audit.verify import Broken, Intact
from cloister.trust.keys.notary import Notary
from cloister.trust.keys.roots import Roots
from tests.attacks.signed_log import Direct, SignedLog
from tests.attacks.test_audit_outsider import Outsider
from tests.fix_database import ControlDatabase

OLD, NEW = 700, 300
GONE = 512
"""Whole tiles, of what is old but for the last."""
ADA, BOB = "0a0a0a0a-0000-4000-8000-000000000001", "0b0b0b0b-0000-4000-8000-000000000001"
PROJECT = "calm-forest-12345678"
BY_PROJECT, ORDINARY = 40, 41
"""Events: of the project, and of nobody."""
SOMEBODY = f"""
    INSERT INTO account (id, email, name) VALUES ('{ADA}', 'ada@x', 'Ada'), ('{BOB}', 'bob@x', 'Bob');
    INSERT INTO organization (id, name) VALUES ('org-1', 'One');
    INSERT INTO volume (project_id, branch_id, timeline_id, uid, pg_version, size_bytes, state)
        VALUES ('{PROJECT}', 'br-1', 'tl-1', 1900000001, 18, 1, 'taken');
    INSERT INTO project (id, org_id, owner_id, name, region_id, pg_version, store_passwords)
        VALUES ('{PROJECT}', 'org-1', '{ADA}', 'p', 'local', 18, false)"""
ASKED = f"""INSERT INTO audit_retention (id, class, days, reason, asked_by) VALUES (gen_random_uuid(), 'events', 400, 'policy', '{ADA}')"""
AGREED = f"UPDATE audit_retention SET agreed_by = '{BOB}'"
A_WEEK_LATER = """ALTER TABLE audit_retention DISABLE TRIGGER USER;
    UPDATE audit_retention SET asked_at = asked_at - interval '8 days', agreed_at = agreed_at - interval '8 days',
                               holds_from = holds_from - interval '8 days';
    ALTER TABLE audit_retention ENABLE ALWAYS TRIGGER audit_retention_holds"""


class OldLog(SignedLog):
    """A log of which most is 500 days old, and a retention of 400 days, on which two agreed a week ago."""

    def fill(self) -> None:
        self.run(SOMEBODY)
        then = datetime.now(UTC)
        ages = [timedelta(days=500) - timedelta(seconds=n) for n in range(OLD)] + [timedelta(days=1)] * NEW
        bodies = [
            f'{{"action":"a.b","actor":"user:{n}","at":"{timestamp(then - age)}"'
            + (f',"project_id":"{PROJECT}"}}' if n == BY_PROJECT else "}")
            for n, age in enumerate(ages, 1)
        ]
        self.sql("SELECT cloister.audit_append(%s)", bodies)
        self.run(ASKED, AGREED, A_WEEK_LATER)

    def run(self, *statements: str, role: str = "postgres") -> None:
        """Each in a transaction of its own."""
        url = self.url if role == "postgres" else self._reader
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("SET search_path = cloister")
            for statement in statements:
                connection.execute(statement.encode())

    def ask(self, query: str) -> Any:
        with psycopg.connect(self.url) as connection:
            connection.execute("SET search_path = cloister")
            return connection.execute(query.encode()).fetchall()

    def announce(self) -> int | None:
        announced: int | None = self._pruner(Pruner.announce)
        return announced

    def reach(self) -> int | None:
        reached: int | None = self._pruner(Pruner.reach)
        return reached

    def prune(self) -> None:
        """As the API's process does."""
        assert self.announce() == GONE
        self.sign()
        assert self.reach() == GONE
        self.sign()

    def _pruner(self, step: Callable[[Pruner], Any]) -> Any:
        async def once() -> Any:
            database = Database(url=self._reader)
            await database.open()
            try:
                return await step(Pruner(database, Direct(self.notary)))
            finally:
                await database.close()

        return asyncio.run(once())

    def broken(self) -> str:
        """What verification says, if the log is not whole; or nothing."""
        code, said = self.audit("verify")
        assert (code == 1) is ("BROKEN at event" in said), said
        return said.partition("BROKEN at event ")[2].partition(";")[0]


@pytest.fixture
def old_log(control_database: ControlDatabase, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[OldLog]:
    made = OldLog(control_database, tmp_path, capsys)
    made.fill()
    assert made.sign() == OLD + NEW
    yield made
    made.provider.close()


# ── what goes, and what proves the rest ──


def test_what_is_old_goes_and_everything_else_is_proven(old_log: OldLog, tmp_path: Path) -> None:
    """To ourselves, to an outsider with a checkpoint from before, and to one who has an export from before."""
    kept = old_log.audit("checkpoint", "--print")[1]
    (tmp_path / "kept").write_text(kept)
    outsider = Outsider(old_log.audit("checkpoint", "--key")[1].strip(), kept)
    assert old_log.audit("export", "--tiles", str(tmp_path / "before"))[0] == 0
    old_log.prune()
    assert old_log.ask("SELECT min(seq), count(*) FROM audit_event") == [(GONE + 1, OLD + NEW + 1 - GONE)]
    code, said = old_log.audit("verify", "--against", str(tmp_path / "kept"))
    assert (code, f"pruned below {GONE + 1} on {datetime.now(UTC):%Y-%m-%d}, and an event says so" in said) == (
        0,
        True,
    ), said
    assert "extends every checkpoint in 1 file" in said
    assert old_log.audit("export", "--tiles", str(tmp_path / "after"))[0] == 0
    assert (tmp_path / "after/minimum").read_text() == f"{GONE}\n"
    assert not (tmp_path / "after/tile/entries/001").exists()
    assert (tmp_path / "after/tile/entries/002").exists()
    assert outsider.verify(tmp_path / "after", first=GONE) == OLD + NEW + 1
    with pytest.raises(RuntimeError, match="could not get tile"):
        outsider.verify(tmp_path / "after", first=GONE - 1)
    assert old_log.audit("export", "--tiles", str(tmp_path / "before"))[0] == 0
    assert outsider.verify(tmp_path / "before") == OLD + NEW + 1, "who has them keeps them"


def test_a_checkpoint_from_among_what_went_is_said_to_be_held_to_nothing(old_log: OldLog) -> None:
    """One of whole tiles is held to the hashes that stayed, and one later than all that went is asked for."""
    leaves = [leaf_hash(body.encode()) for (body,) in old_log.ask("SELECT body FROM audit_event ORDER BY seq")]
    aligned, between = (Checkpoint("old", size, Tree().extended(leaves[:size]).root) for size in (256, 300))
    old_log.prune()
    last = old_log.notary.last()
    newest = VerifierKey.parse(last.key).opened(last.note)

    def outcome(*checkpoints: Checkpoint) -> Intact | Broken:
        return asyncio.run(replay(old_log.settings, (), checkpoints))

    whole = outcome(aligned, between, newest)
    assert isinstance(whole, Intact)
    assert (whole.pruned, whole.older) == (GONE, 1)
    assert outcome(Checkpoint("old", 256, bytes(32)), newest) == Broken(256, Fault.ROLLED_BACK)
    assert outcome(aligned, between) == Broken(GONE, Fault.ROLLED_BACK)


@pytest.mark.parametrize("died", ["before", "announced", "signed", "reached"])
def test_a_death_between_two_steps_leaves_a_log_that_holds_and_the_next_pass_ends_it(
    old_log: OldLog, died: str
) -> None:
    steps: list[Callable[[], Any]] = [old_log.announce, old_log.sign, old_log.reach]
    for step in steps[: ["before", "announced", "signed", "reached"].index(died)]:
        step()
    assert old_log.broken() == ""
    old_log.announce()
    if died in ("before", "announced"):
        assert old_log.reach() is None, "no checkpoint has the event yet"
        old_log.sign()
    old_log.reach()
    old_log.sign()
    assert old_log.broken() == ""
    assert old_log.ask("SELECT count(*) FROM audit_event WHERE action = 'audit.minimum'") == [(1,)]
    assert old_log.ask("SELECT min(seq) FROM audit_event") == [(GONE + 1,)]


def test_a_death_while_events_go_leaves_all_of_them(old_log: OldLog) -> None:
    old_log.announce()
    old_log.sign()
    with psycopg.connect(old_log.url) as connection:
        connection.execute("SELECT cloister.audit_reach(%s)", (OLD + NEW + 1,))
        connection.rollback()
    assert old_log.broken() == ""
    assert old_log.reach() == GONE


def test_a_new_notary_signs_what_is_left(old_log: OldLog, tmp_path: Path) -> None:
    old_log.prune()
    (tmp_path / "notary").rename(tmp_path / "put away")
    (tmp_path / "notary").mkdir()
    old_log.notary = Notary(Roots(old_log.provider), old_log.settings.paths.notary)
    assert old_log.sign() == OLD + NEW + 1
    assert old_log.broken() == ""


# ── what stays ──


@pytest.mark.parametrize(
    ("why", "statement"),
    [
        ("hold", f"INSERT INTO audit_hold (id, project_id, reason, placed_by) VALUES (gen_random_uuid(), '{PROJECT}', 'm', '{ADA}')"),
        ("export", "INSERT INTO audit_export (name, seq) VALUES ('siem', 39)"),
        ("sentinel", "INSERT INTO sentinel (seq, hash, memory, beat_seq) VALUES (39, '', '', 39)"),
    ],
)  # fmt: skip
def test_what_is_held_or_not_looked_at_or_not_exported_stays(old_log: OldLog, why: str, statement: str) -> None:
    """Also where it was announced before."""
    old_log.announce()
    old_log.sign()
    old_log.run(statement)
    assert old_log.ask("SELECT up_to, kept_by FROM audit_prunable(400, 1000)") == [(0, why)]
    assert old_log.reach() is None
    assert old_log.broken() == ""
    assert old_log.ask("SELECT count(*) FROM audit_event") == [(OLD + NEW + 1,)]


def test_what_vouches_for_statements_that_can_be_read_stays(old_log: OldLog) -> None:
    """With them goes what nobody can read any more."""
    then = timestamp(datetime.now(UTC) - timedelta(days=500))
    sealed = f'{{"action":"statements.seal","actor":"a","at":"{then}","project_id":"{PROJECT}","resource":"segment/1"}}'
    old_log.rewrite(f"UPDATE audit_event SET body = '{sealed}' WHERE seq = {BY_PROJECT}")
    old_log.run(
        f"INSERT INTO statement_key (project_id, generation, public, wrapped) VALUES ('{PROJECT}', 1, sha256(''), '\\x01')",
        f"INSERT INTO statement_segment (project_id, statements, body, generation) VALUES ('{PROJECT}', 1, '', 1)",
    )
    assert old_log.ask("SELECT up_to, kept_by FROM audit_prunable(400, 1000)") == [(0, "statements")]
    assert old_log.announce() is None
    old_log.run(
        """ALTER TABLE statement_key DISABLE TRIGGER USER; UPDATE statement_key SET wrapped = NULL, erased_at = now()"""
    )
    assert old_log.announce() == GONE
    old_log._pruner(lambda pruner: _reached(pruner, OLD + NEW + 1))
    assert old_log.ask("SELECT count(*) FROM statement_segment") == [(0,)]


async def _reached(pruner: Pruner, signed: int) -> None:
    async with pruner._database.transaction() as tx:
        assert await tx.fetch_value("SELECT audit_reach($1)", signed) == GONE


def test_a_longer_retention_stops_what_was_announced(old_log: OldLog) -> None:
    """Nothing goes without one at all."""
    old_log.announce()
    old_log.sign()
    old_log.run(ASKED.replace(" 400,", " NULL,").replace("'events', 400", "'events', NULL"))
    assert old_log.reach() is None
    assert old_log.ask("SELECT up_to FROM audit_prunable(retention_of(NULL, 'events'), 1000)") == [(0,)]


# ── who may not ──


REFUSED: Final = [
    "DELETE FROM audit_event WHERE seq <= 512",
    "INSERT INTO audit_minimum (seq, hash, root, told_by, reached_at) VALUES (512, '', '', 1, now())",
    "UPDATE audit_minimum SET reached_at = now()",
    "DELETE FROM audit_tile",
    """SELECT audit_append(ARRAY['{"action":"audit.minimum","details":{"up_to":512}}'])""",
    "SELECT audit_chain('{}', '{}', true)",
]
ALONE: Final = [
    ASKED.replace("'events', 400", "'events', 399"),
    ASKED.replace("asked_by)", "asked_by, agreed_by)").replace(f"'{ADA}')", f"'{ADA}', '{BOB}')"),
    f"{ASKED}; UPDATE audit_retention SET agreed_by = asked_by WHERE holds_from IS NULL",
    ASKED.replace("(id, class", "(id, org_id, class").replace("gen_random_uuid(), ", "gen_random_uuid(), 'org-1', "),
    ASKED.replace("'events'", "'statements'"),
]


def test_the_apis_own_process_prunes_nothing_past_the_rules(old_log: OldLog) -> None:
    """By its own hand; nor sooner, at one person's word, or as an organization's record."""
    old_log.announce()
    for statement in REFUSED:
        with pytest.raises(psycopg.Error):
            old_log.run(statement, role="cloister_api")
    old_log.run("ALTER TABLE audit_retention DISABLE TRIGGER USER; DELETE FROM audit_retention")
    old_log.run("ALTER TABLE audit_retention ENABLE ALWAYS TRIGGER audit_retention_holds")
    for statement in ALONE:
        with pytest.raises(psycopg.Error):
            old_log.run(statement, role="cloister_api")
    assert old_log.ask("SELECT count(*) FROM audit_retention") == [(0,)]
    assert old_log.broken() == ""


# ── who rules the control database ──


SILENTLY = "DELETE FROM audit_event WHERE seq <= 512"
FORGED = """INSERT INTO audit_tile SELECT (seq - 1) / 256, merkle_root(array_agg(audit_leaf(body) ORDER BY seq))
              FROM audit_event WHERE seq <= 768 GROUP BY 1 ON CONFLICT DO NOTHING;
    INSERT INTO audit_minimum (seq, hash, root, told_by, reached_at)
        SELECT seq, hash, (SELECT merkle_root(array_agg(root ORDER BY number)) FROM audit_tile), 1, now()
          FROM audit_event WHERE seq = 768;
    DELETE FROM audit_event WHERE seq <= 768"""
"""Young events with them, and all hashes as they have to be."""


CHANGES: Final = {
    "one that stays is deleted": ("DELETE FROM audit_event WHERE seq = 600", "600 (deleted)"),
    "more than the log says": ("DELETE FROM audit_event WHERE seq <= 520", "513 (deleted)"),
    "a forged minimum index": (FORGED, "513 (pruned in silence)"),
    "the minimum index taken away": ("DELETE FROM audit_minimum", "1 (deleted)"),
    "a hash taken away": ("DELETE FROM audit_tile WHERE number = 0", "512 (not what was pruned)"),
    "a hash changed": ("UPDATE audit_tile SET root = sha256('x') WHERE number = 0", "512 (not what was pruned)"),
    "all hashes changed, to fit each other": (
        """UPDATE audit_tile SET root = sha256('x') WHERE number = 0;
           UPDATE audit_minimum SET root = (SELECT merkle_root(array_agg(root ORDER BY number)) FROM audit_tile)""",
        f"{OLD + NEW + 1} (rolled back)",
    ),
    "the chain's hash changed": ("UPDATE audit_minimum SET hash = sha256('x')", "513 (edited)"),
    "the chain's hash changed, and every later one to fit": (
        """UPDATE audit_minimum SET hash = sha256('x');
           DO $$ DECLARE digest bytea := sha256('x'); it record; BEGIN
               FOR it IN SELECT seq, body FROM cloister.audit_event ORDER BY seq LOOP
                   digest := sha256(digest || int8send(it.seq) || convert_to(it.body, 'UTF8'));
                   UPDATE cloister.audit_event SET hash = digest WHERE seq = it.seq;
               END LOOP;
               UPDATE cloister.audit_head SET hash = digest;
           END $$""",
        "512 (not what was pruned)",
    ),
    "one that went put back": ("INSERT INTO audit_event (seq, body, hash) VALUES (512, '{}', '')", "512 (added)"),
}
TABLES: Final = {"audit_event": "seq, body, hash", "audit_head": "*", "audit_minimum": "*", "audit_tile": "*"}


def test_whoever_rules_the_database_is_found(old_log: OldLog) -> None:
    old_log.prune()
    old_log.run(*(f"CREATE TABLE kept_{name} AS SELECT {columns} FROM {name}" for name, columns in TABLES.items()))
    for change, (statement, found) in CHANGES.items():
        old_log.run(statement)
        assert old_log.broken() == found, change
        for name, columns in TABLES.items():
            into = name if columns == "*" else f"{name} ({columns})"
            old_log.run(f"TRUNCATE {name}", f"INSERT INTO {into} SELECT * FROM kept_{name}")
        assert old_log.broken() == ""


@pytest.mark.parametrize(
    ("change", "found"),
    [
        pytest.param(SILENTLY, "1 (deleted)", id="without a word"),
        pytest.param(FORGED, "1 (pruned in silence)", id="with a minimum index, and no event"),
    ],
)
def test_what_goes_without_an_event_is_found(old_log: OldLog, change: str, found: str) -> None:
    old_log.run(change)
    assert old_log.broken() == found


@pytest.mark.parametrize("later", ["0 days", "500 days"])
def test_young_events_that_went_with_an_event_and_all_are_found(old_log: OldLog, later: str) -> None:
    """By whoever rules the database, who can say so in the log as well: what is left is too young for that, also for an event that
    gives itself a later time than it has."""
    old_log.run(
        FORGED,
        """SELECT audit_chain(ARRAY[json_build_object('action', 'audit.minimum', 'at', to_char(
               (clock_timestamp() + interval 'LATER') AT TIME ZONE 'UTC',
               'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), 'details', json_build_object(
               'up_to', seq, 'hash', encode(hash, 'hex'), 'root', encode(root, 'hex')))::text], '{}', true) FROM audit_minimum""".replace(
            "LATER", later
        ),
    )
    old_log.sign()
    assert old_log.broken() == "769 (pruned too early)"


def test_a_log_put_back_from_before_it_was_pruned_is_found(old_log: OldLog) -> None:
    """It is shorter than what was signed, however whole."""
    before = old_log.ask("SELECT body FROM audit_event ORDER BY seq")
    old_log.prune()
    with psycopg.connect(old_log.url) as connection:
        connection.execute("SET search_path = cloister")
        connection.execute("TRUNCATE audit_event; DELETE FROM audit_minimum; DELETE FROM audit_tile")
        connection.execute("UPDATE audit_head SET seq = 0, hash = sha256('cloister audit log 1')")
        connection.execute("SELECT audit_append(%s::text[])", ([body for (body,) in before],))
    assert old_log.broken() == f"{OLD + NEW + 1} (rolled back)"


def test_a_reader_at_the_edge_of_the_tree_needs_nothing_that_went(old_log: OldLog, tmp_path: Path) -> None:
    """Every event that stays, in every tree since, by code of somebody else's."""
    old_log.prune()
    for more in (1, 255, 300):
        old_log.append(more)
        size = old_log.sign()
        assert old_log.audit("export", "--tiles", str(tmp_path / "tiles"))[0] == 0
        reader = TilesReader(LocalBackend(tmp_path / "tiles"))
        signed = reader.get_checkpoint()
        reader.set_size(size)
        for index in (GONE, GONE + 1, OLD, size - 1):
            reader.get_inclusion_proof(index, size).check(leaf_hash(reader.get_entry(index)), signed.root_hash)

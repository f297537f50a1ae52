"""The five ways to change a log, each put before somebody else's verifier: `tlog-scales` from PyPI, which knows the formats of
C2SP and nothing of Cloister.

The attacker has the server, all but the broker's key: so they can write whatever tiles they like, beside a checkpoint
that was signed. Who verifies has the key, noted once, and a checkpoint that was kept elsewhere.
"""

import hashlib
import json
import shutil
from pathlib import Path

import psycopg
import pytest
from cryptography.exceptions import InvalidSignature
from tlog_scales.backend import LocalBackend
from tlog_scales.reader import TilesReader
from tlog_scales.signing import Vkey
from tlog_scales.tiles import leaf_hash
from tlog_scales.tlog import Checkpoint, ConsistencyProofInvalid, InclusionProofInvalid

from cloister.protocol.merkle.tiles import Tiler
from cloister.trust.audit.events import Event, written
from tests.attacks.signed_log import CHANGES, EVENTS, SignedLog


class Outsider:
    """Whoever verifies, with nothing of ours."""

    def __init__(self, key: str, kept: str) -> None:
        self._key = Vkey.from_string(key)
        self._kept = self._opened(kept)

    def verify(self, directory: Path, *, first: int = 0) -> int:
        """The number of events in the log, each of which from `first` on is in the tree that was signed, which begins with the one kept."""
        reader = TilesReader(LocalBackend(directory))
        signed = self._opened((directory / "checkpoint").read_text())
        reader.set_size(signed.size)
        for index in range(first, signed.size):
            proof = reader.get_inclusion_proof(index, signed.size)
            proof.check(leaf_hash(reader.get_entry(index)), signed.root_hash)
        if signed.size < self._kept.size:
            raise ConsistencyProofInvalid("shorter than it was")
        extension = reader.get_consistency_proof(self._kept.size, signed.size)
        extension.check(self._kept.root_hash, signed.root_hash)
        return signed.size

    def _opened(self, note: str) -> Checkpoint:
        checkpoint = Checkpoint.from_text(note)
        checkpoint.verify(self._key)
        return checkpoint


@pytest.fixture
def outsider(signed_log: SignedLog) -> Outsider:
    return Outsider(signed_log.audit("checkpoint", "--key")[1].strip(), signed_log.audit("checkpoint", "--print")[1])


def tiles_of(signed_log: SignedLog, directory: Path) -> Path:
    """What `audit export` would refuse to write: tiles as they have to be for the log that is there now, as many as were signed."""
    note = signed_log.audit("checkpoint", "--print")[1]
    with psycopg.connect(signed_log.url) as connection:
        rows = connection.execute(
            "SELECT body FROM cloister.audit_event ORDER BY seq LIMIT %s", (int(note.splitlines()[1]),)
        ).fetchall()
    tiler = Tiler()
    for name, content in [file for (body,) in rows for file in tiler.add(body.encode())] + list(tiler.finish()):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    (directory / "checkpoint").write_text(note)
    return directory


def test_an_export_that_grew_is_verified(signed_log: SignedLog, outsider: Outsider, tmp_path: Path) -> None:
    """Every leaf's inclusion, and the consistency of then and now."""
    signed_log.append(77)
    signed_log.sign()
    assert signed_log.audit("export", "--tiles", str(tmp_path / "tiles"))[0] == 0
    assert outsider.verify(tmp_path / "tiles") == EVENTS + 77


@pytest.mark.parametrize("change", CHANGES)
def test_a_log_whose_tiles_were_all_computed_anew_is_found(
    signed_log: SignedLog, outsider: Outsider, tmp_path: Path, change: str
) -> None:
    signed_log.rewrite(change)
    signed_log.append(EVENTS)  # so that nothing is missing
    directory = tiles_of(signed_log, tmp_path / "tiles")
    with pytest.raises(InclusionProofInvalid):
        outsider.verify(directory)
    code, said = signed_log.audit("verify")
    assert (code, "BROKEN" in said) == (1, True)


@pytest.mark.parametrize(("change", "index"), [("edited", 299), ("reordered", 299), ("truncated", 599)])
def test_an_event_changed_in_the_files_is_found_by_its_number(
    signed_log: SignedLog, tmp_path: Path, change: str, index: int
) -> None:
    directory = tiles_of(signed_log, tmp_path / "tiles")
    bundle = directory / "tile/entries" / ("002.p/88" if change == "truncated" else "001")
    content = bundle.read_bytes()
    match change:
        case "edited":
            content = content.replace(b"user:300", b"user:301")
        case "reordered":
            content = content.replace(b":300", b":x").replace(b":301", b":300").replace(b":x", b":301")
        case _:
            content = content[: content.rindex(b"{") - 2]
    bundle.write_bytes(content)
    reader = TilesReader(LocalBackend(directory))
    signed = reader.get_checkpoint()
    before = reader.get_inclusion_proof(index - 1, signed.size)
    before.check(leaf_hash(reader.get_entry(index - 1)), signed.root_hash)
    with pytest.raises((InclusionProofInvalid, IndexError)):
        reader.get_inclusion_proof(index, signed.size).check(leaf_hash(reader.get_entry(index)), signed.root_hash)


def test_a_log_rolled_back_whole_with_the_brokers_memory_is_found_by_what_was_kept(
    signed_log: SignedLog, outsider: Outsider, tmp_path: Path
) -> None:
    """It is signed by the true key, and whole in itself."""
    key = signed_log.audit("checkpoint", "--key")[1].strip()
    yesterday = shutil.copytree(signed_log.settings.paths.notary, tmp_path / "yesterday")
    signed_log.append(50)
    signed_log.sign()
    later = Outsider(key, signed_log.audit("checkpoint", "--print")[1])
    signed_log.roll_back_with_the_notary(yesterday, EVENTS)
    shorter = tiles_of(signed_log, tmp_path / "shorter")
    with pytest.raises(ConsistencyProofInvalid):
        later.verify(shorter)
    signed_log.append(7)
    signed_log.append(100)  # other events than the fifty
    signed_log.sign()
    grown = tiles_of(signed_log, tmp_path / "grown")
    assert outsider.verify(grown) == EVENTS + 107
    with pytest.raises(ConsistencyProofInvalid):
        later.verify(grown)


def test_a_checkpoint_that_another_key_signed_is_not_believed(
    signed_log: SignedLog, outsider: Outsider, tmp_path: Path
) -> None:
    directory = tiles_of(signed_log, tmp_path / "tiles")
    note = directory / "checkpoint"
    note.write_text(note.read_text().replace(f"\n{EVENTS}\n", f"\n{EVENTS - 1}\n"))
    with pytest.raises(InvalidSignature):
        outsider.verify(directory)


def test_an_export_is_verified_after_somebody_was_forgotten(
    signed_log: SignedLog, outsider: Outsider, tmp_path: Path
) -> None:
    """By code that knows nothing of it: not a byte of the tree is another. Only the file beside it is, and it commits to nobody else."""
    texts = [written(Event(action="a.b", actor="role:anna", address=f"192.0.2.{n % 2}")) for n in range(10)]
    bodies, parts = [it.body for it in texts], [it.personal for it in texts]
    signed_log.sql("SELECT cloister.audit_append(%s, %s)", bodies, parts)
    signed_log.sign()
    tiles = tmp_path / "tiles"
    assert signed_log.audit("export", "--tiles", str(tiles))[0] == 0
    assert outsider.verify(tiles) == EVENTS + 10
    before = {path: path.read_bytes() for path in (tiles / "tile").rglob("*") if path.is_file()}
    assert (tiles / "personal").read_text().count("192.0.2.1") == 5
    assert (tiles / "personal").stat().st_mode & 0o777 == 0o600
    ada, bob = "0a0a0a0a-0000-4000-8000-000000000001", "0b0b0b0b-0000-4000-8000-000000000001"
    for statement, *values in (
        ("INSERT INTO cloister.account (id, email, name) VALUES (%s, 'ada@x', 'Ada'), (%s, 'bob@x', 'Bob')", ada, bob),
        (
            """INSERT INTO cloister.audit_forgetting (id, kind, subject, reason, asked_by)
               VALUES (%s, 'address', '192.0.2.1', 'asked for', %s)""",
            bob, ada,
        ),
        ("SELECT cloister.audit_forget(%s, %s, 'r', %s)", bob, bob, parts[0]),
    ):  # fmt: skip
        signed_log.sql(statement, *values)
    signed_log.sign()
    assert signed_log.audit("export", "--tiles", str(tiles))[0] == 0
    assert outsider.verify(tiles) == EVENTS + 11
    assert {path: path.read_bytes() for path in before} == before
    left = [json.loads(line) for line in (tiles / "personal").read_text().splitlines()]
    assert "192.0.2.1" not in str(left)
    reader = TilesReader(LocalBackend(tiles))
    reader.set_size(EVENTS + 11)
    for each in left:
        claimed = json.loads(reader.get_entry(each["seq"] - 1))["personal"]
        is_there = claimed == f"sha256:{hashlib.sha256(each['personal'].encode()).hexdigest()}"
        assert is_there != ('"erasure"' in each["personal"])
    code, said = signed_log.audit("verify")
    assert (code, "personal: erased in 5 events" in said) == (0, True)
    signed_log.sql("ALTER TABLE cloister.audit_event DISABLE TRIGGER audit_personal_ends")
    signed_log.sql("UPDATE cloister.audit_event SET personal = %s WHERE seq = %s", parts[1], EVENTS + 1)
    code, said = signed_log.audit("verify")
    assert (code, f"BROKEN at event {EVENTS + 1} (personal part replaced)" in said) == (1, True)

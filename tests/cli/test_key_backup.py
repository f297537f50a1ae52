"""The keystore on another disk, as a person meets it: copied, put back from shares, refused; and what the doctor says of it."""

import asyncio
import contextlib
import os
import shutil
import time
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from cloister.base import identities
from cloister.base.settings import Paths, Settings, save
from cloister.cli import key_backup, key_shares
from cloister.cli.doctor.finding import Level
from cloister.cli.doctor.keys import DRILL_EVERY_S, decide_keystore
from cloister.cli.root import root
from cloister.trust.keys import backup as backups
from cloister.trust.keys.client import KeyClient
from cloister.trust.keys.commands import KeystoreCopy
from cloister.trust.keys.drill import Drilled
from cloister.trust.keys.keystore import Keystore
from cloister.trust.keys.providers import FileProvider
from cloister.trust.keys.providers.file import create_root_key
from tests.cli.test_key_shares import make, said

PROJECT, ERASED = "calm-forest-12345678", "calm-forest-87654321"
AT = "2026-05-01T12:00:00.000000Z"


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """A platform with two projects, whose key broker is the keystore itself."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for name in ("uid_of", "gid_of"):
        monkeypatch.setattr(key_shares, name, lambda _service: os.getuid())
        monkeypatch.setattr(identities, name, lambda _service: os.getuid())
    for name in ("seteuid", "setegid"):
        monkeypatch.setattr(os, name, lambda _id: None)
    paths = Settings(state_dir=str(tmp_path / "state")).paths
    for each in (paths.secrets, paths.keystore, paths.epochs):
        each.mkdir(parents=True)
    save(Settings(state_dir=str(paths.state_dir)))
    create_root_key(paths.root_key, uid=os.getuid(), gid=os.getgid())
    keystore = Keystore(paths.keystore, paths.epochs)
    keystore.ensure(PROJECT, ERASED)
    keystore.close()

    async def copy(_client: KeyClient) -> KeystoreCopy:
        held = Keystore(paths.keystore, paths.epochs)
        provider = FileProvider(paths.root_key)
        epoch, content, wrapped = held.copied(
            provider, lambda epoch, content: backups.context_of(epoch, AT, backups.digest(content))
        )
        held.close()
        return KeystoreCopy(
            epoch=epoch,
            made_at=AT,
            sha256=backups.digest(content),
            provider="file",
            root_version=provider.root_version,
            epoch_key=wrapped,
        )

    monkeypatch.setattr(KeyClient, "copy_keystore", copy)
    return paths


@pytest.fixture
def safe(tmp_path: Path) -> Path:
    (tmp_path / "safe").mkdir()
    return tmp_path / "safe"


def call(paths: Paths, *words: str) -> Result:
    return CliRunner().invoke(root, ["keys", words[0], "--state-dir", str(paths.state_dir), *words[1:]])


def erase(paths: Paths) -> None:
    keystore = Keystore(paths.keystore, paths.epochs)
    assert keystore.erase({ERASED})
    keystore.close()


def test_everything_that_is_gone_comes_back_from_a_backup_and_three_of_five_shares(
    paths: Paths, safe: Path, tmp_path: Path
) -> None:
    done = call(paths, "backup", "--to", str(safe))
    assert done.exit_code == 0, said(done)
    assert "2 seals of epoch 1" in done.output
    file = safe / key_backup.FILE_NAME
    assert file.stat().st_mode & 0o777 == 0o600
    shares = make(paths, tmp_path / "papers")
    before = (paths.keystore / "seals.json").read_bytes()
    for each in (paths.keystore, paths.epochs):
        shutil.rmtree(each)
        each.mkdir()
    for each in (paths.root_key, paths.key_backup):
        each.unlink()
    papers = [word for share in shares[1:4] for word in ("--share", share)]
    refused = call(paths, "restore", str(file), *papers)
    assert "say --epoch" in said(refused)
    assert "epoch 2 is known" in said(call(paths, "restore", str(file), "--epoch", "2", *papers))
    done = call(paths, "restore", str(file), "--epoch", "1", *papers)
    assert done.exit_code == 0, said(done)
    assert (paths.keystore / "seals.json").read_bytes() == before
    assert "never replaced" in said(call(paths, "restore", str(file), "--epoch", "1", *papers))


def test_it_does_not_lie_beside_the_data_and_takes_the_older_ones_place(paths: Paths, safe: Path) -> None:
    """Whose seals may be of somebody who was erased since: its blocks are written over."""
    for inside in (paths.state_dir, paths.state_dir / "kept", safe / "../state/secrets/kept"):
        assert "beside the data" in said(call(paths, "backup", "--to", str(inside)))
    assert call(paths, "backup", "--to", str(safe)).exit_code == 0
    file = safe / key_backup.FILE_NAME
    os.link(file, safe / "the same blocks")
    erase(paths)
    done = call(paths, "backup", "--to", str(file))
    assert "Backups of epoch 1 have what was erased since: destroy them" in done.output
    assert b"epoch" not in (safe / "the same blocks").read_bytes()
    assert ERASED not in file.read_text()


def test_a_backup_from_before_an_erasure_is_refused_on_its_own_server(paths: Paths, safe: Path) -> None:
    assert call(paths, "backup", "--to", str(safe / "old")).exit_code == 0
    erase(paths)
    assert call(paths, "backup", "--to", str(safe / "new")).exit_code == 0
    for each in (paths.keystore, paths.epochs):
        shutil.rmtree(each)
        each.mkdir()
    refused = call(paths, "restore", str(safe / "old"))
    assert "what was erased since would be back" in said(refused)
    assert call(paths, "restore", str(safe / "new")).exit_code == 0


def test_what_is_no_backup_is_refused(paths: Paths, safe: Path) -> None:
    for content in (b"", b"{}", b"x" * 100):
        (safe / "it").write_bytes(content)
        for word in ("restore", "drill"):
            done = call(paths, word, str(safe / "it"), *(["--epoch", "1"] if word == "restore" else []))
            assert "this is no backup" in said(done)


def test_a_drill_is_noted_and_leaves_nothing(paths: Paths, safe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratches = []

    def look(scratch: Path, *, has_shares: bool) -> None:
        scratches.append((scratch, scratch.stat().st_mode & 0o777, has_shares))
        (scratch / "key").write_bytes(bytes(32))

    async def drilled(_paths: Paths, _found: object, _roots: object, scratch: Path, *, has_shares: bool) -> Drilled:
        look(scratch, has_shares=has_shares)
        return Drilled(1, 2, 2, 1)

    monkeypatch.setattr(key_backup, "_drilled", drilled)
    assert call(paths, "backup", "--to", str(safe)).exit_code == 0
    done = call(paths, "drill", str(safe / key_backup.FILE_NAME))
    assert done.exit_code == 0, said(done)
    assert "would be lost: 1" in done.output
    [(scratch, mode, has_shares)] = scratches
    assert (scratch.exists(), mode, has_shares) == (False, 0o700, False)
    noted = backups.marked(paths.key_backup)
    assert noted is not None
    assert noted.drilled_epoch == 1


def test_a_drill_is_told_of_the_newest_epoch_that_is_known(
    paths: Paths, safe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the epoch key that is there, and by what was noted: it fails where `restore` would refuse."""
    known = []

    async def tried(*_: object, newest_known: int, has_shares: bool) -> Drilled:
        assert not has_shares
        known.append(newest_known)
        return Drilled(1, 2, 2, 0)

    monkeypatch.setattr("cloister.base.database.owner.connected", lambda _settings: contextlib.nullcontext())
    monkeypatch.setattr("cloister.trust.keys.drill.drill", tried)
    file = str(safe / "old")
    assert call(paths, "backup", "--to", file).exit_code == 0
    assert call(paths, "drill", file).exit_code == 0
    erase(paths)
    assert call(paths, "drill", file).exit_code == 0
    assert call(paths, "backup", "--to", str(safe / "new")).exit_code == 0
    shutil.rmtree(paths.epochs)
    assert call(paths, "drill", file).exit_code == 0
    assert known == [1, 2, 2]


def test_the_doctor_asks_for_a_backup_a_newer_one_and_a_drill(paths: Paths, safe: Path) -> None:
    def says(now: float = 0) -> tuple[Level, str]:
        found = decide_keystore(
            (paths.keystore / "seals.json").read_bytes(), backups.marked(paths.key_backup), now or time.time()
        )
        return found.level, found.seen

    assert says() == (Level.WARNING, "it was never copied: with its disk every project is lost")
    assert call(paths, "backup", "--to", str(safe)).exit_code == 0
    assert says() == (Level.WARNING, "a backup was never tried")
    made = backups.marked(paths.key_backup)
    assert made is not None
    backups.mark(paths.key_backup, msgspec.structs.replace(made, drilled_at=time.time(), drilled_epoch=1))
    assert says()[0] is Level.OK
    assert says(time.time() + DRILL_EVERY_S + 60) == (Level.WARNING, "a backup was last tried 92 days ago")
    keystore = Keystore(paths.keystore, paths.epochs)
    keystore.ensure("calm-forest-00000000")
    keystore.close()
    assert says() == (Level.WARNING, "its backup has 2 seals, and there are 3")
    erase(paths)
    assert "it has what was erased since" in says()[1]


def test_the_keystores_copy_is_of_one_moment(paths: Paths, safe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seals that the broker's answer is not about are not put beside it."""
    true = KeyClient.copy_keystore

    async def late(client: KeyClient) -> KeystoreCopy:
        copy = await true(client)
        keystore = Keystore(paths.keystore, paths.epochs)
        keystore.ensure(f"calm-forest-{time.monotonic_ns() % 10**8:08}")
        keystore.close()
        return copy

    monkeypatch.setattr(KeyClient, "copy_keystore", late)
    assert "changes all the time" in said(call(paths, "backup", "--to", str(safe)))
    assert [*safe.iterdir()] == []
    assert asyncio.run(true(KeyClient(paths.broker_socket))).epoch == 1

"""The root key on paper, as a person meets it: made, tried, and written anew where it is gone."""

import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cloister.base.settings import Paths, Settings, save
from cloister.cli import key_shares
from cloister.cli.doctor import keys as check
from cloister.cli.doctor.finding import Level, Subject
from cloister.cli.root import root
from cloister.trust.keys import shares
from cloister.trust.keys.providers import configuration
from cloister.trust.keys.providers.file import create_root_key
from cloister.trust.keys.providers.provider import fingerprint


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for name in ("uid_of", "gid_of"):
        monkeypatch.setattr(key_shares, name, lambda _service: os.getuid())
    settings = Settings(state_dir=str(tmp_path / "state"))
    settings.paths.secrets.mkdir(parents=True)
    save(settings)
    create_root_key(settings.paths.root_key, uid=os.getuid(), gid=os.getgid())
    return settings.paths


def call(paths: Paths, *words: str, typed: str | None = None) -> Result:
    return CliRunner().invoke(
        root, ["keys", "shares", words[0], "--state-dir", str(paths.state_dir), *words[1:]], input=typed
    )


def said(done: Result) -> str:
    """What is printed, and what the command line's frame would print of its failure."""
    return done.output + str(done.exception or "")


def make(paths: Paths, to: Path) -> list[str]:
    done = call(paths, "make", "--people", "5", "--enough", "3", "--to", str(to))
    assert done.exit_code == 0, done.output
    return [str(to / f"share-{number}.txt") for number in range(1, 6)]


def test_a_key_that_is_gone_comes_back_from_three_of_five(paths: Paths, tmp_path: Path) -> None:
    files = make(paths, tmp_path / "safe")
    assert {os.stat(file).st_mode & 0o777 for file in files} == {0o600}
    key = paths.root_key.read_bytes()

    tried = call(paths, "try", *files[1:4])
    assert tried.exit_code == 0
    assert f"give the root key {fingerprint(key)}, which is in use" in tried.output

    refused = call(paths, "restore", *files[:3])
    assert refused.exit_code != 0
    assert "is there" in said(refused)
    paths.root_key.unlink()
    assert "cloister keys shares restore" in said(call(paths, "try", *files[:3]))
    assert call(paths, "restore", *files[:2]).exit_code != 0
    assert not paths.root_key.exists()
    restored = call(paths, "restore", files[4], files[0], files[2])
    assert restored.exit_code == 0, restored.output
    assert paths.root_key.read_bytes() == key
    assert os.stat(paths.root_key).st_mode & 0o777 == 0o600


def test_shares_come_from_a_pipe_as_well(paths: Paths, tmp_path: Path) -> None:
    files = make(paths, tmp_path / "safe")
    lines = [" ".join(Path(file).read_text().splitlines()[1:]) for file in files[:3]]
    assert call(paths, "try", typed="\n\n".join(lines) + "\n").exit_code == 0


def test_no_share_is_printed_where_it_would_be_kept(paths: Paths) -> None:
    done = call(paths, "make", "--people", "5", "--enough", "3")
    assert done.exit_code != 0
    assert "--to DIRECTORY" in said(done)
    assert shares.noted(paths.key_shares) is None


def test_shares_of_another_key_are_told_and_not_written(paths: Paths, tmp_path: Path) -> None:
    files = make(paths, tmp_path / "safe")
    strangers = tmp_path / "strangers"
    strangers.mkdir()
    for number, share in enumerate(shares.split(bytes(32), people=3, enough=2)):
        (strangers / f"{number}").write_text(share)
    others = [str(path) for path in sorted(strangers.iterdir())[:2]]
    assert "make new ones" in said(call(paths, "try", *others))
    paths.root_key.unlink()
    refused = call(paths, "restore", *others)
    assert "this platform's is" in said(refused)
    assert not paths.root_key.exists()
    paths.key_shares.unlink()
    assert call(paths, "restore", *files[:3]).exit_code == 0, "on a new machine nothing is known of them"


def test_shares_of_the_wrong_length_are_no_root_key(paths: Paths, tmp_path: Path) -> None:
    files = []
    for number, share in enumerate(shares.split(bytes(16), people=2, enough=2)):
        files.append(str(tmp_path / f"{number}"))
        Path(files[-1]).write_text(share)
    assert "16 bytes" in said(call(paths, "try", *files))


def test_files_that_are_there_are_not_written_over(paths: Paths, tmp_path: Path) -> None:
    files = make(paths, tmp_path / "safe")
    before = Path(files[0]).read_bytes()
    again = call(paths, "make", "--people", "5", "--enough", "3", "--to", str(tmp_path / "safe"))
    assert again.exit_code != 0
    assert Path(files[0]).read_bytes() == before


def test_a_root_that_is_not_in_a_file_has_no_shares(paths: Paths, tmp_path: Path) -> None:
    configuration.save(
        paths.key_providers,
        configuration.Configuration(
            current=configuration.AwsRoot(key_id="arn:aws:kms:eu-central-1:1:key/2", region="eu-central-1")
        ),
    )
    done = call(paths, "make", "--people", "5", "--enough", "3", "--to", str(tmp_path / "safe"))
    assert "not in a file" in said(done)
    assert not (tmp_path / "safe").exists()


def test_only_root_handles_the_root_key(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for words in (("make", "--people", "3", "--enough", "2"), ("try",), ("restore",)):
        done = call(paths, *words)
        assert done.exit_code != 0
        assert "by root, on the server" in said(done)


# ── what the doctor says of it ──


def test_the_doctor_asks_for_the_drill(paths: Paths, tmp_path: Path) -> None:
    subject = Subject(paths.state_dir, Settings(state_dir=str(paths.state_dir)))
    (found,) = check.root_key(subject)
    assert (found.level, "make" in found.seen) == (Level.OK, True)
    make(paths, tmp_path / "safe")
    (found,) = check.root_key(subject)
    assert (found.level, "in 5 hands, 3 are enough" in found.seen) == (Level.OK, True)
    known = shares.noted(paths.key_shares)
    assert known is not None
    late = check.decide(known.root_version, known, known.tried_at + check.DRILL_EVERY_S + 1)
    assert (late.level, "92 days ago" in late.seen) == (Level.WARNING, True)
    moved = check.decide("another", known, known.tried_at)
    assert (moved.level, "make new ones" in moved.advice) == (Level.WARNING, True)
    paths.root_key.unlink()
    (gone,) = check.root_key(subject)
    assert (gone.level, "restore" in gone.advice) == (Level.FAIL, True)

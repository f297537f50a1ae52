"""Threat: somebody who may push, or who owns the directory that an apply runs in, has a change applied that nobody reviewed: unsigned,
signed by a stranger, or passed off as another commit. And: history is rewritten afterwards, so that the log leads nowhere. With git itself.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest

from cloister.cli.config import commits, signing
from cloister.cli.config.commits import commit_of
from cloister.cli.failure import CommandError
from tests.cli.config.cloud import Cloud
from tests.protocol.test_sshsig import Signer

ENVIRONMENT: Final = {
    "PATH": os.environ["PATH"],
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    **{f"GIT_{who}_{what}": "ada@example.com" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
}


class Repository:
    """A working tree with one file; and, outside of it, who may sign."""

    def __init__(self, directory: Path) -> None:
        self.tree = directory / "tree"
        self.tree.mkdir()
        self.file = self.tree / "shop.toml"
        self.ada, self.eve = (Signer(_made(directory / name)) for name in ("ada", "eve"))
        self.signers = directory / "signers"
        self.signers.write_text(f"ada@example.com {self.ada.public}")
        self.git("init", "-q")

    def git(self, *words: str, stdin: bytes | None = None) -> str:
        done = subprocess.run(
            ["git", *words], cwd=self.tree, env=ENVIRONMENT, input=stdin, check=True, capture_output=True
        )
        return done.stdout.decode().strip()

    def commit(self, days: int, by: Signer | None) -> str:
        self.file.write_text(f"format = 1\n[project.shop]\nhistory_retention_seconds = {days * 86_400}\n")
        self.git("add", ".")
        signing = ["-c", "gpg.format=ssh", "-c", f"user.signingkey={by.key}"] if by else []
        self.git(*signing, "commit", "-qm", f"{days} days", *(["-S"] if by else []))
        return self.git("rev-parse", "HEAD")

    def signer(self) -> signing.Signer:
        return signing.signer_of(self.file, commit_of(self.file), signing.read(self.signers, self.file))


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Cloud:
    class Logged(Cloud):
        """With what the audit log would have of each call."""

        waits_its_turn = False

        def _audit_events(self, method: str, ids: list[str], body: Any, query: Any) -> Any:
            said = [dict(each.split("=") for each in change.split(";")) for change in self.changes if change]
            events = [{"seq": n, "event": {"actor": "user:ada", "details": each}} for n, each in enumerate(said)]
            return {"events": list(reversed(events)), "pagination": {}}

        def close(self) -> None:
            pass

    found = Logged()
    monkeypatch.setenv("CLOISTER_API_HOST", "https://db.example.com")
    monkeypatch.setenv("CLOISTER_API_KEY", "napi_test")
    monkeypatch.setattr("cloister.cli.session.Api", lambda *_, **__: found)
    return found


def test_a_commit_that_somebody_allowed_signed_is_applied_and_names_them(
    repository: Repository, cloud: Cloud, cloister: Any
) -> None:
    commit = repository.commit(7, repository.ada)
    apply = ("config", "apply", str(repository.file), "--yes", "--signers", str(repository.signers))
    done = cloister(*apply)
    assert done.code == 0, done.err
    said = {change.partition(";")[2] for change in cloud.changes}
    assert said == {f"commit={commit};signer={repository.signer().fingerprint}"}
    # Another change, by a stranger or by nobody: nothing is asked of the platform.
    for by, why in ((repository.eve, "not among those allowed"), (None, "is not signed")):
        repository.commit(8, by)
        asked = len(cloud.asked)
        refused = cloister(*apply)
        assert (refused.code, why in refused.err, len(cloud.asked)) == (1, True, asked), refused.err
        repository.git("reset", "-q", "--hard", commit)
    # What was changed since is no commit's; and a commit that is only named is not looked for elsewhere.
    repository.file.write_text("format = 1\n[project.shop]\nhistory_retention_seconds = 1\n")
    for more in ((), ("--commit", commit)):
        refused = cloister(*apply, *more)
        assert (refused.code, "nobody has signed it" in refused.err) == (1, True)


def test_the_repository_does_not_say_who_may_sign(repository: Repository) -> None:
    repository.commit(7, repository.eve)
    inside = repository.tree / "signers"
    inside.write_text(f"eve@example.com {repository.eve.public}")
    with pytest.raises(CommandError, match="in the working tree"):
        signing.read(inside, repository.file)
    link = repository.tree.parent / "link"
    link.symlink_to(inside)
    with pytest.raises(CommandError, match="in the working tree"):
        signing.read(link, repository.file)


def test_the_repository_does_not_say_how_a_signature_is_verified(repository: Repository) -> None:
    """With git's own verification, the first would do: it runs the program that the repository's configuration names."""
    yes = repository.tree.parent / "yes"
    yes.write_text(
        "#!/bin/sh\ncat > /dev/null\necho 'Good \"git\" signature for ada@example.com with ED25519 key SHA256:x'\nexit 0\n"
    )
    yes.chmod(0o755)
    repository.commit(7, repository.eve)
    for setting in ("gpg.ssh.program", "gpg.program", "gpg.openpgp.program"):
        repository.git("config", setting, str(yes))
    repository.git("config", "gpg.ssh.allowedSignersFile", str(repository.signers))
    repository.git("verify-commit", "HEAD")
    with pytest.raises(CommandError, match="not among those allowed"):
        repository.signer()


def test_a_commit_is_not_passed_off_as_another(repository: Repository) -> None:
    """By replacing the object, by moving the signature, by a second one, by changing what was signed."""
    good = repository.commit(7, repository.ada)
    raw = subprocess.run(
        ["git", "cat-file", "commit", good], cwd=repository.tree, env=ENVIRONMENT, check=True, capture_output=True
    ).stdout
    assert repository.signer().principal == "ada@example.com"
    bad = repository.commit(8, None)
    other = repository.git("rev-parse", f"{bad}^{{tree}}").encode()
    head, _, text = raw.partition(b"\n\n")
    signature = head[head.index(b"gpgsig") :]
    forged = {
        "another tree": raw.replace(raw.split(b"\n")[0], b"tree " + other),
        "another text": head + b"\n\nmore\n",
        "two signatures": head + b"\n" + signature + b"\n\n" + text,
        "another kind beside it": head + b"\n" + signature.replace(b"gpgsig", b"gpgsig-sha256", 1) + b"\n\n" + text,
        "under the other kind's name": head.replace(b"gpgsig", b"gpgsig-sha256", 1) + b"\n\n" + text,
        "a header below it": head + b"\nnote x\n\n" + text,
    }
    for what, content in forged.items():
        assert content != raw, what
        name = repository.git("hash-object", "-t", "commit", "-w", "--literally", "--stdin", stdin=content)
        with pytest.raises(CommandError):
            signing.signer_of(repository.file, name, signing.read(repository.signers, repository.file))
    # The repository says that the good commit stands in the bad one's place.
    repository.git("replace", bad, good)
    assert commit_of(repository.file) == bad
    with pytest.raises(CommandError, match="is not signed"):
        repository.signer()
    # The good one is checked out, and the bad one, whose file is there, stands in its place.
    repository.git("replace", "-d", bad)
    repository.git("replace", good, bad)
    repository.git("reset", "-q", "--soft", good)
    assert commit_of(repository.file) == ""


def test_what_git_gives_is_held_to_the_name(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pack that somebody put there says which name its objects have."""
    good = repository.commit(7, repository.ada)
    raw = commits.raw_commit(repository.file, good)
    assert raw is not None
    monkeypatch.setattr("cloister.cli.config.commits._asked", lambda *_: raw)
    assert commits.raw_commit(repository.file, good) == raw
    assert commits.raw_commit(repository.file, "0" * 40) is None


def test_history_that_was_rewritten_is_told(repository: Repository, cloud: Cloud, cloister: Any) -> None:
    for days in (7, 8):
        repository.commit(days, repository.ada)
        done = cloister("config", "apply", str(repository.file), "--yes", "--signers", str(repository.signers))
        assert done.code == 0, done.err
    verify = ("config", "verify", str(repository.file), "--signers", str(repository.signers))
    fine = cloister(*verify)
    assert (fine.code, fine.out.count(": held")) == (0, 2), fine.err
    # 1. The last commit is made anew: what was applied is not in its history any more.
    second = repository.git("rev-parse", "HEAD")
    sign = ("-c", "gpg.format=ssh", "-c", f"user.signingkey={repository.ada.key}")
    repository.git(*sign, "commit", "-q", "--amend", "-S", "-m", "as if")
    told = cloister(*verify)
    assert (told.code, told.out.count("not in the history"), second in told.out) == (1, 1, True)
    # 2. It is not even there.
    repository.git("reflog", "expire", "--expire=now", "--all")
    repository.git("gc", "-q", "--prune=now")
    assert cloister(*verify).out.count("not in the repository") == 1
    # 3. Somebody else signed it than the log says.
    repository.git("reset", "-q", "--hard", "HEAD^")
    cloud.changes[:] = [change.rpartition("=")[0] + "=" + "0" * 64 for change in cloud.changes if change][:1]
    (only,) = json.loads(cloister(*verify, "-o", "json").out)["applied"]
    assert "signed it, and" in only["why"]
    # 4. A change that names no commit is told as well.
    cloud.changes[:] = [f"plan={'0a' * 32}"]
    assert "names no commit" in cloister(*verify).out

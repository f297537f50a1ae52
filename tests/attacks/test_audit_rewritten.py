"""Who administers the control database changes the record, and computes every hash of the chain anew.

The chain alone cannot show that. Each way of doing it is tried on a real log, and each is found by `cloister audit
verify`, because the key broker has signed the tree; and by the lines of docs/audit.md, which use nothing of ours.
"""

import hashlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloister.base.errors import ConflictError
from cloister.trust.audit.verify import Broken, Intact
from cloister.trust.keys.notary import Notary
from cloister.trust.keys.roots import Roots
from tests.attacks.signed_log import CHANGES, EVENTS, ROLL_BACK, SignedLog

PAGE = Path(__file__).parents[2] / "docs" / "audit.md"


@pytest.fixture(scope="module")
def verified() -> Callable[[Path, str], list[bytes]]:
    """The stranger's program."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    page: dict[str, Any] = {}
    exec(code, page)  # noqa: S102 - our own page
    found: Callable[[Path, str], list[bytes]] = page["verified"]
    return found


def test_an_untouched_log_is_intact_and_says_what_is_signed(signed_log: SignedLog) -> None:
    code, said = signed_log.audit("verify")
    assert (code, said.splitlines()[1]) == (0, "signed: the first 600")
    signed_log.append(3)
    code, said = signed_log.audit("verify")
    assert (code, said.splitlines()[1]) == (0, "signed: the first 600, not yet the 3 after them")
    assert signed_log.sign() == EVENTS + 3
    assert signed_log.audit("verify")[1].splitlines()[1] == "signed: the first 603"


@pytest.mark.parametrize("change", CHANGES)
def test_a_rewritten_log_is_found(signed_log: SignedLog, change: str) -> None:
    signed_log.rewrite(change)
    for _ in range(2):
        code, said = signed_log.audit("verify")
        assert code == 1
        assert "BROKEN" in said
        assert "(rolled back)" in said
        signed_log.append(700)  # long past what was signed, so that only the root can tell
    # The control: the change is good enough for the chain, so it was the tree that found it.
    shutil.rmtree(signed_log.settings.paths.notary)
    code, said = signed_log.audit("verify")
    assert (code, said.splitlines()[1]) == (0, "no checkpoint was signed yet")


@pytest.mark.parametrize("change", CHANGES)
def test_the_api_finds_a_rewritten_log(signed_log: SignedLog, change: str) -> None:
    """As `cloister audit verify` asks it from elsewhere."""
    assert signed_log.verdict_of_the_api() == (Intact, EVENTS)
    signed_log.rewrite(change)
    assert signed_log.verdict_of_the_api() == (Broken, EVENTS)
    signed_log.append(700)
    assert signed_log.verdict_of_the_api() == (Broken, EVENTS), "the root tells, not the length"


@pytest.mark.parametrize("change", CHANGES)
def test_a_rewritten_log_is_neither_exported_nor_passes_for_the_one_exported_before(
    signed_log: SignedLog, tmp_path: Path, change: str
) -> None:
    assert signed_log.audit("export", "--tiles", str(tmp_path / "before"))[0] == 0
    signed_log.rewrite(change)
    code, said = signed_log.audit("export", "--tiles", str(tmp_path / "after"))
    assert code == 1
    assert re.search("not those that were signed|is missing", said)
    assert not (tmp_path / "after" / "checkpoint").exists()
    # Even if all that is here were taken over, key included: the directory remembers.
    shutil.rmtree(signed_log.settings.paths.notary)
    signed_log.settings.paths.notary.mkdir()
    signed_log.notary = Notary(Roots(signed_log.provider), signed_log.settings.paths.notary)
    signed_log.append(700)
    signed_log.sign()
    code, said = signed_log.audit("export", "--tiles", str(tmp_path / "before"))
    assert code == 1
    assert "was exported before and says something else" in said


def test_the_whole_server_put_back_to_yesterday_is_found_by_a_checkpoint_kept_elsewhere(
    signed_log: SignedLog, tmp_path: Path
) -> None:
    yesterday = shutil.copytree(signed_log.settings.paths.notary, tmp_path / "yesterday")
    witness = tmp_path / "checkpoints"
    key = signed_log.audit("checkpoint", "--key")[1].strip()
    for _ in range(2):
        signed_log.append(50)
        signed_log.sign()
        with witness.open("a") as file:
            file.write(signed_log.audit("checkpoint", "--print")[1])
    code, said = signed_log.audit("verify", "--against", str(witness), "--key", key)
    assert (code, said.splitlines()[1]) == (0, "signed: the first 700; extends every checkpoint in 1 file")
    signed_log.roll_back_with_the_notary(yesterday, EVENTS)
    assert signed_log.audit("verify")[0] == 0, "here nothing is wrong"
    code, said = signed_log.audit("verify", "--against", str(witness), "--key", key)
    assert code == 1
    assert "BROKEN at event 601 (rolled back)" in said
    signed_log.append(100)
    signed_log.sign()
    assert signed_log.audit("verify")[0] == 0
    assert signed_log.audit("verify", "--against", str(witness), "--key", key)[0] == 1, "nor when it has grown again"


def test_a_checkpoint_that_the_key_has_not_signed_is_not_believed(signed_log: SignedLog, tmp_path: Path) -> None:
    note, key = signed_log.audit("checkpoint", "--print")[1], signed_log.audit("checkpoint", "--key")[1].strip()
    forged = tmp_path / "forged"
    forged.write_text(note.replace("\n600\n", "\n599\n"))
    code, said = signed_log.audit("verify", "--against", str(forged))
    assert code == 1
    assert "does not fit" in said
    # The notary's directory was replaced whole: another key has signed what is there.
    shutil.rmtree(signed_log.settings.paths.notary)
    signed_log.settings.paths.notary.mkdir()
    signed_log.notary = Notary(Roots(signed_log.provider), signed_log.settings.paths.notary)
    signed_log.sign()
    assert signed_log.audit("verify")[0] == 0
    code, said = signed_log.audit("verify", "--key", key)
    assert code == 1
    assert "the last checkpoint kept here: not signed by" in said


def test_a_log_that_was_put_back_is_not_signed(signed_log: SignedLog) -> None:
    signed_log.rewrite(ROLL_BACK)
    with pytest.raises(ConflictError, match="rolled back"):
        signed_log.sign()


def test_a_stranger_checks_an_export_with_nothing_of_ours(
    signed_log: SignedLog, tmp_path: Path, verified: Callable[[Path, str], list[bytes]]
) -> None:
    tiles = tmp_path / "tiles"
    key = signed_log.audit("checkpoint", "--key")[1].strip()
    assert signed_log.audit("export", "--tiles", str(tiles))[0] == 0
    events = verified(tiles, key)
    assert len(events) == EVENTS
    assert events[41] == b'{"action":"a.b","actor":"user:42"}'
    signed_log.append(3_000)
    signed_log.sign()
    assert signed_log.audit("export", "--tiles", str(tiles))[0] == 0
    assert verified(tiles, key)[:EVENTS] == events
    # A hash of the second level is the root of a whole tile below.
    below = (tiles / "tile/0/013").read_bytes()
    assert len(below) == 256 * hashlib.sha256().digest_size
    bundle = tiles / "tile/entries/001"
    bundle.write_bytes(bundle.read_bytes().replace(b"user:300", b"user:301"))
    with pytest.raises(AssertionError):
        verified(tiles, key)

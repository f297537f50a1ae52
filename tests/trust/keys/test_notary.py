"""The notary signs extensions of what it signed last, and nothing else, whatever it is told."""

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cloister.base.durable import write_durably
from cloister.base.errors import BadRequestError, PreconditionError
from cloister.protocol.merkle.notes import VerifierKey
from cloister.protocol.merkle.tree import Tree, consistency_proof, leaf_hash
from cloister.trust.keys.notary import KEY_FILE, LAST_FILE, ForkError, Notary, read_last
from cloister.trust.keys.providers import FileProvider, create_root_key
from cloister.trust.keys.roots import Roots

LEAVES = [leaf_hash(bytes([number])) for number in range(20)]
FORGED = [*LEAVES[:3], leaf_hash(b"forged"), *LEAVES[4:]]


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[FileProvider]:
    create_root_key(tmp_path / "root.key", uid=os.geteuid(), gid=os.getegid())
    provider = FileProvider(tmp_path / "root.key")
    yield provider
    provider.close()


@pytest.fixture
def notary(provider: FileProvider, tmp_path: Path) -> Notary:
    return Notary(Roots(provider), tmp_path)


def tree(size: int, leaves: list[bytes] = LEAVES) -> Tree:
    return Tree().extended(leaves[:size])


def ask(notary: Notary, old: int, new: int, leaves: list[bytes] = LEAVES) -> int:
    """Have the tree of `new` leaves signed, with the proof that it begins with that of `old`. The size signed."""
    proof = consistency_proof(tree(old, leaves), leaves[old:new])
    signed = notary.sign(new, list(tree(new, leaves).peaks), proof)
    opened = VerifierKey.parse(signed.key).opened(signed.note)
    assert (opened.size, opened.root) == (new, tree(new, leaves).root)
    return opened.size


def test_a_log_that_grows_is_signed_also_by_the_next_notary(
    notary: Notary, provider: FileProvider, tmp_path: Path
) -> None:
    assert notary.last().size == 0
    assert [ask(notary, 0, 5), ask(notary, 5, 11)] == [5, 11]
    again = Notary(Roots(provider), tmp_path)
    assert again.last() == notary.last() == read_last(tmp_path)
    assert ask(again, 11, 12) == 12
    assert again.last().key == notary.last().key


def test_an_answer_that_was_lost_is_given_again(notary: Notary) -> None:
    assert ask(notary, 0, 5) == 5
    before = notary.last()
    assert notary.sign(5, list(tree(5).peaks), []) == before


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param((5, 11, FORGED), id="a past that was changed"),
        pytest.param((0, 11, LEAVES), id="a proof from another tree"),
        pytest.param((7, 11, LEAVES), id="a proof from a tree never signed"),
        pytest.param((0, 4, LEAVES), id="rolled back"),
        pytest.param((0, 5, FORGED), id="another tree of the same size"),
        pytest.param((0, 0, LEAVES), id="rolled back to nothing"),
    ],
)
def test_what_is_no_extension_is_refused_and_nothing_changes(
    notary: Notary, provider: FileProvider, tmp_path: Path, asked: tuple[int, int, list[bytes]]
) -> None:
    assert ask(notary, 0, 5) == 5
    before = notary.last()
    for each in (notary, Notary(Roots(provider), tmp_path)):
        with pytest.raises(ForkError):
            ask(each, *asked)
        assert each.last() == read_last(tmp_path) == before
        with pytest.raises(BadRequestError):
            each.sign(9, [b"no hash"], [])
    assert ask(notary, 5, 11) == 11


def test_of_two_that_extend_the_same_tree_at_once_one_is_signed(
    notary: Notary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first waits for the disk while the second asks: whoever asked first may have given up waiting."""
    assert ask(notary, 0, 5) == 5
    begun, disk = threading.Event(), threading.Event()

    def write_slowly(path: Path, content: bytes, *, mode: int = 0o644) -> None:
        begun.set()
        assert disk.wait(30)
        write_durably(path, content, mode=mode)

    monkeypatch.setattr("cloister.trust.keys.notary.write_durably", write_slowly)
    other = [*LEAVES[:7], *FORGED[:3]]
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(ask, notary, 5, 8)
        assert begun.wait(30)
        second = threads.submit(ask, notary, 5, 9, other)
        disk.set()
        assert first.result(30) == 8
        with pytest.raises(ForkError):
            second.result(30)
    assert notary.last().size == 8


def test_a_notary_that_lost_half_of_what_it_knew_signs_nothing(
    notary: Notary, provider: FileProvider, tmp_path: Path
) -> None:
    """It must not begin a second history under the same key, nor under another beside the first."""
    ask(notary, 0, 5)
    key, last = (tmp_path / KEY_FILE).read_bytes(), (tmp_path / LAST_FILE).read_bytes()
    for name, content in [
        (KEY_FILE, None), (LAST_FILE, None), (KEY_FILE, b"{}"), (LAST_FILE, b""), (LAST_FILE, last.replace(b"5", b"6", 1)),
    ]:  # fmt: skip
        (tmp_path / KEY_FILE).write_bytes(key)
        (tmp_path / LAST_FILE).write_bytes(last)
        if content is None:
            (tmp_path / name).unlink()
        else:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(PreconditionError):
            Notary(Roots(provider), tmp_path).sign(1, list(tree(1).peaks), [])


def test_a_first_start_that_was_cut_short_is_begun_again(
    notary: Notary, provider: FileProvider, tmp_path: Path
) -> None:
    first = notary.last()
    (tmp_path / KEY_FILE).unlink()
    second = Notary(Roots(provider), tmp_path)
    assert second.last().key != first.key
    assert ask(second, 0, 3) == 3


def test_the_private_key_lies_on_disk_only_under_the_root_key(notary: Notary, tmp_path: Path) -> None:
    ask(notary, 0, 1)
    assert (tmp_path / KEY_FILE).stat().st_mode & 0o777 == 0o600
    other_root = tmp_path / "other"
    other_root.mkdir()
    create_root_key(other_root / "root.key", uid=os.geteuid(), gid=os.getegid())
    stranger = FileProvider(other_root / "root.key")
    try:
        with pytest.raises(Exception, match="no root key opens it"):
            Notary(Roots(stranger), tmp_path).sign(2, list(tree(2).peaks), consistency_proof(tree(1), LEAVES[1:2]))
    finally:
        stranger.close()

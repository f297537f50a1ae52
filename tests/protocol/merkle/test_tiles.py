"""Tiles are named and filled as C2SP tlog-tiles says."""

import hashlib

import pytest

from cloister.protocol.merkle.tiles import ENTRY_BYTES_MAX, Tiler, tile_path
from cloister.protocol.merkle.tree import Tree, leaf_hash


def test_names() -> None:
    assert tile_path(0, 0) == "tile/0/000"
    assert tile_path(1, 1234067) == "tile/1/x001/x234/067"
    assert tile_path("entries", 999, 7) == "tile/entries/999.p/7"
    assert tile_path("entries", 1000) == "tile/entries/x001/000"


@pytest.mark.parametrize(("size", "names"), [
    (0, []),
    (1, ["tile/0/000.p/1", "tile/entries/000.p/1"]),
    (256, ["tile/0/000", "tile/1/000.p/1", "tile/entries/000"]),
    (600, ["tile/0/000", "tile/0/001", "tile/0/002.p/88", "tile/1/000.p/2",
           "tile/entries/000", "tile/entries/001", "tile/entries/002.p/88"]),
])  # fmt: skip
def test_the_files_of_a_tree(size: int, names: list[str]) -> None:
    tiler = Tiler()
    entries = [str(number).encode() for number in range(size)]
    files = dict([*(file for entry in entries for file in tiler.add(entry)), *tiler.finish()])
    assert sorted(files) == names
    leaves = b"".join(files[name] for name in names if name.startswith("tile/0/"))
    assert leaves == b"".join(leaf_hash(entry) for entry in entries)
    if size == 600:
        of_a_tile = [leaf_hash(entry) for entry in entries[:256]]
        assert files["tile/1/000.p/2"][:32] == Tree().extended(of_a_tile).root
        assert files["tile/entries/000"].startswith(b"\0\x010\0\x011")


def test_a_third_level_begins_with_the_65_536th_entry() -> None:
    tiler = Tiler()
    names = [name for _ in range(65_536) for name, _ in tiler.add(b"")]
    assert "tile/1/000" in names
    files = dict(tiler.finish())
    assert list(files) == ["tile/2/000.p/1"]
    assert len(files["tile/2/000.p/1"]) == hashlib.sha256().digest_size


def test_an_entry_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="65536 bytes"):
        list(Tiler().add(bytes(ENTRY_BYTES_MAX + 1)))


def test_a_tile_that_is_skipped_is_left_out_and_all_others_are_the_same() -> None:
    entries = [str(n).encode() for n in range(3 * 256 + 7)]
    whole, skipping = Tiler(), Tiler()
    files = dict([file for each in entries for file in whole.add(each)] + list(whole.finish()))
    found = dict[str, bytes]()
    for tile in range(2):
        found.update(
            skipping.skip(Tree().extended([leaf_hash(it) for it in entries[256 * tile : 256 * tile + 256]]).root)
        )
    found.update([file for each in entries[512:] for file in skipping.add(each)] + list(skipping.finish()))
    gone = {f"tile/{kind}/{number}" for kind in (0, "entries") for number in ("000", "001")}
    assert found == {name: content for name, content in files.items() if name not in gone}
    with pytest.raises(ValueError, match="was begun"):
        next(iter(skipping.skip(bytes(32))))

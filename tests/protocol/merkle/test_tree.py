"""The tree is the one of RFC 9162: held to its definition, written down a second time as the RFC writes it."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.protocol.merkle.tree import EMPTY_ROOT, Tree, consistency_proof, is_consistent, leaf_hash

LEAVES = [leaf_hash(bytes([number])) for number in range(70)]
OTHER = hashlib.sha256(b"other").digest()


def defined(leaves: list[bytes]) -> bytes:
    """MTH of RFC 9162 §2.1.1, over leaf hashes."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\x01" + defined(leaves[:split]) + defined(leaves[split:])).digest()


def test_published_vectors() -> None:
    """Those that implementations of Certificate Transparency share."""
    entries = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
    leaves = [leaf_hash(bytes.fromhex(each)) for each in entries]
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert leaves[0].hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    assert Tree().extended(leaves).root.hex() == "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"


@given(st.integers(0, 70), st.integers(0, 70))
@settings(max_examples=60, deadline=None)
def test_a_tree_is_its_definition_however_it_grew(first: int, second: int) -> None:
    old, new = sorted((first, second))
    grown = Tree().extended(LEAVES[:old]).extended(LEAVES[old:new])
    assert grown == Tree().extended(LEAVES[:new])
    assert grown.root == defined(LEAVES[:new])


def test_every_extension_is_proved_and_nothing_else() -> None:
    for size in range(26):
        new = Tree().extended(LEAVES[:size])
        for old_size in range(size + 1):
            old = Tree().extended(LEAVES[:old_size])
            proof = consistency_proof(old, LEAVES[old_size:size])
            here, there = (old_size, old.root), (size, new.root)
            assert is_consistent(here, there, proof)
            assert not is_consistent(here, there, [*proof, OTHER])
            for position in range(len(proof)):
                assert not is_consistent(here, there, [*proof[:position], OTHER, *proof[position + 1 :]])
                assert not is_consistent(here, there, proof[:position] + proof[position + 1 :])
            assert not is_consistent((old_size, OTHER), there, proof)
            if old_size < size:
                assert not is_consistent(there, here, proof), "a log does not shrink"
                assert not is_consistent(here, (size, OTHER), proof) or old_size == 0


@given(st.integers(1, 40), st.integers(1, 30), st.data())
@settings(max_examples=40, deadline=None)
def test_a_past_that_was_changed_has_no_proof(old_size: int, more: int, data: st.DataObject) -> None:
    """Whoever changes a leaf of the old tree and computes everything honestly from there is refused."""
    changed = data.draw(st.integers(0, old_size - 1))
    forged = [*LEAVES[:changed], OTHER, *LEAVES[changed + 1 :]]
    proof = consistency_proof(Tree().extended(forged[:old_size]), forged[old_size : old_size + more])
    signed = Tree().extended(LEAVES[:old_size])
    root = Tree().extended(forged[: old_size + more]).root
    assert not is_consistent((old_size, signed.root), (old_size + more, root), proof)


@pytest.mark.parametrize(("size", "peaks"), [(-1, ()), (1, ()), (3, (OTHER,)), (1, (b"short",)), (2, (OTHER, OTHER))])
def test_peaks_that_make_no_tree_of_that_size_are_refused(size: int, peaks: tuple[bytes, ...]) -> None:
    with pytest.raises(ValueError, match="peak"):
        Tree(size, peaks)


@given(st.integers(0, 40), st.integers(0, 9))
@settings(max_examples=60)
def test_a_tree_grows_on_from_the_roots_of_whole_tiles(tiles: int, more: int) -> None:
    """Its leaves below are not needed, and it is the same tree."""
    leaves = [leaf_hash(bytes([n % 256, n // 256])) for n in range(tiles * 4 + more)]
    roots = [Tree().extended(leaves[4 * n : 4 * n + 4]).root for n in range(tiles)]
    assert Tree.over(roots, 4).extended(leaves[tiles * 4 :]) == Tree().extended(leaves)

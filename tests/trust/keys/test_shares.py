"""A root key in several hands: enough of them are the key, fewer are nothing, and what was miswritten is told."""

import itertools
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.base.errors import BadRequestError
from cloister.trust.keys import shares

KEY = bytes(range(32))


@pytest.fixture(scope="module")
def made() -> list[str]:
    return shares.split(KEY, people=5, enough=3)


def test_any_three_of_five_are_the_key(made: list[str]) -> None:
    for some in itertools.permutations(made, 3):
        assert shares.join(some) == KEY
    assert shares.join(made) == KEY, "more do no harm"


def test_fewer_are_told_how_many_are_needed(made: list[str]) -> None:
    for some in itertools.combinations(made, 2):
        with pytest.raises(BadRequestError, match="2 shares of the 3") as refused:
            shares.join(some)
        assert refused.value.public
    assert shares.needed(made[0]) == 3


def test_the_same_share_twice_is_one(made: list[str]) -> None:
    with pytest.raises(BadRequestError, match="twice"):
        shares.join([made[0], made[1], made[0]])


def test_shares_of_two_makings_do_not_mix(made: list[str]) -> None:
    others = shares.split(KEY, people=5, enough=3)
    with pytest.raises(BadRequestError) as refused:
        shares.join([made[0], made[1], others[2]])
    assert refused.value.public == "these are not shares of one key"


def test_a_share_is_33_words_however_it_was_typed(made: list[str]) -> None:
    assert {len(share.split()) for share in made} == {33}
    assert shares.join([f"  {share.upper()}\n".replace(" ", "  ") for share in made[:3]]) == KEY


def test_two_makings_have_nothing_in_common(made: list[str]) -> None:
    assert not set(made) & set(shares.split(KEY, people=5, enough=3))


@given(position=st.integers(0, 32), word=st.sampled_from(["academic", "zero", "wolf", "not-a-word", "", "ﬀ"]))
def test_a_word_that_is_wrong_is_found(made: list[str], position: int, word: str) -> None:
    words = made[0].split()
    if words[position] == word:
        return
    words[position] = word
    with pytest.raises(BadRequestError, match="not a share"):
        shares.join([" ".join(words), made[1], made[2]])


@given(st.lists(st.text(), max_size=4))
def test_whatever_is_typed_is_refused_in_words(typed: list[str]) -> None:
    with pytest.raises(BadRequestError) as refused:
        shares.join(typed)
    assert refused.value.public


@pytest.mark.parametrize(("people", "enough"), [(3, 1), (3, 4), (1, 1), (17, 2), (0, 0)])
def test_numbers_that_cannot_be_are_refused(people: int, enough: int) -> None:
    with pytest.raises(BadRequestError):
        shares.split(KEY, people=people, enough=enough)


def test_what_is_noted_says_nothing_of_a_share(made: list[str], tmp_path: Path) -> None:
    path = tmp_path / "key-shares.json"
    assert shares.noted(path) is None
    note = shares.Made(root_version="00ff", people=5, enough=3, made_at=1.0, tried_at=2.0)
    shares.note(path, note)
    assert shares.noted(path) == note
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert not any(word in path.read_text().split() for share in made for word in share.split())
    path.write_bytes(b"{")
    assert shares.noted(path) is None

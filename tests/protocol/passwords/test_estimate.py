"""What a password is worth, in Python. That C thinks the same is in tests/guard."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.base.secret import new_password
from cloister.protocol.passwords import BITS_REQUIRED, Kind, Policy, estimate
from cloister.protocol.passwords.words import ranks

NAMES = ("neondb_owner", "neondb")


@pytest.mark.parametrize(
    ("password", "strict", "neon"),
    [
        ("Password1234!", False, True),
        ("T3sting!23Ab", False, True),
        ("qwertyuiop[]ASDF1", False, True),
        ("aB3$aB3$aB3$", False, False),
        ("correcthorsebatterystaple", False, True),
        ("FLfASd8mbKO9", True, True),
        ("", False, False),
        ("a" * 64, False, False),
        ("neondb_owner2024!", False, True),
    ],
)
def test_the_examples_that_the_policies_were_chosen_by(password: str, strict: bool, neon: bool) -> None:
    assert estimate(password, NAMES).is_enough == strict
    assert estimate(password, NAMES, "neon").is_enough == neon


def test_whatever_is_generated_passes_both_policies() -> None:
    policies: tuple[Policy, ...] = ("strict", "neon")
    for _ in range(500):
        password = new_password().reveal()
        for policy in policies:
            assert estimate(password, NAMES, policy).bits > BITS_REQUIRED + 5


@pytest.mark.parametrize(
    ("password", "kind"),
    [
        ("dragon", Kind.WORD),
        ("nogard", Kind.WORD),
        ("dr4g0n", Kind.WORD),
        ("neondb", Kind.CONTEXT),
        ("rewno_bdnoen", Kind.CONTEXT),
        ("zq9zq9zq9", Kind.REPEAT),
        ("ghijklm", Kind.SEQUENCE),
        ("knqtwz", Kind.SEQUENCE),
        ("tfcxdr", Kind.KEYBOARD),
        ("27.11.1983", Kind.DATE),
    ],
)
def test_each_kind_of_pattern_is_found_and_named(password: str, kind: Kind) -> None:
    found = estimate(password, ("neondb_owner", "neondb"))
    assert kind in found.kinds
    assert found.bits < 30
    assert kind.words[0] in found.why


def test_what_counts_is_what_scram_hashes() -> None:
    assert estimate("Ｐａｓｓｗｏｒｄ１２３４！").bits == pytest.approx(estimate("Password1234!").bits)
    assert estimate("pass\u00adword").bits == pytest.approx(estimate("password").bits)  # a soft hyphen is nothing


SENTENCES = re.compile(
    r"it contains [a-z, ]+(; it has \d+ of at least 12 characters)?|it has \d+ of at least 12 characters"
    r"|it is too short for the characters it is made of"
)


@given(st.text(max_size=60))
@settings(max_examples=100, deadline=None)
def test_a_reason_is_made_of_our_words_only(password: str) -> None:
    why = estimate(password).why
    assert SENTENCES.fullmatch(why)
    found = why.removeprefix("it contains ").split(";")[0].replace(" and ", ", ").split(", ")
    known = {word for kind in Kind for word in kind.words}
    assert not why.startswith("it contains") or set(", ".join(found).split(", ")) <= set(", ".join(known).split(", "))


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=30))
@settings(max_examples=100, deadline=None)
def test_no_pattern_makes_a_password_stronger_than_its_characters(password: str) -> None:
    assert estimate(password).bits <= len(password) * 6.57


def test_a_password_said_twice_is_hardly_better_than_once() -> None:
    once, twice = estimate("kQ7vWz3X"), estimate("kQ7vWz3XkQ7vWz3X")
    assert twice.bits - once.bits < 10
    assert not twice.is_enough


def test_the_word_list_is_ordered_and_in_small_letters() -> None:
    assert len(ranks()) > 40_000
    assert ranks()["password"] < 50 < ranks()["aardvark"]
    assert all(word == word.lower() and 3 <= len(word) <= 24 for word in ranks())

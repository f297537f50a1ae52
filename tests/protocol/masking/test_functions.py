"""The table of functions, as docs are written from it; and the words."""

import re
from math import log2

import pytest

from cloister.protocol.masking import FUNCTIONS, Call, parse_function, words
from cloister.protocol.masking.sql import HEX_DIGITS
from tests.sql_tokens import tokens

SALT = "00" * 16

CALLS = {
    "dnoise": "dnoise({c}, '2 days')",
    "hash": "hash({c})",
    "lorem_ipsum": "lorem_ipsum(characters := 100)",
    "noise": "noise({c}, 0.25)",
    "partial": "partial({c}, 1, '***', 2)",
    "partial_email": "partial_email({c})",
    "random_bigint_between": "random_bigint_between(-5, 5)",
    "random_date_between": "random_date_between('2024-02-28', '2024-03-01')",
    "random_in": "random_in(ARRAY['red', 'green'])",
    "random_in_enum": "random_in_enum({c})",
    "random_int_between": "random_int_between(1, 3)",
    "random_phone": "random_phone('0033')",
    "random_string": "random_string(25)",
} | {name: f"{name}({{c}})" for name in FUNCTIONS if name.startswith("pseudo_")}
"""One call of each function that takes something."""

LISTS = [name for name, value in vars(words).items() if isinstance(value, tuple)]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_is_called_by_its_name_and_says_what_it_does(name: str) -> None:
    """What the table says of it is fit to be shown, and what it makes is of tokens that are pg_catalog's."""
    function = FUNCTIONS[name]
    assert function.name == name
    assert function.signature.startswith(f"anon.{name}(")
    assert function.meaning[0].isupper() or function.meaning[0].isdigit() or function.meaning.startswith("ada@")
    assert function.meaning.endswith(".")
    assert function.returns
    call = CALLS.get(name, f"{name}()")
    assert function.keeps_null == ("{c}" in call)
    masking = parse_function(f"anon.{call.format(c='c')}", "c")
    assert isinstance(masking, Call)
    assert tokens(masking.sql("c", SALT))


@pytest.mark.parametrize("name", [name for name, function in FUNCTIONS.items() if not function.keeps_null])
def test_what_knows_nothing_of_the_column_does_not_read_it(name: str) -> None:
    """Nor does its expression depend on the salt."""
    masking = parse_function(CALLS.get(name, f"{name}()"), "c")
    assert '"c"' not in masking.sql("c", SALT)
    assert masking.sql("c", SALT) == masking.sql("c", "11" * 16)


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name.startswith("pseudo_") or name == "hash"])
def test_no_two_functions_have_one_key(name: str) -> None:
    """Nor one salt the keys of another."""
    blocks = {
        (other, salt): set(re.findall(r"'([0-9a-f]{128})'", Call(other, ()).sql("c", salt)))
        for other in FUNCTIONS
        for salt in (SALT, "11" * 16)
        if other.startswith("pseudo_") or other == "hash"
    }
    mine = blocks.pop((name, SALT))
    assert mine
    assert all(mine.isdisjoint(others) for others in blocks.values())


@pytest.mark.parametrize("name", LISTS)
def test_words_are_plain_and_have_no_comma(name: str) -> None:
    """A list travels as one text, and fits a database of any encoding. But for what stands beside a word, it has forty."""
    words_ = getattr(words, name)
    assert all(word.isascii() and word.isprintable() and word.strip() == word and "," not in word for word in words_)
    if name != "LOREM":
        assert len(set(words_)) == len(words_)
    if name not in ("COMPANY_SUFFIXES", "STREET_SUFFIXES", "EMAIL_DOMAINS"):
        assert len(set(words_)) >= 40


def test_a_name_that_becomes_an_address_is_fit_for_one() -> None:
    """Local parts are letters and digits; domains are those that nobody can register."""
    assert all(name.isalpha() for name in (*words.FIRST_NAMES, *words.LAST_NAMES))
    assert set(words.EMAIL_DOMAINS) == {"example.com", "example.net", "example.org"}
    assert max(map(len, words.FIRST_NAMES)) + max(map(len, words.LAST_NAMES)) + HEX_DIGITS + 2 <= 64
    assert all(re.fullmatch(r"[2-9][0-9]{2}", code) and not code.endswith("11") for code in words.AREA_CODES)


def test_how_likely_two_of_a_million_addresses_are_the_same() -> None:
    """The figure that fake_email's meaning states."""
    space = 16**HEX_DIGITS * len(words.FIRST_NAMES) * len(words.LAST_NAMES) * len(words.EMAIL_DOMAINS)
    rows = 10**6
    assert log2(16**HEX_DIGITS) == 48
    runs = 1 / (rows * (rows - 1) / 2 / space)
    assert f"once in {runs / 10**6:.1f} million runs" in FUNCTIONS["fake_email"].meaning


@pytest.mark.parametrize(
    "name", [name for name, each in FUNCTIONS.items() if each.keeps_null and name != "random_in_enum"]
)
def test_what_is_made_of_the_original_never_depends_on_chance_that_can_be_known(name: str) -> None:
    """The numbers of random() can be told from another column of the row, and a shift by them be taken off again."""
    expression = parse_function(CALLS[name].format(c="c"), "c").sql("c", SALT)
    assert "pg_catalog.random()" not in expression
    assert ("pg_catalog.gen_random_uuid()" in expression) == (name in ("noise", "dnoise"))

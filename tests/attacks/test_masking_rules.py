"""Somebody who may write masking rules tries to have SQL of their own run in the branch before it is masked.

The runner's rights are the table owner's or more, and the data are not masked yet: a rule that could say anything could copy
them out. Each attempt is refused, or becomes a literal. What a real server makes of them: tests/protocol/masking/test_postgres.py.
"""

import contextlib

import pytest

from cloister.protocol.masking import MaskingError, parse_function, parse_value
from tests.sql_tokens import shape

SALT = "0f" * 32

STATEMENT = "COPY users TO PROGRAM 'id'"

NO_CALLS = [
    STATEMENT,
    f"anon.fake_email(); {STATEMENT}",
    "anon.fake_email() || (SELECT password FROM admins LIMIT 1)",
    "anon.fake_email() WHERE false",
    "anon.fake_email(), is_admin = true",
    "anon.fake_email())",
    "anon.fake_email() -- ",
    "anon.fake_email() /* ",
    "(SELECT anon.fake_email())",
    "pg_catalog.pg_read_file('/etc/passwd')",
    "pg_read_file('/etc/passwd')",
    "anon.pg_read_file('/etc/passwd')",
    "anon.\"pg_read_file\"('/etc/passwd')",
    "evil.fake_email()",
    "anon.evil.fake_email()",
    "anon.hash(pg_sleep(1000))",
    "anon.hash((SELECT password FROM admins))",
    "anon.hash(password)",
    'anon.hash("password")',
    "anon.hash(users.email)",
    "anon.hash(users)",
    "anon.hash(email::regclass)",
    "anon.hash(CAST(email AS evil.type))",
    "anon.hash(email COLLATE evil.locale)",
    "anon.hash(email OPERATOR(evil.+) 1)",
    "anon.partial(email, 1000000000, '', 1000000000)",
    "anon.partial(email, 1, $$x$$, 1)",
    "anon.partial(email, 1, E'\\'', 1)",
    "anon.partial(email, 1, U&'\\0027' UESCAPE '!', 1)",
    "anon.partial(email, 1, B'1', 1)",
    "anon.partial(email, $1, 'x', 1)",
    "anon.random_in(ARRAY(SELECT password FROM admins))",
    "anon.random_in(ARRAY['a'] || ARRAY[email])",
    "anon.random_in(ARRAY[email])",
    "anon.random_in(ARRAY[['a']])",
    "anon.random_string(2147483647)",
    "anon.lorem_ipsum(words := 2147483647)",
    "anon.lorem_ipsum(VARIADIC ARRAY[1])",
    "anon.noise(email, 'NaN')",
    "anon.noise(email, 1) OVER ()",
    "anon.random_date_between('now', 'infinity')",
    "anon.dnoise(email, '1 day'' + evil()')",
    "\N{FULLWIDTH LATIN SMALL LETTER A}non.fake_email()",
]

TEXTS = [
    "'",
    "''",
    "\\",
    "\\'",
    "\\\\'",
    "'; DROP TABLE users; --",
    "\\'; DROP TABLE users; --",
    "' || (SELECT password FROM admins) || '",
    "\n'; DROP TABLE users; --",
    "\r\n",
    "/*",
    "--",
    "$$",
    "\u2019; DROP TABLE users",
    "\\u0027",
    "\ufeff'",
    "\x1a",
    "%s %(x)s {} $1 :x",
]


@pytest.mark.parametrize("text", NO_CALLS)
def test_what_is_no_call_of_the_table_is_refused(text: str) -> None:
    """By a text that says so, and that repeats no more than a little of it."""
    with pytest.raises(MaskingError) as refused:
        parse_function(text, "email")
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize("text", NO_CALLS + TEXTS)
def test_a_value_is_one_literal_whatever_it_says(text: str) -> None:
    """So is a text in quotes that is none at its end."""
    for given in (text, f"'{text}'", f"'{text}", f"{text}'", text.replace("'", "''")):
        assert shape(parse_value(given).sql("email", SALT)) == ["literal"]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_stays_in_its_quotes(text: str) -> None:
    """As an argument, as a member of an array, and as a column's name."""
    quoted = "'" + text.replace("'", "''") + "'"
    for call, harmless in (
        (f"anon.random_phone({quoted})", "anon.random_phone('0')"),
        (f"anon.random_in(ARRAY[{quoted}, NULL])", "anon.random_in(ARRAY['a', NULL])"),
        (f"anon.partial(email, 1, {quoted}, 1)", "anon.partial(email, 1, '*', 1)"),
    ):
        with contextlib.suppress(MaskingError):  # a prefix of more than 20 characters
            assert shape(parse_function(call, "email").sql("email", SALT)) == shape(
                parse_function(harmless, "email").sql("email", SALT)
            )
    with contextlib.suppress(MaskingError):  # what would break a line is no column
        named = parse_function("anon.hash(" + '"' + text.replace('"', '""') + '")', text)
        assert shape(named.sql(text, SALT)) == shape(parse_function("anon.hash(email)", "email").sql("email", SALT))


def test_a_salt_is_not_in_what_a_rule_says() -> None:
    """The expression has keys that were derived from it, so that other functions' keys are not to be had from one of them."""
    for call in ("hash(email)", "pseudo_email(email)", "pseudo_city(email)"):
        assert SALT[:32] not in parse_function(call, "email").sql("email", SALT)

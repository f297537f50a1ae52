"""Nothing secret is left in what is kept, and what is not secret stays as it was."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.protocol.pgwire.masking import mask

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("ALTER ROLE app PASSWORD 'hunter2'", "ALTER ROLE app PASSWORD '***'"),
        (
            "create user app with login encrypted password 'hun''hunter2'",
            "create user app with login encrypted password '***'",
        ),
        ("ALTER ROLE app PASSWORD E'\\'hunter2'", "ALTER ROLE app PASSWORD '***'"),
        ("ALTER ROLE app PASSWORD U&'hunter2'", "ALTER ROLE app PASSWORD U&'***'"),
        ("ALTER ROLE app PASSWORD $$hunter2$$", "ALTER ROLE app PASSWORD $$***$$"),
        (
            "ALTER ROLE app PASSWORD $x$hunter2$x$ VALID UNTIL 'infinity'",
            "ALTER ROLE app PASSWORD $x$***$x$ VALID UNTIL '***'",
        ),
        ("ALTER ROLE app PASSWORD/**/'hunter2'", "ALTER ROLE app PASSWORD/**/'***'"),
        ("ALTER ROLE app PASSWORD 'hunter2", "ALTER ROLE app PASSWORD '***'"),
        (
            "SELECT 1; ALTER ROLE app PASSWORD 'hunter2'; SELECT 'kept'",
            "SELECT 1; ALTER ROLE app PASSWORD '***'; SELECT 'kept'",
        ),
        (
            "DO $$ DECLARE pw text := 'hunter2'; BEGIN EXECUTE format('ALTER ROLE app PASSWORD %L', pw); END $$",
            "DO $$ DECLARE pw text := '***'; BEGIN EXECUTE format('***', pw); END $$",
        ),
        ("SELECT set_config('x', 'y', true)", "SELECT set_config('x', 'y', true)"),
        ("SELECT dblink_connect('host=db password=hunter2')", "SELECT dblink_connect('***')"),
        (
            "CREATE SUBSCRIPTION s CONNECTION 'user=u password=hunter2' PUBLICATION p",
            "CREATE SUBSCRIPTION s CONNECTION '***' PUBLICATION p",
        ),
        (
            "ALTER USER MAPPING FOR u SERVER s OPTIONS (SET password 'hunter2')",
            "ALTER USER MAPPING FOR u SERVER s OPTIONS (SET password '***')",
        ),
        ("SELECT f('postgresql://u:hunter2@db/x')", "SELECT f('***')"),
        ("SELECT pgp_sym_encrypt('text', 'hunter2')", "SELECT pgp_sym_encrypt('***', '***')"),
        (
            "UPDATE users SET password = 'hunter2' WHERE name = 'ada'",
            "UPDATE users SET password = '***' WHERE name = '***'",
        ),
        ("UPDATE users SET \"password\" = 'hunter2'", "UPDATE users SET \"password\" = '***'"),
        ("UPDATE users SET user_password='hunter2'", "UPDATE users SET user_password='***'"),
        ("ALTER ROLE app PASSWORD 'ab\\'hunter2'; SELECT 'x'", "ALTER ROLE app PASSWORD '***'"),
    ],
)
def test_what_is_secret_goes_and_what_was_done_stays(said: str, kept: str) -> None:
    assert mask(said) == kept
    assert SECRET not in mask(said)


@pytest.mark.parametrize(
    "said",
    [
        "SELECT * FROM customers WHERE name = 'Bob' -- password",
        "/* secret /* nested */ */ SELECT 'Bob'",
        "SELECT 'it''s', E'a\\'b', $q$; DROP$q$, \"odd ' name\"",
        "DO $$ BEGIN PERFORM 'x'; END $$; SELECT 2",
        "INSERT INTO t VALUES ('a', 'b'); DELETE FROM u WHERE v = 'w'",
        "SELECT $1, $2 FROM bypassworded",
        "",
    ],
)
def test_what_is_not_secret_stays_as_it_was(said: str) -> None:
    assert mask(said) == said


def test_of_a_text_that_was_cut_the_last_statement_says_nothing() -> None:
    """The word that makes it secret may have been cut off."""
    assert (
        mask("SELECT 'a'; INSERT INTO t VALUES ('b', 'c", is_cut=True)
        == "SELECT 'a'; INSERT INTO t VALUES ('***', '***'"
    )


@pytest.mark.parametrize(
    "said",
    [
        # Where backslashes escape, the literal goes on, and what looks like the next statement is inside it.
        f"ALTER USER a PASSWORD 'back\\'; SELECT 1; {SECRET}'",
        # The word is in one literal of a body, the secret in another.
        f"DO $a$ BEGIN EXECUTE format($b$ALTER ROLE a PASSWORD %L$b$, '{SECRET}'); END $a$",
    ],
)
def test_what_a_lexer_would_get_wrong(said: str) -> None:
    assert SECRET not in mask(said)


_LITERALS = st.sampled_from(["'{}'", "E'{}'", "$${}$$", "$a${}$a$", "'x''{}'", "E'\\'{}'", "U&'{}'", "'{}\nmore'"])
_BEFORE = st.sampled_from(["", "SELECT 'x'; ", "-- it's\n", "/* ' */ ", 'SELECT "a\'b"; ', "SELECT $$;$$; "])
_STATEMENTS = st.sampled_from(
    [
        "ALTER ROLE a PASSWORD {}",
        "DO $body$ BEGIN EXECUTE 'ALTER ROLE a PASSWORD ' || quote_literal({}); END $body$",
        "DO $o$ BEGIN EXECUTE $i$ ALTER ROLE a PASSWORD {} $i$; END $o$",
        "CREATE FUNCTION f() RETURNS void LANGUAGE sql AS $f$ SELECT {}; ALTER ROLE a PASSWORD 'x' $f$",
        "SELECT crypt({}, gen_salt('bf'))",
    ]
)


@given(before=_BEFORE, statement=_STATEMENTS, literal=_LITERALS, after=_BEFORE)
def test_however_it_is_quoted_and_wherever_it_stands(before: str, statement: str, literal: str, after: str) -> None:
    said = before + statement.format(literal.format(SECRET)) + ";" + after
    assert SECRET not in mask(said)


@given(st.text(alphabet="'\"$;-/*\\ aEe\nxpassword", max_size=60))
def test_any_text_can_be_masked_and_masking_twice_changes_nothing_secret(text: str) -> None:
    once = mask(text)
    if not any(word in text for word in ("password", "passwd")):
        assert once == text
    mask(once)


@pytest.mark.parametrize("bad", ["'", "$a", "/*", "$$", "://a:", "E'\\", "$a$", '"', "--"])
def test_a_long_text_of_beginnings_comes_to_its_end(bad: str) -> None:
    """65 kB of it; were the time to grow with the square, the test run would hang here."""
    mask("password " + bad * (65_536 // len(bad)))
    mask(bad * (65_536 // len(bad)))

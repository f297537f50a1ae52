"""Every function on a real PostgreSQL, in a session where all that can be hostile is: the search path, names of columns, settings.

A schema before pg_catalog in the path has a function, an operator or a type for each that the expressions use, of the same
argument types. Each raises an error.
"""

import hashlib
import hmac
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import sql

from cloister.protocol.masking import FUNCTIONS, MaskingError, parse_function, parse_value, words
from tests.fix_database import ControlServer, a_database
from tests.protocol.masking.test_functions import CALLS
from tests.sql_tokens import tokens

Session = psycopg.Connection[Any]

SALT: Final = "0123456789abcdef" * 2
ROWS: Final = 300
COLUMNS: Final = {
    'te"xt': "text",
    "var'char": "varchar(200)",
    "in\\t": "int",
    "da te": "date",
    "tïmestamp": "timestamptz",
    "small--": "smallint",
    "big;": "bigint",
    "$float$": "double precision",
    "numeric": "numeric",
    "TIME": "time",
    "%s": "uuid",
    "random()": "mood",
}
TEXT, VARCHAR, INT, DATE, TIMESTAMPTZ, SMALL, BIG, FLOAT, NUMERIC, TIME, UUID, ENUM = COLUMNS

WHERE: Final = {
    "uuid": (UUID, TEXT),
    "integer": (INT, BIG, NUMERIC, FLOAT, TEXT),
    "bigint": (BIG, INT, SMALL, NUMERIC, FLOAT, TEXT),
    "timestamp with time zone": (TIMESTAMPTZ, DATE, TEXT),
    "double precision": (INT, SMALL, BIG, FLOAT, NUMERIC),
    "timestamp of a date, else the column's": (DATE, TIMESTAMPTZ, TIME),
    "the column's": (ENUM,),
}
"""Columns that a type is assigned to. What is not here is text, for texts."""

ROW: Final = """
    'ada@example.org', 'Ada Lovelace', 2147483647, '2024-03-31', '2024-03-31 02:30:00+00', 32767, 9223372036854775807,
    12.5, 12.50, '12:00', '11111111-1111-4111-8111-111111111111', 'sad'"""


@pytest.fixture(scope="module")
def session(control_server: ControlServer) -> Iterator[Session]:
    """Of somebody whose settings are as odd as they may be."""
    with a_database(control_server) as database, psycopg.connect(database.url(), autocommit=True) as session:
        session.execute("CREATE TYPE public.mood AS ENUM ('sad', 'ok', 'happy')")
        columns = sql.SQL(", ").join(
            sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(type_)) for name, type_ in COLUMNS.items()
        )
        session.execute(sql.SQL("CREATE TABLE public.t (id int PRIMARY KEY, {})").format(columns))
        session.execute(f"INSERT INTO public.t SELECT i, {ROW} FROM generate_series(1, {ROWS}) AS i")
        session.execute(f"INSERT INTO public.t (id) SELECT -i FROM generate_series(1, {ROWS}) AS i")
        _make_evil(session)
        for setting, value in (
            ("search_path", "evil, pg_catalog"),
            ("DateStyle", "SQL, DMY"),
            ("IntervalStyle", "sql_standard"),
            ("TimeZone", "Europe/Berlin"),
            ("backslash_quote", "off"),
            ("bytea_output", "escape"),
            ("transform_null_equals", "on"),
        ):
            session.execute("SELECT pg_catalog.set_config(%s, %s, false)", (setting, value))
        yield session


@pytest.fixture(params=["on", "off"])
def strings(request: pytest.FixtureRequest, session: Session) -> Iterator[str]:
    """standard_conforming_strings"""
    session.execute(f"SET standard_conforming_strings = {request.param}")
    yield request.param
    session.execute("RESET standard_conforming_strings")


def _expressions() -> dict[str, str]:
    return {
        name: parse_function(CALLS.get(name, f"{name}()").format(c='"c"'), "c").sql("c", SALT) for name in FUNCTIONS
    }


def _make_evil(session: Session) -> None:
    ours = [token for each in _expressions().values() for kind, token in tokens(each) if kind == "ours"]
    names = sorted({each.removeprefix("pg_catalog.") for each in ours})
    body = "LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'evil'; END $$"
    functions = session.execute(
        """SELECT quote_ident(proname), pg_get_function_identity_arguments(oid), pg_get_function_result(oid) FROM pg_proc
            WHERE pronamespace = 'pg_catalog'::regnamespace AND proname = ANY(%s) AND prokind = 'f'
              AND NOT proargtypes::oid[]::regtype[] && ARRAY['"any"', 'internal', 'cstring']::regtype[]
              AND prorettype <> 'cstring'::regtype AND (prorettype, proretset) <> ('record'::regtype, true)""",
        (names,),
    ).fetchall()
    operators = session.execute(
        """SELECT oprname, oprleft::regtype::text, oprright::regtype::text, oprresult::regtype::text FROM pg_operator
            WHERE oprnamespace = 'pg_catalog'::regnamespace AND oprkind = 'b'
              AND oprname IN ('||', '+', '-', '*', '/', '=', '<', '>', '~')"""
    ).fetchall()
    types = session.execute(
        "SELECT quote_ident(typname) FROM pg_type WHERE typnamespace = 'pg_catalog'::regnamespace AND typname = ANY(%s)",
        (names,),
    ).fetchall()
    assert len(functions) > 30
    assert len(operators) > 100
    assert len(types) > 5
    made = ["CREATE SCHEMA evil", f"CREATE FUNCTION evil.alarm() RETURNS boolean {body}"]
    made += [f"CREATE FUNCTION evil.{name}({taken}) RETURNS {back} {body}" for name, taken, back in functions]
    for index, (name, left, right, back) in enumerate(operators):
        made.append(f"CREATE FUNCTION evil.o{index}({left}, {right}) RETURNS {back} {body}")
        made.append(f"CREATE OPERATOR evil.{name} (LEFTARG = {left}, RIGHTARG = {right}, FUNCTION = evil.o{index})")
    made += [f"CREATE DOMAIN evil.{name} AS pg_catalog.{name} CHECK (evil.alarm())" for (name,) in types]
    with session.transaction():
        for statement in made:
            session.execute(statement)


def _values(session: Session, call: str, column: str, salt: str = SALT) -> tuple[list[Any], list[Any]]:
    """What an UPDATE with it makes of the rows with values, and of those with NULL."""
    quoted = '"' + column.replace('"', '""') + '"'
    expression = parse_function(f"anon.{call.format(c=quoted)}", column).sql(column, salt)
    with session.transaction(force_rollback=True):
        session.execute(f"UPDATE public.t SET {quoted} = ({expression})")
        rows = session.execute(f"SELECT id, {quoted} FROM public.t", binary=True).fetchall()
    return [value for id_, value in rows if id_ > 0], [value for id_, value in rows if id_ < 0]


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT random()",
        "SELECT sha256(pg_catalog.decode('00', 'hex'))",
        "SELECT 'a'::pg_catalog.text || 'b'::pg_catalog.text",
        "SELECT 1.5::pg_catalog.float8 * 2::pg_catalog.float8",
        "SELECT CASE 1 WHEN 1 THEN 2 END",
        "SELECT 1 IN (2)",
        "SELECT 'x'::text",
    ],
)
def test_what_names_no_schema_raises_the_alarm(session: Session, statement: str) -> None:
    """The trap is one: whatever an expression would find along the path is an error."""
    with pytest.raises(psycopg.Error, match="evil"):
        session.execute(statement)


NOT_ALONG_THE_PATH: Final = {"pg_catalog.bit", "pg_catalog.interval", "pg_catalog.numeric", "pg_catalog.pg_typeof"}
"""Words of the grammar, which are pg_catalog's types anyway; and a function of "any", which PL/pgSQL cannot have."""


def test_each_name_of_each_expression_would_raise_it_without_its_schema(session: Session) -> None:
    """So what the other tests run is found in pg_catalog because it says so, and for no other reason."""
    silent = set()
    for name, function in FUNCTIONS.items():
        column = WHERE.get(function.returns, (TEXT,))[0]
        quoted = '"' + column.replace('"', '""') + '"'
        expression = parse_function(CALLS.get(name, f"{name}()").format(c=quoted), column).sql(column, SALT)
        for kind, token in sorted({*tokens(expression)}):
            if kind in ("ours", "operator") and token not in NOT_ALONG_THE_PATH:
                bare = token.removeprefix("OPERATOR(pg_catalog.").removesuffix(")").removeprefix("pg_catalog.")
                mine = re.sub(re.escape(token) + r"(?![a-z0-9_])", bare, expression)
                assert mine != expression
                try:
                    session.execute(f"SELECT ({mine}) FROM public.t")
                except psycopg.errors.RaiseException:
                    continue
                except psycopg.Error as other:
                    silent.add((name, token, str(other)))
                else:
                    silent.add((name, token, ""))
    assert silent == set()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_masks_every_column_that_it_is_for(session: Session, strings: str, name: str) -> None:
    """Nothing of it is found along the path. NULL stays where the table of functions says so, and nowhere else."""
    function, call = FUNCTIONS[name], CALLS.get(name, f"{name}()")
    for column in WHERE.get(function.returns, (TEXT, VARCHAR)):
        values, nulls = _values(session, call, column)
        assert None not in values, (name, column)
        assert all(each is None for each in nulls) if function.keeps_null else None not in nulls


@pytest.mark.parametrize(
    "name", [name for name, each in FUNCTIONS.items() if each.keeps_null and each.returns == "text"]
)
def test_what_takes_a_text_takes_every_type(session: Session, name: str) -> None:
    """Each value has a text."""
    expressions = []
    for column in COLUMNS:
        quoted = '"' + column.replace('"', '""') + '"'
        expressions.append(parse_function(CALLS[name].format(c=quoted), column).sql(column, SALT))
    rows = session.execute(f"SELECT {', '.join(expressions)}, id FROM public.t").fetchall()
    assert all({value is None for value in values} == {id_ < 0} for *values, id_ in rows)


TEXTS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0") | st.sampled_from("'\\\n\"$%;-u0E"), max_size=30
)


@given(TEXTS)
@settings(max_examples=150)
def test_a_value_is_the_text_that_it_was(session: Session, text: str) -> None:
    """Under both settings of standard_conforming_strings, for a server whose word is the last."""
    for setting in ("on", "off"):
        session.execute(f"SET standard_conforming_strings = {setting}")
        quoted = "'" + text.replace("'", "''") + "'"
        value = parse_value(quoted).sql("c", SALT)
        member = parse_function(f"random_in(ARRAY[{quoted}])", "c").sql("c", SALT)
        assert session.execute(f"SELECT {value}, {member}").fetchone() == (text, text)
    session.execute("RESET standard_conforming_strings")


@pytest.mark.parametrize(
    ("value", "column", "becomes"),
    [
        ("NULL", INT, None),
        ("TRUE", TEXT, "true"),
        ("00501", TEXT, "00501"),
        ("00501", INT, 501),
        ("-1.5", FLOAT, -1.5),
        ("'2024-02-29'", DATE, date(2024, 2, 29)),
        ("happy", ENUM, "happy"),
        ("a\\b\n'c", VARCHAR, "a\\b\n'c"),
    ],
)
def test_a_value_becomes_one_of_the_columns_type(
    session: Session, strings: str, value: str, column: str, becomes: Any
) -> None:
    """As a literal in an UPDATE of one's own does."""
    quoted = '"' + column.replace('"', '""') + '"'
    with session.transaction(force_rollback=True):
        session.execute(f"UPDATE public.t SET {quoted} = ({parse_value(value).sql(column, SALT)})")
        assert session.execute(f"SELECT DISTINCT {quoted} FROM public.t").fetchall() == [(becomes,)]


def _of(session: Session, call: str, value: str, salt: str = SALT) -> Any:
    """What becomes of one value, an expression of SQL."""
    expression = parse_function(f"anon.{call}", "c").sql("c", salt)
    found = session.execute(f"SELECT ({expression}) FROM (SELECT {value} AS c) AS it").fetchone()
    assert found is not None
    return found[0]


def _text(value: str | None) -> str:
    return "NULL::pg_catalog.text" if value is None else "'" + value.replace("'", "''") + "'::pg_catalog.text"


@pytest.mark.parametrize(
    ("value", "masked"),
    [
        ("abcdefgh", "axxxxfgh"),
        ("abcde", "axxxxcde"),
        ("abcd", "xxxx"),
        ("a", "xxxx"),
        ("", "xxxx"),
        ("ÄÖÜßéèê", "Äxxxxéèê"),
        (None, None),
    ],
)
def test_partial(session: Session, value: str | None, masked: str | None) -> None:
    """Of what is not longer than what would be kept, nothing is kept."""
    assert _of(session, "partial(c, 1, 'xxxx', 3)", _text(value)) == masked


@pytest.mark.parametrize(
    ("value", "masked"),
    [
        ("daamien@gmail.com", "da******@gm******.com"),
        ("ada@mail.example.org", "ad******@ma******.org"),
        ("ab@example.org", "******@ex******.org"),
        ("ada@x.org", "ad******@x.******.org"),
        ("a@b@example.org", "******@ex******.org"),
        ("ada", "******"),
        ("ada@localhost", "******"),
        ("@", "******"),
        ("", "******"),
        ("ada@example.org, call 555 1234", "******"),
        ("ada@example.org\nsecret", "******"),
        ("ada@example.", "******"),
        (None, None),
    ],
)
def test_partial_email(session: Session, value: str | None, masked: str | None) -> None:
    """Of what is no address, nothing is kept."""
    assert _of(session, "partial_email(c)", _text(value)) == masked


def test_hash_is_hmac(session: Session) -> None:
    """Of the value's text in UTF-8, with a key that is HMAC's of the salt and the function's name."""
    key = hmac.digest(bytes.fromhex(SALT), b"cloister masking: hash", "sha256")
    for value in ("", "ada", "Äé\u4e16", "x" * 1000):
        wanted = hmac.new(key, value.encode(), hashlib.sha256).hexdigest()
        assert _of(session, "hash(c)", _text(value)) == wanted
    assert _of(session, "hash(c)", "42") == hmac.new(key, b"42", hashlib.sha256).hexdigest()


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name.startswith("pseudo_") or name == "hash"])
def test_joins_survive_in_one_run_and_only_there(session: Session, name: str) -> None:
    """One value has one pseudonym, in a text and a varchar and a char; under another salt, or of another value, another."""
    values = ["ada", "bob", "cyd", "dan", "eve", "fay", "gus", "hal"]

    def masked(salt: str, type_: str = "pg_catalog.text") -> list[Any]:
        return [_of(session, f"{name}(c)", f"'{each}'::{type_}", salt) for each in values]

    assert masked(SALT) == masked(SALT) == masked(SALT, "pg_catalog.varchar") == masked(SALT, "pg_catalog.bpchar(9)")
    assert masked(SALT) != masked("ff" * 16)
    assert len(set(masked(SALT))) > 4


def test_each_row_gets_a_value_of_its_own(session: Session) -> None:
    """Chance is asked for each row, and for each part of its value."""
    for call in ("fake_email()", "dummy_username()", "random_string(24)", "dummy_safe_email()"):
        values, nulls = _values(session, call, TEXT)
        assert len({*values, *nulls}) == 2 * ROWS
    values, _ = _values(session, "fake_first_name()", TEXT)
    assert {*values} <= {*words.FIRST_NAMES}
    assert len({*values}) > 30
    values, _ = _values(session, "dummy_name()", TEXT)
    firsts, lasts = zip(*(value.split(" ") for value in values), strict=True)
    assert len({*values}) > max(len({*firsts}), len({*lasts}))
    values, _ = _values(session, "fake_company()", TEXT)
    assert len({*values}) > 100


@pytest.mark.parametrize(
    ("call", "form"),
    [
        ("fake_email()", r"[a-z]+\.[a-z]+\.[0-9a-f]{12}@example\.(com|net|org)"),
        ("dummy_phone_number()", r"\+1-[2-9][0-9]{2}-555-01[0-9]{2}"),
        ("dummy_cell_number()", r"\+44 7700 900[0-9]{3}"),
        ("fake_iban()", r"GB00FAKE[0-9]{14}"),
        ("fake_address()", r"[1-9][0-9]{0,2} [A-Z][a-z]+ [A-Z][a-z]+, [0-9]{5} [A-Z][A-Za-z-]+"),
        ("random_zip()", r"[0-9]{5}"),
        ("random_phone()", r"0[0-9]{8}"),
        ("random_phone('0033')", r"0033[0-9]{8}"),
        ("random_string(25)", r"[A-P]{25}"),
        ("random_in(ARRAY['red','green'])", r"red|green"),
        ("lorem_ipsum(words := 20)", r"[a-z]{2,}( [a-z]{2,}){19}"),
        ("lorem_ipsum(words := 200)", r"[a-z]{2,}( [a-z]{2,}){199}"),
        ("lorem_ipsum(words := 1)", r"[a-z]{2,}"),
        ("lorem_ipsum(characters := 7)", r"[a-z ]{7}"),
        ("lorem_ipsum(characters := 1000)", r"[a-z ]{1000}"),
        ("lorem_ipsum(2)", r"[A-Z][a-z]+( [a-z]+){49}\.\n\n[A-Z][a-z]+( [a-z]+){49}\."),
        ("pseudo_email({c})", r"[a-z]+\.[a-z]+\.[0-9a-f]{12}@example\.(com|net|org)"),
        ("pseudo_iban({c})", r"GB00FAKE[0-9]{14}"),
    ],
)
def test_forms(session: Session, call: str, form: str) -> None:
    """What comes has the form that the table of functions says."""
    values, _ = _values(session, call, TEXT)
    assert all(re.fullmatch(form, value) for value in values), values[:3]


def test_ranges_have_both_their_ends(session: Session) -> None:
    """Nothing else comes, and of few numbers each."""
    assert {*_values(session, "random_int_between(-1, 1)", INT)[0]} == {-1, 0, 1}
    assert {*_values(session, "random_bigint_between(9223372036854775806, 9223372036854775807)", BIG)[0]} == {
        2**63 - 2,
        2**63 - 1,
    }
    everywhere = _values(session, "random_bigint_between(-9223372036854775808, 9223372036854775807)", BIG)[0]
    assert len({*everywhere}) == ROWS
    assert min(everywhere) < -(2**61)
    assert max(everywhere) > 2**61
    assert len({each % 1024 for each in everywhere}) > 100  # no lower bits are left out
    days = {*_values(session, "random_date_between('2024-03-30', '2024-04-01')", DATE)[0]}
    assert days == {date(2024, 3, 30), date(2024, 3, 31), date(2024, 4, 1)}  # Berlin's Sunday had 23 hours
    assert {*_values(session, "random_date_between('9999-12-31', '9999-12-31')", DATE)[0]} == {date(9999, 12, 31)}
    dates = _values(session, "random_date()", TIMESTAMPTZ)[0]
    assert datetime(1900, 1, 1, tzinfo=UTC) <= min(dates) < max(dates) <= datetime.now(UTC)
    assert {*_values(session, "random_in_enum({c})", ENUM)[0]} == {b"sad", b"ok", b"happy"}


def test_noise_stays_within_its_share_and_its_type(session: Session) -> None:
    """The greatest number of a type does not end the run."""
    values = _values(session, "noise({c}, 0.2)", FLOAT)[0]
    assert all(10 <= each <= 15 for each in values)
    assert len({*values}) == ROWS
    assert min(values) < 11
    assert max(values) > 14
    for column, most in ((SMALL, 2**15 - 1), (INT, 2**31 - 1), (BIG, 2**63 - 1)):
        values = _values(session, "noise({c}, 1)", column)[0]
        assert 0 <= min(values) < max(values) <= most
    assert all(isinstance(each, int) for each in values)


def test_dates_are_moved_both_ways_and_no_further(session: Session) -> None:
    """By up to the interval."""
    values = _values(session, "dnoise({c}, '2 days')", DATE)[0]
    moved = [(each - date(2024, 3, 31)).days for each in values]
    assert {*moved} == {-2, -1, 0, 1}  # a date is midnight, and a part of a day before it is the day before
    values = _values(session, "dnoise({c}, '1 hour')", TIMESTAMPTZ)[0]
    was = datetime(2024, 3, 31, 2, 30, tzinfo=UTC)
    assert all(abs(each - was) <= timedelta(hours=1) for each in values)
    assert min(values) < was - timedelta(minutes=30) < was + timedelta(minutes=30) < max(values)


def test_what_cannot_be_is_an_error_of_the_servers(session: Session) -> None:
    """A rule does not know its column's type: a text is no number, and the UPDATE says so."""
    with pytest.raises(psycopg.errors.DatatypeMismatch):
        _values(session, "fake_email()", INT)
    with pytest.raises(psycopg.errors.UndefinedFunction):
        _values(session, "dnoise({c}, '1 day')", INT)
    with pytest.raises(MaskingError):
        _values(session, "noise(x, 1)", INT)

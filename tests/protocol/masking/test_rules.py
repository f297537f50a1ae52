"""What a rule's text may say, what is answered to what it may not, and that none of it gets out of its quotes."""

import contextlib
from dataclasses import replace
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.protocol.masking import FUNCTIONS, Call, MaskingError, Value, parse_function, parse_value
from cloister.protocol.masking.kinds import ARRAY_MEMBERS_MAX, Argument, Members
from cloister.protocol.masking.rules import ARGUMENTS_MAX, FUNCTION_CHARS_MAX, VALUE_CHARS_MAX
from cloister.protocol.masking.sql import NAME_BYTES_MAX
from tests.sql_tokens import shape, tokens

SALT = "5a" * 32

READ = {
    "anon.fake_email()": Call("fake_email", ()),
    "fake_email()": Call("fake_email", ()),
    " ANON . Fake_Email\n(\t) ": Call("fake_email", ()),
    "anon.hash(email)": Call("hash", ()),
    "anon.hash(EMail)": Call("hash", ()),
    'anon.hash("email")': Call("hash", ()),
    "anon.partial(email,1,'x''y',0)": Call("partial", (1, "x'y", 0)),
    "anon.partial(email, +1, '', 10)": Call("partial", (1, "", 10)),
    "anon.noise(email, 0.33)": Call("noise", (0.33,)),
    "anon.noise(email, 1)": Call("noise", (1.0,)),
    "anon.dnoise(email, '1 year 2 months')": Call("dnoise", ("1 year 2 months",)),
    "anon.random_int_between(-5,5)": Call("random_int_between", (-5, 5)),
    "anon.random_bigint_between(-9223372036854775808, 9223372036854775807)": Call(
        "random_bigint_between", (-(2**63), 2**63 - 1)
    ),
    "anon.random_date_between('2024-02-29', '2024-02-29')": Call(
        "random_date_between", (date(2024, 2, 29), date(2024, 2, 29))
    ),
    "anon.random_phone()": Call("random_phone", ()),
    "anon.random_phone('0033')": Call("random_phone", ("0033",)),
    "anon.random_in(ARRAY['a', NULL])": Call("random_in", (Members("text", ("a", None)),)),
    "anon.random_in(array [ 1,-2 ])": Call("random_in", (Members("int8", ("1", "-2")),)),
    "anon.random_in(ARRAY[1,2.5])": Call("random_in", (Members("numeric", ("1", "2.5")),)),
    "anon.random_in(ARRAY[true,False])": Call("random_in", (Members("bool", ("TRUE", "FALSE")),)),
    "anon.lorem_ipsum()": Call("lorem_ipsum", ()),
    "anon.lorem_ipsum(2)": Call("lorem_ipsum", ("paragraphs", 2)),
    "anon.lorem_ipsum( words := 20 )": Call("lorem_ipsum", ("words", 20)),
    "anon.lorem_ipsum(characters => 7)": Call("lorem_ipsum", ("characters", 7)),
}

REFUSED = {
    "": "wanted is a call such as anon.fake_email(); the text ends",
    "anon.": "wanted is a call such as anon.fake_email(); the text ends",
    "anon.fake_email": "wanted is an opening parenthesis after the function's name; the text ends",
    "anon.fake_email(": "wanted is an argument: the rule's own column, a number, a 'quoted text', TRUE, FALSE, NULL or "
    "ARRAY[…]; the text ends",
    "anon.fake_email() x": "wanted is nothing after the closing parenthesis; there is 'x'",
    "anon.fake_email();": "wanted is nothing after the closing parenthesis; there is ';'",
    "anon.fake_emial()": "there is no function 'fake_emial' here; the closest is anon.fake_email()",
    "anon.digest(email)": "there is no function 'digest' here; the closest is ",
    "anon.ternary(email)": "there is no function 'ternary' here; the closest is ",
    "pg_catalog.pg_sleep(1)": "functions here are anon's, and none of 'pg_catalog'",
    "anon.anon.hash(email)": "wanted is an opening parenthesis after the function's name; there is '.'",
    '"anon".hash(email)': "wanted is a call such as anon.fake_email(); there is '\"anon\"'",
    "anon.hash()": "anon.hash(column) is called with 1 argument",
    "anon.fake_email(1)": "anon.fake_email() is called with no arguments",
    "anon.random_phone('1', '2')": "anon.random_phone([prefix text]) is called with no argument or one",
    "anon.partial(email, 1, 'x')": "anon.partial(column, prefix integer, padding text, suffix integer) is called with 4 arguments",
    "anon.partial(email, 1, 2, 3)": ": padding is a 'quoted text' of at most 200 characters",
    "anon.partial(email, -1, 'x', 3)": ": prefix is a whole number from 0 to 1000",
    "anon.partial(email, 1.5, 'x', 3)": ": prefix is a whole number from 0 to 1000",
    "anon.partial('email', 1, 'x', 3)": ": column is the rule's own column",
    "anon.partial(phone, 1, 'x', 3)": "a rule's arguments are literals and its own column: 'phone' is neither",
    "anon.partial(\"EMAIL\", 1, 'x', 3)": "a rule's arguments are literals and its own column: '\"EMAIL\"' is neither",
    "anon.hash(users.email)": "a rule's arguments are literals and its own column: 'users' is neither",
    "anon.hash(email.x)": "a rule's arguments are literals and its own column: 'email' is neither",
    "anon.hash(anon.hash(email))": "a rule's arguments are literals and its own column: 'anon' is neither",
    "anon.hash(lower(email))": "a call within a call is not done here: 'lower'",
    "anon.hash(email -- x\n)": "wanted is a comma or the closing parenthesis; there is '-- x\\n)'",
    "anon.hash(email::text)": "wanted is a comma or the closing parenthesis; there is '::text)'",
    "anon.hash(email, )": "wanted is an argument",
    "anon.hash(,email)": "wanted is an argument",
    "anon.hash((email))": "wanted is an argument",
    "anon.random_phone(E'1')": "a rule's arguments are literals and its own column: 'E' is neither",
    "anon.random_phone($$1$$)": "wanted is an argument",
    "anon.random_phone('1)": "wanted is an argument",
    "anon.random_phone('1' '2')": "wanted is a comma or the closing parenthesis; there is \"'2'\"",
    "anon.random_phone(NULL)": "prefix is a 'quoted text' of at most 20 characters",
    "anon.random_phone('\0')": "U+0000 is not allowed in text",
    "anon.random_phone('\ud800')": "half of a surrogate pair is not allowed in text",
    "anon.noise(email, 0)": "ratio is a number from 0.01 to 1",
    "anon.noise(email, 1.01)": "ratio is a number from 0.01 to 1",
    "anon.noise(email, 1e-1)": "wanted is an argument",
    "anon.dnoise(email, '-1 day')": "interval is an interval such as",
    "anon.dnoise(email, '0 days')": "interval is an interval such as",
    "anon.dnoise(email, '101 years')": "interval is an interval such as",
    "anon.dnoise(email, '1 day 1 day')": "interval is an interval such as",
    "anon.random_int_between(2, 1)": "anon.random_int_between(from integer, to integer): from is not above to",
    "anon.random_int_between(0, 2147483648)": "to is a whole number from -2147483648 to 2147483647",
    "anon.random_int_between(١, ٢)": "'١' is neither".encode("ascii", "backslashreplace").decode(),
    "anon.random_bigint_between(0, 9223372036854775808)": "to is a whole number",
    "anon.random_date_between('2024-02-30', '2024-03-01')": "from is a date, as 'YYYY-MM-DD'",
    "anon.random_date_between('20240201', '2024-03-01')": "from is a date, as 'YYYY-MM-DD'",
    "anon.random_date_between('2024-02-01', now())": "a call within a call is not done here: 'now'",
    "anon.random_date_between('2024-02-01'::date, '2024-03-01')": "wanted is a comma or the closing parenthesis",
    "anon.random_string(0)": "length is a whole number from 1 to 1000",
    "anon.random_in(ARRAY[])": "choices is ARRAY[…] of 1 to 100",
    "anon.random_in(ARRAY[NULL])": "choices is ARRAY[…] of 1 to 100",
    "anon.random_in(ARRAY[1, 'a'])": "choices is ARRAY[…] of 1 to 100",
    "anon.random_in(ARRAY[email])": "choices is ARRAY[…] of 1 to 100",
    "anon.random_in(ARRAY[ARRAY['a']])": "choices is ARRAY[…] of 1 to 100",
    "anon.random_in('a')": "choices is ARRAY[…] of 1 to 100",
    "anon.lorem_ipsum(lines := 2)": " takes no argument of the name 'lines'",
    "anon.lorem_ipsum(1, words := 2)": " is called with at most one argument",
    "anon.lorem_ipsum(words := 201)": ": words is a whole number from 1 to 200",
    "anon.random_string(length := 3)": "anon.random_string(length integer) takes no argument by its name",
}


@pytest.mark.parametrize("text", READ)
def test_what_is_read(text: str) -> None:
    """A call is read as PostgreSQL would read it."""
    assert parse_function(text, "email") == READ[text]


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_refused(text: str) -> None:
    """Whoever wrote the rule is told what is wrong with it."""
    with pytest.raises(MaskingError) as refused:
        parse_function(text, "email")
    assert REFUSED[text] in str(refused.value)


@pytest.mark.parametrize("column", ["Email", "e-mail", 'e"mail', "naïve", "e mail", "null", "ARRAY", "a\\b"])
def test_a_column_is_called_by_its_name_in_quotes_whatever_it_is(column: str) -> None:
    """In quotes, every name can stand; and bare as it is, where it has the form of a name."""
    quoted = '"' + column.replace('"', '""') + '"'
    assert quoted in parse_function(f"anon.hash({quoted})", column).sql(column, SALT)
    if column in ("Email", "naïve"):
        assert parse_function(f"anon.hash({column})", column) == Call("hash", ())


def test_a_name_without_quotes_is_that_of_the_column_in_lower_case_too() -> None:
    """`EMAIL` is `email` and `EMAIL`, and never `Email`."""
    assert parse_function("hash(EMAIL)", "EMAIL") == parse_function("hash(EMAIL)", "email")
    with pytest.raises(MaskingError):
        parse_function("hash(EMAIL)", "Email")


@pytest.mark.parametrize("column", ["", "a\0b", "a\nb", "\ud800", "x" * (NAME_BYTES_MAX + 1), "é" * 32])
def test_a_column_that_no_table_has_is_refused(column: str) -> None:
    """So is one whose name would break a line, and one that the server would cut."""
    for tried in (lambda: parse_function("fake_email()", column), lambda: Value("x").sql(column, SALT)):
        with pytest.raises(MaskingError, match="a column"):
            tried()


def test_the_limits() -> None:
    """Each is told with its number, and what is one below it is read."""
    padding = " " * (FUNCTION_CHARS_MAX - len("fake_email()"))
    assert parse_function(f"fake_email(){padding}", "c") == Call("fake_email", ())
    members = ["'a'"] * ARRAY_MEMBERS_MAX
    assert parse_function(f"random_in(ARRAY[{','.join(members)}])", "c")
    assert parse_value("x" * VALUE_CHARS_MAX) == Value("x" * VALUE_CHARS_MAX)
    for text, limit in (
        (f"fake_email() {padding}", FUNCTION_CHARS_MAX),
        (f"random_in(ARRAY[{','.join([*members, '1'])}])", ARRAY_MEMBERS_MAX),
        (f"hash({','.join('1' * (ARGUMENTS_MAX + 1))})", ARGUMENTS_MAX),
    ):
        with pytest.raises(MaskingError, match=f"at most {limit} "):
            parse_function(text, "c")
    with pytest.raises(MaskingError, match=f"at most {VALUE_CHARS_MAX} "):
        parse_value("x" * (VALUE_CHARS_MAX + 1))
    assert max(len(each.parameters) for each in FUNCTIONS.values()) == ARGUMENTS_MAX


@pytest.mark.parametrize(
    ("text", "expression"),
    [
        ("NULL", "NULL"),
        (" null\n", "NULL"),
        ("True", "TRUE"),
        ("FALSE", "FALSE"),
        ("'NULL'", "'NULL'"),
        ("''", "''"),
        ("", "''"),
        ("CONFIDENTIAL", "'CONFIDENTIAL'"),
        ("'it''s'", "'it''s'"),
        ("it's", "'it''s'"),
        ("'a' || 'b'", "'''a'' || ''b'''"),
        ("'", "''''"),
        (" padded ", "' padded '"),
        ("00501", "'00501'"),
        ("-1.5", "'-1.5'"),
        ("a\\b", "E'a\\\\b'"),
        ("\\'; --", "E'\\\\''; --'"),
        ("a\nb", "E'a\\u000ab'"),
        ("é", "E'\\u00e9'"),
        ("\N{GRINNING FACE}", "E'\\U0001f600'"),
        ("FALſE", "E'FAL\\u017fE'"),
    ],
)
def test_values(text: str, expression: str) -> None:
    """A value is a word of SQL, a text in quotes, or the text that it is."""
    assert parse_value(text).sql("c", SALT) == expression


@pytest.mark.parametrize("text", ["a\0b", "'a\0b'", "\udfff"])
def test_a_value_that_no_text_can_be_is_refused(text: str) -> None:
    """PostgreSQL's texts are characters, and not U+0000."""
    with pytest.raises(MaskingError):
        parse_value(text)


@pytest.mark.parametrize("salt", ["", "5a" * 15, "5A" * 16, "5a" * 65, "5" * 33, "5a" * 16 + "\n", "zz" * 16])
def test_a_salt_that_is_none_is_a_mistake_of_ours(salt: str) -> None:
    """It is no MaskingError: nobody's rule is at fault."""
    with pytest.raises(ValueError, match="a salt") as refused:
        Call("hash", ()).sql("c", salt)
    assert not isinstance(refused.value, MaskingError)


ANYTHING = st.text(max_size=40) | st.text(alphabet="'\"\\();,.-/*$E&U \n\0ab0", max_size=20)
TEXTS = ANYTHING.map(lambda text: "'" + text.replace("'", "''") + "'")
NUMBERS = st.integers(-(2**70), 2**70).map(str) | st.decimals(allow_nan=False, allow_infinity=False).map(str)
LITERALS = TEXTS | NUMBERS | st.sampled_from(["NULL", "TRUE", "false", "'2024-02-29'", "'2 days'", "0.5"])
ARRAYS = st.lists(LITERALS, max_size=4).map(lambda members: f"ARRAY[{', '.join(members)}]") | st.lists(
    TEXTS, min_size=1, max_size=4
).map(lambda members: f"ARRAY[{', '.join(members)}]")


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, str]:
    """A text that is nearly a rule, and its column."""
    column = draw(ANYTHING.filter(bool) | st.just("email"))
    own = st.just('"' + column.replace('"', '""') + '"')
    name = draw(st.sampled_from(sorted(FUNCTIONS)))
    parameters = FUNCTIONS[name].parameters
    wanted = {"column": own, "text": TEXTS, "array": ARRAYS, "integer": st.integers(0, 99).map(str)}
    arguments = [draw(wanted.get(each.kind.type, LITERALS) | own | LITERALS) for each in parameters]
    text = f"anon.{name}({', '.join(arguments[:1] if FUNCTIONS[name].is_choice else arguments)})"
    if draw(st.integers(0, 4)) == 0:
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(ANYTHING) + text[at:]
    return text, column


def _plain(masking: Call | Value) -> Call | Value:
    """The same, with harmless texts in place of those that were given."""
    if isinstance(masking, Value):
        return masking if masking.is_word else Value("a")
    arguments: list[Argument] = []
    for each in masking.arguments:
        if isinstance(each, Members):
            arguments.append(Members(each.type, tuple(None if value is None else "1" for value in each.values)))
        else:
            arguments.append(each if masking.function == "lorem_ipsum" or not isinstance(each, str) else "a")
    return replace(masking, arguments=tuple(arguments))


@given(calls())
def test_nothing_of_a_function_gets_out_of_its_quotes(rule: tuple[str, str]) -> None:
    """Whatever a rule says, it is refused, or its expression has the tokens that a harmless rule's has."""
    text, column = rule
    try:
        masking = parse_function(text, column)
    except MaskingError:
        return
    assert shape(masking.sql(column, SALT)) == shape(_plain(masking).sql("c", SALT))


@given(ANYTHING)
def test_nothing_of_a_value_gets_out_of_its_quotes(text: str) -> None:
    """A value is one token."""
    with contextlib.suppress(MaskingError):
        assert len(tokens(parse_value(text).sql("c", SALT))) == 1


@given(st.text(alphabet="anon.hshfkeil_m()[]'\",:=1e-\\ARY", max_size=60) | ANYTHING, ANYTHING)
def test_whatever_comes_in_nothing_but_a_masking_error_comes_out(text: str, column: str) -> None:
    """The parser has an answer to everything."""
    with contextlib.suppress(MaskingError):
        assert parse_function(text, column)


def test_a_refusal_repeats_forty_characters() -> None:
    """And no more, wherever they stand."""
    for text in (
        "anon.{}()",
        "anon.hash({})",
        "anon.hash({}())",
        'anon.hash("{}")',
        "anon.hash(email) {}",
        "{}.hash()",
    ):
        with pytest.raises(MaskingError) as refused:
            parse_function(text.format("x" * 1_000), "email")
        assert "x" * 30 in str(refused.value)
        assert "x" * 41 not in str(refused.value)


@given(st.text(max_size=1_000))
def test_a_refusal_is_short_and_of_one_line(text: str) -> None:
    """Whatever it is about."""
    for tried in (f"anon.{text}()", f"anon.hash({text})", f"anon.hash(email) {text}", text):
        with contextlib.suppress(MaskingError):
            parse_function(tried, "email")
            continue
        with pytest.raises(MaskingError) as refused:
            parse_function(tried, "email")
        assert len(str(refused.value)) < 600
        assert "\n" not in str(refused.value)

"""The table of functions: what each is called with, what it means, and which SQL does it.

Names and meaning are those of PostgreSQL Anonymizer, so that a rule can be taken there and back. Where that would show more
of the original than it seems to, this is stricter, and says so in the meaning. NULL stays NULL where a function takes the
column; the others know nothing of what was there, and put a value in place of NULL too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Final

from cloister.protocol.masking import sql, words
from cloister.protocol.masking.kinds import Array, Column, Date, Interval, Kind, Members, Ratio, Text, Whole

RANDOM_STRING_MAX: Final = 1_000
LOREM_PARAGRAPHS_MAX: Final = 10
LOREM_WORDS_MAX: Final = 200
LOREM_CHARACTERS_MAX: Final = 1_000
# They stand in the expression, or are drawn for each row: what fills a column for a test, not a book.

KEPT_MAX: Final = 1_000
# Of a value's beginning, or its end. More is no masking.

_TEXT_MAX: Final = 200
_PREFIX_MAX: Final = 20
# Of paddings and of telephone numbers' prefixes, which are repeated in each row.

_PARAGRAPH_WORDS: Final = 50
_LOREM: Final = " ".join(words.LOREM)
_INT4: Final = (-(2**31), 2**31 - 1)
_INT8: Final = (-(2**63), 2**63 - 1)


@dataclass(frozen=True, slots=True)
class Parameter:
    name: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Function:
    name: str
    """Without `anon.`"""
    parameters: tuple[Parameter, ...]
    returns: str
    """A type of SQL, or "the column's"."""
    meaning: str
    """One sentence, or few."""
    render: Callable[..., str]
    """Of the column's name in quotes, the salt, and the arguments but the column."""
    optional: int = 0
    """How many of the last parameters may be left out."""
    is_choice: bool = False
    """At most one of the parameters is given: the first as it is, any of them by `name :=`."""
    is_range: bool = False
    """Its two arguments are the ends of a range."""

    @property
    def keeps_null(self) -> bool:
        return any(isinstance(each.kind, Column) for each in self.parameters)

    @property
    def signature(self) -> str:
        if self.is_choice:
            listed = " | ".join(f"{each.name} := {each.kind.type}" for each in self.parameters)
            return f"anon.{self.name}([{listed}])"
        listed = ""
        for index, each in enumerate(self.parameters):
            text = each.name if each.name == each.kind.type else f"{each.name} {each.kind.type}"
            text = f", {text}" if index else text
            listed += f"[{text}]" if index >= len(self.parameters) - self.optional else text
        return f"anon.{self.name}({listed})"


# Fakes: what comes has nothing to do with what was there.


def _lower(expression: str) -> str:
    return sql.call("lower", expression)


def _drawn(list_: tuple[str, ...]) -> Callable[..., str]:
    return lambda _column, _salt: sql.picked(list_)


def _name(_column: str, _salt: str) -> str:
    return sql.joined(sql.picked(words.FIRST_NAMES), "' '", sql.picked(words.LAST_NAMES))


def _email(_column: str, _salt: str) -> str:
    first, last = _lower(sql.picked(words.FIRST_NAMES)), _lower(sql.picked(words.LAST_NAMES))
    return sql.joined(first, "'.'", last, "'.'", sql.hex_digits(), "'@'", sql.picked(words.EMAIL_DOMAINS))


def _username(_column: str, _salt: str) -> str:
    return sql.joined(_lower(sql.picked(words.FIRST_NAMES)), "'.'", sql.hex_digits())


def _company(_column: str, _salt: str) -> str:
    return sql.joined(sql.picked(words.COMPANIES), "' '", sql.picked(words.COMPANY_SUFFIXES))


def _street(_column: str, _salt: str) -> str:
    return sql.joined(sql.picked(words.STREETS), "' '", sql.picked(words.STREET_SUFFIXES))


def _address(column: str, salt: str) -> str:
    house = sql.cast(sql.op(sql.below(999), "+", sql.number(1, "int8")), "text")
    return sql.joined(house, "' '", _street(column, salt), "', '", _zip(column, salt), "' '", sql.picked(words.CITIES))


def _phone_number(_column: str, _salt: str) -> str:
    return sql.joined(sql.cast("'+1-'", "text"), sql.picked(words.AREA_CODES), "'-555-01'", sql.digits(2))


def _cell_number(_column: str, _salt: str) -> str:
    return sql.joined(sql.cast("'+44 7700 900'", "text"), sql.digits(3))


def _iban(_column: str, _salt: str) -> str:
    return sql.joined(sql.cast("'GB00FAKE'", "text"), sql.digits(14))


def _uuid(_column: str, _salt: str) -> str:
    return sql.call("gen_random_uuid")


# By chance, out of a range.


def _zip(_column: str, _salt: str) -> str:
    return sql.digits(5)


def _phone(_column: str, _salt: str, prefix: str = "0") -> str:
    return sql.joined(sql.cast(sql.literal(prefix), "text"), sql.digits(8))


def _string(_column: str, _salt: str, length: int) -> str:
    parts = [sql.hex_digits() for _ in range(-(-length // sql.HEX_DIGITS))]
    letters = sql.call("translate", sql.joined(*parts), "'0123456789abcdef'", "'ABCDEFGHIJKLMNOP'")
    return sql.call("left", letters, sql.number(length, "int4"))


def _epoch(instant: str) -> str:
    return sql.call("date_part", "'epoch'", instant)


def _instant(start: str, end: str) -> str:
    """Of two epochs. Not by adding an interval: a day of it would be a local one, of 23 hours or 25."""
    return sql.call("to_timestamp", sql.op(start, "+", sql.op(sql.UNIT, "*", sql.op(end, "-", start))))


def _date(_column: str, _salt: str) -> str:
    return _instant(_epoch(sql.cast("'1900-01-01 00:00:00+00'", "timestamptz")), _epoch(sql.call("now")))


def _date_between(_column: str, _salt: str, least: date, most: date) -> str:
    # To whole seconds, which a float8 of the year 9999 still holds: rounded up, it would be the next day.
    end = sql.cast(sql.literal(f"{most.isoformat()} 23:59:59"), "timestamptz")
    return _instant(_epoch(sql.cast(sql.literal(f"{least.isoformat()} 00:00:00"), "timestamptz")), _epoch(end))


def _int_between(_column: str, _salt: str, least: int, most: int) -> str:
    return sql.cast(sql.between(least, most), "int4")


def _bigint_between(_column: str, _salt: str, least: int, most: int) -> str:
    return sql.cast(sql.between(least, most), "int8")


def _in(_column: str, _salt: str, members: Members) -> str:
    listed = ", ".join("NULL" if each is None else sql.literal(each) for each in members.values)
    place = sql.cast(sql.op(sql.below(len(members.values)), "+", sql.number(1, "int8")), "int4")
    return f"({sql.cast(f'(ARRAY[{listed}])', f'{members.type}[]')})[{place}]"


def _in_enum(column: str, _salt: str) -> str:
    labels = sql.call("enum_range", column)
    count = sql.cast(sql.call("cardinality", labels), "float8")
    index = sql.cast(sql.call("floor", sql.op(sql.UNIT, "*", count)), "int4")
    return f"({labels})[{sql.op(index, '+', sql.number(1, 'int4'))}]"


def _lorem_words(count: int) -> str:
    """The text over and over, from a place by chance in its first round on. What is left of the word at that place is passed
    over, so that one call for chance is enough."""
    rounds = " ".join([_LOREM] * (2 + count // len(words.LOREM)))
    start = sql.cast(sql.op(sql.below(len(_LOREM)), "+", sql.number(1, "int8")), "int4")
    all_words = sql.call("string_to_array", sql.call("substr", sql.literal(rounds), start), "' '")
    part = f"({all_words})[{sql.number(2, 'int4')}:{sql.number(count + 1, 'int4')}]"
    return sql.call("array_to_string", part, "' '")


def _lorem(_column: str, _salt: str, unit: str = "paragraphs", count: int = 5) -> str:
    if unit == "words":
        return _lorem_words(count)
    if unit == "characters":  # a word has at least two, and a blank
        return sql.call("left", _lorem_words(count // 3 + 1), sql.number(count, "int4"))
    between = sql.call("repeat", sql.call("chr", sql.number(10, "int4")), sql.number(2, "int4"))
    parts = [sql.joined(sql.call("initcap", _lorem_words(1)), "' '", _lorem_words(_PARAGRAPH_WORDS - 1), "'.'")]
    for _ in range(count - 1):
        parts += [between, *parts[:1]]
    return sql.joined(*parts)


# Out of what was there.


def _partial(column: str, _salt: str, prefix: int, padding: str, suffix: int) -> str:
    value, filling = sql.cast(column, "text"), sql.cast(sql.literal(padding), "text")
    first, last = (sql.number(each, "int4") for each in (prefix, suffix))
    is_longer = sql.op(sql.call("length", value), ">", sql.number(prefix + suffix, "int4"))
    some = sql.joined(sql.call("left", value, first), filling, sql.call("right", value, last))
    return f"CASE WHEN {is_longer} THEN {some} ELSE {filling} END"


def _beginning(value: str) -> str:
    """Two characters, if there are others; and six stars."""
    is_longer = sql.op(sql.call("length", value), ">", sql.number(2, "int4"))
    kept = sql.call("left", value, sql.number(2, "int4"))
    return sql.joined(f"CASE WHEN {is_longer} THEN {kept} ELSE ''::pg_catalog.text END", "'******'")


def _partial_email(column: str, _salt: str) -> str:
    value = sql.cast(column, "text")
    local, domain = (sql.call("split_part", value, "'@'", sql.number(each, "int4")) for each in (1, -1))
    top = sql.call("split_part", domain, "'.'", sql.number(-1, "int4"))
    whole = sql.joined(f"({_beginning(local)})", "'@'", f"({_beginning(domain)})", "'.'", top)
    is_address = sql.op(sql.call("strpos", value, "'@'"), ">", sql.number(0, "int4"))
    is_domain = sql.op(sql.call("strpos", domain, "'.'"), ">", sql.number(0, "int4"))
    # Of "ada@example.org, call 5551234" the last part is more than a domain's.
    is_top = sql.op(top, "~", sql.literal("^[A-Za-z]{2,24}$"))
    return f"CASE WHEN {is_address} AND {is_domain} AND {is_top} THEN {whole} ELSE '******'::pg_catalog.text END"


def _shift(ratio: str) -> str:
    """From minus `ratio` to plus `ratio`, by chance that nobody can know."""
    two, one = (sql.number(each, "float8") for each in (2, 1))
    return sql.op(ratio, "*", sql.op(sql.op(two, "*", sql.STRONG_UNIT), "-", one))


def _noise(column: str, _salt: str, ratio: float) -> str:
    shifted = sql.op(sql.number(1, "float8"), "+", _shift(sql.number(f"{ratio:.20f}", "float8")))
    value = sql.op(sql.cast(column, "float8"), "*", shifted)
    # A whole number stays within its type, where it would end the run. 2^63 - 1024 is the greatest float8 below 2^63.
    ends = {"int2": (-(2**15), 2**15 - 1), "int4": _INT4, "int8": (-(2**63), 2**63 - 1024)}
    least, most = "", ""
    for type_, (low, high) in ends.items():
        is_it = sql.op(sql.call("pg_typeof", column), "=", sql.number(f"pg_catalog.{type_}", "regtype"))
        least += f" WHEN {is_it} THEN {sql.number(low, 'float8')}"
        most += f" WHEN {is_it} THEN {sql.number(high, 'float8')}"
    least = f"CASE{least} ELSE {sql.number('-Infinity', 'float8')} END"
    most = f"CASE{most} ELSE {sql.number('Infinity', 'float8')} END"
    return f"LEAST({most}, GREATEST({least}, {value}))"


def _dnoise(column: str, _salt: str, interval: str) -> str:
    return sql.op(column, "+", sql.op(sql.number(interval, "interval"), "*", _shift(sql.number(1, "float8"))))


def _hash(column: str, salt: str) -> str:
    return sql.keyed_hex(column, salt, "hash")


def _pseudo(*lists: tuple[str, ...], label: str) -> Callable[..., str]:
    def render(column: str, salt: str) -> str:
        parts = [sql.keyed_word(each, column, salt, f"{label} {index}") for index, each in enumerate(lists)]
        return sql.joined(parts[0], *(piece for part in parts[1:] for piece in ("' '", part)))

    return render


def _pseudo_email(column: str, salt: str) -> str:
    label = "pseudo_email"
    first = _lower(sql.keyed_word(words.FIRST_NAMES, column, salt, f"{label} 0"))
    last = _lower(sql.keyed_word(words.LAST_NAMES, column, salt, f"{label} 1"))
    domain = sql.keyed_word(words.EMAIL_DOMAINS, column, salt, f"{label} 2")
    rest = sql.call("left", sql.keyed_hex(column, salt, f"{label} 3"), sql.number(sql.HEX_DIGITS, "int4"))
    return sql.joined(first, "'.'", last, "'.'", rest, "'@'", domain)


def _pseudo_iban(column: str, salt: str) -> str:
    digits = sql.cast(sql.keyed_below(column, salt, "pseudo_iban", 10**14), "text")
    return sql.joined(sql.cast("'GB00FAKE'", "text"), sql.call("lpad", digits, sql.number(14, "int4"), "'0'"))


_COLUMN: Final = Parameter("column", Column())
_EMAIL: Final = (
    "An address at example.com, .net or .org, with 48 random bits in it: a unique column of a million rows holds, but once "
    "in 3.9 million runs."
)
_FEW: Final = "there are few, so a unique column cannot have them"
_KEYED: Final = "the same for values of the same text in one run, in whichever column they stand"


def _fake(name: str, meaning: str, render: Callable[..., str], returns: str = "text") -> Function:
    return Function(name, (), returns, meaning, render)


_ALL: Final = (
    # Fakes.
    _fake("fake_first_name", f"A first name; {_FEW}.", _drawn(words.FIRST_NAMES)),
    _fake("dummy_first_name", "The same as fake_first_name.", _drawn(words.FIRST_NAMES)),
    _fake("fake_last_name", f"A last name; {_FEW}.", _drawn(words.LAST_NAMES)),
    _fake("dummy_last_name", "The same as fake_last_name.", _drawn(words.LAST_NAMES)),
    _fake("dummy_name", f"A first name and a last name; {_FEW}.", _name),
    _fake("fake_email", _EMAIL, _email),
    _fake("dummy_free_email", "The same as fake_email: never an address at a provider that exists.", _email),
    _fake("dummy_safe_email", "The same as fake_email.", _email),
    _fake("dummy_username", "A first name with 48 random bits behind it.", _username),
    _fake("dummy_phone_number", f"A number of North America out of those kept for fiction; {_FEW}.", _phone_number),
    _fake("dummy_cell_number", f"A British mobile number out of those kept for fiction; {_FEW}.", _cell_number),
    _fake("fake_company", f"The name of a company that is made up; {_FEW}.", _company),
    _fake("dummy_company_name", "The same as fake_company.", _company),
    _fake("fake_city", f"The name of a city that is made up; {_FEW}.", _drawn(words.CITIES)),
    _fake("dummy_city_name", "The same as fake_city.", _drawn(words.CITIES)),
    _fake("fake_country", f"The name of a country; {_FEW}.", _drawn(words.COUNTRIES)),
    _fake("dummy_country_name", "The same as fake_country.", _drawn(words.COUNTRIES)),
    _fake("dummy_street_name", f"The name of a street; {_FEW}.", _street),
    _fake("fake_address", "A house number, a street, five digits and a city that is made up, in one line.", _address),
    _fake("fake_postcode", "The same as random_zip.", _zip),
    _fake("dummy_zip_code", "The same as random_zip.", _zip),
    _fake("fake_iban", "What has the form of a British IBAN, with check digits 00: no check takes it for one.", _iban),
    _fake("dummy_uuidv4", "A random UUID.", _uuid, "uuid"),
    Function(
        "lorem_ipsum",
        (
            Parameter("paragraphs", Whole(1, LOREM_PARAGRAPHS_MAX)),
            Parameter("words", Whole(1, LOREM_WORDS_MAX)),
            Parameter("characters", Whole(1, LOREM_CHARACTERS_MAX)),
        ),
        "text",
        "Lorem ipsum from a random word on: five paragraphs, or as many of them, of words or of characters as are asked for.",
        _lorem,
        is_choice=True,
    ),
    # By chance.
    Function(
        "random_string",
        (Parameter("length", Whole(1, RANDOM_STRING_MAX)),),
        "text",
        "So many random letters from A to P; not fit for a secret.",
        _string,
    ),
    _fake("random_zip", "Five random digits.", _zip),
    Function(
        "random_phone",
        (Parameter("prefix", Text(_PREFIX_MAX)),),
        "text",
        "The prefix, 0 if there is none, and eight random digits: it may be somebody's number.",
        _phone,
        optional=1,
    ),
    _fake("random_date", "An instant between 1900 and now.", _date, "timestamp with time zone"),
    Function(
        "random_date_between",
        (Parameter("from", Date()), Parameter("to", Date())),
        "timestamp with time zone",
        "An instant between the first day's beginning and the last day's end, in the session's time zone.",
        _date_between,
        is_range=True,
    ),
    Function(
        "random_int_between",
        (Parameter("from", Whole(*_INT4)), Parameter("to", Whole(*_INT4))),
        "integer",
        "A whole number; both ends may come.",
        _int_between,
        is_range=True,
    ),
    Function(
        "random_bigint_between",
        (Parameter("from", Whole(*_INT8, type="bigint")), Parameter("to", Whole(*_INT8, type="bigint"))),
        "bigint",
        "The same of 64 bits.",
        _bigint_between,
        is_range=True,
    ),
    Function(
        "random_in",
        (Parameter("choices", Array()),),
        "text, bigint, numeric or boolean, as the members are",
        "One of the array's members.",
        _in,
    ),
    Function(
        "random_in_enum",
        (_COLUMN,),
        "the column's",
        "One of the labels of the column's enum.",
        _in_enum,
    ),
    # Out of what was there.
    Function(
        "partial",
        (
            _COLUMN,
            Parameter("prefix", Whole(0, KEPT_MAX)),
            Parameter("padding", Text(_TEXT_MAX)),
            Parameter("suffix", Whole(0, KEPT_MAX)),
        ),
        "text",
        "The first characters, the padding, the last ones; of a value that is not longer than the two, only the padding.",
        _partial,
    ),
    Function(
        "partial_email",
        (_COLUMN,),
        "text",
        "ada@example.org becomes ad******@ex******.org: of a part of one or two characters none stays, "
        "and of what is no address nothing.",
        _partial_email,
    ),
    Function(
        "noise",
        (_COLUMN, Parameter("ratio", Ratio())),
        "double precision",
        "The number, more or less by up to this share of it: 0 stays 0, and small whole numbers often stay what they were. "
        "Whole numbers stay within their type.",
        _noise,
    ),
    Function(
        "dnoise",
        (_COLUMN, Parameter("interval", Interval())),
        "timestamp of a date, else the column's",
        "The date, the timestamp or the time, earlier or later by up to the interval.",
        _dnoise,
    ),
    Function("hash", (_COLUMN,), "text", f"64 hexadecimal digits: HMAC-SHA-256 with the run's salt, {_KEYED}.", _hash),
    *(
        Function(
            f"pseudo_{what}", (_COLUMN,), "text", f"{noun}, {_KEYED}; {_FEW}.", _pseudo(*lists, label=f"pseudo_{what}")
        )
        for what, noun, lists in (
            ("first_name", "A first name", (words.FIRST_NAMES,)),
            ("last_name", "A last name", (words.LAST_NAMES,)),
            ("city", "The name of a city that is made up", (words.CITIES,)),
            ("country", "The name of a country", (words.COUNTRIES,)),
            ("company", "The name of a company that is made up", (words.COMPANIES, words.COMPANY_SUFFIXES)),
        )
    ),
    Function(
        "pseudo_email",
        (_COLUMN,),
        "text",
        f"An address as of fake_email, {_KEYED}; two values have two addresses, as likely as there.",
        _pseudo_email,
    ),
    Function("pseudo_iban", (_COLUMN,), "text", f"What has the form of fake_iban's, {_KEYED}.", _pseudo_iban),
)

FUNCTIONS: Final = {each.name: each for each in sorted(_ALL, key=lambda each: each.name)}

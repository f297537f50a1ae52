"""What a rule does to a column: read from its text, and written as SQL.

    anon.partial(phone, 2, '****', 3)   →  Call(function="partial", arguments=(2, "****", 3))
    CONFIDENTIAL                        →  Value(text="CONFIDENTIAL")

A function's text is one call: its arguments are the rule's own column, literals, or an ARRAY of literals. An expression is
not evaluated here and not passed on: nothing of the text reaches the server but what was read from it, as a literal.
"""

import difflib
import re
from dataclasses import dataclass
from typing import Final, NoReturn

from cloister.protocol.masking import sql
from cloister.protocol.masking.errors import MaskingError, shown
from cloister.protocol.masking.functions import FUNCTIONS, Function
from cloister.protocol.masking.kinds import ARRAY_MEMBERS_MAX, Argument, Column, Given

FUNCTION_CHARS_MAX: Final = 4_096
# A hundred members of an array with forty characters each.

VALUE_CHARS_MAX: Final = 4_096
# One value for every row of a table: a text of this length is a page.

ARGUMENTS_MAX: Final = 4
# As many as the function with the most has.

_SPACE: Final = r"[ \t\n\r\f\v]"
_TOKEN: Final = re.compile(
    rf"{_SPACE}*(?:(?P<text>'(?:[^']|'')*')|(?P<quoted>\"(?:[^\"]|\"\")+\")"
    r"|(?P<word>[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_$\x80-\U0010ffff]*)"
    r"|(?P<number>[+-]?[0-9]{1,30}(?:\.[0-9]{1,30})?)(?![\w.])|(?P<sign>:=|=>|[.,()\[\]]))"
)
_REST: Final = re.compile(rf"{_SPACE}*")
_VALUE_TEXT: Final = re.compile(r"'((?:[^']|'')*)'")
_WORDS: Final = ("true", "false", "null")


@dataclass(frozen=True, slots=True)
class Call:
    function: str
    """A key of FUNCTIONS."""
    arguments: tuple[Argument, ...]
    """Without the column."""

    def sql(self, column: str, salt: str) -> str:
        """The new value of `column`, as an expression. `salt`: 16 to 64 bytes in lower-case hexadecimal, the same for all
        expressions of a run; the expression is as secret as it. Raises MaskingError."""
        function, name = FUNCTIONS[self.function], sql.name(column)
        rendered = function.render(name, salt, *self.arguments)
        return f"CASE WHEN {name} IS NOT NULL THEN {rendered} END" if function.keeps_null else rendered


@dataclass(frozen=True, slots=True)
class Value:
    text: str
    is_word: bool = False
    """TRUE, FALSE or NULL."""

    def sql(self, column: str, salt: str) -> str:  # noqa: ARG002 - as a Call's
        """Raises MaskingError."""
        sql.name(column)
        return self.text if self.is_word else sql.literal(self.text)


Masking = Call | Value


def parse(function: str | None, value: str | None, column: str) -> Masking:
    """A rule's one or the other. Raises MaskingError."""
    if (function is None) == (value is None):
        raise MaskingError("give masking_function or masking_value")
    return parse_function(function, column) if function is not None else parse_value(value or "")


def parse_value(text: str) -> Masking:
    """Raises MaskingError."""
    if len(text) > VALUE_CHARS_MAX:
        raise MaskingError(f"a masking value has at most {VALUE_CHARS_MAX} characters")
    bare = text.strip(" \t\n\r\f\v")
    if _folded(bare) in _WORDS:
        return Value(bare.upper(), is_word=True)
    quoted = _VALUE_TEXT.fullmatch(bare)
    # A number is written as it came, and read by the column's type: 00501 is a post code in a text.
    value = Value(text if quoted is None else quoted[1].replace("''", "'"))
    sql.literal(value.text)
    return value


def parse_function(text: str, column: str) -> Masking:
    """`column`: of the table that the rule is about. Raises MaskingError."""
    # 1. What is given is of a length to be read.
    if len(text) > FUNCTION_CHARS_MAX:
        raise MaskingError(f"a masking function has at most {FUNCTION_CHARS_MAX} characters")
    sql.name(column)
    # 2. It is one call.
    name, given = _Reader(text, column).call()
    # 3. Of a function that there is, under a name as PostgreSQL folds it.
    function = FUNCTIONS.get(name)
    if function is None:
        closest = difflib.get_close_matches(name[: sql.NAME_BYTES_MAX], FUNCTIONS, n=1, cutoff=0)
        raise MaskingError(f"there is no function {shown(name)} here; the closest is {FUNCTIONS[closest[0]].signature}")
    # 4. With arguments that it takes.
    arguments = _choice(function, given) if function.is_choice else _arguments(function, given)
    masking = Call(name, arguments)
    # 5. It can be written: texts have only characters that the server takes.
    masking.sql(column, "0" * 32)
    return masking


def _arguments(function: Function, given: list[tuple[str, Given]]) -> tuple[Argument, ...]:
    least = len(function.parameters) - function.optional
    if any(name for name, _ in given):
        raise MaskingError(f"{function.signature} takes no argument by its name")
    if not least <= len(given) <= len(function.parameters):
        raise MaskingError(f"{function.signature} is called with {_count(least, len(function.parameters))}")
    read = []
    for parameter, (_, each) in zip(function.parameters, given, strict=False):
        value = parameter.kind.read(each)
        if value is None:
            raise MaskingError(f"{function.signature}: {parameter.name} is {parameter.kind.wanted}")
        if not isinstance(parameter.kind, Column):
            read.append(value)
    if function.is_range and read[0] > read[1]:  # type: ignore[operator] # both are of one kind
        raise MaskingError(f"{function.signature}: from is not above to")
    return tuple(read)


def _choice(function: Function, given: list[tuple[str, Given]]) -> tuple[Argument, ...]:
    if len(given) > 1:
        raise MaskingError(f"{function.signature} is called with at most one argument")
    for name, each in given:
        for parameter in function.parameters:
            if parameter.name == (name or function.parameters[0].name):
                value = parameter.kind.read(each)
                if value is None:
                    raise MaskingError(f"{function.signature}: {parameter.name} is {parameter.kind.wanted}")
                return parameter.name, value
        raise MaskingError(f"{function.signature} takes no argument of the name {shown(name)}")
    return ()


def _count(least: int, most: int) -> str:
    if least == most:
        return f"{least or 'no'} argument{'' if least == 1 else 's'}"
    return f"{least or 'no'} to {most} arguments" if most > 1 else "no argument or one"


class _Reader:
    """Reads a text from its beginning to its end, once."""

    def __init__(self, text: str, column: str) -> None:
        self._text = text
        self._column = column
        self._at = 0
        self._kind, self._lexeme = "", ""
        self._go_on()

    def call(self) -> tuple[str, list[tuple[str, Given]]]:
        name = self._name()
        if name == "anon" and self._lexeme == ".":
            self._go_on()
            name = self._name()
        elif self._lexeme == ".":
            raise MaskingError(f"functions here are anon's, and none of {shown(name)}")
        self._take("(", "an opening parenthesis after the function's name")
        given: list[tuple[str, Given]] = []
        while self._lexeme != ")" or given:
            given.append(self._argument())
            if len(given) > ARGUMENTS_MAX:
                raise MaskingError(f"a function has at most {ARGUMENTS_MAX} arguments")
            if self._lexeme == ")":
                break
            self._take(",", "a comma or the closing parenthesis")
        self._take(")", "the closing parenthesis")
        if self._kind != "end":
            self._fail("nothing after the closing parenthesis")
        return name, given

    def _name(self) -> str:
        if self._kind != "word":
            self._fail("a call such as anon.fake_email()")
        name = _folded(self._lexeme)
        self._go_on()
        return name

    def _argument(self) -> tuple[str, Given]:
        if self._kind != "word":
            return "", self._value()
        word = self._lexeme
        self._go_on()
        if self._lexeme not in (":=", "=>"):
            return "", self._after(word)
        self._go_on()
        return _folded(word), self._value()

    def _value(self) -> Given:
        kind, token = self._kind, self._lexeme
        if kind not in ("word", "text", "number", "quoted"):
            self._fail("an argument: the rule's own column, a number, a 'quoted text', TRUE, FALSE, NULL or ARRAY[…]")
        self._go_on()
        if kind == "word":
            return self._after(token)
        if kind == "quoted":
            return self._own(token[1:-1].replace('""', '"'), token)
        return Given(kind, token[1:-1].replace("''", "'") if kind == "text" else token)

    def _after(self, word: str) -> Given:
        """What begins with a word that was just passed."""
        if self._lexeme == "(":
            raise MaskingError(f"a call within a call is not done here: {shown(word)}")
        if _folded(word) == "array" and self._lexeme == "[":
            return self._array()
        if _folded(word) in _WORDS:
            return Given("word", word.upper())
        return self._own(self._column if word == self._column else _folded(word), word)

    def _own(self, name: str, token: str) -> Given:
        if name != self._column or self._lexeme == ".":
            raise MaskingError(f"a rule's arguments are literals and its own column: {shown(token)} is neither")
        return Given("column", name)

    def _array(self) -> Given:
        self._take("[", "an opening bracket")
        members: list[Given] = []
        while self._lexeme != "]" or members:
            members.append(self._value())
            if len(members) > ARRAY_MEMBERS_MAX:
                raise MaskingError(f"an array has at most {ARRAY_MEMBERS_MAX} members")
            if self._lexeme == "]":
                break
            self._take(",", "a comma or the closing bracket")
        self._take("]", "the closing bracket")
        return Given("array", members=tuple(members))

    def _take(self, token: str, wanted: str) -> None:
        if self._kind != "sign" or self._lexeme != token:
            self._fail(wanted)
        self._go_on()

    def _go_on(self) -> None:
        match = _TOKEN.match(self._text, self._at)
        if match is not None:
            self._kind = match.lastgroup or ""
            self._lexeme = match[self._kind]
            self._at = match.end()
            return
        rest = _REST.match(self._text, self._at)
        assert rest is not None
        self._at = rest.end()
        self._kind, self._lexeme = ("other", self._text[self._at :]) if self._at < len(self._text) else ("end", "")

    def _fail(self, wanted: str) -> NoReturn:
        found = "the text ends" if self._kind == "end" else f"there is {shown(self._lexeme)}"
        raise MaskingError(f"wanted is {wanted}; {found}")


def _folded(word: str) -> str:
    """As PostgreSQL folds a name without quotes: ASCII only, in a database with a multi-byte encoding."""
    return "".join(each.lower() if each.isascii() else each for each in word)

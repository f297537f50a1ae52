"""The pieces of an expression: literals, names, and calls that mean the same whatever the tenant's settings are.

What must stay true of every text that comes out of here:

1.  It is printable ASCII but for what stands inside a quoted name, without line breaks, comments, semicolons or dollars
    outside of quotes.
2.  A literal means the same under `standard_conforming_strings` on and off: '…' when there is no backslash in it, and
    E'…' otherwise. (U&'…' is an error when the setting is off, and a backslash in '…' means something else.)
3.  Functions, operators and types are pg_catalog's by name. Whatever PostgreSQL would look up along the search path is
    avoided: a simple CASE, IN, BETWEEN, LIKE, NULLIF and IS DISTINCT FROM find their operators there. IS NULL, CASE WHEN,
    LEAST and GREATEST do not. Operators in this form all have one precedence, so each stands in parentheses.
4.  No subquery: one that does not name a column is evaluated once, and every row would get the same value.

Where one value depends on chance twice, its expression must call for it once: a call that is written twice is made twice.
"""

import hashlib
import hmac
import re
from collections.abc import Sequence
from typing import Final

from cloister.protocol.masking.errors import MaskingError, shown

NAME_BYTES_MAX: Final = 63
# NAMEDATALEN - 1. A longer name would be cut by the server, and then be that of another column.

UNIT: Final = "pg_catalog.random()"
"""From 0 to below 1. The generator is not one for secrets: whoever sees some of its numbers can know the others. So it
makes what has nothing to do with the original, and nothing else."""

STRONG_UNIT: Final = (
    "(('x'::pg_catalog.text OPERATOR(pg_catalog.||) pg_catalog.encode(pg_catalog.substr(pg_catalog.uuid_send(pg_catalog.gen_random_uuid()),"
    " '1'::pg_catalog.int4, '6'::pg_catalog.int4), 'hex'))::pg_catalog.bit(48)::pg_catalog.int8::pg_catalog.float8"
    " OPERATOR(pg_catalog./) '281474976710656'::pg_catalog.float8)"
)
"""The same from the system's generator, for what is laid over the original. Somebody who could tell the numbers of
`random()` from another column of the same row would take them off again. (The first 48 bits of a UUID 4 are all random.)"""

HEX_DIGITS: Final = 12
# 48 bits, as many as one number by chance has. With the names and domains around them, the
# addresses of a million rows are all different but once in 3.9 million runs: (10^6)² / 2 / (2^48 · 48 · 48 · 3) = 2.6e-7.

_SALT: Final = re.compile(r"(?:[0-9a-f]{2}){16,64}")
# At least 128 bits, at most what HMAC takes without hashing it first.


def literal(text: str) -> str:
    """Of no type yet: it becomes that of where it is put. Raises MaskingError."""
    if "\0" in text:
        raise MaskingError("U+0000 is not allowed in text")
    if any("\ud800" <= each <= "\udfff" for each in text):
        raise MaskingError("half of a surrogate pair is not allowed in text")
    if "\\" not in text and text.isascii() and text.isprintable():
        return "'" + text.replace("'", "''") + "'"
    return "E'" + "".join(map(_escaped, text)) + "'"


def _escaped(character: str) -> str:
    if character == "'":
        return "''"  # not \', which backslash_quote may forbid
    if character == "\\":
        return "\\\\"
    if character.isascii() and character.isprintable():
        return character
    code = ord(character)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def name(column: str) -> str:
    """Raises MaskingError."""
    if not column:
        raise MaskingError("a column has a name")
    if not column.isprintable():  # nor is half of a surrogate pair
        raise MaskingError(f"a column's name has only printable characters here: {shown(column)}")
    if len(column.encode()) > NAME_BYTES_MAX:
        raise MaskingError(f"a column's name has at most {NAME_BYTES_MAX} bytes: {shown(column)}")
    return '"' + column.replace('"', '""') + '"'


def cast(expression: str, type_: str) -> str:
    return f"{expression}::pg_catalog.{type_}"


def call(function: str, *arguments: str) -> str:
    return f"pg_catalog.{function}({', '.join(arguments)})"


def op(left: str, operator: str, right: str) -> str:
    return f"({left} OPERATOR(pg_catalog.{operator}) {right})"


def number(value: int | str, type_: str) -> str:
    return cast(literal(str(value)), type_)


def joined(*parts: str) -> str:
    """Texts, one after the other. The first is no bare literal, or two of them would have no type."""
    first, *rest = parts
    for part in rest:
        first = op(first, "||", part)
    return first


def below(end: int) -> str:
    """An int8 from 0 to `end` - 1, by chance. `end` is at most 2^52: a number of random() has as many bits."""
    return cast(call("floor", op(UNIT, "*", number(end, "float8"))), "int8")


def between(least: int, most: int) -> str:
    """A numeric, both ends included, by chance; of any 64-bit range every number may come."""
    high, low = (cast(below(2**32), "numeric") for _ in range(2))
    chance = op(op(high, "*", number(2**32, "numeric")), "+", low)
    span = op(chance, "*", number(most - least + 1, "numeric"))
    return op(call("div", span, number(2**64, "numeric")), "+", number(least, "numeric"))


def digits(count: int) -> str:
    return call("lpad", cast(below(10**count), "text"), number(count, "int4"), "'0'")


def hex_digits() -> str:
    return call("lpad", call("to_hex", below(16**HEX_DIGITS)), number(HEX_DIGITS, "int4"), "'0'")


def word(words: Sequence[str], index: str) -> str:
    """The one at `index`, an int8 from 0 on."""
    place = cast(op(index, "+", number(1, "int8")), "int4")
    return call("split_part", literal(",".join(words)), "','", place)


def picked(words: Sequence[str]) -> str:
    return word(words, below(len(words)))


def keyed(column: str, salt: str, label: str) -> str:
    """HMAC-SHA-256 (RFC 2104) of the value's text, as a bytea. `column` is a name in quotes.

    Sound because it is HMAC itself, spelled out: sha256(outer ‖ sha256(inner ‖ message)), where outer and inner are the key,
    filled up to a block of 64 bytes and XORed with 0x5c and 0x36. They are computed here, and stand in the expression. The
    key is derived from the salt by HMAC too, for each label another, so that what two functions say of a value does not
    compare. Who lacks the salt cannot try out values, and of no value is more told than that it is the same as another.

    Whoever reads the expression has the key: it is a secret as the salt is, and must not reach the tenant's log or views.
    """
    if _SALT.fullmatch(salt) is None:
        raise ValueError("a salt has 16 to 64 bytes, in lower-case hexadecimal")
    key = hmac.digest(bytes.fromhex(salt), f"cloister masking: {label}".encode(), hashlib.sha256)
    block = key.ljust(64, b"\0")
    outer, inner = (call("decode", literal(bytes(byte ^ pad for byte in block).hex()), "'hex'") for pad in (0x5C, 0x36))
    message = call("convert_to", cast(column, "text"), "'UTF8'")
    return call("sha256", op(outer, "||", call("sha256", op(inner, "||", message))))


def keyed_hex(column: str, salt: str, label: str) -> str:
    return call("encode", keyed(column, salt, label), "'hex'")


def keyed_below(column: str, salt: str, label: str, end: int) -> str:
    """An int8 from 0 to `end` - 1, always the same for a value. Of 60 bits, so that no remainder is likelier than another
    by more than `end` / 2^60."""
    start = call("substr", keyed_hex(column, salt, label), number(1, "int4"), number(15, "int4"))
    return call("mod", cast(cast(joined("'x'::pg_catalog.text", start), "bit(60)"), "int8"), number(end, "int8"))


def keyed_word(words: Sequence[str], column: str, salt: str, label: str) -> str:
    return word(words, keyed_below(column, salt, label, len(words)))

"""Takes the secrets out of SQL that is to be kept: what stays is what was done, not with which password.

    ALTER ROLE app PASSWORD 'hunter2'   becomes   ALTER ROLE app PASSWORD '***'

The rule is coarse on purpose, because the fine one is the server's parser. A text is taken apart into statements, and a
statement that says one of the words below, as a word or inside a literal, loses all its literals. So does the whole body of
a DO block or function that says one: the password may stand in a variable long before. Comments do not count, for nothing
is done in them; what stands in them stays. Where a literal may go on in a way that cannot be told (a backslash before the
quote, under `standard_conforming_strings = off`), everything after it goes.

Somebody who wants to hide a filter from a record can say such a word. That the table was read, and how many rows came of
it, stays.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

MASK: Final = "***"

_WORDS: Final = re.compile(
    # Words of CREATE and ALTER ROLE, and what people call a column or a setting;
    r"(?<![a-z0-9])(?:password|passwd|passphrase|pgpassword|secret|credential|credentials|api_?key|private_?key"
    # objects with a connection string or options that hold a password;
    r"|mapping|subscription|primary_conninfo|dblink\w*"
    # functions of pgcrypto that take a key or a password.
    r"|crypt|pgp_sym_\w+|pgp_pub_decrypt\w*|encrypt|encrypt_iv|decrypt|decrypt_iv|hmac)(?![a-z0-9])",
    re.IGNORECASE,
)
_URI: Final = re.compile(r"://[^\s:/@']{0,200}:[^\s@']{1,500}@")
_DEPTH_MAX: Final = 4
# Of bodies within bodies. A deeper one is masked whole.

_TOKEN: Final = re.compile(
    r"(?P<comment>--[^\n]*|/\*)|(?P<escaped>[eE]')|(?P<plain>')|(?P<name>\")"
    r"|(?P<dollar>\$(?:[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_\x80-\U0010ffff]{0,200})?\$)|(?P<end>;)|(?P<word>[A-Za-z_\x80-\U0010ffff][\w$]*)"
)


@dataclass(frozen=True, slots=True)
class _Piece:
    kind: str
    """comment, literal, body (of a dollar-quoted literal), end, or rest"""
    text: str
    is_open: bool = False
    """It may go on where it seems to end."""


def mask(text: str, *, is_cut: bool = False) -> str:
    """The text without secrets. Takes time in proportion to its length. Of one that is cut, nobody knows what its last
    statement would have gone on to say: it loses its literals always."""
    if not is_cut and _WORDS.search(text) is None and _URI.search(text) is None:
        return text  # nearly all: no piece of it says a word, either
    kept = []
    for statement in _statements(text):
        is_last = not statement or statement[-1].kind != "end"
        kept.append(_without_literals(statement) if is_cut and is_last else _masked(statement, 0))
        if _tells(statement) and any(piece.is_open for piece in statement):
            break
    return "".join(kept)


def _statements(text: str) -> Iterator[list[_Piece]]:
    statement: list[_Piece] = []
    for piece in _pieces(text):
        statement.append(piece)
        if piece.kind == "end":
            yield statement
            statement = []
    yield statement


def _masked(statement: list[_Piece], depth: int) -> str:
    # Inside a body a dollar-quoted literal is one like any other: the argument of a format() beside it may be the password.
    if _tells(statement) or (depth and any(piece.kind == "body" and _WORDS.search(piece.text) for piece in statement)):
        return _without_literals(statement)
    return "".join(_body(piece.text, depth) if piece.kind == "body" else piece.text for piece in statement)


def _tells(statement: list[_Piece]) -> bool:
    return any(
        (piece.kind in ("literal", "rest") and _WORDS.search(piece.text))
        or (piece.kind == "literal" and _URI.search(piece.text))
        for piece in statement
    )


def _without_literals(statement: list[_Piece]) -> str:
    kept = []
    for piece in statement:
        if piece.kind in ("literal", "body"):
            kept.append(_emptied(piece))
            if piece.is_open:
                break
        else:
            kept.append(piece.text)
    return "".join(kept)


def _emptied(piece: _Piece) -> str:
    if piece.kind == "body":
        quote = piece.text[: piece.text.index("$", 1) + 1]
        return f"{quote}{MASK}{quote}"
    return f"'{MASK}'"


def _body(text: str, depth: int) -> str:
    """Of a DO block or a function: SQL as well, one scope from its begin to its end."""
    quote = text[: text.index("$", 1) + 1]
    if not text.endswith(quote) or len(text) < 2 * len(quote):
        return text if not _WORDS.search(text) and not _URI.search(text) else f"{quote}{MASK}{quote}"
    if depth == _DEPTH_MAX:
        return f"{quote}{MASK}{quote}"
    return quote + _masked(list(_pieces(text[len(quote) : -len(quote)])), depth + 1) + quote


def _pieces(text: str) -> Iterator[_Piece]:
    at = rest = 0
    while (found := _TOKEN.search(text, at)) is not None:
        kind = found.lastgroup
        if kind == "word":
            at = found.end()
            continue
        if kind == "name":
            at = _after_quote(text, found.end(), '"')
            continue
        if rest < found.start():
            yield _Piece("rest", text[rest : found.start()])
        match kind:
            case "comment":
                at = found.end() if found[0] != "/*" else _after_comment(text, found.end())
                yield _Piece("comment", text[found.start() : at])
            case "plain":
                at = _after_quote(text, found.end(), "'")
                literal = text[found.start() : at]
                yield _Piece("literal", literal, is_open=literal.endswith("\\'") or "\\''" in literal)
            case "escaped":
                at = _after_escaped(text, found.end())
                yield _Piece("literal", text[found.start() : at])
            case "dollar":
                end = text.find(found[0], found.end())
                at = len(text) if end < 0 else end + len(found[0])
                yield _Piece("body", text[found.start() : at])
            case _:
                at = found.end()
                yield _Piece("end", ";")
        rest = at
    if rest < len(text):
        yield _Piece("rest", text[rest:])


def _after_quote(text: str, at: int, quote: str) -> int:
    """Behind the quote that is not doubled, or the end."""
    while (end := text.find(quote, at)) >= 0:
        if text[end + 1 : end + 2] != quote:
            return end + 1
        at = end + 2
    return len(text)


_ESCAPED_END: Final = re.compile(r"\\.|''|(')", re.DOTALL)


def _after_escaped(text: str, at: int) -> int:
    for found in _ESCAPED_END.finditer(text, at):
        if found[1] is not None:
            return found.end()
    return len(text)


_COMMENT_EDGE: Final = re.compile(r"/\*|\*/")


def _after_comment(text: str, at: int) -> int:
    """Comments nest in PostgreSQL."""
    depth = 1
    for found in _COMMENT_EDGE.finditer(text, at):
        depth += 1 if found[0] == "/*" else -1
        if depth == 0:
            return found.end()
    return len(text)

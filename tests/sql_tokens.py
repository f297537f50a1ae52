"""A lexer for the expressions of masking rules: takes the few forms that they are made of, and nothing else.

Written from PostgreSQL's grammar (scan.l), and stricter: a text that it takes has the same tokens under
`standard_conforming_strings` on and off, because only E'…' may hold a backslash."""

import re
from typing import Final

_TOKENS: Final = re.compile(
    r"""
      (?P<escaped> E' (?: [^'\\] | '' | \\\\ | \\u[0-9a-f]{4} | \\U[0-9a-f]{8} )* ' )
    | (?P<plain> ' (?: [^'\\] | '' )* ' )
    | (?P<name> " (?: [^"] | "" )+ " )
    | (?P<operator> OPERATOR\(pg_catalog\.(?:\|\||[-+*/=<>~])\) )
    | (?P<ours> pg_catalog\.[a-z][a-z0-9_]* )
    | (?P<keyword> (?:CASE|WHEN|THEN|ELSE|END|IS|NOT|NULL|AND|LEAST|GREATEST|ARRAY|TRUE|FALSE)\b )
    | (?P<size> (?<=pg_catalog\.bit\()[0-9]+ )
    | (?P<sign> :: | : | \( | \) | \[ | \] | , )
    | (?P<blank> [ ] )
    """,
    re.VERBOSE,
)


def tokens(text: str) -> list[tuple[str, str]]:
    """Kind and text of each, in order. An AssertionError where something else stands."""
    found: list[tuple[str, str]] = []
    at = 0
    while at < len(text):
        match = _TOKENS.match(text, at)
        assert match is not None, f"no token of an expression at {at}: {text[at : at + 60]!r}"
        kind = match.lastgroup or ""
        before = found[-1][0] if found else ""
        assert not (kind in ("plain", "escaped") and before in ("plain", "escaped")), "two literals side by side"
        if kind != "name":
            assert match[0].isascii(), match[0]
            assert match[0].isprintable(), match[0]
        found.append((kind, match[0]))
        at = match.end()
    return found


def shape(text: str) -> list[str]:
    """The tokens, with nothing of what stands inside of quotes."""
    literals = ("plain", "escaped")
    return ["literal" if kind in literals else kind if kind == "name" else token for kind, token in tokens(text)]

"""Whether a statement's text names a table. Rather too many than one too few: this is for who looks for an access.

A text can name a table in so many ways that only a name that cannot be meant is passed over: another word, or the same in
another schema. What it cannot find is a name that is not in the text: dynamic SQL that puts it together, a view, a function.
"""

import re
from functools import lru_cache


def names_table(text: str, table: str, *, is_cut: bool = False) -> bool:
    """`table` is a name, or `schema.name`, in any case. True as well if the text was cut or has identifiers in Unicode
    escapes (`U&"…"`): it may name the table where this cannot see."""
    if is_cut or re.search(r'u&\s*"', text, re.IGNORECASE):
        return True
    word, schema = _pattern(table)
    if "--" in text or "/*" in text:  # `FROM --other.⏎name`: what stands before a name is no schema for certain
        schema = None
    return any(schema is None or (found[1] or schema).casefold() == schema for found in word.finditer(text))


@lru_cache(maxsize=16)
def _pattern(table: str) -> tuple[re.Pattern[str], str | None]:
    """Finds the name as a word of its own; group 1 is the schema right before it, where there is one."""
    schema, _, name = table.replace('"', "").rpartition(".")
    # A quotation mark is no border that could be believed: a literal may hold half a pair. Nor a dollar: `$$name$$`.
    word = rf'(?<!\w)(?:([\w$]+)"?\s*\.\s*"?)?{re.escape(name)}(?!\w)'
    is_plain = re.fullmatch(r"[\w$]+", schema)
    return re.compile(word, re.IGNORECASE), schema.casefold() if is_plain else None

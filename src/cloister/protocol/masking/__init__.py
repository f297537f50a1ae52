"""Masking rules: which functions there are, what a rule's text means, and the SQL that does it.

A rule says what becomes of one column, by a function of PostgreSQL Anonymizer's or by a value. The extension is not had
here: each rule is read (`rules`), held against a table (`functions`, `kinds`), and written as one expression over pg_catalog
(`sql`, with `words`), which is evaluated once for each row:

    UPDATE "shop"."customer" SET "email" = (expression)

So a rule can be refused where it is asked for, and nothing needs to be installed where it is applied. Pure. What must stay
true: whatever a rule's text is, the outcome is a Masking or a MaskingError; and of the text only literals reach the
expression. A call of the tenant's is not in it either, but an UPDATE has more to it: triggers, checks, indexes on
expressions, and casts of the column's own type. Who runs it must have no more rights than the table's owner.
"""

from cloister.protocol.masking.errors import MaskingError
from cloister.protocol.masking.functions import FUNCTIONS, Function, Parameter
from cloister.protocol.masking.rules import Call, Masking, Value, parse, parse_function, parse_value

__all__ = [
    "FUNCTIONS",
    "Call",
    "Function",
    "Masking",
    "MaskingError",
    "Parameter",
    "Value",
    "parse",
    "parse_function",
    "parse_value",
]

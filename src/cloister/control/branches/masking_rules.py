"""What a set of masking rules must be, as far as that can be said without the data. Pure."""

from collections.abc import Sequence

from cloister.base.errors import UnprocessableError
from cloister.base.limits import MASKING_RULES_MAX
from cloister.control.branches.model import MaskingRule
from cloister.protocol.masking import MaskingError, parse


def checked(rules: Sequence[MaskingRule]) -> list[MaskingRule]:
    """Raises UnprocessableError."""
    if len(rules) > MASKING_RULES_MAX:
        raise UnprocessableError(
            f"{len(rules)} rules", public=f"a branch has at most {MASKING_RULES_MAX} masking rules"
        )
    seen = set()
    for rule in rules:
        column = (rule.database, rule.schema, rule.table, rule.column)
        if column in seen:
            raise UnprocessableError(public=f"two masking rules for {_named(rule)}")
        seen.add(column)
        try:
            parse(rule.function, rule.value, rule.column)
        except MaskingError as error:
            raise UnprocessableError(public=f"{_named(rule)}: {error}") from None
    return list(rules)


def _named(rule: MaskingRule) -> str:
    return f"{rule.database}.{rule.schema}.{rule.table}.{rule.column}"

"""Anonymized branches."""

from collections.abc import Sequence
from typing import Annotated, Final, TypeAlias

import msgspec

from cloister.base.limits import MASKING_RULES_MAX
from cloister.control.branches.masking_store import ANONYMIZED, ANONYMIZING, ERROR, INITIALIZED, Masking
from cloister.control.branches.model import MaskingRule
from cloister.edge.api.wire.branches import CreateBranch
from cloister.edge.api.wire.common import Moment, Request, Wire, moment, optional_moment

_NAME_CHARS_MAX: Final = 63
# PostgreSQL's names, which are bytes: the agent looks again.

_WORDS_CHARS_MAX: Final = 4096
# A function with a list to choose from.

_Name: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=_NAME_CHARS_MAX)]
_Words: TypeAlias = Annotated[str, msgspec.Meta(max_length=_WORDS_CHARS_MAX)]


class MaskingRuleBody(Request, frozen=True, kw_only=True, omit_defaults=True):
    database_name: _Name
    schema_name: _Name
    table_name: _Name
    column_name: _Name
    masking_function: _Words | None = None
    """`anon.partial_email(email)`"""
    masking_value: _Words | None = None


Rules: TypeAlias = Annotated[list[MaskingRuleBody], msgspec.Meta(max_length=MASKING_RULES_MAX)]


class CreateAnonymizedBranch(Request, frozen=True, kw_only=True):
    branch_create: CreateBranch | None = None
    masking_rules: Rules | None = None
    start_anonymization: bool | None = None
    """Absent or false: the branch has no data until it is anonymized."""
    annotation_value: dict[str, str] | None = None


class ChangeMaskingRules(Request, frozen=True, kw_only=True):
    masking_rules: Rules
    """All there are from now on."""


class MaskingRules(Wire, frozen=True, kw_only=True):
    masking_rules: list[MaskingRuleBody]


class LastRun(Wire, frozen=True, kw_only=True):
    started_at: Moment | None = None
    completed_at: Moment | None = None
    triggered_by: str | None = None
    masked_columns: int | None = None


class AnonymizedStatus(Wire, frozen=True, kw_only=True):
    project_id: str
    branch_id: str
    state: str
    status_message: str
    created_at: Moment
    updated_at: Moment
    failed_at: Moment | None = None
    last_run: LastRun | None = None


def rules_asked(rules: Sequence[MaskingRuleBody]) -> list[MaskingRule]:
    return [
        MaskingRule(
            database=it.database_name,
            schema=it.schema_name,
            table=it.table_name,
            column=it.column_name,
            function=it.masking_function,
            value=it.masking_value,
        )
        for it in rules
    ]


def rules(rules: Sequence[MaskingRule]) -> MaskingRules:
    return MaskingRules(
        masking_rules=[
            MaskingRuleBody(
                database_name=it.database,
                schema_name=it.schema,
                table_name=it.table,
                column_name=it.column,
                masking_function=it.function,
                masking_value=it.value,
            )
            for it in rules
        ]
    )


_SAID: Final = {
    INITIALIZED: "nothing is copied yet: start the anonymization",
    ANONYMIZING: "the parent's data is copied and masked",
    ANONYMIZED: "masked",
}


def status(it: Masking) -> AnonymizedStatus:
    has_run = it.started_at is not None
    return AnonymizedStatus(
        project_id=it.project_id,
        branch_id=it.branch_id,
        state=it.state,
        status_message=it.message if it.state == ERROR else _SAID[it.state],
        created_at=moment(it.created_at),
        updated_at=moment(it.changed_at),
        failed_at=optional_moment(it.completed_at) if it.state == ERROR else None,
        last_run=LastRun(
            started_at=optional_moment(it.started_at),
            completed_at=optional_moment(it.completed_at),
            triggered_by=None if it.started_by is None else str(it.started_by),
            masked_columns=len(it.rules) if it.state == ANONYMIZED else None,
        )
        if has_run
        else None,
    )

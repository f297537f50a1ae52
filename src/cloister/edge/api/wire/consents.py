"""Consents to a copy of a protected branch, and whether an organization demands them, as JSON."""

from datetime import datetime
from typing import Annotated

import msgspec

from cloister.control.branches.consents import Act, Consent, ConsentPolicy
from cloister.edge.api.wire.common import Wire
from cloister.edge.api.wire.masking import MaskingRuleBody, Rules, rules


class AskConsent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    act: Act
    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
    """It is in the audit log for good."""
    masking_rules: Rules | None = None
    """Of the act `mask`: whoever masks by these, or by more, needs no consent each time."""


class SetConsentPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    required: bool


class ConsentView(Wire, frozen=True, kw_only=True):
    id: str
    project_id: str
    branch_id: str
    act: Act
    state: str
    reason: str
    asked_by: str
    asked_as: str
    """As the audit log names them. Nobody else can use it."""
    asked_at: datetime
    agreed_by: str | None = None
    agreed_at: datetime | None = None
    used_for: str | None = None
    """The branch that the data came to lie in."""
    used_at: datetime | None = None
    masking_rules: list[MaskingRuleBody] = msgspec.field(default_factory=list)
    ended_by: str | None = None
    ended_at: datetime | None = None


class ConsentAnswer(Wire, frozen=True, kw_only=True):
    consent: ConsentView


class ConsentList(Wire, frozen=True, kw_only=True):
    consents: list[ConsentView]


class ConsentPolicyAnswer(Wire, frozen=True, kw_only=True):
    required: bool
    lift_asked_by: str | None = None
    """It holds until somebody else says the same."""
    lift_asked_at: datetime | None = None


def consent(it: Consent, now: datetime) -> ConsentView:
    return ConsentView(
        id=str(it.id),
        project_id=it.project_id,
        branch_id=it.branch_id,
        act=it.act,
        state=it.state(now),
        reason=it.reason,
        asked_by=it.asked_by,
        asked_as=it.asked_as,
        asked_at=it.asked_at,
        agreed_by=it.agreed_by,
        agreed_at=it.agreed_at,
        used_for=it.used_for,
        used_at=it.used_at,
        masking_rules=rules(it.rules).masking_rules,
        ended_by=it.ended_by,
        ended_at=it.ended_at,
    )


def policy(it: ConsentPolicy) -> ConsentPolicyAnswer:
    return ConsentPolicyAnswer(required=it.is_required, lift_asked_by=it.lift_asked_by, lift_asked_at=it.lift_asked_at)

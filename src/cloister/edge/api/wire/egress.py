"""Egress rules."""

from typing import Annotated

import msgspec

from cloister.control.egress.model import EgressRule
from cloister.edge.api.wire.common import Moment, Request, Wire, moment


class AllowEgress(Request, frozen=True, kw_only=True):
    to: Annotated[str, msgspec.Meta(min_length=3, max_length=120)]
    """HOST:PORT; HOST is an address, a network, or a name."""
    ca_pem: Annotated[str, msgspec.Meta(max_length=16_384)] | None = None
    """Who signs the certificate at the other end. Without: the authorities that the platform's host trusts."""


class EgressRuleView(Wire, frozen=True, kw_only=True):
    id: str
    to: str
    host: str
    """What SQL in the project's databases names as host. Of a network, the first."""
    has_ca: bool
    ca_pem: str | None = None
    """Certificates of authorities, which are no secret."""
    created_by: str
    created_at: Moment


class EgressRuleList(Wire, frozen=True, kw_only=True):
    egress_rules: list[EgressRuleView]


class EgressRuleAnswer(Wire, frozen=True, kw_only=True):
    egress_rule: EgressRuleView


def view(rule: EgressRule) -> EgressRuleView:
    return EgressRuleView(
        id=str(rule.id),
        to=str(rule.target),
        host=f"/egress/{rule.target.hosts[0]}",
        has_ca=rule.ca_pem is not None,
        ca_pem=rule.ca_pem,
        created_by=rule.created_by,
        created_at=moment(rule.created_at),
    )

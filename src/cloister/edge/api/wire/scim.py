"""Whether an organization has a directory, and its token."""

from cloister.base.secret import Secret
from cloister.control.scim.model import Status
from cloister.edge.api.wire.common import Moment, Wire, optional_moment


class ScimView(Wire, frozen=True, kw_only=True):
    org_id: str
    enabled: bool
    enabled_at: Moment | None
    last_used_at: Moment | None
    last_used_from_addr: str
    users: int
    active: int
    linked: int
    """Users of whom it is known whose account is theirs."""
    groups: int


class ScimToken(Wire, frozen=True, kw_only=True):
    scim: ScimView
    token: str
    """Shown once."""


def view(it: Status) -> ScimView:
    return ScimView(
        org_id=it.org_id,
        enabled=it.is_enabled,
        enabled_at=optional_moment(it.enabled_at),
        last_used_at=optional_moment(it.last_used_at),
        last_used_from_addr=it.last_used_from or "",
        users=it.users,
        active=it.active,
        linked=it.linked,
        groups=it.groups,
    )


def with_token(it: Status, token: Secret[str]) -> ScimToken:
    return ScimToken(scim=view(it), token=token.reveal())

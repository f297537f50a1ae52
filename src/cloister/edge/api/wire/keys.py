"""Keys of projects. Never one of them: versions, states, days."""

from typing import Annotated, TypeAlias

import msgspec

from cloister.edge.api.wire.common import Request, Wire
from cloister.edge.api.wire.platform import VolumeKeyView, volume_key
from cloister.trust.keys.commands import (
    POLICY_DAYS_MAX,
    WAITING_DAYS_MAX,
    WAITING_DAYS_MIN,
    KeystoreInfo,
    RingInfo,
)

Reason: TypeAlias = Annotated[str, msgspec.Meta(max_length=500)]


class Ring(Wire, frozen=True, kw_only=True):
    project_id: str
    state: str
    """`enabled`, `disabled`, `pending_destruction`, `destroyed`"""
    destroy_at: str | None = None
    rotated_at: str
    rotate_days: int
    keys: list[VolumeKeyView]


class Because(Request, frozen=True, kw_only=True):
    reason: Reason = ""


class ScheduleDestruction(Request, frozen=True, kw_only=True):
    days: Annotated[int, msgspec.Meta(ge=WAITING_DAYS_MIN, le=WAITING_DAYS_MAX)] = WAITING_DAYS_MAX
    reason: Reason = ""


class Policy(Wire, frozen=True, kw_only=True):
    rotate_days: int


class SetPolicy(Request, frozen=True, kw_only=True):
    rotate_days: Annotated[int, msgspec.Meta(ge=1, le=POLICY_DAYS_MAX)]


class Root(Wire, frozen=True, kw_only=True):
    provider: str
    root_version: str
    is_current: bool
    is_held: bool
    """False: keys under it cannot be used until the broker is given it again."""
    projects: int


class Roots(Wire, frozen=True, kw_only=True):
    epoch: int
    """Of the keystore: every erasure begins one."""
    seals: int
    roots: list[Root]


def ring(it: RingInfo) -> Ring:
    return Ring(
        project_id=it.project_id,
        state=it.state,
        destroy_at=it.destroy_at or None,
        rotated_at=it.rotated_at,
        rotate_days=it.rotate_days,
        keys=[volume_key(key) for key in it.keys],
    )


def roots(it: KeystoreInfo) -> Roots:
    return Roots(
        epoch=it.epoch,
        seals=it.seals,
        roots=[
            Root(
                provider=root.provider,
                root_version=root.root_version,
                is_current=root.is_current,
                is_held=root.is_held,
                projects=root.projects,
            )
            for root in it.roots
        ],
    )


__all__ = [
    "WAITING_DAYS_MAX",
    "Because",
    "Policy",
    "Ring",
    "Roots",
    "ScheduleDestruction",
    "SetPolicy",
    "ring",
    "roots",
]

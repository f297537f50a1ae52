"""Keys of projects. Never one of them: versions, states, days."""

from typing import Annotated, TypeAlias

import msgspec

from cloister.control.reencryption.model import BYTES_PER_S_DEFAULT, BYTES_PER_S_MAX, Reencryption
from cloister.edge.api.wire.common import Moment, Request, Wire, moment, optional_moment
from cloister.edge.api.wire.platform import VolumeKeyView, volume_key
from cloister.node.commands import BYTES_PER_S_MIN
from cloister.trust.keys.commands import (
    POLICY_DAYS_MAX,
    WAITING_DAYS_MAX,
    WAITING_DAYS_MIN,
    KeyPolicy,
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


Days: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=POLICY_DAYS_MAX)]


class Policy(Wire, frozen=True, kw_only=True):
    rotate_days: int
    reencrypt_days: int | None = None
    """Absent: the data is not encrypted anew by itself."""


class SetPolicy(Request, frozen=True, kw_only=True):
    rotate_days: Days
    reencrypt_days: Days | None = None


class Reencrypt(Request, frozen=True, kw_only=True):
    bytes_per_s: Annotated[int, msgspec.Meta(ge=BYTES_PER_S_MIN, le=BYTES_PER_S_MAX)] = BYTES_PER_S_DEFAULT
    now: bool = False
    """Pause the computes as soon as the copy is ready, rather than wait for the project to sleep."""


class ReencryptionView(Wire, frozen=True, kw_only=True):
    project_id: str
    state: str
    """`copying`, `paused`, `cancelling`, `cancelled`, `done`"""
    bytes_per_s: int | None = None
    now: bool
    passed_bytes: int
    """Of the pass that is under way."""
    used_bytes: int
    begun_at: Moment
    ready_at: Moment | None = None
    """Since when the copy could take the volume's place."""
    finished_at: Moment | None = None
    paused_ms: int | None = None
    """For how long, in the end, nobody could use the project."""
    problem: str | None = None
    """Why it does not get on. It is tried again."""


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


def policy(it: KeyPolicy) -> Policy:
    return Policy(rotate_days=it.rotate_days, reencrypt_days=it.reencrypt_days)


def reencryption(it: Reencryption) -> ReencryptionView:
    return ReencryptionView(
        project_id=it.project_id,
        state=it.state.value,
        bytes_per_s=it.wish.bytes_per_s,
        now=it.wish.is_urgent,
        passed_bytes=it.passed_bytes,
        used_bytes=it.used_bytes,
        begun_at=moment(it.begun_at),
        ready_at=optional_moment(it.ready_at),
        finished_at=optional_moment(it.finished_at),
        paused_ms=round(it.paused_s * 1000) if it.paused_s is not None else None,
        problem=it.problem or None,
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
    "Reencrypt",
    "ReencryptionView",
    "Ring",
    "Roots",
    "ScheduleDestruction",
    "SetPolicy",
    "policy",
    "reencryption",
    "ring",
    "roots",
]

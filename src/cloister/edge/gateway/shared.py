"""What the sessions of one worker share: who they ask, what they count, where they write things down."""

import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

from cloister.base.buckets import Buckets
from cloister.base.ipallow import AllowList
from cloister.edge.gateway import limits
from cloister.edge.gateway.admission import HalfOpen
from cloister.edge.gateway.cancels import Cancels
from cloister.edge.gateway.certificates import Certificates
from cloister.edge.gateway.directory import Directory
from cloister.edge.gateway.memory import Memory
from cloister.edge.gateway.meters import Meters
from cloister.edge.gateway.sessions import Sessions
from cloister.edge.gateway.spares import Spares
from cloister.edge.gateway.statements import StatementTrail
from cloister.edge.gateway.trail import Trail


class Abortable(Protocol):
    """A connection that may have to go for another."""

    def abort(self) -> None: ...


@dataclass(kw_only=True)
class Gateway:
    """What the sessions of one worker share."""

    domain: str
    certificates: Certificates
    directory: Directory
    sessions: Sessions
    cancels: Cancels
    spares: Spares
    trail: Trail
    statements: StatementTrail
    balancers: AllowList
    passwords: ThreadPoolExecutor
    half_open: HalfOpen[Abortable] = field(
        default_factory=lambda: HalfOpen(
            total_max=limits.HALF_OPEN_MAX, per_network_max=limits.HALF_OPEN_PER_NETWORK_MAX
        )
    )
    network_attempts: Buckets = field(
        default_factory=lambda: Buckets(
            per_s=limits.ATTEMPTS_PER_NETWORK_PER_S,
            burst=limits.ATTEMPTS_PER_NETWORK_BURST,
            keys_max=limits.BUCKETS_MAX,
        )
    )
    endpoint_attempts: Buckets = field(
        default_factory=lambda: Buckets(
            per_s=limits.ATTEMPTS_PER_ENDPOINT_PER_S,
            burst=limits.ATTEMPTS_PER_ENDPOINT_BURST,
            keys_max=limits.BUCKETS_MAX,
        )
    )
    failures: Buckets = field(
        default_factory=lambda: Buckets(
            per_s=limits.FAILURES_PER_S, burst=limits.FAILURES_BURST, keys_max=limits.BUCKETS_MAX
        )
    )
    cancel_attempts: Buckets = field(
        default_factory=lambda: Buckets(
            per_s=limits.CANCELS_PER_NETWORK_PER_S,
            burst=limits.CANCELS_PER_NETWORK_BURST,
            keys_max=limits.BUCKETS_MAX,
        )
    )
    refusals_told: Buckets = field(default_factory=lambda: Buckets(per_s=1.0, burst=5, keys_max=limits.BUCKETS_MAX))
    """Refusals for too many attempts are recorded so often per network: a flood must not fill the audit."""
    observed: Memory = field(
        default_factory=lambda: Memory(
            total_max=limits.OBSERVED_BYTES_MAX,
            per_endpoint_max=limits.OBSERVED_PER_ENDPOINT_BYTES_MAX,
            assured=limits.OBSERVED_ASSURED_BYTES,
            public="the recorded sessions of this endpoint keep too many prepared statements, or too much that is unanswered",
        )
    )
    """What observers keep of sessions that are recorded."""
    meters: Meters = field(default_factory=Meters)
    mock_secret: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    """For verifiers that cannot be read: they fail like wrong passwords."""
    password_checks: int = 0

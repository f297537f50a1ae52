"""What an endpoint may be set to, and what its compute gets of the host because of it."""

import os
from collections.abc import Mapping
from typing import Final

from cloister.base.errors import BadRequestError
from cloister.base.limits import (
    CU_MAX,
    CU_MEMORY_BYTES,
    CU_MIN,
    SUSPEND_TIMEOUT_MAX_S,
    SUSPEND_TIMEOUT_MIN_S,
)
from cloister.control.computes.store import Placed
from cloister.node.commands import ComputeSpec
from cloister.node.postgres import parameters

HOST_MEMORY_SHARE: Final = 0.75
# No single compute may take the memory that the platform itself and the page cache of volumes need.

SUSPEND_DEFAULT: Final = 0
SUSPEND_NEVER: Final = -1


def check_compute_units(min_cu: float, max_cu: float) -> None:
    """Raises BadRequestError."""
    if not CU_MIN <= min_cu <= max_cu <= CU_MAX:
        raise BadRequestError(
            f"{min_cu} to {max_cu} CU",
            public=f"autoscaling limits must be {CU_MIN} <= min <= max <= {CU_MAX:g} compute units",
        )


def check_suspend_timeout(seconds: int) -> None:
    """Raises BadRequestError."""
    if seconds not in (SUSPEND_DEFAULT, SUSPEND_NEVER) and not (
        SUSPEND_TIMEOUT_MIN_S <= seconds <= SUSPEND_TIMEOUT_MAX_S
    ):
        raise BadRequestError(
            f"suspend timeout {seconds}",
            public=f"suspend_timeout_seconds must be -1 (never), 0 (default) or {SUSPEND_TIMEOUT_MIN_S} "
            f"to {SUSPEND_TIMEOUT_MAX_S}",
        )


def check_pg_settings(settings: Mapping[str, str], *, pg_version: int, max_cu: float) -> None:
    """By the node's own list, so that what is accepted here also starts. Raises UnprocessableError."""
    parameters.checked(settings, major=pg_version, memory_bytes=memory_bytes(max_cu))


def memory_bytes(max_cu: float) -> int:
    host_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(int(max_cu * CU_MEMORY_BYTES), int(host_bytes * HOST_MEMORY_SHARE))


def spec_of(placed: Placed) -> ComputeSpec:
    endpoint = placed.endpoint
    return ComputeSpec(
        endpoint_id=endpoint.id,
        project_id=endpoint.project_id,
        branch_id=endpoint.branch_id,
        timeline_id=placed.timeline_id,
        history_retention_s=placed.history_retention_s,
        pg_version=placed.pg_version,
        uid=placed.uid,
        cpu_cores=endpoint.max_cu,
        memory_bytes=memory_bytes(endpoint.max_cu),
        settings=dict(endpoint.pg_settings),
        audit_level=placed.audit_level,
    )

"""What an endpoint may be set to, and what its compute gets of the host because of it. Pure."""

import re
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

HOST_MEMORY_SHARE: Final = 0.75
# No single compute may take the memory that the platform itself and the page cache of volumes need.

PG_SETTINGS_MAX: Final = 100
PG_SETTING_CHARS_MAX: Final = 256
_SETTING_NAME: Final = re.compile(r"[a-z_][a-z0-9_]{0,62}(\.[a-z_][a-z0-9_]{0,62})?")

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


def check_pg_settings(settings: Mapping[str, str]) -> None:
    """The form only: which settings a tenant may choose is the node agent's list. Raises BadRequestError."""
    if len(settings) > PG_SETTINGS_MAX:
        raise BadRequestError(f"{len(settings)} settings", public="too many pg_settings")
    for name, value in settings.items():
        if not _SETTING_NAME.fullmatch(name):
            raise BadRequestError(f"setting {name[:80]!r}", public="invalid name in pg_settings")
        if len(value) > PG_SETTING_CHARS_MAX or not value.isprintable():
            raise BadRequestError(f"value of {name}", public=f"invalid value of {name} in pg_settings")


def spec_of(placed: Placed, host_memory_bytes: int) -> ComputeSpec:
    endpoint = placed.endpoint
    return ComputeSpec(
        endpoint_id=endpoint.id,
        project_id=endpoint.project_id,
        branch_id=endpoint.branch_id,
        pg_version=placed.pg_version,
        uid=placed.uid,
        cpu_cores=endpoint.max_cu,
        memory_bytes=min(int(endpoint.max_cu * CU_MEMORY_BYTES), int(host_memory_bytes * HOST_MEMORY_SHARE)),
        settings=dict(endpoint.pg_settings),
    )

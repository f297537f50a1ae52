"""What a project may be called and set to. Pure.

`settings` and `default_endpoint_settings` are merged key by key, as Neon's PATCH does, and checked as a whole afterwards:
what could not be read later, above all an IP allowlist, is refused when it is written.
"""

from typing import Any, Final

import msgspec

from cloister.base.errors import BadRequestError
from cloister.base.ipallow import AllowList
from cloister.control.computes.limits import check_compute_units, check_pg_settings, check_suspend_timeout
from cloister.control.projects.model import EndpointDefaults, ProjectSettings

HISTORY_SECONDS_MAX: Final = 2_592_000
# Neon's: 30 days.


def checked_history(seconds: int) -> int:
    """Raises BadRequestError."""
    if not 0 <= seconds <= HISTORY_SECONDS_MAX:
        raise BadRequestError(
            f"history {seconds}", public="requested history retention seconds exceeds allowed maximum"
        )
    return seconds


def checked_settings(settings: ProjectSettings) -> ProjectSettings:
    """Raises BadRequestError."""
    AllowList.parse(settings.allowed_ips.ips)
    return settings


def checked_defaults(defaults: EndpointDefaults, pg_version: int) -> EndpointDefaults:
    """Raises BadRequestError, UnprocessableError."""
    check_compute_units(defaults.autoscaling_limit_min_cu, defaults.autoscaling_limit_max_cu)
    check_suspend_timeout(defaults.suspend_timeout_seconds)
    check_pg_settings(defaults.pg_settings, pg_version=pg_version, max_cu=defaults.autoscaling_limit_max_cu)
    return defaults


def merged_settings(old: ProjectSettings, change: dict[str, Any]) -> ProjectSettings:
    return checked_settings(_merged(old, change, ProjectSettings, "settings"))


def merged_defaults(old: EndpointDefaults, change: dict[str, Any], pg_version: int) -> EndpointDefaults:
    return checked_defaults(_merged(old, change, EndpointDefaults, "default_endpoint_settings"), pg_version)


def widened(old: ProjectSettings, new: ProjectSettings) -> bool:
    """Whether somebody may knock now whom the old allow list refused, as far as its entries tell: an entry that is new
    counts, even if a wider one had covered it."""
    if old.block_public_connections:
        return not new.block_public_connections
    before, after = old.allowed_ips, new.allowed_ips
    if new.block_public_connections or not before.ips:
        return False
    return (
        not after.ips
        or not set(after.ips) <= set(before.ips)
        or (after.protected_branches_only and not before.protected_branches_only)
    )


def _merged(old: Any, change: dict[str, Any], kind: Any, what: str) -> Any:
    try:
        return msgspec.convert(_over(msgspec.to_builtins(old), change), kind)
    except msgspec.ValidationError as error:
        raise BadRequestError(f"{what}: {error}", public=f"invalid {what}: {error}") from None


def _over(old: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """One level deep: `allowed_ips` and `quota` are objects of their own; `pg_settings` is replaced as a whole."""
    result = dict(old)
    for key, value in change.items():
        is_object = isinstance(value, dict) and isinstance(old.get(key), dict) and key != "pg_settings"
        result[key] = {**old[key], **value} if is_object else value
    return result

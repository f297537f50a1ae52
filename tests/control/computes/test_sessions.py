"""What a session of the platform's brings along, whatever the tenant has set where it leads."""

import pytest

from cloister.control.computes.sessions import _settings


@pytest.mark.parametrize("pg_version", [16, 17, 18])
def test_nothing_of_a_tenants_is_found_or_run_by_our_sessions_in_any_version(pg_version: int) -> None:
    """Our statements qualify their names besides, so no trap springs where this is missing: it is looked at alone. That they do is
    seen in tests/control/roles/test_catalog.py."""
    settings = _settings(pg_version)
    assert settings["search_path"] == "pg_catalog"
    assert (settings["role"], settings["local_preload_libraries"]) == ("none", "")
    assert (settings["log_statement"], settings["log_min_error_statement"]) == ("none", "panic")
    assert settings.get("event_triggers") == ("off" if pg_version >= 17 else None), "before, there is no such setting"

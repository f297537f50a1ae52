import re

import pytest

from cloister.base.limits import CU_MEMORY_BYTES
from cloister.node.postgres.parameters import PARAMETERS
from cloister.node.postgres.tuning import CLIENT_CHECK, Size, command_line, postgresql_conf

GB = 1024**3


def size(cu: float, volume_bytes: int = 64 * GB, major: int = 18) -> Size:
    return Size(
        major=major,
        memory_bytes=int(cu * CU_MEMORY_BYTES),
        cpu_cores=cu,
        volume_bytes=volume_bytes,
        reserve_bytes=128 * 1024**2,
    )


def values(text: str) -> dict[str, str]:
    return dict(re.findall(r"^(\w+) = '([^']*)'$", text, re.MULTILINE))


@pytest.mark.parametrize(("cu", "connections"), [(0.25, 104), (0.5, 209), (1, 419), (2, 838), (8, 3355), (16, 4000)])
def test_connections_follow_neons_table(cu: float, connections: int) -> None:
    assert size(cu).max_connections == connections
    assert size(cu).processes_max > connections


def test_a_file_says_each_thing_once_and_the_tenant_last() -> None:
    text = postgresql_conf(size(1), {"work_mem": "8MB", "effective_cache_size": "1GB"})
    names = re.findall(r"^(\w+) =", text, re.MULTILINE)
    assert len(names) == len(set(names))
    assert values(text)["effective_cache_size"] == "1GB"
    assert values(text)["work_mem"] == "8MB"


@pytest.mark.parametrize("volume_bytes", [256 * 1024**2, 8 * GB, 64 * GB, 4096 * GB])
@pytest.mark.parametrize("cu", [0.25, 1, 16])
def test_wal_and_temporary_files_never_fill_a_volume(cu: float, volume_bytes: int) -> None:
    found = values(postgresql_conf(size(cu, volume_bytes), {}))
    total = sum(
        int(found[name].removesuffix("MB")) * 1024**2
        for name in ("max_wal_size", "max_slot_wal_keep_size", "temp_file_limit")
    )
    assert total <= volume_bytes * 3 // 4


def test_what_safety_rests_on_is_not_in_the_file_but_on_the_command_line() -> None:
    words = command_line("/opt/postgres", 18, "strict")
    assert words[0] == "/opt/postgres"
    fixed = dict(word.split("=", 1) for word in words if "=" in word)
    assert (fixed["listen_addresses"], fixed["allow_alter_system"], fixed["fsync"]) == ("", "off", "on")
    assert fixed["log_min_error_statement"] == "panic"
    assert (fixed["shared_preload_libraries"], fixed["guard.password_policy"]) == ("guard", "strict")
    assert not set(fixed) & set(values(postgresql_conf(size(1), {})))


def test_no_server_has_workers_for_subscriptions() -> None:
    """Nor can a tenant ask for any."""
    assert values(postgresql_conf(size(1), {}))["max_logical_replication_workers"] == "0"
    assert "max_logical_replication_workers" not in PARAMETERS


def test_a_statement_looks_for_its_client() -> None:
    """What the tests of the gateway rest on is what a compute has."""
    assert values(postgresql_conf(size(1), {}))["client_connection_check_interval"] == CLIENT_CHECK


def test_older_versions_get_no_parameter_they_do_not_know() -> None:
    words = " ".join(command_line("postgres", 16, "strict")) + postgresql_conf(size(1, major=16), {})
    assert not re.search(r"allow_alter_system|io_method|io_max_concurrency", words)
    assert "io_method" not in " ".join(command_line("postgres", 17, "strict"))

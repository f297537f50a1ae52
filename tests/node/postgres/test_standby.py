"""What a standby is started with."""

from dataclasses import replace

import pytest

from cloister.base.errors import PreconditionError
from cloister.node.postgres import standby
from cloister.node.postgres.standby import Floor
from cloister.node.postgres.tuning import GB, WORKERS_BESIDE_CONNECTIONS, Size, postgresql_conf

FLOOR = Floor(100, 8, 10, 0, 64)
SMALL = Size(major=18, memory_bytes=GB // 4, cpu_cores=0.25, volume_bytes=GB, reserve_bytes=0)


def conf(size: Size, settings: dict[str, str]) -> dict[str, str]:
    lines = postgresql_conf(size, settings).splitlines()[1:]
    return {name: value.strip("'") for name, _, value in (line.partition(" = ") for line in lines)}


def test_it_is_no_smaller_than_what_wrote_its_data() -> None:
    bare = conf(SMALL, {})
    lifted = conf(replace(SMALL, floor=FLOOR), {})
    assert int(bare["max_connections"]) < 100
    assert {name: lifted[name] for name in lifted if lifted[name] != bare.get(name)} == {
        "max_connections": "100",
        "max_worker_processes": "8",
        "max_wal_senders": "10",
    }
    assert replace(SMALL, floor=FLOOR).processes_max == 100 + WORKERS_BESIDE_CONNECTIONS


def test_what_it_has_more_of_it_keeps() -> None:
    wide = conf(replace(SMALL, floor=FLOOR), {"max_locks_per_transaction": "256"})
    assert wide["max_locks_per_transaction"] == "256"
    assert (
        conf(replace(SMALL, floor=replace(FLOOR, max_locks_per_transaction=512)), {})["max_locks_per_transaction"]
        == "512"
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_connections", 2**31 - 1),
        ("max_connections", -1),
        ("max_worker_processes", 1000),
        ("max_wal_senders", 1000),
        ("max_prepared_transactions", 2**30),
        ("max_locks_per_transaction", 2**30),
    ],
)
def test_numbers_of_a_tenants_file_are_not_believed(name: str, value: int) -> None:
    FLOOR.require_sane()
    with pytest.raises(PreconditionError):
        replace(FLOOR, **{name: value}).require_sane()


def test_nothing_in_the_data_says_what_to_follow_run_or_stop_at() -> None:
    words = replace(SMALL, floor=FLOOR).command_line()
    for name in ("primary_conninfo", "restore_command", "recovery_end_command", "recovery_target_time"):
        assert f"{name}=" in words
    assert "hot_standby=on" in words
    assert not set(standby.command_line(is_fed=False)) & set(SMALL.command_line()) - {"-c"}


def test_only_one_that_is_fed_looks_for_more_all_the_time() -> None:
    assert "wal_retrieve_retry_interval=100ms" in replace(SMALL, floor=FLOOR, is_fed=True).command_line()
    assert "wal_retrieve_retry_interval=100ms" not in replace(SMALL, floor=FLOOR).command_line()

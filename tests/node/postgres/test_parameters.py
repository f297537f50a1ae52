import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.base.errors import UnprocessableError
from cloister.node.postgres.parameters import PARAMETERS, checked

GB = 1024**3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("work_mem", "8MB"),
        ("work_mem", "4096"),
        ("statement_timeout", "30s"),
        ("statement_timeout", "0"),
        ("autovacuum_vacuum_cost_delay", "-1"),
        ("random_page_cost", "1.1"),
        ("default_transaction_isolation", "repeatable read"),
        ("temp_buffers", "1024"),
        ("max_parallel_workers_per_gather", "0"),
    ],
)
def test_good_values_pass_unchanged(name: str, value: str) -> None:
    assert checked({name: value}, major=18, memory_bytes=GB) == {name: value}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("work_mem", "2GB"),  # a quarter of the compute's memory is the limit
        ("work_mem", "1kB"),
        ("work_mem", "-1"),
        ("work_mem", "8 parsecs"),
        ("work_mem", "8MB'\nhba_file = '/data/x"),
        ("statement_timeout", "1e3"),
        ("statement_timeout", "-1"),
        ("enable_seqscan", "maybe"),
        ("synchronous_commit", "remote_apply"),
        ("default_statistics_target", "0"),
        ("default_statistics_target", "٣"),  # a digit, and not one of PostgreSQL's
        ("random_page_cost", "nan"),
        ("random_page_cost", ""),
    ],
)
def test_bad_values_are_refused_with_what_is_expected(name: str, value: str) -> None:
    with pytest.raises(UnprocessableError) as caught:
        checked({name: value}, major=18, memory_bytes=GB)
    assert caught.value.public.startswith(f"parameter {name!r} takes ")
    assert "hba_file" not in caught.value.public


@pytest.mark.parametrize(
    "name",
    "shared_preload_libraries archive_command restore_command hba_file data_directory listen_addresses log_statement "
    "log_min_duration_statement log_directory jit fsync full_page_writes password_encryption session_preload_libraries "
    "local_preload_libraries dynamic_library_path ssl_passphrase_command temp_file_limit max_connections WORK_MEM".split(),
)
def test_what_is_not_listed_is_refused(name: str) -> None:
    with pytest.raises(UnprocessableError, match="pg_settings name"):
        checked({name: "1"}, major=18, memory_bytes=GB)


def test_a_parameter_of_a_later_version_does_not_stop_an_earlier_server() -> None:
    assert checked({"transaction_timeout": "1min"}, major=17, memory_bytes=GB)
    with pytest.raises(UnprocessableError, match="PostgreSQL 16"):
        checked({"transaction_timeout": "1min"}, major=16, memory_bytes=GB)


@given(st.sampled_from(sorted(PARAMETERS)), st.text(max_size=40))
@settings(max_examples=300)
def test_no_value_that_passes_can_leave_its_quotes(name: str, value: str) -> None:
    try:
        accepted = checked({name: value}, major=18, memory_bytes=GB)
    except UnprocessableError:
        return
    assert not set(accepted[name]) & set("'\\\n\r\0#")

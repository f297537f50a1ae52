"""PgBouncer's files: nothing of a tenant but the names of its roles, and no password anywhere."""

import configparser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.node.postgres.pooling import pgbouncer_ini, users_txt, version_of

DEBIAN_12 = (1, 18)


def parsed(max_connections: int = 104, version: tuple[int, int] = DEBIAN_12) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(inline_comment_prefixes=None, comment_prefixes=(";",), interpolation=None)
    parser.read_string(pgbouncer_ini(max_connections, version))
    return parser


def test_it_listens_on_one_unix_socket_and_knows_one_way_on() -> None:
    settings = parsed()["pgbouncer"]
    assert "listen_addr" not in settings, "without it, no TCP port is opened"
    assert (settings["unix_socket_dir"], settings["listen_port"]) == ("/pool", "5432")
    assert dict(parsed()["databases"]) == {"*": "host=/run/postgresql port=5432"}


def test_nobody_administers_it_and_nobody_is_asked_for_a_password() -> None:
    settings = parsed()["pgbouncer"]
    assert settings["auth_type"] == "trust"
    assert settings["admin_users"] == settings["stats_users"] == ""
    assert not {"auth_user", "auth_query", "auth_hba_file", "user", "pidfile", "logfile"} & set(settings)


def test_neons_numbers() -> None:
    settings = parsed(max_connections=419)["pgbouncer"]
    assert settings["pool_mode"] == "transaction"
    assert settings["max_client_conn"] == "10000"
    assert settings["default_pool_size"] == "377"
    assert settings["query_wait_timeout"] == "120"


def test_a_setting_that_a_version_does_not_know_is_not_there() -> None:
    """PgBouncer does not start with one."""
    assert "max_prepared_statements" not in parsed()["pgbouncer"]
    assert parsed(version=(1, 21))["pgbouncer"]["max_prepared_statements"] == "1000"


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("PgBouncer 1.18.0\nlibevent 2.1.12-stable\n", (1, 18)),
        ("PgBouncer 1.24.1", (1, 24)),
        ("pgbouncer: command not found", None),
        ("", None),
    ],
)
def test_the_version_it_tells(said: str, version: tuple[int, int] | None) -> None:
    assert version_of(said) == version


def names_in(text: str) -> list[str]:
    """Read as PgBouncer reads it: a quote ends a word unless another follows."""
    names: list[str] = []
    at = 0
    while at < len(text):
        assert text[at] == '"'
        name, at = "", at + 1
        while text[at] != '"' or text[at + 1] == '"':
            step = 2 if text[at] == '"' else 1
            name, at = name + text[at], at + step
        assert text[at:].startswith('" ""\n'), "the password of everybody is empty"
        names, at = [*names, name], at + len('" ""\n')
    return names


@given(st.lists(st.text(min_size=1, max_size=63).filter(lambda name: "\0" not in name)))
def test_no_name_of_a_role_can_be_taken_for_more(names: list[str]) -> None:
    assert names_in(users_txt(names)) == names

"""The one list of extensions, and where else names must be the same."""

import re
from pathlib import Path

import pytest

from cloister.control.roles.model import RESERVED_DATABASES, RESERVED_ROLES
from cloister.node.postgres.extensions import OFFERED, TRUSTED_HERE, trusted_controls
from cloister.node.postgres.tuning import command_line

HOME = Path(__file__).parents[3]
NOT_FOR_TENANTS = {"file_fdw", "pageinspect", "pg_surgery", "pg_walinspect", "plperl"}


def test_the_guard_is_told_the_whole_list_and_control_files_are_changed_for_no_other(tmp_path: Path) -> None:
    for name in OFFERED | NOT_FOR_TENANTS:
        (tmp_path / f"{name}.control").write_text("comment = 'x'\ntrusted = false\n")
    changed = trusted_controls(tmp_path)
    assert {name.removesuffix(".control") for name in changed} == TRUSTED_HERE
    assert all(text.endswith("trusted = true\n") and "false" not in text for text in changed.values())
    assert f"guard.extensions={','.join(sorted(OFFERED))}" in command_line("postgres", 18, "strict")
    assert not OFFERED & NOT_FOR_TENANTS


def test_what_is_documented_is_the_list() -> None:
    text = (HOME / "docs" / "sql.md").read_text()
    section = text.split("## Extensions\n")[1].split(":")[0]
    assert set(re.findall(r"[a-z_-]+", section)) == OFFERED


@pytest.mark.parametrize(
    ("array", "names"),
    [("platform_roles", RESERVED_ROLES - {"public", "none"}), ("platform_databases", RESERVED_DATABASES)],
)
def test_the_guard_reserves_the_names_that_the_api_does(array: str, names: frozenset[str]) -> None:
    """PostgreSQL itself reserves public, none and what starts with pg_."""
    source = (HOME / "guard" / "src" / "policy.c").read_text()
    match = re.search(array + r"\[\] = \{([^}]*)\}", source)
    assert match is not None
    assert set(re.findall(r'"(\w+)"', match[1])) == names

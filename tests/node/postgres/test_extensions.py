"""Control files that a compute sees: trusted where we say so, unchanged where we do not."""

from pathlib import Path

from cloister.node.postgres.extensions import TRUSTED_HERE, trusted_controls


def test_a_listed_extension_is_trusted(tmp_path: Path) -> None:
    (tmp_path / "vector.control").write_text("comment = 'vectors'\ndefault_version = '0.8'\n")
    assert trusted_controls(tmp_path) == {
        "vector.control": "comment = 'vectors'\ndefault_version = '0.8'\ntrusted = true\n"
    }


def test_what_the_file_says_of_trust_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "vector.control").write_text("trusted = false\ncomment = 'vectors'\n")
    text = trusted_controls(tmp_path)["vector.control"]
    assert "false" not in text
    assert text.endswith("trusted = true\n")


def test_what_reaches_out_of_the_server_or_past_rights_is_not_trusted(tmp_path: Path) -> None:
    for name in ("dblink", "postgres_fdw", "file_fdw", "pageinspect", "pg_surgery", "plpython3u", "adminpack"):
        assert name not in TRUSTED_HERE
        (tmp_path / f"{name}.control").write_text("comment = 'no'\n")
    assert trusted_controls(tmp_path) == {}

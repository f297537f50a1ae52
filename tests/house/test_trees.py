"""What looks through the directories of a running platform finds every file that stays, whatever goes meanwhile."""

from pathlib import Path

from tests import trees


def test_a_file_that_goes_hides_none_of_those_after_it(tmp_path: Path) -> None:
    """Many go between the listing of their directory and the reading of each; the warning of a listing left open is an error."""
    for number in range(40):
        (tmp_path / f"goes-{number}").write_bytes(b"")
        (tmp_path / f"stays-{number}").write_bytes(b"")
    found = []
    for path, _ in trees.contents(tmp_path):
        found.append(path.name)
        for number in range(40):
            (tmp_path / f"goes-{number}").unlink(missing_ok=True)
    assert {f"stays-{number}" for number in range(40)} <= set(found)

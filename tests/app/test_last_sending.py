"""What whoever stops the platform is told of what a backup has not yet."""

from pathlib import Path

from cloister.app import last_sending
from cloister.control.backups.owed import LEFT_MAX, Left, Owed

CALM, MILD = "calm-forest-12345678", "mild-river-12345678"


def test_what_was_written_is_read_and_forgotten(tmp_path: Path) -> None:
    file = tmp_path / "last-sending.json"
    assert last_sending.read(file) is None
    owed = Owed(total=5, sent=4, left=[Left(project_id=CALM)])
    last_sending.write(file, owed)
    assert last_sending.read(file) == owed
    assert last_sending.progress(owed) == "Sending what was written since the last backup: 4 of 5"
    last_sending.forget(file)
    last_sending.forget(file)
    assert last_sending.read(file) is None


def test_that_it_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    last_sending.write(tmp_path / "not there" / "last-sending.json", Owed(total=0, sent=0, left=[]))


def test_what_is_told_afterwards() -> None:
    assert last_sending.outcome(Owed(total=0, sent=0, left=[], is_over=True)) == []
    assert last_sending.outcome(Owed(total=5, sent=5, left=[], is_over=True)) == [
        "What was written since the last backup is in the store, of 5 branches."
    ]
    left = [Left(project_id=CALM, problem="no answer"), Left(project_id=CALM, problem="no"), Left(project_id=MILD)]
    assert last_sending.outcome(Owed(total=5, sent=2, left=left)) == [
        "warning: of 3 branches what was written last is not in the store, and on this server alone:",
        f"  {CALM}: no answer",
        f"  {MILD}: it was cut off",
        "The next `cloister up` sends it.",
    ]
    many = Owed(total=LEFT_MAX + 7, sent=0, left=[Left(project_id=CALM, problem="no answer")] * LEFT_MAX)
    assert "  and 7 more" in last_sending.outcome(many)


def test_that_nothing_was_heard_is_no_good_news() -> None:
    assert last_sending.outcome(None) == [last_sending.UNKNOWN]

"""Whoever took over the api, and waits for root to read what it says while the platform stops (`app/last_sending.py`)."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from cloister.app import last_sending
from cloister.control.backups.owed import LEFT_MAX, PROBLEM_CHARS_MAX, Left, Owed

CALM = "calm-forest-12345678"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "last-sending.json"


def test_no_link_is_followed_and_nothing_is_waited_for(file: Path, tmp_path: Path) -> None:
    (tmp_path / "another").write_text('{"total":0,"sent":0,"left":[]}')
    file.symlink_to(tmp_path / "another")
    assert last_sending.read(file) is None
    file.unlink()
    os.mkfifo(file)
    assert last_sending.read(file) is None
    file.unlink()
    file.mkdir()
    assert last_sending.read(file) is None
    last_sending.forget(file)
    assert file.is_dir(), "and what cannot be removed holds up no stop"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no",
        b"\xff\xfe",
        b"[" * 60_000,
        b'{"total":1,"sent":0,"left":[],"more":' + b"[" * 60_000,
        b'{"total":1,"sent":1,"left":[],"is_over":true,"more":1}',
        b'{"total":"1","sent":1,"left":[]}',
        b'{"total":1,"sent":1,"left":[]}' + b" " * last_sending.BYTES_MAX,
    ],
)
def test_what_is_no_report_is_none(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    assert last_sending.read(file) is None


@pytest.mark.parametrize(
    "numbers",
    [
        {"total": 1, "sent": 2, "left": []},
        {"total": -1, "sent": -1, "left": []},
        {"total": 3, "sent": 2, "left": []},
        {"total": 1, "sent": 1, "left": [{"project_id": CALM}]},
        {"total": 1_000, "sent": 0, "left": [{"project_id": CALM}] * (LEFT_MAX + 1)},
    ],
)
def test_numbers_that_do_not_go_together_tell_nothing(file: Path, numbers: dict[str, Any]) -> None:
    """Nor that all is well, where something is named that is not."""
    file.write_text(json.dumps(numbers))
    assert last_sending.read(file) is None


def test_no_control_character_reaches_the_terminal() -> None:
    left = [
        Left(project_id="\x1b]0;mine\x07", problem="\x1b[2Jall is well\r\n" + "x" * 10_000),
        Left(project_id=CALM, problem="no\x9b31m"),
    ]
    lines = last_sending.outcome(Owed(total=2, sent=0, left=left, is_over=True))
    assert all(line.isprintable() for line in lines)
    assert all(len(line) < PROBLEM_CHARS_MAX + 50 for line in lines)
    assert lines[1].startswith("  ?: ?[2Jall is well??")

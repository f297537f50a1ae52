"""What the example is told by its environment: what is missing is named, before anything starts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "database_per_user_rag"
CHECK = "import os; from rag.settings import Settings; print(Settings.of(os.environ).api)"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "set CLOISTER_API_HOST and CLOISTER_API_KEY"),
        ({"CLOISTER_API_HOST": "https://db.test", "CLOISTER_API_KEY": ""}, "set CLOISTER_API_KEY:"),
        ({"CLOISTER_API_HOST": "http://db.test", "CLOISTER_API_KEY": "napi_x"}, "must begin with https://"),
    ],
)
def test_what_is_missing_is_named_in_one_line(given: dict[str, str], said: str) -> None:
    answer = _settings(given)
    assert answer.returncode == 1
    assert said in answer.stderr
    assert answer.stderr.count("\n") == 1


def test_the_path_of_the_api_may_be_left_out() -> None:
    given = {"CLOISTER_API_HOST": "https://db.test/", "CLOISTER_API_KEY": "napi_x"}
    assert _settings(given).stdout == "https://db.test/api/v2\n"


def _settings(given: dict[str, str]) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CLOISTER_")}
    return subprocess.run(
        [sys.executable, "-c", CHECK], cwd=EXAMPLE, env=kept | given, capture_output=True, text=True, check=False
    )

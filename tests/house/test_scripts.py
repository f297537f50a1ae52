"""The shell scripts."""

import re

from tests.house.source import ROOT

SHARED = ROOT / "scripts" / "environment.sh"


def test_no_script_takes_a_name_of_what_it_sources() -> None:
    """A function that is defined again is the other one for whoever called it, in a script that nobody looked at."""
    scripts = [path for path in (ROOT / "scripts").iterdir() if path.is_file() and path != SHARED]
    taken = {path.name: _functions(path.read_text()) & _functions(SHARED.read_text()) for path in scripts}
    assert len(scripts) > 3
    assert {name: names for name, names in taken.items() if names} == {}


def _functions(text: str) -> set[str]:
    return set(re.findall(r"^(\w+)\(\) *\{", text, re.MULTILINE))

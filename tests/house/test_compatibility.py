"""docs/compatibility.md says what is tested, and what is tested is there."""

import json
import re

from tests.house.source import ROOT

PAGE = (ROOT / "docs/compatibility.md").read_text()


def test_the_commands_that_are_said_to_work_are_those_that_are_tested() -> None:
    _, _, section = PAGE.partition("These commands are run")
    section, _, _ = section.partition("What to know:")
    said = set(re.findall("`([a-z -]+)`", section))
    source = (ROOT / "tests/journeys/test_neon_cli.py").read_text()
    tested = set(re.findall(r"\b(?:neon|nowhere|inside)(?:\.refused|\.run)?\(\"([a-z -]+)\"", source))
    for names in re.findall(r"for command in \(([^)]*)\)", source):
        tested |= set(re.findall('"([a-z -]+)"', names))
    assert said == tested
    assert len(tested) >= 45


def test_every_client_that_is_installed_is_spoken_of() -> None:
    clients = set(json.loads((ROOT / "tests/clients/package.json").read_text())["dependencies"])
    helpers = {"ws", "playwright-core", "oidc-provider"}  # what Node 20 lacks, what drives a browser, an issuer
    assert {name for name in clients - helpers if name.removesuffix("-orm") not in PAGE} == set()

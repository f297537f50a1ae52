"""docs/configuration.md holds what it says: its example is one, and it names every setting and every rule."""

import re
from typing import Final

import pytest

from cloister.cli.config.nouns import KINDS
from cloister.cli.config.parsing import parse
from cloister.cli.config.planning import CREATE
from cloister.cli.config.rules import BUILT_IN, parse_rules
from tests.cli.config import scene
from tests.cli.config.cloud import Cloud
from tests.house.source import ROOT

PAGE: Final = (ROOT / "docs" / "configuration.md").read_text()
BLOCKS: Final = re.findall(r"```toml\n(.*?)```", PAGE, flags=re.DOTALL)


def test_the_example_is_applied_and_then_there_is_nothing_to_do() -> None:
    example, _ = BLOCKS
    configuration = parse([("example.toml", example.encode())])
    assert configuration.organization_id == "org-orange-scene-43490576"
    cloud = Cloud()
    plan = scene.planned(cloud, configuration.wanted)
    assert sum(item.action == CREATE for item in plan.items) > 5
    scene.applied(cloud, plan)
    assert scene.planned(cloud, configuration.wanted).items == ()


def test_the_example_says_something_of_every_kind() -> None:
    said = set(
        re.findall(
            r"\b(?:group|member|service_account|project|egress|permission|branch|compute|reader|role|database)\b",
            BLOCKS[0],
        )
    )
    assert said == KINDS.keys() - {"organization"}


@pytest.mark.parametrize("path", sorted({path for kind in KINDS.values() for path in kind.by_path}))
def test_a_setting_is_documented(path: str) -> None:
    assert f"`{path}`" in PAGE


def test_the_table_of_rules_is_the_table_of_rules() -> None:
    table = PAGE.partition("| Rule | Refuses |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `([a-z-]+)` \|", table, flags=re.MULTILINE) == [rule.id for rule in BUILT_IN]


def test_the_rules_of_ones_own_are_rules() -> None:
    assert [rule.id for rule in parse_rules("rules.toml", BLOCKS[1].encode())] == ["big-compute", "prod-by-hand"]

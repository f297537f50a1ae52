"""A firm that does nothing wrong raises nothing; one thing that is wrong among all that raises its finding and no other."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network

import msgspec
import pytest

from cloister.trust.audit import Action, Event
from cloister.trust.sentinel import rules, scenarios
from cloister.trust.sentinel.detector import Detector
from cloister.trust.sentinel.scenarios import Scenario
from tests.trust.sentinel import office

FIRST = datetime(2026, 3, 2, tzinfo=UTC)
LEARNED = 9
"""Days, after which baselines know what is usual."""
NOON = FIRST + (LEARNED + 0.5) * office.DAY
RULES = rules.shipped()
SCENARIOS = scenarios.scenarios(NOON)

NIGHT = NOON - timedelta(hours=9)


def raised(events: Sequence[Event], lists: dict[str, list[str]] | None = None) -> list[str]:
    detector = Detector(RULES, {name: set(map(ip_network, them)) for name, them in (lists or {}).items()})
    return [f"{a.rule}: {a.summary}" for seq, event in enumerate(events) for a in detector.feed(seq, event)]


def with_this(malign: Sequence[Event], seed: int = 1) -> list[Event]:
    return sorted([*office.days(FIRST, LEARNED + 1, seed), *malign], key=lambda event: event.at)


@pytest.mark.parametrize("count", [LEARNED + 1, pytest.param(60, marks=pytest.mark.soak)])
def test_a_firm_that_does_nothing_wrong_raises_nothing(count: int) -> None:
    assert raised(office.days(FIRST, count, seed=count)) == []


MALIGN: dict[str, Callable[[], list[Event]]] = {
    "new-network": lambda: [office.opened(NIGHT, "web", "203.0.113.9", "web-0a1b2c3d-00000 v1.0.0")],
    "new-program": lambda: [office.opened(NIGHT, "web", "198.18.40.10", "sqlmap")],
    "unusual-read": lambda: [
        msgspec.structs.replace(
            office.closed(NOON, "ada", "198.18.10.20", 0), details={"bytes_out": 900_000_000, "rows_out": 40}
        )
    ],
    "unusual-rows": lambda: [
        msgspec.structs.replace(
            office.reading(NOON, "web", "198.18.40.10", 0), details={"bytes_out": 40_000_000, "rows_out": 2_000_000}
        )
    ],
    "api-new-network": lambda: [office.called(NIGHT, "key:ci", "203.0.113.9", Action.BRANCH_LIST)],
    "failed-logins": lambda: [office.denied(NOON + timedelta(seconds=n), "ben", "198.18.10.77") for n in range(10)],
    "deletion-spree": lambda: [
        office.called(NOON + timedelta(seconds=n), "key:ci", "198.18.30.7", Action.BRANCH_DELETE) for n in range(25)
    ],
}
"""Done by a stranger with what is the firm's own: its roles, its keys."""


def test_each_of_them_is_found_among_all_that_and_nothing_else_is() -> None:
    found = raised(with_this([event for make in MALIGN.values() for event in make()]))
    assert {each.partition(":")[0] for each in found} == set(MALIGN)


@pytest.mark.soak
@pytest.mark.parametrize("rule", MALIGN)
def test_one_of_them_raises_its_finding_and_no_other(rule: str) -> None:
    assert {each.partition(":")[0] for each in raised(with_this(MALIGN[rule]()))} == {rule}


@pytest.mark.soak
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda it: it.rule)
def test_every_story_is_found_in_the_middle_of_it(scenario: Scenario) -> None:
    """And it alone, but for what the story also is."""
    also = {"failed-logins"} if scenario.rule == "brute-force-succeeded" else set()
    found = {each.partition(":")[0] for each in raised(with_this(scenario.story), dict(scenario.lists))}
    assert scenario.rule in found
    assert found <= {scenario.rule, *also}

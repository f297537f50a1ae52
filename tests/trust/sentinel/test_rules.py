"""Every rule has a story that raises it and a tamer one that raises nothing; and what a rule may not say is refused."""

from collections.abc import Mapping
from datetime import UTC, datetime
from ipaddress import ip_network

import pytest

from cloister.trust.audit import Event
from cloister.trust.audit.events import parse, written
from cloister.trust.sentinel import rules, scenarios
from cloister.trust.sentinel.conditions import RuleError, compiled
from cloister.trust.sentinel.detector import Detector
from cloister.trust.sentinel.scenarios import Scenario
from tests.house import findings

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
RULES = rules.shipped()
STORIES = scenarios.scenarios(NOW)
LISTED = [it for it in STORIES if it.lists]


def raised(story: tuple[Event, ...], lists: Mapping[str, list[str]]) -> set[str]:
    """Through the text of the log, as in life."""
    detector = Detector(RULES, {name: set(map(ip_network, networks)) for name, networks in lists.items()})
    events = [parse(*written(event)) for event in story]
    return {alarm.rule for seq, event in enumerate(events, 1) for alarm in detector.feed(seq, event)}


@pytest.mark.parametrize("scenario", STORIES, ids=lambda it: it.rule)
def test_a_story_raises_its_finding(scenario: Scenario) -> None:
    """And at most what such a story also is: failed logins precede the one that succeeds."""
    found = raised(scenario.story, scenario.lists)
    assert scenario.rule in found
    assert found <= {scenario.rule, *ALSO.get(scenario.rule, ())}


ALSO = {"brute-force-succeeded": {"failed-logins"}, "distributed-guessing": set[str]()}


@pytest.mark.parametrize("scenario", STORIES, ids=lambda it: it.rule)
def test_the_tamer_story_raises_nothing(scenario: Scenario) -> None:
    """One event fewer, or one that is usual, and nobody is woken at night."""
    assert raised(scenario.tame, scenario.lists) == set()


@pytest.mark.parametrize("scenario", LISTED, ids=lambda it: it.rule)
def test_what_a_list_finds_is_not_found_without_it(scenario: Scenario) -> None:
    assert raised(scenario.story, {}) == set()


def test_every_rule_that_raises_an_alarm_has_a_story() -> None:
    """Nobody can add a finding that no self-test raises."""
    assert {rule.name for rule in RULES if rule.level} == {it.rule for it in STORIES}


def test_the_page_explains_every_finding() -> None:
    """`python -m tests.house.findings` writes it."""
    assert findings.PAGE.read_text() == findings.written()


def test_the_nine_findings_of_guardduty_are_there() -> None:
    """By the names that AWS gives them."""
    tags = {tag.partition(":")[2] for rule in RULES for tag in rule.tags if tag.startswith("guardduty.")} | {
        tag.removeprefix("guardduty.") for rule in RULES for tag in rule.tags if tag.startswith("guardduty.")
    }
    wanted = {
        f"CredentialAccess:RDS/{what}"
        for what in (
            "AnomalousBehavior.SuccessfulLogin", "AnomalousBehavior.FailedLogin", "AnomalousBehavior.SuccessfulBruteForce",
            "MaliciousIPCaller.SuccessfulLogin", "MaliciousIPCaller.FailedLogin",
            "TorIPCaller.SuccessfulLogin", "TorIPCaller.FailedLogin",
        )
    } | {"Discovery:RDS/MaliciousIPCaller", "Discovery:RDS/TorIPCaller"}  # fmt: skip
    assert wanted <= tags


def test_a_probe_fits_into_one_event_of_the_log() -> None:
    """What is written is what was meant: nothing is cut by the log's limits."""
    for probe in scenarios.probes(NOW, actor="user:x", run="r"):
        assert parse(*written(probe)).details == probe.details


GOOD = "name: x\ntitle: X\nlevel: low\nsummary: s\nresponse: r\n"


@pytest.mark.parametrize(
    "text",
    [
        "title: nameless",
        "name: x\ntitle: X",
        GOOD + "detection: {selection: {a: b}}",
        GOOD + "detection: {selection: {a: b}, condition: other}",
        GOOD + "detection: {selection: {a: b}, condition: selection selection}",
        GOOD + "detection: {selection: {a: b}, condition: selection and}",
        GOOD + "detection: {selection: {a: b}, condition: (selection}",
        GOOD + "detection: {selection: {a: b}, condition: 1 of none*}",
        GOOD + "detection: {selection: {a|re: b}, condition: selection}",
        GOOD + "detection: {selection: {a|gte: b}, condition: selection}",
        GOOD + "detection: {selection: {a|cidr: b}, condition: selection}",
        GOOD + "detection: {selection: {a: b}, condition: selection}\nunknown: 1",
        GOOD + "correlation: {type: event_count, rules: [y], group-by: [a], timespan: 5m, condition: {gte: 2}}",
        GOOD + "correlation: {type: event_count, rules: [x], group-by: [a], timespan: 5m, condition: {gte: 2}}",
        GOOD + "correlation: {type: event_count, rules: [x], group-by: [a], timespan: 5, condition: {gte: 2}}",
        GOOD + "correlation: {type: event_count, rules: [x], group-by: [a], timespan: 5m, condition: {lt: 2}}",
        GOOD + "correlation: {type: median, rules: [x], group-by: [a], timespan: 5m}",
        GOOD + "baseline: {type: never_seen, rules: [x], group-by: [a], field: b}",
        GOOD + "baseline: {type: dormant, rules: [], judges: [], group-by: [a], days: 3}",
        GOOD
        + "baseline: {type: deviation, rules: [], judges: [y], group-by: [a], field: b, learn_days: 1, learn_events: 1, "
        "factor: 2, floor: 1}",
        "name: x\ntitle: X\nlevel: low\ndetection: {selection: {a: b}, condition: selection}",
        "name: x\ntitle: X\nlevel: loud\nsummary: s\nresponse: r\ndetection: {selection: {a: b}, condition: selection}",
        "name: [",
    ],
)
def test_a_rule_that_is_not_understood_is_refused(text: str) -> None:
    """It is not a rule that never fires."""
    with pytest.raises(RuleError):
        rules.parse([text])


@pytest.mark.parametrize(
    ("detection", "event", "matches"),
    [
        ({"s": {"a": "x"}, "condition": "s"}, {"a": "X"}, True),
        ({"s": {"a": "x"}, "condition": "s"}, {}, False),
        ({"s": {"a": ["x", "y"]}, "condition": "s"}, {"a": "y"}, True),
        ({"s": {"a": "x*z"}, "condition": "s"}, {"a": "x y z"}, True),
        ({"s": {"a": "x.z"}, "condition": "s"}, {"a": "xyz"}, False),
        ({"s": {"a": 1}, "condition": "s"}, {"a": True}, False),
        ({"s": {"a": "x", "b": "y"}, "condition": "s"}, {"a": "x"}, False),
        ({"s": [{"a": "x"}, {"b": "y"}], "condition": "s"}, {"b": "y"}, True),
        ({"s": {"a|contains": "b"}, "condition": "s"}, {"a": "aBc"}, True),
        ({"s": {"a|contains|all": ["a", "c"]}, "condition": "s"}, {"a": "ab"}, False),
        ({"s": {"a|cidr": "10.0.0.0/8"}, "condition": "s"}, {"a": "10.1.2.3"}, True),
        ({"s": {"a|cidr": "10.0.0.0/8"}, "condition": "s"}, {"a": "nonsense"}, False),
        ({"s": {"a|gte": 5}, "condition": "s"}, {"a": 5}, True),
        ({"s": {"a|gte": 5}, "condition": "s"}, {"a": "9"}, False),
        ({"s": {"a|exists": False}, "condition": "s"}, {"b": 1}, True),
        ({"s": {"a": "x"}, "condition": "s"}, {"a": ["q", "x"]}, True),
        ({"s": {"a": "x"}, "t": {"b": "y"}, "condition": "s and not t"}, {"a": "x"}, True),
        ({"s": {"a": "x"}, "t": {"b": "y"}, "condition": "not s or t"}, {"a": "x"}, False),
        ({"s": {"a": "x"}, "t": {"b": "y"}, "condition": "not (s or t)"}, {"a": "z"}, True),
        ({"s1": {"a": "x"}, "s2": {"b": "y"}, "condition": "1 of s*"}, {"b": "y"}, True),
        ({"s1": {"a": "x"}, "s2": {"b": "y"}, "condition": "all of them"}, {"b": "y"}, False),
    ],
)
def test_a_detection_means_what_sigma_means(
    detection: dict[str, object], event: dict[str, object], matches: bool
) -> None:
    """Maps are all, lists are any, texts do not care for case, and numbers are not texts."""
    assert compiled(detection)(event) is matches

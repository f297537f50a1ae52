"""Memory: it is bounded, it survives a restart, and what strangers write steers nothing."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_network

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.trust.audit import Action, Event
from cloister.trust.audit.events import timestamp
from cloister.trust.sentinel import memory, rules, scenarios
from cloister.trust.sentinel.baselines import DAY_S, RESTLESS_DAYS, VALUES_MAX, Deviation, Hours, Learning, NeverSeen
from cloister.trust.sentinel.detector import Detector
from cloister.trust.sentinel.events import view
from cloister.trust.sentinel.memory import Groups

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
RULES = rules.shipped()
STORIES = scenarios.scenarios(NOW)


def denied(number: int, *, role: str = "app", address: str = "192.0.2.1", at: float = 0.0) -> Event:
    return Event(
        action="connection.denied", reason="bad_password", actor=f"role:{role}", endpoint_id=f"ep-{number}",
        address=address, at=timestamp(NOW + timedelta(seconds=at)),
    )  # fmt: skip


@pytest.mark.parametrize("cut", [0.3, 0.9])
def test_a_detector_that_was_restarted_finds_what_it_would_have_found(cut: float) -> None:
    """The first part of a story before the crash, the rest after it."""
    for story in STORIES:
        events, middle = story.story, int(len(story.story) * cut)
        lists = {name: set(map(ip_network, networks)) for name, networks in story.lists.items()}
        before, after = Detector(RULES, lists), Detector(RULES, lists)
        for seq, event in enumerate(events[:middle]):
            before.feed(seq, event)
        after.load(before.dump())
        found = {alarm.rule for seq, event in enumerate(events[middle:], middle) for alarm in after.feed(seq, event)}
        assert story.rule in found, story.rule


def test_what_happened_later_may_be_in_the_log_first() -> None:
    """The right password at one gateway is recorded before the last wrong one at another: it is the same story."""
    story = next(it.story for it in STORIES if it.rule == "brute-force-succeeded")
    detector = Detector(RULES)
    swapped = [*story[:-2], story[-1], story[-2]]
    assert "brute-force-succeeded" in {a.rule for seq, event in enumerate(swapped) for a in detector.feed(seq, event)}


def test_a_memory_of_another_shape_is_not_taken_over() -> None:
    """A rule that was changed begins anew, and does not misread what the old one remembered."""
    detector = Detector(RULES)
    dumped = detector.dump()
    dumped["memories"]["failed-logins"][0] = "another"
    dumped["memories"]["gone"] = ["x", []]
    Detector(RULES).load(dumped)


def test_what_is_remembered_is_bounded_and_forgetting_is_told() -> None:
    """An attacker with ever new endpoints fills no memory; that something was pushed out is counted."""
    groups: Groups[FakeEntry] = Groups(FakeEntry, lambda _: FakeEntry(), groups_max=10)
    for number in range(100):
        groups.touched((str(number),), 0.0)
    assert len(groups) == 10
    assert groups.lost == 90
    assert list(groups)[-1] == ("99",)


class FakeEntry:
    def matters(self, now: float) -> bool:
        return True

    def dump(self) -> None:
        return None


def test_a_detector_that_is_flooded_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """`lost` is what the watch raises `sentinel-overloaded` by."""
    monkeypatch.setattr(memory, "GROUPS_MAX", 50)
    monkeypatch.setattr(Groups.__init__, "__kwdefaults__", {"groups_max": 50})
    detector = Detector(RULES)
    for number in range(200):
        detector.feed(number, denied(number, address=f"10.{number // 250}.{number % 250}.1"))
    assert detector.lost > 100


def test_a_strangers_text_is_quoted_and_never_a_template() -> None:
    """A role named after a field of ours, or full of braces, is only a name."""
    detector = Detector(RULES)
    name = "{address}{why}{0.__class__}"
    alarms = [alarm for n in range(10) for alarm in detector.feed(n, denied(1, role=name))]
    assert alarms[0].rule == "failed-logins"
    assert name in alarms[0].summary
    assert alarms[0].summary.count("192.0.2.1") == 1


@pytest.mark.parametrize("rule", [it for it in RULES if "{" in it.response.replace("{id}", "")], ids=lambda it: it.name)
def test_a_response_names_what_it_is_about(rule: rules.Rule) -> None:
    story = next(it.story for it in STORIES if it.rule == rule.name)
    detector = Detector(RULES)
    alarm = next(it for n, event in enumerate(story) for it in detector.feed(n, event) if it.rule == rule.name)
    assert "{" not in alarm.response
    assert "?" not in alarm.response


@pytest.mark.parametrize("name", ["$(reboot)", "a;reboot", "a b", "--all", "`x`", "a\nb", "{address}", "x" * 65, ""])
def test_nothing_of_a_stranger_is_in_what_root_shall_type(name: str) -> None:
    """Where an event names a thing in a way that ours never do, the response shows that it is not known."""
    story = next(it.story for it in STORIES if it.rule == "legal-hold-lifted")
    detector = Detector(RULES)
    told = [msgspec.structs.replace(event, project_id=name) for event in story]
    (alarm,) = [it for n, event in enumerate(told) for it in detector.feed(n, event) if it.rule == "legal-hold-lifted"]
    assert "--project ? shows" in alarm.response


def test_what_is_the_platforms_is_told_without_a_project() -> None:
    event = Event(
        action="backup.fail", outcome="failed", actor="platform:api", resource="the control database", reason="no answer",
        details={"what": "dump"}, at=timestamp(NOW),
    )  # fmt: skip
    (alarm,) = Detector(RULES).feed(1, event)
    assert alarm.summary == "The dump of the control database: no answer"


def test_the_finding_of_a_response_is_filled_in_later() -> None:
    told = {it.name: it.response for it in RULES if "{id}" in it.response}
    detector = Detector(RULES)
    stories = [it for it in STORIES if it.rule in told]
    assert stories
    for alarm in (it for each in stories[:3] for n, event in enumerate(each.story) for it in detector.feed(n, event)):
        if alarm.rule in told:
            assert "{id}" in alarm.response


HUGE = st.sampled_from([10**400, -(10**400), 10**5000])


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.builds(
            Event,
            action=st.sampled_from(["connection.denied", "connection.opened", "connection.closed", "api.refused", "x"]),
            actor=st.text(max_size=8),
            at=st.sampled_from(["", "nonsense", "2026-05-01T12:00:00.000000Z", "9999-12-31T23:59:59.999999Z"]),
            reason=st.sampled_from(["", "bad_password"]),
            project_id=st.text(max_size=3),
            endpoint_id=st.text(max_size=3),
            address=st.one_of(st.text(max_size=5), st.ip_addresses().map(str)),
            details=st.dictionaries(
                st.sampled_from(["bytes_out", "count", "application_name", "role", "{"]),
                st.one_of(st.integers(), HUGE, st.text(max_size=3), st.none(), st.lists(st.integers(), max_size=2)),
                max_size=3,
            ),
        ),
        max_size=20,
    )
)
def test_no_event_breaks_the_detector(events: list[Event]) -> None:
    """Whatever is in the log, the next event is looked at; what is remembered can be written down and read, and what is
    said can be written into a table."""
    detector = Detector(RULES, {"tor": set()})
    alarms = [alarm for seq, event in enumerate(events) for alarm in detector.feed(seq, event)]
    again = Detector(RULES)
    again.load(msgspec.msgpack.decode(msgspec.msgpack.encode(detector.dump())))
    for text in (text for it in alarms for text in (it.summary, it.fingerprint, it.at, *it.subject.values())):
        assert "\0" not in text
        assert text.encode()
    assert again.dump() == detector.dump()


def test_a_rule_that_breaks_silences_no_other() -> None:
    """At an event with a number that breaks one rule the others fire as ever, and it is said which one broke."""
    story = next(it.story for it in STORIES if it.rule == "unusual-read")
    broken = [*story[:-1], msgspec.structs.replace(story[-1], details={"bytes_out": 10**400})]
    watchful = rules.parse(
        [GREEDY, *(file.read_text() for file in rules.SHIPPED.iterdir() if file.name.endswith(".yml"))]
    )
    detector = Detector(watchful)
    alarms = [alarm.rule for seq, event in enumerate(broken) for alarm in detector.feed(seq, event)]
    assert alarms.count("greedy") == len(broken)
    assert list(detector.broken) == ["unusual-read"]
    detector.feed(len(broken), story[-1])
    assert detector.broken == {}


GREEDY = """
title: Every session
name: greedy
level: low
summary: s
response: r
detection: {selection: {action: connection.closed}, condition: selection}
"""


def test_a_baseline_says_nothing_before_it_knows_what_is_usual() -> None:
    """Neither in its first week, nor after too few events."""
    learning = Learning(days=7, events=10)
    seen = NeverSeen(learning)
    assert [seen.see(("r",), n * 60.0, f"net{n}") for n in range(40)] == [None] * 40
    few = NeverSeen(learning)
    assert [few.see(("r",), n * 8 * DAY_S, f"net{n}") for n in range(10)] == [None] * 10


def test_an_explanation_says_what_is_usual() -> None:
    """In words: the value, how many events before it, and the values they had."""
    seen = NeverSeen(Learning(days=7, events=10))
    for n in range(20):
        seen.see(("r",), n * DAY_S, "192.0.2.0/24")
    assert seen.see(("r",), 20 * DAY_S, "203.0.113.0/24") == (
        "203.0.113.0/24 was never seen; usual in 20 events before: 192.0.2.0/24"
    )


def test_one_theft_does_not_make_the_next_usual() -> None:
    """An extreme value moves the average no further than to the edge."""
    usual = Deviation(Learning(days=1, events=10), factor=8, floor=100)
    for n in range(40):
        assert usual.see(("r",), n * DAY_S, 1000 + n % 3) is None
    assert usual.see(("r",), 41 * DAY_S, 10_000_000) is not None
    assert usual.see(("r",), 42 * DAY_S, 10_000_000) is not None
    assert usual.see(("r",), 43 * DAY_S, 1002) is None


def test_who_comes_from_ever_new_places_is_not_remarked_for_it() -> None:
    """A cloud's functions have no usual network. Who settled down has one again."""
    seen = NeverSeen(Learning(days=7, events=10))
    for n in range(VALUES_MAX):
        seen.see(("r",), n * DAY_S / 4, f"net{n}")
    assert seen.see(("r",), 17 * DAY_S, "another") is None
    assert seen.see(("r",), (17 + RESTLESS_DAYS) * DAY_S, "and another") is not None


@pytest.mark.parametrize(
    ("name", "program"),
    [
        ("web-7d9f8b6c5d-x2v4q v1.8.0", "web"),
        ("DBeaver 24.1.2 - Main", "DBeaver"),
        ("pg_dump", "pg_dump"),
        ("@neondatabase/serverless", "@neondatabase"),
        ("pytest12", "pytest"),
        ("7", "7"),
    ],
)
def test_a_program_is_the_same_after_its_next_release(name: str, program: str) -> None:
    """Pods, versions and numbers are no part of it."""
    event = Event(action="connection.opened", actor="role:r", details={"application_name": name})
    assert view(event, {})["program"] == program


def habit(hours: list[float], days: int) -> Hours:
    """Of a role that comes at these hours, every day."""
    seen = Hours(Learning(days=14, events=10))
    for moment in sorted(day * DAY_S + hour * 3600 for day in range(days) for hour in hours):
        assert seen.see(("r",), moment, "") is None
    return seen


OFFICE = [8.6, 11, 13.5, 17.9]


@pytest.mark.parametrize(
    ("hours", "hour", "why"),
    [
        (OFFICE, 3.5, "at 03:00-04:00 UTC; usual on 20 days of the last 30: 08:00-09:00, 11:00-12:00, 13:00-14:00, 17:00-18:00"),
        (OFFICE, 20.0, "at 20:00-21:00 UTC; usual on 20 days of the last 30: 08:00-09:00, 11:00-12:00, 13:00-14:00, 17:00-18:00"),
        ([23, 0, 1], 12.0, "at 12:00-13:00 UTC; usual on 20 days of the last 30: 23:00-02:00"),
        ([2], 23.9, "at 23:00-00:00 UTC; usual on 20 days of the last 30: 02:00-03:00"),
        (OFFICE, 19.9, None),
        (OFFICE, 6.0, None),
        ([23, 0, 1], 3.9, None),
        ([23, 0, 1], 21.0, None),
        ([2], 0.0, None),
    ],
)  # fmt: skip
def test_an_hour_that_is_far_from_a_roles_habit_is_told(hours: list[float], hour: float, why: str | None) -> None:
    """In words, over midnight as well; what is within two hours of it is not."""
    assert habit(hours, 20).see(("r",), 20 * DAY_S + hour * 3600, "") == why


@pytest.mark.parametrize(
    ("hours", "days"),
    [
        pytest.param([float(hour) for hour in range(0, 24, 5)], 20, id="who comes all day and night"),
        pytest.param([2], 9, id="who came on too few days"),
        pytest.param([2], 13, id="who came for too short a time"),
    ],
)
def test_whoever_has_no_habit_breaks_none(hours: list[float], days: int) -> None:
    assert habit(hours, days).see(("r",), days * DAY_S + 13 * 3600, "") is None


def test_a_habit_of_long_ago_is_none() -> None:
    """Who came no more has nothing that could be broken; who came back to another hour has another habit."""
    seen = habit([2], 20)
    for day in range(60, 80):
        assert seen.see(("r",), (day + 0.5) * DAY_S, "") is None
    assert seen.see(("r",), 80 * DAY_S + 2 * 3600, "") is not None


def test_an_hour_is_unusual_once() -> None:
    """It was told; whoever comes at it again comes at an hour that is known."""
    seen = habit([9], 20)
    assert seen.see(("r",), 20 * DAY_S, "") is not None
    assert seen.see(("r",), 20 * DAY_S + 60, "") is None


def test_a_habit_survives_a_restart() -> None:
    again = Hours(Learning(days=14, events=10))
    again.load(msgspec.json.decode(msgspec.json.encode(habit([9], 20).dump())))
    assert again.see(("r",), 20 * DAY_S, "") is not None


def test_what_a_session_has_received_so_far_is_judged_and_teaches_nothing() -> None:
    """A theft is found before its session ends; and what a session tells on its way counts once, at its end."""

    def event(at: datetime, action: Action, received: int) -> Event:
        return Event(action=action, actor="role:app", project_id="p", at=timestamp(at), details={"bytes_out": received})

    def learned(*, with_readings: bool) -> Detector:
        detector = Detector(RULES)
        for n in range(40):
            at = NOW + timedelta(hours=6 * n)
            for so_far in (8_000_000, 16_000_000, 32_000_000) if with_readings else ():
                assert detector.feed(n, event(at, Action.CONNECTION_READING, so_far)) == []
            detector.feed(n, event(at, Action.CONNECTION_CLOSED, 40_000_000))
        return detector

    usual, taught = learned(with_readings=False), learned(with_readings=True)
    assert taught.dump()["memories"] == usual.dump()["memories"]
    now = NOW + timedelta(days=11)
    stolen = [event(now, Action.CONNECTION_READING, received) for received in (64_000_000, 128_000_000, 256_000_000)]
    alarms = [[it.rule for it in taught.feed(n, each)] for n, each in enumerate(stolen)]
    assert alarms == [[], ["unusual-read"], ["unusual-read"]]
    assert Detector(RULES).feed(1, stolen[-1]) == [], "who has learned nothing judges nothing"


def test_what_happened_to_another_branch_is_another_finding() -> None:
    """Where a rule says so: the advice of one is not over with the other's."""
    detector = Detector(RULES)
    alarms = [
        alarm
        for branch in ("br-one", "br-two", "br-one")
        for alarm in detector.feed(
            1, Event(action=Action.BRANCH_ADVISE, actor="platform:api", project_id="p", branch_id=branch)
        )
    ]
    assert len({alarm.fingerprint for alarm in alarms}) == 2

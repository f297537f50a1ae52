"""What the audit log holds of a firm that does nothing wrong: web servers and their deploys, functions that come from ever new
networks, people who mistype now and then, a pipeline with a branch for each change, a nightly dump, computes that sleep.

Its clock is the events' own, so an office day takes a second.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from random import Random
from typing import Any, Final

from cloister.trust.audit import Action, Event
from cloister.trust.audit.events import timestamp

PROJECT: Final = "shop-project-00000001"
ENDPOINT: Final = "ep-shop-main-00000001"
OFFICE: Final = "198.18.10."
DAY: Final = timedelta(days=1)

_PEOPLE: Final = ("ada", "ben", "cleo", "dan", "eve", "finn")
_PODS: Final = 12
_POOL: Final = 3
_MB: Final = 1_000_000


def days(first: datetime, count: int, seed: int) -> list[Event]:
    """So many days from `first` on, a midnight, in the order in which they happened."""
    random = Random(seed)
    events = [event for number in range(count) for event in _day(first + number * DAY, number, random)]
    return sorted(events, key=lambda event: event.at)


def opened(at: datetime, role: str, address: str, program: str, **changes: Any) -> Event:
    return _at(
        at, Action.CONNECTION_OPENED, role, address, {"application_name": program, "database": "shop"}, **changes
    )


def denied(at: datetime, role: str, address: str) -> Event:
    return _at(
        at, Action.CONNECTION_DENIED, role, address, {"database": "shop"}, outcome="denied", reason="bad_password"
    )


def closed(at: datetime, role: str, address: str, sent: int) -> Event:
    return _at(at, Action.CONNECTION_CLOSED, role, address, _received(sent), reason="client_left")


def reading(at: datetime, role: str, address: str, sent: int) -> Event:
    """It goes on."""
    return _at(at, Action.CONNECTION_READING, role, address, _received(sent))


def _received(sent: int) -> dict[str, Any]:
    return {"bytes_out": sent, "rows_out": sent // 100}


def called(at: datetime, who: str, address: str, action: Action, **changes: Any) -> Event:
    """By a person or a key, through the API."""
    return Event(
        action=action, actor=who, at=timestamp(at), org_id="org-shop", address=address, request_id=f"r{at.timestamp():.6f}",
        **({"project_id": PROJECT} | changes),
    )  # fmt: skip


def did(at: datetime, action: Action, project_id: str = PROJECT, **changes: Any) -> Event:
    """By the platform itself."""
    return Event(action=action, actor="platform:api", at=timestamp(at), project_id=project_id, **changes)


def _at(at: datetime, action: Action, role: str, address: str, details: dict[str, Any], **changes: Any) -> Event:
    given: dict[str, Any] = {"project_id": PROJECT, "endpoint_id": ENDPOINT} | changes
    return Event(action=action, actor=f"role:{role}", at=timestamp(at), address=address, details=details, **given)


def _day(midnight: datetime, number: int, random: Random) -> Iterator[Event]:
    def clock(hour: float, minutes: float = 0.0) -> datetime:
        return midnight + timedelta(hours=hour, minutes=minutes, seconds=random.random())

    yield from _night(clock, number)
    for deploy, hour in enumerate((10.5, 15.0)):
        yield from _deploy(clock(hour), f"{number}.{deploy}", random)
    yield from _functions(clock, random)
    for person in _PEOPLE:
        yield from _person(clock, person, number, random)
    for change in range(8):
        yield from _pipeline(clock(9 + change, 10 * random.random()), f"br-{number}-{change}")
    for change in range(30):
        yield from _pipeline(clock(17, change / 3), f"br-{number}-late-{change}")
    # At nine everybody's branch is woken.
    for branch in range(10):
        yield from _woken(clock(9, branch / 6), f"ep-own-{branch}")
    yield _at(clock(11), Action.CONNECTION_CANCEL, "", OFFICE + "21", {}, reason="unknown_key")
    yield called(clock(11.2), "user:ada", OFFICE + "21", Action.API_REFUSED, outcome="denied", reason="not_found")
    yield (
        did(clock(16), Action.COMPUTE_CRASHED, endpoint_id="ep-own-3", outcome="failed")
        if number == 4
        else did(clock(16), Action.COMPUTE_STOP, endpoint_id="ep-own-3")
    )


def _night(clock: Any, number: int) -> Iterator[Event]:
    """The dump, which grows; rotation by policy; old snapshots and branches given up."""
    yield opened(clock(2), "report", "198.18.20.5", "pg_dump")
    yield from (reading(clock(2, minute), "report", "198.18.20.5", (8 << minute) * _MB) for minute in range(6))
    yield closed(clock(2, 20), "report", "198.18.20.5", 400 * _MB + number * 3 * _MB)
    for project in range(40):
        yield did(clock(3, project / 10), Action.KEY_UNWRAP, f"other-project-{project:08}")
        yield did(clock(3, project / 10), Action.KEY_ROTATE, f"other-project-{project:08}")
    for snapshot in range(30):
        yield did(clock(4, snapshot / 30), Action.SNAPSHOT_DELETE, resource=f"snap-{number}-{snapshot}")
    for branch in range(12):
        yield called(
            clock(5, branch / 60), "key:ci", "198.18.30.7", Action.BRANCH_DELETE, branch_id=f"br-{number - 1}-{branch}"
        )


def _deploy(at: datetime, version: str, random: Random) -> Iterator[Event]:
    """Every pod of the old version goes and one of the new comes, with a pool each, within a minute."""
    for pod in range(_PODS):
        name = f"web-{random.randrange(16**8):08x}-{random.randrange(36**5):05d} v1.{version}"
        for connection in range(_POOL):
            began = at + timedelta(seconds=5 * pod + connection / 10)
            address = f"198.18.{40 + pod % 2}.{10 + pod}"
            yield opened(began, "web", address, name)
            yield closed(began + timedelta(hours=4), "web", address, int(2 * _MB * random.lognormvariate(0, 0.8)))


def _functions(clock: Any, random: Random) -> Iterator[Event]:
    """A cloud's functions: each time from another of its networks."""
    for _ in range(120):
        at, address = clock(24 * random.random()), f"198.19.{random.randrange(200)}.{random.randrange(1, 250)}"
        yield opened(at, "function", address, "@neondatabase/serverless")
        yield closed(at + timedelta(seconds=1), "function", address, random.randrange(1_000, 200_000))


def _person(clock: Any, person: str, number: int, random: Random) -> Iterator[Event]:
    """In the office, two days a week at home; a password that was mistyped, a tool with five connections, the console."""
    place = _PEOPLE.index(person)
    address = f"198.18.{60 + place}.4" if number % 7 in (place % 5, (place + 2) % 5) else OFFICE + str(20 + place)
    for visit in range(4):
        at = clock(8.5 + 2.2 * visit, 40 * random.random())
        for wrong in range(random.choices((0, 1, 2), (20, 2, 1))[0]):
            yield denied(at - timedelta(seconds=9 - 3 * wrong), person, address)
        tool, connections = ("psql", 1) if visit % 2 else (f"DBeaver 24.{number % 4}.1 - Main", 5)
        for _ in range(connections):
            yield opened(at, person, address, tool)
            yield closed(at + timedelta(minutes=20), person, address, int(random.lognormvariate(12, 1.2)))
    for minute in range(40):
        yield called(clock(9, minute * 10), f"user:{person}", address, Action.PROJECT_LIST)
    if person == "ada":
        yield called(clock(14), "user:ada", address, Action.PROJECT_UPDATE, details={"name": f"shop {number}"})
        yield called(clock(14.1), "user:ada", address, Action.MEMBER_ADD, details={"email": "n@shop", "role": "viewer"})


def _pipeline(at: datetime, branch: str) -> Iterator[Event]:
    """A branch for a change: made, woken, tested with eight connections, given up. Before the day's end thirty within ten minutes."""
    key, runner, endpoint = "key:ci", "198.18.30.7", f"ep-{branch}"
    yield called(at, key, runner, Action.BRANCH_CREATE, branch_id=branch)
    yield from _woken(at + timedelta(seconds=1), endpoint)
    for number in range(8):
        began = at + timedelta(seconds=2 + number / 2)
        yield opened(began, "ci", runner, f"pytest-{number}", endpoint_id=endpoint)
        yield closed(began + timedelta(seconds=1), "ci", runner, 40_000)
    yield called(at + timedelta(minutes=5), key, runner, Action.BRANCH_DELETE, branch_id=branch, details={"age_s": 300})


def _woken(at: datetime, endpoint: str) -> Iterator[Event]:
    yield did(at, Action.KEY_UNWRAP)
    yield did(at, Action.COMPUTE_START, endpoint_id=endpoint)
    yield did(at + timedelta(minutes=30), Action.COMPUTE_STOP, endpoint_id=endpoint)

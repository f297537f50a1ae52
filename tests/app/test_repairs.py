"""What apt says is read for what it means: a repair waits where a security archive has what is newer than what is installed."""

import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from cloister.app import repairs
from cloister.app.repairs import DAY_S, LOOK_EVERY_S, PACKAGES, Looked, Repair, look, overdue, waiting_in
from cloister.cli.doctor.finding import Level
from cloister.cli.doctor.repairs import decide_repairs

WAITING = """\
libssl3:
  Installed: 3.0.16-1~deb12u1
  Candidate: 3.0.17-1~deb12u3
  Version table:
     3.0.17-1~deb12u3 500
        500 http://deb.example.org/debian-security bookworm-security/main amd64 Packages
     3.0.17-1~deb12u2 500
        500 http://deb.example.org/debian bookworm/main amd64 Packages
 *** 3.0.16-1~deb12u1 100
        100 /var/lib/dpkg/status
"""
CURRENT = """\
libc6:
  Installed: 2.36-9+deb12u14
  Candidate: 2.36-9+deb12u14
  Version table:
 *** 2.36-9+deb12u14 500
        500 http://deb.example.org/debian bookworm/main amd64 Packages
        100 /var/lib/dpkg/status
     2.36-9+deb12u7 500
        500 http://deb.example.org/debian-security bookworm-security/main amd64 Packages
"""
ABSENT = """\
linux-image-amd64:
  Installed: (none)
  Candidate: 6.1.192-3
  Version table:
     6.1.192-3 500
        500 http://deb.example.org/debian-security bookworm-security/main amd64 Packages
"""
NEWER = """\
xfsprogs:
  Installed: 6.1.0-1
  Candidate: 6.13.0-2
  Version table:
     6.13.0-2 500
        500 http://deb.example.org/debian trixie/main amd64 Packages
 *** 6.1.0-1 500
        500 http://deb.example.org/debian-security bookworm-security/main amd64 Packages
        100 /var/lib/dpkg/status
"""
SUPERSEDED = """\
mount:
  Installed: 2.38.1-5
  Candidate: 2.38.1-7
  Version table:
     2.38.1-7 500
        500 http://archive.example.org/ubuntu jammy-updates/main amd64 Packages
     2.38.1-6 500
        500 http://security.example.org/ubuntu jammy-security/main amd64 Packages
 *** 2.38.1-5 100
        100 /var/lib/dpkg/status
"""


@pytest.mark.parametrize(
    ("said", "waiting"),
    [
        (WAITING, {"libssl3": ("3.0.16-1~deb12u1", "3.0.17-1~deb12u3")}),
        (SUPERSEDED, {"mount": ("2.38.1-5", "2.38.1-6")}),
        (CURRENT, {}),
        (ABSENT, {}),
        (NEWER, {}),
        ("", {}),
        (" *** 1 500\n", {}),
    ],
    ids=["waiting", "superseded", "current", "absent", "newer, for another reason", "nothing", "nonsense"],
)
def test_what_waits(said: str, waiting: dict[str, tuple[str, str]]) -> None:
    assert waiting_in(said) == waiting
    assert waiting_in(CURRENT + said + ABSENT) == waiting


def test_it_waits_since_it_was_first_seen_whatever_came_out_since(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever never installs anything is not excused by the next repair; and nothing is over because nobody could look."""
    said: list[str | None] = [WAITING, WAITING.replace("deb12u3", "deb12u4"), None, CURRENT]
    monkeypatch.setattr(repairs, "policies", lambda: said.pop(0))
    seen = look(Looked(), 1_000_000.0)
    assert look(seen, 1_000_000.0 + LOOK_EVERY_S - 1) is seen, "once a day"
    later = look(seen, 1_000_000.0 + DAY_S)
    assert later.waiting == {"libssl3": Repair("3.0.16-1~deb12u1", "3.0.17-1~deb12u4", 1_000_000.0)}
    assert look(later, 1_000_000.0 + 2 * DAY_S).waiting == later.waiting
    assert look(later, 1_000_000.0 + 3 * DAY_S).waiting == {}


def test_overdue_is_what_waited_longer_than_it_may() -> None:
    waiting = {"a": Repair("1", "2", 0.0), "b": Repair("1", "2", 5 * DAY_S)}
    assert overdue(waiting, 14 * DAY_S, 14) == {}
    assert list(overdue(waiting, 14 * DAY_S + 1, 14)) == ["a"]


def _missing(*_: Any, **__: Any) -> Any:
    raise FileNotFoundError


def _failing(*_: Any, **__: Any) -> Any:
    raise subprocess.CalledProcessError(100, "apt-cache")


@pytest.mark.parametrize("run", [_missing, _failing])
def test_where_apt_cannot_be_asked_nothing_is_known(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", run)
    assert repairs.policies() is None


def test_apt_here_says_what_is_understood() -> None:
    """Its own words, on the machine that tests: what is installed is in a table with a mark."""
    said = repairs.policies()
    if said is None:
        pytest.skip("no apt here")
    assert "libc6:" in said.splitlines()
    assert set(waiting_in(said)) <= set(PACKAGES)
    # As if a newer one were in the security archive: it is found.
    before, mark, after = said.partition(" *** ")
    newer = "     999 500\n        500 http://deb.example.org/debian-security x-security/main amd64 Packages\n"
    assert "999" in [repaired for _, repaired in waiting_in(before + newer + mark + after).values()]


def test_the_doctor_warns_of_what_is_overdue_and_of_nothing_that_is_new() -> None:
    waiting = {"libssl3": ("1", "2")}
    seen = {"libssl3": Repair("1", "2", 0.0), "mount": Repair("1", "2", 0.0)}
    assert decide_repairs({}, seen, 99 * DAY_S, 14).level is Level.OK
    assert decide_repairs(waiting, {}, 99 * DAY_S, 14).level is Level.OK
    assert decide_repairs(waiting, seen, 13 * DAY_S, 14).level is Level.OK
    late = decide_repairs(waiting, seen, 15 * DAY_S, 14)
    assert late.level is Level.WARNING
    assert "libssl3" in late.seen
    assert "mount" not in late.seen

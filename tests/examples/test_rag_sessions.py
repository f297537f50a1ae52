"""The example's cookie and form token: what is not ours, or old, or another session's, is nothing."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "database_per_user_rag"


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(EXAMPLE)
    from rag import sessions as module  # type: ignore[import-not-found,unused-ignore]

    yield module
    for name in [name for name in sys.modules if name.partition(".")[0] == "rag"]:
        del sys.modules[name]


def test_a_cookie_is_good_for_its_time(sessions: Any) -> None:
    ours = sessions.Sessions(b"k" * 32)
    session, cookie = ours.begin(1000, "0123456789abcdef")
    assert ours.read(cookie, 1000 + sessions.LIFETIME_S - 1) == session
    assert ours.read(cookie, 1000 + sessions.LIFETIME_S) is None
    assert ours.read(cookie, 999) is None


def test_whatever_is_changed_in_it_it_is_none(sessions: Any) -> None:
    ours = sessions.Sessions(b"k" * 32)
    _, cookie = ours.begin(1000, "0123456789abcdef")
    for place, letter in enumerate(cookie):
        changed = cookie[:place] + ("1" if letter == "0" else "0") + cookie[place + 1 :]
        assert ours.read(changed, 1001) is None
    assert sessions.Sessions(b"K" * 32).read(cookie, 1001) is None
    assert ours.read("", 1001) is None


def test_a_token_belongs_to_its_session(sessions: Any) -> None:
    ours = sessions.Sessions(b"k" * 32)
    one, cookie = ours.begin(1000, "0123456789abcdef")
    other, _ = ours.begin(1000, "0123456789abcdef")
    assert ours.is_token(one, ours.token(one))
    assert not ours.is_token(other, ours.token(one))
    assert not ours.is_token(one, cookie.rpartition(".")[2])  # the cookie's own signature
    assert not ours.is_token(one, "é")

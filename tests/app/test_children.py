"""Processes as the platform starts them: each as a Unix user of its own, in no other group, with nothing of its parent's."""

import os
import pwd
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest

from cloister.app.children import Child, children, spawn
from cloister.base.errors import PreconditionError
from cloister.base.identities import Service
from cloister.base.settings import Settings

USERS: Final = {
    "database": "cloister-db",
    "broker": "cloister-keys",
    "agent": "root",
    "egress": "cloister-egress",
    "courier": "cloister-courier",
    "api": "cloister-api",
    "sentinel": "cloister-sentinel",
    "gateway": "cloister-gateway",
}
"""As ARCHITECTURE.md has it."""

NUMBERS: Final = {name: 4000 + number for number, name in enumerate(USERS.values()) if name != "root"}
READY, LISTENING = 7, 8


class Started(list[dict[str, Any]]):
    """What was asked of the system, in order."""

    def popen(self, command: list[str], **options: Any) -> None:
        self.append({"command": command, **options})


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    """On a host where the platform's users are, and no process is started."""
    asked = Started()
    monkeypatch.setattr(subprocess, "Popen", asked.popen)
    monkeypatch.setattr(
        pwd, "getpwnam", lambda name: SimpleNamespace(pw_uid=NUMBERS[name], pw_gid=NUMBERS[name] + 1000)
    )
    return asked


@pytest.fixture
def platform(tmp_path: Path) -> Settings:
    settings = Settings(state_dir=str(tmp_path), gateway_workers=2)
    settings.paths.logs.mkdir(parents=True)
    return settings


def test_each_process_is_started_as_its_own_user(platform: Settings, started: Started) -> None:
    """And the node agent alone as root."""
    found = children(platform)
    assert {child.name for child in found} == set(USERS)
    for child in found:
        spawn(child, platform, listen_fds=[], ready_fd=READY)
        asked = started.pop()
        assert asked["command"][:4] == [sys.executable, "-m", "cloister.app", child.name]
        number = NUMBERS.get(USERS[child.name], 0)
        assert (asked["user"], asked["group"]) == (number, number + 1000 if number else 0), child.name
        assert asked["extra_groups"] == [], "root's groups are not handed on"
        assert asked["umask"] == (0o077 if number else 0o022), child.name
        assert asked["start_new_session"]
    assert started == []


def test_no_two_kinds_of_process_share_a_user(platform: Settings) -> None:
    users = {child.name: child.service for child in children(platform)}
    assert len(set(users.values())) == len(users) == len(Service)


def test_a_process_gets_its_own_descriptors_and_nothing_of_the_shells_environment(
    platform: Settings, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SSLKEYLOGFILE", "LD_PRELOAD", "PGPASSWORD", "PYTHONPATH"):
        monkeypatch.setitem(os.environ, name, "/tmp/mine")
    spawn(Child("gateway", Service.GATEWAY), platform, listen_fds=[("https", LISTENING)], ready_fd=READY)
    (asked,) = started
    assert asked["pass_fds"] == [LISTENING, READY]
    assert "/tmp/mine" not in asked["env"].values()
    assert asked["stdin"] == subprocess.DEVNULL


def test_where_its_user_is_not_there_a_process_is_not_started(
    platform: Settings, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not as somebody else, and not as root."""

    def nobody(name: str) -> None:
        raise KeyError(name)

    monkeypatch.setattr(pwd, "getpwnam", nobody)
    for child in children(platform):
        if child.service is not Service.AGENT:
            with pytest.raises(PreconditionError, match="no Unix user"):
                spawn(child, platform, listen_fds=[], ready_fd=READY)
    assert started == []

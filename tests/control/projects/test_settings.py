"""What a change of a project's settings means."""

import pytest

from cloister.control.projects.model import AllowedIps, ProjectSettings
from cloister.control.projects.settings import widened

OPEN = ProjectSettings()
BLOCKED = ProjectSettings(block_public_connections=True)


def only(*ips: str, of_protected: bool = False) -> ProjectSettings:
    return ProjectSettings(allowed_ips=AllowedIps(ips=[*ips], protected_branches_only=of_protected))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (OPEN, OPEN, False),
        (OPEN, only("192.0.2.1"), False),
        (OPEN, BLOCKED, False),
        (only("192.0.2.1"), OPEN, True),
        (only("192.0.2.1"), BLOCKED, False),
        (only("192.0.2.1"), only("192.0.2.1", "192.0.2.2"), True),
        (only("192.0.2.1"), only("192.0.2.2"), True),
        (only("192.0.2.1", "192.0.2.2"), only("192.0.2.2"), False),
        (only("192.0.2.1"), only("192.0.2.1", of_protected=True), True),
        (only("192.0.2.1", of_protected=True), only("192.0.2.1"), False),
        (BLOCKED, only("192.0.2.1"), True),
        (BLOCKED, OPEN, True),
        (BLOCKED, BLOCKED, False),
    ],
)
def test_who_was_refused_and_may_knock_now(old: ProjectSettings, new: ProjectSettings, expected: bool) -> None:
    assert widened(old, new) is expected

"""Threat: somebody changes by hand what files under version control say, and nobody reviewed it.

The rule that the documentation gives operators, taken from its page, as the platform decides by it.
"""

import re
from pathlib import Path
from typing import Final
from uuid import UUID

import pytest

from cloister.base.errors import ForbiddenError
from cloister.trust.access.decisions import Decider
from cloister.trust.access.permissions import Permission
from cloister.trust.access.principals import Grant, Holder, Principal

PAGE: Final = Path(__file__).parents[2] / "docs" / "configuration.md"
HERE: Final = "org-calm-forest-12345678"
PROJECT: Final = "calm-forest-12345678"
RULE: Final = re.findall(r"```cedar\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
SETTINGS: Final = sorted(set(re.findall(r'Action::"([a-z:_]+)"', "".join(RULE))))


def of_whom(*, is_on_call: bool = False, holder: Holder = Holder.PERSON) -> Principal:
    grants = {} if holder is Holder.PERSON else {PROJECT: Grant(HERE, "admin")}
    role = "admin" if holder is Holder.PERSON else "collaborator"
    on_call = frozenset({HERE}) if is_on_call else frozenset[str]()
    return Principal(
        UUID(int=1), 1, "ada@example.com", "Ada", {HERE: role}, holder=holder, grants=grants, on_call=on_call
    )


@pytest.fixture
def decider(tmp_path: Path) -> Decider:
    tmp_path.chmod(0o755)
    (tmp_path / "settings.cedar").write_text("".join(RULE))
    (tmp_path / "settings.cedar").chmod(0o644)
    decider = Decider(own=tmp_path)
    assert decider.problem == ""
    return decider


def may(decider: Decider, who: Principal, permission: Permission) -> bool:
    project = None if permission is Permission.PROJECT_CREATE else PROJECT
    try:
        decider.authorize(who, permission, org_id=HERE, project_id=project)
    except ForbiddenError:
        return False
    return True


def test_the_rule_names_what_a_file_can_say() -> None:
    assert len(RULE) == 1
    assert len(SETTINGS) == 19


@pytest.mark.parametrize("setting", SETTINGS)
def test_no_person_changes_a_setting_but_who_is_on_call(decider: Decider, setting: str) -> None:
    """An admin of the organization, who may without the rule."""
    permission = Permission(setting)
    assert may(Decider(), of_whom(), permission)
    assert not may(decider, of_whom(), permission)
    assert may(decider, of_whom(is_on_call=True), permission)


def test_the_pipelines_account_does_and_people_work_on(decider: Decider) -> None:
    machine = of_whom(holder=Holder.SERVICE)
    for setting in SETTINGS:
        assert may(decider, machine, Permission(setting)) == may(Decider(), machine, Permission(setting)), setting
    assert may(decider, machine, Permission.PROJECT_UPDATE)
    for permission in (
        Permission.PROJECT_READ,
        Permission.BRANCH_RESTORE,
        Permission.ENDPOINT_OPERATE,
        Permission.MEMBER_MANAGE,
    ):
        assert may(decider, of_whom(), permission), permission

"""Each finding is there when it holds, and gone when it does not."""

from dataclasses import replace
from typing import Any

import pytest

from cloister.base.ids import BranchId
from cloister.control.branches.model import Branch
from cloister.control.projects import advisors
from cloister.control.projects.advisors import Check, Posture, findings
from cloister.control.projects.model import AllowedIps, ProjectSettings
from cloister.control.roles.model import Role
from tests.edge.api.world import BRANCH, CHILD, NOW, branch, project
from tests.house.source import ROOT

PII = frozenset({"pii"})
SAFE_SETTINGS = ProjectSettings(allowed_ips=AllowedIps(ips=["192.0.2.0/24", "2001:db8::/32"]))
MAIN = branch(BRANCH, is_protected=True)
DEV = branch(CHILD, is_default=False, parent_id=BRANCH)


def role(branch_id: BranchId, verifier: str | None, name: str = "ada", *, can_login: bool = True) -> Role:
    return Role(branch_id, name, can_login, verifier, None, NOW, NOW)


def posture(
    *,
    settings: ProjectSettings = SAFE_SETTINGS,
    branches: tuple[Branch, ...] = (MAIN, DEV),
    roles: tuple[Role, ...] = (role(BRANCH, "one"), role(CHILD, "two")),
    **fields: Any,
) -> Posture:
    return Posture(project(settings=settings, **fields), branches, roles)


def allowing(*ips: str, **fields: bool) -> ProjectSettings:
    return ProjectSettings(allowed_ips=AllowedIps(ips=list(ips), **fields))


def test_a_project_with_nothing_to_say_about_has_no_finding() -> None:
    assert findings(posture()) == []


@pytest.mark.parametrize(
    ("looked_at", "check"),
    [
        (posture(settings=allowing()), advisors.OPEN_TO_ALL),
        (posture(settings=allowing("192.0.2.7", "0.0.0.0/0")), advisors.WIDE_RANGE),
        (posture(settings=allowing("10.0.0.0-10.255.255.255")), advisors.WIDE_RANGE),
        (posture(settings=allowing("2000::/16")), advisors.WIDE_RANGE),
        (posture(settings=allowing("192.0.2.7", protected_branches_only=True)), advisors.OPEN_BRANCHES),
        (posture(branches=(replace(MAIN, is_protected=False), DEV)), advisors.DEFAULT_UNPROTECTED),
        (posture(branches=(replace(MAIN, is_protected=False, tags=PII), DEV)), advisors.TAGGED_UNPROTECTED),
        (posture(branches=(MAIN, replace(DEV, parent_id=None)), tags=PII), advisors.TAGGED_UNPROTECTED),
        (posture(roles=(role(BRANCH, "one"), role(CHILD, "one"))), advisors.SHARED_PASSWORD),
        (posture(store_passwords=True), advisors.STORED_PASSWORDS),
        (posture(history_retention_seconds=86_399), advisors.SHORT_HISTORY),
    ],
    ids=lambda it: it.name if isinstance(it, Check) else "",
)
def test_what_is_found(looked_at: Posture, check: Check) -> None:
    (found,) = findings(looked_at)
    assert found.check is check
    assert found.key.startswith(check.name)


@pytest.mark.parametrize(
    "looked_at",
    [
        posture(settings=ProjectSettings(block_public_connections=True)),
        posture(settings=allowing("10.0.0.0/9", "2000::/17")),
        posture(settings=allowing("192.0.2.7", protected_branches_only=True), branches=(MAIN,)),
        posture(branches=(MAIN, replace(DEV, parent_id=None)), roles=(role(BRANCH, "one"), role(CHILD, "one"))),
        posture(roles=(role(BRANCH, "one"), role(CHILD, "one", "bob"))),
        posture(roles=(role(BRANCH, None), role(CHILD, None))),
        posture(branches=(MAIN, replace(DEV, tags=PII))),
        posture(branches=(MAIN, replace(DEV, parent_id=None, expires_at=NOW)), tags=PII),
        posture(branches=(MAIN, replace(DEV, parent_id=None)), tags=frozenset({"team-a"})),
        posture(roles=(role(BRANCH, "one"), role(CHILD, "one", can_login=False))),
    ],
)
def test_what_is_not_found(looked_at: Posture) -> None:
    assert findings(looked_at) == []


def test_the_gravest_comes_first_and_every_finding_has_a_key_of_its_own() -> None:
    others = [branch(BranchId(f"br-calm-forest-0000000{n}"), is_default=False) for n in range(3)]
    found = findings(
        posture(
            settings=allowing("0.0.0.0/0", protected_branches_only=True),
            branches=(MAIN, DEV, *others),
            store_passwords=True,
        )
    )
    levels = [it.check.severity for it in found]
    assert levels == sorted(levels, reverse=True)
    assert len({it.key for it in found}) == len(found) == 6


def test_every_finding_names_a_page_that_is_there() -> None:
    checks = [it for it in vars(advisors).values() if isinstance(it, Check)]
    assert len(checks) == 8
    assert [it.explained_in for it in checks if not (ROOT / "docs" / it.explained_in).exists()] == []

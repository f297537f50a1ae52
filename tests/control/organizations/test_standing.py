"""What a role and a grant come to, held to what the policies permit."""

from uuid import UUID

import pytest

from cloister.base.errors import CloisterError
from cloister.control.organizations.model import ORGANIZATION_ROLES, PROJECT_ROLES, ProjectRole
from cloister.control.organizations.standing import Standing, is_less
from cloister.trust.access.decisions import Decider
from cloister.trust.access.permissions import Permission
from cloister.trust.access.principals import Grant, Principal

ORG, PROJECT = "org-calm-forest-00000001", "calm-forest-00000001"
TELLS = {"viewer": Permission.PROJECT_READ, "editor": Permission.PROJECT_UPDATE, "admin": Permission.ACCESS_MANAGE}
"""What only a role and those above it may."""
DECIDER = Decider()


def standing(role: str, granted: ProjectRole | None) -> Standing:
    return Standing(UUID(int=1), "ada@example.com", "Ada", role, granted)


@pytest.mark.parametrize("granted", [None, *PROJECT_ROLES])
@pytest.mark.parametrize("role", ORGANIZATION_ROLES)
def test_it_is_what_the_policies_permit(role: str, granted: ProjectRole | None) -> None:
    grants = {PROJECT: Grant(ORG, granted)} if granted else {}
    principal = Principal(UUID(int=1), 1, "ada@example.com", "Ada", {ORG: role}, grants)

    def may(permission: Permission) -> bool:
        try:
            DECIDER.authorize(principal, permission, org_id=ORG, project_id=PROJECT)
        except CloisterError:
            return False
        return True

    effective = standing(role, granted).effective
    assert {it for it in PROJECT_ROLES if may(TELLS[it])} == {it for it in PROJECT_ROLES if not is_less(effective, it)}


def test_where_it_comes_from() -> None:
    assert standing("admin", "viewer").source == "org_admin_override"
    assert standing("editor", "viewer").source == "org_role_default"
    assert standing("editor", "editor").source == "org_role_default"
    assert standing("viewer", "editor").source == "explicit"
    assert standing("collaborator", "viewer").source == "explicit"
    assert standing("collaborator", None).source == "unassigned"
    assert standing("of tomorrow", None).effective is None


def test_nothing_is_less_than_everything_else() -> None:
    assert is_less(None, "viewer")
    assert is_less("viewer", "editor")
    assert is_less("editor", "admin")
    assert not is_less("admin", "admin")
    assert not is_less("editor", None)

"""Threats: a machine's key, stolen, is used to stay, to reach data, or to decide about people; one that was taken back still works."""

import pytest

from cloister.base.errors import ForbiddenError, NotFoundError
from cloister.trust.access.decisions import Decider
from cloister.trust.access.permissions import Permission
from tests.control.organizations.conftest import database
from tests.control.organizations.test_service import HERE, SHOP
from tests.control.service_accounts.test_service import Scene, scene

__all__ = ["database", "scene"]


@pytest.mark.parametrize(
    "permission",
    [
        Permission.ACCESS_APPROVE,
        Permission.ACCESS_REQUEST,  # break glass as well
        Permission.RECORDING_READ,
        Permission.API_KEY_CREATE,
        Permission.ORGANIZATION_KEY_CREATE,
        Permission.ORGANIZATION_KEY_MANAGE,
        Permission.MEMBER_MANAGE,
        Permission.PROJECT_OFFER,
        Permission.PROJECT_TRANSFER,
        Permission.ACCOUNT_CREATE,
        Permission.ISSUER_MANAGE,
    ],
)
async def test_a_machine_decides_about_nobody_and_makes_no_keys(scene: Scene, permission: Permission) -> None:
    """With the most that can be given to one."""
    _, key = await scene.create(role="editor", grants={SHOP: "admin"})
    principal = await scene.who(key)
    decider = Decider()
    for project_id in (None, SHOP):
        with pytest.raises(ForbiddenError):
            decider.authorize(principal, permission, org_id=HERE, project_id=project_id)
    decider.authorize(principal, Permission.PROJECT_DELETE, org_id=HERE, project_id=SHOP)


async def test_a_machine_of_one_project_does_not_learn_of_another(scene: Scene) -> None:
    _, key = await scene.create(grants={SHOP: "editor"})
    with pytest.raises(NotFoundError):
        Decider().authorize(
            await scene.who(key), Permission.PROJECT_READ, org_id=HERE, project_id="calm-forest-00000000"
        )


async def test_a_machine_that_was_disabled_is_refused_and_the_log_says_which(scene: Scene) -> None:
    account, key = await scene.create()
    await scene.change(account, is_disabled=True)
    with pytest.raises(Exception, match="service_account_disabled") as caught:
        await scene.who(key)
    assert caught.value.actor == f"key:{account.keys[0].id}"  # type: ignore[attr-defined]

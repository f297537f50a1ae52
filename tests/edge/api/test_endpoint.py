"""What a route states of itself."""

from typing import Any

import pytest

from cloister.edge.api.call import Call, NoBody, NoQuery, Plain
from cloister.edge.api.endpoint import Public, endpoint
from cloister.edge.api.wire.common import Wire
from cloister.trust.access.permissions import Permission
from cloister.trust.audit import Action


def test_a_route_without_a_permission_or_an_action_does_not_import() -> None:
    async def handler(call: Plain) -> Wire:
        raise AssertionError

    with pytest.raises(TypeError):
        endpoint("GET", "/x")(handler)  # type: ignore[call-arg]
    with pytest.raises(AssertionError):
        endpoint("GET", "/x", permission=Permission.PROJECT_READ, audit=None)
    with pytest.raises(AssertionError):
        endpoint("GET", "/x", permission=Public("why"), audit=Action.PROJECT_GET)
    with pytest.raises(AssertionError):
        endpoint("POST", "/x", permission=Public("why"), audit=None)
    with pytest.raises(AssertionError):
        endpoint(
            "POST",
            "/projects",
            permission=Permission.PROJECT_CREATE,
            may_need=(Permission.BRANCH_PROTECT,),
            audit=Action.PROJECT_CREATE,
        )
    with pytest.raises(AssertionError):
        endpoint("GET", "/{anything}", permission=Permission.PROJECT_READ, audit=Action.PROJECT_GET)


def test_types_of_a_call_are_the_types_of_its_route() -> None:
    async def handler(call: Call[NoBody, NoQuery]) -> Wire | None:
        raise AssertionError

    route: Any = endpoint("GET", "/x", permission=Permission.PROJECT_READ, audit=Action.PROJECT_GET)(handler)
    assert (route.body, route.query, route.answer, route.answer_is_optional) == (NoBody, NoQuery, Wire, True)

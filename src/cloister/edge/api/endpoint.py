"""What a route says of itself: who may call it, and what the audit log calls it.

A route is a handler and what `@endpoint` states about it, in its first line. Neither has a default, so a route that says
nothing about them does not import:

    @endpoint("GET", "/projects/{project_id}", permission=Permission.PROJECT_READ, audit=Action.PROJECT_GET)
    async def get_project(call: Plain) -> ProjectAnswer: ...

What a call needs may depend on what only the service sees, inside its transaction: a branch that is protected. Such
permissions stand in `may_need`; they are decided in `boundary.py` as well, and go to the service with the caller.

The types of the handler's `Call[Body, Query]` and of its answer are what is decoded, encoded and documented.
"""

import inspect
import re
import typing
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import msgspec

from cloister.edge.api import paths
from cloister.edge.api.call import Call, Versioned
from cloister.trust.access.permissions import Permission
from cloister.trust.audit import Action

Handler = Callable[[Any], Coroutine[Any, Any, Any]]


@dataclass(frozen=True, slots=True)
class Public:
    """In place of a permission: everybody may, and this is why."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    method: str
    path: str
    permission: Permission | Public
    audit: Action | None
    status: int
    handler: Handler
    body: type
    query: type
    answer: type
    answer_is_optional: bool
    """The handler may answer None: 204, without a body."""
    is_recorded_here: bool
    """A read. Changes are recorded by the service, in the transaction that makes them."""
    decoder: msgspec.json.Decoder[Any] = field(repr=False)
    may_need: tuple[Permission, ...] = ()
    and_deleted: bool = False
    """The path's project may be one that was deleted and can be recovered."""
    from_outside: bool = False
    """The path's project may be one that the principal may not know of."""
    of_others_too: bool = False
    """It is about more branches of the project than the path names."""
    versioned: bool = False
    """The path's thing has a version, which `If-Match` may be about."""

    @property
    def is_change(self) -> bool:
        return self.method != "GET"

    @property
    def name(self) -> str:
        return self.handler.__name__

    @property
    def tag(self) -> str:
        """The noun it is about: the file its handler stands in."""
        return self.handler.__module__.rpartition(".")[2]


def endpoint(
    method: str,
    path: str,
    *,
    permission: Permission | Public,
    audit: Action | None,
    status: int = 200,
    service_records: bool = False,
    may_need: tuple[Permission, ...] = (),
    and_deleted: bool = False,
    from_outside: bool = False,
    of_others_too: bool = False,
    versioned: bool = False,
) -> Callable[[Handler], Route]:
    """Make a handler a route. `audit=None` is only for public reads, which have nobody to name. `service_records` is
    for a read that is recorded below, like a change; other reads are recorded here. `may_need`: what the service asks the
    caller for when the thing turns out to be protected; such a route's path names a project. `and_deleted`: for what is
    done to projects that were deleted, which for every other route are not there. `from_outside`: the permission is asked of
    the principal's own organizations, and what leads to the path's project is something else, which the service looks at.
    `of_others_too`: the data of another branch, which the body or the service names, is read or replaced; the decision has the tags of all.
    `versioned`: a look answers with the version (`Versioned`), and a change compares it in the service, in its transaction."""
    assert not may_need or "{project_id}" in path, f"{method} {path}: may_need is about a project"
    assert (audit is None) == (isinstance(permission, Public) and method == "GET"), (
        f"{method} {path}: who may, what is it?"
    )
    assert set(re.findall(r"{(\w+)}", path)) <= paths.PARAMETERS, f"{path}: unknown parameter"

    def make(handler: Handler) -> Route:
        hints = typing.get_type_hints(handler)
        answer = hints.pop("return")
        (call,) = hints.values()
        if typing.get_origin(answer) is Versioned:
            assert versioned, f"{handler.__name__} answers with a version"
            (answer,) = typing.get_args(answer)
        else:
            assert not versioned or method == "DELETE", f"{handler.__name__} must answer with a version"
        assert typing.get_origin(call) is Call, f"{handler.__name__} must take a Call"
        body, query = typing.get_args(call)
        alternatives = [one for one in typing.get_args(answer) if one is not type(None)]
        is_optional = type(None) in typing.get_args(answer)
        assert (status == 204) == (answer is type(None)), f"{handler.__name__}: 204 is an answer without a body"
        assert inspect.iscoroutinefunction(handler)
        return Route(
            method=method,
            path=path,
            permission=permission,
            audit=audit,
            status=status,
            handler=handler,
            body=body,
            query=query,
            answer=alternatives[0] if is_optional else answer,
            answer_is_optional=is_optional,
            is_recorded_here=method == "GET" and audit is not None and not service_records,
            decoder=msgspec.json.Decoder(body),
            may_need=may_need,
            and_deleted=and_deleted,
            from_outside=from_outside,
            of_others_too=of_others_too,
            versioned=versioned,
        )

    return make

"""The boundary of SCIM: every request takes the steps of `Scim.answer`.

What must stay true: nothing is read or changed but for a directory whose token was shown, and in its own organization alone; and no
request that got as far as that ends without an event. What a change means is decided in `control/scim`.
"""

import logging
import re
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final
from uuid import UUID

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from cloister.base import ids
from cloister.base.errors import BadRequestError, CloisterError, InternalError, NotFoundError, UnauthenticatedError
from cloister.control.scim.model import PAGE_MAX, Directory, LastAdminError, Speaking, TakenError, Wanted
from cloister.edge.api import content, errors
from cloister.edge.api.call import Services
from cloister.edge.api.errors import HttpError, json_response
from cloister.edge.api.rates import CALLS_PER_KEY, CHANGES_PER_KEY, FAILED_LOGINS_PER_ADDRESS, Rates, address_group
from cloister.edge.api.refusals import Refusal, Refusals
from cloister.edge.api.scim import discovery, wire
from cloister.edge.api.scim.wire import MEDIA_TYPE, PREFIX
from cloister.protocol.scim import (
    MUTABILITY,
    UNIQUENESS,
    GroupAttributes,
    ScimError,
    UserAttributes,
    read_document,
    read_filter,
    read_operations,
)
from cloister.protocol.scim.documents import INVALID_VALUE
from cloister.protocol.scim.groups import SCHEMA as GROUP
from cloister.protocol.scim.users import SCHEMA as USER
from cloister.trust.audit import Action, Event

_log = logging.getLogger(__name__)

_BEARER: Final = re.compile(r"[Bb]earer +(scim_[A-Za-z0-9_-]{43})")
"""What does not look like one is not looked up: no key of another kind comes near the query."""

_BODY_TYPES: Final = frozenset({MEDIA_TYPE, "application/json"})

_START_MAX: Final = 1_000_000
# Beyond what any directory holds.

_NUMBER: Final = re.compile(r"-?[0-9]{1,9}")

_DISCOVERED: Final = {"Schemas": discovery.SCHEMAS, "ResourceTypes": discovery.TYPES}

_USER_FILTERS: Final = {
    "username": "userName",
    "externalid": "externalId",
    "id": "id",
    "displayname": "displayName",
    "emails": "emails.value",
    "emails.value": "emails.value",
}
_GROUP_FILTERS: Final = {
    "displayname": "displayName",
    "externalid": "externalId",
    "id": "id",
    "members": "members.value",
    "members.value": "members.value",
}

_ATTEMPTED: Final = {
    ("POST", "Users"): Action.SCIM_USER_CREATE,
    ("PUT", "Users"): Action.SCIM_USER_UPDATE,
    ("PATCH", "Users"): Action.SCIM_USER_UPDATE,
    ("DELETE", "Users"): Action.SCIM_USER_DELETE,
    ("POST", "Groups"): Action.SCIM_GROUP_CREATE,
    ("PUT", "Groups"): Action.SCIM_GROUP_UPDATE,
    ("PATCH", "Groups"): Action.SCIM_GROUP_UPDATE,
    ("DELETE", "Groups"): Action.SCIM_GROUP_DELETE,
}


@dataclass(slots=True)
class _Trace:
    request_id: str
    address: str
    directory: Directory | None = None
    attempted: Action = Action.SCIM_READ
    resource: str = ""


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: dict[str, Any] | None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Asked:
    by: Speaking
    resource_id: UUID | None
    query: dict[str, str]
    document: dict[str, Any]


_Handler = Callable[[_Asked], Awaitable[_Answer]]


class Scim:
    def __init__(self, services: Services, refusals: Refusals) -> None:
        self._services = services
        self._refusals = refusals
        self._rates = Rates()
        self._service = services.control.scim
        self._handlers: dict[tuple[str, str, bool], _Handler] = {
            ("GET", "Users", False): self._users,
            ("POST", "Users", False): self._create_user,
            ("GET", "Users", True): self._user,
            ("PUT", "Users", True): self._replace_user,
            ("PATCH", "Users", True): self._patch_user,
            ("DELETE", "Users", True): self._delete_user,
            ("GET", "Groups", False): self._groups,
            ("POST", "Groups", False): self._create_group,
            ("GET", "Groups", True): self._group,
            ("PUT", "Groups", True): self._replace_group,
            ("PATCH", "Groups", True): self._patch_group,
            ("DELETE", "Groups", True): self._delete_group,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        answer = await self.answer(Request(scope, receive, send))
        await answer(scope, receive, send)

    async def answer(self, request: Request) -> Response:
        """The answer to one request. Never raises, except when the task is cancelled."""
        trace = _Trace(str(uuid.uuid4()), request.client.host if request.client else "")
        try:
            it = await self._procedure(request, trace)
            return _response(it, trace.request_id)
        except ScimError as error:
            await self._record_failure(trace, error.scim_type)
            return _response(_Answer(400, wire.error(400, str(error), error.scim_type)), trace.request_id)
        except CloisterError as error:
            return await self._failed(trace, error)
        except Exception:
            # The outermost frame, as in edge/api/boundary.py.
            _log.exception("%s scim", trace.request_id)
            return await self._failed(trace, InternalError())

    async def _procedure(self, request: Request, trace: _Trace) -> _Answer:
        """1. What the head says of itself; the body is not read yet.
        2. Whose token it is. An address that has just failed often is not even looked at.
        3. How often: as for an API key.
        4. Which resource, of the few that there are. A path is never decoded: no name here needs it.
        5. The body, of a limited length and within a limited time, as a document in which nothing is said twice. A token that was
           replaced while it came opens nothing.
        6. The change, in the directory's own organization, with its event.
        """
        # 1. The head.
        content.check_declared(request, _BODY_TYPES)
        # 2. The token.
        now = self._services.clock.now()
        who = address_group(trace.address)
        self._rates.check(FAILED_LOGINS_PER_ADDRESS, who, now)
        try:
            trace.directory = await self._service.authenticate(_bearer(request), trace.address)
        except UnauthenticatedError:
            self._rates.take(FAILED_LOGINS_PER_ADDRESS, who, now)
            raise
        # 3. The rate.
        self._rates.take(CALLS_PER_KEY, trace.directory.org_id, now)
        if request.method != "GET":
            self._rates.take(CHANGES_PER_KEY, trace.directory.org_id, now)
        # 4. The resource.
        kind, *rest = _segments(request)
        if request.method == "GET" and (said := _discovered(kind, rest)) is not None:
            return _Answer(200, said)
        handler = self._handlers.get((request.method, kind, bool(rest)))
        if handler is None:
            raise _nothing_for(request.method, kind, rest, self._handlers)
        trace.attempted = _ATTEMPTED.get((request.method, kind), Action.SCIM_READ)
        trace.resource = rest[0][:64] if rest else ""
        if rest and not ids.is_uuid(rest[0]):
            raise NotFoundError(public=f"{kind[:-1].lower()} not found")
        # 5. The body.
        document = {}
        if request.method in ("POST", "PUT", "PATCH"):
            raw = await content.read(request)
            if self._services.clock.now() - now > content.SAID_AT_ONCE:
                trace.directory = await self._service.authenticate(_bearer(request), trace.address)
            document = read_document(raw)
        # 6. The change.
        asked = _Asked(
            by=Speaking(trace.directory, trace.request_id, trace.address),
            resource_id=UUID(rest[0]) if rest else None,
            query=_query(request),
            document=document,
        )
        it = await handler(asked)
        return it if it.body is None else replace(it, body=wire.trimmed(it.body, asked.query))

    # ── users ──

    async def _users(self, asked: _Asked) -> _Answer:
        wanted = _wanted(asked, _USER_FILTERS, USER)
        total, found, in_groups = await self._service.users(asked.by, wanted)
        return _Answer(
            200, wire.listed([wire.user(it, in_groups.get(it.id, [])) for it in found], total=total, start=wanted.start)
        )

    async def _create_user(self, asked: _Asked) -> _Answer:
        made = await self._service.create_user(asked.by, UserAttributes.read(asked.document))
        return _Answer(201, wire.user(made, []), {"Location": wire.location("Users", made.id)})

    async def _user(self, asked: _Asked) -> _Answer:
        it, in_groups = await self._service.user(asked.by, _id(asked))
        return _Answer(200, wire.user(it, in_groups.get(it.id, [])))

    async def _replace_user(self, asked: _Asked) -> _Answer:
        return await self._change_user(asked, lambda was: UserAttributes.read(asked.document, was))

    async def _patch_user(self, asked: _Asked) -> _Answer:
        operations = read_operations(asked.document, USER)
        return await self._change_user(asked, lambda was: was.patched(operations))

    async def _change_user(self, asked: _Asked, change: Callable[[UserAttributes], UserAttributes]) -> _Answer:
        it, in_groups = await self._service.change_user(asked.by, _id(asked), change)
        return _Answer(200, wire.user(it, in_groups.get(it.id, [])))

    async def _delete_user(self, asked: _Asked) -> _Answer:
        await self._service.delete_user(asked.by, _id(asked))
        return _Answer(204, None)

    # ── groups ──

    async def _groups(self, asked: _Asked) -> _Answer:
        wanted = _wanted(asked, _GROUP_FILTERS, GROUP)
        # Directories leave out what they do not need, for a group may have thousands.
        with_members = "members" not in wire.names(asked.query.get("excludedAttributes", ""))
        total, found = await self._service.groups(asked.by, wanted, with_members=with_members)
        resources = [wire.group(it, with_members=with_members) for it in found]
        return _Answer(200, wire.listed(resources, total=total, start=wanted.start))

    async def _create_group(self, asked: _Asked) -> _Answer:
        made = await self._service.create_group(asked.by, GroupAttributes.read(asked.document))
        return _Answer(201, wire.group(made), {"Location": wire.location("Groups", made.id)})

    async def _group(self, asked: _Asked) -> _Answer:
        return _Answer(200, wire.group(await self._service.group(asked.by, _id(asked))))

    async def _replace_group(self, asked: _Asked) -> _Answer:
        made = await self._service.change_group(asked.by, _id(asked), lambda _was: GroupAttributes.read(asked.document))
        return _Answer(200, wire.group(made))

    async def _patch_group(self, asked: _Asked) -> _Answer:
        operations = read_operations(asked.document, GROUP)
        made = await self._service.change_group(asked.by, _id(asked), lambda was: was.patched(operations))
        return _Answer(200, wire.group(made))

    async def _delete_group(self, asked: _Asked) -> _Answer:
        await self._service.delete_group(asked.by, _id(asked))
        return _Answer(204, None)

    # ── what failed ──

    async def _failed(self, trace: _Trace, error: CloisterError) -> Response:
        status, scim_type = errors.status_of(error), ""
        if isinstance(error, TakenError):
            status, scim_type = 409, UNIQUENESS
        elif isinstance(error, LastAdminError):
            status, scim_type = 409, MUTABILITY
        elif isinstance(error, BadRequestError):
            scim_type = INVALID_VALUE
        if status >= 500:
            _log.error("%s scim %s: %s", trace.request_id, trace.attempted, error)
        await self._record_failure(trace, error.code.lower() or errors.reason_of(error))
        return _response(
            _Answer(status, wire.error(status, error.public, scim_type), errors.headers_of(error)), trace.request_id
        )

    async def _record_failure(self, trace: _Trace, reason: str) -> None:
        """What a directory asked for and did not get is an event; what nobody is known for is counted (refusals.py)."""
        if trace.directory is None:
            refusal = Refusal(reason=reason, actor="", address=trace.address, attempted="scim")
            self._refusals.note(refusal, trace.request_id)
            return
        try:
            await self._services.audit.record(
                Event(
                    action=trace.attempted,
                    actor=trace.directory.actor,
                    outcome="failed",
                    org_id=trace.directory.org_id,
                    resource=trace.resource,
                    address=trace.address,
                    request_id=trace.request_id,
                    reason=reason,
                )
            )
        except CloisterError as second:
            _log.error("%s: cannot record a failed request: %s", trace.request_id, second)


def _response(it: _Answer, request_id: str) -> Response:
    body = b"" if it.body is None else msgspec.json.encode(it.body)
    return json_response(body, it.status, request_id, it.headers, media_type=MEDIA_TYPE)


def _bearer(request: Request) -> str:
    found = request.headers.getlist("authorization")
    match = _BEARER.fullmatch(found[0]) if len(found) == 1 else None
    if match is None:
        raise UnauthenticatedError(public="authentication required: send Authorization: Bearer <SCIM token>")
    return match[1]


def _segments(request: Request) -> list[str]:
    """Raises HttpError."""
    raw: bytes = request.scope["raw_path"]
    if not raw.startswith(PREFIX.encode() + b"/"):
        raise HttpError(404, "no such resource")
    try:
        found = raw[len(PREFIX) + 1 :].decode("ascii").split("/")
    except UnicodeDecodeError:
        raise HttpError(404, "no such resource") from None
    if not all(found) or len(found) > 2:
        raise HttpError(404, "no such resource")
    return found


def _nothing_for(
    method: str, kind: str, rest: list[str], handlers: Mapping[tuple[str, str, bool], object]
) -> HttpError:
    allowed = sorted(it for it, *where in handlers if where == [kind, bool(rest)])
    if kind == "ServiceProviderConfig" or kind in _DISCOVERED:
        allowed = ["GET"]
    if not allowed:
        return HttpError(404, "no such resource")
    return HttpError(405, f"method {method[:16]} is not allowed here", headers={"Allow": ", ".join(allowed)})


def _discovered(kind: str, rest: list[str]) -> dict[str, Any] | None:
    """None: it is not about the service itself. Raises HttpError."""
    if kind == "ServiceProviderConfig" and not rest:
        return discovery.CONFIG
    known = _DISCOVERED.get(kind)
    if known is None:
        return None
    if not rest:
        return discovery.all_of(known)
    if rest[0] not in known:
        raise HttpError(404, "no such resource")
    return known[rest[0]]


def _query(request: Request) -> dict[str, str]:
    """Raises BadRequestError for what is there twice: two readers could take two different values."""
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name in found:
            raise BadRequestError(public=f"the parameter {name[:60]} is there twice")
        found[name] = value
    return found


def _wanted(asked: _Asked, known: dict[str, str], schema: str) -> Wanted:
    """Raises ScimError, BadRequestError."""
    text = asked.query.get("filter", "")
    return Wanted(
        where=read_filter(text, known, schema) if text else {},
        start=max(1, min(_START_MAX, _number(asked.query, "startIndex", 1))),
        count=max(0, min(PAGE_MAX, _number(asked.query, "count", PAGE_MAX))),
    )


def _number(query: dict[str, str], name: str, otherwise: int) -> int:
    text = query.get(name, "")
    if not text:
        return otherwise
    if _NUMBER.fullmatch(text) is None:
        raise BadRequestError(public=f"{name} is a number")
    return int(text)


def _id(asked: _Asked) -> UUID:
    assert asked.resource_id is not None
    return asked.resource_id

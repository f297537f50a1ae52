"""The security boundary of the HTTP API: every call to every route takes the steps of `Boundary.answer`.

What a route needs it says itself (`endpoint.py`). What stays with others: matching a path (`router.py`), the decision
itself (`trust/access`), whether the change is possible, and recording it in its own transaction (`control/`). What must
stay true: a handler runs only for a principal that was authenticated and permitted, and no call changes anything without an
event in the audit log.
"""

import asyncio
import hashlib
import logging
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from cloister.base import reviewed, versions
from cloister.base.errors import (
    BadRequestError,
    CloisterError,
    ForbiddenError,
    InternalError,
    Kind,
    NotFoundError,
    UnauthenticatedError,
)
from cloister.base.ids import OrgId, ProjectId
from cloister.control.calling import named
from cloister.control.passkeys.model import PrivilegedRequest
from cloister.control.people.logins import LoginRefusedError
from cloister.control.projects.model import About, Project
from cloister.edge.api import content, errors, paths
from cloister.edge.api.acts import ACTS, Act
from cloister.edge.api.call import Call, NoBody, Services, Versioned
from cloister.edge.api.endpoint import Public, Route
from cloister.edge.api.errors import HttpError, PasskeyNeededError, json_response
from cloister.edge.api.idempotency import Answer, Slot
from cloister.edge.api.rates import (
    CALLS_PER_KEY,
    CALLS_PER_OWNER,
    CHANGES_PER_KEY,
    CHANGES_PER_OWNER,
    FAILED_LOGINS_PER_ADDRESS,
    LOGINS_PER_ADDRESS,
    Rates,
    address_group,
)
from cloister.edge.api.refusals import Refusal, Refusals
from cloister.edge.api.wire import passkeys
from cloister.trust.access.keys import KeyRefusedError
from cloister.trust.access.permissions import OF_AN_ORGANIZATION, OF_ONESELF, OF_THE_PLATFORM, Permission
from cloister.trust.access.principals import Principal
from cloister.trust.audit import Event

_log = logging.getLogger(__name__)

_BEARER: Final = re.compile(r"[Bb]earer +([!-~]{1,256})")
# RFC 6750; ours have 69 characters.

_SWEEP_INTERVAL_S: Final = 3600.0
# Kept answers are kept for a day; an hour more does no harm.

_RESOURCES: Final = (
    "role_name",
    "database_name",
    "snapshot_id",
    "jwks_id",
    "finding_id",
    "key_id",
    "member_id",
    "issuer_id",
    "group_id",
    "service_account_id",
    "permission_id",
    "passkey_id",
    "access_id",
    "recording_id",
    "shift_id",
)
"""Of a path's parameters, those that name what it is about and have no field of their own in an event."""

_TAGGED: Final = tuple(each.name for each in fields(About))
"""Of a path's parameters, those that say whose tags count."""

_TARGET_CHARS_MAX: Final = 1024
# For a person to read before they sign; what they sign is the digest of all of it.

_UNDONE: Final = frozenset(Kind) - {Kind.INTERNAL, Kind.UNAVAILABLE}
"""Errors after which nothing was changed for certain. A lost database connection may have lost only the answer."""


@dataclass(slots=True)
class _Trace:
    """What is known about a call so far: the material of its audit event."""

    request_id: str
    address: str
    client: str = ""
    change: str = ""
    route: Route | None = None
    principal: Principal | None = None
    org_id: str = ""
    path: dict[str, Any] = field(default_factory=dict)
    is_permitted: bool = False

    def event(self, outcome: str, *, reason: str = "", details: dict[str, Any] | None = None) -> Event:
        assert self.route is not None
        assert self.route.audit is not None
        assert self.principal is not None
        names = (self.path.get(each) for each in _RESOURCES)
        resource = next((name for name in names if name is not None), "")
        return Event(
            action=self.route.audit,
            actor=self.principal.actor,
            outcome=outcome,
            org_id=self.org_id,
            project_id=self.path.get("project_id", ""),
            branch_id=self.path.get("branch_id", ""),
            endpoint_id=self.path.get("endpoint_id", ""),
            operation_id=self.path.get("operation_id", ""),
            resource=str(resource),
            address=self.address,
            request_id=self.request_id,
            reason=reason,
            details=named(self.client)
            | reviewed.details(self.change)
            | {"key_id": self.principal.key_id, **(details or {})},
        )


@dataclass(frozen=True, slots=True)
class _Where:
    """Where a principal holds a permission."""

    org_ids: tuple[OrgId, ...] = ()
    project_ids: tuple[ProjectId, ...] = ()
    """Besides what is in these organizations."""
    project: Project | None = None
    """The one that the path names."""
    tags: frozenset[str] = frozenset()
    """Of what in it the path names."""


class Boundary:
    def __init__(self, services: Services) -> None:
        self._services = services
        self._rates = Rates()
        self.refusals = Refusals(services.audit)

    async def answer(self, request: Request, find_route: Callable[[], tuple[Route, dict[str, str]]]) -> Response:
        """The answer to one call. Never raises, except when the task is cancelled."""
        # (1) A request id of our own: it joins the answer, the audit event and the log line. One that the client
        #     sends is not taken over, for it could be another call's.
        address = request.client.host if request.client else ""
        trace = _Trace(str(uuid.uuid4()), address, content.client(request))
        try:
            return await self._procedure(request, find_route, trace)
        except CloisterError as error:
            if errors.status_of(error) >= 500:
                _log.error("%s %s: %s", trace.request_id, trace.route and trace.route.path, error)
            await self._record_failure(trace, error)
            return errors.response(error, trace.request_id)
        except Exception:
            # The outermost frame: a bug of ours must neither reach the client nor stop the server.
            _log.exception("%s %s", trace.request_id, trace.route and trace.route.path)
            internal = InternalError()
            await self._record_failure(trace, internal)
            return errors.response(internal, trace.request_id)

    async def sweep(self) -> None:
        """Forget kept answers that are older than a day, until cancelled."""
        while True:
            try:
                await self._services.answers.sweep(self._services.clock.now())
            except CloisterError as error:
                _log.warning("cannot sweep kept answers: %s", error)
            await asyncio.sleep(_SWEEP_INTERVAL_S)

    async def _procedure(
        self, request: Request, find_route: Callable[[], tuple[Route, dict[str, str]]], trace: _Trace
    ) -> Response:
        now = self._services.clock.now()

        # (2) What the head says: its own size, the size and the type of the body, which reviewed change this is, and which
        #     version it is for. The body itself is not read yet.
        content.check_declared(request)
        trace.change = reviewed.parse(request.headers.getlist(reviewed.HEADER))
        condition = versions.parse(request.headers.getlist(versions.HEADER))
        try:
            route, parameters = find_route()
        except HttpError:
            # What there is not is nobody's to learn without a key either.
            await self._identify(request, trace, now)
            raise
        trace.route = route

        if isinstance(route.permission, Public):
            _require_compared(condition, route)
            return await self._answer_publicly(route, request, trace, now)

        # (3) Who asks.  (4) How often.
        principal = await self._identify(request, trace, now)
        if route.is_change:
            self._rates.take(CHANGES_PER_KEY, str(principal.key_id), now)
            self._rates.take(CHANGES_PER_OWNER, principal.owner, now)

        # (5) What it is about: the ids in the path become ids, and lead to the organization that decides.
        trace.path = paths.parse(parameters)

        # (6) Whether they may. A project that is not there and one that this principal may not know of look the same.
        principal, where = await self._admit(principal, route, route.permission, trace)
        trace.is_permitted = True
        _require_compared(condition, route)

        # (7) Only now the body is read, at most 1 MiB of it, and the query parsed. Who takes their time over it is looked at
        #     again: with a request that waits for its last byte nobody keeps what was taken from them meanwhile.
        raw = await content.read(request) if route.body is not NoBody else b""
        if self._services.clock.now() - now > content.SAID_AT_ONCE:
            principal = await self._services.api_keys.authenticate(_bearer(request), trace.address)
            principal, where = await self._admit(principal, route, route.permission, trace)
        query: Any = content.decode_query(request.query_params.multi_items(), route.query)
        body = content.decode(raw, route.decoder) if route.body is not NoBody else NoBody()
        call: Call[Any, Any] = Call(
            services=self._services,
            request_id=trace.request_id,
            address=trace.address,
            client=trace.client,
            change=trace.change,
            now=now,
            principal=principal,
            org_ids=where.org_ids,
            project_ids=where.project_ids,
            project=where.project,
            path=trace.path,
            query=query,
            body=body,
            grants=self._grants(principal, route, where),
            tags=where.tags,
            condition=condition,
        )

        # (8) What is privileged takes a passkey, shown for this very request, from whoever has one or is asked for one. Before
        #     the answer to a repeated request, too: it may hold a key.
        act = ACTS.get(route.name)
        if act is not None and act.is_it(body):
            await self._prove(request, act, call, raw, OrgId(trace.org_id) if trace.org_id else None)

        # (9) The same request again, with the same Idempotency-Key, gets the same answer and no second effect.
        key = request.headers.get("idempotency-key")
        if key is not None and route.method == "POST":
            slot = Slot.of(principal, key, method=route.method, target=_target(request), body=raw)
            return await self._answer_once(route, call, slot, trace)

        # (10) The handler. A change was recorded in the transaction that made it; a read is recorded here, before its
        #     answer leaves: if it cannot be recorded, it is not answered. Deleting what is not there changes nothing and
        #     is recorded here as well.
        answer = await self._run(route, call)
        if route.is_recorded_here:
            if condition is not None:
                condition.require(answer.version)
            await self._services.audit.record(trace.event("ok"))
        elif answer.status == 204 != route.status:
            await self._services.audit.record(trace.event("ok", details={"was_there": False}))
        headers = {versions.ANSWER: versions.tag(answer.version)} if answer.version else None
        return json_response(answer.body, answer.status, trace.request_id, headers)

    async def _identify(self, request: Request, trace: _Trace, now: datetime) -> Principal:
        """Steps (3) and (4). Raises UnauthenticatedError, TooManyRequestsError."""
        # (3) An address that has just failed often is not even looked at.
        who = address_group(trace.address)
        self._rates.check(FAILED_LOGINS_PER_ADDRESS, who, now)
        try:
            principal = await self._services.api_keys.authenticate(_bearer(request), trace.address)
        except UnauthenticatedError:
            self._rates.take(FAILED_LOGINS_PER_ADDRESS, who, now)
            raise
        trace.principal = principal

        # (4) Before the decision, so that refused calls are limited too.
        self._rates.take(CALLS_PER_KEY, str(principal.key_id), now)
        self._rates.take(CALLS_PER_OWNER, principal.owner, now)
        return principal

    async def _admit(
        self, principal: Principal, route: Route, permission: Permission, trace: _Trace
    ) -> tuple[Principal, _Where]:
        """Step (6). That they show a passkey for it may count, for where it counts (8) does not let them pass without. Raises
        ForbiddenError or NotFoundError."""
        act = ACTS.get(route.name)
        if act is not None and act.when is None and principal.has_passkey:
            principal = replace(principal, with_passkey=True)
        return principal, await self._authorize(principal, route, permission, trace)

    async def _authorize(self, principal: Principal, route: Route, permission: Permission, trace: _Trace) -> _Where:
        """Where the principal has the permission: in the organization of the path's project, in the one the path names,
        or, where it names neither or leads there from outside, everywhere that grants it. Raises ForbiddenError or NotFoundError."""
        decider = self._services.decider
        if permission in OF_ONESELF or permission in OF_THE_PLATFORM:
            decider.authorize(principal, permission)
            return _Where()
        if "project_id" in trace.path and not route.from_outside:
            try:
                asked = await self._services.control.projects.about(
                    ProjectId(trace.path["project_id"]),
                    About() if route.of_others_too else About(**{name: trace.path.get(name) for name in _TAGGED}),
                    and_deleted=route.and_deleted,
                )
                project = asked.project
                decider.authorize(principal, permission, org_id=project.org_id, project_id=project.id, tags=asked.tags)
            except NotFoundError:
                raise NotFoundError(public="project not found") from None
            trace.org_id = project.org_id
            return _Where((project.org_id,), project=project, tags=asked.tags)
        if "org_id" in trace.path:
            try:
                decider.authorize(principal, permission, org_id=trace.path["org_id"])
            except NotFoundError:
                raise NotFoundError(public="organization not found") from None
            trace.org_id = trace.path["org_id"]
            return _Where((OrgId(trace.path["org_id"]),))
        where = self._everywhere(principal, permission)
        if len(where.org_ids) == 1:
            trace.org_id = where.org_ids[0]
        return where

    def _everywhere(self, principal: Principal, permission: Permission) -> _Where:
        """Organizations in which it is held for all there is, and single projects of others."""
        refusal: CloisterError = ForbiddenError()
        org_ids, project_ids = [], []
        for org_id in sorted(principal.memberships):
            try:
                self._services.decider.authorize(principal, permission, org_id=org_id)
                org_ids.append(OrgId(org_id))
            except (ForbiddenError, NotFoundError) as error:
                refusal = error
        for project_id, grant in sorted(principal.grants.items()):
            if grant.org_id in org_ids or permission in OF_AN_ORGANIZATION:
                continue
            try:
                self._services.decider.authorize(principal, permission, org_id=grant.org_id, project_id=project_id)
                project_ids.append(ProjectId(project_id))
            except (ForbiddenError, NotFoundError) as error:
                refusal = error
        if not org_ids and not project_ids:
            raise ForbiddenError(str(refusal), public=refusal.public if refusal.kind is Kind.FORBIDDEN else None)
        return _Where(tuple(org_ids), tuple(project_ids))

    def _grants(self, principal: Principal, route: Route, where: _Where) -> frozenset[Permission]:
        """Of what the route may need, what the principal holds."""
        held, project = set(), where.project
        for permission in route.may_need:
            assert project is not None, "may_need is about a project"
            try:
                self._services.decider.authorize(
                    principal, permission, org_id=project.org_id, project_id=project.id, tags=where.tags
                )
            except (ForbiddenError, NotFoundError):
                continue
            held.add(permission)
        return frozenset(held)

    async def _prove(self, request: Request, act: Act, call: Call[Any, Any], raw: bytes, org_id: OrgId | None) -> None:
        """Step (8). Raises PasskeyNeededError with a challenge, PasskeyRefusedError, BadRequestError."""
        target = _target(request)
        digest = hashlib.sha256()
        for part in (request.method.encode(), target, raw):
            digest.update(len(part).to_bytes(8, "big") + part)
        asked = PrivilegedRequest(
            act=act.what,
            target=f"{request.method} {target.decode('ascii', 'backslashreplace').removesuffix('?')}"[
                :_TARGET_CHARS_MAX
            ],
            request=digest.digest(),
            org_id=org_id,
            always=act.always,
        )
        said = request.headers.getlist(passkeys.HEADER)
        if len(said) > 1:
            raise BadRequestError(public=f"{passkeys.HEADER} was sent twice")
        assertion = passkeys.assertion(said[0]) if said else None
        challenge = await self._services.control.proofs.ask(call.caller, asked, assertion)
        if challenge is not None:
            raise PasskeyNeededError(passkeys.ceremony(challenge))

    async def _answer_once(self, route: Route, call: Call[Any, Any], slot: Slot, trace: _Trace) -> Response:
        answers = self._services.answers
        kept = await answers.begin(slot, call.now)
        if kept is not None:
            # The answer may hold a password: giving it again is an event.
            await self._services.audit.record(trace.event("ok", details={"replayed": True}))
            return json_response(kept.body, kept.status, trace.request_id, {"Idempotent-Replayed": "true"})
        try:
            answer = await self._run(route, call)
        except CloisterError as error:
            if error.kind in _UNDONE:
                await answers.abandon(slot)
            raise
        try:
            await answers.finish(slot, answer)
        except CloisterError as error:
            # The work is done and its answer must not be lost with it; a repetition will be told to look first.
            _log.error("%s: cannot keep the answer: %s", trace.request_id, error)
        return json_response(answer.body, answer.status, trace.request_id)

    async def _answer_publicly(self, route: Route, request: Request, trace: _Trace, now: datetime) -> Response:
        """As (4) and (7), of whom nobody knows. What is refused is counted (refusals.py); what is done, the service records."""
        if route.is_change:
            self._rates.take(LOGINS_PER_ADDRESS, address_group(trace.address), now)
        raw = await content.read(request) if route.body is not NoBody else b""
        call: Call[Any, Any] = Call(
            services=self._services,
            request_id=trace.request_id,
            address=trace.address,
            now=now,
            principal=_NOBODY,
            org_ids=(),
            project=None,
            path={},
            query=content.decode_query(request.query_params.multi_items(), route.query),
            body=content.decode(raw, route.decoder) if route.body is not NoBody else NoBody(),
        )
        answer = await self._run(route, call)
        return json_response(answer.body, answer.status, trace.request_id)

    async def _run(self, route: Route, call: Call[Any, Any]) -> Answer:
        result = await route.handler(call)
        if result is None:
            assert route.answer_is_optional or route.status == 204
            return Answer(204, b"")
        if isinstance(result, Versioned):
            return Answer(route.status, msgspec.json.encode(result.answer), result.version)
        return Answer(route.status, msgspec.json.encode(result))

    async def _record_failure(self, trace: _Trace, error: CloisterError) -> None:
        """A call that was permitted and failed gets its own event. What was refused before is counted (refusals.py)."""
        reason = errors.reason_of(error)
        if not trace.is_permitted:
            actor, subject = trace.principal.actor if trace.principal else "", ""
            if isinstance(error, KeyRefusedError | LoginRefusedError):
                reason, actor, subject = error.why, error.actor, error.subject
            refusal = Refusal(
                reason=reason,
                actor=actor,
                address=trace.address,
                attempted=trace.route.audit or "" if trace.route else "",
                project_id=trace.path.get("project_id", ""),
                resource=subject,
            )
            self.refusals.note(refusal, trace.request_id)
            return
        try:
            await self._services.audit.record(trace.event("failed", reason=reason))
        except CloisterError as second:
            _log.error("%s: cannot record a failed call: %s", trace.request_id, second)


_NOBODY: Final = Principal(account_id=uuid.UUID(int=0), key_id=0, email="", name="", memberships={})


def _bearer(request: Request) -> str:
    """The API key. Neon's tools send it a second time in a cookie; cookies are not read at all, since a browser would
    send them along with another site's requests."""
    found = request.headers.getlist("authorization")
    match = _BEARER.fullmatch(found[0]) if len(found) == 1 else None
    if match is None:
        raise UnauthenticatedError(public="authentication required: send Authorization: Bearer <API key>")
    return match[1]


def _require_compared(condition: versions.Condition | None, route: Route) -> None:
    """Who asks for a version is not answered as if they had not."""
    if condition is not None and not route.versioned:
        raise BadRequestError(public=f"{versions.HEADER} is not compared here: {route.method} {route.path}")


def _target(request: Request) -> bytes:
    scope = request.scope
    return bytes(scope["raw_path"]) + b"?" + bytes(scope["query_string"])

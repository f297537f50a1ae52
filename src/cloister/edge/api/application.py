"""The ASGI application: the API under `/api/v2`, SCIM under `/scim/v2`, a signpost at `/`, a page at `/passkeys`, and the same headers on every answer."""

import uuid
from functools import cache
from typing import Final

import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount
from starlette.routing import Route as StarletteRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cloister.edge.api import openapi, pages
from cloister.edge.api.boundary import Boundary
from cloister.edge.api.call import Services
from cloister.edge.api.endpoint import Route
from cloister.edge.api.errors import HttpError, json_response, response
from cloister.edge.api.router import Router
from cloister.edge.api.routes import ROUTES
from cloister.edge.api.scim import PREFIX as SCIM_PREFIX
from cloister.edge.api.scim import Scim

PREFIX: Final = b"/api/v2"

_SECURITY_HEADERS: Final = (
    (b"strict-transport-security", b"max-age=63072000; includeSubDomains"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class _SecurityHeaders:
    """Adds to every answer what it does not say itself. There is no CORS header: no other site's page may read us."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                said = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(h for h in _SECURITY_HEADERS if h[0] not in said)]
            await send(message)

        await self._app(scope, receive, send_with_headers)


class Api:
    """Everything under PREFIX."""

    def __init__(self, boundary: Boundary, routes: tuple[Route, ...] = ROUTES) -> None:
        self._boundary = boundary
        self._router = Router(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive, send)

        def find_route() -> tuple[Route, dict[str, str]]:
            raw_path: bytes = scope["raw_path"]
            if not raw_path.startswith(PREFIX + b"/"):  # `/api%2fv2/…` is not a second name for it
                raise HttpError(404, "no such route")
            return self._router.match(scope["method"], raw_path[len(PREFIX) :])

        answer = await self._boundary.answer(request, find_route)
        await answer(scope, receive, send)


class _Signpost(msgspec.Struct, frozen=True):
    name: str
    api: str
    openapi: str


@cache
def _description(version: str) -> bytes:
    """Made once, however many applications there are: tests make thousands, and it takes longer than the rest of one."""
    return openapi.document(ROUTES, version)


def create_app(services: Services) -> Starlette:
    """The application. Its refusals are written to the audit log by `app.state.boundary.refusals.run()`, which
    `server.serve` runs beside it."""
    boundary = Boundary(services)

    description = _description(services.version)

    async def signpost(_request: Request) -> Response:
        body = _Signpost("Cloister", PREFIX.decode(), f"{PREFIX.decode()}/openapi.json")
        return json_response(msgspec.json.encode(body), 200, str(uuid.uuid4()))

    async def describe(_request: Request) -> Response:
        return json_response(description, 200, str(uuid.uuid4()))

    async def sign(_request: Request) -> Response:
        return pages.passkeys()

    async def not_found(_request: Request, _error: Exception) -> Response:
        return response(HttpError(404, "no such route"), str(uuid.uuid4()))

    async def wrong_method(_request: Request, _error: Exception) -> Response:
        return response(HttpError(405, "method not allowed"), str(uuid.uuid4()))

    app = Starlette(
        routes=[
            StarletteRoute(f"{PREFIX.decode()}/openapi.json", describe, methods=["GET"]),
            Mount(PREFIX.decode(), app=Api(boundary)),
            Mount(SCIM_PREFIX, app=Scim(services, boundary.refusals)),
            StarletteRoute("/", signpost, methods=["GET"]),
            StarletteRoute(pages.PATH, sign, methods=["GET"]),
        ],
        middleware=[Middleware(_SecurityHeaders)],
        exception_handlers={404: not_found, 405: wrong_method},
    )
    app.state.boundary = boundary
    return app

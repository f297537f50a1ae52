"""From the bytes of a request's target to a route and its parameters.

Paths are split at `/` *before* they are percent-decoded, so `roles/a%2Fb` names the role `a/b` and no decoding can turn
one segment into two. A segment that is empty, or not UTF-8 when decoded, matches nothing. There is no
redirect, no trailing slash and no `..`: what is not in the table is not there.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote_to_bytes

from cloister.edge.api.endpoint import Route
from cloister.edge.api.errors import HttpError

SEGMENTS_MAX: Final = 16
# The longest route has eight.


@dataclass(slots=True)
class _Node:
    words: dict[str, "_Node"] = field(default_factory=dict)
    parameter: tuple[str, "_Node"] | None = None
    routes: dict[str, Route] = field(default_factory=dict)


class Router:
    def __init__(self, routes: Iterable[Route]) -> None:
        self._root = _Node()
        for route in routes:
            self._add(route)

    def match(self, method: str, raw_path: bytes) -> tuple[Route, dict[str, str]]:
        """Raises HttpError 404 or 405."""
        node = self._root
        parameters: dict[str, str] = {}
        raw_segments = raw_path.removeprefix(b"/").split(b"/")
        if len(raw_segments) > SEGMENTS_MAX:
            raise HttpError(404, "no such route")
        for raw in raw_segments:
            try:
                segment = unquote_to_bytes(raw).decode()
            except UnicodeDecodeError:
                raise HttpError(404, "no such route") from None
            if segment in node.words:
                node = node.words[segment]
            elif node.parameter is not None and segment:
                name, node = node.parameter
                parameters[name] = segment
            else:
                raise HttpError(404, "no such route")
        if method not in node.routes:
            if not node.routes:
                raise HttpError(404, "no such route")
            allowed = ", ".join(sorted(node.routes))
            raise HttpError(405, f"method {method[:16]} is not allowed here", headers={"Allow": allowed})
        return node.routes[method], parameters

    def _add(self, route: Route) -> None:
        node = self._root
        for segment in route.path.removeprefix("/").split("/"):
            if segment.startswith("{"):
                name = segment[1:-1]
                if node.parameter is None:
                    node.parameter = (name, _Node())
                assert node.parameter[0] == name, f"{route.path}: two names for one place"
                node = node.parameter[1]
            else:
                node = node.words.setdefault(segment, _Node())
        assert route.method not in node.routes, f"{route.method} {route.path} twice"
        node.routes[route.method] = route

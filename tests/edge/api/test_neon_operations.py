"""Every operation that Neon's API has is served, or left out for a reason that is written down."""

import re

from cloister.edge.api.routes import ROUTES
from tests.edge.api.world import World
from tests.house.source import ROOT
from tests.neon_description import description
from tests.npm import NODE_MODULES

METHODS = {"get", "post", "put", "patch", "delete"}


def operations() -> set[tuple[str, str]]:
    """Method and path: of the description, and of the SDK, which is newer."""
    found = {
        (method.upper(), path) for path, item in description()["paths"].items() for method in METHODS & item.keys()
    }
    source = (NODE_MODULES / "@neon/sdk/dist/client/sdk.gen.js").read_text()
    calls = re.findall(r'client\)\.(get|post|put|patch|delete)\(\{.*?url: "(/[^"]*)"', source, re.DOTALL)
    assert len(calls) > 150
    found |= {(method.upper(), path) for method, path in calls}
    return {(method, path.replace("{source_org_id}", "{org_id}")) for method, path in found}


def left_out() -> list[re.Pattern[str]]:
    """What docs/compatibility.md leaves out."""
    _, _, section = (ROOT / "docs/compatibility.md").read_text().partition("## What is not there")
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return [
        re.compile(".+".join(map(re.escape, words.split("…"))))
        for row in rows
        for words in re.findall("`([^`]+)`", row)
    ]


def test_none_is_forgotten() -> None:
    ours = {(route.method, route.path) for route in ROUTES}
    unspoken = {
        f"{method} {path}"
        for method, path in operations() - ours
        if not any(pattern.fullmatch(path) for pattern in left_out())
    }
    assert unspoken == set()


def test_each_reason_is_about_something() -> None:
    paths = {path for _, path in operations()}
    assert [it.pattern for it in left_out() if not any(it.fullmatch(path) for path in paths)] == []


def test_neon_has_as_many_operations_as_we_know_of() -> None:
    """More would be a new version's, to be looked at."""
    assert len(operations()) == 180


async def test_without_a_key_none_is_answered_whether_it_is_there_or_not() -> None:
    """A stranger cannot tell what is served from what is not."""
    asked = [*sorted(operations()), ("GET", "/nothing"), ("PUT", "/regions"), ("GET", "/projects//branches")]
    said = set()
    for number, (method, path) in enumerate(asked):
        # Each from an address of its own: who fails often is told to come back later.
        async with World().client(None, address=f"192.0.2.{number}") as client:
            answer = await client.request(method, re.sub(r"{\w+}", "calm-forest-00000001", path), json={})
        said.add((answer.status_code, answer.headers["www-authenticate"], answer.json()["message"]))
    assert [(status, header) for status, header, _ in said] == [(401, "Bearer")]

"""What a page of somebody else could make a browser do with us: frame us, read us, call us with what the browser keeps, run what a tenant
wrote into a name."""

import json
import threading
import urllib.request
from collections.abc import AsyncIterator
from typing import Any, Final
from urllib.parse import quote

import httpx
import pytest

from cloister.cli.loopback import Loopback
from tests.edge.api.test_routes import BY_NAME, CASES
from tests.edge.api.world import ADA_KEY, World

EVIL: Final = "https://evil.example"
MARKUP: Final = "<img src=x onerror=alert(1)>\"'</script><script>alert(1)</script>"

HEADERS: Final = {
    "Origin": EVIL,
    "Access-Control-Request-Method": "POST",
    "Cookie": f"session={ADA_KEY}",
    "Accept": "text/html",
}


async def answers() -> AsyncIterator[httpx.Response]:
    """One of each route, and what is refused on the way to one."""
    world = World()
    async with world.client() as client:
        client.headers.update(HEADERS)
        for case in CASES:
            yield await client.request(BY_NAME[case.route].method, case.path, json=case.body)
        for method, path in (
            ("GET", "https://api.test/"), ("GET", "https://api.test/passkeys"), ("GET", "https://api.test/api/v2/openapi.json"),
            ("GET", "https://api.test/nowhere"), ("POST", "https://api.test/passkeys"), ("GET", "https://api.test/scim/v2/Users"),
            ("OPTIONS", "/projects"), ("OPTIONS", "https://api.test/passkeys"), ("TRACE", "/projects"), ("GET", "/nowhere"),
            ("GET", f"/projects/{quote(MARKUP, safe='')}"), ("GET", f"/projects?search={quote(MARKUP)}"),
            ("GET", f"https://api.test/passkeys?{quote(MARKUP)}"),
        ):  # fmt: skip
            yield await client.request(method, path)
        yield await client.post("/projects", content=b"{" + MARKUP.encode())
        yield await client.post("/projects", json={MARKUP: MARKUP})
    async with world.client(None) as stranger:
        yield await stranger.get("/projects")


async def test_no_answer_is_framed_sniffed_kept_or_read_by_another_site() -> None:
    seen: set[int] = set()
    async for answer in answers():
        where = f"{answer.request.method} {answer.request.url}"
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy, where
        assert "frame-ancestors 'none'" in policy, where
        assert "unsafe" not in policy, where
        assert answer.headers["x-frame-options"] == "DENY", where
        assert answer.headers["x-content-type-options"] == "nosniff", where
        assert answer.headers["cross-origin-resource-policy"] == "same-origin", where
        assert answer.headers["referrer-policy"] == "no-referrer", where
        assert not [name for name in answer.headers if name.startswith("access-control-")], where
        assert EVIL not in str(answer.headers), where
        assert "set-cookie" not in answer.headers, where
        seen.add(answer.status_code)
    assert {200, 401, 404, 405} <= seen


async def test_html_is_one_page_that_is_always_the_same() -> None:
    """Whatever a name, a path or a parameter has in it stands in JSON, which no browser renders."""
    pages: set[str] = set()
    async for answer in answers():
        kind = answer.headers.get("content-type", "")
        if answer.request.url.path == "/passkeys" and answer.status_code == 200:
            assert kind.startswith("text/html")
            pages.add(answer.text)
        elif answer.content:
            assert kind.partition(";")[0] in ("application/json", "application/scim+json"), answer.request.url
            json.loads(answer.content)
    (page,) = pages
    assert "alert(1)" not in page


async def test_a_name_with_markup_is_text_in_json() -> None:
    async with World().client() as client:
        made = await client.post("/projects", json={"project": {"name": MARKUP}})
    assert made.status_code == 201
    assert made.headers["content-type"] == "application/json"
    assert made.json()["project"]["name"] == MARKUP


@pytest.mark.parametrize("kept", [f"session={ADA_KEY}", f"Authorization=Bearer {ADA_KEY}", f"api_key={ADA_KEY}"])
async def test_what_a_browser_keeps_lets_nobody_in(kept: str) -> None:
    """A cookie, or a parameter in an address that it remembers."""
    world = World()
    async with world.client(None) as client:
        client.headers.update({"Cookie": kept, "Origin": EVIL})
        assert (await client.post("/projects", json={"project": {}})).status_code == 401
        assert (await client.get("/projects", params={"api_key": ADA_KEY})).status_code == 401
    assert {event.action for event in world.audit.events} <= {"api.refused"}


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
async def test_a_form_of_another_site_is_no_call(kind: str) -> None:
    """These are the kinds that a browser sends anywhere without asking; even with the right key."""
    world = World()
    async with world.client() as client:
        answer = await client.post(
            "/projects", content=b'{"project": {}}', headers={"Content-Type": kind, "Origin": EVIL}
        )
    assert answer.status_code == 415
    assert {event.action for event in world.audit.events} <= {"api.refused"}


def test_the_page_after_a_login_is_no_better_to_frame() -> None:
    """On the loopback interface, where the command line waits for the browser."""
    with Loopback() as loopback:
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(loopback.wait("/done", "s")))
        thread.start()
        with urllib.request.urlopen(f"http://127.0.0.1:{loopback.port}/done?state=s&name={quote(MARKUP)}") as answer:
            said, headers = answer.read(), answer.headers
        thread.join()
    assert found[0]["name"] == MARKUP
    assert b"alert" not in said
    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["access-control-allow-origin"] is None

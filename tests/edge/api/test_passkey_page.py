"""The page at `/passkeys`: its content policy; and in a real browser, with a real front door, from the registration to the act."""

import asyncio
import base64
import json
import re
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from cloister.edge.api.tls import ServerCertificate
from cloister.protocol.webauthn import Registration
from tests.edge.api.serving import serving, write_certificate
from tests.edge.api.world import World
from tests.fix_database import DatabaseAs
from tests.npm import CLIENTS
from tests.passkey_scene import ACT_ROUTES, BOB, Scene, b64, challenge_in
from tests.soft_authenticator import RP_ID

STATE = "s" * 43


async def test_nothing_runs_in_it_but_what_its_policy_names() -> None:
    async with World().client(None) as client:
        answer = await client.get("https://api.test/passkeys")
    policy = dict(part.partition(" ")[::2] for part in answer.headers["content-security-policy"].split("; "))
    assert answer.status_code == 200
    for tag in ("script", "style"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", answer.text, re.DOTALL)
        assert policy[f"{tag}-src"] == f"'sha256-{base64.b64encode(sha256(content.encode()).digest()).decode()}'"
        assert answer.text.count(f"<{tag}") == 1
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert not re.search(r"\son\w+=|style=|javascript:|innerHTML|document\.write|eval\(", answer.text)
    assert answer.headers["cross-origin-opener-policy"] == "same-origin"
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["cache-control"] == "no-store"


class Browser:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def open(self, url: str) -> dict[str, Any]:
        """What the page said; and where it went, if it let its passkey be used."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(url.encode() + b"\n")
        async with asyncio.timeout(120):
            line = await self._process.stdout.readline()
        found: dict[str, Any] = json.loads(line)
        return found


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    if shutil.which("chromium") is None or not (CLIENTS / "node_modules").exists():
        pytest.fail("Chromium and the packages of tests/clients are needed: scripts/test installs them")
    process = await asyncio.create_subprocess_exec(
        "node",
        str(Path(__file__).with_name("passkey_page.js")),
        cwd=CLIENTS,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "NODE_PATH": str(CLIENTS / "node_modules"), "HOME": "/tmp"},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Browser(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


def brought(target: str) -> dict[str, Any]:
    """What the browser takes to the command that waits."""
    parts = urlsplit(target)
    assert (parts.scheme, parts.netloc, parts.path) == ("http", "127.0.0.1:40000", "/passkey")
    said = parse_qs(parts.query)
    assert said["state"] == [STATE]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(said["credential"][0] + "=="))
    return found


@pytest.mark.root
async def test_from_the_registration_to_the_act_in_a_real_browser(
    database_as: DatabaseAs, tmp_path: Path, browser: Browser
) -> None:
    """Bob, who has none yet, and a project that he deletes. Each link is good for what it was made for, once."""
    scene = await Scene(await database_as("cloister_api")).begin()
    world = scene.world
    world.app.state.boundary._services = replace(
        world.app.state.boundary._services,
        control=replace(world.app.state.boundary._services.control, passkeys=scene.service),
    )
    chain, key = write_certificate(tmp_path)
    async with serving(ServerCertificate(chain, key), world) as server:
        here = f"https://{RP_ID}:{server.port}/passkeys#"
        caller = await scene.caller(scene.bobs_key)
        challenge = (await scene.service.begin(caller)).challenge
        link = f"{here}{b64(challenge)}.40000.{STATE}"
        shown = await browser.open(link)
        assert "register a passkey" in shown["said"]
        response = brought(shown["target"])["response"]
        said = Registration(*(_bytes(response[name]) for name in ("clientDataJSON", "attestationObject")))
        await scene.service.add(caller, "in Chromium", said)
        assert "this link was used, or is over" in (await browser.open(link))["said"]

        (route,) = [it for it in ACT_ROUTES if it.name == "delete_project"]
        challenge = challenge_in(await scene.call(route, scene.bobs_key))
        shown = await browser.open(f"{here}{b64(challenge)}.40000.{STATE}")
        assert "delete a project" in shown["said"]
        assert "DELETE /api/v2/projects/calm-forest-00000001" in shown["said"]
        assert "192.0.2.1" in shown["said"]
        assert shown["faults"] == [], "the browser refused nothing, by the content policy for one"
        signed = {"Cloister-Assertion": b64(json.dumps(brought(shown["target"])).encode())}
        assert (await scene.call(route, scene.bobs_key, headers=signed)).status_code == 200
        assert [it["actor"] for it in await scene.events("passkey.use")] == [f"user:{BOB}"]
        for wrong in (f"{b64(challenge)}.evil.example/x.{STATE}", f"{b64(challenge)}.80.{STATE}", "x"):
            assert "target" not in await browser.open(here + wrong)


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))

"""`cloister passkeys`, and what a command does that is told to bring a passkey's word."""

import base64
import json
import re
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest

from cloister.cli import loopback as waiting
from tests.cli.conftest import Asked, FakeApi, Run
from tests.cli.test_login import get

PASSKEYS = "/cloister/users/me/passkeys"
MINE = {"id": "00000000-0000-0000-0000-000000000046", "name": "key ring", "created_at": "2026-03-04T05:06:07Z"}
CREDENTIAL = {"id": "QQ", "response": {"clientDataJSON": "e30"}}
CHALLENGE = "c" * 43
CREATE = {
    "act": "register a passkey",
    "target": "ada@example.com",
    "address": "192.0.2.1",
    "create": {"rp": {"id": "localhost"}, "challenge": CHALLENGE},
}
GET = {
    "act": "delete a project",
    "target": "DELETE /api/v2/projects/p",
    "address": "192.0.2.1",
    "get": {"rpId": "localhost", "challenge": CHALLENGE},
}


def needed(**differs: Any) -> tuple[int, Any]:
    return 428, {
        "code": "PASSKEY_NEEDED",
        "message": "this takes a passkey",
        "request_id": "r",
        "passkey": GET | differs,
    }


@pytest.fixture
def browser(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is opened; it signs, and comes back."""
    opened: list[str] = []

    def open_browser(url: str) -> bool:
        opened.append(url)
        _, port, state = urlsplit(url).fragment.split(".")
        brought = {"state": state, "credential": base64.urlsafe_b64encode(json.dumps(CREDENTIAL).encode()).decode()}
        threading.Thread(target=get, args=(f"http://127.0.0.1:{port}/passkey?{urlencode(brought)}",)).start()
        return True

    monkeypatch.setattr("webbrowser.open", open_browser)
    monkeypatch.setattr("cloister.cli.signing._somebody_is_there", lambda: True)
    return opened


def signed(asked: Asked) -> Any:
    text = asked.headers["Cloister-Assertion"]
    return json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))


def test_registered_listed_and_removed(api: FakeApi, cloister: Run, browser: list[str]) -> None:
    api.on("GET", PASSKEYS, (200, {"passkeys": []}), (200, {"passkeys": [MINE]}))
    api.on("POST", PASSKEYS + "/begin", (201, CREATE))
    api.on("POST", PASSKEYS, (201, MINE))
    api.on("DELETE", f"{PASSKEYS}/{MINE['id']}", (200, MINE))
    assert "cloister passkeys add" in cloister("passkeys", "list").err
    said = cloister("passkeys", "add", "key ring")
    assert said.code == 0, said.err
    (url,) = browser
    assert re.fullmatch(rf"https://localhost:{api.port}/passkeys#{CHALLENGE}\.\d+\.[\w-]{{43}}", url)
    assert api.bodies("POST")[-1] == {"name": "key ring", "credential": CREDENTIAL}
    assert cloister("passkeys", "remove", "another").code == 1
    assert cloister("passkeys", "remove", "key ring").code == 0


def test_a_privileged_request_is_repeated_as_it_was_with_what_was_signed(
    api: FakeApi, cloister: Run, browser: list[str]
) -> None:
    api.on("POST", "/api_keys", needed(), (200, {"id": 7, "key": "napi_new", "name": "ci"}))
    said = cloister("api-keys", "create", "--name", "ci")
    assert said.code == 0, said.err
    first, second = [it for it in api.asked if it.path == "/api/v2/api_keys"]
    assert "Cloister-Assertion" not in first.headers
    assert signed(second) == CREDENTIAL
    assert (second.body, second.headers["Idempotency-Key"]) == (first.body, first.headers["Idempotency-Key"])


def test_what_was_signed_is_good_once(api: FakeApi, cloister: Run, browser: list[str]) -> None:
    """The project was busy: it is signed again, and not sent again."""
    api.on("POST", "/api_keys", needed(), (423, {"message": "busy"}), needed(), (200, {"id": 7, "key": "napi_new"}))
    assert cloister("api-keys", "create", "--name", "ci").code == 0
    assert ["Cloister-Assertion" in it.headers for it in api.asked] == [False, True, False, True]
    assert len(set(browser)) == 2


def test_a_platform_that_is_never_content(api: FakeApi, cloister: Run, browser: list[str]) -> None:
    api.on("POST", "/api_keys", needed())
    refused = cloister("api-keys", "create", "--name", "ci")
    assert (refused.code, "this takes a passkey" in refused.err, len(browser)) == (1, True, 1)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (needed(get={"rpId": "example.com", "challenge": CHALLENGE}), "for example.com"),
        (needed(get={"rpId": "localhost", "challenge": "#/../"}), "what to sign"),
        (needed(get={}), "what to sign"),
        ((428, {"message": "x"}), "not what the API gives"),
        ((428, []), "not what the API gives"),
    ],
)
def test_a_platform_does_not_choose_where_the_browser_goes(
    api: FakeApi, cloister: Run, browser: list[str], answer: tuple[int, Any], said: str
) -> None:
    api.on("POST", "/api_keys", answer)
    refused = cloister("api-keys", "create", "--name", "ci")
    assert (refused.code, said in refused.err, browser) == (1, True, [])


def test_nobody_is_waited_for_where_nobody_is(api: FakeApi, cloister: Run) -> None:
    api.on("POST", "/api_keys", needed())
    refused = cloister("api-keys", "create", "--name", "ci")
    assert refused.code == 1
    assert "nobody is at a terminal" in refused.err
    assert "delete a project" in refused.err


def test_on_a_machine_without_a_browser_the_address_is_shown(
    api: FakeApi, cloister: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with waiting.Loopback() as free:
        port = free.port
    monkeypatch.setenv("CLOISTER_PASSKEY_PORT", str(port))
    monkeypatch.setattr("webbrowser.open", lambda _: pytest.fail("there is none"))
    monkeypatch.setattr("cloister.cli.signing.PATIENCE_S", 0.01)
    api.on("POST", "/api_keys", needed())
    refused = cloister("api-keys", "create", "--name", "ci")
    assert f"/passkeys#{CHALLENGE}.{port}." in refused.err
    assert "nobody came back" in refused.err
    for wrong in ("80", "x", "70000"):
        monkeypatch.setenv("CLOISTER_PASSKEY_PORT", wrong)
        assert "not a port" in cloister("api-keys", "create", "--name", "ci").err


@pytest.mark.parametrize("brought", [{}, {"credential": "!"}, {"credential": "W10"}, {"credential": "eyJ4"}])
def test_what_the_browser_brings_must_be_an_answer(
    api: FakeApi, cloister: Run, browser: list[str], monkeypatch: pytest.MonkeyPatch, brought: dict[str, str]
) -> None:
    monkeypatch.setattr("webbrowser.open", lambda _: True)
    monkeypatch.setattr(waiting.Loopback, "wait", lambda *_, **__: brought)
    api.on("POST", "/api_keys", needed())
    assert "no passkey's answer" in cloister("api-keys", "create", "--name", "ci").err


def test_recovery_is_roots_on_the_server(
    api: FakeApi, cloister: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    refused = cloister("passkeys", "recover", "eve@example.com", "--reason", "lost", "--yes")
    assert (refused.code, "on the server itself" in refused.err) == (1, True)
    monkeypatch.setattr("cloister.app.recovery.am_root", lambda: False)
    refused = cloister(
        "passkeys", "recover", "eve@example.com", "--reason", "lost", "--yes", "--state-dir", str(tmp_path)
    )
    assert (refused.code, "only root" in refused.err) == (1, True)
    assert api.asked == []


def test_what_an_organization_demands(api: FakeApi, cloister: Run) -> None:
    path = "/cloister/organizations/org-1/passkey_policy"
    api.on("GET", path, (200, {"required": False}))
    api.on("PUT", path, lambda asked: (200, asked.body))
    assert "no" in cloister("passkeys", "policy", "--org-id", "org-1").out
    assert json.loads(cloister("passkeys", "policy", "--require", "--org-id", "org-1", "-o", "json").out) == {
        "required": True
    }
    assert api.bodies("PUT") == [{"required": True}]

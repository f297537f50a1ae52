"""`cloister login` and `logout`: the browser comes back to this machine, and later commands are somebody."""

import http.client
import json
import os
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest

from cloister.cli.failure import CommandError
from cloister.cli.loopback import Loopback
from cloister.protocol.openid import challenge_of
from tests.cli.conftest import Asked, FakeApi, Run

ME = {"id": "1", "name": "Eve", "email": "eve@example.com"}


def later(hours: float = 8) -> str:
    return (datetime.now(UTC) + timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%SZ")


def begins(asked: Asked) -> tuple[int, Any]:
    return 201, {
        "issuer": "company",
        "authorization_url": "https://login.example.com/auth",
        "redirect_uri": f"http://127.0.0.1:{asked.body['port']}/login/company",
        "state": "the state",
        "expires_at": later(),
    }


FINISHED = {
    "id": 7,
    "key": "napi_test",
    "account_id": "1",
    "email": "eve@example.com",
    "name": "Eve",
    "issuer": "company",
    "operator": False,
    "roles": [{"org_id": "org-1", "role": "editor"}],
}


@pytest.fixture
def nobody(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> FakeApi:
    """Nobody is logged in, and the browser comes back by itself."""
    monkeypatch.delenv("CLOISTER_API_KEY")
    api.is_public = "/api/v2/cloister/logins"
    api.on("POST", "/cloister/logins", begins)
    api.on("POST", "/cloister/logins/finish", lambda _: (201, FINISHED | {"expires_at": later()}))
    api.on("GET", "/users/me", (200, ME))
    api.on("GET", "/auth", (200, {"auth_data": "7"}))
    api.on("DELETE", "/api_keys/7", (200, {}))
    come_back(monkeypatch, api, {"state": "the state", "code": "the code", "iss": "https://login.example.com"})
    return api


def come_back(monkeypatch: pytest.MonkeyPatch, api: FakeApi, brought: dict[str, str]) -> None:
    def open_browser(_: str) -> bool:
        port = api.bodies("POST")[-1]["port"]
        threading.Thread(target=get, args=(f"http://127.0.0.1:{port}/login/company?{urlencode(brought)}",)).start()
        return True

    monkeypatch.setattr("webbrowser.open", open_browser)


def get(url: str, host: str | None = None) -> int:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=60)
    try:
        connection.request("GET", f"{parts.path}?{parts.query}", headers={} if host is None else {"Host": host})
        return connection.getresponse().status
    finally:
        connection.close()


def kept_file() -> Path:
    return Path(os.environ["XDG_CONFIG_HOME"]) / "cloister" / "sessions.json"


def test_who_logged_in_is_somebody_until_they_log_out(nobody: FakeApi, cloister: Run) -> None:
    refused = cloister("me")
    assert refused.code == 1
    assert "cloister login" in refused.err
    said = cloister("login")
    assert said.code == 0, said.err
    assert "eve@example.com" in said.out
    assert "napi_test" not in said.out + said.err
    begun, finished = nobody.bodies("POST")
    assert finished["code"] == "the code"
    assert finished["iss"] == "https://login.example.com"
    assert begun["challenge"] == challenge_of(finished["secret"])
    assert all("Authorization" not in asked.headers for asked in nobody.asked if "logins" in asked.path)
    assert cloister("me").code == 0
    assert stat.S_IMODE(kept_file().stat().st_mode) == 0o600
    assert cloister("logout").code == 0
    assert ("DELETE", "/api/v2/api_keys/7") in [(it.method, it.path) for it in nobody.asked]
    assert cloister("me").code == 1


def test_json_has_no_key_in_it(nobody: FakeApi, cloister: Run) -> None:
    said = json.loads(cloister("login", "--output", "json").out)
    assert said["email"] == "eve@example.com"
    assert "key" not in said


def test_a_session_that_is_over_is_nobody_and_not_somebody_else(nobody: FakeApi, cloister: Run) -> None:
    nobody.on("POST", "/cloister/logins/finish", (201, FINISHED | {"expires_at": later(-1)}))
    cloister("login")
    refused = cloister("me")
    assert refused.code == 1
    assert "your session is over" in refused.err
    assert cloister("logout").code == 0, "nothing is asked for a session that is over"
    assert cloister("logout").code == 1


def test_a_link_is_asked_for_with_ones_own_key(nobody: FakeApi, cloister: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOISTER_API_KEY", "napi_test")
    nobody.on("POST", "/cloister/users/me/logins", begins)
    assert cloister("login", "--link", "--issuer", "company").code == 0
    (asked,) = [it for it in nobody.asked if it.path == "/api/v2/cloister/users/me/logins"]
    assert asked.headers["Authorization"] == "Bearer napi_test"
    assert asked.body["issuer"] == "company"
    refused = cloister("logout")
    assert refused.code == 1
    assert "CLOISTER_API_KEY is set" in refused.err


def test_what_the_issuer_refuses_is_said(nobody: FakeApi, cloister: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    come_back(monkeypatch, nobody, {"state": "the state", "error": "access_denied", "error_description": "not today"})
    refused = cloister("login")
    assert (refused.code, "not today" in refused.err) == (1, True)


@pytest.mark.parametrize("url", ["http://login.example.com/auth", "file:///etc/passwd", "https://x y", "x-app://run"])
def test_a_platform_does_not_choose_what_opens_here(
    nobody: FakeApi, cloister: Run, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    nobody.on("POST", "/cloister/logins", lambda asked: (201, begins(asked)[1] | {"authorization_url": url}))
    assert cloister("login").code == 1
    assert opened == []


def test_a_file_that_others_can_read_is_not_used(nobody: FakeApi, cloister: Run) -> None:
    cloister("login")
    kept_file().chmod(0o640)
    refused = cloister("me")
    assert (refused.code, "chmod 600" in refused.err) == (1, True)
    kept_file().chmod(0o600)
    kept_file().write_text("[{}]")
    assert "log in again" in cloister("me").err


def test_only_the_answer_that_is_waited_for_ends_the_wait() -> None:
    """A page that guesses the port, another program, a name that was rebound to this machine: 404, and the wait goes on."""
    seen: list[int] = []

    def others(port: int) -> None:
        here = f"http://127.0.0.1:{port}"
        seen.append(get(f"{here}/login/company?state=guessed&code=theirs"))
        seen.append(get(f"{here}/login/company?code=theirs"))
        seen.append(get(f"{here}/login/another?state=s&code=theirs"))
        seen.append(get(f"{here}/login/company?state=s&code=theirs", host="evil.example"))
        seen.append(get(f"{here}/login/company?state=s&code=ours"))

    with Loopback() as loopback:
        assert loopback.server_address[0] == "127.0.0.1"
        thread = threading.Thread(target=others, args=(loopback.port,))
        thread.start()
        brought = loopback.wait("/login/company", "s")
        thread.join()
    assert brought["code"] == "ours"
    assert seen == [404, 404, 404, 404, 200]


def test_nobody_waits_for_ever() -> None:
    with Loopback() as loopback, pytest.raises(CommandError, match="nobody came back"):
        loopback.wait("/login/company", "s", patience_s=0.01)


def test_a_port_that_is_taken_is_said() -> None:
    with Loopback() as loopback, pytest.raises(CommandError, match="cannot listen"):
        Loopback(loopback.port)

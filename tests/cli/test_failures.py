"""Whatever goes wrong: one line on stderr that says what to do, exit code 1 (or 2 for wrong usage), no traceback."""

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from cloister.base.settings import Settings, save
from cloister.cli import run
from cloister.cli.doctor.finding import Subject, ok
from cloister.cli.doctor.records import api_answers
from cloister.cli.kept import Kept, keep
from cloister.cli.target import find_on_server


def one_line(done: Any) -> str:
    assert done.code == 1
    assert done.out == ""
    line: str = done.err
    assert line.startswith("cloister: ")
    assert line.count("\n") == 1
    assert "Traceback" not in line
    return line


def test_a_key_that_is_not_accepted(api: Any, cloister: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOISTER_API_KEY", "napi_old")
    assert "wrong, revoked or expired): check CLOISTER_API_KEY" in one_line(cloister("me"))


def test_a_host_without_a_key(api: Any, cloister: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLOISTER_API_KEY")
    assert "there is no CLOISTER_API_KEY and no session" in one_line(cloister("me"))


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "schlüssel", "\x00"])
def test_a_key_that_cannot_be_one(api: Any, cloister: Any, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    """It would break the header it is sent in; it is not shown either."""
    if "\x00" in key:
        monkeypatch.setattr(os, "environ", {**os.environ, "CLOISTER_API_KEY": key})
    else:
        monkeypatch.setenv("CLOISTER_API_KEY", key)
    line = one_line(cloister("me"))
    assert "does not hold an API key" in line
    assert key not in line


def test_plain_http_is_refused_before_anything_is_sent(
    api: Any, cloister: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOISTER_API_HOST", f"http://localhost:{api.port}")
    assert "https://" in one_line(cloister("me"))
    assert api.asked == []


def test_nobody_listens(api: Any, cloister: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("CLOISTER_API_HOST", f"https://localhost:{closed.getsockname()[1]}")
        assert "cannot be reached: Connection refused" in one_line(cloister("me"))


def test_a_name_that_does_not_resolve(api: Any, cloister: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOISTER_API_HOST", "https://nowhere.invalid")
    assert "nowhere.invalid cannot be resolved" in one_line(cloister("me"))


def test_no_ca_file_is_given_and_the_certificate_is_our_own(
    api: Any, cloister: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CLOISTER_CA_FILE")
    assert "set CLOISTER_CA_FILE to the platform's ca.pem" in one_line(cloister("me"))


def test_the_ca_file_is_missing_or_is_none(
    api: Any, cloister: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CLOISTER_CA_FILE", str(tmp_path / "none.pem"))
    assert "none.pem does not exist: check CLOISTER_CA_FILE" in one_line(cloister("me"))
    (tmp_path / "none.pem").write_text("not a certificate")
    assert "holds no certificate in PEM form" in one_line(cloister("me"))


def test_a_server_of_another_authority_gets_no_key(
    api: Any, cloister: Any, authority: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = type(authority).create()
    monkeypatch.setenv("CLOISTER_CA_FILE", str(other.write(tmp_path / "other.pem")))
    assert "does not stand up to" in one_line(cloister("me"))
    assert api.asked == []


def test_a_certificate_for_another_name(api: Any, cloister: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOISTER_API_HOST", f"https://other.localhost:{api.port}")
    assert "is not for other.localhost" in one_line(cloister("me"))
    assert api.asked == []


def test_a_server_without_tls(api: Any, cloister: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_answer_once, args=(listener, b"HTTP/1.1 400 Bad Request\r\n\r\n"))
        thread.start()
        monkeypatch.setenv("CLOISTER_API_HOST", f"https://localhost:{listener.getsockname()[1]}")
        assert "does not speak TLS as it must" in one_line(cloister("me"))
        thread.join()


def test_an_answer_that_is_not_the_apis(api: Any, cloister: Any) -> None:
    api.on("GET", "/users/me", (200, b"<html>"))
    assert "does CLOISTER_API_HOST name a Cloister" in one_line(cloister("me"))
    api.on("GET", "/users/me", (502, b"<html>"))
    assert "HTTP status 502" in one_line(cloister("me"))


def test_a_refusal_is_told_in_the_apis_words(api: Any, cloister: Any) -> None:
    api.on("POST", "/projects", (422, {"request_id": "r", "code": "", "message": "no such\nPostgreSQL version"}))
    assert one_line(cloister("projects", "create")) == "cloister: no such PostgreSQL version\n"


def test_an_error_of_the_server_names_its_request(api: Any, cloister: Any) -> None:
    api.on("GET", "/users/me", (500, {"request_id": "abc-1", "code": "", "message": "internal error"}))
    assert "request id abc-1" in one_line(cloister("me"))


def test_a_bug_of_ours_is_one_line_too(cloister: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr("cloister.cli.target.find", broken)
    assert "internal error, KeyError: 'surprise'" in one_line(cloister("me"))
    monkeypatch.setenv("CLOISTER_DEBUG", "1")
    with pytest.raises(KeyError):
        run(["me"])


def test_interrupted(cloister: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cloister.cli.target.find", interrupted)
    done = cloister("me")
    # Click ends the line on which the terminal showed ^C.
    assert (done.code, done.out, done.err) == (1, "", "\ncloister: interrupted\n")


def test_a_reader_that_went_away(api: Any) -> None:
    """`cloister … | head`: no traceback, no message, and not the code of success."""
    rows = [{"id": f"calm-forest-{n:08}", "name": "x" * 200} for n in range(99)]
    api.on("GET", "/projects", (200, {"projects": rows}))
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        done = subprocess.run(
            [sys.executable, "-m", "cloister", "projects", "list"],
            stdout=pipe,
            stderr=subprocess.PIPE,
            timeout=30,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize(
    "words",
    [
        ["nope"],
        ["projects", "nope"],
        ["projects", "get"],
        ["projects", "update", "calm-forest-12345678"],
        ["projects", "create", "--cu", "big"],
        ["projects", "list", "--output", "xml"],
        ["audit", "list", "--since", "yesterday"],
        ["audit", "verify", "--noted", "17:zz"],
        ["up", "--listen-postgres", "5432"],
        ["up", "--storage", "tape"],
    ],
)
def test_wrong_usage_is_exit_code_2(api: Any, cloister: Any, words: list[str]) -> None:
    done = cloister(*words)
    assert done.code == 2
    assert "Error: " in done.err
    assert api.asked == []


class TestOnTheServer:
    """Without CLOISTER_API_HOST the state directory says where the platform is."""

    @pytest.fixture
    def state_dir(self, api: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        for variable in ("CLOISTER_API_HOST", "CLOISTER_API_KEY", "CLOISTER_CA_FILE"):
            monkeypatch.delenv(variable)
        settings = Settings(state_dir=str(tmp_path / "state"), domain="db.localhost")
        paths = settings.paths
        paths.secrets.mkdir(parents=True)
        paths.certificates.mkdir()
        paths.layout_version.write_text("1\n")
        paths.ca_file.write_bytes(api.ca_file.read_bytes())
        paths.admin_key.write_text("napi_test\n")
        changed = Settings(
            state_dir=settings.state_dir, domain="db.localhost", listen_https=type(settings.listen_https)("", api.port)
        )
        save(changed)
        api.on("GET", "/users/me", (200, {"id": "1", "name": "admin"}))
        return tmp_path / "state"

    def test_it_is_found_by_option_before_or_after_the_command_or_by_variable(
        self, api: Any, cloister: Any, state_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert cloister("me", "--state-dir", str(state_dir), "-o", "json").json["name"] == "admin"
        assert cloister("--state-dir", str(state_dir), "me", "-o", "json").code == 0
        monkeypatch.setenv("CLOISTER_STATE_DIR", str(state_dir))
        assert cloister("me").code == 0

    def test_the_doctor_asks_with_the_first_api_key_whoever_has_logged_in(
        self, state_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        url = find_on_server(state_dir).url
        keep(os.environ, Kept(url, "napi_of_theirs", "2999-01-01T00:00:00+00:00", "somebody@example.com", None))
        [found] = api_answers(Subject(state_dir, None))
        assert found == ok("API", f"{url} answers")

    def test_a_state_directory_of_another_version(self, cloister: Any, state_dir: Path) -> None:
        (state_dir / "layout-version").write_text("99\n")
        assert "layout version '99'" in one_line(cloister("me", "--state-dir", str(state_dir)))

    def test_no_platform(self, cloister: Any, state_dir: Path) -> None:
        (state_dir / "settings.json").unlink()
        assert "start one with `cloister up`" in one_line(cloister("me", "--state-dir", str(state_dir)))

    def test_the_admin_key_may_not_be_read(
        self, cloister: Any, state_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(self: Path, *_: object, **__: object) -> str:
            raise PermissionError(13, "Permission denied", str(self))

        monkeypatch.setattr(Path, "read_text", refuse)
        monkeypatch.setattr("cloister.base.settings.check_layout", lambda _paths: None)
        assert "admin.key: be root, `cloister login`, or set" in one_line(cloister("me", "--state-dir", str(state_dir)))


def _answer_once(listener: socket.socket, answer: bytes) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(4096)
        connection.sendall(answer)

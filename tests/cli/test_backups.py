"""`cloister backups`: what it sends, and what it says is left to do."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cloister.app import platform_recovery
from cloister.app.platform_recovery import Recovered
from cloister.cli.api import Json
from cloister.protocol.backups.dumps import Dump
from cloister.trust.keys.backup import Backup

PROJECT = "calm-forest-12345678"
BACKUPS = f"/cloister/projects/{PROJECT}/backups"
BASE: Json = {
    "name": "000000000200A028",
    "moment": "2026-11-30T03:00:00Z",
    "stop_lsn": "0/200A028",
    "bytes": 25_000_000,
    "sent_bytes": 3_000_000,
    "chunks": 30,
    "sent_at": "2026-11-30T03:00:00Z",
    "locked_until": "2027-01-06T03:00:00Z",
}
MAIN: Json = {
    "branch_id": "br-calm-lake-aaaaaaaa",
    "name": "main",
    "sent_until": "2026-11-30T03:00:00Z",
    "bases": [BASE],
}
GONE: Json = {
    "branch_id": "br-calm-lake-bbbbbbbb",
    "name": "dev",
    "deleted_at": "2026-11-30T02:00:00Z",
    "bases": [BASE],
}
FOUND: Json = {"has_store": True, "branches": [MAIN, GONE]}
MADE: Json = {"id": "br-calm-lake-cccccccc", "name": "look", "current_state": "ready"}
DONE: Json = {"id": "1", "project_id": PROJECT, "action": "create_branch", "status": "finished"}


@pytest.fixture(autouse=True)
def _world(api: Any) -> None:
    api.on("GET", "/projects", (200, {"projects": [{"id": PROJECT, "name": "shop"}]}))
    api.on("GET", BACKUPS, (200, FOUND))


def test_a_look_says_how_far_behind_and_what_is_wrong(api: Any, cloister: Any) -> None:
    shown = cloister("backups", "list")
    assert "main" in shown.out
    assert "dev" in shown.out
    assert "25.0 MB" in shown.out
    assert "0/200A028" in cloister("backups", "list", "main").out
    trouble = {"has_store": False, "excluded_because": "a toy", "excluded_at": "2026-11-30T02:00:00Z", "branches": []}
    api.on("GET", BACKUPS, (200, trouble))
    told = cloister("backups", "list").err
    assert "cloister backups store set" in told
    assert "a toy" in told


def test_a_branch_that_is_gone_is_restored_by_its_name(api: Any, cloister: Any) -> None:
    api.on("POST", f"{BACKUPS}/restore", (201, {"branch": MADE, "operations": [DONE]}))
    api.on("GET", f"/projects/{PROJECT}/branches/{MADE['id']}", (200, {"branch": MADE}))
    assert "look" in cloister("backups", "restore", "dev", "--as", "look").out
    cloister("backups", "restore", "--at", "0/200B000", "--no-wait")
    assert api.bodies("POST") == [{"branch_id": GONE["branch_id"], "name": "look"}, {"lsn": "0/200B000"}]
    assert "has anything in the store" in cloister("backups", "restore", "prod").err


def test_the_whole_goes_with_nothing_else(api: Any, cloister: Any) -> None:
    api.on("POST", f"{BACKUPS}/restore_project", (202, {"operations": [DONE]}))
    assert cloister("backups", "restore", "--whole").code == 0
    assert cloister("backups", "restore", "main", "--whole").code == 2


def test_one_now_waits_until_it_is_there(api: Any, cloister: Any) -> None:
    wanted = {"has_store": True, "branches": [MAIN | {"wanted_at": "2026-11-30T03:00:00Z"}]}
    api.on("POST", BACKUPS, (202, wanted))
    assert cloister("backups", "now", "main").code == 0
    assert api.bodies("POST") == [{"branch_id": MAIN["branch_id"]}]
    later = {
        "has_store": True,
        "branches": [MAIN | {"wanted_at": "2026-11-30T04:00:00Z", "problem": "503", "failing_since": "x"}],
    }
    api.on("POST", BACKUPS, (202, later))
    api.on("GET", BACKUPS, (200, later))
    failed = cloister("backups", "now")
    assert (failed.code, "main: 503" in failed.err) == (1, True)


def test_a_check_that_finds_damage_fails(api: Any, cloister: Any) -> None:
    seen = BASE | {"checked_at": "2026-11-30T04:00:00Z", "damaged": 2}
    asked = {"has_store": True, "branches": [MAIN | {"bases": [seen], "check_wanted_at": "2026-11-30T03:30:00Z"}]}
    api.on("POST", f"{BACKUPS}/check", (202, asked))
    api.on("GET", BACKUPS, (200, asked))
    failed = cloister("backups", "check")
    assert (failed.code, "damaged in the store: main" in failed.err) == (1, True)


@pytest.mark.parametrize(
    ("came", "code", "word"), [("whole", 0, ""), ("damaged", 1, "amcheck"), ("no room", 1, "main: not tried")]
)
def test_a_restore_that_is_tried_fails_if_it_is_no_database(
    api: Any, cloister: Any, came: str, code: int, word: str
) -> None:
    wanted = MAIN | {"restore_wanted_at": "2026-11-30T03:30:00Z"}
    tried = wanted | {"restore_tried_at": "2026-11-30T04:00:00Z", "restore_tried": came}
    api.on("POST", f"{BACKUPS}/check", (202, {"has_store": True, "branches": [wanted]}))
    api.on("GET", BACKUPS, (200, {"has_store": True, "branches": [tried]}))
    said = cloister("backups", "check", "--restore")
    assert (said.code, word in said.err) == (code, True)
    assert ("a restore of it is damaged" in said.out) == (came == "damaged")
    assert api.bodies("POST") == [{"restore": True}]


def test_a_project_is_left_out_with_a_reason_and_taken_in(api: Any, cloister: Any) -> None:
    api.on("POST", f"{BACKUPS}/exclude", (200, FOUND | {"excluded_because": "a toy", "excluded_at": "now"}))
    api.on("POST", f"{BACKUPS}/include", (200, FOUND))
    assert cloister("backups", "off").code == 2
    assert "a toy" in cloister("backups", "off", "--reason", "a toy").err
    assert json.loads(cloister("backups", "on", "-o", "json").out) == FOUND
    assert api.bodies("POST")[0] == {"reason": "a toy"}


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--at", "yesterday"], "is no timestamp"),
        (["--at", "2026-03-04T05:06:07"], "is no timestamp"),
        (["--share", "KEYSTORE"], "from shares, or from a file"),
        ([], "KEY is no copy of a root key's file, which has 32 bytes"),
    ],
)
def test_a_recovery_says_what_it_cannot_read(cloister: Any, tmp_path: Path, more: list[str], complaint: str) -> None:
    for name in ("KEYSTORE", "CREDENTIALS", "KEY"):
        keys = (f"[{who}]\naws_access_key_id = {who}\naws_secret_access_key = s\n" for who in ("writer", "reader"))
        (tmp_path / name).write_text("".join(keys))
    words = ["--keystore", "KEYSTORE", "--credentials", "CREDENTIALS", "--root-key", "KEY", *more]
    given = [str(tmp_path / word) if (tmp_path / word).exists() else word for word in words]
    said = cloister("backups", "recover-platform", "s3://bucket/db", "--region", "eu-central-1", *given)
    assert said.code != 0
    assert complaint in said.err


def test_a_recovery_names_the_projects_that_no_keystore_opens(
    cloister: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed = Backup(
        format=1, made_at="", epoch=1, provider="file", root_version="1", epoch_key=b"", seals={PROJECT: b"sealed"}
    )
    dump = Dump(moment=0.0, version="1", epoch=1, secrets={}, checkpoint=None, lists=[], files=0, bytes=0)
    found = Recovered(dump, [], 7, [(PROJECT, "shop"), ("late-hill-12345678", "late")])
    monkeypatch.setattr(platform_recovery, "recover_platform", lambda *_given, **_options: found)
    (tmp_path / "KEYSTORE").write_bytes(msgspec.json.encode(sealed))
    keys = (f"[{who}]\naws_access_key_id = {who}\naws_secret_access_key = s\n" for who in ("writer", "reader"))
    (tmp_path / "CREDENTIALS").write_text("".join(keys))
    words = ("--keystore", str(tmp_path / "KEYSTORE"), "--credentials", str(tmp_path / "CREDENTIALS"))
    said = cloister("backups", "recover-platform", "s3://bucket/db", "--region", "eu-central-1", *words)
    assert "no seal of theirs, so nothing opens their data: late-hill-12345678 ('late')" in said.err
    assert PROJECT not in said.err
